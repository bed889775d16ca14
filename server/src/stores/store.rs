//! One store: what it is, what is known of it, and what is concluded of the calls on it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use penstock_store::Id;

use super::counts::Counts;
use super::health::{Cause, Change, Health, State};
use super::probe::{Disk, Found};
use crate::io::StoreThreads;
use crate::memory::limits::{
    REMOTE_LOOK_THREADS_MAX, REMOTE_TRY_EVERY, STORE_LOOK_THREADS_MAX, STORE_TRY_EVERY,
};
use crate::remote::{Origin, Pace};

/// A directory that holds shares, or that of a Tahoe-LAFS storage node.
pub struct Store {
    /// Read by every core for every piece. What many write lies elsewhere.
    use_: Use,
    path: PathBuf,
    is_node: bool,
    timeout: Duration,
    threads: Arc<StoreThreads>,
    disk: Arc<dyn Disk>,
    /// How often any store came back.
    returns: Arc<AtomicU64>,
    known: Mutex<Known>,
    counts: Counts,
    /// How fast it was to look objects up, if it is remote.
    look_pace: Pace,
}

/// How far a store may be used: see [`ALL`] and the others.
#[repr(align(64))]
struct Use(AtomicU8);

/// It serves.
const ALL: u8 = 0;
/// It is suspended as slow: it is used where the others don't suffice.
const SLOW: u8 = 1;
/// It is suspended: it is left alone.
const NONE: u8 = 2;

/// What is known of a store.
struct Known {
    health: Health,
    last_error: Option<(SystemTime, String)>,
    id: Option<Id>,
    /// Device and inode of its directory.
    directory: Option<(u64, u64)>,
}

/// A store as the status shows it.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its directory.
    pub path: PathBuf,
    /// Whether it is a Tahoe-LAFS node.
    pub is_node: bool,
    /// Its id, if it has one.
    pub id: Option<Id>,
    /// What it does now.
    pub state: State,
    /// For how long.
    pub lasts: Duration,
    /// When something went wrong last, and what.
    pub last_error: Option<(SystemTime, String)>,
}

/// A call on a store that was given up. The store does not serve again before it has ended.
pub struct Hung(Arc<Store>);

impl Drop for Hung {
    fn drop(&mut self) {
        if self.0.counts.hung.fetch_sub(1, Relaxed) == 1 {
            self.0.known().health.stirred(Instant::now());
        }
    }
}

/// Counts share files as open until it is dropped.
pub struct OpenHere(Arc<Store>);

impl Drop for OpenHere {
    fn drop(&mut self) {
        self.0.counts.open_files.fetch_sub(1, Relaxed);
    }
}

impl Store {
    pub(super) fn new(
        number: usize,
        path: PathBuf,
        is_node: bool,
        timeout: Duration,
        disk: &Arc<dyn Disk>,
        returns: &Arc<AtomicU64>,
    ) -> Arc<Store> {
        let looks_max = match disk.origin() {
            Some(_) => REMOTE_LOOK_THREADS_MAX,
            None => STORE_LOOK_THREADS_MAX,
        };
        Arc::new(Store {
            use_: Use(AtomicU8::new(ALL)),
            path,
            is_node,
            timeout,
            threads: StoreThreads::new(number, looks_max),
            disk: Arc::clone(disk),
            returns: Arc::clone(returns),
            known: Mutex::new(Known {
                health: Health::new(Instant::now()),
                last_error: None,
                id: None,
                directory: None,
            }),
            counts: Counts::default(),
            look_pace: Pace::default(),
        })
    }

    /// A store that always serves, for tests of what lies above.
    #[cfg(test)]
    pub fn for_test(path: PathBuf) -> Arc<Store> {
        let disk: Arc<dyn Disk> = Arc::new(super::probe::Directory);
        let (timeout, returns) = (Duration::from_secs(60), Arc::default());
        Store::new(0, path, false, timeout, &disk, &returns)
    }

    /// The remote store that this is, if it is one.
    pub fn origin(&self) -> Option<&Arc<Origin>> {
        self.disk.origin()
    }

    /// How often it is tried while it serves.
    pub(super) fn try_every(&self) -> Duration {
        match self.origin() {
            Some(_) => REMOTE_TRY_EVERY,
            None => STORE_TRY_EVERY,
        }
    }

    /// Its directory, or URL.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it is called where numbers are shown.
    pub fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Its threads.
    pub fn threads(&self) -> &Arc<StoreThreads> {
        &self.threads
    }

    /// What is counted of it.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// How fast it was to look objects up, if it is remote.
    pub(super) fn look_pace(&self) -> &Pace {
        &self.look_pace
    }

