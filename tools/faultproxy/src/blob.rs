//! The same directory, by as much of Azure's Blob interface as a store takes: GET with a range, HEAD, PUT with conditions,
//! blocks, removals in batches, listings. As emulators do, it has the account before the container in its paths, and knows
//! no `startFrom`.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use http_body_util::Full;
use hyper::header::CONTENT_TYPE;
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};

use crate::files::{
    Answer, Query, UPLOADS, decoded, delete, empty, listed, most, object, put, replace, tag,
};

pub(crate) fn answer(root: &Path, path: &str, request: &Parts, body: &[u8]) -> io::Result<Answer> {
    let name = without_account(path)?;
    let (file, blocks) = (root.join(name), root.join(UPLOADS).join(name));
    let query = Query(request.uri.query().unwrap_or_default());
    match (&request.method, query.value("comp").as_deref()) {
        (&Method::GET, Some("list")) => list(&file, &query),
        (&Method::GET | &Method::HEAD, None) => object(&file, request),
        (&Method::PUT, None) => {
            let mut answer = put(root, &file, request, body)?;
            *answer.status_mut() = StatusCode::CREATED;
            Ok(answer)
        }
        (&Method::PUT, Some("block")) => {
            let id = query.value("blockid").unwrap_or_default();
            fs::create_dir_all(&blocks)?;
            fs::write(blocks.join(block(&id)), body)?;
            empty(StatusCode::CREATED)
        }
        (&Method::PUT, Some("blocklist")) => commit(&file, &blocks, &String::from_utf8_lossy(body)),
        (&Method::POST, Some("batch")) => batch(root, &String::from_utf8_lossy(body)),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

fn without_account(path: &str) -> io::Result<&str> {
    let (_, name) = path.split_once('/').ok_or(io::ErrorKind::NotFound)?;
    Ok(name.trim_end_matches('/'))
}

/// The file of a block that was not committed.
fn block(id: &str) -> String {
    id.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// Puts blocks together. The others of this name are gone then.
fn commit(file: &Path, blocks: &Path, list: &str) -> io::Result<Answer> {
    let parts = list.split("<Uncommitted>").skip(1);
    let parts = parts.filter_map(|rest| Some(blocks.join(block(rest.split_once('<')?.0))));
    let parts: Vec<PathBuf> = parts.collect();
    if parts.iter().any(|part| !part.is_file()) {
        let body =
            "<Error><Code>InvalidBlockList</Code><Message>A block is not there.</Message></Error>";
        let mut answer = Response::new(Full::from(body));
        *answer.status_mut() = StatusCode::BAD_REQUEST;
        return Ok(answer);
    }
    replace(file, |file| {
        for part in &parts {
            io::copy(&mut File::open(part)?, file)?;
        }
        Ok(())
    })?;
    fs::remove_dir_all(blocks)?;
    let answer = Response::builder().status(StatusCode::CREATED);
    let answer = answer.header("ETag", tag(file)?);
    answer.body(Full::default()).map_err(io::Error::other)
}

/// Removes what the requests in a body name, and answers each.
fn batch(root: &Path, body: &str) -> io::Result<Answer> {
    let mut answers = String::new();
    let requests = body
        .lines()
        .filter_map(|line| line.strip_prefix("DELETE /"));
    for (number, request) in requests.enumerate() {
        let path = decoded(request.split(' ').next().unwrap_or_default())?;
        let file = root.join(without_account(&path)?);
        let status = match file.is_file() {
            true => delete(root, &file).map(|_| "202 Accepted")?,
            false => "404 Not Found",
        };
        answers.push_str(&format!(
            "--batch\r\nContent-Type: application/http\r\nContent-ID: {number}\r\n\r\nHTTP/1.1 {status}\r\n\r\n\r\n"
        ));
    }
    answers.push_str("--batch--\r\n");
    let answer = Response::builder()
        .status(StatusCode::ACCEPTED)
        .header(CONTENT_TYPE, "multipart/mixed; boundary=batch");
    answer.body(answers.into()).map_err(io::Error::other)
}

fn list(container: &Path, query: &Query<'_>) -> io::Result<Answer> {
    let after = query.value("marker").unwrap_or_default();
    let page = listed(container, query, &after, most(query, "maxresults"))?;
    let mut body = String::new();
    for (name, path) in page.names {
        let Some(path) = path else {
            body.push_str(&format!("<BlobPrefix><Name>{name}</Name></BlobPrefix>"));
            continue;
        };
        // Removed meanwhile.
        let (Ok(tag), Ok(found)) = (tag(&path), fs::metadata(&path)) else {
            continue;
        };
        body.push_str(&format!(
            "<Blob><Name>{name}</Name><Properties><Last-Modified>{}</Last-Modified><Etag>{}</Etag>\
             <Content-Length>{}</Content-Length><Content-Type>application/octet-stream</Content-Type></Properties></Blob>",
            httpdate::fmt_http_date(found.modified()?),
            tag.trim_matches('"'),
            found.len()
        ));
    }
    let next = page.next.unwrap_or_default();
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults><Blobs>{body}</Blobs>\
         <NextMarker>{next}</NextMarker></EnumerationResults>"
    );
    Ok(Response::new(Full::from(body)))
}
