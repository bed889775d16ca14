//! Stores that answer wrongly: each fault is an error of the right kind, and never a wrong or a missing byte.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use penstock_remote::{
    Bucket, Client, ClientOptions, Keys, Kind, PutMode, RemoteError, RemoteErrorKind, RemoteUrl,
};

/// What a store does with a request: its head and body, the number of requests before it, the connection.
type Answer = dyn Fn(&str, &[u8], usize, &mut TcpStream) + Send + Sync;

struct Store {
    url: String,
    /// How long its client waits. Only stores that hang are given up soon: a slow machine decides nothing.
    patience: Duration,
    heads: Arc<Mutex<Vec<String>>>,
}

/// A store of one answer. Its threads end with the process.
fn store(answer: impl Fn(&str, &[u8], usize, &mut TcpStream) + Send + Sync + 'static) -> Store {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!(
        "s3://b/p?endpoint=http://{}&region=r",
        listener.local_addr().unwrap()
    );
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&heads);
    let answer: Arc<Answer> = Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
            std::thread::spawn(move || {
                let _ = serve(stream, &seen, &*answer);
            });
        }
    });
    Store {
        url,
        patience: Duration::from_secs(60),
        heads,
    }
}

/// One request per connection, so that an answer that is cut off ends it.
fn serve(mut stream: TcpStream, seen: &Mutex<Vec<String>>, answer: &Answer) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    let length = head.lines().find_map(|line| {
        line.to_ascii_lowercase()
            .strip_prefix("content-length:")?
            .trim()
            .parse()
            .ok()
    });
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body)?;
    let before = {
        let mut seen = seen.lock().unwrap();
        seen.push(head.clone());
        seen.len() - 1
    };
    answer(&head, &body, before, &mut stream);
    stream.shutdown(std::net::Shutdown::Write)
}

impl Store {
    fn open(&self) -> (Client, Bucket) {
        let options = ClientOptions {
            first_byte_timeout: self.patience,
            idle_timeout: self.patience,
            ..ClientOptions::default()
        };
        let client = Client::new(options).unwrap();
        let url: RemoteUrl = self.url.parse().unwrap();
        let keys = Some(Keys::Pair("id".to_owned(), "hunter2".to_owned()));
        let bucket = Bucket::open_as(&url, &client, keys).unwrap();
        (client, bucket)
    }

    /// Bytes 2..6 of an object.
    fn get(&self) -> Result<Vec<u8>, RemoteError> {
        let (client, bucket) = self.open();
        let result = client.run(async {
            let mut body = bucket.get("o", 2..6).await?;
            let mut bytes = Vec::new();
            while let Some(more) = body.next().await {
                bytes.extend_from_slice(&more?);
            }
            assert!(body.next().await.is_none());
            assert_eq!(body.total_bytes(), 10);
            Ok(bytes)
        });
        assert_eq!(bucket.requests().of(Kind::Get), 1);
        if let Err(error) = &result {
            let text = format!("{error} {error:?}");
            assert!(
                text.contains("s3://b/p") && text.contains("get o"),
                "{text}"
            );
            assert!(
                !text.contains("hunter2") && !text.contains("Signature="),
                "{text}"
            );
        }
        result
    }
}

/// A store that answers every request with these bytes, and closes.
fn says(answer: &'static str) -> Store {
    store(move |_, _, _, stream| {
        let _ = stream.write_all(answer.as_bytes());
    })
}

#[test]
fn a_range_comes_as_it_was_asked_for() {
    let right = says(
        "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 2-5/10\r\nContent-Length: 4\r\nETag: \"e\"\r\n\r\ncdef",
    );
    assert_eq!(right.get().unwrap(), b"cdef");
    let head = right.heads.lock().unwrap()[0].to_ascii_lowercase();
    assert!(head.starts_with("get /b/p/o "), "{head}");
    assert!(
        head.contains("range: bytes=2-5\r\n") && head.contains("authorization: aws4-hmac-sha256")
    );
    let chunked = says(
        "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 2-5/10\r\nTransfer-Encoding: chunked\r\n\r\n\
         1\r\nc\r\n3\r\ndef\r\n0\r\n\r\n",
    );
    assert_eq!(chunked.get().unwrap(), b"cdef");
}

