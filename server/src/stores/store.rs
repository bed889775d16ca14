//! One store, and all of them: asked on their threads, judged by their answers.

use std::future::poll_fn;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use decode_kernel::share::Key;
use decode_kernel::tahoe::ChkCap;
use penstock_remote::{RemoteUrl, UrlError};
use penstock_store::tahoe::{self, NodeLook};
use penstock_store::{Id, Look, RejectReason};
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep};

use super::counts::Counts;
use super::health::{Cause, Change, Health, State};
use super::probe::{Directory, Disk, Found};
use super::remote::Bucket;
use crate::io::StoreThreads;
use crate::memory::limits::{
    RECHECK_GRACE, REMOTE_CALL_WITHIN, REMOTE_LOOK_THREADS_MAX, REMOTE_TRY_EVERY,
    STORE_LOOK_THREADS_MAX, STORE_TRY_EVERY,
};
use crate::remote::{Origin, Pace, Remote};

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

/// A question to a store, on its way.
struct Asked<T> {
    answer: oneshot::Receiver<(T, Duration)>,
    begun: Arc<AtomicBool>,
    /// Jobs that the store's threads had done before.
    done_before: u64,
}

impl Store {
    fn new(
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
        let (disk, returns) = (Arc::new(Directory) as Arc<dyn Disk>, Arc::default());
        Store::new(0, path, false, Duration::from_secs(60), &disk, &returns)
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

    fn state(&self) -> State {
        self.known().health.state()
    }

    /// Has one of its threads do something, if it serves; otherwise says why not.
    fn ask<T: Send + 'static>(
        self: &Arc<Store>,
        also_slow: bool,
        what: &str,
        job: impl FnOnce(&Store) -> T + Send + 'static,
    ) -> Result<Asked<T>, String> {
        if !self.serves(also_slow) {
            return Err(format!("suspended: {}", self.state().name()));
        }
        self.counts.looks.fetch_add(1, Relaxed);
        let begun = Arc::new(AtomicBool::new(false));
        let (store, begins) = (Arc::clone(self), Arc::clone(&begun));
        let done_before = self.threads.looks.done();
        let asked = self.threads.looks.ask(move || {
            begins.store(true, Relaxed);
            let start = Instant::now();
            let result = job(&store);
            (result, start.elapsed())
        });
        match asked {
            Ok(answer) => Ok(Asked {
                answer,
                begun,
                done_before,
            }),
            Err(refused) => {
                self.suspend_hung(what);
                Err(refused.to_string())
            }
        }
    }

    /// An answer came.
    fn answered<T>(&self, (answer, took): (T, Duration)) -> T {
        self.counts.note(took);
        answer
    }

    /// No answer came in time. A store that only has too much to do is not suspended for that.
    fn late<T: Send + 'static>(self: &Arc<Store>, asked: Asked<T>, what: &str) -> String {
        if asked.begun.load(Relaxed) {
            self.suspend_hung(what);
            let (store, hung) = (Arc::clone(self), self.hung());
            tokio::task::spawn_local(async move {
                let answer = asked.answer.await;
                drop(hung);
                // It may have files, and closing them may block. If it can't be dropped there it is dropped here.
                let _ = store.threads.looks.submit(move || drop(answer));
            });
        } else if self.threads.looks.done() == asked.done_before {
            self.suspend_hung(what);
        } else {
            self.counts.timeouts.fetch_add(1, Relaxed);
        }
        format!("no {what} in time")
    }

    /// Others have answered, and this one is not waited for.
    fn leave<T: Send + 'static>(self: &Arc<Store>, asked: Asked<T>) -> String {
        let store = Arc::clone(self);
        tokio::task::spawn_local(async move {
            let start = Instant::now();
            let answer = asked.answer.await;
            if let Ok((_, took)) = &answer {
                store
                    .look_pace
                    .note_first_byte((*took).max(start.elapsed()));
            }
            // It may have files, and closing them may block.
            let _ = store.threads.looks.submit(move || drop(answer));
        });
        "later than usual, and not waited for".to_owned()
    }

    /// Draws the conclusions from a look.
    fn judge_look(&self, look: &Look, object: u64) {
        for problem in look.problems() {
            match &problem.reason {
                RejectReason::Away(reason) => self.suspend(Cause::Missing, reason),
                // A file that was replaced meanwhile is no fault of the store.
                RejectReason::Io(error) if error.kind() != io::ErrorKind::NotFound => {
                    self.note_failure(error, object);
                }
                _ => {}
            }
        }
    }
}

