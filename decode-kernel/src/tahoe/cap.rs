//! Read-caps: what a user holds to read a file.
//!
//! ```text
//!  URI:CHK:<key>:<UEB hash>:<k>:<n>:<size>    key 26, UEB hash 52 characters of base32;
//!                                             k, n, size ASCII decimals; 1 <= k <= n <= 256
//!  URI:LIT:<the file itself in base32>        files of up to 55 bytes, by Tahoe's habit
//! ```
//!
//! A cap is a secret: whoever has it can read the file. So only [`ChkCap::expose`] returns its
//! text. `Debug` shows the storage index, which storage servers know anyway. Errors name the
//! problem and its place, but never quote the text.

use std::fmt;

use super::base32::{self, Base32Error};
use super::geometry::SHARES_MAX;
use super::hash::{Hash, STORAGE_INDEX_TAG, tagged};
use super::{DecimalError, decimal};

/// The longest text that is parsed as a cap, in bytes. CHK caps have some 120; LIT caps are as long
/// as their file, so there must be a bound.
pub const CAP_TEXT_MAX: usize = 16 << 10;

/// The prefixes of other kinds of caps, which are not supported. Longer prefixes need not come
/// first, since each ends in a colon.
const UNSUPPORTED: &[(&str, &str)] = &[
    ("URI:CHK-Verifier:", "verify cap of a file (CHK-Verifier)"),
    ("URI:SSK:", "cap of a mutable file (SSK)"),
    ("URI:SSK-RO:", "cap of a mutable file (SSK-RO)"),
    (
        "URI:SSK-Verifier:",
        "verify cap of a mutable file (SSK-Verifier)",
    ),
    ("URI:MDMF:", "cap of a mutable file (MDMF)"),
    ("URI:MDMF-RO:", "cap of a mutable file (MDMF-RO)"),
    (
        "URI:MDMF-Verifier:",
        "verify cap of a mutable file (MDMF-Verifier)",
    ),
    ("URI:DIR2:", "cap of a directory (DIR2)"),
    ("URI:DIR2-RO:", "cap of a directory (DIR2-RO)"),
    (
        "URI:DIR2-Verifier:",
        "verify cap of a directory (DIR2-Verifier)",
    ),
    ("URI:DIR2-CHK:", "cap of an immutable directory (DIR2-CHK)"),
    (
        "URI:DIR2-CHK-Verifier:",
        "verify cap of a directory (DIR2-CHK-Verifier)",
    ),
    ("URI:DIR2-LIT:", "cap of an immutable directory (DIR2-LIT)"),
    ("URI:DIR2-MDMF:", "cap of a directory (DIR2-MDMF)"),
    ("URI:DIR2-MDMF-RO:", "cap of a directory (DIR2-MDMF-RO)"),
    (
        "URI:DIR2-MDMF-Verifier:",
        "verify cap of a directory (DIR2-MDMF-Verifier)",
    ),
];

/// Why a text is not a supported cap. Errors never quote the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CapError {
    /// A cap of a kind that is not supported.
    #[error(
        "this is the {kind}; supported are read-caps of immutable files, URI:CHK: and URI:LIT:"
    )]
    Unsupported {
        /// Which kind.
        kind: &'static str,
    },
    /// Not a cap of any known kind.
    #[error("not a cap: it begins with neither URI:CHK: nor URI:LIT:")]
    NotACap,
    /// Longer than [`CAP_TEXT_MAX`].
    #[error("not a cap: {len} bytes long; at most {CAP_TEXT_MAX} are accepted")]
    TooLong {
        /// Bytes given.
        len: usize,
    },
    /// A CHK cap with fewer or more fields than five.
    #[error("malformed CHK cap: {got} fields follow URI:CHK:, not 5")]
    Fields {
        /// Fields found.
        got: usize,
    },
    /// A field is not valid base32.
    #[error("malformed cap: its {field} {fault}")]
    Base32 {
        /// Which field.
        field: &'static str,
        /// The problem.
        fault: Base32Error,
    },
    /// A field is not a number.
    #[error("malformed CHK cap: its {field} {fault}")]
    Number {
        /// Which field.
        field: &'static str,
        /// The problem.
        fault: DecimalError,
    },
    /// Not 1 <= k <= n <= 256.
    #[error("malformed CHK cap: {k} of {n} shares; 1 <= k <= n <= {SHARES_MAX} is needed")]
    Shares {
        /// Shares needed.
        k: u64,
        /// Shares in all.
        n: u64,
    },
    /// The size is 0; empty files have LIT caps.
    #[error("malformed CHK cap: a size of 0; empty files have the cap of a literal file")]
    Empty,
}