#[test]
fn wrong_answers_are_errors() {
    use RemoteErrorKind::{Denied, NotFound, Other, Protocol, SlowDown};
    for (kind, text, answer) in [
        // The whole object, where a range was asked for.
        (
            Protocol,
            "",
            "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabcdefghij",
        ),
        // Another range.
        (
            Protocol,
            "",
            "HTTP/1.1 206 P\r\nContent-Range: bytes 3-6/10\r\nContent-Length: 4\r\n\r\ndefg",
        ),
        // The object ends before the range does.
        (
            Protocol,
            "asked for",
            "HTTP/1.1 206 P\r\nContent-Range: bytes 2-4/5\r\nContent-Length: 3\r\n\r\ncde",
        ),
        // No range is told.
        (
            Protocol,
            "",
            "HTTP/1.1 206 P\r\nContent-Length: 4\r\n\r\ncdef",
        ),
        // A range that is none.
        (
            Protocol,
            "",
            "HTTP/1.1 206 P\r\nContent-Range: bytes 9-2/10\r\nContent-Length: 4\r\n\r\ncdef",
        ),
        // A body that is short for the range, and whole for its length.
        (
            Protocol,
            "too short",
            "HTTP/1.1 206 P\r\nContent-Range: bytes 2-5/10\r\nContent-Length: 2\r\n\r\ncd",
        ),
        // One that is long.
        (
            Protocol,
            "too long",
            "HTTP/1.1 206 P\r\nContent-Range: bytes 2-5/10\r\nContent-Length: 5\r\n\r\ncdefg",
        ),
        // One that ends before its length.
        (
            Protocol,
            "",
            "HTTP/1.1 206 P\r\nContent-Range: bytes 2-5/10\r\nContent-Length: 4\r\n\r\ncd",
        ),
        // Chunks that end without the last.
        (
            Protocol,
            "",
            "HTTP/1.1 206 P\r\nContent-Range: bytes 2-5/10\r\nTransfer-Encoding: chunked\r\n\r\n2\r\ncd\r\n",
        ),
        // No HTTP.
        (Other, "", "nonsense\r\n\r\n"),
        (Other, "", ""),
        (
            SlowDown,
            "Please",
            "HTTP/1.1 503 S\r\nContent-Length: 81\r\n\r\n<Error><Code>SlowDown</Code><Message>Please reduce your rate.</Message></Error>   ",
        ),
        (NotFound, "", "HTTP/1.1 404 N\r\nContent-Length: 0\r\n\r\n"),
        (Denied, "", "HTTP/1.1 403 N\r\nContent-Length: 0\r\n\r\n"),
        (
            Protocol,
            "416",
            "HTTP/1.1 416 R\r\nContent-Length: 0\r\n\r\n",
        ),
        (Other, "504", "HTTP/1.1 504 G\r\nContent-Length: 0\r\n\r\n"),
        // What was signed is not told, and no number in it is taken for the status.
        (
            Other,
            "InternalError",
            "HTTP/1.1 500 I\r\n\r\n<Error><Code>InternalError</Code><Resource>503 Signature=x</Resource></Error>",
        ),
    ] {
        let error = says(answer).get().unwrap_err();
        assert_eq!(error.kind(), kind, "{answer}: {error}");
        assert!(error.to_string().contains(text), "{answer}: {error}");
    }
}

