//! One core's open objects: found at hand without waiting, or looked up in the stores.
//!
//! A look-up lists directories and reads headers, which blocks, so it runs on threads of the stores, all at one time.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use decode_kernel::share::{Fields, Key};
use lru::LruCache;
use penstock_store::{OpenError, OpenObject, OpenShare, RejectReason, Scan};
use tokio::sync::Semaphore;

use super::codes::Codes;
use super::lines::Lines;
use super::open_files::{OpenFiles, close_unused};
use super::servable::Shape;
use super::{Layout, LookupError, Object, Share};
use crate::io::StoreFile;
use crate::memory::limits::{
    LOOKUPS_MAX, OBJECT_RECHECK, SHARE_FILE_BYTES, TABLE_PAGE_BYTES, TORN_LOOKS_MAX,
};
use crate::stores::{Recheck, Stores, object_number};
use crate::units::{CopyNumber, ObjectId, ShareNumber};

/// Health of the objects that a core has open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// All of them.
    pub open: u64,
    /// Those with fewer than their n shares.
    pub degraded: u64,
    /// Those with exactly k shares left: one more lost, and they can't be read.
    pub without_redundancy: u64,
}

impl Health {
    /// Counts an object with `good` shares, as far as is known, of n, where k suffice.
    pub fn count(&mut self, good: usize, k: u16, n: u16) {
        self.open += 1;
        self.degraded += u64::from(good < usize::from(n));
        self.without_redundancy += u64::from(good <= usize::from(k));
    }
}

/// The objects that one core keeps open.
pub struct Catalogue {
    stores: RefCell<Arc<Stores>>,
    /// Whether an older put is served where too few shares of the newest are left.
    stale: Cell<bool>,
    /// Bytes of a pool buffer that a piece may use, checked against what an object's geometry needs.
    piece_capacity: usize,
    objects: RefCell<LruCache<String, Rc<Object>>>,
    files: Rc<OpenFiles>,
    codes: Rc<Codes>,
    lookups: Semaphore,
    next_id: Cell<ObjectId>,
}

impl Catalogue {
    /// An empty catalogue over these stores; `stale` has it serve an older put where too few shares of the newest are
    /// left.
    pub fn new(
        stores: Arc<Stores>,
        stale: bool,
        piece_capacity: usize,
        files: Rc<OpenFiles>,
        codes: Rc<Codes>,
    ) -> Catalogue {
        Catalogue {
            stores: RefCell::new(stores),
            stale: Cell::new(stale),
            piece_capacity,
            objects: RefCell::new(LruCache::unbounded()),
            files,
            codes,
            lookups: Semaphore::new(LOOKUPS_MAX),
            next_id: Cell::new(ObjectId::FIRST),
        }
    }

    fn stores(&self) -> Arc<Stores> {
        Arc::clone(&self.stores.borrow())
    }

    /// Has it look in these stores from now on, and serve older puts or not. If they are others than before, what is open is
    /// opened again when somebody asks for it; who takes it now takes it to its end.
    pub fn change(&self, stores: &Arc<Stores>, stale: bool) {
        self.stale.set(stale);
        if !Arc::ptr_eq(&self.stores.replace(Arc::clone(stores)), stores) {
            self.objects.borrow_mut().clear();
        }
    }

    /// Adds the objects that are held.
    pub fn survey(&self, health: &mut Health) {
        for (_, object) in self.objects.borrow().iter() {
            let geometry = object.geometry();
            health.count(object.live_shares(), geometry.k(), geometry.n());
        }
    }

    /// The object with the key that a request's path is. One that has expired by now is as if it were not there.
    pub async fn open(&self, path: &str, now: SystemTime) -> Result<Rc<Object>, LookupError> {
        let object = self.find(path).await?;
        match object.is_expired(now) {
            true => Err(LookupError::NotFound),
            false => Ok(object),
        }
    }

    async fn find(&self, path: &str) -> Result<Rc<Object>, LookupError> {
        if let Some(object) = self.fresh(path) {
            return Ok(object);
        }
        let key = Key::new(path).map_err(|_| LookupError::NotFound)?;
        if self.stores().stores().is_empty() {
            // Only Tahoe-LAFS files are served.
            return Err(LookupError::NotFound);
        }
        let _turn = self.lookups.acquire().await;
        // Another request may have opened it while this one waited.
        if let Some(object) = self.fresh(path) {
            return Ok(object);
        }
        if let Some(object) = self.known(path)
            && self.is_unchanged(&key, &object).await
        {
            object.checked.set(Instant::now());
            return can_be_read(object);
        }
        self.look_up(key).await
    }

