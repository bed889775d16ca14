//! What a look at all objects asks of a remote store: the names of its files, and headers. Each request takes a slot, as a
//! fetch does: so the plan has its memory, and downloads have their turn.

use std::sync::Arc;
use std::time::{Duration, Instant};

use decode_kernel::share::Header;
use penstock_remote::RemoteError;
use penstock_store::survey::{self, parts};
use penstock_store::{Listed, RejectReason};
use tokio::task::JoinSet;

use super::fetcher::Fetcher;
use super::origin::Origin;
use crate::memory::limits::{LISTING_HEADERS_TOGETHER, REMOTE_FILES_OF_OBJECT_MAX};

impl Origin {
    /// The next of all its objects, behind a file's name, as many as `names_max` names tell. Blocks.
    ///
    /// # Errors
    /// The store's.
    pub fn part(
        &self,
        fetcher: &Fetcher,
        after: &str,
        names_max: usize,
    ) -> Result<parts::Part, RemoteError> {
        self.client().run(async {
            let _slot = fetcher.slot().await;
            let files_max = REMOTE_FILES_OF_OBJECT_MAX;
            parts::part(self.bucket(), after, names_max, files_max).await
        })
    }

    /// Reads the headers of share files, a few side by side, until all are read or the time is over. The results come with the
    /// files' numbers, in any order. Blocks.
    pub fn headers(
        &self,
        fetcher: &Arc<Fetcher>,
        files: Vec<Listed>,
        within: Duration,
    ) -> Vec<(usize, Result<Header, RejectReason>)> {
        let begun = Instant::now();
        let mut files = files.into_iter().enumerate();
        self.client().run(async {
            let (mut reads, mut results) = (JoinSet::new(), Vec::new());
            loop {
                while reads.len() < LISTING_HEADERS_TOGETHER
                    && (results.is_empty() || begun.elapsed() < within)
                    && let Some((number, file)) = files.next()
                {
                    let (fetcher, bucket) = (Arc::clone(fetcher), self.bucket().clone());
                    reads.spawn(async move {
                        let _slot = fetcher.slot().await;
                        (number, survey::header(&bucket, &file).await)
                    });
                }
                match reads.join_next().await {
                    Some(Ok(result)) => results.push(result),
                    // The runtime ends.
                    Some(Err(_)) => {}
                    None => return results,
                }
            }
        })
    }
}