#[test]
fn a_store_that_hangs_is_given_up() {
    for (text, answer) in [
        ("", ""),
        ("", "HTTP/1.1 206 P\r\nContent-Ra"),
        (
            "nothing more",
            "HTTP/1.1 206 P\r\nContent-Range: bytes 2-5/10\r\nContent-Length: 4\r\n\r\ncd",
        ),
    ] {
        let mut hangs = store(move |_, _, _, stream| {
            let _ = stream.write_all(answer.as_bytes());
            // Until the client goes.
            let _ = stream.read(&mut [0]);
        });
        hangs.patience = Duration::from_millis(300);
        let error = hangs.get().unwrap_err();
        assert_eq!(error.kind(), RemoteErrorKind::Timeout, "{error}");
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[test]
fn nobody_there_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!(
        "s3://b/p?endpoint=http://{}",
        listener.local_addr().unwrap()
    );
    drop(listener);
    let gone = Store {
        url,
        patience: Duration::from_secs(60),
        heads: Arc::default(),
    };
    assert_eq!(gone.get().unwrap_err().kind(), RemoteErrorKind::Unreachable);
}

#[test]
fn writes_are_tried_again_where_that_may_help() {
    let busy = store(|_, body, before, stream| {
        assert_eq!(body, b"bytes");
        let answer = match before {
            0 => "HTTP/1.1 503 S\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n",
            1 => "HTTP/1.1 500 I\r\nContent-Length: 0\r\n\r\n",
            _ => "HTTP/1.1 200 OK\r\nETag: \"e\"\r\nContent-Length: 0\r\n\r\n",
        };
        let _ = stream.write_all(answer.as_bytes());
    });
    let (client, bucket) = busy.open();
    let put = bucket.put("o", Bytes::from_static(b"bytes"), PutMode::Create);
    client.run(put).unwrap();
    assert_eq!(bucket.requests().of(Kind::Put), 3);
    let heads = busy.heads.lock().unwrap();
    assert!(
        heads
            .iter()
            .all(|head| head.to_ascii_lowercase().contains("if-none-match: *\r\n"))
    );

    let denies = says("HTTP/1.1 403 N\r\nContent-Length: 0\r\n\r\n");
    let (client, bucket) = denies.open();
    let error = client.run(bucket.delete("o")).unwrap_err();
    assert_eq!(error.kind(), RemoteErrorKind::Denied);
    assert_eq!(bucket.requests().of(Kind::Delete), 1);
}

#[test]
fn an_upload_may_fail_after_its_status() {
    let late = store(|_, _, before, stream| {
        let text = match before {
            0 => {
                "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
            }
            3 => "<Error><Code>InternalError</Code><Message>again</Message></Error>",
            4 => {
                "<CompleteMultipartUploadResult><ETag>\"e\"</ETag></CompleteMultipartUploadResult>"
            }
            _ => "",
        };
        let _ = write!(
            stream,
            "HTTP/1.1 200 OK\r\nETag: \"e\"\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        );
    });
    let (client, bucket) = late.open();
    client.run(async {
        let mut upload = bucket.upload("o").await.unwrap();
        // The last part comes first.
        upload.part(1, Bytes::from_static(b"end")).await.unwrap();
        let error = upload.complete().await.unwrap_err();
        assert!(error.to_string().contains("left out"), "{error}");
        upload.part(0, Bytes::from_static(b"begin")).await.unwrap();
        upload.complete().await.unwrap();
    });
    let requests = bucket.requests();
    assert_eq!((requests.of(Kind::Put), requests.of(Kind::Upload)), (2, 3));
}

#[test]
fn a_listing_is_bounded() {
    // Page after page: names that never end, or none at all.
    let endless = |with_key: bool| {
        store(move |_, _, before, stream| {
            let key = if with_key {
                format!(
                    "<Contents><Key>p/x{before:05}</Key><Size>1</Size>\
                     <LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
                )
            } else {
                String::new()
            };
            let text = format!(
                "<ListBucketResult><IsTruncated>true</IsTruncated>{key}\
                 <NextContinuationToken>t{before}</NextContinuationToken></ListBucketResult>"
            );
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}",
                text.len()
            );
        })
    };
    let names = endless(true);
    let (client, bucket) = names.open();
    let error = client.run(bucket.list("x", 20)).unwrap_err();
    assert!(error.to_string().contains("more than 20"), "{error}");
    let (client, bucket) = endless(false).open();
    let error = client.run(bucket.list("", 20)).unwrap_err();
    assert_eq!(error.kind(), RemoteErrorKind::Protocol, "{error}");
}

#[test]
fn an_answer_that_never_ends_is_cut() {
    let long = store(|_, _, _, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n<ListBucketResult>");
        while stream.write_all(&[b' '; 1 << 16]).is_ok() {}
    });
    let (client, bucket) = long.open();
    let error = client.run(bucket.list("", 20)).unwrap_err();
    assert_eq!(error.kind(), RemoteErrorKind::Protocol, "{error}");
    assert!(error.to_string().contains("too long"), "{error}");
}

/// One key that is no path would have kept all the others of its page out of the listing.
#[test]
fn stray_keys_keep_nothing_out_of_a_listing() {
    let page = store(|_, _, _, stream| {
        let file = |key: &str| {
            format!(
                "<Contents><Key>{key}</Key><Size>1</Size>\
                 <LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            )
        };
        let keys = ["p/a", "p//x", "p/../x", "p/b/", "p/c&#1;", "p/d&amp;"];
        let files: String = keys.map(file).concat();
        let dirs = ["p//", "p/e/"]
            .map(|dir| format!("<CommonPrefixes><Prefix>{dir}</Prefix></CommonPrefixes>"));
        let text = format!(
            "<ListBucketResult>{files}{}</ListBucketResult>",
            dirs.concat()
        );
        let length = text.len();
        let _ = write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{text}"
        );
    });
    let (client, bucket) = page.open();
    let page = client.run(bucket.page("", true, None, None, 1000)).unwrap();
    let names: Vec<_> = page.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["a", "d&"]);
    assert_eq!(page.dirs, ["e/"]);
}
