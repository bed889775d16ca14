//! Readahead, past the page cache, for connections that take an object from the disk as fast as it comes.
//!
//! A piece is as long as a socket's credit, tens of KiB for a peer nearby. A disk that is asked for so little, one piece
//! after the other, gives a fraction of what it could. So for a connection that has shown how fast it acknowledges,
//! long [batches](Batch) of reads are done before their turn. The pieces stay as they are: each is planned, verified and
//! rebuilt when the gate admits it, from the batch in place of the disk.
//!
//! These are direct reads, from the disk into a pool of their own. The page cache costs a copy, and what is read for
//! the first time is no reason yet to evict something else. What was read and verified before, or lies in the page
//! cache, is not read so; thus an object that is requested again comes to be cached.
//!
//! This is the only place where bytes are read before the kernel reports room for them. The pool bounds how many. A
//! stream without a buffer waits for one, at most [`READAHEAD_BUFFER_WAIT`]; if it gets none, its pieces are read one
//! by one. A connection that keeps one batch for longer than [`READAHEAD_HOLD`] loses all it has at the next tick.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::ack_meter::{AckMeter, Interval, Reader};
use super::batch::Batch;
use super::produce;
use super::turn::Turn;
use crate::engine::Engine;
use crate::engine::plan::Read;
use crate::io::{Pool, PoolBuffer, Room, is_cached};
use crate::memory::limits::{
    DIRECT_ALIGN, FAST_BYTES, FAST_WITHIN, READAHEAD_BATCHES_MAX, READAHEAD_BUFFER_WAIT,
    READAHEAD_BUFFER_WAIT_FIRST, READAHEAD_FILES_MAX, READAHEAD_FIRST_BYTES, READAHEAD_HOLD,
    READAHEAD_PROBE_BYTES, READAHEAD_READS_AT_ONCE, READAHEAD_TURN,
};
use crate::objects::{DirectFile, Object};
use crate::units::{CopyNumber, Length, ObjectOffset, ShareNumber, in_file};

/// What one core reads ahead with.
pub struct Readahead {
    pool: Pool,
    /// Places for streams, one for each buffer.
    streams: Arc<Semaphore>,
    /// Places for files that are open for direct reads.
    files: Arc<Semaphore>,
    /// Turns to read a batch, in the order in which they were asked for.
    turns: Semaphore,
}

impl Readahead {
    /// With these buffers, which are for direct reads.
    pub fn new(pool: Pool) -> Rc<Readahead> {
        Rc::new(Readahead {
            streams: Arc::new(Semaphore::new(pool.buffers())),
            pool,
            files: Arc::new(Semaphore::new(READAHEAD_FILES_MAX)),
            turns: Semaphore::new(READAHEAD_READS_AT_ONCE),
        })
    }

    /// The buffers.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Does `read` in its turn. Other streams wait no longer than [`READAHEAD_TURN`] for it, so a disk that hangs holds
    /// up its own streams only.
    async fn in_turn<T>(&self, read: impl Future<Output = T>) -> T {
        let turn = self.turns.acquire().await;
        let mut read = pin!(read);
        if let Ok(done) = timeout(READAHEAD_TURN, &mut read).await {
            return done;
        }
        drop(turn);
        read.await
    }

    /// Waits for a buffer, for a stream that has none. Other streams may have more than their part until they have sent
    /// it. Without a buffer the kernel would read ahead, far more of each file than one batch.
    async fn buffer(&self, within: Duration) -> Option<PoolBuffer> {
        timeout(within, self.pool.take()).await.ok()
    }

    /// How many batches the stream of a fast peer may have: all streams have the same part. Each has one at least; where
    /// that is all, the disk reads other streams' batches while one is sent.
    fn batches_max(&self) -> usize {
        let buffers = self.pool.buffers();
        let streams = buffers - self.streams.available_permits();
        (buffers / streams.max(1)).min(READAHEAD_BATCHES_MAX)
    }
}

/// The stream of a connection, if it has one. The tick takes it back from a peer that is too slow.
#[derive(Default)]
pub struct Slot(Cell<Option<Box<Stream>>>);

impl Slot {
    /// Takes back what was read ahead and is not sent fast enough.
    pub fn reclaim(&self, now: Instant) {
        let stream = self.0.take();
        self.0.set(stream.filter(|stream| !stream.is_stale(now)));
    }
}

/// What readahead knows of one response.
#[derive(Debug)]
pub struct Cursor {
    /// Whether nothing of the response was produced yet.
    is_first: Cell<bool>,
    /// The position in the object from which on a stream may begin again.
    resume_at: Cell<ObjectOffset>,
}

