//! Reads ahead, past the page cache, for connections that take an object from the disk as fast as it comes.
//!
//! A piece is as long as a socket's credit, tens of KiB where the peer is near. A disk that is asked for so little,
//! one piece after the other, gives a fraction of what it could. So for a connection that has shown how fast it takes
//! bytes, long *stretches* of the shares are read before their turn. What they are read for stays as it is: each
//! piece is planned, verified and rebuilt when the gate admits it, from the stretch in place of the disk.
//!
//! They are direct reads, from the disk into a pool of their own: the page cache costs a copy, and what is read for
//! the first time has no reason yet to drive others out of it. What was read and verified before, or lies in the
//! page cache, is not read so; thus what is asked for again comes to be kept there.
//!
//! This is the only place where bytes are read before the kernel reports room for them. What that may take is
//! bounded and planned: the pool. Only who has none of its buffers waits for one, and not for long; who gets none then
//! goes without. And who keeps a stretch for longer than [`AHEAD_HOLD`] loses all it has at the next tick.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use decode_kernel::share::BLOCKS_OFFSET;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::body::produce;
use crate::body::splice;
use crate::connection::core::{Connection, Core};
use crate::engine::plan::{Read, Room};
use crate::io::pool::{Pool, PoolBuffer, View, Window};
use crate::memory::limits::{
    AHEAD_BUFFER_WAIT, AHEAD_BUFFER_WAIT_FIRST, AHEAD_FILES_MAX, AHEAD_FIRST_BYTES, AHEAD_HOLD,
    AHEAD_PROBE_BYTES, AHEAD_PROOF_BYTES, AHEAD_PROOF_WITHIN, AHEAD_READS_AT_ONCE,
    AHEAD_STRETCHES_MAX, AHEAD_TURN, DIRECT_ALIGN,
};
use crate::objects::object::{DirectFile, Object};

/// Bytes of an object whose shares were read ahead.
pub struct Stretch {
    /// Of the object.
    pub range: Range<u64>,
    reads: Vec<Held>,
}

/// One of its reads.
struct Held {
    read: Read,
    /// Of the share's file, from before it was read.
    edition: Option<u32>,
    window: Arc<Window>,
}

impl Stretch {
    /// What a read would bring, if all of it is here, and the edition of the share's file that it is of, if
    /// that is known.
    pub fn find(&self, read: &Read) -> Option<(View, Option<u32>)> {
        let here = self
            .reads
            .iter()
            .find(|here| here.read.share == read.share)?;
        let start = read.window.start.checked_sub(here.read.window.start)?;
        let end = read.window.end.checked_sub(here.read.window.start)?;
        if end > here.window.len() as u64 {
            return None;
        }
        let view = View::new(Arc::clone(&here.window), start as usize..end as usize);
        Some((view, here.edition))
    }
}

/// What one core reads ahead with.
pub struct ReadAhead {
    pool: Pool,
    /// Places for streams, one for each buffer.
    streams: Arc<Semaphore>,
    /// Places for files that are open for direct reads.
    files: Arc<Semaphore>,
    /// Turns to read a stretch, in the order in which they were wanted.
    turns: Semaphore,
}

impl ReadAhead {
    /// With these buffers, which are for direct reads.
    pub fn new(pool: Pool) -> Rc<ReadAhead> {
        Rc::new(ReadAhead {
            streams: Arc::new(Semaphore::new(pool.buffers())),
            pool,
            files: Arc::new(Semaphore::new(AHEAD_FILES_MAX)),
            turns: Semaphore::new(AHEAD_READS_AT_ONCE),
        })
    }

    /// The buffers.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Does `read` when it's its turn, which others need not wait for longer than [`AHEAD_TURN`]: a disk that hangs
    /// holds up its own streams alone.
    async fn in_turn<T>(&self, read: impl Future<Output = T>) -> T {
        let turn = self.turns.acquire().await;
        let mut read = pin!(read);
        if let Ok(done) = timeout(AHEAD_TURN, &mut read).await {
            return done;
        }
        drop(turn);
        read.await
    }

