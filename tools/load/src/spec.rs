//! Parses groups from text: `COUNT[@RATE][,key=value...]`, as on the command line.
//!
//! Keys: `name`, `rate`, `start` (a duration), `requests`, `path`, `range` and `take` (`LEN` or
//! `MIN-MAX`), `hello` (`nothing`/`part`/`whole`), `keepalive` (`yes`/`no`), `rcvbuf` (a size or `auto`), `read` (`copy`/`discard`), `network`
//! (0 to 255: from 127.0.N.1 and up), `verify` (a file), `sha256` (hex). Values cannot contain a comma.

use std::str::FromStr;

use bytesize::ByteSize;

use crate::error::LoadError;
use crate::plan::{ByteSpan, Class, Group, Hello, Reading, Verify};

impl Group {
    /// Parses a group of `class` from `spec`, for example `100@100KB/s,start=5s,range=1MiB-4MiB`.
    /// Sizes take KB (1000), KiB (1024) and so on.
    pub fn parse(class: Class, spec: &str) -> Result<Group, LoadError> {
        let fail = |reason: String| LoadError::Group {
            group: format!("{} {spec}", class.name()),
            reason,
        };
        let mut parts = spec.split(',');
        let count = parts.next().unwrap_or_default();
        let (count, rate) = match count.split_once('@') {
            Some((count, rate)) => (count, Some(parse_rate(rate).map_err(fail)?)),
            None => (count, None),
        };
        let clients = count
            .parse()
            .map_err(|_| fail(format!("{count:?} is not a number of clients")))?;
        let mut group = Group {
            rate,
            ..Group::new(class, clients)
        };
        for part in parts {
            let (key, value) = part
                .split_once('=')
                .ok_or_else(|| fail(format!("{part:?} is not key=value")))?;
            set(&mut group, key, value).map_err(|reason| fail(format!("{key}: {reason}")))?;
        }
        Ok(group)
    }
}

fn set(group: &mut Group, key: &str, value: &str) -> Result<(), String> {
    match key {
        "name" => group.name = value.to_owned(),
        "rate" => group.rate = Some(parse_rate(value)?),
        "start" => group.start = humantime::parse_duration(value).map_err(|error| format!("{value:?}: {error}"))?,
        "requests" => group.requests = Some(value.parse().map_err(|_| format!("{value:?} is not a number"))?),
        "path" => group.path = Some(value.to_owned()),
        "range" => group.range = Some(parse_span(value)?),
        "take" => group.take = parse_span(value)?,
        "hello" => group.hello = parse_hello(value)?,
        "keepalive" => group.keep_alive = parse_choice(value, "yes", "no")?,
        "rcvbuf" if value == "auto" => group.receive_buffer = None,
        "rcvbuf" => {
            let bytes = usize::try_from(parse_size(value)?).map_err(|_| format!("{value:?} is too large"))?;
            group.receive_buffer = Some(bytes);
        }
        "read" => group.reading = if parse_choice(value, "copy", "discard")? { Reading::Copy } else { Reading::Discard },
        "network" => group.network = Some(value.parse().map_err(|_| format!("{value:?} is not a number from 0 to 255"))?),
        "verify" => group.verify = Some(Verify::File(value.into())),
        "sha256" => group.verify = Some(Verify::Sha256(parse_sha256(value)?)),
        _ => return Err("no such key; there are name, rate, start, requests, path, range, take, hello, keepalive, rcvbuf, read, network, verify, sha256".into()),
    }
    Ok(())
}

fn parse_choice(value: &str, yes: &str, no: &str) -> Result<bool, String> {
    match value {
        _ if value == yes => Ok(true),
        _ if value == no => Ok(false),
        _ => Err(format!("{value:?} is neither {yes} nor {no}")),
    }
}

fn parse_hello(value: &str) -> Result<Hello, String> {
    match value {
        "nothing" => Ok(Hello::Nothing),
        "part" => Ok(Hello::Part),
        "whole" => Ok(Hello::Whole),
        _ => Err(format!("{value:?} is neither nothing, part nor whole")),
    }
}

fn parse_size(value: &str) -> Result<u64, String> {
    ByteSize::from_str(value)
        .map(|size| size.as_u64())
        .map_err(|_| format!("{value:?} is not a size such as 64KiB"))
}

fn parse_rate(value: &str) -> Result<u64, String> {
    let rate = value.strip_suffix("/s").unwrap_or(value);
    parse_size(rate).map_err(|_| format!("{value:?} is not a rate such as 100KB/s"))
}

fn parse_span(value: &str) -> Result<ByteSpan, String> {
    match value.split_once('-') {
        Some((min, max)) => Ok(ByteSpan {
            min: parse_size(min)?,
            max: parse_size(max)?,
        }),
        None => Ok(ByteSpan::exactly(parse_size(value)?)),
    }
}

/// Parses 64 hexadecimal digits.
pub(crate) fn parse_sha256(value: &str) -> Result<[u8; 32], String> {
    let wrong = || format!("{value:?} is not a SHA-256 in 64 hexadecimal digits");
    if value.len() != 64 || !value.is_ascii() {
        return Err(wrong());
    }
    let mut bytes = [0; 32];
    for (byte, digits) in bytes.iter_mut().zip(value.as_bytes().chunks_exact(2)) {
        let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
        *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
    }
    Ok(bytes)
}

impl Verify {
    /// The whole object's SHA-256, in hexadecimal digits.
    pub fn sha256_hex(hex: &str) -> Result<Verify, LoadError> {
        parse_sha256(hex)
            .map(Verify::Sha256)
            .map_err(|reason| LoadError::Setting {
                setting: "sha256",
                reason,
            })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn groups_are_parsed() {
        let group = Group::parse(
            Class::Slow,
            "100@100KB/s,start=5s,range=1MiB-4MiB,requests=3,keepalive=no,rcvbuf=auto",
        )
        .unwrap();
        assert_eq!((group.clients, group.rate), (100, Some(100_000)));
        assert_eq!(group.start, Duration::from_secs(5));
        assert_eq!(
            group.range,
            Some(ByteSpan {
                min: 1 << 20,
                max: 4 << 20
            })
        );
        assert_eq!(
            (group.requests, group.keep_alive, group.receive_buffer),
            (Some(3), false, None)
        );
        assert_eq!(
            Group::parse(Class::Stalled, "7").unwrap(),
            Group::new(Class::Stalled, 7)
        );
    }

    #[test]
    fn errors_name_the_mistake() {
        for (spec, part) in [
            ("", "number of clients"),
            ("many", "\"many\""),
            ("-1", "\"-1\""),
            ("4@fast", "\"fast\""),
            ("4,oops", "\"oops\" is not key=value"),
            ("4,colour=red", "no such key"),
            ("4,range=5-x", "\"x\""),
            ("4,hello=half", "nothing, part nor whole"),
            ("4,keepalive=maybe", "neither yes nor no"),
            ("4,sha256=12", "64 hexadecimal digits"),
            (
                "4,sha256=+1234567890123456789012345678901234567890123456789012345678901é",
                "64 hexadecimal digits",
            ),
        ] {
            let error = Group::parse(Class::Fast, spec).unwrap_err().to_string();
            assert!(error.contains(part), "{spec:?} gave {error:?}");
        }
    }
}
