//! The byte account: memory that may be lent, and the claims on it.
//!
//! What every connection holds at least (its state and its socket's floor) is set aside in the plan,
//! one share for each connection that may be open. What is left is credit: lent to connections that
//! prove fast, or that need room for a long request head, and returned when the claim is dropped. The
//! account is the one thing that cores share besides the seats; it is touched when a claim changes,
//! never per piece.
//!
//! What was lent on a promise can't be called back: bytes in a socket's queue stay there until the peer
//! takes them. So all that borrowers hold who have not proved themselves yet is bounded by a part of the
//! account, and the rest is there for those who have, however many of the others came before.

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
    /// What is lent to the unproven.
    unproven: AtomicU64,
}

/// How much of what is free one claim may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowance {
    /// An eighth: later claims find something too, however many came before.
    Eighth,
    /// Half: for what a core needs once, not for each connection.
    Half,
    /// An eighth, and a quarter of what the unproven together have left of one part in this many of the whole
    /// account. What is taken so is unproven until [`Claim::prove`].
    UnprovenPart(u64),
}

impl Budget {
    /// An account of this many bytes.
    pub fn new(total: u64) -> Arc<Budget> {
        Arc::new(Budget {
            total,
            free: AtomicU64::new(total),
            unproven: AtomicU64::new(0),
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

    /// Bytes lent to the unproven now: part of what is not free.
    pub fn unproven(&self) -> u64 {
        self.unproven.load(Ordering::Relaxed)
    }

    /// Takes bytes if the rule allows it. Nothing is taken otherwise.
    fn take(&self, bytes: u64, allowance: Allowance) -> bool {
        let Allowance::UnprovenPart(part) = allowance else {
            let parts = if allowance == Allowance::Half { 2 } else { 8 };
            return self.take_free(bytes, parts);
        };
        let limit = self.total / part.max(1);
        // Relaxed, here and below: the numbers are all that is shared; no other memory depends on them.
        let noted = self
            .unproven
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |unproven| {
                let left = limit.saturating_sub(unproven);
                (bytes <= left / 4).then(|| unproven + bytes)
            });
        if noted.is_err() {
            return false;
        }
        let taken = self.take_free(bytes, 8);
        if !taken {
            self.unproven.fetch_sub(bytes, Ordering::Relaxed);
        }
        taken
    }

    /// Takes bytes if they are at most one part in `parts` of what is free.
    fn take_free(&self, bytes: u64, parts: u64) -> bool {
        let taken = self
            .free
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| {
                (bytes <= free / parts).then(|| free - bytes)
            });
        taken.is_ok()
    }

    fn give_back(&self, bytes: u64, unproven: u64) {
        self.unproven.fetch_sub(unproven, Ordering::Relaxed);
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
    /// The part of them that was taken as unproven.
    unproven: u64,
}

impl Claim {
    /// A claim on nothing yet.
    pub fn empty(budget: &Arc<Budget>) -> Claim {
        Claim {
            budget: Arc::clone(budget),
            bytes: 0,
            unproven: 0,
        }
    }

    /// What is claimed.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Makes the claim this large. Growing may be refused, and then nothing changes; shrinking always
    /// works, and gives back what is proven first. Returns whether the claim now is what was asked.
    #[must_use]
    pub fn resize(&mut self, bytes: u64, allowance: Allowance) -> bool {
        if bytes > self.bytes {
            let more = bytes - self.bytes;
            if !self.budget.take(more, allowance) {
                return false;
            }
            if matches!(allowance, Allowance::UnprovenPart(_)) {
                self.unproven += more;
            }
        } else {
            let unproven = self.unproven.min(bytes);
            self.budget
                .give_back(self.bytes - bytes, self.unproven - unproven);
            self.unproven = unproven;
        }
        self.bytes = bytes;
        true
    }

    /// The holder has proved itself: what it has leaves the part of the unproven.
    pub fn prove(&mut self) {
        let unproven = std::mem::take(&mut self.unproven);
        self.budget.unproven.fetch_sub(unproven, Ordering::Relaxed);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes, self.unproven);
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
        assert!(!claim.resize(u64::MAX, Allowance::UnprovenPart(4)));
        assert!(!claim.resize(u64::MAX, Allowance::UnprovenPart(0)));
        assert_eq!(budget.unproven(), 0);
        assert_eq!((claim.bytes(), budget.free()), (100, 700));
        drop(claim);
        assert_eq!(budget.free(), 800);
    }

    #[test]
    fn however_many_are_unproven_they_leave_most_of_the_account() {
        let budget = Budget::new(1 << 20);
        let mut claims: Vec<Claim> = (0..10_000).map(|_| Claim::empty(&budget)).collect();
        for round in 1..20 {
            for claim in &mut claims {
                let _ = claim.resize(round * 100, Allowance::UnprovenPart(4));
            }
        }
        let held = budget.total() - budget.free();
        assert!(held <= 1 << 18 && held > 1 << 17, "{held}");
        assert_eq!(budget.unproven(), held);
        // A larger part has room for those that may have it, and the proven for even more.
        assert!(claims[0].resize(20_000, Allowance::UnprovenPart(2)));
        let mut proven = Claim::empty(&budget);
        assert!(proven.resize(90_000, Allowance::Eighth));
        // Who proves itself makes room for others, and stays what it is when it shrinks.
        claims[0].prove();
        let unproven = budget.unproven();
        assert_eq!(unproven, budget.total() - budget.free() - 110_000);
        assert!(claims[0].resize(10_000, Allowance::Eighth));
        assert_eq!(budget.unproven(), unproven);
    }

    proptest! {
        /// Whatever is asked, the account is the total less the claims, and in the end it is whole.
        #[test]
        fn the_account_neither_leaks_nor_goes_negative(
            total in 0u64..10_000,
            steps in prop::collection::vec((0usize..8, 0u64..5_000, 0u64..4, 0u8..3), 0..200),
        ) {
            let budget = Budget::new(total);
            let mut claims: Vec<Claim> = (0..8).map(|_| Claim::empty(&budget)).collect();
            for (at, bytes, part, before) in steps {
                match before {
                    0 => claims[at] = Claim::empty(&budget),
                    1 => claims[at].prove(),
                    _ => {}
                }
                let allowance = match part {
                    0 => Allowance::Eighth,
                    part => Allowance::UnprovenPart(part),
                };
                let before = claims[at].bytes();
                let granted = claims[at].resize(bytes, allowance);
                prop_assert_eq!(claims[at].bytes(), if granted { bytes } else { before });
                prop_assert!(granted || bytes > before);
                let lent: u64 = claims.iter().map(Claim::bytes).sum();
                prop_assert_eq!(budget.free() + lent, total);
                let unproven: u64 = claims.iter().map(|claim| claim.unproven).sum();
                prop_assert_eq!(budget.unproven(), unproven);
                prop_assert!(unproven <= lent);
            }
            drop(claims);
            prop_assert_eq!((budget.free(), budget.unproven()), (total, 0));
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

    #[test]
    fn two_cores_never_lend_the_unproven_more_than_their_part() {
        loom::model(|| {
            let budget = Budget::new(800);
            let cores: Vec<_> = (0..2)
                .map(|core| {
                    let budget = Arc::clone(&budget);
                    loom::thread::spawn(move || {
                        let mut claim = Claim::empty(&budget);
                        // A quarter of half of it: one of the two is refused if the other came first.
                        let lent = claim.resize(90, Allowance::UnprovenPart(2));
                        assert!(budget.unproven() <= 400 && budget.free() <= 800);
                        if core == 0 {
                            claim.prove();
                        }
                        assert_eq!(claim.bytes(), if lent { 90 } else { 0 });
                        lent
                    })
                })
                .collect();
            let lent = cores.into_iter().map(|core| core.join().unwrap());
            assert!(lent.filter(|lent| *lent).count() >= 1);
            assert_eq!((budget.free(), budget.unproven()), (800, 0));
        });
    }
}