impl CapError {
    /// Whether the text is a cap, but of a kind that is not supported.
    pub fn unsupported(&self) -> bool {
        matches!(self, CapError::Unsupported { .. })
    }
}

/// A read-cap.
#[derive(Clone, PartialEq, Eq)]
pub enum Cap {
    /// The cap of a file in shares.
    Chk(ChkCap),
    /// The file itself.
    Lit(Vec<u8>),
}

impl Cap {
    /// Parses the text of a cap. It must be the cap only: no white space, no line end, no
    /// percent-encoding.
    pub fn parse(text: &str) -> Result<Cap, CapError> {
        if text.len() > CAP_TEXT_MAX {
            return Err(CapError::TooLong { len: text.len() });
        }
        if let Some(fields) = text.strip_prefix("URI:CHK:") {
            return ChkCap::parse(fields).map(Cap::Chk);
        }
        if let Some(content) = text.strip_prefix("URI:LIT:") {
            return base32::decode(content).map(Cap::Lit).map_err(|fault| {
                let field = "content";
                CapError::Base32 { field, fault }
            });
        }
        let known = UNSUPPORTED
            .iter()
            .find(|(prefix, _)| text.starts_with(prefix));
        Err(
            known.map_or(CapError::NotACap, |&(_, kind)| CapError::Unsupported {
                kind,
            }),
        )
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        match self {
            Cap::Chk(cap) => cap.size,
            Cap::Lit(content) => content.len() as u64,
        }
    }
}

/// Shows no secret.
impl fmt::Debug for Cap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cap::Chk(cap) => cap.fmt(f),
            Cap::Lit(content) => write!(f, "Lit({} bytes)", content.len()),
        }
    }
}

/// The read-cap of a file in shares.
#[derive(Clone, PartialEq, Eq)]
pub struct ChkCap {
    key: [u8; 16],
    storage_index: StorageIndex, // from the key
    ueb_hash: Hash,
    k: u16,
    n: u16,
    size: u64,
}

impl ChkCap {
    /// A cap with these parts: `size` in bytes, at least 1; `1 <= k <= n <= 256`.
    pub fn new(
        key: [u8; 16],
        ueb_hash: Hash,
        k: u64,
        n: u64,
        size: u64,
    ) -> Result<ChkCap, CapError> {
        let shares = CapError::Shares { k, n };
        if k == 0 || k > n || n > u64::from(SHARES_MAX) {
            return Err(shares);
        }
        if size == 0 {
            return Err(CapError::Empty);
        }
        Ok(ChkCap {
            key,
            storage_index: StorageIndex::of_key(&key),
            ueb_hash,
            k: u16::try_from(k).map_err(|_| shares)?,
            n: u16::try_from(n).map_err(|_| shares)?,
            size,
        })
    }

    /// Reads what follows `URI:CHK:`.
    fn parse(text: &str) -> Result<ChkCap, CapError> {
        let mut fields = [""; 5];
        let got = text.split(':').count();
        if got != fields.len() {
            return Err(CapError::Fields { got });
        }
        fields
            .iter_mut()
            .zip(text.split(':'))
            .for_each(|(field, text)| *field = text);
        let base32 = |field| move |fault| CapError::Base32 { field, fault };
        let number = |field, text: &str| {
            decimal(text.as_bytes()).map_err(|fault| CapError::Number { field, fault })
        };
        ChkCap::new(
            base32::decode_array(fields[0]).map_err(base32("key"))?,
            base32::decode_array(fields[1]).map_err(base32("UEB hash"))?,
            number("k", fields[2])?,
            number("n", fields[3])?,
            number("size", fields[4])?,
        )
    }

