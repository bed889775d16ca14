//! Open objects: a key's shares, what is known of their health, and a bounded catalogue of them.
//!
//! One catalogue per core. Looking an object up lists directories and reads headers, which blocks, so
//! it runs on a helper thread; requests for an object that is open find it here without waiting.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use decode_kernel::code::{Code, CodeKind};
use decode_kernel::share::{Geometry, Header, Key};
use lru::LruCache;
use penstock_tools::store::{self, OpenError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::body::hot::Heat;
use crate::body::rebuilt::Sharing;
use crate::engine::plan::Layout;
use crate::http::status::Status;
use crate::io::splice::{self, FileStamp};
use crate::memory::budget::{Allowance, Budget, Claim};
use crate::memory::limits::{
    BAD_LEAVES_MAX, CODES_MAX, DECODER_BYTES, FILE_RESTS, LOOK_FOR, LOOKUPS_MAX, OBJECT_RECHECK,
    REBUILD_PLANS_MAX, RS16_BYTES,
};
use crate::objects::open_files::{Held, OpenFiles};

/// An object with at least k shares open. Its bytes never change: a new put is another object.
pub struct Object {
    /// Tells it apart from every other object this core has opened.
    id: u64,
    header: Header,
    layout: Layout,
    etag: String,
    code: Arc<Code>,
    /// By share number.
    shares: Vec<Option<Share>>,
    /// Leaves that did not match their checksum, so that they aren't read again for every client.
    /// Bounded: what falls out is found again.
    bad_leaves: RefCell<LruCache<(u16, u64), ()>>,
    fingerprint: u64,
    checked: Cell<Instant>,
    heat: Heat,
    sharing: Sharing,
    _files: Held,
}

/// One share file of an open object.
pub struct Share {
    /// Where it was opened.
    pub path: PathBuf,
    /// Shared with reads under way.
    pub file: Arc<File>,
    /// Set once reading failed; then it is used no more.
    lost: Cell<bool>,
    /// What its file was when it was looked at last.
    seen: Cell<Seen>,
    /// Open for direct reads while there are some.
    direct: RefCell<Weak<DirectFile>>,
    /// Set once that was refused.
    no_direct: Cell<bool>,
}

/// A share's file, open for direct reads.
pub struct DirectFile {
    /// Shared with reads under way.
    file: Arc<File>,
    _place: OwnedSemaphorePermit,
}

/// What a look at a share's file found.
#[derive(Clone, Copy, Default)]
struct Seen {
    /// Counts the changes that were noticed.
    edition: u32,
    /// `None` before the first look, and where a look failed.
    stamp: Option<FileStamp>,
    /// When that was.
    looked: Option<Instant>,
    /// Whether the file had rested for [`FILE_RESTS`] at that time: only then would another change show
    /// in its times, which advance by the kernel's tick.
    rests: bool,
}

impl Share {
    fn new(path: PathBuf, file: File) -> Share {
        splice::expect_streams(&file);
        Share {
            path,
            file: Arc::new(file),
            lost: Cell::new(false),
            seen: Cell::default(),
            direct: RefCell::default(),
            no_direct: Cell::new(false),
        }
    }

    /// Opens its file for direct reads, if `places` has one for it. It stays open as long as somebody holds it.
    pub fn open_direct(&self, places: &Arc<Semaphore>) -> Option<Rc<DirectFile>> {
        if self.no_direct.get() {
            return None;
        }
        if let Some(open) = self.direct.borrow().upgrade() {
            return Some(open);
        }
        let place = Arc::clone(places).try_acquire_owned().ok()?;
        match splice::open_direct(&self.file) {
            Ok(file) => {
                let direct = Rc::new(DirectFile {
                    file: Arc::new(file),
                    _place: place,
                });
                *self.direct.borrow_mut() = Rc::downgrade(&direct);
                Some(direct)
            }
            Err(error) => {
                self.refuse_direct(&error);
                None
            }
        }
    }

    /// Its file for direct reads, if it is open for them.
    pub fn opened_direct(&self) -> Option<Arc<File>> {
        let direct = self.direct.borrow().upgrade()?;
        Some(Arc::clone(&direct.file))
    }

    /// Direct reads don't work here.
    pub fn refuse_direct(&self, error: &io::Error) {
        tracing::info!(path = %self.path.display(), "no direct reads: {error}");
        self.no_direct.set(true);
    }

    /// Looks at the file, and gives the number of its edition: another one than before if its length or its
    /// times changed. `None` while its times are too young to tell. What was read after a look and before
    /// another that gives the same number is still what the file holds. A look counts for [`LOOK_FOR`].
    pub fn look(&self, now: Instant) -> Option<u32> {
        let mut seen = self.seen.get();
        let lately = |at: Instant| now.saturating_duration_since(at) < LOOK_FOR;
        if seen.rests && seen.looked.is_some_and(lately) {
            return Some(seen.edition);
        }
        seen.looked = Some(now);
        let stamp = splice::stamp(&self.file).ok();
        if stamp.is_none() || stamp != seen.stamp {
            seen.edition = seen.edition.wrapping_add(1);
            seen.stamp = stamp;
            seen.rests = false;
        }
        // A clock that was set back leaves times in the future, which differ from those of a new change.
        seen.rests |= stamp.is_some_and(|stamp| {
            let now = SystemTime::now();
            let age = now.duration_since(stamp.changed);
            age.unwrap_or_else(|ahead| ahead.duration()) >= FILE_RESTS
        });
        self.seen.set(seen);
        seen.rests.then_some(seen.edition)
    }

    /// The edition as of the last look, or of one now if there is none to go by.
    pub fn edition(&self) -> Option<u32> {
        let seen = self.seen.get();
        if seen.rests {
            Some(seen.edition)
        } else {
            self.look(Instant::now())
        }
    }

    /// Makes what is known of the file's contents count no more.
    pub fn forget(&self) {
        let edition = self.seen.get().edition.wrapping_add(1);
        self.seen.set(Seen {
            edition,
            ..Seen::default()
        });
    }
}

impl Object {
    /// Geometry of the object and its shares.
    pub fn geometry(&self) -> &Geometry {
        &self.header.geometry
    }

    /// How it lies in its shares.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// What every share says of the object; the number in it means nothing here.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Its entity tag, quotes included.
    pub fn etag(&self) -> &str {
        &self.etag
    }

    /// The code that it is written in.
    pub fn code(&self) -> &Code {
        &self.code
    }

    /// Whether it is kept in memory, and where.
    pub fn heat(&self) -> &Heat {
        &self.heat
    }

    /// Whether what is rebuilt of it is kept.
    pub fn sharing(&self) -> &Sharing {
        &self.sharing
    }

    /// Tells it apart from every other object this core has opened.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// A share by its number, if it is open.
    pub fn share(&self, number: u16) -> Option<&Share> {
        self.shares.get(usize::from(number))?.as_ref()
    }

    /// Whether a share can serve a range of its space, as far as is known.
    pub fn usable(&self, number: u16, window: &Range<u64>) -> bool {
        if self.share(number).is_none_or(|share| share.lost.get()) {
            return false;
        }
        let bad = self.bad_leaves.borrow();
        if bad.is_empty() {
            return true;
        }
        let leaf = u64::from(self.geometry().leaf_bytes());
        !(window.start / leaf..window.end.div_ceil(leaf)).any(|i| bad.contains(&(number, i)))
    }

    /// A leaf did not match its checksum. Returns whether that is news.
    pub fn mark_bad(&self, number: u16, leaf: u64) -> bool {
        let mut bad = self.bad_leaves.borrow_mut();
        let news = bad.put((number, leaf), ()).is_none();
        if bad.len() > BAD_LEAVES_MAX {
            bad.pop_lru();
        }
        news
    }

    /// A share could not be read. Returns whether that is news.
    pub fn mark_lost(&self, number: u16) -> bool {
        self.share(number)
            .is_some_and(|share| !share.lost.replace(true))
    }

    /// Shares that are open and not given up.
    pub fn live_shares(&self) -> usize {
        self.shares
            .iter()
            .flatten()
            .filter(|share| !share.lost.get())
            .count()
    }
}

/// How the objects are that a core has open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// All of them.
    pub open: u64,
    /// Those with fewer than their n shares.
    pub degraded: u64,
    /// Those with no share to spare: one more that is lost, and they can't be read.
    pub unspared: u64,
}