    /// A buffer for a stream that has none. Others may have more than their part until they have sent it, so it is
    /// waited for: the kernel, which would read instead, reads far more of a file than one stretch.
    async fn buffer(&self, within: Duration) -> Option<PoolBuffer> {
        timeout(within, self.pool.take()).await.ok()
    }

    /// How many stretches a fast stream may have: all have the same part. Each has one at least, and where that is
    /// all, the disk is busy with others' while one is sent.
    fn stretches(&self) -> usize {
        let buffers = self.pool.buffers();
        let streams = buffers - self.streams.available_permits();
        (buffers / streams.max(1)).min(AHEAD_STRETCHES_MAX)
    }
}

/// What is read ahead for one connection.
pub struct Stream {
    all: Rc<ReadAhead>,
    _place: OwnedSemaphorePermit,
    object: Rc<Object>,
    /// The share files that it reads, by number. They stay open from one stretch to the next.
    files: Vec<(u16, Rc<DirectFile>)>,
    /// Whether its peer was found to be fast.
    proven: bool,
    /// Until then it has one short stretch at a time, and none behind this position in the object.
    probe_end: u64,
    /// Up to this position nothing is read ahead: it need not be, or can't.
    idle_until: u64,
    /// Whether it has had a stretch.
    has_had: bool,
    /// The bytes that are being sent.
    present: Option<Rc<Stretch>>,
    /// Since when.
    since: Instant,
    /// Those that follow, without gaps, with the tasks that read them, which end by themselves whatever becomes of
    /// the connection.
    coming: VecDeque<(Range<u64>, JoinHandle<Option<Stretch>>)>,
}

/// How fast a connection takes bytes, until that is known.
#[derive(Clone, Copy, Debug)]
pub struct Proof {
    acknowledged: u64,
    since: Instant,
}

impl Proof {
    /// Nothing is known of a connection that has acknowledged so much by now.
    pub fn new(acknowledged: u64, now: Instant) -> Proof {
        Proof {
            acknowledged,
            since: now,
        }
    }

    /// Whether the peer acknowledged enough, quickly enough. What came too slowly is forgotten.
    fn holds(&mut self, acknowledged: u64, now: Instant) -> bool {
        let delivered = acknowledged.saturating_sub(self.acknowledged);
        if delivered < AHEAD_PROOF_BYTES {
            return false;
        }
        let took = now.saturating_duration_since(self.since);
        *self = Proof::new(acknowledged, now);
        // Asked once in a while only, where many have their turns: then more was delivered in a longer time.
        let times = delivered as f64 / AHEAD_PROOF_BYTES as f64;
        took <= AHEAD_PROOF_WITHIN.mul_f64(times)
    }
}

impl Stream {
    /// One that begins at `start`, if there is a place for it.
    fn new(all: &Rc<ReadAhead>, object: &Rc<Object>, start: u64, proven: bool) -> Option<Stream> {
        let place = Arc::clone(&all.streams).try_acquire_owned().ok()?;
        Some(Stream {
            all: Rc::clone(all),
            _place: place,
            object: Rc::clone(object),
            files: Vec::new(),
            proven,
            probe_end: start.saturating_add(AHEAD_PROBE_BYTES),
            idle_until: start,
            has_had: false,
            present: None,
            since: Instant::now(),
            coming: VecDeque::with_capacity(AHEAD_STRETCHES_MAX),
        })
    }

