//! One core's open objects: found at hand without waiting, or looked up in the stores.
//!
//! A look-up lists directories and reads headers, which blocks, so it runs on a helper thread.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use decode_kernel::share::Key;
use lru::LruCache;
use penstock_store::{self as store, OpenError, OpenObject};
use tokio::sync::Semaphore;

use super::codes::Codes;
use super::open_files::OpenFiles;
use super::{Layout, LookupError, Object, Share};
use crate::memory::limits::{LOOKUPS_MAX, OBJECT_RECHECK, TABLE_PAGE_BYTES};
use crate::units::ObjectId;

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
    stores: Arc<[PathBuf]>,
    /// Bytes of a pool buffer that a piece may use, checked against what an object's geometry needs.
    piece_capacity: usize,
    objects: RefCell<LruCache<String, Rc<Object>>>,
    files: Rc<OpenFiles>,
    codes: Rc<Codes>,
    lookups: Semaphore,
    next_id: Cell<ObjectId>,
}

impl Catalogue {
    /// An empty catalogue over these store directories.
    pub fn new(
        stores: Arc<[PathBuf]>,
        piece_capacity: usize,
        files: Rc<OpenFiles>,
        codes: Rc<Codes>,
    ) -> Catalogue {
        Catalogue {
            stores,
            piece_capacity,
            objects: RefCell::new(LruCache::unbounded()),
            files,
            codes,
            lookups: Semaphore::new(LOOKUPS_MAX),
            next_id: Cell::new(ObjectId::FIRST),
        }
    }

    /// Adds the objects that are held.
    pub fn survey(&self, health: &mut Health) {
        for (_, object) in self.objects.borrow().iter() {
            let geometry = object.geometry();
            health.count(object.live_shares(), geometry.k(), geometry.n());
        }
    }

    /// The object with the key that a request's path is.
    pub async fn open(&self, path: &str) -> Result<Rc<Object>, LookupError> {
        if let Some(object) = self.fresh(path) {
            return Ok(object);
        }
        let key = Key::new(path).map_err(|_| LookupError::NotFound)?;
        if self.stores.is_empty() {
            // Only Tahoe-LAFS files are served.
            return Err(LookupError::NotFound);
        }
        let _turn = self.lookups.acquire().await;
        // Another request may have opened it while this one waited.
        if let Some(object) = self.fresh(path) {
            return Ok(object);
        }
        if let Some(object) = self.known(path) {
            let stores = Arc::clone(&self.stores);
            let asked = key.clone();
            let now = tokio::task::spawn_blocking(move || fingerprints(&stores, &asked)).await;
            if now.is_ok_and(|now| now == object.fingerprints) && !object.is_damaged() {
                object.checked.set(Instant::now());
                return Ok(object);
            }
        }
        self.look_up(key).await
    }

    fn known(&self, path: &str) -> Option<Rc<Object>> {
        self.objects.borrow_mut().get(path).cloned()
    }

    /// An open object whose directories were checked less than [`OBJECT_RECHECK`] ago.
    fn fresh(&self, path: &str) -> Option<Rc<Object>> {
        let object = self.known(path)?;
        (object.checked.get().elapsed() < OBJECT_RECHECK).then_some(object)
    }

    async fn look_up(&self, key: Key) -> Result<Rc<Object>, LookupError> {
        let stores = Arc::clone(&self.stores);
        let asked = key.clone();
        let opened = tokio::task::spawn_blocking(move || {
            let fingerprints = fingerprints(&stores, &asked);
            (store::open_object(&stores, &asked, false), fingerprints)
        });
        let (opened, fingerprints) = opened.await.map_err(|_| LookupError::Interrupted)?;
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.objects.borrow_mut().pop(key.as_str());
                return Err(match error {
                    OpenError::NotFound { .. } => LookupError::NotFound,
                    OpenError::TooManyOpenFiles { .. } => {
                        tracing::warn!(key = %key, "{error}");
                        LookupError::NoOpenFiles
                    }
                    error => {
                        tracing::error!(key = %key, "{error}");
                        LookupError::TooFewShares
                    }
                });
            }
        };
        // Of several look-ups at one time the first counts: what was verified is known by the object's id.
        if let Some(object) = self.fresh(key.as_str()) {
            return Ok(object);
        }
        let object = Rc::new(self.object(&key, opened, fingerprints)?);
        let known = Rc::clone(&object);
        self.objects
            .borrow_mut()
            .put(key.as_str().to_owned(), known);
        Ok(object)
    }

    /// Makes an object of what a look-up found, in place of the one that was known by this key.
    fn object(
        &self,
        key: &Key,
        opened: OpenObject,
        fingerprints: Vec<Option<u64>>,
    ) -> Result<Object, LookupError> {
        // Copies of ours: what a helper thread allocated and we kept would hold all of that thread's heap.
        let header = opened.header.clone();
        let geometry = header.geometry;
        let least = (usize::from(geometry.k()) + 1) * geometry.leaf_bytes() as usize;
        if least > self.piece_capacity {
            let error = LookupError::BufferTooSmall {
                needed_bytes: least + TABLE_PAGE_BYTES,
            };
            tracing::error!(%key, k = geometry.k(), leaf_bytes = geometry.leaf_bytes(), "{error}");
            return Err(error);
        }
        let code = self
            .codes
            .get(header.code, geometry.k(), geometry.n(), key)?;
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
        self.next_id.set(id.next());
        Ok(Object {
            id,
            etag: format!("\"{}\"", header.digest),
            layout: Layout::from(&geometry),
            header,
            code,
            shares,
            // One made with room for all bad leaves would take it at once.
            bad_leaves: RefCell::new(LruCache::unbounded()),
            fingerprints,
            checked: Cell::new(Instant::now()),
            _files: files,
        })
    }
}

/// What the stores' directories say of an object now; `None` where a store can't be asked.
fn fingerprints(stores: &[PathBuf], key: &Key) -> Vec<Option<u64>> {
    let ask = |root: &PathBuf| store::fingerprint(root, key).ok();
    stores.iter().map(ask).collect()
}
