//! Ids and offsets, each a type of its own so that none is taken for another.
//!
//! A byte of an object lies at an [`ObjectOffset`]. In the space of the share that holds it, which is that share's
//! blocks one after another, it lies at a [`ShareOffset`]; in that share's file at a [`FileOffset`].

use std::fmt;
use std::ops::{Add, AddAssign, Range, Sub};

use decode_kernel::share::BLOCKS_OFFSET;

/// Tells an open object, or an open Tahoe-LAFS file, apart from every other that this core has opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ObjectId(pub u64);

impl ObjectId {
    /// The first one.
    pub const FIRST: ObjectId = ObjectId(1);

    /// The one after it.
    #[must_use]
    pub fn next(self) -> ObjectId {
        ObjectId(self.0 + 1)
    }
}

/// A share's number, from 0 to n - 1. Those below k are data shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShareNumber(pub u16);

impl ShareNumber {
    /// The same, to index with.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// Whether it is one of k data shares.
    pub fn is_data(self, k: u16) -> bool {
        self.0 < k
    }
}

impl fmt::Display for ShareNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which copy of a share: 0 is the one that is read as a rule. Most shares have no other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CopyNumber(pub u8);

/// What a range's bounds are counted in.
pub trait Offset: Copy {
    /// Bytes from the start of its space.
    fn bytes(self) -> u64;
}

/// How long a range is.
pub trait Length {
    /// Bytes. Ranges go forwards.
    fn length(&self) -> u64;
}

impl<T: Offset> Length for Range<T> {
    fn length(&self) -> u64 {
        self.end.bytes() - self.start.bytes()
    }
}

macro_rules! offset {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl Offset for $name {
            fn bytes(self) -> u64 {
                self.0
            }
        }

        impl Add<u64> for $name {
            type Output = $name;
            fn add(self, bytes: u64) -> $name {
                $name(self.0 + bytes)
            }
        }

        impl AddAssign<u64> for $name {
            fn add_assign(&mut self, bytes: u64) {
                self.0 += bytes;
            }
        }

        impl Sub<u64> for $name {
            type Output = $name;
            fn sub(self, bytes: u64) -> $name {
                $name(self.0 - bytes)
            }
        }

        /// The distance from another offset to this one.
        impl Sub for $name {
            type Output = u64;
            fn sub(self, other: $name) -> u64 {
                self.0 - other.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

offset! {
    /// Bytes from the start of an object.
    ObjectOffset
}

offset! {
    /// Bytes from the start of a share's space: its blocks, one after another.
    ShareOffset
}

offset! {
    /// Bytes from the start of a file.
    FileOffset
}

impl ShareOffset {
    /// Where it lies in the share's file, of our own format.
    pub fn in_file(self) -> FileOffset {
        FileOffset(BLOCKS_OFFSET + self.0)
    }
}

/// Where a range of share space lies in the share's file, of our own format.
pub fn in_file(range: &Range<ShareOffset>) -> Range<FileOffset> {
    range.start.in_file()..range.end.in_file()
}
