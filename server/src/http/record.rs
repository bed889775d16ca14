//! What the access log says of a request: taken from its head when that has arrived, and kept until its response ends.
//!
//! All of it is bounded, since every connection may have one. Secrets are left out: caps of Tahoe-LAFS files, and the
//! signatures of links.

use std::borrow::Cow;
use std::ops::Range;
use std::time::SystemTime;

use percent_encoding::percent_decode_str;

use super::method::Method;
use crate::memory::limits::{
    ACCESS_FIELD_BYTES_MAX, ACCESS_TARGET_BYTES_MAX, REQUEST_ID_BYTES_MAX,
};

/// Where a part of a head lies in its bytes; empty if it is not there. A head is far shorter than 64 KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    start: u16,
    end: u16,
}

impl Span {
    /// That of a part of `bytes`.
    pub fn of(bytes: &[u8], part: &[u8]) -> Span {
        let start = (part.as_ptr() as usize).wrapping_sub(bytes.as_ptr() as usize);
        let end = start.saturating_add(part.len());
        match (u16::try_from(start), u16::try_from(end)) {
            (Ok(start), Ok(end)) if usize::from(end) <= bytes.len() => Span { start, end },
            _ => Span::default(),
        }
    }

    fn get<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        let range: Range<usize> = self.start.into()..self.end.into();
        bytes.get(range).unwrap_or_default()
    }
}

/// Where in a head that is which the access log wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Noted {
    /// The request target.
    pub target: Span,
    /// `X-Request-Id`.
    pub id: Span,
    /// `Referer`.
    pub referer: Span,
    /// `User-Agent`.
    pub user_agent: Span,
}

impl Noted {
    /// Takes a field of a head in `bytes`. Of one that comes twice the last counts.
    pub fn take(&mut self, bytes: &[u8], name: &str, value: &[u8]) {
        let place = match name.len() {
            7 if name.eq_ignore_ascii_case("referer") => &mut self.referer,
            10 if name.eq_ignore_ascii_case("user-agent") => &mut self.user_agent,
            12 if name.eq_ignore_ascii_case("x-request-id") => &mut self.id,
            _ => return,
        };
        *place = Span::of(bytes, value);
    }

    /// The request id that a client gave, if it is one: 1 to 128 token characters, and no secret.
    pub fn id<'a>(&self, bytes: &'a [u8]) -> Option<&'a str> {
        let id = str::from_utf8(self.id.get(bytes)).ok()?;
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        let good = (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(token);
        (good && redacted(id) == id).then_some(id)
    }
}

/// A request id made here, of 64 bits.
pub fn made_id(bits: u64) -> Box<str> {
    format!("{bits:016x}").into()
}

/// What is known of a request.
#[derive(Debug, PartialEq, Eq)]
pub struct Record {
    /// When its head had arrived.
    pub at: SystemTime,
    /// Its method, if its head could be understood.
    pub method: Option<Method>,
    /// Whether the client speaks HTTP/1.0.
    pub http10: bool,
    /// The texts, one behind the other, and where each ends.
    texts: Box<str>,
    ends: [u16; 4],
}

impl Record {
    /// Of the head in `bytes`, with the id that its response has. Without a `method` it could not be understood: then the
    /// target is its first line.
    pub fn new(
        bytes: &[u8],
        noted: &Noted,
        method: Option<(Method, bool)>,
        id: &str,
        at: SystemTime,
    ) -> Record {
        let target = match method {
            Some(_) => noted.target.get(bytes),
            None => bytes
                .split(|byte| *byte == b'\r' || *byte == b'\n')
                .find(|line| !line.is_empty())
                .unwrap_or_default(),
        };
        let parts = [
            (target, ACCESS_TARGET_BYTES_MAX),
            (id.as_bytes(), REQUEST_ID_BYTES_MAX),
            (noted.referer.get(bytes), ACCESS_FIELD_BYTES_MAX),
            (noted.user_agent.get(bytes), ACCESS_FIELD_BYTES_MAX),
        ];
        let mut texts = String::new();
        let mut ends = [0; 4];
        for ((part, most), end) in parts.into_iter().zip(&mut ends) {
            let text = String::from_utf8_lossy(&part[..part.len().min(most)]);
            let text = redacted(&text);
            let fits = (0..=most.min(text.len())).rev();
            let len = fits.into_iter().find(|len| text.is_char_boundary(*len));
            texts.push_str(&text[..len.unwrap_or(0)]);
            *end = texts.len() as u16;
        }
        let (method, http10) = method.map_or((None, false), |(method, old)| (Some(method), old));
        Record {
            at,
            method,
            http10,
            texts: texts.into(),
            ends,
        }
    }

    fn text(&self, place: usize) -> &str {
        let start = match place {
            0 => 0,
            place => self.ends[place - 1].into(),
        };
        &self.texts[start..self.ends[place].into()]
    }

    /// The request target as it came, secrets aside; of what could not be understood, the first line.
    pub fn target(&self) -> &str {
        self.text(0)
    }

    /// The request id.
    pub fn id(&self) -> &str {
        self.text(1)
    }

    /// `Referer`; empty if there was none.
    pub fn referer(&self) -> &str {
        self.text(2)
    }

    /// `User-Agent`; empty if there was none.
    pub fn user_agent(&self) -> &str {
        self.text(3)
    }
}

/// How a cap begins.
const CAP: &str = "URI:";
/// How often a text may be percent-encoded for a cap in it to be seen.
const LAYERS: usize = 3;
/// Characters that those of [`CAP`] may take, encoded so often.
const CAP_CHARACTERS: usize = 4 * (1 + 2 * LAYERS);
/// The parameter of a signed link without which it opens nothing.
const SIGNATURE: &str = "X-Amz-Signature=";

