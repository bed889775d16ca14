//! One core's open objects: found at hand without waiting, or looked up in the stores.
//!
//! A look-up lists directories and reads headers, which blocks, so it runs on threads of the stores, all at one time.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use decode_kernel::share::{Fields, Generation, Key};
use lru::LruCache;
use penstock_store::{OpenError, OpenObject, OpenShare, RejectReason, Scan};
use tokio::sync::Semaphore;

use super::codes::Codes;
use super::handle::Handle;
use super::lines::Lines;
use super::open_files::{Known, Need, OpenFiles, close_unused, with_patience};
use super::servable::Shape;
use super::{Layout, LookupError, Object, Share};
use crate::io::StoreFile;
use crate::memory::limits::{
    CLOSED_HANDLE_BYTES, LOOKUPS_MAX, OBJECT_RECHECK, OPEN_PATIENCE, REMOTE_LOOKUPS_MAX,
    REOPEN_PATIENCE, SHARE_FILE_BYTES, STORE_PATIENCE, TABLE_PAGE_BYTES, TORN_LOOKS_MAX,
    UNREADABLE_RECHECK,
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

/// What it takes to open an object again.
pub struct Name {
    key: Rc<str>,
    generation: Generation,
}

impl Name {
    /// The object's key.
    pub fn key(&self) -> &str {
        &self.key
    }
}

/// What a client holds of an object.
pub type ObjectHandle = Handle<Name, Object>;

/// An object that was just opened or found open, and the handle on it.
pub type Opened = (Rc<ObjectHandle>, Rc<Object>);

/// The objects that one core keeps open.
pub struct Catalogue {
    stores: RefCell<Arc<Stores>>,
    /// Whether an older put is served where too few shares of the newest are left.
    stale: Cell<bool>,
    /// Bytes of a pool buffer that a piece may use, checked against what an object's geometry needs.
    piece_capacity: usize,
    objects: RefCell<Known<Rc<str>, Name, Object>>,
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
        let lookups = match stores.remote() {
            Some(_) => REMOTE_LOOKUPS_MAX,
            None => LOOKUPS_MAX,
        };
        Catalogue {
            stores: RefCell::new(stores),
            stale: Cell::new(stale),
            piece_capacity,
            objects: RefCell::new(LruCache::unbounded()),
            files,
            codes,
            lookups: Semaphore::new(lookups),
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
        for (_, handle) in self.objects.borrow().iter() {
            handle.peek(|object| {
                let geometry = object.geometry();
                health.count(object.live_shares(), geometry.k(), geometry.n());
            });
        }
    }

    /// The object with the key that a request's path is. One that has expired by now is as if it were not there.
    pub async fn open(&self, path: &str, now: SystemTime) -> Result<Opened, LookupError> {
        let (handle, object) = self.find(path).await?;
        match object.is_expired(now) {
            true => Err(LookupError::NotFound),
            false => Ok((handle, object)),
        }
    }

    async fn find(&self, path: &str) -> Result<Opened, LookupError> {
        if let Some(opened) = self.fresh(path) {
            return Ok(opened);
        }
        let key = Key::new(path).map_err(|_| LookupError::NotFound)?;
        if self.stores().stores().is_empty() {
            // Only Tahoe-LAFS files are served.
            return Err(LookupError::NotFound);
        }
        // Boxed, so that what is found open takes no room for this.
        let opened = Box::pin(with_patience(OPEN_PATIENCE, async |need| {
            let _turn = self.lookups.acquire().await;
            // Another request may have opened it while this one waited.
            if let Some(opened) = self.fresh(path) {
                return Ok(opened);
            }
            if let Some((handle, object)) = self.known(path, Instant::now())
                && self.is_unchanged(&key, &object).await
                // Stores that were not asked when it was opened, as slow ones, may have what is missing now.
                && can_be_read(&object)
            {
                object.checked.set(Instant::now());
                return Ok((handle, object));
            }
            self.look_up(key.clone(), None, need).await
        }));
        let opened = opened.await;
        if matches!(opened, Err(LookupError::NoOpenFiles)) {
            self.files.tell_refusal();
        }
        opened
    }

    /// The object that a client holds, opened again if its files were closed while the client waited.
    ///
    /// # Errors
    /// As for a request; [`LookupError::Replaced`] if another put has taken its place.
    pub async fn reopen(&self, handle: &Rc<ObjectHandle>) -> Result<Rc<Object>, LookupError> {
        let key = Key::new(handle.name().key()).map_err(|_| LookupError::NotFound)?;
        with_patience(REOPEN_PATIENCE, async |need| {
            let _turn = self.lookups.acquire().await;
            // Another client of it may have opened it.
            if let Some(object) = handle.open(Instant::now()) {
                return Ok(object);
            }
            // There is no point in opening files that can't be kept.
            self.files
                .make_room(handle.files(), &mut self.objects.borrow_mut(), need)?;
            let (_, object) = self.look_up(key.clone(), Some(handle), need).await?;
            Ok(object)
        })
        .await
    }

    /// Looks for more shares of the object that a client holds. Where there are some, the handle has them from then on.
    ///
    /// # Errors
    /// As for a request.
    pub async fn look_again(&self, handle: &Rc<ObjectHandle>) -> Result<(), LookupError> {
        let key = Key::new(handle.name().key()).map_err(|_| LookupError::NotFound)?;
        let _turn = self.lookups.acquire().await;
        if let Some(object) = handle.open(Instant::now()) {
            // What was found before does not count as fresh.
            object.changed.set(true);
        }
        self.look_up(key, Some(handle), Need::Usual).await.map(drop)
    }

    fn known(&self, path: &str, now: Instant) -> Option<Opened> {
        let handle = self.objects.borrow_mut().get(path).cloned()?;
        let object = handle.open(now)?;
        Some((handle, object))
    }

    /// An open object whose stores were asked less than [`OBJECT_RECHECK`] ago.
    fn fresh(&self, path: &str) -> Option<Opened> {
        let now = Instant::now();
        let (handle, object) = self.known(path, now)?;
        handle.ask(now);
        let age = now.saturating_duration_since(object.checked.get());
        // With --store-ttl 0 remote stores are asked every time.
        let remote = self.stores.borrow().remote().map(|remote| remote.ttl());
        let most = match can_be_read(&object) {
            true => OBJECT_RECHECK.min(remote.unwrap_or(OBJECT_RECHECK)),
            false => UNREADABLE_RECHECK,
        };
        (age < most && !object.changed.get()).then_some((handle, object))
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

    /// Looks an object up. One that is to be opened again for the clients of a handle must be the same put.
    async fn look_up(
        &self,
        key: Key,
        again: Option<&Rc<ObjectHandle>>,
        need: Need,
    ) -> Result<Opened, LookupError> {
        // Other stores may take their place meanwhile.
        let stores = self.stores();
        let returns = stores.returns();
        let (opened, fingerprints) = match self.open_shares(&stores, &key).await {
            Ok(opened) => opened,
            Err(error) => {
                let temporary = error.is_temporary();
                let known = self.objects.borrow_mut().pop(key.as_str());
                // A newer put that can't be read now must not give way to it.
                let known = known.filter(|handle| match &error {
                    OpenError::TooFew { generation, .. } => *generation == handle.name().generation,
                    _ => true,
                });
                let known = known.and_then(|handle| Some((handle.open(Instant::now())?, handle)));
                return match error {
                    OpenError::NotFound { .. } => Err(LookupError::NotFound),
                    // What is open is still what it was.
                    _ if temporary && let Some((object, handle)) = known => {
                        tracing::warn!(key = %key, "{error}");
                        object.checked.set(Instant::now());
                        let (name, again) = (Rc::clone(&handle.name().key), Rc::clone(&handle));
                        self.objects.borrow_mut().put(name, again);
                        match can_be_read(&object) {
                            true => Ok((handle, object)),
                            false => Err(LookupError::StoresAway),
                        }
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
        if let Some((handle, object)) = self.fresh(key.as_str())
            && again.is_none_or(|again| Rc::ptr_eq(again, &handle))
        {
            close(&stores, opened.shares);
            close(&stores, opened.copies);
            return Ok((handle, object));
        }
        let generation = opened.header.generation;
        if again.is_some_and(|again| again.name().generation != generation) {
            close(&stores, opened.shares);
            close(&stores, opened.copies);
            return Err(LookupError::Replaced);
        }
        stores.note_object(opened.header.geometry.k());
        let known = self.objects.borrow_mut().pop(key.as_str());
        // What was known of this key may be another put.
        let known = known.filter(|handle| handle.name().generation == generation);
        let known = again.cloned().or(known);
        let object = Rc::new(self.object(&stores, &key, opened, fingerprints, returns, need)?);
        let known = known.filter(|handle| {
            // Clients of what is open go on with that if it has more shares, as those of a directory that was removed.
            let live = handle.peek(Object::live_shares);
            live.is_none_or(|live| live <= object.live_shares())
        });
        let files = object.share_files() + field_files(&object.header().metadata.fields);
        let handle = match known {
            Some(handle) => {
                handle.set_open(Rc::clone(&object), files);
                handle.ask(Instant::now());
                handle
            }
            None => {
                let name = Name {
                    key: key.as_str().into(),
                    generation,
                };
                let bytes = CLOSED_HANDLE_BYTES + name.key.len();
                let budget = self.files.budget();
                Handle::new(name, files, Rc::clone(&object), bytes, budget)
            }
        };
        let name = Rc::clone(&handle.name().key);
        self.objects.borrow_mut().put(name, Rc::clone(&handle));
        Ok((handle, object))
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
        let (mut attempts, mut asked) = (0, 0);
        loop {
            let looks = stores.look(key, also_slow).await;
            asked += 1;
            let here = looks.iter();
            let here = here.map(|look| look.is_here().then(|| look.fingerprint()));
            let fingerprints = here.collect();
            // Those that hang or are gone are suspended by now.
            let serve = stores.stores().iter().map(|store| store.serves(also_slow));
            let late = looks
                .iter()
                .zip(serve)
                .any(|(look, serves)| serves && !look.is_here());
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
            match opened {
                Ok(opened) => return Ok((opened, fingerprints)),
                // Too few others are left to do without stores that have much to do.
                Err(error) if error.is_temporary() && late && asked < STORE_PATIENCE => {}
                // Once: those that are asked anew are of one time.
                Err(error)
                    if !matches!(error, OpenError::NotFound { .. })
                        && stores.forget_older_listings(key) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Closes what nobody asked for in a while, so that a store can be unmounted.
    pub fn close_unused(&self, now: Instant) {
        close_unused(&mut self.objects.borrow_mut(), now);
    }

    /// Makes an object of what a look-up found, in place of the one that was known by this key.
    fn object(
        &self,
        stores: &Stores,
        key: &Key,
        opened: OpenObject,
        fingerprints: Vec<Option<u64>>,
        returns: u64,
        need: Need,
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
        let files = self
            .files
            .hold(own + further, &mut self.objects.borrow_mut(), need)?;
        let mut shares: Vec<Option<Share>> = (0..geometry.n()).map(|_| None).collect();
        let share = |share: OpenShare, copy| {
            let store = stores.stores().get(share.store)?;
            let (file, backing) = share.file.into_local()?;
            let file = StoreFile::new(file, store.threads());
            let cached = backing.and_then(|of| of.downcast().ok());
            // A copy of the path, too.
            Some(Share::new(share.path.clone(), file, store, copy, cached))
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
        let is_remote = shares
            .iter()
            .flatten()
            .any(|share| share.cached().is_some());
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
            number: object_number(key.as_str()),
            is_remote,
            _files: files,
        })
    }
}

/// Has files closed by the threads of their stores.
fn close(stores: &Stores, files: Vec<OpenShare>) {
    for share in files {
        let file = share.file.into_local();
        if let (Some(store), Some((file, _))) = (stores.stores().get(share.store), file) {
            store.threads().close(file);
        }
    }
}

/// Header fields are held twice, in the object's header and as lines. What is planned for one object does not cover long
/// ones, so they count as so many share files.
fn field_files(fields: &Fields) -> usize {
    (2 * fields.len()).div_ceil(SHARE_FILE_BYTES as usize)
}

/// Whether an open object can be read to its end. If so many of its stores were suspended that it can't, what is in
/// memory of it would make a beginning, and then a reset.
fn can_be_read(object: &Object) -> bool {
    object.live_shares() >= usize::from(object.geometry().k()) || object.stores_away() == 0
}
