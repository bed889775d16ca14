//! Stores: where an object's share files are, and which of them belong together.
//!
//! ```text
//! <store>/penstock-store.toml                         the marker: this directory is a store
//! <store>/objects/<ab>/<cdef…>/<generation>.share     ab, cdef…: hex of the key's SHA-256
//! <store>/objects/<ab>/<cdef…>/<generation>.pending   a share of a put that is not decided
//! <store>/objects/<ab>/<cdef…>/<generation>.decided   in buckets: the put of the share beside it is decided
//! <store>/objects/<ab>/<cdef…>/<generation>.deleted   a tombstone
//! <store>/tmp/…                                       files being written, in the same filesystem
//! ```
//!
//! A reader looks into the object's directory in every store, reads the headers, and groups the files that are shares of
//! the same put. A put counts once one of its shares is a `.share`, or has a `.decided` beside it: by then all are durable,
//! and those still called `.pending` belong to it. A tombstone hides every put before it. The newest put that counts is the object
//! ([`open_object`]). Where too few of its shares are left, an older put never takes its place unasked.
//!
//! Headers decide and not the generations in file names, so that shares may be copied by hand. Missing and unreadable
//! stores count as lost shares: they are reported, and reading continues.

mod bucket;
mod files;
mod identity;
mod listing;
mod look;
mod marker;
mod names;
mod object;
pub mod parts;
mod places;
mod rejected;
mod scan;

pub(crate) use bucket::BucketWriter;
pub use bucket::{BucketFile, BucketStore};
pub use files::{Backing, OpenFile, Store};
pub use identity::{NewStore, Presence, StoreError, init, presence, refuse_duplicates};
pub(crate) use listing::{Found, Lister, objects};
pub use look::{Look, OpenShare, fingerprint, look, read_header};
pub(crate) use look::{look_in, open_share};
pub use marker::{Id, MARKER, Marker};
pub(crate) use names::{Kind, covers, files, generation_of, is_object_dir, objects_dir};
pub(crate) use object::choose;
pub use object::{OpenError, OpenObject, check_stores, open_object};
pub use parts::Listed;
pub use places::PassedOver;
pub(crate) use places::{Place, Places, Tally};
pub use rejected::{RejectReason, Rejected};
pub use scan::Scan;
pub(crate) use scan::{Group, keys, scan, scan_dir, scan_found};
