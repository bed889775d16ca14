//! Listings: cores ask, and a thread of its own answers with pages of the window that it holds.
//!
//! A listing never costs a core more than a question and an answer. What the window doesn't have is looked for by a
//! walk over all stores on another thread; questions wait for it meanwhile, so many at most and so long at
//! most, and then are told to slow down. The walk goes on, so that who asks again finds what it found. The window's memory
//! is claimed from the credit, and given back when nobody has asked for a while. Who waits has claimed no more than what the
//! question takes: the page is claimed when it is made.

use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use decode_kernel::share::KEY_BYTES_MAX;
use tokio::sync::oneshot;

use super::buckets::ListQuery;
use super::error::{Code, Error};
use super::page::{self, Outcome, PAGE_BYTES_LEAST};
use super::walk::{self, WalkError};
use super::window::{Known, Window};
use crate::config::bucket::Bucket;
use crate::memory::budget::{Allowance, Budget, Claim};
use crate::memory::limits::{
    LISTING_IDLE, LISTING_NAME_BYTES, LISTING_NAMES_LEAST, LISTING_NAMES_MOST, LISTING_PAGE_BYTES,
    LISTING_PATIENCE, LISTING_REMOTE_IDLE, LISTING_WAITING_MAX, LISTING_WINDOW_BYTES_LEAST,
    LISTING_WINDOW_BYTES_MOST, LISTING_WINDOW_BYTES_USUAL,
};
use crate::stores::Stores;

/// A listing that begins takes a window that is so many times as old as it took to be made, or younger: a small store is
/// looked at for every listing, a large one once for many.
const FRESH_TIMES: u32 = 10;
/// One that goes on takes what it began with, or what has replaced it, for so long at least.
const GOES_ON_FOR: Duration = Duration::from_secs(60);
/// Walks that one question waits for. The first may find that not all keys fit a window; the second begins where they are
/// wanted.
const WALKS_MAX: u32 = 3;

/// The stack of each thread. A limit on address space (RLIMIT_DATA) counts all of it, used or not.
const STACK_BYTES: usize = 256 * 1024;

/// A question.
struct Ask {
    bucket: Bucket,
    query: ListQuery,
    arrived: Instant,
    /// Where its first key was not found.
    beyond: Option<String>,
    walks: u32,
    /// Claims its own bytes.
    _claim: Claim,
    reply: oneshot::Sender<Result<Answer, Error>>,
}

/// A page, and the claim on its memory.
type Answer = (Vec<u8>, Claim);

/// What makes listings, for all cores.
pub struct Lister {
    asks: Sender<Ask>,
    budget: Arc<Budget>,
    stores: Arc<Mutex<Weak<Stores>>>,
}

const TOO_MUCH: &str = "too many listings at one time, or too many objects to look at: try again";

fn slow_down() -> Error {
    Error::new(Code::SlowDown, TOO_MUCH)
}

impl Lister {
    /// Starts its thread, which ends when the last core has ended.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(stores: &Arc<Stores>, budget: &Arc<Budget>) -> io::Result<Lister> {
        let (asks, questions) = bounded(LISTING_WAITING_MAX);
        let (done, walked) = bounded(1);
        let stores = Arc::new(Mutex::new(Arc::downgrade(stores)));
        let answering = Answering {
            stores: Arc::clone(&stores),
            budget: Arc::clone(budget),
            window: None,
            waiting: Vec::new(),
            walking: false,
            is_large: false,
            done,
        };
        thread::Builder::new()
            .name("lister".into())
            .stack_size(STACK_BYTES)
            .spawn(move || answering.run(&questions, &walked))?;
        Ok(Lister {
            asks,
            budget: Arc::clone(budget),
            stores,
        })
    }

    /// From now on listings are of these stores.
    pub fn follow(&self, stores: &Arc<Stores>) {
        *self.stores.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(stores);
    }

    /// A page of a bucket's objects, with the claim on its memory.
    ///
    /// # Errors
    /// If there is no memory for it, no time, or too many stores are away.
    pub async fn list(&self, bucket: &Bucket, query: ListQuery) -> Result<(Vec<u8>, Claim), Error> {
        let mut claim = Claim::empty(&self.budget);
        // With the place at which it may be answered from another window.
        let bytes = size_of::<Ask>() + query.bytes() + KEY_BYTES_MAX;
        if !claim.resize(bytes as u64, Allowance::Eighth) {
            return Err(slow_down());
        }
        let (reply, answer) = oneshot::channel();
        let ask = Ask {
            bucket: bucket.clone(),
            query,
            arrived: Instant::now(),
            beyond: None,
            walks: 0,
            _claim: claim,
            reply,
        };
        self.asks.try_send(ask).map_err(|_| slow_down())?;
        let answer = tokio::time::timeout(LISTING_PATIENCE, answer).await;
        answer.ok().and_then(Result::ok).ok_or_else(slow_down)?
    }
}

