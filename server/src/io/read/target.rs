//! The destination of a read.

use crate::io::pool::Window;
use crate::memory::limits::DIRECT_ALIGN;

/// The window that a read fills.
pub(super) struct Target {
    pub(super) window: Window,
    /// Bytes of it that are filled.
    pub(super) filled: usize,
    /// Whether the read may go on into the window's padding, as a read of whole sectors does.
    pub(super) padded: bool,
}

impl Target {
    /// The bytes that are still to be filled.
    pub(super) fn rest(&mut self) -> &mut [u8] {
        let whole = match self.padded {
            true => self.window.with_padding(),
            false => &mut self.window[..],
        };
        &mut whole[self.filled..]
    }

    /// How many bytes of the window itself are filled.
    pub(super) fn filled_bytes(&self) -> usize {
        self.filled.min(self.window.len())
    }

    /// Whether the read is over: the window is full, or a direct read ended within a sector, which happens only at
    /// the end of the file.
    pub(super) fn is_done(&self) -> bool {
        self.filled >= self.window.len() || self.padded && !self.filled.is_multiple_of(DIRECT_ALIGN)
    }
}
