//! `penstock sign`: makes a link that opens one object for a while.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use bytesize::ByteSize;
use penstock::s3::keys::Keys;
use penstock::s3::sigv4::{EXPIRES_SECONDS_MAX, Link};
use percent_encoding::percent_decode_str;
use serde::Serialize;

use super::output::{json_document, write_all};

/// The link is an AWS Signature V4 presigned URL. Whoever has it may read the object until it expires, or until the key
/// that it was signed with is taken away.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The object: its key, or the URL that it has without a signature
    #[arg(value_name = "KEY|URL")]
    target: String,
    /// The file of key pairs, as the server has it
    #[arg(long, value_name = "FILE")]
    keys_file: PathBuf,
    /// The key pair to sign with [default: the only one in the file]
    #[arg(long, value_name = "ID")]
    key_id: Option<String>,
    /// Where the server is, for a KEY. Clients must use this very host and port, since they are signed too
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// For how long, as 15min, 1h or 7days, which is the most
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    expires: Duration,
    /// The method. A link for one does not allow the other
    #[arg(long, value_name = "METHOD", default_value = "GET", value_parser = ["GET", "HEAD"], ignore_case = true)]
    method: String,
    /// Send the object at this many bytes per second at most, as 2MiB
    #[arg(long, value_name = "SIZE")]
    rate: Option<ByteSize>,
    /// The region that the link names; any will do, unless the server has --s3-region
    #[arg(long, value_name = "NAME", default_value = "us-east-1")]
    region: String,
    /// Print a JSON document
    #[arg(long)]
    json: bool,
}

/// What JSON has of a link.
#[derive(Serialize)]
struct Document<'a> {
    url: String,
    method: &'a str,
    key_id: &'a str,
    region: &'a str,
    /// When it was signed, as RFC 3339.
    signed: String,
    /// From when on it opens nothing.
    expires: String,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let keys = Keys::load(&arguments.keys_file)?;
    let key = match &arguments.key_id {
        Some(id) => keys
            .find(id)
            .with_context(|| format!("there is no key {id} in the file"))?,
        None => keys
            .only()
            .context("there are several keys in the file: choose one with --key-id")?,
    };
    let now = SystemTime::now();
    if !key.is_valid(now) {
        bail!("the key {} counts no more", key.id());
    }
    if !(1..=EXPIRES_SECONDS_MAX).contains(&arguments.expires.as_secs()) {
        bail!("--expires must be between 1s and 7days");
    }
    let Target {
        origin,
        host,
        path,
        mut parameters,
    } = match is_url(&arguments.target) {
        true => Target::of_url(&arguments.target)?,
        false => {
            let mut base = Target::of_url(&arguments.url)?;
            base.path = format!("{}/{}", base.path.trim_end_matches('/'), arguments.target);
            base
        }
    };
    if let Some(rate) = arguments.rate {
        if rate.0 == 0 {
            bail!("--rate 0: at this rate nothing is sent");
        }
        parameters.push(("x-penstock-rate".to_owned(), rate.0.to_string()));
    }
    let method = arguments.method.to_ascii_uppercase();
    let link = Link {
        method: &method,
        host,
        path: &path,
        parameters: &parameters,
        key_id: key.id(),
        region: &arguments.region,
        time: now,
        expires: arguments.expires,
    };
    let url = format!("{origin}{}", link.sign(key.secret()));
    let date = |time| humantime::format_rfc3339_seconds(time).to_string();
    let (signed, expires) = (date(now), date(now + arguments.expires));
    tracing::debug!(key_id = key.id(), %expires, "signed");
    write_all(0, |out| match arguments.json {
        true => json_document(
            out,
            &Document {
                url,
                method: &method,
                key_id: key.id(),
                region: &arguments.region,
                signed,
                expires,
            },
        ),
        false => writeln!(out, "{url}"),
    })
}

fn is_url(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

/// A URL, taken apart.
#[derive(Debug)]
struct Target<'a> {
    /// Scheme, host and port.
    origin: &'a str,
    /// Host and port, as clients say them in `Host`.
    host: &'a str,
    /// Decoded, with its slash.
    path: String,
    /// Decoded.
    parameters: Vec<(String, String)>,
}

impl Target<'_> {
    fn of_url(url: &str) -> anyhow::Result<Target<'_>> {
        let start = url.find("://").filter(|_| is_url(url));
        let start = start.with_context(|| format!("{url} is no URL with http:// or https://"))? + 3;
        let url_end = url.find('#').unwrap_or(url.len());
        let end = url[start..url_end]
            .find(['/', '?'])
            .map_or(url_end, |at| start + at);
        let (origin, rest) = (&url[..end], &url[end..url_end]);
        let host = &url[start..end];
        if host.is_empty() || host.contains('@') {
            bail!("{url}: there must be a host, and no user");
        }
        // Clients leave the usual port out.
        let usual = if url.starts_with("https") {
            ":443"
        } else {
            ":80"
        };
        let host = host.strip_suffix(usual).unwrap_or(host);
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = percent_decode_str(path).decode_utf8();
        let path = path.with_context(|| format!("the path of {url} is not UTF-8"))?;
        let parameters = form_urlencoded::parse(query.as_bytes());
        Ok(Target {
            origin,
            host,
            path: match path.is_empty() {
                true => "/".to_owned(),
                false => path.into_owned(),
            },
            parameters: parameters.into_owned().collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let target = Target::of_url("https://h.example:8443/a%20b/c?x=y+z#part").unwrap();
        assert_eq!(target.origin, "https://h.example:8443");
        assert_eq!(target.host, "h.example:8443");
        assert_eq!(target.path, "/a b/c");
        assert_eq!(target.parameters, [("x".to_owned(), "y z".to_owned())]);
        let target = Target::of_url("http://[::1]:80").unwrap();
        assert_eq!((target.host, target.path.as_str()), ("[::1]", "/"));
        for wrong in [
            "h/x",
            "ftp://h/x",
            "http:///x",
            "http://u@h/x",
            "http://h/%ff",
        ] {
            assert!(Target::of_url(wrong).is_err(), "{wrong}");
        }
    }
}
