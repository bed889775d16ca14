//! Look-ups of objects in all stores at one time, and what is concluded of the answers.

use std::future::poll_fn;
use std::io;
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use decode_kernel::share::Key;
use decode_kernel::tahoe::ChkCap;
use penstock_store::tahoe::{self, NodeLook};
use penstock_store::{Look, RejectReason};
use tokio::time::{Sleep, sleep};

use super::all::Stores;
use super::ask::{Asked, wait};
use super::health::Cause;
use super::store::{Store, object_number};
use crate::memory::limits::{LISTED_TOGETHER, RECHECK_GRACE};
use crate::remote::Origin;

/// What a look-up waits for.
const LOOK_UP: &str = "answer to a look-up";
/// What a recheck waits for.
const FINGERPRINT: &str = "answer to a question";

/// Whether an object changed in its stores since it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recheck {
    /// As far as they say, it did not.
    Same,
    /// It did.
    Changed,
}

impl Stores {
    /// Looks for an object in all stores that serve. Each has its time; what is late is suspended.
    ///
    /// A remote store that is later than it usually is is not waited for if the others suffice: of every put they have at
    /// least one share, since all but fewer than k stores answered.
    pub async fn look(&self, key: &Key, also_slow: bool) -> Vec<Look> {
        let start = Instant::now();
        let mut looks: Vec<Option<Look>> = self.stores().iter().map(|_| None).collect();
        let mut open: Vec<(usize, Asked<Look>)> = Vec::with_capacity(self.stores().len());
        let away = |number: usize, why| {
            let store = self.stores().get(number);
            let path = store.map_or(Path::new(""), |store| store.path());
            Look::away(number, path, why)
        };
        for (number, store) in self.stores().iter().enumerate() {
            let key = key.clone();
            let asked = store.ask(also_slow, LOOK_UP, move |store| {
                store.disk().look(number, store.path(), &key)
            });
            match asked {
                Ok(asked) => open.push((number, asked)),
                Err(why) => looks[number] = Some(away(number, why)),
            }
        }
        let object = object_number(key.as_str());
        let hedges = self
            .remote()
            .is_some_and(|remote| remote.fetcher().hedges());
        let mut late = Vec::new();
        let mut alarm = pin!(sleep(self.timeout()));
        poll_fn(|context| {
            open.retain_mut(|(number, asked)| {
                let Poll::Ready(answer) = Pin::new(&mut asked.answer).poll(context) else {
                    return true;
                };
                let store = &self.stores()[*number];
                looks[*number] = Some(match answer {
                    Ok(answer) => {
                        if store.origin().is_some() {
                            store.look_pace().note_first_byte(answer.1);
                        }
                        let look = store.answered(answer);
                        store.judge_look(&look, object);
                        // Also the first object that is looked up has no late store waited for.
                        if let Some(k) = look.least_k() {
                            self.note_object(k);
                        }
                        look
                    }
                    Err(_) => away(*number, "the look-up failed".to_owned()),
                });
                false
            });
            loop {
                let suffice = hedges
                    && self
                        .least_k()
                        .is_some_and(|least| open.len() < usize::from(least))
                    && looks.iter().flatten().filter(|look| look.is_here()).count() + open.len()
                        == self.stores().len();
                let due = |(number, _): &(usize, Asked<Look>)| {
                    let store = &self.stores()[*number];
                    match store.origin() {
                        Some(_) if suffice => start + store.look_pace().hedge_after(),
                        _ => start + store.timeout(),
                    }
                };
                let Some(next) = open.iter().map(due).min() else {
                    return Poll::Ready(());
                };
                alarm.as_mut().reset(next.into());
                if alarm.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
                let now = Instant::now();
                let (overdue, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut open)
                    .into_iter()
                    .partition(|asked| due(asked) <= now);
                late.extend(
                    overdue
                        .into_iter()
                        .map(|(number, asked)| (number, asked, suffice)),
                );
                open = rest;
            }
        })
        .await;
        for (number, asked, suffice) in late {
            let store = &self.stores()[number];
            let is_spared = suffice && start.elapsed() < store.timeout();
            let why = match is_spared {
                true => store.leave(asked),
                false => store.late(asked, LOOK_UP),
            };
            looks[number] = Some(away(number, why));
        }
        looks.into_iter().flatten().collect()
    }

    /// What remote stores have of an object was asked at several times, and a put between them looks as if it lacked shares.
    /// What is older than the newest answer counts no more. Returns whether there was something.
    pub fn forget_older_listings(&self, key: &Key) -> bool {
        let dir = Origin::dir_of(key);
        let origins = || self.stores().iter().filter_map(|store| store.origin());
        let newest = origins().filter_map(|origin| origin.listed_at(&dir)).max();
        let Some(before) = newest.and_then(|newest| newest.checked_sub(LISTED_TOGETHER)) else {
            return false;
        };
        let forgotten = origins().map(|origin| origin.forget_listed_before(&dir, before));
        forgotten.filter(|is_forgotten| *is_forgotten).count() > 0
    }

