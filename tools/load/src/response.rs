//! Parses responses: heads by `httparse`, bodies by their framing. No sockets here.
//!
//! "Need more bytes" is an outcome, not an error. A body is fed the received bytes and passes its payload to the
//! caller, piece by piece, with the payload offset of each piece.

use std::str::FromStr;
use std::time::Duration;

/// The longest head that is accepted.
pub(crate) const HEAD_BYTES_MAX: usize = 64 * 1024;
const HEADERS_MAX: usize = 100;
/// The longest chunk-size line and the longest trailer that are accepted.
const CHUNK_LINE_BYTES_MAX: u32 = 16 * 1024;

/// A Content-Range of a 206.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ContentRange {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) size: Option<u64>,
}

/// The parts of a head that the client needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) framing: Framing,
    /// The server will close after this response.
    pub(crate) close: bool,
    /// Retry-After: `Some(None)` when it was there and not a number of seconds.
    pub(crate) retry_after: Option<Option<Duration>>,
    pub(crate) content_range: Option<ContentRange>,
}

/// How the end of a body is recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

impl Head {
    /// Parses a head at the front of `bytes` and returns it with its length; `None`: more bytes are needed.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Option<(Head, usize)>, String> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut response = httparse::Response::new(&mut headers);
        let length = match response.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if bytes.len() >= HEAD_BYTES_MAX => {
                return Err(format!("no end of the head within {HEAD_BYTES_MAX} bytes"));
            }
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        let status = response.code.unwrap_or_default();
        let mut lengths = None;
        let mut chunked = false;
        let mut close = response.version == Some(0);
        let mut retry_after = None;
        let mut content_range = None;
        for header in response.headers.iter() {
            let value = || std::str::from_utf8(header.value).unwrap_or_default().trim();
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            if is("content-length") {
                let digits =
                    !value().is_empty() && value().bytes().all(|byte| byte.is_ascii_digit());
                let length: u64 = match value().parse() {
                    Ok(length) if digits => length,
                    _ => return Err(format!("Content-Length {:?}", value())),
                };
                if lengths.is_some_and(|other| other != length) {
                    return Err("two different Content-Lengths".into());
                }
                lengths = Some(length);
            } else if is("transfer-encoding") {
                if !value().eq_ignore_ascii_case("chunked") {
                    return Err(format!(
                        "Transfer-Encoding {:?}, which is not understood",
                        value()
                    ));
                }
                chunked = true;
            } else if is("connection") {
                for token in value().split(',').map(str::trim) {
                    close |= token.eq_ignore_ascii_case("close");
                    close &= !token.eq_ignore_ascii_case("keep-alive");
                }
            } else if is("retry-after") {
                retry_after = Some(value().parse().ok().map(Duration::from_secs));
            } else if is("content-range") {
                let range = value()
                    .parse()
                    .map_err(|()| format!("Content-Range {:?}", value()))?;
                content_range = Some(range);
            }
        }
        let framing = match (status, chunked, lengths) {
            (100..=199 | 204 | 304, _, _) => Framing::Length(0),
            (_, true, Some(_)) => return Err("both Content-Length and Transfer-Encoding".into()),
            (_, true, None) => Framing::Chunked,
            (_, false, Some(length)) => Framing::Length(length),
            (_, false, None) => Framing::UntilClose,
        };
        close |= framing == Framing::UntilClose;
        Ok(Some((
            Head {
                status,
                framing,
                close,
                retry_after,
                content_range,
            },
            length,
        )))
    }
}

impl FromStr for ContentRange {
    type Err = ();

