//! Files of Tahoe-LAFS grids, read from the directories where storage nodes keep shares.
//!
//! The format is [`decode_kernel::tahoe`]'s; what is here is its way through one core. There the unit of
//! verification is a whole segment, whose length the uploader chose, up to the whole file. So a segment is
//! read twice: once to be [verified](mod@verify), in steps of one pool buffer, which leaves a
//! [record](decode_kernel::tahoe::SegmentRecord) of fast checksums, one per leaf of each block; then, as the client takes it,
//! [piece](mod@piece) by piece, each leaf compared with the record. Memory depends on neither the segment
//! nor the client, and a slow client costs no second verification while the record is kept.

pub mod file;
pub mod gateway;
pub mod piece;
pub mod record;
pub mod trees;
pub mod verify;

pub use gateway::{FileHandle, Gateway};

/// The part of an entity tag that stands for a hash: 80 bits of it.
pub(crate) fn tag(hash: &decode_kernel::tahoe::Hash) -> String {
    hash[..10]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