impl Health {
    /// Counts an object of which so many shares of n are good, as far as is known, and k suffice.
    pub fn count(&mut self, good: usize, k: u16, n: u16) {
        self.open += 1;
        self.degraded += u64::from(good < usize::from(n));
        self.unspared += u64::from(good <= usize::from(k));
    }
}

/// Why an object can't be served, as an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenFailure {
    /// 404, 500 or 503.
    pub status: Status,
    /// One line for the body of the answer. Paths and stores stay in the log.
    pub reason: &'static str,
}

/// The objects and codes that one core keeps at hand.
pub struct Catalogue {
    stores: Arc<[PathBuf]>,
    /// Bytes that a piece may use, checked against what an object's geometry needs.
    piece_capacity: usize,
    objects: RefCell<LruCache<String, Rc<Object>>>,
    files: Rc<OpenFiles>,
    codes: RefCell<LruCache<(u8, u16, u16), Arc<Code>>>,
    /// What the decoder may come to hold beyond its part of the plan, for wide codes.
    decoder: RefCell<Claim>,
    lookups: Semaphore,
    next_id: Cell<u64>,
}

fn size(entries: usize) -> NonZeroUsize {
    NonZeroUsize::new(entries).unwrap_or(NonZeroUsize::MIN)
}

impl Catalogue {
    /// An empty catalogue over these store directories.
    pub fn new(
        stores: Arc<[PathBuf]>,
        piece_capacity: usize,
        files: Rc<OpenFiles>,
        budget: &Arc<Budget>,
    ) -> Catalogue {
        Catalogue {
            stores,
            piece_capacity,
            objects: RefCell::new(LruCache::unbounded()),
            files,
            codes: RefCell::new(LruCache::new(size(CODES_MAX))),
            decoder: RefCell::new(Claim::empty(budget)),
            lookups: Semaphore::new(LOOKUPS_MAX),
            next_id: Cell::new(1),
        }
    }

