//! Rebuilds the ranges of lost shares from the same ranges of k others.

use std::ops::Deref;

use decode_kernel::code::Code;

use super::plan::PiecePlan;
use super::{Engine, PieceError};
use crate::io::pool::Window;
use crate::objects::Layout;

impl Engine {
    /// Rebuilds what a plan rebuilds from what it `read`, into the `rebuilt` windows.
    ///
    /// # Errors
    /// If the code refuses, which is a mistake of the plan.
    pub fn rebuild(
        &self,
        code: &Code,
        layout: &Layout,
        plan: &PiecePlan,
        read: &[impl Deref<Target = [u8]>],
        rebuilt: &mut [Window],
    ) -> Result<(), PieceError> {
        if plan.rebuilt.is_empty() {
            return Ok(());
        }
        let wanted = &plan.rebuilt_window;
        let mut sources = Vec::with_capacity(plan.sources.len());
        let mut inputs = Vec::with_capacity(plan.sources.len());
        for &source in &plan.sources {
            let at = &plan.reads[source];
            let start = (wanted.start - at.window.start) as usize;
            sources.push(usize::from(at.share));
            inputs.push(&read[source][start..start + (wanted.end - wanted.start) as usize]);
        }
        let numbers: Vec<usize> = plan.rebuilt.iter().copied().map(usize::from).collect();
        let mut outputs: Vec<&mut [u8]> =
            rebuilt.iter_mut().map(|window| &mut window[..]).collect();
        self.coder
            .borrow_mut()
            .rebuild(code, &sources, &inputs, &numbers, &mut outputs)?;

        let block = layout.block_bytes;
        self.stats
            .rebuilt_segments
            .add((wanted.end - 1) / block - wanted.start / block + 1);
        self.stats
            .rebuilt_bytes
            .add((wanted.end - wanted.start) * plan.rebuilt.len() as u64);
        Ok(())
    }
}
