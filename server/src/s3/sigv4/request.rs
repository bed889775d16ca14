//! A request as its signature sees it, and whether it claims to have one.

use std::borrow::Cow;

use super::text::decode;
use crate::memory::limits::HEADER_FIELDS_MAX;

/// A request as it came, for its signature.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// As in the request line.
    pub method: &'a str,
    /// As in the request line, up to the `?`.
    pub path: &'a str,
    /// Behind the `?`.
    pub query: &'a str,
    /// Names and values.
    pub fields: Vec<(&'a str, &'a [u8])>,
}

impl<'a> Request<'a> {
    /// The values of a field.
    pub fn values<'b>(&'b self, name: &'b str) -> impl Iterator<Item = &'a [u8]> + 'b {
        let named = move |(field, _): &&(&str, _)| field.eq_ignore_ascii_case(name);
        self.fields.iter().filter(named).map(|(_, value)| *value)
    }

    /// The value of a field that is there once.
    pub(super) fn value(&self, name: &str) -> Option<&'a str> {
        let mut values = self.values(name);
        let value = values.next().filter(|_| values.next().is_none())?;
        std::str::from_utf8(value).ok().map(str::trim)
    }

    /// Names and values of the query, decoded.
    pub fn parameters(&self) -> impl Iterator<Item = (Cow<'a, [u8]>, Cow<'a, [u8]>)> + use<'a> {
        let pieces = self.query.split('&').filter(|piece| !piece.is_empty());
        pieces.map(|piece| {
            let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
            (decode(name), decode(value))
        })
    }

    /// Whether its query or its fields claim to be signed in any way of S3's.
    pub fn is_signed(&self) -> bool {
        let mut fields = self.fields.iter();
        claims_signature(self.query) || fields.any(|(name, value)| is_authorization(name, value))
    }
}

/// Reads a whole request head once more, and gives the request to `then`; `None` if it is none.
pub fn with_head<T>(head: &[u8], then: impl FnOnce(&Request<'_>) -> T) -> Option<T> {
    let mut fields = [httparse::EMPTY_HEADER; HEADER_FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut fields);
    parsed.parse(head).ok().filter(|it| it.is_complete())?;
    let target = parsed.path?;
    // In absolute form the host comes first. It is not signed there, but in its field.
    let target = match target.starts_with('/') {
        true => target,
        false => {
            let rest = target.split_once("://")?.1;
            &rest[rest.find(['/', '?']).unwrap_or(rest.len())..]
        }
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Some(then(&Request {
        method: parsed.method?,
        path: if path.is_empty() { "/" } else { path },
        query,
        fields: parsed
            .headers
            .iter()
            .map(|it| (it.name, it.value))
            .collect(),
    }))
}

/// Whether this is the field of a signature. Other ways to authorize are those of a proxy in front.
pub fn is_authorization(name: &str, value: &[u8]) -> bool {
    name.eq_ignore_ascii_case("authorization") && value.starts_with(b"AWS")
}

/// Whether a query claims to be signed.
pub fn claims_signature(query: &str) -> bool {
    if query.is_empty() {
        return false;
    }
    let names = query.split('&').map(|piece| {
        let name = piece.split_once('=').map_or(piece, |(name, _)| name);
        decode(name)
    });
    let mut names = names.map(|name| name.to_ascii_lowercase());
    names.any(|name| {
        matches!(
            &name[..],
            b"x-amz-algorithm" | b"x-amz-credential" | b"x-amz-signature" | b"awsaccesskeyid"
        )
    })
}
