//! One core's files of a grid: opened by their caps, with what is remembered of them.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use decode_kernel::aes::Aes128Ctr;
use decode_kernel::code::CodeKind;
use decode_kernel::tahoe::{ChkCap, Hash, SegmentRecord, StorageIndex};
use lru::LruCache;
use penstock_store::tahoe::{self, OpenError};
use tokio::sync::{Notify, Semaphore};

use super::file::{Copy, File};
use super::record::{self, Records};
use super::trees::Trees;
use super::verify;
use crate::engine::{Engine, PieceError};
use crate::io::StoreFile;
use crate::memory::limits::{
    LOOKUPS_MAX, TABLE_PAGE_BYTES, TAHOE_RECHECK, TAHOE_RECHECK_DAMAGED, TAHOE_RECORD_BYTES,
    TAHOE_RECORDS_BYTES, TAHOE_SHARE_FILES_MAX, TAHOE_VERIFICATIONS_MAX,
};
use crate::objects::codes::Codes;
use crate::objects::open_files::{Held, OpenFiles, close_unused};
use crate::objects::{Health, Layout, LookupError};
use crate::stores::{Stores, object_number};
use crate::units::{ObjectId, ShareNumber};

/// What a file is known by without its key: caps that differ in any of these are different files.
type Name = (StorageIndex, Hash, u16, u16, u64);

/// The files that one core keeps at hand.
pub struct Gateway {
    stores: RefCell<Arc<Stores>>,
    segment_bytes_max: u64,
    known: RefCell<LruCache<Name, Rc<File>>>,
    files: Rc<OpenFiles>,
    codes: Rc<Codes>,
    records: Records,
    trees: Trees,
    /// Segments being verified, with those that wait for it.
    under_way: RefCell<HashMap<(ObjectId, u64), Rc<Notify>>>,
    lookups: Semaphore,
    verifications: Semaphore,
    next_id: Cell<ObjectId>,
}

impl Gateway {
    /// A gateway to the nodes among these stores that accepts segments up to this length.
    pub fn new(
        stores: Arc<Stores>,
        segment_bytes_max: u64,
        files: Rc<OpenFiles>,
        codes: Rc<Codes>,
    ) -> Gateway {
        Gateway {
            stores: RefCell::new(stores),
            segment_bytes_max,
            known: RefCell::new(LruCache::unbounded()),
            files,
            codes,
            records: Records::new(TAHOE_RECORDS_BYTES),
            trees: Trees::default(),
            under_way: RefCell::new(HashMap::new()),
            lookups: Semaphore::new(LOOKUPS_MAX),
            verifications: Semaphore::new(TAHOE_VERIFICATIONS_MAX),
            next_id: Cell::new(ObjectId::FIRST),
        }
    }

    /// Has it look in these nodes from now on, as [`Catalogue::change`](crate::objects::Catalogue::change) does.
    pub fn change(&self, stores: &Arc<Stores>) {
        if !Arc::ptr_eq(&self.stores.replace(Arc::clone(stores)), stores) {
            self.known.borrow_mut().clear();
        }
    }

    /// Adds the files that are held.
    pub fn survey(&self, health: &mut Health) {
        for (_, file) in self.known.borrow().iter() {
            health.count(file.live_shares(), file.geometry.k(), file.geometry.n());
        }
    }

    /// The file that a cap stands for.
    pub async fn open(&self, engine: &Engine, cap: ChkCap) -> Result<Rc<File>, LookupError> {
        let name = (
            cap.storage_index(),
            *cap.ueb_hash(),
            cap.k(),
            cap.n(),
            cap.size(),
        );
        if let Some(file) = self.fresh(&name) {
            return Ok(file);
        }
        let _turn = self.lookups.acquire().await;
        // Another request may have opened it while this one waited.
        if let Some(file) = self.fresh(&name) {
            return Ok(file);
        }
        let limits = tahoe::Limits {
            segment_max: self.segment_bytes_max,
            files_max: TAHOE_SHARE_FILES_MAX,
        };
        // Other nodes may take their place meanwhile.
        let stores = Arc::clone(&self.stores.borrow());
        let returns = stores.returns();
        let mut looks = stores.look_in_nodes(&cap, limits, false).await;
        if stores.has_slow() && looks.iter().any(|look| !look.is_here()) {
            looks = stores.look_in_nodes(&cap, limits, true).await;
        }
        let is_away = looks.iter().any(|look| !look.is_here());
        let storage_index = cap.storage_index();
        let opened = tahoe::assemble(looks, &cap, &limits, &|rejected| {
            tracing::warn!(%storage_index, node = rejected.node, "share not used: {rejected}");
        });
        let opened = opened.map_err(|error| {
            self.known.borrow_mut().pop(&name);
            tracing::warn!("{error}");
            match error {
                OpenError::NotFound { .. } | OpenError::TooFew { .. } if is_away => {
                    LookupError::StoresAway
                }
                OpenError::NotFound { .. } => LookupError::NotFound,
                OpenError::TooFew { .. } => LookupError::TooFewShares,
                OpenError::Refused { .. } => LookupError::EncodingRefused,
            }
        })?;
        // Of several look-ups at one time the first counts: what was verified is known by the file's id.
        if let Some(file) = self.fresh(&name) {
            return Ok(file);
        }
        let files = {
            let mut known = self.known.borrow_mut();
            known.pop(&name);
            self.files.hold(opened.shares.len(), &mut known)?
        };
        let file = Rc::new(self.file(engine, &stores, &cap, opened, files, returns)?);
        self.known.borrow_mut().put(name, Rc::clone(&file));
        Ok(file)
    }

