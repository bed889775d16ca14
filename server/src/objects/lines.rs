//! The header lines of an object that never change, made once when it is opened: heads of objects in demand are made for
//! every request.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use decode_kernel::share::{Digest, DigestAlgorithm, Header, Metadata};

/// The field that is told apart, since it goes with 304 too, and depends on the time where the object expires.
const CACHE_CONTROL: &str = "Cache-Control";

/// Whole lines, each with its CRLF, and what is between them.
#[derive(Debug)]
pub struct Lines {
    text: Box<str>,
    /// Where the lines of the digest end, and those of the checksum.
    ends: [usize; 2],
    cache_control: Option<Box<str>>,
}

impl Lines {
    /// Those of the object with this header.
    pub fn new(header: &Header) -> Lines {
        let Metadata {
            crc64nvme, fields, ..
        } = &header.metadata;
        let Digest {
            algorithm: DigestAlgorithm::Sha256,
            bytes,
        } = &header.digest;
        let mut text = format!("Repr-Digest: sha-256=:{}:\r\n", STANDARD.encode(bytes));
        let digest = text.len();
        if let Some(crc) = crc64nvme {
            // Writing to a String does not fail.
            let _ = write!(
                text,
                "x-amz-checksum-crc64nvme: {}\r\nx-amz-checksum-type: FULL_OBJECT\r\n",
                STANDARD.encode(crc.to_be_bytes())
            );
        }
        let checksum = text.len();
        for (name, value) in fields.iter().filter(|(name, _)| *name != CACHE_CONTROL) {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        Lines {
            text: text.into(),
            ends: [digest, checksum],
            cache_control: fields.get(CACHE_CONTROL).map(Into::into),
        }
    }

    /// `Repr-Digest`: that of the whole object, as it is stored (RFC 9530 section 3).
    pub fn digest(&self) -> &str {
        &self.text[..self.ends[0]]
    }

    /// The CRC-64/NVME of the whole object as S3 says it; empty if it is not known.
    pub fn checksum(&self) -> &str {
        &self.text[self.ends[0]..self.ends[1]]
    }

    /// The fields that its put gave it, but for `Cache-Control`.
    pub fn fields(&self) -> &str {
        &self.text[self.ends[1]..]
    }

    /// The value of `Cache-Control` that its put gave it.
    pub fn cache_control(&self) -> Option<&str> {
        self.cache_control.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use decode_kernel::code::CodeKind;
    use decode_kernel::share::{Fields, Generation, Geometry, Key, LeafChecksum};

    use super::*;

    fn lines(metadata: Metadata) -> Lines {
        Lines::new(&Header {
            key: Key::new("k").unwrap(),
            content_type: "a/b".into(),
            geometry: Geometry::new(1, 1, 1, 4096, 4096).unwrap(),
            code: CodeKind::Rs8,
            number: 0,
            leaf_checksum: LeafChecksum::Crc64Nvme,
            digest: Digest {
                algorithm: DigestAlgorithm::Sha256,
                bytes: std::array::from_fn(|i| i as u8),
            },
            generation: Generation::new(1, [0; 8]),
            created: 1,
            metadata,
        })
    }

    #[test]
    fn what_is_not_known_is_not_said() {
        let lines = lines(Metadata::default());
        let digest = "Repr-Digest: sha-256=:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=:\r\n";
        assert_eq!(lines.digest(), digest);
        assert_eq!((lines.checksum(), lines.fields()), ("", ""));
        assert_eq!(lines.cache_control(), None);
    }

    #[test]
    fn each_field_is_a_line() {
        let fields = [
            ("X-A", "1"),
            ("cache-control", "no-cache"),
            ("Content-Language", "de"),
        ];
        let lines = lines(Metadata {
            // The check value of CRC-64/NVME, and what S3 makes of it.
            crc64nvme: Some(0xae8b_1486_0a79_9888),
            expires: None,
            fields: Fields::new(fields).unwrap(),
        });
        let checksum =
            "x-amz-checksum-crc64nvme: rosUhgp5mIg=\r\nx-amz-checksum-type: FULL_OBJECT\r\n";
        assert_eq!(lines.checksum(), checksum);
        assert_eq!(lines.fields(), "Content-Language: de\r\nx-a: 1\r\n");
        assert_eq!(lines.cache_control(), Some("no-cache"));
        assert!(lines.digest().ends_with(":\r\n"));
    }
}