impl Default for Cursor {
    fn default() -> Cursor {
        Cursor {
            is_first: Cell::new(true),
            resume_at: Cell::new(ObjectOffset(0)),
        }
    }
}

/// What is read ahead for one connection.
struct Stream {
    readahead: Rc<Readahead>,
    _place: OwnedSemaphorePermit,
    object: Rc<Object>,
    /// The share files that it reads, by number. They stay open from one batch to the next.
    files: Vec<((ShareNumber, CopyNumber), Rc<DirectFile>)>,
    /// Whether its peer was found to be fast.
    is_fast: bool,
    /// Until then it has one short batch at a time, and none behind this position in the object.
    probe_end: ObjectOffset,
    /// Up to this position nothing is read ahead: it need not be, or can't.
    idle_until: ObjectOffset,
    /// Whether it has had a batch.
    has_had: bool,
    /// The batch that is being sent.
    present: Option<Rc<Batch>>,
    /// Since when.
    since: Instant,
    /// The batches that follow, without gaps, with the tasks that read them. A task ends by itself, whatever becomes of
    /// the connection.
    coming: VecDeque<(Range<ObjectOffset>, JoinHandle<Option<Batch>>)>,
}

/// Whether a peer is fast: it acknowledged [`FAST_BYTES`] within [`FAST_WITHIN`], or a multiple of both where it is
/// asked seldom. `None` while it has acknowledged too little to tell.
fn is_fast(interval: Interval) -> Option<bool> {
    if interval.bytes < FAST_BYTES {
        return None;
    }
    let times = interval.bytes as f64 / FAST_BYTES as f64;
    Some(interval.lasted <= FAST_WITHIN.mul_f64(times))
}

/// Whether a turn's peer is fast by what it acknowledged since that was last known.
pub(super) fn is_fast_now(turn: &Turn<'_>) -> io::Result<bool> {
    let now = Instant::now();
    let meter: &AckMeter = turn.meter;
    meter.update(turn.socket.unacknowledged_bytes()?, now);
    let fast = is_fast(meter.interval(Reader::Readahead, now));
    if fast.is_some() {
        meter.restart(Reader::Readahead, now);
    }
    Ok(fast.unwrap_or(false))
}

impl Stream {
    /// A stream that begins at `start`, if there is a place for it.
    fn new(
        readahead: &Rc<Readahead>,
        object: &Rc<Object>,
        start: ObjectOffset,
        is_fast: bool,
    ) -> Option<Stream> {
        let place = Arc::clone(&readahead.streams).try_acquire_owned().ok()?;
        Some(Stream {
            readahead: Rc::clone(readahead),
            _place: place,
            object: Rc::clone(object),
            files: Vec::new(),
            is_fast,
            probe_end: start + READAHEAD_PROBE_BYTES,
            idle_until: start,
            has_had: false,
            present: None,
            since: Instant::now(),
            coming: VecDeque::with_capacity(READAHEAD_BATCHES_MAX),
        })
    }