    /// `bytes FIRST-LAST/SIZE` or `bytes */SIZE`, the latter as an empty range (last before first).
    fn from_str(text: &str) -> Result<ContentRange, ()> {
        let (span, size) = text
            .strip_prefix("bytes ")
            .and_then(|text| text.split_once('/'))
            .ok_or(())?;
        let size = match size {
            "*" => None,
            digits => Some(digits.parse().map_err(|_| ())?),
        };
        if span == "*" {
            return Ok(ContentRange {
                first: 1,
                last: 0,
                size,
            });
        }
        let (first, last) = span.split_once('-').ok_or(())?;
        let (first, last) = (
            first.parse().map_err(|_| ())?,
            last.parse().map_err(|_| ())?,
        );
        let sound = first <= last && size.is_none_or(|size| last < size);
        if sound {
            Ok(ContentRange { first, last, size })
        } else {
            Err(())
        }
    }
}

/// A body being read.
#[derive(Debug)]
pub(crate) struct Body {
    framing: Framing,
    chunk: Chunk,
    /// Payload bytes so far.
    received: u64,
    done: bool,
}

/// The state of a chunked body. Its numbers are checked and bounded by `CHUNK_LINE_BYTES_MAX`.
#[derive(Debug, Clone, Copy)]
enum Chunk {
    Size { value: u64, digits: u32 },
    Extension { value: u64, length: u32 },
    Data { left: u64 },
    DataEnd { seen_cr: bool },
    Trailer { length: u32, line: u32 },
}

impl Body {
    pub(crate) fn new(framing: Framing) -> Body {
        let done = framing == Framing::Length(0);
        Body {
            framing,
            chunk: Chunk::Size {
                value: 0,
                digits: 0,
            },
            received: 0,
            done,
        }
    }