    /// Whether the connection keeps what was read for it for too long.
    pub fn is_stale(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) > AHEAD_HOLD
    }

    /// Lets go of what does not hold `position` and does not follow on what does.
    fn advance(&mut self, position: u64) {
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

    /// Waits for the first stretch. Returns whether there is one.
    async fn arrive(&mut self) -> bool {
        if self.present.is_some() {
            return true;
        }
        let Some((_, task)) = self.coming.pop_front() else {
            return false;
        };
        let Ok(Some(stretch)) = task.await else {
            self.coming.clear();
            return false;
        };
        self.present = Some(Rc::new(stretch));
        self.has_had = true;
        self.since = Instant::now();
        true
    }

    /// Has what follows in `body` read, as much as this connection may have.
    fn extend(&mut self, core: &Rc<Core>, body: &Range<u64>) {
        let Room { bytes, align } = self.all.pool.room();
        let (most, longest, end) = match self.proven {
            true => (self.all.stretches(), bytes as u64, body.end),
            false => (1, AHEAD_FIRST_BYTES, body.end.min(self.probe_end)),
        };
        while self.coming.len() + usize::from(self.present.is_some()) < most {
            let present = self.present.as_ref().map(|present| &present.range);
            let last = self.coming.back().map(|(range, _)| range).or(present);
            let is_first = last.is_none();
            let start = last.map_or(body.start, |last| last.end);
            let wanted = start..end.min(start.saturating_add(longest));
            if wanted.is_empty() || wanted.start < self.idle_until {
                return;
            }
            // Nothing is rebuilt here, and what is rebuilt later is never more than what that takes.
            let room = Room {
                bytes: 2 * bytes,
                align,
            };
            let Ok(plan) = produce::plan(&self.object, wanted, room) else {
                return;
            };
            let lengths = plan.reads.iter().map(Read::bytes);
            let needed: usize = lengths.map(|length| length.next_multiple_of(align)).sum();
            if needed > bytes || !self.is_worth_it(core, &plan.reads) {
                self.idle_until = plan.range.end;
                return;
            }
            let buffer = self.all.pool.try_take();
            if buffer.is_none() && !is_first {
                return;
            }
            let range = plan.range.clone();
            let (core, object) = (Rc::clone(core), Rc::clone(&self.object));
            let all = Rc::clone(&self.all);
            let wait = match self.has_had {
                true => AHEAD_BUFFER_WAIT,
                false => AHEAD_BUFFER_WAIT_FIRST,
            };
            let task = tokio::task::spawn_local(async move {
                let buffer = match buffer {
                    Some(buffer) => buffer,
                    None => all.buffer(wait).await?,
                };
                let read = async {
                    let editions = produce::editions(&core, &object, &plan);
                    let windows = produce::read_ahead(&core, &object, &plan.reads, buffer).await?;
                    Some((editions, windows))
                };
                let (editions, windows) = all.in_turn(read).await?;
                let reads = plan.reads.into_iter().zip(editions).zip(windows);
                let reads = reads.map(|((read, edition), window)| Held {
                    read,
                    edition,
                    window: Arc::new(window),
                });
                Some(Stretch {
                    range: plan.range,
                    reads: reads.collect(),
                })
            });
            self.coming.push_back((range, task));
        }
    }

    /// Whether this is to be read directly: it can be, not all of it was read before, and not all is in the page
    /// cache.
    fn is_worth_it(&mut self, core: &Core, reads: &[Read]) -> bool {
        let object = Rc::clone(&self.object);
        let leaf = object.layout().leaf_bytes;
        let (mut cached, mut known) = (true, true);
        for read in reads {
            let Some(share) = object.share(read.share) else {
                return false;
            };
            if !read.window.start.is_multiple_of(DIRECT_ALIGN as u64) {
                return false;
            }
            let blocks = BLOCKS_OFFSET + read.window.start..BLOCKS_OFFSET + read.window.end;
            match core.io.knows_cached(&share.file, &blocks) {
                None => return false,
                Some(all) => cached &= all,
            }
            let leaves = read.window.start / leaf..read.window.end.div_ceil(leaf);
            // Of parity shares nothing is remembered.
            known &= read.share >= object.layout().k
                || share.edition().is_some_and(|edition| {
                    let name = (object.id(), read.share, edition);
                    core.verified.knows(name, leaves, Instant::now())
                });
        }
        !cached && !known && reads.iter().all(|read| self.open(&object, read.share))
    }

    /// Opens a share's file for direct reads, unless there are none or too many.
    fn open(&mut self, object: &Object, number: u16) -> bool {
        if self.files.iter().any(|(open, _)| *open == number) {
            return true;
        }
        let places = &self.all.files;
        let opened = object
            .share(number)
            .and_then(|share| share.open_direct(places));
        let Some(file) = opened else {
            return false;
        };
        self.files.push((number, file));
        true
    }
}