    /// Looks for a Tahoe-LAFS file in all nodes that serve, as [`Stores::look`] does.
    pub async fn look_in_nodes(
        &self,
        cap: &ChkCap,
        limits: tahoe::Limits,
        also_slow: bool,
    ) -> Vec<NodeLook> {
        let asked: Vec<_> = (0..)
            .zip(self.nodes())
            .map(|(node, store)| {
                let cap = cap.clone();
                store.ask(also_slow, LOOK_UP, move |store| {
                    tahoe::look(node, store.path(), &cap, &limits)
                })
            })
            .collect();
        let mut alarm = pin!(sleep(self.timeout()));
        let mut looks = Vec::with_capacity(asked.len());
        for ((node, store), asked) in self.nodes().iter().enumerate().zip(asked) {
            let away = |why| NodeLook::away(node, store.path(), io::Error::other(why));
            looks.push(match asked {
                Err(why) => away(why),
                Ok(asked) => match wait(asked, alarm.as_mut()).await {
                    Ok(Some(answer)) => store.answered(answer),
                    Ok(None) => away("the look-up failed".to_owned()),
                    Err(asked) => away(store.late(asked, LOOK_UP)),
                },
            });
        }
        looks
    }

    /// Asks the stores that serve whether what they have of an object changed, where `known` is what each said when it
    /// was opened. Those that can't tell have not changed.
    ///
    /// Once most have answered the rest has a short grace. Who takes longer is still heard: if its answer is another
    /// one, `changed_late` is called.
    pub async fn recheck(
        &self,
        key: &Key,
        known: &[Option<u64>],
        changed_late: impl FnOnce() + 'static,
    ) -> Recheck {
        let start = Instant::now();
        let mut open: Vec<(usize, Asked<io::Result<u64>>)> =
            Vec::with_capacity(self.stores().len());
        for (number, store) in self.stores().iter().enumerate() {
            let key = key.clone();
            let asked = store.ask(false, FINGERPRINT, move |store| {
                store.disk().fingerprint(store.path(), &key)
            });
            open.extend(asked.ok().map(|asked| (number, asked)));
        }
        let (most, object) = (open.len() / 2 + 1, object_number(key.as_str()));
        let all = open.len();
        let mut alarm = pin!(sleep(self.timeout()));
        let mut grace: Option<Pin<Box<Sleep>>> = None;
        let mut same = true;
        poll_fn(|context| {
            open.retain_mut(|(number, asked)| {
                let Poll::Ready(answer) = Pin::new(&mut asked.answer).poll(context) else {
                    return true;
                };
                same &= self.stores()[*number].is_same(answer.ok(), known.get(*number), object);
                false
            });
            if open.is_empty() || !same {
                return Poll::Ready(());
            }
            if all - open.len() >= most {
                let grace = grace
                    .get_or_insert_with(|| Box::pin(sleep(RECHECK_GRACE.max(4 * start.elapsed()))));
                if grace.as_mut().poll(context).is_ready() {
                    return Poll::Ready(());
                }
            }
            alarm.as_mut().poll(context)
        })
        .await;
        if !same {
            return Recheck::Changed;
        }
        let late = open.into_iter().map(|(number, asked)| {
            let known = known.get(number).copied();
            (Arc::clone(&self.stores()[number]), asked, known)
        });
        let late: Vec<_> = late.collect();
        if !late.is_empty() {
            let rest = self.timeout().saturating_sub(start.elapsed());
            tokio::task::spawn_local(async move {
                let mut alarm = pin!(sleep(rest));
                let mut same = true;
                for (store, asked, known) in late {
                    match wait(asked, alarm.as_mut()).await {
                        Ok(answer) => same &= store.is_same(answer, known.as_ref(), object),
                        Err(asked) => drop(store.late(asked, FINGERPRINT)),
                    }
                }
                if !same {
                    changed_late();
                }
            });
        }
        Recheck::Same
    }
}

impl Store {
    /// Draws the conclusions from a look.
    fn judge_look(&self, look: &Look, object: u64) {
        for problem in look.problems() {
            match &problem.reason {
                RejectReason::Away(reason) => self.suspend(Cause::Missing, reason),
                // A file that was replaced meanwhile is no fault of the store, nor is a cache without room.
                RejectReason::Io(error)
                    if !matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::StorageFull
                    ) =>
                {
                    self.note_failure(error, object);
                }
                _ => {}
            }
        }
    }

    /// Whether a fingerprint is the known one.
    fn is_same(
        &self,
        answer: Option<(io::Result<u64>, Duration)>,
        known: Option<&Option<u64>>,
        object: u64,
    ) -> bool {
        let Some(answer) = answer else { return true };
        match self.answered(answer) {
            Ok(now) => known.copied().flatten() == Some(now),
            // No error of the system: the store is not there.
            Err(error) if error.raw_os_error().is_none() => {
                self.suspend(Cause::Missing, &error.to_string());
                true
            }
            Err(error) => {
                self.note_failure(&error, object);
                true
            }
        }
    }
}
