//! SHA-256 (FIPS 180-4), applied twice, of several messages at once.
//!
//! Verifying a Tahoe-LAFS segment takes one SHA-256d per block, and the blocks have the same
//! length. So k computations run in lockstep ([`Lanes`]), one in each lane, fed part by part as
//! bytes arrive. A lane holds 100 bytes, whatever the length of its message.
//!
//! This module pads and counts; [`crate::arch`] compresses.

use crate::arch::ShaKernel;
use crate::arch::sha_block::{BLOCK_BYTES, Block, State};

/// A SHA-256 hash: 32 bytes, in the order in which they are written.
pub type Hash = [u8; 32];

/// The most lanes of a [`Lanes`]: as many as a Tahoe-LAFS file can have shares.
pub const LANES_MAX: usize = 256;

/// The offset of the message's length in its last block (section 5.1.1).
const LENGTH_AT: usize = 56;

/// The state before the first block (section 5.3.3).
const INITIAL: State = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// SHA-256 of SHA-256 of one message, made of parts.
pub fn sha256d(parts: &[&[u8]]) -> Hash {
    let (mut states, mut tails, mut length) = ([INITIAL], [[0; BLOCK_BYTES]], 0);
    let mut messages = Messages {
        kernel: ShaKernel::chosen(),
        states: &mut states,
        tails: &mut tails,
        length: &mut length,
    };
    for &part in parts {
        messages.update(part.len(), |_| part);
    }
    let mut hash = Hash::default();
    messages.finish(std::slice::from_mut(&mut hash));
    hash
}

/// SHA-256d of up to [`LANES_MAX`] messages of equal length, in lockstep, fed in parts.
///
/// ```
/// use decode_kernel::sha256::{Lanes, sha256d};
///
/// let mut lanes = Lanes::new(2);
/// lanes.restart(2, b"4:leaf,");
/// lanes.update(&[b"one mes", b"another"]);
/// lanes.update(&[b"sage", b" one"]);
/// let mut hashes = [[0; 32]; 2];
/// lanes.finish(&mut hashes);
/// assert_eq!(hashes[0], sha256d(&[b"4:leaf,one message"]));
/// assert_eq!(hashes[1], sha256d(&[b"4:leaf,another one"]));
/// ```
pub struct Lanes {
    kernel: ShaKernel,
    /// One for each lane there is room for; the first `lanes` are in use.
    states: Box<[State]>,
    /// Per lane, the bytes since the last whole block.
    tails: Box<[Block]>,
    lanes: usize,
    /// Bytes per message so far.
    length: u64,
}

impl Lanes {
    /// Makes room for this many lanes, all in use with empty messages. The only call that
    /// allocates.
    ///
    /// # Panics
    ///
    /// Unless `1 <= lanes <= LANES_MAX`.
    pub fn new(lanes: usize) -> Lanes {
        Lanes::with_kernel(lanes, ShaKernel::chosen())
    }

    /// As [`Lanes::new`], with a kernel of the caller's choice.
    ///
    /// # Panics
    ///
    /// As [`Lanes::new`].
    pub fn with_kernel(lanes: usize, kernel: ShaKernel) -> Lanes {
        assert!(
            (1..=LANES_MAX).contains(&lanes),
            "{lanes} lanes, of 1 to {LANES_MAX}"
        );
        Lanes {
            kernel,
            states: vec![INITIAL; lanes].into(),
            tails: vec![[0; BLOCK_BYTES]; lanes].into(),
            lanes,
            length: 0,
        }
    }

    /// The number of lanes in use.
    pub fn lanes(&self) -> usize {
        self.lanes
    }

    /// Bytes held on the heap.
    pub fn bytes(&self) -> usize {
        size_of_val::<[State]>(&self.states) + size_of_val::<[Block]>(&self.tails)
    }

    /// Starts new messages in the first `lanes` lanes, all beginning with `prefix`. Earlier input
    /// is discarded.
    ///
    /// # Panics
    ///
    /// Unless `1 <= lanes` and there is room for them.
    pub fn restart(&mut self, lanes: usize, prefix: &[u8]) {
        let room = self.states.len();
        assert!(
            (1..=room).contains(&lanes),
            "{lanes} lanes, with room for {room}"
        );
        // Only one lane hashes the prefix, and the others copy its state.
        self.lanes = 1;
        self.length = 0;
        self.states[0] = INITIAL;
        self.messages().update(prefix.len(), |_| prefix);
        self.lanes = lanes;
        let (state, tail) = (self.states[0], self.tails[0]);
        self.states[1..lanes].fill(state);
        self.tails[1..lanes].fill(tail);
    }