/// What was read ahead of the start of `body`, waiting for it if it is on its way, and has what follows read. `None` for
/// a connection that has no such thing.
///
/// # Errors
/// The connection's.
pub async fn reach(
    core: &Rc<Core>,
    connection: &Connection,
    object: &Rc<Object>,
    body: &Range<u64>,
) -> io::Result<Option<Rc<Stretch>>> {
    let Some(all) = &core.ahead else {
        return Ok(None);
    };
    // While it is out of its place, nothing is taken from it.
    let stream = connection.ahead.take();
    let mut stream = match stream.filter(|stream| Rc::ptr_eq(&stream.object, object)) {
        Some(mut stream) => {
            stream.proven = stream.proven || is_fast(connection)?;
            stream
        }
        None => match begin(core, all, connection, object, body)? {
            Some(stream) => Box::new(stream),
            None => return Ok(None),
        },
    };
    stream.advance(body.start);
    let before = stream.coming.len();
    stream.extend(core, body);
    if stream.coming.len() > before {
        // The new tasks start their reads.
        tokio::task::yield_now().await;
    }
    if !Box::pin(stream.arrive()).await {
        // Whether there is something to read is asked anew some way on, not for every piece.
        let some_way_on = body.start.saturating_add(AHEAD_FIRST_BYTES);
        connection
            .ahead_from
            .set(stream.idle_until.max(some_way_on));
        return Ok(None);
    }
    // What comes next takes a while: to verify, rebuild and send a piece. The disk is not to rest meanwhile.
    core.io.submit().await;
    let present = stream.present.clone();
    connection.ahead.set(Some(stream));
    Ok(present)
}

/// A new stream for a connection that may have one, while there is room: at the start of a response, later if it is fast.
fn begin(
    core: &Core,
    all: &Rc<ReadAhead>,
    connection: &Connection,
    object: &Rc<Object>,
    body: &Range<u64>,
) -> io::Result<Option<Stream>> {
    let layout = object.layout();
    if body.end - body.start < AHEAD_FIRST_BYTES
        || body.start < connection.ahead_from.get()
        || !core.verified.is_kept()
        || !splice::is_worth_it(layout, body.start)
    {
        return Ok(None);
    }
    let is_fast = is_fast(connection)?;
    if !connection.begins.replace(false) && !is_fast {
        return Ok(None);
    }
    Ok(Stream::new(all, object, body.start, is_fast))
}

