//! What a read fills.

use super::super::pool::Window;
use crate::memory::limits::DIRECT_ALIGN;

/// Where a read goes.
pub(in crate::io) struct Target {
    pub(in crate::io) window: Window,
    /// Bytes of it that are filled.
    pub(in crate::io) filled: usize,
    /// Whether it may go on into the window's padding, as reads of whole sectors do.
    pub(in crate::io) padded: bool,
}

impl Target {
    /// What is still to be filled.
    pub(in crate::io) fn rest(&mut self) -> &mut [u8] {
        let whole = match self.padded {
            true => self.window.with_padding(),
            false => &mut self.window[..],
        };
        &mut whole[self.filled..]
    }

    /// How much of what is wanted is filled.
    pub(in crate::io) fn wanted(&self) -> usize {
        self.filled.min(self.window.len())
    }

    /// Whether nothing more can come: it is all there, or a direct read ended within a sector, as it does at the
    /// file's end only.
    pub(in crate::io) fn is_done(&self) -> bool {
        self.filled >= self.window.len() || self.padded && !self.filled.is_multiple_of(DIRECT_ALIGN)
    }
}
