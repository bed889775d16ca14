//! The codes that one core keeps at hand, and the memory that decoding them may take.

use std::cell::RefCell;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;

use decode_kernel::code::{Code, CodeKind};
use lru::LruCache;

use super::LookupError;
use super::servable::decoder_bytes;
use crate::memory::budget::{Allowance, Budget, Claim};
use crate::memory::limits::CODES_MAX;

/// One core's codes, the most recently used ones.
pub struct Codes {
    /// Bytes of a pool buffer that a piece may use: the most that is rebuilt at one time.
    piece_capacity: usize,
    codes: RefCell<LruCache<(u8, u16, u16), Arc<Code>>>,
    /// What the decoder may come to hold beyond its part of the plan.
    decoder: RefCell<Claim>,
    /// The most that it ever can.
    extra_max: u64,
}

impl Codes {
    /// None yet.
    pub fn new(piece_capacity: usize, budget: &Arc<Budget>) -> Codes {
        const MOST: NonZeroUsize = NonZeroUsize::new(CODES_MAX).unwrap();
        Codes {
            piece_capacity,
            codes: RefCell::new(LruCache::new(MOST)),
            decoder: RefCell::new(Claim::empty(budget)),
            extra_max: budget.total() / 2,
        }
    }

    /// A code of k data shares and n in all, if the memory that decoding it may take can be claimed. The log names the
    /// object that needs it.
    ///
    /// # Errors
    /// [`LookupError::CodeUnusable`], [`LookupError::NoMemoryForCode`], or [`LookupError::TooWideForMemory`] if that never
    /// changes.
    pub fn get(
        &self,
        kind: CodeKind,
        k: u16,
        n: u16,
        object: &dyn fmt::Display,
    ) -> Result<Arc<Code>, LookupError> {
        let name = (kind as u8, k, n);
        if let Some(code) = self.codes.borrow_mut().get(&name) {
            return Ok(Arc::clone(code));
        }
        let (k, n) = (usize::from(k), usize::from(n));
        let code = Code::new(kind, k, n).map_err(|error| {
            tracing::error!(%object, %error, "its code can't be used");
            LookupError::CodeUnusable
        })?;
        let code = Arc::new(code);
        let extra = decoder_bytes(&code, self.piece_capacity);
        let mut claim = self.decoder.borrow_mut();
        if extra > claim.bytes() && !claim.resize(extra, Allowance::Half) {
            tracing::error!(
                %object, bytes = extra,
                "decoding this object's wide code may take that much memory, and no more than half of \
                 the free credit may go to it: raise --memory or lower --max-connections"
            );
            return Err(match extra > self.extra_max {
                true => LookupError::TooWideForMemory,
                false => LookupError::NoMemoryForCode,
            });
        }
        drop(claim);
        self.codes.borrow_mut().put(name, Arc::clone(&code));
        Ok(code)
    }
}
