//! Reads what a plan asks for: all of it together, each read into a window of its own, none of them for longer than its
//! store may take.

use std::io;
use std::sync::Arc;

use super::PieceError;
use super::plan::Read;
use crate::io::{PendingRead, ReadEnd, Window, join};
use crate::memory::limits::STORE_PATIENCE;
use crate::stores::Store;
use crate::units::ShareNumber;

/// A share that did not give what was asked, and why.
pub type Failure = (ShareNumber, io::Error);

/// Fills a window for each of these reads, all of them together, as `start` starts them; `None` from it is a share that
/// is not open. Gives the windows back in order, with the shares that failed. Windows beyond the reads stay as they are.
/// Where a share failed a window may be missing: then none of them is of use. `object` tells the object apart for its
/// stores.
///
/// # Errors
/// If a plan names a share that is not open, or the runtime is going down.
pub async fn fill<'a, 'b, 'c>(
    object: u64,
    reads: impl Iterator<Item = &'b Read> + Clone,
    windows: Vec<Window>,
    start: impl Fn(&Read, Window) -> Option<(PendingRead<'a>, &'c Arc<Store>)>,
) -> Result<(Vec<Window>, Vec<Failure>), PieceError> {
    let mut windows = windows.into_iter();
    let mut readings = Vec::with_capacity(windows.len());
    let mut stores = Vec::with_capacity(windows.len());
    for (read, window) in reads.clone().zip(windows.by_ref()) {
        let started = start(read, window);
        let (reading, store) =
            started.ok_or(PieceError::Bug("a plan names a share that is not open"))?;
        readings.push(reading);
        stores.push(store);
    }
    let mut deadlines = 1;
    if let Some(store) = stores.first() {
        join(&mut readings, store.timeout()).await;
        // What is late of stores that end other reads is waited for: with too much to do for the disks or this machine, all
        // would be late, and giving them up would leave nobody to read from.
        let late_and_busy = |readings: &[PendingRead<'_>]| {
            let late = readings.iter().zip(&stores);
            let mut late = late.filter(|(reading, _)| !reading.has_ended()).peekable();
            late.peek().is_some() && late.all(|(_, store)| store.is_busy())
        };
        while deadlines < STORE_PATIENCE && late_and_busy(&readings) {
            deadlines += 1;
            join(&mut readings, deadlines * store.timeout()).await;
        }
    }
    let is_stuck = |store: &Store| deadlines == STORE_PATIENCE && store.serves(true);
    let mut filled = Vec::with_capacity(readings.len() + windows.len());
    let mut failures = Vec::new();
    for ((reading, store), read) in readings.into_iter().zip(stores).zip(reads) {
        match end(reading, store, object)? {
            (Ok(()), window) => filled.extend(window),
            (Err(error), window) => {
                filled.extend(window);
                let error = match is_hung(&error) && is_stuck(store) {
                    // The place of this read, and not its store, is at fault.
                    true => io::Error::other("a read does not end"),
                    false => error,
                };
                failures.push((read.share, error));
            }
        }
    }
    filled.extend(windows);
    Ok((filled, failures))
}

/// What came of a read that was waited for: whether it brought all that was wanted, and its window, unless the read
/// hangs. Its store learns of it.
///
/// # Errors
/// If the runtime is going down.
pub fn end(
    reading: PendingRead<'_>,
    store: &Arc<Store>,
    object: u64,
) -> Result<(io::Result<()>, Option<Window>), PieceError> {
    let (result, window) = count(reading, store, object)?;
    let wanted = window.as_ref().map_or(0, |window| window.len());
    let result = match shortfall(result, wanted) {
        None => Ok(()),
        Some(error) => Err(error),
    };
    Ok((result, window))
}

/// The same with the number of bytes that it brought, which is less than was wanted if the file ends early.
///
/// # Errors
/// If the runtime is going down.
pub fn count(
    reading: PendingRead<'_>,
    store: &Arc<Store>,
    object: u64,
) -> Result<(io::Result<usize>, Option<Window>), PieceError> {
    match reading.end() {
        ReadEnd::Ended {
            result,
            window,
            waited,
        } => {
            match &result {
                Ok(bytes) => {
                    if let Some(took) = waited {
                        store.note_read(*bytes, took);
                    }
                }
                Err(error) => store.note_failure(error, object),
            }
            Ok((result, Some(window)))
        }
        ReadEnd::GivenUp(given_up) => {
            if !store.is_busy() {
                store.suspend_hung("end of a read");
            }
            given_up.keep(store.hung());
            Ok((Err(hung()), None))
        }
        ReadEnd::Interrupted => Err(PieceError::Interrupted),
    }
}

/// Whether a share that failed so can be read again once its store serves again.
pub fn is_hung(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::TimedOut && error.raw_os_error().is_none()
}

fn hung() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "its store does not answer")
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