    /// Whether the connection has kept a batch for too long.
    fn is_stale(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) > READAHEAD_HOLD
    }

    /// Drops batches until the first one holds `position`.
    fn advance(&mut self, position: ObjectOffset) {
        if let Some(present) = &self.present {
            if present.range.contains(&position) {
                return;
            }
            self.present = None;
        }
        while let Some((range, _)) = self.coming.front() {
            if range.contains(&position) {
                return;
            }
            self.coming.pop_front();
        }
    }

    /// Waits for the first batch. Returns whether there is one.
    async fn arrive(&mut self) -> bool {
        if self.present.is_some() {
            return true;
        }
        let Some((_, task)) = self.coming.pop_front() else {
            return false;
        };
        let Ok(Some(batch)) = task.await else {
            self.coming.clear();
            return false;
        };
        self.present = Some(Rc::new(batch));
        self.has_had = true;
        self.since = Instant::now();
        true
    }

    /// Starts reading what follows in `body`, as much as this connection may have.
    async fn extend(&mut self, engine: &Rc<Engine>, body: &Range<ObjectOffset>) {
        let Room { bytes, align } = self.readahead.pool.room();
        let (most, longest, end) = match self.is_fast {
            true => (self.readahead.batches_max(), bytes as u64, body.end),
            false => (1, READAHEAD_FIRST_BYTES, body.end.min(self.probe_end)),
        };
        while self.coming.len() + usize::from(self.present.is_some()) < most {
            let present = self.present.as_ref().map(|present| &present.range);
            let last = self.coming.back().map(|(range, _)| range).or(present);
            let is_first = last.is_none();
            let start = last.map_or(body.start, |last| last.end);
            let wanted = start..end.min(start + longest);
            if wanted.is_empty() || wanted.start < self.idle_until {
                return;
            }
            // Nothing is rebuilt here, and what is rebuilt later is never more than what that takes.
            let room = Room {
                bytes: 2 * bytes,
                align,
            };
            let Ok(plan) = produce::plan_piece(&self.object, wanted, room) else {
                return;
            };
            let lengths = plan.reads.iter().map(Read::bytes);
            let needed: usize = lengths.map(|length| length.next_multiple_of(align)).sum();
            if needed > bytes || !self.is_worthwhile(engine, &plan.reads).await {
                self.idle_until = plan.range.end;
                return;
            }
            let buffer = self.readahead.pool.try_take();
            if buffer.is_none() && !is_first {
                return;
            }
            let range = plan.range.clone();
            let (engine, object) = (Rc::clone(engine), Rc::clone(&self.object));
            let readahead = Rc::clone(&self.readahead);
            let wait = match self.has_had {
                true => READAHEAD_BUFFER_WAIT,
                false => READAHEAD_BUFFER_WAIT_FIRST,
            };
            let task = tokio::task::spawn_local(async move {
                let buffer = match buffer {
                    Some(buffer) => buffer,
                    None => readahead.buffer(wait).await?,
                };
                let read = async {
                    let versions = produce::versions(&engine, &object, &plan);
                    let windows =
                        produce::read_direct(&engine, &object, &plan.reads, buffer).await?;
                    Some((versions, windows))
                };
                let (versions, windows) = readahead.in_turn(read).await?;
                let reads = plan.reads.into_iter().zip(versions).zip(windows);
                let reads = reads.map(|((read, version), window)| (read, version, window));
                Some(Batch::new(plan.range, reads))
            });
            self.coming.push_back((range, task));
        }
    }

    /// Whether this is to be read directly: it can be, not all of it was verified before, and not all is in the page
    /// cache.
    async fn is_worthwhile(&mut self, engine: &Engine, reads: &[Read]) -> bool {
        let object = Rc::clone(&self.object);
        let (mut cached, mut known) = (true, true);
        for read in reads {
            let Some(share) = object.share(read.share, read.copy) else {
                return false;
            };
            if !read.window.start.0.is_multiple_of(DIRECT_ALIGN as u64) {
                return false;
            }
            let blocks = in_file(&read.window);
            match is_cached(&share.file, &blocks) {
                None => return false,
                Some(all) => cached &= all,
            }
            let leaves = object.layout().leaves(&read.window);
            // Of parity shares nothing is remembered.
            known &= !read.share.is_data(object.layout().k)
                || share.version().is_some_and(|version| {
                    let file = (object.id(), read.share, version);
                    engine.verified.knows(file, leaves, Instant::now())
                });
        }
        if cached || known {
            return false;
        }
        for read in reads {
            if !self.open(&object, (read.share, read.copy)).await {
                return false;
            }
        }
        true
    }

    /// Opens a share's file for direct reads, unless they are refused or too many are open.
    async fn open(&mut self, object: &Object, (number, copy): (ShareNumber, CopyNumber)) -> bool {
        if self.files.iter().any(|(open, _)| *open == (number, copy)) {
            return true;
        }
        let places = &self.readahead.files;
        let Some(share) = object.share(number, copy) else {
            return false;
        };
        let Some(file) = share.open_direct(places).await else {
            return false;
        };
        self.files.push(((number, copy), file));
        true
    }
}

impl Readahead {
    /// The batch that holds the start of the turn's body, waiting for it if it is on its way; starts reading what
    /// follows. `None` for a connection that is not read ahead for.
    ///
    /// # Errors
    /// The connection's.
    pub async fn batch(
        self: &Rc<Self>,
        engine: &Rc<Engine>,
        turn: &Turn<'_>,
        object: &Rc<Object>,
        slot: &Slot,
        cursor: &Cursor,
    ) -> io::Result<Option<Rc<Batch>>> {
        // While it is out of its slot, nothing is reclaimed.
        let stream = slot.0.take();
        let mut stream = match stream.filter(|stream| Rc::ptr_eq(&stream.object, object)) {
            Some(mut stream) => {
                stream.is_fast = stream.is_fast || is_fast_now(turn)?;
                stream
            }
            None => match self.begin(engine, turn, object, cursor)? {
                Some(stream) => Box::new(stream),
                None => return Ok(None),
            },
        };
        stream.advance(turn.body.start);
        let before = stream.coming.len();
        stream.extend(engine, &turn.body).await;
        if stream.coming.len() > before {
            // The new tasks start their reads.
            tokio::task::yield_now().await;
        }
        if !stream.arrive().await {
            // Whether there is something to read is asked again some way on, not for every piece.
            let some_way_on = turn.body.start + READAHEAD_FIRST_BYTES;
            cursor.resume_at.set(stream.idle_until.max(some_way_on));
            return Ok(None);
        }
        // To verify, rebuild and send a piece takes a while. The disk is not to rest meanwhile.
        engine.io.submit_reads().await;
        let present = stream.present.clone();
        slot.0.set(Some(stream));
        Ok(present)
    }