/// A window, the stores that it shows, and the claim on its memory.
struct Held {
    window: Window,
    stores: Weak<Stores>,
    /// How long it counts at least, if there are remote stores: as long as what is known of them.
    ttl: Option<Duration>,
    claim: Claim,
}

/// How long what is known of each remote store counts.
fn remote_ttls(stores: &Weak<Stores>) -> Vec<Duration> {
    let stores = stores.upgrade();
    let all = stores.iter().flat_map(|stores| stores.stores());
    all.filter_map(|store| Some(store.origin()?.ttl()))
        .collect()
}

/// The thread that answers.
struct Answering {
    stores: Arc<Mutex<Weak<Stores>>>,
    budget: Arc<Budget>,
    /// A walk has it too.
    window: Option<Arc<Held>>,
    waiting: Vec<Ask>,
    walking: bool,
    /// Not all keys fit a window.
    is_large: bool,
    done: Sender<Result<Held, WalkError>>,
}

impl Answering {
    fn run(mut self, questions: &Receiver<Ask>, walked: &Receiver<Result<Held, WalkError>>) {
        loop {
            let ttl = self.window.as_ref().and_then(|held| held.ttl);
            let idle = ttl.map_or(LISTING_IDLE, |_| LISTING_REMOTE_IDLE);
            select! {
                recv(questions) -> ask => match ask {
                    Ok(ask) => self.take(ask),
                    Err(_) => return,
                },
                recv(walked) -> result => match result {
                    Ok(result) => self.walked(result),
                    Err(_) => return,
                },
                default(idle) => self.window = None,
            }
        }
    }

    fn take(&mut self, ask: Ask) {
        self.waiting.retain(|ask| !ask.reply.is_closed());
        if let Some(ask) = self.answer(ask) {
            if self.waiting.len() >= LISTING_WAITING_MAX {
                // Who asked may have gone.
                let _ = ask.reply.send(Err(slow_down()));
                return;
            }
            self.waiting.push(ask);
            self.walk();
        }
    }

    /// Answers a question, or gives it back.
    fn answer(&self, mut ask: Ask) -> Option<Ask> {
        let Some(held) = &self.window else {
            return Some(ask);
        };
        let Held { window, stores, .. } = &**held;
        // After a reload there may be others, and no longer all of these.
        if !stores.ptr_eq(&self.stores()) {
            return Some(ask);
        }
        let age = ask.arrived.saturating_duration_since(window.begun);
        let fresh = (FRESH_TIMES * window.took).max(held.ttl.unwrap_or_default());
        let most = match ask.query.after.is_empty() {
            true => fresh,
            false => fresh.max(GOES_ON_FOR),
        };
        if age > most {
            return Some(ask);
        }
        let Some((mut claim, bytes_max)) = self.claim_page() else {
            let _ = ask.reply.send(Err(slow_down()));
            return None;
        };
        match page::page(window, &ask.bucket, &ask.query, bytes_max) {
            Outcome::Page(page) => {
                let _ = claim.resize(page.capacity() as u64, Allowance::Eighth);
                // Who asked may have gone.
                let _ = ask.reply.send(Ok((page, claim)));
                None
            }
            Outcome::Beyond(position) => {
                ask.beyond = Some(position);
                Some(ask)
            }
        }
    }

