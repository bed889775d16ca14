//! Put: a stream of unknown length becomes n shares in n stores.
//!
//! The order of the steps makes a crash harmless at any point:
//!
//! 1. Shares are written as temporary files, which no reader opens. The header is written last, since size and digest
//!    are known only then. All are synced.
//! 2. The shares become the object, in one step (`commit.rs`).
//! 3. Only then are the shares of older puts removed.
//!
//! An error before the decision takes everything back. A crash leaves temporary and pending files, which a repair
//! removes, or a decided put, which a repair completes.

mod attempt;
mod commit;
mod encoding;
mod error;
mod options;
mod report;
mod source;
mod syntax;

#[cfg(test)]
mod crash_tests;

pub use error::PutError;
pub use options::{Placement, PutOptions, SEGMENT_BYTES_MAX, default_block_bytes};
pub use report::PutReport;
pub use source::SourceFile;

use std::io::{self, Read};
use std::path::PathBuf;

use crate::progress::Progress;
use crate::store::{Places, Store, Tally};
use attempt::{Attempt, Failure};
use commit::Step;
use encoding::Encoding;

pub(crate) use attempt::new_generation;
pub(crate) use commit::remove_older;

fn paths(stores: &[Store]) -> Vec<PathBuf> {
    stores.iter().map(|store| store.path().to_owned()).collect()
}

/// What a put reads.
pub enum Content<'a> {
    /// A stream, which can be read once.
    Stream(&'a mut dyn Read),
    /// A file, which is read again if a store fails and others can take its place.
    File(&'a mut SourceFile),
}

impl Content<'_> {
    fn reader(&mut self) -> &mut dyn Read {
        match self {
            Content::Stream(stream) => stream,
            Content::File(file) => *file,
        }
    }

    /// Starts again; whether that is possible.
    fn rewind(&mut self) -> io::Result<bool> {
        match self {
            Content::Stream(_) => Ok(false),
            Content::File(file) => file.rewind().map(|()| true),
        }
    }
}

/// Stores all bytes of `source`. The memory it takes does not depend on their number: a batch of segments (8 MiB, or
/// one segment of at most [`SEGMENT_BYTES_MAX`]), 8 MiB of parity (or one leaf of each parity share), and for each share
/// 4 KiB in a directory, three parts of an upload in a bucket: 24 MiB, and more where it has over 80 GB.
///
/// # Errors
/// If nothing was stored; the object is as it was.
pub fn put(
    source: &mut dyn Read,
    options: &PutOptions,
    progress: &Progress,
) -> Result<PutReport, PutError> {
    Puts::default().put(&mut Content::Stream(source), options, progress)
}

/// The puts of one process, which spreads data and parity over the stores alike.
#[derive(Debug, Default)]
pub struct Puts {
    tally: Tally,
    /// The stores that were looked at last, and what was found.
    known: Option<(Vec<PathBuf>, Places)>,
}

impl Puts {
    /// As [`put`].
    ///
    /// # Errors
    /// As [`put`].
    pub fn put(
        &mut self,
        content: &mut Content<'_>,
        options: &PutOptions,
        progress: &Progress,
    ) -> Result<PutReport, PutError> {
        self.put_in_steps(content, options, progress, &mut |_| Ok(()))
    }

    /// As [`Puts::put`], but calls `after` at each step. An error from `after` acts like a disk failure at that step.
    pub(crate) fn put_in_steps(
        &mut self,
        content: &mut Content<'_>,
        options: &PutOptions,
        progress: &Progress,
        after: &mut dyn FnMut(Step) -> io::Result<()>,
    ) -> Result<PutReport, PutError> {
        let encoding = Encoding::new(options)?;
        let mut places = self.places(&options.stores)?;
        let result = loop {
            if let Some(bytes) = options.size_hint {
                progress.add_len(bytes);
            }
            let attempt = Attempt::new(options, &encoding, &mut places, &mut self.tally)?;
            match attempt.run(content.reader(), progress, after) {
                Err(Failure::Stores(failed)) => {
                    let passes_over_some = !failed.is_empty();
                    for (index, error) in failed {
                        tracing::debug!(store = index, "a store is passed over: {error}");
                        places.pass_over(index, error.to_string());
                    }
                    // Where too few stores are left, the next try says so.
                    let again = passes_over_some && content.rewind().map_err(PutError::Source)?;
                    if !again {
                        break Err(encoding.too_few(&places, places.open.len(), 0));
                    }
                }
                Err(Failure::Put(error)) => break Err(error),
                Ok(report) => break Ok(report),
            }
        };
        self.known = Some((paths(&options.stores), places));
        result
    }

    /// The stores, as they are now. The first time, files of interrupted puts are removed.
    fn places(&mut self, stores: &[Store]) -> Result<Places, PutError> {
        if let Some((known, mut places)) = self.known.take()
            && known == paths(stores)
        {
            places.refresh();
            return Ok(places);
        }
        let places = Places::new(stores)?;
        for place in &places.open {
            place.store.remove_stale();
        }
        Ok(places)
    }
}
