//! The container: the bytes that a storage server writes around a share's data in a file.
//!
//! ```text
//!  offset bytes  what
//!       0     4  version, 1 or 2
//!       4     4  length of the share data, cut to 32 bits: not used
//!       8     4  number of leases, L
//!      12     D  share data; all offsets of the share count from here
//!    12+D  72*L  leases: owner 4, renew secret 32, cancel secret 32, expiry in seconds since 1970 4
//! ```
//!
//! The versions differ in how leases store their secrets. A lease can be added while the file is read. So D, the length
//! of the file without header and leases, is only an upper bound of the data that may be read.

/// Bytes before the share data.
pub const CONTAINER_HEADER_BYTES: u64 = 12;
/// Bytes of one lease.
pub const LEASE_BYTES: u64 = 72;

/// The first bytes of mutable containers of both versions.
const MUTABLE_MAGIC: &[u8] = b"Tahoe mutable container v";

/// Why a file is not the container of an immutable share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ContainerError {
    /// Shorter than its header.
    #[error("the file has {len} bytes; a share's container begins with {CONTAINER_HEADER_BYTES}")]
    Short {
        /// Bytes of the file.
        len: u64,
    },
    /// A share of a mutable file.
    #[error("a share of a mutable file, which is another format")]
    Mutable,
    /// Not 1 or 2.
    #[error("not a Tahoe-LAFS share: container version {version}; 1 and 2 are known")]
    Version {
        /// The version found.
        version: u32,
    },
    /// The leases take more than there is.
    #[error("{leases} leases do not fit in a file of {len} bytes")]
    Leases {
        /// Leases claimed.
        leases: u32,
        /// Bytes of the file.
        len: u64,
    },
}

/// A container's header, with the length of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Container {
    /// 1 or 2.
    pub version: u32,
    /// Leases at the end of the file.
    pub leases: u32,
    /// D: no byte of the share lies at or after it, counted from byte 12 of the file.
    pub data_bytes: u64,
    /// The length of the share data according to the header. For display only.
    pub stated_data_bytes: u32,
}

impl Container {
    /// Parses the first bytes of a file of `len` bytes. 12 bytes suffice; 32 also recognise mutable shares.
    pub fn parse(head: &[u8], len: u64) -> Result<Container, ContainerError> {
        if head.starts_with(MUTABLE_MAGIC) {
            return Err(ContainerError::Mutable);
        }
        let short = ContainerError::Short {
            len: len.min(head.len() as u64),
        };
        let word = |at: usize| -> Result<u32, ContainerError> {
            let bytes = head.get(at..at + 4).ok_or(short)?;
            Ok(u32::from_be_bytes(bytes.try_into().map_err(|_| short)?))
        };
        let (version, stated_data_bytes, leases) = (word(0)?, word(4)?, word(8)?);
        if !matches!(version, 1 | 2) {
            return Err(ContainerError::Version { version });
        }
        let data = len.checked_sub(CONTAINER_HEADER_BYTES).ok_or(short)?;
        // No overflow: 72 * 2^32 is far below 2^64.
        let data_bytes = data
            .checked_sub(u64::from(leases) * LEASE_BYTES)
            .ok_or(ContainerError::Leases { leases, len })?;
        Ok(Container {
            version,
            leases,
            data_bytes,
            stated_data_bytes,
        })
    }

    /// Whether a file begins like the container of an immutable share. A weak check: four bytes.
    pub fn recognises(head: &[u8]) -> bool {
        head.starts_with(&[0, 0, 0, 1]) || head.starts_with(&[0, 0, 0, 2])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(version: u32, leases: u32) -> Vec<u8> {
        [version, 9999, leases]
            .iter()
            .flat_map(|word| word.to_be_bytes())
            .collect()
    }

    #[test]
    fn length_without_header_and_leases() {
        for version in [1, 2] {
            let container = Container::parse(&header(version, 2), 12 + 100 + 144).unwrap();
            assert_eq!((container.data_bytes, container.leases), (100, 2));
            assert!(Container::recognises(&header(version, 2)));
        }
        assert_eq!(Container::parse(&header(2, 0), 12).unwrap().data_bytes, 0);
        assert_eq!(
            Container::parse(&header(2, u32::MAX), u64::MAX)
                .unwrap()
                .leases,
            u32::MAX
        );
    }

    #[test]
    fn files_that_are_no_container_are_refused() {
        for (head, len, error) in [
            (header(0, 0), 100, ContainerError::Version { version: 0 }),
            (header(3, 0), 100, ContainerError::Version { version: 3 }),
            (
                header(2, 2),
                12 + 143,
                ContainerError::Leases {
                    leases: 2,
                    len: 155,
                },
            ),
            (
                header(2, u32::MAX),
                12,
                ContainerError::Leases {
                    leases: u32::MAX,
                    len: 12,
                },
            ),
            (
                header(2, 0)[..11].to_vec(),
                11,
                ContainerError::Short { len: 11 },
            ),
            (vec![], 0, ContainerError::Short { len: 0 }),
            (
                b"Tahoe mutable container v2\n".to_vec(),
                500,
                ContainerError::Mutable,
            ),
        ] {
            assert_eq!(Container::parse(&head, len), Err(error));
        }
    }
}
