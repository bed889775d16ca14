//! How fast share files are read, and how much was read.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use crate::rate::Rate;

/// Counts the bytes that are read from share files, and holds readers back so that they keep to a rate. Clones count
/// together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pace(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    bytes: AtomicU64,
    rate: Option<Mutex<Rate>>,
}

impl Pace {
    /// At most so many bytes per second, or as fast as it goes.
    pub(crate) fn new(rate: Option<u64>) -> Pace {
        Pace(Arc::new(Inner {
            bytes: AtomicU64::new(0),
            rate: rate.map(|rate| Mutex::new(Rate::new(Some(rate)))),
        }))
    }

    /// Waits until `bytes` may be read.
    pub(crate) fn wait(&self, bytes: u64) {
        self.0.bytes.fetch_add(bytes, Relaxed);
        if let Some(rate) = &self.0.rate {
            let mut rate = rate.lock().unwrap_or_else(PoisonError::into_inner);
            rate.take(bytes);
        }
    }

    /// Bytes that were read.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.bytes.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_count_together() {
        let pace = Pace::new(Some(1 << 40));
        pace.clone().wait(5);
        pace.wait(6);
        assert_eq!(pace.bytes(), 11);
    }
}