    fn known(&self, path: &str) -> Option<Rc<Object>> {
        self.objects.borrow_mut().get(path).cloned()
    }

    /// An open object whose stores were asked less than [`OBJECT_RECHECK`] ago.
    fn fresh(&self, path: &str) -> Option<Rc<Object>> {
        let object = self.known(path)?;
        let now = Instant::now();
        object.used.set(now);
        let age = now.saturating_duration_since(object.checked.get());
        (age < OBJECT_RECHECK && !object.changed.get()).then_some(object)
    }

    /// Whether an object is still what its stores have. Those that are suspended count as unchanged.
    async fn is_unchanged(&self, key: &Key, object: &Rc<Object>) -> bool {
        if object.is_damaged()
            || object.changed.get()
            || object.returns != self.stores.borrow().returns()
        {
            return false;
        }
        let late = Rc::clone(object);
        let changed_late = move || late.changed.set(true);
        let checked = self
            .stores()
            .recheck(key, &object.fingerprints, changed_late)
            .await;
        checked == Recheck::Same
    }

    async fn look_up(&self, key: Key) -> Result<Rc<Object>, LookupError> {
        // Other stores may take their place meanwhile.
        let stores = self.stores();
        let returns = stores.returns();
        let (opened, fingerprints) = match self.open_shares(&stores, &key).await {
            Ok(opened) => opened,
            Err(error) => {
                let temporary = error.is_temporary();
                let known = self.objects.borrow_mut().pop(key.as_str());
                // A newer put that can't be read now must not give way to it.
                let known = known.filter(|object| match &error {
                    OpenError::TooFew { generation, .. } => *generation == object.header.generation,
                    _ => true,
                });
                return match error {
                    OpenError::NotFound { .. } => Err(LookupError::NotFound),
                    // What is open is still what it was.
                    _ if temporary && let Some(object) = known => {
                        tracing::warn!(key = %key, "{error}");
                        object.checked.set(Instant::now());
                        let again = Rc::clone(&object);
                        self.objects
                            .borrow_mut()
                            .put(key.as_str().to_owned(), again);
                        can_be_read(object)
                    }
                    OpenError::TooManyOpenFiles { .. } => {
                        tracing::warn!(key = %key, "{error}");
                        Err(LookupError::NoOpenFiles)
                    }
                    error => {
                        if temporary {
                            tracing::warn!(key = %key, "{error}");
                            return Err(LookupError::StoresAway);
                        }
                        tracing::error!(key = %key, "{error}");
                        Err(LookupError::TooFewShares)
                    }
                };
            }
        };
        // Of several look-ups at one time the first counts: what was verified is known by the object's id.
        if let Some(object) = self.fresh(key.as_str()) {
            return Ok(object);
        }
        stores.note_object(opened.header.geometry.k());
        let object = Rc::new(self.object(&stores, &key, opened, fingerprints, returns)?);
        let known = Rc::clone(&object);
        self.objects
            .borrow_mut()
            .put(key.as_str().to_owned(), known);
        Ok(object)
    }

    /// Opens the newest put of an object, with what each store said of it. Stores that are slow are asked where the
    /// others don't suffice.
    async fn open_shares(
        &self,
        stores: &Stores,
        key: &Key,
    ) -> Result<(OpenObject, Vec<Option<u64>>), OpenError> {
        match self.open_shares_in(stores, key, false).await {
            Err(error) if error.is_temporary() && stores.has_slow() => {
                self.open_shares_in(stores, key, true).await
            }
            result => result,
        }
    }

    async fn open_shares_in(
        &self,
        stores: &Stores,
        key: &Key,
        also_slow: bool,
    ) -> Result<(OpenObject, Vec<Option<u64>>), OpenError> {
        let mut attempts = 0;
        loop {
            let looks = stores.look(key, also_slow).await;
            let here = looks.iter();
            let here = here.map(|look| look.is_here().then(|| look.fingerprint()));
            let fingerprints = here.collect();
            let scan = Scan::new(looks);
            attempts += 1;
            if scan.torn() && attempts < TORN_LOOKS_MAX {
                close(stores, scan.into_files());
                continue;
            }
            for problem in scan.problems() {
                // That a store is away was said once.
                if !matches!(problem.reason, RejectReason::Away(_)) {
                    tracing::warn!(key = %key, store = problem.store, "share not used: {problem}");
                }
            }
            let (opened, rest) = scan.open_with_rest(key, self.stale.get());
            close(stores, rest);
            return Ok((opened?, fingerprints));
        }
    }

