//! Reads what a plan asks for: all of it together, each read into a window of its own.

use std::io;

use super::PieceError;
use super::plan::Read;
use crate::io::Reading;
use crate::io::pool::Window;

/// A share that did not give what was asked, and why.
pub type Failure = (u16, io::Error);

/// Fills a window for each of these reads, all of them together, as `start` starts them; `None` from it is a share that
/// is not open. Gives the windows back in order, with the shares that failed. Windows beyond the reads stay as they are.
///
/// # Errors
/// If a plan names a share that is not open, or the runtime is going down.
pub async fn fill<'a, 'b>(
    reads: impl Iterator<Item = &'b Read> + Clone,
    windows: Vec<Window>,
    start: impl Fn(&Read, Window) -> Option<Reading<'a>>,
) -> Result<(Vec<Window>, Vec<Failure>), PieceError> {
    let mut windows = windows.into_iter();
    let mut readings = Vec::with_capacity(windows.len());
    for (read, window) in reads.clone().zip(windows.by_ref()) {
        let reading = start(read, window);
        readings.push(reading.ok_or(PieceError::Bug("a plan names a share that is not open"))?);
    }
    let mut filled = Vec::with_capacity(readings.len() + windows.len());
    let mut failures = Vec::new();
    for (reading, read) in readings.into_iter().zip(reads) {
        let (result, window) = reading.finish().await;
        let window = window.ok_or(PieceError::Interrupted)?;
        if let Some(error) = shortfall(result, window.len()) {
            failures.push((read.share, error));
        }
        filled.push(window);
    }
    filled.extend(windows);
    Ok((filled, failures))
}

/// What is wrong with a read, if it did not bring all that was `wanted`.
pub fn shortfall(result: io::Result<usize>, wanted: usize) -> Option<io::Error> {
    match result {
        Ok(count) if count == wanted => None,
        Ok(count) => Some(io::Error::other(format!(
            "the file ends early: {count} of {wanted} bytes"
        ))),
        Err(error) => Some(error),
    }
}