    /// Payload bytes so far.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    pub(crate) fn length_is_known(&self) -> bool {
        matches!(self.framing, Framing::Length(_))
    }

    pub(crate) fn is_done(&self) -> bool {
        self.done
    }

    /// The number of raw bytes to read next, so that no byte behind the body is read: exact where the length is known,
    /// `wish` otherwise.
    pub(crate) fn want(&self, wish: u64) -> u64 {
        match self.framing {
            Framing::Length(length) => wish.min(length - self.received),
            Framing::Chunked | Framing::UntilClose => wish,
        }
    }

    /// Feeds raw bytes. `payload` gets each piece with its offset in the body and may refuse it.
    pub(crate) fn feed<E: From<String>>(
        &mut self,
        mut bytes: &[u8],
        mut payload: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        while !bytes.is_empty() {
            if self.done {
                return Err(E::from(format!(
                    "{} bytes after the body's end",
                    bytes.len()
                )));
            }
            let left = match (self.framing, self.chunk) {
                (Framing::Length(length), _) => length - self.received,
                (Framing::UntilClose, _) => u64::MAX,
                (Framing::Chunked, Chunk::Data { left }) => left,
                (Framing::Chunked, _) => {
                    self.step(bytes[0]).map_err(E::from)?;
                    bytes = &bytes[1..];
                    continue;
                }
            };
            let take = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
            payload(self.received, &bytes[..take])?;
            bytes = &bytes[take..];
            self.advance(take as u64);
        }
        Ok(())
    }

    /// Counts payload bytes that were dropped unread; only for a body of known length.
    pub(crate) fn skip(&mut self, bytes: u64) {
        assert!(matches!(self.framing, Framing::Length(length) if bytes <= length - self.received));
        self.advance(bytes);
    }

    /// Handles the end of the connection. Fails if it is not the end of the body.
    pub(crate) fn end(&mut self) -> Result<(), String> {
        self.done |= self.framing == Framing::UntilClose;
        match (self.done, self.framing) {
            (true, _) => Ok(()),
            (false, Framing::Length(length)) => {
                Err(format!("closed after {} of {length} bytes", self.received))
            }
            (false, _) => Err(format!(
                "closed after {} bytes, before the last chunk",
                self.received
            )),
        }
    }

    fn advance(&mut self, bytes: u64) {
        self.received += bytes;
        match (self.framing, &mut self.chunk) {
            (Framing::Length(length), _) => self.done = self.received == length,
            (Framing::Chunked, Chunk::Data { left }) => {
                *left -= bytes;
                if *left == 0 {
                    self.chunk = Chunk::DataEnd { seen_cr: false };
                }
            }
            _ => {}
        }
    }

    /// Handles one byte of chunked framing.
    fn step(&mut self, byte: u8) -> Result<(), String> {
        let wrong = |place: &str| Err(format!("byte 0x{byte:02x} in a chunk's {place}"));
        self.chunk = match (self.chunk, byte) {
            (Chunk::Size { value, digits }, _) if byte.is_ascii_hexdigit() => {
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                let value = value
                    .checked_mul(16)
                    .and_then(|value| value.checked_add(u64::from(digit)));
                let value = value.ok_or("a chunk's size beyond 64 bits")?;
                // Leading zeros could go on for ever without growing the value, so digits are counted.
                if digits >= 32 {
                    return Err("a chunk's size of more than 32 digits".into());
                }
                Chunk::Size {
                    value,
                    digits: digits + 1,
                }
            }
            (Chunk::Size { digits: 0, .. }, _) => return wrong("size"),
            (Chunk::Size { value, .. }, b';' | b' ' | b'\t' | b'\r') => {
                Chunk::Extension { value, length: 0 }
            }
            (Chunk::Size { value: 0, .. } | Chunk::Extension { value: 0, .. }, b'\n') => {
                Chunk::Trailer { length: 0, line: 0 }
            }
            (Chunk::Size { value, .. } | Chunk::Extension { value, .. }, b'\n') => {
                Chunk::Data { left: value }
            }
            (Chunk::Size { .. }, _) => return wrong("size"),
            (Chunk::Extension { length, .. }, _) if length >= CHUNK_LINE_BYTES_MAX => {
                return Err(format!(
                    "a chunk's extension over {CHUNK_LINE_BYTES_MAX} bytes"
                ));
            }
            (Chunk::Extension { value, length }, _) => Chunk::Extension {
                value,
                length: length + 1,
            },
            (Chunk::DataEnd { seen_cr: false }, b'\r') => Chunk::DataEnd { seen_cr: true },
            (Chunk::DataEnd { .. }, b'\n') => Chunk::Size {
                value: 0,
                digits: 0,
            },
            (Chunk::DataEnd { .. }, _) => return wrong("end"),
            (Chunk::Trailer { length, .. }, _) if length >= CHUNK_LINE_BYTES_MAX => {
                return Err(format!("a trailer over {CHUNK_LINE_BYTES_MAX} bytes"));
            }
            (Chunk::Trailer { line: 0, .. }, b'\n') => {
                self.done = true;
                return Ok(());
            }
            (Chunk::Trailer { length, .. }, b'\n') => Chunk::Trailer {
                length: length + 1,
                line: 0,
            },
            (Chunk::Trailer { length, line }, b'\r') => Chunk::Trailer {
                length: length + 1,
                line,
            },
            (Chunk::Trailer { length, line }, _) => Chunk::Trailer {
                length: length + 1,
                line: line + 1,
            },
            (Chunk::Data { .. }, _) => return wrong("data"),
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(text: &str) -> Head {
        Head::parse(text.as_bytes()).unwrap().unwrap().0
    }

    #[test]
    fn heads_tell_the_framing() {
        let length = head("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
        assert_eq!((length.framing, length.close), (Framing::Length(5), false));
        let chunked =
            head("HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\nConnection: x, close\r\n\r\n");
        assert_eq!((chunked.framing, chunked.close), (Framing::Chunked, true));
        let open = head("HTTP/1.1 200 OK\r\n\r\n");
        assert_eq!((open.framing, open.close), (Framing::UntilClose, true));
        assert_eq!(
            head("HTTP/1.1 304 x\r\nContent-Length: 5\r\n\r\n").framing,
            Framing::Length(0)
        );
        assert!(head("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n").close);
        assert!(
            !head("HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: Keep-Alive\r\n\r\n").close
        );
        let refused = head("HTTP/1.1 503 x\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(refused.retry_after, Some(Some(Duration::from_secs(7))));
        let dated = head("HTTP/1.1 503 x\r\nRetry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n");
        assert_eq!(dated.retry_after, Some(None));
        let part =
            head("HTTP/1.1 206 x\r\nContent-Range: bytes 5-9/10\r\nContent-Length: 5\r\n\r\n");
        assert_eq!(
            part.content_range,
            Some(ContentRange {
                first: 5,
                last: 9,
                size: Some(10)
            })
        );
    }

    #[test]
    fn bad_heads_are_refused() {
        for text in [
            "nonsense\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            "HTTP/1.1 206 OK\r\nContent-Range: bytes 9-5/10\r\n\r\n",
            "HTTP/1.1 206 OK\r\nContent-Range: bytes 5-10/10\r\n\r\n",
        ] {
            assert!(Head::parse(text.as_bytes()).is_err(), "{text:?}");
        }
        let mut endless = b"HTTP/1.1 200 OK\r\nX: ".to_vec();
        endless.resize(HEAD_BYTES_MAX - 1, b'x');
        assert_eq!(Head::parse(&endless), Ok(None));
        endless.push(b'x');
        assert!(Head::parse(&endless).is_err());
    }

    fn read(framing: Framing, raw: &[u8], step: usize) -> Result<(Vec<u8>, bool), String> {
        let mut body = Body::new(framing);
        let mut out = Vec::new();
        for part in raw.chunks(step) {
            body.feed(part, |offset, bytes| {
                assert_eq!(offset, out.len() as u64);
                out.extend_from_slice(bytes);
                Ok::<(), String>(())
            })?;
        }
        assert_eq!(body.received(), out.len() as u64);
        Ok((out, body.is_done()))
    }

    #[test]
    fn bodies_end_where_their_framing_ends() {
        for step in 1..40 {
            assert_eq!(
                read(Framing::Length(5), b"hello", step),
                Ok((b"hello".to_vec(), true))
            );
            assert_eq!(
                read(Framing::Length(6), b"hello", step),
                Ok((b"hello".to_vec(), false))
            );
            assert!(read(Framing::Length(4), b"hello", step).is_err());
            let raw = b"5\r\nhello\r\n00A;name=\"v\"\r\n, wide wor\r\n2\nld\n0\r\nX: y\r\n\r\n";
            assert_eq!(
                read(Framing::Chunked, raw, step),
                Ok((b"hello, wide world".to_vec(), true))
            );
            assert_eq!(
                read(Framing::Chunked, &raw[..raw.len() - 1], step).map(|read| read.1),
                Ok(false)
            );
        }
        for raw in [
            "x\r\n",
            "\r\n",
            "5\r\nhelloworld",
            "fffffffffffffffff\r\n",
            "0\r\n\r\nmore",
        ] {
            assert!(
                read(Framing::Chunked, raw.as_bytes(), 3).is_err(),
                "{raw:?}"
            );
        }
        assert!(read(Framing::Chunked, &[b'0'; 100], 7).is_err());
        let mut open = Body::new(Framing::UntilClose);
        assert!(open.end().is_ok() && open.is_done());
        assert!(Body::new(Framing::Length(1)).end().is_err());
        assert!(Body::new(Framing::Chunked).end().is_err());
    }

    proptest! {
        /// No bytes from a server may panic or loop, and it makes no difference how they are cut into reads.
        #[test]
        fn any_bytes_are_parsed_without_a_panic(raw in proptest::collection::vec(any::<u8>(), 0..300), step in 1usize..50) {
            let _ = Head::parse(&raw);
            prop_assert_eq!(read(Framing::Chunked, &raw, step).is_ok(), read(Framing::Chunked, &raw, 1000).is_ok());
        }

        #[test]
        fn chunked_bodies_round_trip(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50), 0..8), step in 1usize..50) {
            let mut raw = Vec::new();
            for part in &parts {
                raw.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
                raw.extend_from_slice(part);
                raw.extend_from_slice(b"\r\n");
            }
            raw.extend_from_slice(b"0\r\n\r\n");
            prop_assert_eq!(read(Framing::Chunked, &raw, step), Ok((parts.concat(), true)));
        }
    }
}