/// The text without secrets: nothing from a cap on, and no signature of a link.
pub fn redacted(text: &str) -> Cow<'_, str> {
    let mut text = Cow::Borrowed(text);
    let found = text.char_indices().map(|(at, _)| at);
    if let Some(at) = found.into_iter().find(|at| begins_cap(&text[*at..])) {
        text = Cow::Owned(format!("{}[cap]", &text[..at]));
    }
    let lower = text.to_ascii_lowercase();
    if let Some(at) = lower.find(&SIGNATURE.to_ascii_lowercase()) {
        let start = at + SIGNATURE.len();
        let rest = &text[start..];
        let end = rest.find(['&', '"', ' ']).unwrap_or(rest.len());
        text = Cow::Owned(format!("{}[signature]{}", &text[..start], &rest[end..]));
    }
    text
}

/// Whether a cap begins here, in whatever case and however it is encoded.
fn begins_cap(text: &str) -> bool {
    if !text.starts_with(['u', 'U', '%']) {
        return false;
    }
    let end = text.char_indices().nth(CAP_CHARACTERS);
    let mut start = Cow::Borrowed(&text[..end.map_or(text.len(), |(at, _)| at)]);
    for _ in 0..=LAYERS {
        let cap = start.get(..CAP.len());
        if cap.is_some_and(|start| start.eq_ignore_ascii_case(CAP)) {
            return true;
        }
        let decoded = percent_decode_str(&start).decode_utf8_lossy().into_owned();
        start = Cow::Owned(decoded);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_left_out() {
        for (text, told) in [
            ("/a/b?c=d", "/a/b?c=d"),
            ("/uri/URI:CHK:key:hash:3:10:56", "/uri/[cap]"),
            ("/uri/URI%3ACHK%3Akey", "/uri/[cap]"),
            ("/file/uri%3achk/@@named=/a", "/file/[cap]"),
            ("/file/%55%52%49:CHK", "/file/[cap]"),
            ("/uri?uri=URI%253ACHK%253Akey", "/uri?uri=[cap]"),
            ("/uri?uri=%2555RI%25253ALIT%3Aq4", "/uri?uri=[cap]"),
            ("http://h/uri/URI:LIT:q4", "http://h/uri/[cap]"),
            (
                "/k?X-Amz-Signature=abc&a=b",
                "/k?X-Amz-Signature=[signature]&a=b",
            ),
            (
                "/k?a=b&x-amz-signature=abc",
                "/k?a=b&x-amz-signature=[signature]",
            ),
            ("%", "%"),
            ("/é%ff", "/é%ff"),
            ("", ""),
        ] {
            assert_eq!(redacted(text), told);
        }
    }

    fn record(head: &[u8], method: Option<Method>) -> Record {
        let text = str::from_utf8(head).unwrap_or_default();
        let part = |name: &str| {
            let at = text.find(name).map_or(0..0, |at| {
                let start = at + name.len();
                start..start + text[start..].find('\r').unwrap()
            });
            Span::of(head, &head[at])
        };
        let noted = Noted {
            target: Span::of(head, head.get(4..6).unwrap_or_default()),
            id: part("X-Request-Id: "),
            referer: part("Referer: "),
            user_agent: part("User-Agent: "),
        };
        let id = noted.id(head).map_or_else(|| made_id(7), Into::into);
        Record::new(
            head,
            &noted,
            method.map(|it| (it, false)),
            &id,
            SystemTime::UNIX_EPOCH,
        )
    }

    #[test]
    fn a_record_has_what_the_head_said() {
        let head = b"GET /k HTTP/1.1\r\nUser-Agent: a/1 (\"b\")\r\nReferer: http://x/\r\nX-Request-Id: a.b\r\n\r\n";
        let record = self::record(head, Some(Method::Get));
        assert_eq!((record.target(), record.id()), ("/k", "a.b"));
        assert_eq!(
            (record.referer(), record.user_agent()),
            ("http://x/", "a/1 (\"b\")")
        );
        let record = self::record(b"nonsense\r\n\r\n", None);
        assert_eq!(
            (record.target(), record.id()),
            ("nonsense", "0000000000000007")
        );
        assert_eq!((record.referer(), record.user_agent()), ("", ""));
    }

    #[test]
    fn ids_that_are_none_are_replaced() {
        for id in ["", "a b", "a;b", &"x".repeat(129), "URI%3ACHK", "é"] {
            let head = format!("GET /k HTTP/1.1\r\nX-Request-Id: {id}\r\n\r\n");
            let record = record(head.as_bytes(), Some(Method::Get));
            assert_eq!(record.id(), "0000000000000007", "{id}");
        }
    }

    #[test]
    fn a_record_is_bounded() {
        let long = "\u{fffd}".repeat(3000);
        let head =
            format!("{long}\r\nUser-Agent: {long}\r\nReferer: {long}\r\nX-Request-Id: a\r\n");
        let mut bytes = head.into_bytes();
        let record = record(&bytes, None);
        let most = ACCESS_TARGET_BYTES_MAX + REQUEST_ID_BYTES_MAX + 2 * ACCESS_FIELD_BYTES_MAX;
        assert!(record.texts.len() <= most);
        // A byte that is no text takes three as a replacement.
        bytes.iter_mut().for_each(|byte| *byte |= 0x80);
        let noted = Noted::default();
        let record = Record::new(&bytes, &noted, None, "a", SystemTime::UNIX_EPOCH);
        assert!(record.target().len() <= ACCESS_TARGET_BYTES_MAX);
    }
}