    /// Adds the objects that are held.
    pub fn survey(&self, health: &mut Health) {
        for (_, object) in self.objects.borrow().iter() {
            let geometry = object.geometry();
            health.count(object.live_shares(), geometry.k(), geometry.n());
        }
    }

    /// The object that a request's path names.
    pub async fn open(&self, path: &str) -> Result<Rc<Object>, OpenFailure> {
        if let Some(object) = self.fresh(path) {
            return Ok(object);
        }
        let none = OpenFailure {
            status: Status::NotFound,
            reason: "no such object",
        };
        let key = Key::new(path).map_err(|_| none.clone())?;
        if self.stores.is_empty() {
            // A gateway alone.
            return Err(none);
        }
        let _turn = self.lookups.acquire().await;
        // Another request may have opened it while this one waited.
        if let Some(object) = self.fresh(path) {
            return Ok(object);
        }
        if let Some(object) = self.known(path) {
            let stores = Arc::clone(&self.stores);
            let asked = key.clone();
            let now =
                tokio::task::spawn_blocking(move || store::fingerprint(&stores, &asked)).await;
            if now.is_ok_and(|now| now == object.fingerprint) && !self.worn(&object) {
                object.checked.set(Instant::now());
                return Ok(object);
            }
        }
        self.look_up(key).await
    }

    fn known(&self, path: &str) -> Option<Rc<Object>> {
        self.objects.borrow_mut().get(path).cloned()
    }

    /// An object checked lately enough to be used as it is.
    fn fresh(&self, path: &str) -> Option<Rc<Object>> {
        let object = self.known(path)?;
        (object.checked.get().elapsed() < OBJECT_RECHECK).then_some(object)
    }

    /// Whether an object lost a share since it was opened: then opening it again may find it well, even
    /// if the file's name, inode and time are the same.
    fn worn(&self, object: &Object) -> bool {
        object.shares.iter().flatten().any(|share| share.lost.get())
    }

