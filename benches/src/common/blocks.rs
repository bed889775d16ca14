//! Blocks as in the server's buffers: side by side in one page-aligned buffer.

/// Bytes that buffers are aligned to.
const ALIGNMENT: usize = 4096;

/// Blocks of equal length in one aligned buffer.
pub struct Blocks {
    room: Vec<u8>,
    start: usize,
    count: usize,
    block_bytes: usize,
}

impl Blocks {
    /// `count` blocks of `block_bytes` each, all zero.
    pub fn new(count: usize, block_bytes: usize) -> Blocks {
        // The buffer is not zero at first, so that every page is written and belongs to the
        // process.
        let mut room = vec![1; count * block_bytes + ALIGNMENT];
        room.fill(0);
        let start = room.as_ptr().align_offset(ALIGNMENT);
        Blocks {
            room,
            start,
            count,
            block_bytes,
        }
    }

    /// The blocks, to read.
    pub fn all(&self) -> Vec<&[u8]> {
        (0..self.count)
            .map(|i| &self.room[self.start + i * self.block_bytes..][..self.block_bytes])
            .collect()
    }

    /// The blocks, to write.
    pub fn all_mut(&mut self) -> Vec<&mut [u8]> {
        let used = &mut self.room[self.start..][..self.count * self.block_bytes];
        used.chunks_exact_mut(self.block_bytes).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_side_by_side_and_aligned() {
        let mut blocks = Blocks::new(3, 64);
        for (block, byte) in blocks.all_mut().into_iter().zip(1..) {
            block.fill(byte);
        }
        let all = blocks.all();
        assert_eq!(all[0].as_ptr().align_offset(ALIGNMENT), 0);
        assert_eq!(all[2].as_ptr() as usize - all[0].as_ptr() as usize, 128);
        assert_eq!(all.concat(), [[1; 64], [2; 64], [3; 64]].concat());
    }
}