/// Waits for an answer until the alarm. Gives the question back if none came; `None` if the job failed.
async fn wait<T>(
    mut asked: Asked<T>,
    mut alarm: Pin<&mut Sleep>,
) -> Result<Option<(T, Duration)>, Asked<T>> {
    let answer = poll_fn(|context| match Pin::new(&mut asked.answer).poll(context) {
        Poll::Ready(answer) => Poll::Ready(Some(answer.ok())),
        Poll::Pending => alarm.as_mut().poll(context).map(|()| None),
    });
    match answer.await {
        Some(answer) => Ok(answer),
        None => Err(asked),
    }
}

/// A number that tells an object apart for [`Store::note_failure`].
pub fn object_number(key: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

/// Why stores can't be served.
#[derive(Debug, thiserror::Error)]
pub enum StoresError {
    /// None of the stores can be read: a mistyped path is more likely than so many lost disks.
    #[error("none of the stores can be read; the first is {0}")]
    None(String),
    /// Two paths are one directory.
    #[error("stores {} and {} are the same directory: losing it would lose two shares", .0.display(), .1.display())]
    Same(PathBuf, PathBuf),
    /// Two directories have one id.
    #[error(
        "stores {} and {} have the same id: both show one disk, or one is a copy of the other; give only one of them",
        .0.display(), .1.display()
    )]
    SameId(PathBuf, PathBuf),
    /// A remote store can't be used as it was given.
    #[error("store {}: {reason}", .path.display())]
    Remote {
        /// Its URL.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The thread that watches them can't be started.
    #[error("starting a thread for the stores: {0}")]
    Thread(io::Error),
}

/// All stores of the server.
pub struct Stores {
    stores: Box<[Arc<Store>]>,
    nodes: Box<[Arc<Store>]>,
    timeout: Duration,
    /// The calls on those that are directories.
    disk: Arc<dyn Disk>,
    /// What those that are remote share.
    remote: Option<Arc<Remote>>,
    returns: Arc<AtomicU64>,
    /// The fewest shares that an object took which was opened; `u16::MAX` before.
    least_k: AtomicU16,
}

/// The URL of a remote store, if a store's path is one; an error if it is a wrong one.
fn remote_url(path: &str) -> Option<Result<RemoteUrl, String>> {
    RemoteUrl::is_one(path).then(|| path.parse().map_err(|error: UrlError| error.to_string()))
}

/// Whether an object changed in its stores since it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recheck {
    /// As far as they say, it did not.
    Same,
    /// It did.
    Changed,
}

impl Stores {
    /// Stores in these directories and nodes, all of which serve until they are found not to. Those that are URLs are
    /// remote.
    ///
    /// # Errors
    /// [`StoresError::Remote`].
    pub fn new(
        stores: &[PathBuf],
        nodes: &[PathBuf],
        timeout: Duration,
        remote: Option<Arc<Remote>>,
    ) -> Result<Stores, StoresError> {
        Stores::on(&(Arc::new(Directory) as _), stores, nodes, timeout, remote)
    }

    /// The same with other calls on directories.
    ///
    /// # Errors
    /// As [`Stores::new`].
    pub fn on(
        disk: &Arc<dyn Disk>,
        stores: &[PathBuf],
        nodes: &[PathBuf],
        timeout: Duration,
        remote: Option<Arc<Remote>>,
    ) -> Result<Stores, StoresError> {
        let none = Stores {
            stores: Box::default(),
            nodes: Box::default(),
            timeout,
            disk: Arc::clone(disk),
            remote,
            returns: Arc::default(),
            least_k: AtomicU16::new(u16::MAX),
        };
        none.in_place(stores, nodes)
    }

