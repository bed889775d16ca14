//! A ring of memory of a fixed size, in which what is kept next is written over what was kept first.
//!
//! A place in it is told by how many bytes had been written before. So a place that was written over can be told
//! from one that was not, without a list of them.

use std::ops::Range;

/// Memory in which the latest is written over the first.
pub struct Ring {
    memory: Box<[u8]>,
    /// Bytes that room was made for, those left out at its end included.
    written: u64,
    /// Bytes at its start that were ever written to: the kernel gave memory for these.
    used: usize,
}

impl Ring {
    /// One of `bytes` bytes.
    pub fn new(bytes: usize) -> Ring {
        Ring {
            // Zeroed and never written: the kernel gives memory to pages that are used.
            memory: vec![0; bytes].into_boxed_slice(),
            written: 0,
            used: 0,
        }
    }

    /// Bytes in all.
    pub fn size(&self) -> usize {
        self.memory.len()
    }

    /// Bytes up to the last one that was ever written to.
    pub fn used(&self) -> usize {
        self.used
    }

    /// The bytes at a place that was found.
    pub fn read(&self, place: Range<usize>) -> &[u8] {
        &self.memory[place]
    }

    /// The same, to be written to.
    pub fn write(&mut self, place: Range<usize>) -> &mut [u8] {
        self.used = self.used.max(place.end);
        &mut self.memory[place]
    }

    /// Makes room for `length` bytes in one piece, if there are any and it is as large at all; says what had been
    /// written before.
    pub fn room(&mut self, length: usize) -> Option<u64> {
        let size = self.memory.len();
        if length == 0 || length > size {
            return None;
        }
        let start = (self.written % size as u64) as usize;
        if start + length > size {
            // Nothing lies partly at the end and partly at the start.
            self.written += (size - start) as u64;
        }
        let at = self.written;
        self.written += length as u64;
        Some(at)
    }

    /// Where what lies at `at` is in the memory, unless it was written over.
    pub fn find(&self, at: u64, length: usize) -> Option<Range<usize>> {
        let size = self.memory.len() as u64;
        if at + size < self.written {
            return None;
        }
        let start = (at % size) as usize;
        Some(start..start + length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_larger_than_the_ring_is_not_kept() {
        assert!(Ring::new(0).room(0).is_none() && Ring::new(0).room(1).is_none());
        let mut ring = Ring::new(100);
        assert_eq!(ring.room(101), None);
        assert_eq!(ring.room(100), Some(0));
        assert_eq!(ring.find(0, 100), Some(0..100));
        assert_eq!(ring.used(), 0, "nothing was put there");
        ring.write(0..60).fill(1);
        assert_eq!((ring.used(), ring.read(50..60)), (60, &[1; 10][..]));
        assert_eq!(ring.room(1), Some(100));
        assert_eq!(ring.find(0, 100), None, "written over");
        assert_eq!(ring.find(100, 1), Some(0..1));
    }

    proptest! {
        /// What the ring gives is what was put there, and the latest that together fill half of it are there.
        #[test]
        fn nothing_is_given_that_was_written_over(
            size in 1usize..400,
            lengths in prop::collection::vec(0usize..300, 1..60),
        ) {
            let mut ring = Ring::new(size);
            let mut kept: Vec<(u64, usize, u8)> = Vec::new();
            for (length, number) in lengths.into_iter().zip(1u8..) {
                if let Some(at) = ring.room(length) {
                    let room = ring.find(at, length).unwrap();
                    ring.write(room).fill(number);
                    kept.push((at, length, number));
                }
                let mut newer = 0;
                for &(at, length, number) in kept.iter().rev() {
                    newer += length;
                    match ring.find(at, length) {
                        Some(place) => {
                            let bytes = ring.read(place);
                            prop_assert_eq!(bytes.len(), length);
                            prop_assert!(bytes.iter().all(|&byte| byte == number));
                        }
                        None => prop_assert!(2 * newer > size, "{newer} of {size} bytes are newer"),
                    }
                }
            }
        }
    }
}