    /// How long a call may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Whether it is to be read from. With `also_slow`, also if it is suspended as slow.
    pub fn serves(&self, also_slow: bool) -> bool {
        match self.use_.0.load(Relaxed) {
            ALL => true,
            SLOW => also_slow,
            _ => false,
        }
    }

    pub(super) fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    pub(super) fn is_node(&self) -> bool {
        self.is_node
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at its health and perhaps changes it, logs what changed, and acts on it.
    pub(super) fn judge(
        &self,
        error: Option<&str>,
        judge: impl FnOnce(&mut Health, Instant) -> Option<Change>,
    ) {
        let mut known = self.known();
        if let Some(error) = error {
            known.last_error = Some((SystemTime::now(), error.to_owned()));
        }
        let change = judge(&mut known.health, Instant::now());
        let state = known.health.state();
        self.use_.0.store(
            match state {
                State::Serving => ALL,
                State::Suspended(Cause::Slow) => SLOW,
                State::Suspended(_) => NONE,
            },
            Relaxed,
        );
        drop(known);
        let path = self.path.display();
        match change {
            None => {}
            Some(Change::Suspended(cause, pause)) => {
                self.counts.suspensions.fetch_add(1, Relaxed);
                let pause = humantime::format_duration(pause);
                let error = error.unwrap_or_default();
                tracing::warn!(store = %path, %cause, "store suspended, tried again in {pause}: {error}");
            }
            Some(Change::Returned(after)) => {
                self.counts.forget_recent();
                self.returns.fetch_add(1, Relaxed);
                let after = Duration::from_millis(after.as_millis() as u64);
                let after = humantime::format_duration(after);
                tracing::info!(store = %path, "store serves again after {after}");
            }
        }
    }

    /// Suspends it.
    pub fn suspend(&self, cause: Cause, why: &str) {
        self.judge(Some(why), |health, now| health.suspend(cause, now));
    }

    /// Suspends it because a call did not end in time.
    pub fn suspend_hung(&self, what: &str) {
        self.counts.timeouts.fetch_add(1, Relaxed);
        let timeout = humantime::format_duration(self.timeout);
        self.suspend(Cause::Hung, &format!("no {what} within {timeout}"));
    }

    /// A call failed that was about an object, of which `object` is any number that tells it apart.
    pub fn note_failure(&self, error: &io::Error, object: u64) {
        self.counts.errors.fetch_add(1, Relaxed);
        if error.kind() == io::ErrorKind::TimedOut && error.raw_os_error().is_none() {
            return self.suspend_hung("thread for a read");
        }
        self.judge(Some(&error.to_string()), |health, now| {
            health.failed(error, object, now)
        });
    }

    /// A read from the disk ended well.
    pub fn note_read(&self, bytes: usize, took: Duration) {
        self.counts.reads.fetch_add(1, Relaxed);
        self.counts.read_bytes.fetch_add(bytes as u64, Relaxed);
        // What ends at once may have been in the page cache, and says nothing of a disk with a queue.
        if took >= self.timeout / 8 {
            self.counts.note_long_read();
        }
        self.counts.note(took);
    }

    /// Whether reads that took long have ended just now: what is late of it waits in a queue.
    pub fn is_busy(&self) -> bool {
        let ended = self.counts.since_long_read();
        ended.is_some_and(|ago| ago < self.timeout / 2)
    }

    /// A call was given up while it was under way. To be kept until it ends.
    pub fn hung(self: &Arc<Store>) -> Hung {
        self.counts.hung.fetch_add(1, Relaxed);
        Hung(Arc::clone(self))
    }

    /// Counts a share file as open.
    pub fn open_here(self: &Arc<Store>) -> OpenHere {
        self.counts.open_files.fetch_add(1, Relaxed);
        OpenHere(Arc::clone(self))
    }

    /// What the status shows of it.
    pub fn report(&self) -> Report {
        let known = self.known();
        Report {
            path: self.path.clone(),
            is_node: self.is_node,
            id: known.id,
            state: known.health.state(),
            lasts: known.health.since().elapsed(),
            last_error: known.last_error.clone(),
        }
    }

    /// Whether it is to be tried now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.counts.hung.load(Relaxed) == 0 && self.known().health.is_due(now)
    }

    pub(super) fn set_found(&self, found: &Found) {
        let mut known = self.known();
        known.id = found.id;
        known.directory = Some(found.directory);
        drop(known);
        self.threads.set_local(found.is_local);
    }

    /// Device and inode of its directory, and its id, as far as they are known.
    pub(super) fn identity(&self) -> (Option<(u64, u64)>, Option<Id>) {
        let known = self.known();
        (known.directory, known.id)
    }

    pub(super) fn state(&self) -> State {
        self.known().health.state()
    }
}

/// A number that tells an object apart for [`Store::note_failure`].
pub fn object_number(key: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}