    /// A new stream for a connection that may have one, while there is room: at the start of a response, later if the
    /// peer is fast.
    fn begin(
        self: &Rc<Self>,
        engine: &Engine,
        turn: &Turn<'_>,
        object: &Rc<Object>,
        cursor: &Cursor,
    ) -> io::Result<Option<Stream>> {
        let body = &turn.body;
        if body.length() < READAHEAD_FIRST_BYTES
            || body.start < cursor.resume_at.get()
            || !engine.verified.is_kept()
            || !object.layout().is_splice_worthwhile(body.start)
        {
            return Ok(None);
        }
        let is_fast = is_fast_now(turn)?;
        if !cursor.is_first.replace(false) && !is_fast {
            return Ok(None);
        }
        Ok(Stream::new(self, object, body.start, is_fast))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::task::Poll;

    use super::*;

    #[test]
    fn a_peer_that_acknowledges_enough_in_a_short_time_is_fast() {
        let is_fast = |bytes, quarters: u32| {
            let lasted = FAST_WITHIN * quarters / 4;
            is_fast(Interval { bytes, lasted })
        };
        assert_eq!(is_fast(FAST_BYTES - 1, 3), None, "too little to tell");
        assert_eq!(is_fast(FAST_BYTES, 4), Some(true));
        assert_eq!(is_fast(FAST_BYTES, 5), Some(false), "too slowly");
        assert_eq!(is_fast(3 * FAST_BYTES, 3 * 4), Some(true), "asked seldom");
        assert_eq!(is_fast(3 * FAST_BYTES - 1, 3 * 4), Some(false));
    }

    #[test]
    fn all_streams_have_the_same_part_and_each_has_a_buffer() {
        let all = Readahead::new(Pool::for_direct_reads(13, 2 * DIRECT_ALIGN));
        let mut places = Vec::new();
        for most in [6, 6, 4, 3, 2, 2, 1, 1, 1, 1, 1, 1, 1] {
            places.push(all.streams.try_acquire().unwrap());
            assert_eq!(all.batches_max(), most, "for {}", places.len());
        }
        assert!(all.streams.try_acquire().is_err());
        places.truncate(2);
        assert_eq!(all.batches_max(), READAHEAD_BATCHES_MAX);
    }

    #[tokio::test]
    async fn a_buffer_is_waited_for_and_not_for_long() {
        let all = Readahead::new(Pool::for_direct_reads(1, 2 * DIRECT_ALIGN));
        let taken = all.buffer(READAHEAD_BUFFER_WAIT_FIRST).await.unwrap();
        assert!(all.buffer(READAHEAD_BUFFER_WAIT_FIRST).await.is_none());
        let give_back = async { drop(taken) };
        let (buffer, ()) = tokio::join!(all.buffer(READAHEAD_BUFFER_WAIT_FIRST), give_back);
        assert!(buffer.is_some());
    }

    #[tokio::test]
    async fn few_batches_are_read_at_one_time_and_one_that_hangs_holds_up_no_other() {
        let all = Readahead::new(Pool::for_direct_reads(1, 2 * DIRECT_ALIGN));
        let begun = Cell::new(0);
        let hang = || {
            all.in_turn(async {
                begun.set(begun.get() + 1);
                std::future::pending::<()>().await;
            })
        };
        let mut hanging: Vec<_> = (0..2 * READAHEAD_READS_AT_ONCE)
            .map(|_| Box::pin(hang()))
            .collect();
        let mut last = pin!(all.in_turn(async { begun.get() }));
        // One look at each, as often as a task would be woken.
        let done = std::future::poll_fn(|context| {
            for read in &mut hanging {
                assert!(read.as_mut().poll(context).is_pending());
            }
            last.as_mut().poll(context).map(Some)
        });
        let mut done = pin!(done);
        let first = std::future::poll_fn(|context| match done.as_mut().poll(context) {
            Poll::Ready(begun) => Poll::Ready(begun),
            Poll::Pending => Poll::Ready(None),
        });
        assert_eq!((first.await, begun.get()), (None, READAHEAD_READS_AT_ONCE));
        assert_eq!(done.await, Some(2 * READAHEAD_READS_AT_ONCE), "in order");
    }
}