    /// Stores in other directories and nodes. Those that are here too are the same ones there, with all that is known of
    /// them.
    ///
    /// # Errors
    /// As [`Stores::new`].
    pub(super) fn in_place(
        &self,
        stores: &[PathBuf],
        nodes: &[PathBuf],
    ) -> Result<Stores, StoresError> {
        let make = |(number, path): (usize, &PathBuf)| {
            let is_node = number >= stores.len();
            let known = if is_node { &self.nodes } else { &self.stores };
            let known = known.iter().find(|store| store.path == *path);
            match known {
                Some(known) => Ok(Arc::clone(known)),
                None => self.make(number, path, is_node),
            }
        };
        let all = stores.iter().chain(nodes).enumerate().map(make);
        let mut all: Vec<Arc<Store>> = all.collect::<Result<_, _>>()?;
        let nodes = all.split_off(stores.len()).into();
        Ok(Stores {
            stores: all.into(),
            nodes,
            timeout: self.timeout,
            disk: Arc::clone(&self.disk),
            remote: self.remote.clone(),
            returns: Arc::clone(&self.returns),
            least_k: AtomicU16::new(self.least_k.load(Relaxed)),
        })
    }

    fn make(&self, number: usize, path: &Path, is_node: bool) -> Result<Arc<Store>, StoresError> {
        let url = path.to_str().filter(|_| !is_node).and_then(remote_url);
        let (disk, timeout) = match url {
            None => (Arc::clone(&self.disk), self.timeout),
            Some(url) => {
                let failed = |reason: String| StoresError::Remote {
                    path: path.to_owned(),
                    reason,
                };
                let url = url.map_err(failed)?;
                let remote = self.remote.as_ref();
                let remote = remote.ok_or_else(|| {
                    failed("the server was started without remote stores: restart it".to_owned())
                })?;
                let origin = remote
                    .origin(&url)
                    .map_err(|error| failed(error.to_string()))?;
                let bucket: Arc<dyn Disk> = Arc::new(Bucket::new(origin, remote));
                (bucket, self.timeout.max(REMOTE_CALL_WITHIN))
            }
        };
        let path = path.to_owned();
        Ok(Store::new(
            number,
            path,
            is_node,
            timeout,
            &disk,
            &self.returns,
        ))
    }

    /// What remote stores share, if there are any.
    pub fn remote(&self) -> Option<&Arc<Remote>> {
        self.remote.as_ref()
    }

    /// Whatever was opened before counts as old, and is looked up again.
    pub(super) fn note_change(&self) {
        self.returns.fetch_add(1, Relaxed);
    }

    /// Whether this is one of them.
    pub(super) fn has(&self, store: &Arc<Store>) -> bool {
        self.all().any(|known| Arc::ptr_eq(known, store))
    }

    /// The stores of objects, in the order in which they were given.
    pub fn stores(&self) -> &[Arc<Store>] {
        &self.stores
    }

