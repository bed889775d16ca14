//! The sources of a body, and the one ladder that every piece goes down.
//!
//! ```text
//! head alone -> hot object -> spliced -> [ let others go first | prepare, readahead | wait for a permit ] -> produced
//!      ^____________________________________________|_______________________________________|
//! ```
//!
//! A turn asks the sources in memory first, which cost no reading. If none has its bytes it gets ready to produce a
//! piece. Whenever that had to wait for other connections, the sources in memory are asked again: what was waited for
//! has often put the bytes there. A further source is a further rung: one in memory belongs in
//! `Sources::send_from_memory`, one that has to fetch in [`Resources::prepare`].

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Mutex, Semaphore, SemaphorePermit};

use super::batch::Batch;
use super::fetch::Fetching;
use super::hot::HotObjects;
use super::readahead::{Cursor, Readahead, Slot, is_fast_now};
use super::rebuilt::RebuiltBlocks;
use super::resource::{OpenResource, Resource, Resources};
use super::splice;
use super::turn::{Turn, Way};
use super::zero_copy::ZeroCopy;
use crate::engine::{Engine, PieceError};
use crate::io::{Segmentation, sent_or_zero};
use crate::memory::limits::{
    FETCH_ATTEMPTS_MAX, REMOTE_EXTENT_BYTES, REMOTE_PATIENCE, REMOTE_PAUSE_LEAST, REMOTE_PAUSE_MOST,
};
use crate::objects::{LookupError, Object};
use crate::remote::Fetcher;
use crate::tls::Workspace;
use crate::units::ObjectOffset;

/// One core's sources of bodies.
pub struct Sources {
    /// What producing takes.
    pub engine: Rc<Engine>,
    /// What can be opened.
    pub resources: Resources,
    /// Small objects that are requested often.
    pub hot: HotObjects,
    /// Rebuilt blocks, for other clients of the same object.
    pub rebuilt: RebuiltBlocks,
    /// What fetches parts of remote shares, if there are remote stores.
    pub fetcher: Option<Arc<Fetcher>>,
    /// What is read ahead with; `None` if nothing is.
    pub readahead: Option<Rc<Readahead>>,
    /// Sends that pin their buffers.
    pub zero_copy: Rc<ZeroCopy>,
    /// Permits to produce a piece: as many as there are pool buffers.
    pub permits: Semaphore,
    /// What TLS records are made with, if there is TLS.
    pub workspace: Option<RefCell<Workspace>>,
    /// Where the content of a TLS record is collected that is made again.
    pub record: Mutex<RefCell<Vec<u8>>>,
}

/// The body of one response.
pub struct Body {
    /// Where its bytes come from.
    pub resource: Resource,
    cursor: Cursor,
    /// From where on it is asked again what to fetch ahead.
    ahead_at: Cell<ObjectOffset>,
}

impl Body {
    /// A body of which nothing was sent yet.
    pub fn new(resource: Resource) -> Body {
        Body {
            resource,
            cursor: Cursor::default(),
            ahead_at: Cell::default(),
        }
    }
}

/// Why a turn sent nothing.
#[derive(Debug)]
pub enum SendError {
    /// The connection is over.
    Connection(io::Error),
    /// The piece can't be produced.
    Piece(PieceError),
    /// What is sent can't be opened again.
    Reopen(LookupError),
}

impl From<io::Error> for SendError {
    fn from(error: io::Error) -> SendError {
        SendError::Connection(error)
    }
}

impl From<PieceError> for SendError {
    fn from(error: PieceError) -> SendError {
        SendError::Piece(error)
    }
}

/// How long a turn waits for remote stores.
struct Patience {
    began: Instant,
    pause: Duration,
}

impl Patience {
    fn new() -> Patience {
        Patience {
            began: Instant::now(),
            pause: REMOTE_PAUSE_LEAST,
        }
    }
}

/// What a turn has done to get ready to produce its piece.
#[derive(Default)]
struct Ready<'a> {
    has_yielded: bool,
    is_prepared: bool,
    is_fetched: bool,
    /// How often what was fetched was not there in the end.
    attempts: usize,
    batch: Option<Rc<Batch>>,
    permit: Option<SemaphorePermit<'a>>,
}

impl Sources {
    /// Sends what the socket takes of the turn's head and body, and says how many bytes that was.
    ///
    /// # Errors
    /// The connection's, or why the piece can't be produced.
    pub async fn send(
        &self,
        turn: &Turn<'_>,
        body: Option<&Body>,
        slot: &Slot,
    ) -> Result<usize, SendError> {
        let unfinished = match turn.way {
            Way::Sealed(session) => session.borrow().unfinished(),
            Way::Plain | Way::Collected(_) => None,
        };
        match unfinished {
            None => self.send_once(turn, body, slot).await,
            Some(bytes) => Box::pin(self.send_again(turn, bytes, body, slot)).await,
        }
    }

