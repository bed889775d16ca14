//! The buffers that all clients of a thread share.

/// Bytes of one read; one buffer of this size serves all clients of a thread.
pub(crate) const READ_BYTES: usize = 256 * 1024;
/// Bytes of one read of records.
pub(crate) const RECORDS_READ_BYTES: usize = 64 * 1024;
/// The shared buffer for records: what a session holds back, and one read. rustls holds back handshake messages of up to
/// 64 KiB.
const RECORDS_BYTES: usize = 2 * RECORDS_READ_BYTES;

// A record's plaintext is never longer than the record.
const _: () = assert!(READ_BYTES >= RECORDS_BYTES);

/// What is in them belongs to one client, until it waits.
pub(crate) struct Scratch {
    /// What was read, decrypted.
    pub(crate) read: Vec<u8>,
    pub(crate) compare: Vec<u8>,
    /// TLS records, as they were received; empty if the target is not of `https`.
    pub(crate) records: Vec<u8>,
}

impl Scratch {
    /// For clients of an `https` target, or of another.
    pub(crate) fn new(is_tls: bool) -> Scratch {
        Scratch {
            read: vec![0; READ_BYTES],
            compare: Vec::new(),
            records: vec![0; if is_tls { RECORDS_BYTES } else { 0 }],
        }
    }
}