fn is_fast(connection: &Connection) -> io::Result<bool> {
    let unacknowledged = u64::from(connection.socket.unacknowledged_bytes()?);
    let acknowledged = connection.sent_bytes.get().saturating_sub(unacknowledged);
    let mut proof = connection.proof.get();
    let holds = proof.holds(acknowledged, Instant::now());
    connection.proof.set(proof);
    Ok(holds)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::task::Poll;

    use super::*;

    #[test]
    fn fast_is_who_acknowledges_enough_in_a_short_time() {
        let begun = Instant::now();
        let at = |share: u32| begun + AHEAD_PROOF_WITHIN * share / 4;
        let enough = AHEAD_PROOF_BYTES;
        let mut proof = Proof::new(0, begun);
        assert!(!proof.holds(enough - 1, at(3)), "too little");
        assert!(proof.holds(enough, at(4)));
        assert!(!proof.holds(2 * enough, at(9)), "too slowly");
        assert!(!proof.holds(3 * enough - 1, at(10)), "counted from there");
        assert!(proof.holds(3 * enough, at(11)));
        assert!(proof.holds(6 * enough, at(11 + 3 * 4)), "asked seldom");
        assert!(!proof.holds(9 * enough - 1, at(11 + 6 * 4)), "too slowly");
    }

    #[test]
    fn all_streams_have_the_same_part_and_none_begins_that_would_have_no_buffer() {
        let all = ReadAhead::new(Pool::for_direct_reads(13, 2 * DIRECT_ALIGN));
        let mut places = Vec::new();
        for most in [6, 6, 4, 3, 2, 2, 1, 1, 1, 1, 1, 1, 1] {
            places.push(all.streams.try_acquire().unwrap());
            assert_eq!(all.stretches(), most, "for {}", places.len());
        }
        assert!(all.streams.try_acquire().is_err());
        places.truncate(2);
        assert_eq!(all.stretches(), AHEAD_STRETCHES_MAX);
    }

    #[tokio::test]
    async fn a_buffer_is_waited_for_and_not_for_long() {
        let all = ReadAhead::new(Pool::for_direct_reads(1, 2 * DIRECT_ALIGN));
        let taken = all.buffer(AHEAD_BUFFER_WAIT_FIRST).await.unwrap();
        assert!(all.buffer(AHEAD_BUFFER_WAIT_FIRST).await.is_none());
        let give_back = async { drop(taken) };
        let (buffer, ()) = tokio::join!(all.buffer(AHEAD_BUFFER_WAIT_FIRST), give_back);
        assert!(buffer.is_some());
    }

    #[tokio::test]
    async fn few_are_read_at_one_time_and_one_that_hangs_holds_up_nobody_else() {
        let all = ReadAhead::new(Pool::for_direct_reads(1, 2 * DIRECT_ALIGN));
        let begun = Cell::new(0);
        let hang = || {
            all.in_turn(async {
                begun.set(begun.get() + 1);
                std::future::pending::<()>().await;
            })
        };
        let mut hanging: Vec<_> = (0..2 * AHEAD_READS_AT_ONCE)
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
        assert_eq!((first.await, begun.get()), (None, AHEAD_READS_AT_ONCE));
        assert_eq!(done.await, Some(2 * AHEAD_READS_AT_ONCE), "in order");
    }

    #[tokio::test]
    async fn a_stretch_gives_what_lies_in_it_as_of_before_it_was_read() {
        let pool = Pool::for_direct_reads(1, 4 * DIRECT_ALIGN);
        let lengths = [8000, 4000];
        let (windows, _) = pool.try_take().unwrap().carve(lengths.into_iter());
        let shares = [(1, 16 << 10, Some(7)), (4, 20 << 10, None)];
        let read = |share, window: Range<u64>| Read { share, window };
        let reads = shares
            .iter()
            .zip(windows)
            .map(|(&(share, start, edition), mut window)| {
                for (at, byte) in window.iter_mut().enumerate() {
                    *byte = (at % 251) as u8 ^ share as u8;
                }
                Held {
                    read: read(share, start..start + window.len() as u64),
                    edition,
                    window: Arc::new(window),
                }
            });
        let stretch = Stretch {
            range: 0..1,
            reads: reads.collect(),
        };
        for ((share, start, edition), length) in shares.into_iter().zip(lengths) {
            let end = start + length as u64;
            for part in [start..end, start + 1..end - 1, end - 1..end] {
                let (view, of) = stretch.find(&read(share, part.clone())).unwrap();
                let offset = (part.start - start) as usize;
                assert_eq!((view.len() as u64, of), (part.end - part.start, edition));
                assert_eq!(view[0], (offset % 251) as u8 ^ share as u8);
            }
            for part in [start - 1..end, start..end + 1, end..end + 1] {
                assert!(stretch.find(&read(share, part)).is_none());
            }
            assert!(stretch.find(&read(share + 1, start..end)).is_none());
        }
        assert_eq!(pool.free(), 0);
        let (view, _) = stretch.find(&read(1, 16 << 10..17 << 10)).unwrap();
        drop(stretch);
        assert_eq!(pool.free(), 0, "what is being sent stays");
        drop(view);
        assert_eq!(pool.free(), 1);
    }
}