    /// Makes the content of a TLS record again, of which a part has left: all of it, which may take several pieces. Then
    /// sends the record's rest, or what the socket takes of it.
    async fn send_again(
        &self,
        turn: &Turn<'_>,
        bytes: usize,
        body: Option<&Body>,
        slot: &Slot,
    ) -> Result<usize, SendError> {
        // One record at a time: its place is part of the plan.
        let mut record = self.record.lock().await;
        record.get_mut().clear();
        loop {
            let done = record.borrow().len();
            if done >= bytes {
                break;
            }
            let head = &turn.head[done.min(turn.head.len())..bytes.min(turn.head.len())];
            let start = turn.body.start + done.saturating_sub(turn.head.len()) as u64;
            let part = Turn {
                way: Way::Collected(&record),
                admitted: (bytes - done - head.len()) as u64,
                head,
                body: start..turn.body.end,
                remaining: turn.remaining - done as u64,
                ..turn.clone()
            };
            if self.send_once(&part, body, slot).await? == 0 {
                return Err(PieceError::Bug("nothing was produced again").into());
            }
        }
        self.engine.stats.tls_records_again.add(1);
        let record = record.borrow();
        Ok(turn.send([&record[..bytes]].into_iter())?)
    }

    /// Sends what the socket takes, where nothing is to be made again.
    async fn send_once(
        &self,
        turn: &Turn<'_>,
        body: Option<&Body>,
        slot: &Slot,
    ) -> Result<usize, SendError> {
        let Some(body) = body.filter(|_| turn.admitted > 0) else {
            return Ok(turn.send([turn.head].into_iter())?);
        };
        let now = Instant::now();
        // It is the time as long as nothing was waited for.
        let mut unwaited = Some(now);
        let mut resource = match body.resource.open(now) {
            Some(resource) => resource,
            None => {
                unwaited = None;
                let reopened = Box::pin(self.resources.reopen(&self.engine, &body.resource)).await;
                self.engine.stats.reopened.add(1);
                reopened.map_err(SendError::Reopen)?
            }
        };
        let mut ready = Ready::default();
        let mut returns = None;
        loop {
            let now = unwaited.take().unwrap_or_else(Instant::now);
            if let Some(sent) = self.send_from_memory(turn, &resource, now)? {
                return Ok(sent);
            }
            // Boxed, so that a connection that waits for credit doesn't hold room for a piece's state.
            let is_ready = Box::pin(self.get_ready(&mut ready, turn, (body, &resource), slot));
            let is_ready = match is_ready.await {
                Err(error @ SendError::Piece(PieceError::StoresAway { .. })) => {
                    let patience = returns.get_or_insert_with(Patience::new);
                    match Box::pin(self.await_stores(patience, body, &resource)).await {
                        Some(again) => resource = again,
                        None => return Err(error),
                    }
                    ready = Ready::default();
                    continue;
                }
                is_ready => is_ready?,
            };
            if is_ready {
                let attempts = ready.attempts + 1;
                match Box::pin(self.send_produced(ready, turn, &resource)).await {
                    // What was fetched is gone again, or did not match its checksum.
                    Err(SendError::Piece(PieceError::NotFetched { .. }))
                        if attempts < FETCH_ATTEMPTS_MAX =>
                    {
                        ready = Ready {
                            attempts,
                            ..Ready::default()
                        };
                    }
                    result => return result,
                }
            }
        }
    }

    /// Sends from the sources in memory; `None` if none of them has the start of the body.
    fn send_from_memory(
        &self,
        turn: &Turn<'_>,
        resource: &OpenResource,
        now: Instant,
    ) -> io::Result<Option<usize>> {
        let OpenResource::Object(object) = resource else {
            return Ok(None);
        };
        match self.hot.send(&self.engine, turn, object, now)? {
            None => splice::send(&self.engine, &self.rebuilt, turn, object),
            sent => Ok(sent),
        }
    }