    /// Appends to each lane's message: `inputs` are its next bytes, of any length and alignment.
    ///
    /// # Panics
    ///
    /// Unless there is an input per lane, all of one length.
    pub fn update(&mut self, inputs: &[&[u8]]) {
        assert_eq!(inputs.len(), self.lanes, "an input per lane");
        let len = inputs[0].len();
        assert!(
            inputs.iter().all(|input| input.len() == len),
            "inputs of one length"
        );
        self.messages().update(len, |lane| inputs[lane]);
    }

    /// Ends the messages and writes their hashes to `out`. Then all lanes in use start again with
    /// empty messages.
    ///
    /// # Panics
    ///
    /// Unless there is room for a hash per lane, and no more.
    pub fn finish(&mut self, out: &mut [Hash]) {
        assert_eq!(out.len(), self.lanes, "a hash per lane");
        self.messages().finish(out);
    }

    fn messages(&mut self) -> Messages<'_> {
        Messages {
            kernel: self.kernel,
            states: &mut self.states[..self.lanes],
            tails: &mut self.tails[..self.lanes],
            length: &mut self.length,
        }
    }
}

/// Unfinished messages of equal length, wherever their states are stored.
struct Messages<'a> {
    kernel: ShaKernel,
    states: &'a mut [State],
    tails: &'a mut [Block],
    length: &'a mut u64,
}

impl Messages<'_> {
    /// The number of bytes in the tails: always less than a block.
    fn fill(&self) -> usize {
        (*self.length % BLOCK_BYTES as u64) as usize
    }

    /// Appends `len` bytes to each lane's message.
    fn update<'i>(&mut self, len: usize, input: impl Fn(usize) -> &'i [u8]) {
        let (fill, mut at) = (self.fill(), 0);
        *self.length += len as u64;
        if fill > 0 {
            at = len.min(BLOCK_BYTES - fill);
            for (lane, tail) in self.tails.iter_mut().enumerate() {
                tail[fill..fill + at].copy_from_slice(&input(lane)[..at]);
            }
            if fill + at < BLOCK_BYTES {
                return;
            }
            self.compress_tails();
        }
        self.kernel
            .compress(self.states, |lane| input(lane)[at..].as_chunks().0);
        for (lane, tail) in self.tails.iter_mut().enumerate() {
            let rest = input(lane)[at..].as_chunks::<BLOCK_BYTES>().1;
            tail[..rest.len()].copy_from_slice(rest);
        }
    }

    fn compress_tails(&mut self) {
        let tails = &*self.tails;
        self.kernel
            .compress(self.states, |lane| std::slice::from_ref(&tails[lane]));
    }

    /// Ends the messages, hashes their hashes, and starts again.
    fn finish(&mut self, out: &mut [Hash]) {
        let fill = self.fill();
        let bits = *self.length * 8;
        for tail in &mut *self.tails {
            tail[fill] = 0x80;
            tail[fill + 1..].fill(0);
        }
        if fill >= LENGTH_AT {
            self.compress_tails();
            self.tails.fill([0; BLOCK_BYTES]);
        }
        for tail in &mut *self.tails {
            tail[LENGTH_AT..].copy_from_slice(&bits.to_be_bytes());
        }
        self.compress_tails();

        for (state, tail) in self.states.iter_mut().zip(&mut *self.tails) {
            let hash = bytes(state);
            *tail = [0; BLOCK_BYTES];
            tail[..hash.len()].copy_from_slice(&hash);
            tail[hash.len()] = 0x80;
            tail[LENGTH_AT..].copy_from_slice(&(8 * hash.len() as u64).to_be_bytes());
            *state = INITIAL;
        }
        self.compress_tails();
        for (state, out) in self.states.iter_mut().zip(out) {
            *out = bytes(state);
            *state = INITIAL;
        }
        *self.length = 0;
    }
}

/// A state as a hash.
fn bytes(state: &State) -> Hash {
    let mut hash = Hash::default();
    for (bytes, word) in hash.as_chunks_mut().0.iter_mut().zip(state) {
        *bytes = word.to_be_bytes();
    }
    hash
}