    /// The key of AES-128. A secret.
    pub fn key(&self) -> &[u8; 16] {
        &self.key
    }

    /// The name of the file on storage servers; safe to log.
    pub fn storage_index(&self) -> StorageIndex {
        self.storage_index
    }

    /// The hash of the file's URI extension block.
    pub fn ueb_hash(&self) -> &Hash {
        &self.ueb_hash
    }

    /// Shares needed.
    pub fn k(&self) -> u16 {
        self.k
    }

    /// Shares in all.
    pub fn n(&self) -> u16 {
        self.n
    }

    /// Bytes of the file, at least 1.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The text of the cap: the secret itself.
    pub fn expose(&self) -> String {
        let (key, ueb) = (base32::encode(&self.key), base32::encode(&self.ueb_hash));
        format!("URI:CHK:{key}:{ueb}:{}:{}:{}", self.k, self.n, self.size)
    }
}

/// Shows no secret.
impl fmt::Debug for ChkCap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Chk({} {}-of-{}, {} bytes)",
            self.storage_index, self.k, self.n, self.size
        )
    }
}

/// The name of a file on storage servers: a hash of its key, displayed as 26 characters of base32.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StorageIndex([u8; 16]);

impl StorageIndex {
    fn of_key(key: &[u8; 16]) -> StorageIndex {
        let hash = tagged(STORAGE_INDEX_TAG, key);
        StorageIndex(hash[..16].try_into().expect("16 of 32 bytes"))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The file's directory below a storage server's directory of shares: `<first two
    /// characters>/<all 26>`.
    pub fn dir(&self) -> String {
        let text = self.to_string();
        format!("{}/{text}", &text[..2])
    }
}

impl fmt::Display for StorageIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&base32::encode(&self.0))
    }
}