    /// Takes the next steps towards producing a piece. Returns whether the turn may produce it now; `false` if it
    /// waited for other connections, so that the sources in memory are to be asked again.
    async fn get_ready<'a>(
        &'a self,
        ready: &mut Ready<'a>,
        turn: &Turn<'_>,
        (body, resource): (&Body, &OpenResource),
        slot: &Slot,
    ) -> Result<bool, SendError> {
        // Clients that want the same rebuilt blocks: those behind find what is kept, and catch up.
        if !std::mem::replace(&mut ready.has_yielded, true)
            && matches!(resource, OpenResource::Object(object) if self.rebuilt.is_shared(object.id()))
        {
            self.engine.io.yield_now().await;
            return Ok(false);
        }
        if let OpenResource::Object(object) = resource
            && object.is_remote()
            && !std::mem::replace(&mut ready.is_fetched, true)
            && self.fetch(turn, body, object).await?
        {
            return Ok(false);
        }
        if !ready.is_prepared {
            self.resources
                .prepare(&self.engine, resource, turn.body.start)
                .await?;
            if let (OpenResource::Object(object), Some(readahead)) = (resource, &self.readahead)
                // What is fetched lies in the page cache, and what comes next is fetched ahead.
                && !object.is_remote()
            {
                ready.batch = readahead
                    .batch(&self.engine, turn, object, slot, &body.cursor)
                    .await?;
            }
            ready.is_prepared = true;
        }
        if ready.permit.is_none() {
            match self.permits.try_acquire() {
                Ok(permit) => ready.permit = Some(permit),
                Err(_) => {
                    let permit = self.permits.acquire().await;
                    ready.permit = Some(permit.map_err(io::Error::other)?);
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Too few shares of a remote object can be had now: some stores failed just now, are suspended, or were late when it
    /// was looked up. A download is not broken for that: they are asked again for a while. `None` when that is over.
    async fn await_stores(
        &self,
        patience: &mut Patience,
        body: &Body,
        resource: &OpenResource,
    ) -> Option<OpenResource> {
        let OpenResource::Object(object) = resource else {
            return None;
        };
        if !object.is_remote() || patience.began.elapsed() >= REMOTE_PATIENCE {
            return None;
        }
        tokio::time::sleep(patience.pause).await;
        patience.pause = (2 * patience.pause).min(REMOTE_PAUSE_MOST);
        if let Resource::Object(handle) = &body.resource {
            let looked = self.resources.catalogue.look_again(handle).await;
            // Its shares don't come back. If that failed otherwise, what is known of it may do.
            if let Err(LookupError::Replaced | LookupError::NotFound) = looked {
                return None;
            }
        }
        match body.resource.open(Instant::now()) {
            Some(resource) => Some(resource),
            None => Some(OpenResource::Object(Rc::clone(object))),
        }
    }

    /// Has fetched what the turn takes of remote shares. Returns whether that took waiting.
    async fn fetch(
        &self,
        turn: &Turn<'_>,
        body: &Body,
        object: &Rc<Object>,
    ) -> Result<bool, SendError> {
        let fetcher = self.fetcher.as_ref();
        let fetcher = fetcher.ok_or(PieceError::Bug("a remote share without a fetcher"))?;
        let fetching = Fetching::new(fetcher, &self.engine, object);
        let wanted = turn.wanted();
        if wanted.start >= body.ahead_at.get() && is_fast_now(turn)? {
            fetching.ahead(wanted.start);
            body.ahead_at.set(wanted.start + REMOTE_EXTENT_BYTES);
        }
        Ok(Box::pin(fetching.run(&wanted)).await?)
    }

    /// Produces a piece, keeps what others may want of it, and sends it.
    async fn send_produced(
        &self,
        ready: Ready<'_>,
        turn: &Turn<'_>,
        resource: &OpenResource,
    ) -> Result<usize, SendError> {
        let engine = &self.engine;
        let mut wanted = turn.wanted();
        if let Some(batch) = &ready.batch {
            wanted.end = wanted.end.min(batch.range.end);
        }
        let piece = self
            .resources
            .produce(engine, resource, wanted, ready.batch.as_deref())
            .await?;
        if let OpenResource::Object(object) = resource {
            let now = Instant::now();
            self.rebuilt.keep(object, &piece, now);
            self.hot.keep(object, &piece, now);
        }
        let head_bytes = turn.head.len();
        let message = piece.into_message(Bytes::copy_from_slice(turn.head));
        let offered = message.bytes();
        // Asked once: for a small buffer that is a system call.
        let segmentation = match turn.is_plain() {
            true => Some(turn.segmentation(offered)?),
            false => None,
        };
        let by_reference = match segmentation {
            // What was read ahead is of another pool, and no peer may pin anything of that.
            Some(Segmentation::ByKernel) if message.is_owned() => {
                self.zero_copy.send(engine, turn, message)
            }
            _ => Err(message),
        };
        let (counter, result) = match (by_reference, segmentation) {
            (Ok(result), _) => (&engine.stats.zero_copy_bytes, sent_or_zero(result)),
            (Err(message), Some(segmentation)) => {
                let result = turn.socket.send(message.parts(), segmentation);
                (&engine.stats.copied_bytes, sent_or_zero(result))
            }
            (Err(message), None) => (&engine.stats.copied_bytes, turn.send(message.parts())),
        };
        let sent = result?;
        counter.add(sent.saturating_sub(head_bytes) as u64);
        engine.stats.discarded_bytes.add((offered - sent) as u64);
        Ok(sent)
    }
}
