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
    CLOSED_HANDLE_BYTES, LOOKUPS_MAX, OPEN_PATIENCE, REOPEN_PATIENCE, STORE_PATIENCE,
    TABLE_PAGE_BYTES, TAHOE_RECHECK, TAHOE_RECHECK_DAMAGED, TAHOE_RECORD_BYTES,
    TAHOE_RECORDS_BYTES, TAHOE_SHARE_FILES_MAX, TAHOE_VERIFICATIONS_MAX,
};
use crate::objects::codes::Codes;
use crate::objects::open_files::{Held, Known, Need, OpenFiles, close_unused, with_patience};
use crate::objects::{Handle, Health, Layout, LookupError};
use crate::stores::{Stores, object_number};
use crate::units::{ObjectId, ShareNumber};

/// What a file is known by without its key: caps that differ in any of these are different files.
type Name = (StorageIndex, Hash, u16, u16, u64);

/// What a client holds of a file.
pub type FileHandle = Handle<ChkCap, File>;

/// A file that was just opened or found open, and the handle on it.
type Opened = (Rc<FileHandle>, Rc<File>);

/// The files that one core keeps at hand.
pub struct Gateway {
    stores: RefCell<Arc<Stores>>,
    segment_bytes_max: u64,
    known: RefCell<Known<Name, ChkCap, File>>,
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
        for (_, handle) in self.known.borrow().iter() {
            handle.peek(|file| {
                health.count(file.live_shares(), file.geometry.k(), file.geometry.n());
            });
        }
    }

    /// The file that a cap stands for.
    pub async fn open(&self, engine: &Engine, cap: ChkCap) -> Result<Opened, LookupError> {
        let name = name(&cap);
        if let Some(opened) = self.fresh(&name) {
            return Ok(opened);
        }
        let opened = with_patience(OPEN_PATIENCE, async |need| {
            let _turn = self.lookups.acquire().await;
            // Another request may have opened it while this one waited.
            if let Some(opened) = self.fresh(&name) {
                return Ok(opened);
            }
            self.look_up(engine, &cap, None, need).await
        });
        let opened = opened.await;
        if matches!(opened, Err(LookupError::NoOpenFiles)) {
            self.files.tell_refusal();
        }
        opened
    }

    /// The file that a client holds, opened again if that was closed while the client waited.
    ///
    /// # Errors
    /// As for a request.
    pub async fn reopen(
        &self,
        engine: &Engine,
        handle: &Rc<FileHandle>,
    ) -> Result<Rc<File>, LookupError> {
        with_patience(REOPEN_PATIENCE, async |need| {
            let _turn = self.lookups.acquire().await;
            // Another client of it may have opened it.
            if let Some(file) = handle.open(Instant::now()) {
                return Ok(file);
            }
            // There is no point in opening files that can't be kept.
            self.files
                .make_room(handle.files(), &mut self.known.borrow_mut(), need)?;
            let opened = self.look_up(engine, handle.name(), Some(handle), need);
            Ok(opened.await?.1)
        })
        .await
    }

    /// Looks a file up, perhaps to open it again for the clients of a handle.
    async fn look_up(
        &self,
        engine: &Engine,
        cap: &ChkCap,
        again: Option<&Rc<FileHandle>>,
        need: Need,
    ) -> Result<Opened, LookupError> {
        let name = name(cap);
        let limits = tahoe::Limits {
            segment_max: self.segment_bytes_max,
            files_max: TAHOE_SHARE_FILES_MAX,
        };
        // Other nodes may take their place meanwhile.
        let stores = Arc::clone(&self.stores.borrow());
        let returns = stores.returns();
        let storage_index = cap.storage_index();
        let mut asked = 0;
        let (opened, is_away) = loop {
            let mut looks = stores.look_in_nodes(cap, limits, false).await;
            if stores.has_slow() && looks.iter().any(|look| !look.is_here()) {
                looks = stores.look_in_nodes(cap, limits, true).await;
            }
            asked += 1;
            let is_away = looks.iter().any(|look| !look.is_here());
            // Those that hang or are gone are suspended by now.
            let mut nodes = looks.iter().zip(stores.nodes());
            let is_late = nodes.any(|(look, node)| !look.is_here() && node.serves(true));
            let opened = tahoe::assemble(looks, cap, &limits, &|rejected| {
                tracing::warn!(%storage_index, node = rejected.node, "share not used: {rejected}");
            });
            match opened {
                // Too few others are left to do without nodes that have much to do.
                Err(OpenError::NotFound { .. } | OpenError::TooFew { .. })
                    if is_late && asked < STORE_PATIENCE => {}
                opened => break (opened, is_away),
            }
        };
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
        if let Some((handle, file)) = self.fresh(&name)
            && again.is_none_or(|again| Rc::ptr_eq(again, &handle))
        {
            return Ok((handle, file));
        }
        let (count, files, known) = {
            let mut known = self.known.borrow_mut();
            let old = known.pop(&name);
            let count = opened.shares.len();
            let held = self.files.hold(count, &mut known, need)?;
            (count, held, again.cloned().or(old))
        };
        let file = Rc::new(self.file(engine, &stores, cap, opened, files, returns)?);
        let known = known.filter(|handle| {
            // Clients of what is open go on with that if it has more shares.
            let live = handle.peek(File::live_shares);
            live.is_none_or(|live| live <= file.live_shares())
        });
        let handle = match known {
            Some(handle) => {
                handle.set_open(Rc::clone(&file), count);
                handle
            }
            None => {
                let open = Rc::clone(&file);
                let budget = self.files.budget();
                Handle::new(cap.clone(), count, open, CLOSED_HANDLE_BYTES, budget)
            }
        };
        handle.ask(Instant::now());
        self.known.borrow_mut().put(name, Rc::clone(&handle));
        Ok((handle, file))
    }

    /// An open file that need not be looked up again yet.
    fn fresh(&self, name: &Name) -> Option<Opened> {
        let handle = self.known.borrow_mut().get(name).cloned()?;
        handle.ask(Instant::now());
        let file = handle.open(Instant::now())?;
        // What comes back may have more of it.
        let recheck = match file.is_damaged() || file.returns != self.stores.borrow().returns() {
            true => TAHOE_RECHECK_DAMAGED,
            false => TAHOE_RECHECK,
        };
        (file.opened.elapsed() < recheck).then_some((handle, file))
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
            returns,
            number: object_number(&storage_index.to_string()),
            _files: files,
        })
    }

    /// Closes what nobody asked for in a while, so that a store can be unmounted.
    pub fn close_unused(&self, now: Instant) {
        close_unused(&mut self.known.borrow_mut(), now);
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

fn name(cap: &ChkCap) -> Name {
    let (index, hash) = (cap.storage_index(), *cap.ueb_hash());
    (index, hash, cap.k(), cap.n(), cap.size())
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