    /// The Tahoe-LAFS nodes.
    pub fn nodes(&self) -> &[Arc<Store>] {
        &self.nodes
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Store>> {
        self.stores.iter().chain(&self.nodes)
    }

    /// How long a call may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Whether some are suspended as slow.
    pub fn has_slow(&self) -> bool {
        self.all()
            .any(|store| store.serves(true) && !store.serves(false))
    }

    /// How often a store came back so far. What was opened before one did may find more now.
    pub fn returns(&self) -> u64 {
        self.returns.load(Relaxed)
    }

    /// Notes that an object was opened which takes k shares.
    pub fn note_object(&self, k: u16) {
        if k < self.least_k.load(Relaxed) {
            self.least_k.fetch_min(k, Relaxed);
        }
    }

    /// Why nothing can be served now, if that is so.
    pub fn outage(&self) -> Option<String> {
        let here = |stores: &[Arc<Store>]| stores.iter().filter(|s| s.serves(true)).count();
        let (stores, nodes) = (here(&self.stores), here(&self.nodes));
        if stores + nodes == 0 {
            return Some("no store can be reached".to_owned());
        }
        let least = usize::from(self.least_k.load(Relaxed));
        let known = least < usize::from(u16::MAX) && self.nodes.is_empty();
        (known && stores < least).then(|| {
            format!(
                "{stores} of {} stores can be reached, and every object takes {least}",
                self.stores.len()
            )
        })
    }

    /// Looks for an object in all stores that serve. Each has its time; what is late is suspended.
    ///
    /// A remote store that is later than it usually is is not waited for if the others suffice: of every put they have at
    /// least one share, since all but fewer than k stores answered.
    pub async fn look(&self, key: &Key, also_slow: bool) -> Vec<Look> {
        let start = Instant::now();
        let mut looks: Vec<Option<Look>> = self.stores.iter().map(|_| None).collect();
        let mut open: Vec<(usize, Asked<Look>)> = Vec::with_capacity(self.stores.len());
        let away = |number: usize, why| {
            let path = self
                .stores
                .get(number)
                .map_or(Path::new(""), |store| &store.path);
            Look::away(number, path, why)
        };
        for (number, store) in self.stores.iter().enumerate() {
            let key = key.clone();
            let asked = store.ask(also_slow, LOOK_UP, move |store| {
                store.disk.look(number, &store.path, &key)
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
        let mut alarm = pin!(sleep(self.timeout));
        poll_fn(|context| {
            open.retain_mut(|(number, asked)| {
                let Poll::Ready(answer) = Pin::new(&mut asked.answer).poll(context) else {
                    return true;
                };
                let store = &self.stores[*number];
                looks[*number] = Some(match answer {
                    Ok(answer) => {
                        if store.origin().is_some() {
                            store.look_pace.note_first_byte(answer.1);
                        }
                        let look = store.answered(answer);
                        store.judge_look(&look, object);
                        look
                    }
                    Err(_) => away(*number, "the look-up failed".to_owned()),
                });
                false
            });
            loop {
                let suffice = hedges
                    && open.len() < usize::from(self.least_k.load(Relaxed))
                    && self.least_k.load(Relaxed) < u16::MAX
                    && looks.iter().flatten().filter(|look| look.is_here()).count() + open.len()
                        == self.stores.len();
                let due = |(number, _): &(usize, Asked<Look>)| {
                    let store = &self.stores[*number];
                    match store.origin() {
                        Some(_) if suffice => start + store.look_pace.hedge_after(),
                        _ => start + store.timeout,
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
            let store = &self.stores[number];
            let is_spared = suffice && start.elapsed() < store.timeout;
            let why = match is_spared {
                true => store.leave(asked),
                false => store.late(asked, LOOK_UP),
            };
            looks[number] = Some(away(number, why));
        }
        looks.into_iter().flatten().collect()
    }

    /// Looks for a Tahoe-LAFS file in all nodes that serve, as [`Stores::look`] does.
    pub async fn look_in_nodes(
        &self,
        cap: &ChkCap,
        limits: tahoe::Limits,
        also_slow: bool,
    ) -> Vec<NodeLook> {
        let asked: Vec<_> = (0..)
            .zip(&self.nodes)
            .map(|(node, store)| {
                let cap = cap.clone();
                store.ask(also_slow, LOOK_UP, move |store| {
                    tahoe::look(node, &store.path, &cap, &limits)
                })
            })
            .collect();
        let mut alarm = pin!(sleep(self.timeout));
        let mut looks = Vec::with_capacity(asked.len());
        for ((node, store), asked) in self.nodes.iter().enumerate().zip(asked) {
            let away = |why| NodeLook::away(node, &store.path, io::Error::other(why));
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
        let mut open: Vec<(usize, Asked<io::Result<u64>>)> = Vec::with_capacity(self.stores.len());
        for (number, store) in self.stores.iter().enumerate() {
            let key = key.clone();
            let asked = store.ask(false, FINGERPRINT, move |store| {
                store.disk.fingerprint(&store.path, &key)
            });
            open.extend(asked.ok().map(|asked| (number, asked)));
        }
        let (most, object) = (open.len() / 2 + 1, object_number(key.as_str()));
        let all = open.len();
        let mut alarm = pin!(sleep(self.timeout));
        let mut grace: Option<Pin<Box<Sleep>>> = None;
        let mut same = true;
        poll_fn(|context| {
            open.retain_mut(|(number, asked)| {
                let Poll::Ready(answer) = Pin::new(&mut asked.answer).poll(context) else {
                    return true;
                };
                same &= self.stores[*number].is_same(answer.ok(), known.get(*number), object);
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
            (Arc::clone(&self.stores[number]), asked, known)
        });
        let late: Vec<_> = late.collect();
        if !late.is_empty() {
            let rest = self.timeout.saturating_sub(start.elapsed());
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

/// What a look-up waits for.
const LOOK_UP: &str = "answer to a look-up";
/// What a recheck waits for.
const FINGERPRINT: &str = "answer to a question";

impl Store {
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