    /// An open file that need not be looked up again yet.
    fn fresh(&self, name: &Name) -> Option<Rc<File>> {
        let file = self.known.borrow_mut().get(name).cloned()?;
        // What comes back may have more of it.
        let recheck = match file.is_damaged() || file.returns != self.stores.borrow().returns() {
            true => TAHOE_RECHECK_DAMAGED,
            false => TAHOE_RECHECK,
        };
        file.used.set(Instant::now());
        (file.opened.elapsed() < recheck).then_some(file)
    }

    fn file(
        &self,
        engine: &Engine,
        stores: &Stores,
        cap: &ChkCap,
        opened: tahoe::OpenFile,
        files: Held,
        returns: u64,
    ) -> Result<File, LookupError> {
        let geometry = opened.geometry;
        let (k, n) = (geometry.k(), geometry.n());
        let storage_index = cap.storage_index();
        let code = self.codes.get(CodeKind::Rs8, k, n, &storage_index)?;
        let id = self.next_id.get();
        self.next_id.set(id.next());
        let room = engine.pool.piece_capacity();
        let leaf_bytes = SegmentRecord::leaf_bytes_for(&geometry, TAHOE_RECORD_BYTES, room as u64);
        let least_room = (usize::from(k) + 1) * leaf_bytes as usize;
        if least_room > room || record::bytes_of(&geometry, leaf_bytes) > TAHOE_RECORDS_BYTES / 2 {
            let error = LookupError::BufferTooSmall {
                needed_bytes: least_room + TABLE_PAGE_BYTES,
            };
            tracing::error!(
                %storage_index, k, segment_bytes = geometry.segment_bytes(), "{error}"
            );
            return Err(error);
        }
        let nodes = stores.nodes();
        let copies = opened.shares.into_iter().filter_map(|share| {
            let store = nodes.get(share.node)?;
            Some(Copy {
                number: ShareNumber(share.number),
                path: share.path,
                file: Arc::new(StoreFile::new(share.file, store.threads())),
                store: Arc::clone(store),
                _open: store.open_here(),
                regions: share.regions,
                root: share.block_root,
                lost: Cell::new(false),
                faulty: Cell::new(false),
            })
        });
        let mut copies: Vec<Copy> = copies.collect();
        copies.sort_by_key(|copy| copy.number);
        Ok(File {
            id,
            storage_index,
            geometry,
            layout: Layout {
                size: geometry.size(),
                k,
                n,
                block_bytes: geometry.block_bytes(),
                tail_block_bytes: geometry.tail_block_bytes(),
                leaf_bytes,
            },
            code,
            cipher: Aes128Ctr::new(cap.key()),
            ciphertext_root: opened.ciphertext_root,
            copies,
            bad_blocks: RefCell::new(LruCache::unbounded()),
            refused: RefCell::new(LruCache::unbounded()),
            opened: Instant::now(),
            used: Cell::new(Instant::now()),
            returns,
            number: object_number(&storage_index.to_string()),
            _files: files,
        })
    }

    /// Closes what nobody asked for in a while, so that a store can be unmounted.
    pub fn close_unused(&self, now: Instant) {
        close_unused(&mut self.known.borrow_mut(), |file| {
            now.saturating_duration_since(file.used.get())
        });
    }

    /// The record of a segment, verified now if it is not at hand. One request verifies, others that want
    /// the same wait for it.
    pub async fn record(
        &self,
        engine: &Engine,
        file: &File,
        segment: u64,
    ) -> Result<Rc<SegmentRecord>, PieceError> {
        let turn = loop {
            if let Some(record) = self.records.get(file.id, segment) {
                return Ok(record);
            }
            match Turn::take(self, (file.id, segment)) {
                Ok(turn) => break turn,
                Err(others) => others.notified().await,
            }
        };
        let Ok(_place) = self.verifications.acquire().await else {
            return Err(PieceError::Interrupted);
        };
        // Boxed: most that come here wait, and should not hold room for a verification's state.
        let record = Box::pin(verify::verify(engine, &self.trees, file, segment)).await?;
        self.records.insert(file.id, segment, &record);
        drop(turn);
        engine
            .stats
            .verified_segment_memory_bytes
            .set(self.records.bytes() as u64);
        Ok(record)
    }

    /// Forgets a segment's record: what was read is not what was verified.
    pub fn forget(&self, file: &File, segment: u64) {
        self.records.remove(file.id, segment);
    }
}

/// The right to verify a segment; dropped, it wakes those that wait for the outcome.
struct Turn<'a> {
    gateway: &'a Gateway,
    segment: (ObjectId, u64),
}

impl Turn<'_> {
    /// Takes it, or gives what to wait on if another has it.
    fn take(gateway: &Gateway, segment: (ObjectId, u64)) -> Result<Turn<'_>, Rc<Notify>> {
        let mut under_way = gateway.under_way.borrow_mut();
        if let Some(others) = under_way.get(&segment) {
            return Err(Rc::clone(others));
        }
        under_way.insert(segment, Rc::default());
        Ok(Turn { gateway, segment })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let others = self.gateway.under_way.borrow_mut().remove(&self.segment);
        if let Some(others) = others {
            others.notify_waiters();
        }
    }
}
