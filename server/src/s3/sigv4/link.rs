//! Links that are signed here.

use std::time::{Duration, SystemTime};

use super::canonical::{self, ALGORITHM, SCOPE_END, UNSIGNED_PAYLOAD};
use super::key::SigningKey;
use super::request::Request;
use super::text::{encode, encode_path, hex_text, timestamp};

/// A link to be signed.
#[derive(Clone, Copy, Debug)]
pub struct Link<'a> {
    /// GET or HEAD.
    pub method: &'a str,
    /// Host and port, as in the `Host` field.
    pub host: &'a str,
    /// The path, not encoded, with its slash.
    pub path: &'a str,
    /// Names and values of further parameters, not encoded.
    pub parameters: &'a [(String, String)],
    /// Whose it is.
    pub key_id: &'a str,
    /// Which region it names.
    pub region: &'a str,
    /// When it begins to count.
    pub time: SystemTime,
    /// How long.
    pub expires: Duration,
}

impl Link<'_> {
    /// Path and query of the link, signed with this secret.
    pub fn sign(&self, secret: &str) -> String {
        let timestamp = timestamp(self.time);
        let date = &timestamp[..8];
        let (key_id, region) = (self.key_id, self.region);
        let mut query: Vec<String> = [
            ("X-Amz-Algorithm", ALGORITHM),
            (
                "X-Amz-Credential",
                &format!("{key_id}/{date}/{region}/s3/{SCOPE_END}"),
            ),
            ("X-Amz-Date", &timestamp),
            ("X-Amz-Expires", &self.expires.as_secs().to_string()),
            ("X-Amz-SignedHeaders", "host"),
        ]
        .into_iter()
        .map(|(name, value)| format!("{name}={}", encode(value.as_bytes())))
        .collect();
        for (name, value) in self.parameters {
            query.push(format!(
                "{}={}",
                encode(name.as_bytes()),
                encode(value.as_bytes())
            ));
        }
        let (path, query) = (encode_path(self.path), query.join("&"));
        let request = Request {
            method: self.method,
            path: &path,
            query: &query,
            fields: vec![("host", self.host.as_bytes())],
        };
        let canonical = canonical::request(&request, &path, "host", UNSIGNED_PAYLOAD);
        let text = canonical::string_to_sign(&timestamp, date, region, &canonical);
        let signature = hex_text(&SigningKey::new(secret, date, region).sign(&text));
        format!("{path}?{query}&X-Amz-Signature={signature}")
    }
}