impl fmt::Debug for StorageIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: &str = "aaaqeayeaudaocajbifqydiob4";
    const UEB: &str = "aaaqeayeaudaocajbifqydiob4aaaqeayeaudaocajbifqydioba";

    fn chk(rest: &str) -> Result<Cap, CapError> {
        Cap::parse(&format!("URI:CHK:{KEY}:{UEB}:{rest}"))
    }

    #[test]
    fn a_chk_cap_and_its_storage_index() {
        let Ok(Cap::Chk(cap)) = chk("3:10:18446744073709551615") else {
            panic!()
        };
        assert_eq!((cap.k(), cap.n(), cap.size()), (3, 10, u64::MAX));
        assert_eq!(
            cap.storage_index().to_string(),
            "hdis5iaveku6lnlaiccydyid7q"
        );
        assert_eq!(cap.storage_index().dir(), "hd/hdis5iaveku6lnlaiccydyid7q");
        assert_eq!(
            cap.expose(),
            format!("URI:CHK:{KEY}:{UEB}:3:10:{}", u64::MAX)
        );
        let Ok(Cap::Chk(zeros)) = chk("03:010:001") else {
            panic!()
        };
        assert_eq!((zeros.k(), zeros.n(), zeros.size()), (3, 10, 1));
    }

    #[test]
    fn literals() {
        assert_eq!(Cap::parse("URI:LIT:"), Ok(Cap::Lit(vec![])));
        assert_eq!(Cap::parse("URI:LIT:mfrgg"), Ok(Cap::Lit(b"abc".to_vec())));
        assert!(matches!(
            Cap::parse("URI:LIT:mfrgh"),
            Err(CapError::Base32 { .. })
        ));
        assert!(matches!(
            Cap::parse("URI:LIT:mfrgg:"),
            Err(CapError::Base32 { .. })
        ));
        assert!(matches!(
            Cap::parse("URI:LIT:mfrgg\n"),
            Err(CapError::Base32 { .. })
        ));
    }

    #[test]
    fn malformed_caps_are_refused_without_quoting_them() {
        let number = |field, fault| CapError::Number { field, fault };
        let not_decimal = DecimalError::NotDecimal;
        for (rest, error) in [
            ("3:10", CapError::Fields { got: 4 }),
            ("3:10:1000:", CapError::Fields { got: 6 }),
            ("3:10:1000:1", CapError::Fields { got: 6 }),
            ("+3:10:1000", number("k", not_decimal)),
            ("3:-10:1000", number("n", not_decimal)),
            ("3:10:", number("size", not_decimal)),
            ("3:10:1000\n", number("size", not_decimal)),
            ("3:10: 1000", number("size", not_decimal)),
            ("3:10:1_000", number("size", not_decimal)),
            ("3:10:\u{664}", number("size", not_decimal)),
            (
                "3:10:18446744073709551616",
                number("size", DecimalError::TooLarge),
            ),
            ("0:10:1", CapError::Shares { k: 0, n: 10 }),
            ("11:10:1", CapError::Shares { k: 11, n: 10 }),
            ("3:257:1", CapError::Shares { k: 3, n: 257 }),
            ("65539:65546:1", CapError::Shares { k: 65539, n: 65546 }),
            ("3:10:0", CapError::Empty),
        ] {
            assert_eq!(chk(rest), Err(error), "{rest:?}");
        }
        for text in [
            format!("URI:CHK:{}b:{UEB}:3:10:9", &KEY[..25]),
            format!("URI:CHK:{KEY}a:{UEB}:3:10:9"),
            format!("URI:CHK:{}:{UEB}:3:10:9", KEY.to_uppercase()),
            format!("URI:CHK:{KEY}:{}b:3:10:9", &UEB[..51]),
            format!("URI:CHK:{KEY}:{}:3:10:9", &UEB[..50]),
            format!("URI:CHK:{KEY}:{UEB}=:3:10:9"),
            format!(" URI:CHK:{KEY}:{UEB}:3:10:9"),
            format!("uri:chk:{KEY}:{UEB}:3:10:9"),
            format!("URI%3ACHK%3A{KEY}%3A{UEB}%3A3%3A10%3A9"),
            "URI:CHK".into(),
            String::new(),
        ] {
            let error = Cap::parse(&text).unwrap_err();
            assert!(!error.unsupported(), "{text}");
            assert!(!error.to_string().contains(&KEY[..8]), "{error}");
            assert!(!format!("{error:?}").contains(&KEY[..8]), "{error:?}");
        }
        let long = format!("URI:LIT:{}", "a".repeat(CAP_TEXT_MAX));
        assert!(matches!(Cap::parse(&long), Err(CapError::TooLong { .. })));
    }

    #[test]
    fn other_kinds_are_named() {
        for &(prefix, kind) in UNSUPPORTED {
            let error = Cap::parse(&format!("{prefix}{KEY}:{UEB}")).unwrap_err();
            assert_eq!(error, CapError::Unsupported { kind });
            let name = prefix.trim_end_matches(':').trim_start_matches("URI:");
            assert!(error.to_string().contains(&format!("({name})")), "{error}");
            assert!(error.to_string().contains("URI:CHK:"), "{error}");
        }
    }

    #[test]
    fn debug_shows_no_key() {
        let shown = format!("{:?}", chk("3:10:1000").unwrap());
        assert_eq!(shown, "Chk(hdis5iaveku6lnlaiccydyid7q 3-of-10, 1000 bytes)");
        assert_eq!(
            format!("{:?}", Cap::Lit(b"secret".to_vec())),
            "Lit(6 bytes)"
        );
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_exposed_the_same(text in "URI:(CHK|LIT):[a-z2-7:0-9]{0,100}") {
            if let Ok(Cap::Chk(cap)) = Cap::parse(&text) {
                prop_assert_eq!(Cap::parse(&cap.expose()), Ok(Cap::Chk(cap)));
            }
        }

        #[test]
        fn caps_survive_their_text(
            key: [u8; 16], ueb_hash: Hash, k in 1..=256u64, more in 0..256u64, size in 1..=u64::MAX,
        ) {
            let cap = ChkCap::new(key, ueb_hash, k, (k + more).min(256), size).unwrap();
            prop_assert_eq!(Cap::parse(&cap.expose()), Ok(Cap::Chk(cap)));
        }
    }
}