    /// Claims memory for a page: the most that may be had, and how many bytes that is.
    fn claim_page(&self) -> Option<(Claim, usize)> {
        let mut claim = Claim::empty(&self.budget);
        let sizes = std::iter::successors(Some(LISTING_PAGE_BYTES), |bytes| Some(bytes / 2));
        let mut sizes = sizes.take_while(|&bytes| bytes >= PAGE_BYTES_LEAST);
        let bytes = sizes.find(|&bytes| claim.resize(bytes as u64, Allowance::Eighth))?;
        Some((claim, bytes))
    }

    /// Starts a walk for the question that has waited for longest, unless one is under way.
    fn walk(&mut self) {
        let Some(ask) = self.waiting.first().filter(|_| !self.walking) else {
            return;
        };
        let from = match (&ask.beyond, self.is_large) {
            (Some(position), _) => position.clone(),
            (None, true) => page::position(&ask.bucket, &ask.query),
            (None, false) => String::new(),
        };
        let stores = self.stores();
        let Some(claim) = self.claim() else {
            for ask in self.waiting.drain(..) {
                let _ = ask.reply.send(Err(slow_down()));
            }
            return;
        };
        let ttls = remote_ttls(&stores);
        let (names_claim, names_max) = self.claim_names(ttls.len());
        let ttl = ttls.into_iter().max();
        let (last, done) = (self.window.clone(), self.done.clone());
        let started = thread::Builder::new()
            .name("lister-walk".into())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                let mut held = Held {
                    window: Window::new(from, claim.bytes() as usize, Instant::now()),
                    stores: Weak::clone(&stores),
                    ttl,
                    claim,
                };
                let known = match &last {
                    Some(last) if ttl.is_some() => last.window.known(),
                    _ => Known::default(),
                };
                let filled = walk::fill(&stores, &mut held.window, known, names_max);
                drop((last, names_claim));
                let bytes = held.window.bytes() as u64;
                let smaller = held.claim.resize(bytes, Allowance::Eighth);
                debug_assert!(smaller, "a window fits its claim");
                // The lister may have ended.
                let _ = done.send(filled.map(|()| held));
            });
        match started {
            Ok(_) => self.walking = true,
            Err(error) => {
                tracing::warn!(%error, "no thread can be started for a listing");
                for ask in self.waiting.drain(..) {
                    let _ = ask.reply.send(Err(slow_down()));
                }
            }
        }
    }

    /// The stores that listings are of now.
    fn stores(&self) -> Weak<Stores> {
        Weak::clone(&self.stores.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Claims memory for a window: the most that may be had. What the last one holds gives way if there is hardly any.
    fn claim(&mut self) -> Option<Claim> {
        let mut bytes = LISTING_WINDOW_BYTES_MOST;
        let mut claim = Claim::empty(&self.budget);
        loop {
            // A small one is worth much of what there is: with less, more walks are needed for the same keys.
            let allowance = match bytes {
                0..=LISTING_WINDOW_BYTES_USUAL => Allowance::Half,
                _ => Allowance::Eighth,
            };
            if claim.resize(bytes, allowance) {
                return Some(claim);
            }
            bytes = bytes / 4 * 3;
            if bytes < LISTING_WINDOW_BYTES_LEAST {
                self.window.take()?;
                bytes = LISTING_WINDOW_BYTES_MOST;
            }
        }
    }

    /// How many names each of so many remote stores may tell at one time, and the claim on what goes beyond the plan.
    fn claim_names(&self, remote: usize) -> (Claim, usize) {
        let mut claim = Claim::empty(&self.budget);
        let mut names = LISTING_NAMES_MOST;
        while names > LISTING_NAMES_LEAST {
            let beyond = (remote * (names - LISTING_NAMES_LEAST)) as u64;
            if claim.resize(beyond * LISTING_NAME_BYTES, Allowance::Eighth) {
                return (claim, names);
            }
            names /= 2;
        }
        (claim, LISTING_NAMES_LEAST)
    }

    fn walked(&mut self, result: Result<Held, WalkError>) {
        self.walking = false;
        match result {
            Ok(held) => {
                self.is_large = !held.window.is_whole();
                self.window = Some(Arc::new(held));
                for mut ask in std::mem::take(&mut self.waiting) {
                    ask.walks += 1;
                    match self.answer(ask) {
                        Some(ask) if ask.walks >= WALKS_MAX => {
                            let _ = ask.reply.send(Err(slow_down()));
                        }
                        Some(ask) => self.waiting.push(ask),
                        None => {}
                    }
                }
                self.waiting.retain(|ask| !ask.reply.is_closed());
            }
            Err(error) => {
                let why = match error {
                    WalkError::Over => "this server is stopping",
                    WalkError::StoresAway => {
                        "so many stores can't be reached now that objects may be lacking"
                    }
                    WalkError::TooMany => {
                        "remote stores have more files than are looked at for a listing"
                    }
                };
                for ask in self.waiting.drain(..) {
                    let error = Error::new(Code::ServiceUnavailable, why);
                    let _ = ask.reply.send(Err(error));
                }
            }
        }
        self.walk();
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;
    use std::pin::pin;

    use super::super::window::tests::entry;
    use super::*;

    fn answering(budget: &Arc<Budget>, window: Option<Window>) -> Answering {
        let (done, _) = bounded(1);
        let held = |window| Held {
            window,
            stores: Weak::new(),
            ttl: Some(Duration::from_secs(60)),
            claim: Claim::empty(budget),
        };
        Answering {
            stores: Arc::default(),
            budget: Arc::clone(budget),
            window: window.map(held).map(Arc::new),
            waiting: Vec::new(),
            walking: false,
            is_large: false,
            done,
        }
    }

    /// Story: each listing that waited for a look at the stores held half a MiB of the credit for its page.
    #[test]
    fn who_waits_has_claimed_a_question_and_who_is_answered_a_page() {
        let budget = Budget::new(64 << 20);
        let claimed = || budget.total() - budget.free();
        let (asks, questions) = bounded(1);
        let lister = Lister {
            asks,
            budget: Arc::clone(&budget),
            stores: Arc::default(),
        };
        let bucket: Bucket = "media".parse().unwrap();
        let query = ListQuery {
            prefix: "d".repeat(700),
            max_keys: 1000,
            ..ListQuery::default()
        };
        let test = async {
            let mut list = pin!(lister.list(&bucket, query));
            tokio::select! {
                biased;
                _ = &mut list => panic!("nobody answers"),
                () = ready(()) => {}
            }
            assert!((700..8 << 10).contains(&claimed()), "{} bytes", claimed());
            let mut window = Window::new(String::new(), 1 << 20, Instant::now());
            window.offer(&format!("media/{}", "d".repeat(800)), entry(1));
            let answering = answering(&budget, Some(window));
            assert!(answering.answer(questions.recv().unwrap()).is_none());
            let (page, claim) = list.await.unwrap();
            let bytes = page.capacity() as u64;
            assert!(page.windows(5).any(|part| part == b"<Key>"));
            assert_eq!((claim.bytes(), claimed()), (bytes, bytes));
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        runtime.unwrap().block_on(test);
        assert_eq!(claimed(), 0);
    }

    #[test]
    fn names_take_what_is_planned_where_there_is_no_credit() {
        let (claim, names) = answering(&Budget::new(1 << 20), None).claim_names(6);
        assert_eq!((claim.bytes(), names), (0, LISTING_NAMES_LEAST));
        let (claim, names) = answering(&Budget::new(1 << 30), None).claim_names(6);
        assert_eq!((claim.bytes() > 0, names), (true, LISTING_NAMES_MOST));
    }
}
