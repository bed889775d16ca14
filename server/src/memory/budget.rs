//! The byte account: memory that may be lent, and the claims on it.
//!
//! What every connection holds at least (its state and its socket's floor) is set aside in the plan,
//! one share for each connection that may be open. What is left is credit: lent to connections that
//! prove fast, or that need room for a long request head, and returned when the claim is dropped. The
//! account is the one thing that cores share besides the seats; it is touched when a claim changes,
//! never per piece.

use std::sync::Arc;

use sync::atomic::{AtomicU64, Ordering};

#[cfg(penstock_loom)]
use loom::sync;
#[cfg(not(penstock_loom))]
use std::sync;

/// Bytes that may be lent.
#[derive(Debug)]
pub struct Budget {
    total: u64,
    free: AtomicU64,
}

/// How much of what is free one claim may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowance {
    /// An eighth: later claims find something too, however many came before.
    Eighth,
    /// Half: for what a core needs once, not for each connection.
    Half,
    /// Only while more than three quarters of the whole account are free: for borrowers that have proved nothing
    /// yet, so that they never take what proven ones can use.
    UpperQuarter,
}

impl Budget {
    /// An account of this many bytes.
    pub fn new(total: u64) -> Arc<Budget> {
        Arc::new(Budget {
            total,
            free: AtomicU64::new(total),
        })
    }

    /// Bytes in all.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Bytes not lent now.
    pub fn free(&self) -> u64 {
        self.free.load(Ordering::Relaxed)
    }

    /// Takes bytes if the rule allows it. Nothing is taken otherwise.
    fn take(&self, bytes: u64, allowance: Allowance) -> bool {
        let mut free = self.free.load(Ordering::Relaxed);
        loop {
            let allowed = match allowance {
                Allowance::Eighth => bytes <= free / 8,
                Allowance::Half => bytes <= free / 2,
                Allowance::UpperQuarter => free
                    .checked_sub(bytes)
                    .is_some_and(|left| left > self.total / 4 * 3),
            };
            if !allowed {
                return false;
            }
            // Relaxed: the number is all that is shared; no other memory depends on it.
            match self.free.compare_exchange_weak(
                free,
                free - bytes,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => free = now,
            }
        }
    }

    fn give_back(&self, bytes: u64) {
        let before = self.free.fetch_add(bytes, Ordering::Relaxed);
        debug_assert!(
            before + bytes <= self.total,
            "more was returned than was lent"
        );
    }
}

/// Bytes promised to one holder. Dropping it returns them.
#[derive(Debug)]
pub struct Claim {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Claim {
    /// A claim on nothing yet.
    pub fn empty(budget: &Arc<Budget>) -> Claim {
        Claim {
            budget: Arc::clone(budget),
            bytes: 0,
        }
    }

    /// What is claimed.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Makes the claim this large. Growing may be refused, and then nothing changes; shrinking always
    /// works. Returns whether the claim now is what was asked.
    #[must_use]
    pub fn resize(&mut self, bytes: u64, allowance: Allowance) -> bool {
        if bytes > self.bytes {
            if !self.budget.take(bytes - self.bytes, allowance) {
                return false;
            }
        } else {
            self.budget.give_back(self.bytes - bytes);
        }
        self.bytes = bytes;
        true
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

#[cfg(all(test, not(penstock_loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refused_claims_change_nothing() {
        let budget = Budget::new(800);
        let mut claim = Claim::empty(&budget);
        assert!(!claim.resize(101, Allowance::Eighth));
        assert_eq!((claim.bytes(), budget.free()), (0, 800));
        assert!(claim.resize(100, Allowance::Eighth));
        assert!(!claim.resize(u64::MAX, Allowance::Eighth));
        assert!(!claim.resize(u64::MAX, Allowance::UpperQuarter));
        assert_eq!((claim.bytes(), budget.free()), (100, 700));
        drop(claim);
        assert_eq!(budget.free(), 800);
    }

    #[test]
    fn the_unproven_leave_most_of_the_account() {
        let budget = Budget::new(1000);
        let mut claims: Vec<Claim> = (0..20).map(|_| Claim::empty(&budget)).collect();
        let granted = claims
            .iter_mut()
            .filter_map(|claim| claim.resize(50, Allowance::UpperQuarter).then_some(()));
        assert_eq!(granted.count(), 4);
        assert!(claims[19].resize(75, Allowance::Eighth));
    }

    proptest! {
        /// Whatever is asked, the account is the total less the claims, and in the end it is whole.
        #[test]
        fn the_account_neither_leaks_nor_goes_negative(
            total in 0u64..10_000,
            steps in prop::collection::vec((0usize..8, 0u64..5_000, any::<bool>(), any::<bool>()), 0..200),
        ) {
            let budget = Budget::new(total);
            let mut claims: Vec<Claim> = (0..8).map(|_| Claim::empty(&budget)).collect();
            for (at, bytes, eighth, replace) in steps {
                if replace {
                    claims[at] = Claim::empty(&budget);
                }
                let allowance = if eighth { Allowance::Eighth } else { Allowance::UpperQuarter };
                let before = claims[at].bytes();
                let granted = claims[at].resize(bytes, allowance);
                prop_assert_eq!(claims[at].bytes(), if granted { bytes } else { before });
                prop_assert!(granted || bytes > before);
                let lent: u64 = claims.iter().map(Claim::bytes).sum();
                prop_assert_eq!(budget.free() + lent, total);
            }
            drop(claims);
            prop_assert_eq!(budget.free(), total);
        }
    }
}

/// Run with `RUSTFLAGS="--cfg penstock_loom" cargo test -p penstock --lib budget --release`.
#[cfg(all(test, penstock_loom))]
mod model {
    use super::*;

    #[test]
    fn two_cores_never_lend_more_than_there_is() {
        loom::model(|| {
            let budget = Budget::new(800);
            let cores: Vec<_> = (0..2)
                .map(|_| {
                    let budget = Arc::clone(&budget);
                    loom::thread::spawn(move || {
                        let mut claim = Claim::empty(&budget);
                        let first = claim.resize(90, Allowance::Eighth);
                        let second = claim.resize(170, Allowance::Eighth);
                        assert!(budget.free() <= 800);
                        assert_eq!(
                            claim.bytes(),
                            if second {
                                170
                            } else if first {
                                90
                            } else {
                                0
                            }
                        );
                    })
                })
                .collect();
            for core in cores {
                core.join().unwrap();
            }
            assert_eq!(budget.free(), 800);
        });
    }
}