    /// Closes what nobody asked for in a while, so that a store can be unmounted.
    pub fn close_unused(&self, now: Instant) {
        close_unused(&mut self.objects.borrow_mut(), |object| {
            now.saturating_duration_since(object.used.get())
        });
    }

    /// Makes an object of what a look-up found, in place of the one that was known by this key.
    fn object(
        &self,
        stores: &Stores,
        key: &Key,
        opened: OpenObject,
        fingerprints: Vec<Option<u64>>,
        returns: u64,
    ) -> Result<Object, LookupError> {
        // Copies of ours: what a helper thread allocated and we kept would hold all of that thread's heap.
        let header = opened.header.clone();
        let geometry = header.geometry;
        let shape = Shape::of(&header, opened.shares.len());
        let needed_bytes = shape.buffer_bytes();
        if needed_bytes - TABLE_PAGE_BYTES > self.piece_capacity {
            let error = LookupError::BufferTooSmall { needed_bytes };
            tracing::error!(%key, k = geometry.k(), leaf_bytes = geometry.leaf_bytes(), "{error}");
            return Err(error);
        }
        let code = self
            .codes
            .get(header.code, geometry.k(), geometry.n(), key)?;
        let OpenObject {
            shares: opened,
            mut copies,
            ..
        } = opened;
        // As many again as it has shares, if so many may be open.
        let own = opened.len() + field_files(&header.metadata.fields);
        let room = self.files.most_for_one().saturating_sub(own);
        let further = copies.len().min(opened.len()).min(room);
        close(stores, copies.split_off(further));
        let files = {
            let mut objects = self.objects.borrow_mut();
            // What was known of this key is another put.
            objects.pop(key.as_str());
            let fields = field_files(&header.metadata.fields);
            self.files
                .hold(opened.len() + further + fields, &mut objects)?
        };
        let mut shares: Vec<Option<Share>> = (0..geometry.n()).map(|_| None).collect();
        let share = |share: OpenShare, copy| {
            let store = stores.stores().get(share.store)?;
            let file = StoreFile::new(share.file, store.threads());
            // A copy of the path, too.
            Some(Share::new(share.path.clone(), file, store, copy))
        };
        for opened in opened {
            if let Some(slot) = shares.get_mut(usize::from(opened.number)) {
                *slot = share(opened, CopyNumber::default());
            }
        }
        let mut further: Vec<(ShareNumber, Share)> = Vec::with_capacity(copies.len());
        for opened in copies {
            let number = ShareNumber(opened.number);
            let before = further.iter().filter(|(of, _)| *of == number).count();
            let copy = u8::try_from(before + 1).ok().map(CopyNumber);
            if let Some(share) = copy.and_then(|copy| share(opened, copy)) {
                further.push((number, share));
            }
        }
        let id = self.next_id.get();
        self.next_id.set(id.next());
        Ok(Object {
            id,
            etag: format!("\"{}\"", header.digest),
            lines: Lines::new(&header),
            layout: Layout::from(&geometry),
            header,
            code,
            shares,
            copies: further,
            // One made with room for all bad leaves would take it at once.
            bad_leaves: RefCell::new(LruCache::unbounded()),
            fingerprints,
            returns,
            checked: Cell::new(Instant::now()),
            changed: Cell::new(false),
            used: Cell::new(Instant::now()),
            number: object_number(key.as_str()),
            _files: files,
        })
    }
}

/// Has files closed by the threads of their stores.
fn close(stores: &Stores, files: Vec<OpenShare>) {
    for share in files {
        if let Some(store) = stores.stores().get(share.store) {
            store.threads().close(share.file);
        }
    }
}

/// Header fields are held twice, in the object's header and as lines. What is planned for one object does not cover long
/// ones, so they count as so many share files.
fn field_files(fields: &Fields) -> usize {
    (2 * fields.len()).div_ceil(SHARE_FILE_BYTES as usize)
}

/// An open object, unless so many of its stores were suspended that it can't be read to its end. What is in memory of it
/// would make a beginning, and then a reset.
fn can_be_read(object: Rc<Object>) -> Result<Rc<Object>, LookupError> {
    match object.live_shares() >= usize::from(object.geometry().k()) || object.stores_away() == 0 {
        true => Ok(object),
        false => Err(LookupError::StoresAway),
    }
}