    async fn look_up(&self, key: Key) -> Result<Rc<Object>, OpenFailure> {
        let failure = |status, reason| OpenFailure { status, reason };
        let stores = Arc::clone(&self.stores);
        let asked = key.clone();
        let opened = tokio::task::spawn_blocking(move || store::open_object(&stores, &asked))
            .await
            .map_err(|_| failure(Status::InternalError, "the look-up was interrupted"))?;
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.objects.borrow_mut().pop(key.as_str());
                return Err(match error {
                    OpenError::NotFound { .. } => failure(Status::NotFound, "no such object"),
                    error => {
                        tracing::error!(key = %key, "{error}");
                        failure(
                            Status::InternalError,
                            "too few good shares of this object are left",
                        )
                    }
                });
            }
        };
        // Of several look-ups at once the first counts: what is remembered hangs on the object.
        if let Some(object) = self.fresh(key.as_str()) {
            return Ok(object);
        }
        // Copies of ours: what a helper thread allocated and we kept would hold all of that thread's heap.
        let header = opened.header.clone();
        let geometry = header.geometry;
        let least = (usize::from(geometry.k()) + 1) * geometry.leaf_bytes() as usize;
        if least > self.piece_capacity {
            tracing::error!(
                key = %key, k = geometry.k(), leaf_bytes = geometry.leaf_bytes(),
                "a pool buffer is too small for one leaf of each share: --pool-buffer-size needs {}",
                least + crate::memory::limits::TABLE_PAGE_BYTES
            );
            return Err(failure(
                Status::InternalError,
                "this object needs larger pool buffers",
            ));
        }
        let code = self.code(header.code, geometry.k(), geometry.n(), &key)?;
        let files = {
            let mut objects = self.objects.borrow_mut();
            // What was known of this key is another put.
            objects.pop(key.as_str());
            self.files.hold(opened.shares.len(), &mut objects)?
        };
        let mut shares: Vec<Option<Share>> = (0..geometry.n()).map(|_| None).collect();
        for share in opened.shares {
            if let Some(slot) = shares.get_mut(usize::from(share.number)) {
                *slot = Some(Share::new(share.path.clone(), share.file));
            }
        }
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        let object = Rc::new(Object {
            id,
            etag: format!("\"{}\"", header.digest),
            layout: Layout::from(&geometry),
            header,
            code,
            shares,
            // Bounded where leaves are marked: one made with room for all would take it at once.
            bad_leaves: RefCell::new(LruCache::unbounded()),
            fingerprint: opened.fingerprint,
            checked: Cell::new(Instant::now()),
            heat: Heat::default(),
            sharing: Sharing::default(),
            _files: files,
        });
        let known = Rc::clone(&object);
        self.objects
            .borrow_mut()
            .put(key.as_str().to_owned(), known);
        Ok(object)
    }

    /// A code, if the memory that decoding it may take can be had. `of` is what it is wanted for.
    pub fn code(
        &self,
        kind: CodeKind,
        k: u16,
        n: u16,
        of: &dyn fmt::Display,
    ) -> Result<Arc<Code>, OpenFailure> {
        let name = (kind as u8, k, n);
        if let Some(code) = self.codes.borrow_mut().get(&name) {
            return Ok(Arc::clone(code));
        }
        let (k, n) = (usize::from(k), usize::from(n));
        let code = Code::new(kind, k, n).map_err(|error| {
            tracing::error!(%of, %error, "its code can't be used");
            OpenFailure {
                status: Status::InternalError,
                reason: "this object's code can't be used",
            }
        })?;
        let code = Arc::new(code);
        // What is rebuilt lies in one buffer with the k ranges, as long or longer, that it comes from.
        let range_bytes = self.piece_capacity / (k + 1);
        let most = code.workspace_bytes_max(range_bytes, REBUILD_PLANS_MAX)
            + if kind == CodeKind::Rs16 {
                RS16_BYTES
            } else {
                0
            };
        let extra = most.saturating_sub(DECODER_BYTES as usize) as u64;
        let mut claim = self.decoder.borrow_mut();
        if extra > claim.bytes() && !claim.resize(extra, Allowance::Half) {
            tracing::error!(
                %of, bytes = extra,
                "decoding this object's wide code may take that much memory, and no more than half of \
                 the free credit may go to it: raise --memory or lower --max-connections"
            );
            return Err(OpenFailure {
                status: Status::Unavailable,
                reason: "no memory is left for this object's code",
            });
        }
        drop(claim);
        self.codes.borrow_mut().put(name, Arc::clone(&code));
        Ok(code)
    }
}
