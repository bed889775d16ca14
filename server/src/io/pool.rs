//! The pool of segment buffers, the windows a piece carves from one, and the message that sends them.
//!
//! One buffer serves one piece at a time: everything the piece reads and rebuilds lies in it. A
//! buffer is taken by a [`PoolBuffer`], carved into [`Window`]s that own disjoint parts of it, and goes
//! back when the last window is dropped. Windows are moved into the operations that fill or send them,
//! so a buffer that the kernel still uses can't be handed to anybody else, even if the task that asked
//! was dropped.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::io::IoSlice;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::sys;
use crate::memory::limits::{DIRECT_ALIGN, TABLE_PAGE_BYTES, WINDOW_ALIGN};

/// Buffers start at page boundaries, so that direct reads and registration need no rounding.
const ALIGN: usize = 4096;
/// A pool for direct reads of at least this size begins at a huge page's boundary, and is made of such pages where the
/// kernel has them: the disk reads into few long extents then, not into many pages. Measured on Linux 6.18 with a
/// virtio disk, 16 direct reads of 256 KiB at a time: 2.1 GB/s into small pages, 2.9-3.4 into huge ones.
///
/// Other pools are not: registered buffers in huge pages that are sent without a copy count against the send buffer
/// with far more than their bytes (Linux 6.18: 64 KiB fill one of 1 MiB).
const HUGE_PAGE: usize = 2 << 20;

/// What a piece's windows must fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes for all windows.
    pub bytes: usize,
    /// What the start of each is a multiple of.
    pub align: usize,
}

/// A fixed number of equal buffers, allocated once.
#[derive(Clone)]
pub struct Pool(Arc<Inner>);

struct Inner {
    memory: NonNull<u8>,
    layout: Layout,
    buffer_bytes: usize,
    buffers: usize,
    /// Whether it is for direct reads, and so not registered.
    direct: bool,
    free: Mutex<Vec<u16>>,
    permits: Arc<Semaphore>,
}

// SAFETY: `memory` is reached only through windows, each of which owns its part alone; the free list
// and the semaphore are thread-safe.
unsafe impl Send for Inner {}
// SAFETY: as above; a shared `Inner` gives no access to the memory.
unsafe impl Sync for Inner {}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: allocated in `Pool::new` with this layout; every window held an Arc of this, so
        // none is left.
        unsafe { dealloc(self.memory.as_ptr(), self.layout) }
    }
}

impl Pool {
    /// Allocates `buffers` buffers of `buffer_bytes` each (a multiple of 4096, more than one page).
    ///
    /// # Panics
    /// If the sizes are not so: they are settings, checked before.
    pub fn new(buffers: usize, buffer_bytes: usize) -> Pool {
        Pool::allocate(buffers, buffer_bytes, false)
    }

    /// The same, with windows that can be read into past the page cache ([`Io::start_direct_read`](super::Io)).
    ///
    /// # Panics
    /// As [`Pool::new`].
    pub fn for_direct_reads(buffers: usize, buffer_bytes: usize) -> Pool {
        Pool::allocate(buffers, buffer_bytes, true)
    }

    fn allocate(buffers: usize, buffer_bytes: usize, direct: bool) -> Pool {
        assert!(
            buffers > 0 && u16::try_from(buffers).is_ok(),
            "{buffers} pool buffers"
        );
        assert!(
            buffer_bytes.is_multiple_of(ALIGN) && buffer_bytes > TABLE_PAGE_BYTES,
            "pool buffers of {buffer_bytes} bytes"
        );
        let bytes = buffers
            .checked_mul(buffer_bytes)
            .expect("the pool's size was checked");
        let huge = direct && bytes >= HUGE_PAGE;
        let align = if huge { HUGE_PAGE } else { ALIGN };
        let layout = Layout::from_size_align(bytes, align).expect("the pool's size was checked");
        // SAFETY: the layout's size is not zero.
        let memory = unsafe { alloc(layout) };
        let memory = NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout));
        // Before the memory is touched: pages that are there stay as they are.
        if huge {
            sys::prefer_huge_pages(memory, bytes);
        }
        // SAFETY: as many bytes were just allocated.
        unsafe { memory.write_bytes(0, bytes) };
        Pool(Arc::new(Inner {
            memory,
            layout,
            buffer_bytes,
            buffers,
            direct,
            free: Mutex::new((0..buffers as u16).rev().collect()),
            permits: Arc::new(Semaphore::new(buffers)),
        }))
    }

    /// Takes a buffer, waiting for one if none is free.
    pub async fn take(&self) -> PoolBuffer {
        let permit = Arc::clone(&self.0.permits)
            .acquire_owned()
            .await
            .expect("the pool's semaphore is never closed");
        self.lease(permit)
    }

    /// Takes a buffer if one is free.
    pub fn try_take(&self) -> Option<PoolBuffer> {
        let permit = Arc::clone(&self.0.permits).try_acquire_owned().ok()?;
        Some(self.lease(permit))
    }

    fn lease(&self, permit: OwnedSemaphorePermit) -> PoolBuffer {
        let index = self
            .0
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
            .expect("as many permits as free buffers");
        PoolBuffer(Lease {
            pool: self.clone(),
            index,
            _permit: permit,
        })
    }

    /// Buffers in all.
    pub fn buffers(&self) -> usize {
        self.0.buffers
    }

    /// Buffers that nobody holds.
    pub fn free(&self) -> usize {
        self.0.permits.available_permits()
    }

    /// Bytes of a buffer that windows may use: all but the page kept for leaf checksums.
    pub fn piece_capacity(&self) -> usize {
        self.0.buffer_bytes - TABLE_PAGE_BYTES
    }

    /// The same, with what windows are aligned to.
    pub fn room(&self) -> Room {
        Room {
            bytes: self.piece_capacity(),
            align: if self.0.direct {
                DIRECT_ALIGN
            } else {
                WINDOW_ALIGN
            },
        }
    }

    /// Address and length of each buffer, in index order, for registering them with a ring.
    pub fn extents(&self) -> impl Iterator<Item = Extent> + '_ {
        (0..self.0.buffers).map(|index| Extent {
            pool: self.clone(),
            index,
        })
    }

    fn address(&self, index: usize) -> *mut u8 {
        debug_assert!(index < self.0.buffers);
        // SAFETY: `index` is below the number of buffers, so the offset lies in the allocation.
        unsafe { self.0.memory.as_ptr().add(index * self.0.buffer_bytes) }
    }
}

/// One whole buffer as the ring's registration sees it: an address and a length, kept alive. It gives
/// no access to the bytes.
pub struct Extent {
    pool: Pool,
    index: usize,
}

// SAFETY: the memory stays at its address while `pool` is held. The length is reported as fully
// initialised, which it is: it was allocated zeroed.
unsafe impl tokio_uring::buf::IoBuf for Extent {
    fn stable_ptr(&self) -> *const u8 {
        self.pool.address(self.index)
    }
    fn bytes_init(&self) -> usize {
        self.pool.0.buffer_bytes
    }
    fn bytes_total(&self) -> usize {
        self.pool.0.buffer_bytes
    }
}

// SAFETY: as above; `set_init` has nothing to record.
unsafe impl tokio_uring::buf::IoBufMut for Extent {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.pool.address(self.index)
    }
    unsafe fn set_init(&mut self, _: usize) {}
}

struct Lease {
    pool: Pool,
    index: u16,
    /// Released after `drop` below has put the index back.
    _permit: OwnedSemaphorePermit,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.pool
            .0
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(self.index);
    }
}

/// A whole buffer, not yet carved.
pub struct PoolBuffer(Lease);

impl PoolBuffer {
    /// What windows may use.
    pub fn room(&self) -> Room {
        self.0.pool.room()
    }

    /// Cuts the buffer into windows of these lengths and one for a table page.
    ///
    /// # Panics
    /// If they don't fit; plans are made to the pool's [`Pool::piece_capacity`].
    pub fn carve(self, lengths: impl Iterator<Item = usize>) -> (Vec<Window>, Window) {
        let Room {
            bytes: capacity,
            align,
        } = self.0.pool.room();
        let lease = Arc::new(self.0);
        let mut start = 0;
        let windows = lengths
            .map(|length| {
                assert!(
                    length <= capacity && start <= capacity - length,
                    "a window of {length} bytes at {start} does not fit {capacity}"
                );
                let window = Window {
                    lease: Arc::clone(&lease),
                    start,
                    length,
                };
                start += length.next_multiple_of(align);
                window
            })
            .collect();
        (
            windows,
            Window {
                lease,
                start: capacity,
                length: TABLE_PAGE_BYTES,
            },
        )
    }
}

/// The sole owner of a part of a pool buffer.
pub struct Window {
    lease: Arc<Lease>,
    start: usize,
    length: usize,
}

impl Window {
    fn address(&self) -> *mut u8 {
        // SAFETY: `carve` made windows that lie inside their buffer.
        unsafe {
            self.lease
                .pool
                .address(usize::from(self.lease.index))
                .add(self.start)
        }
    }

    /// The index under which the buffer is registered with the core's ring, if its pool is.
    pub fn buffer_index(&self) -> Option<u16> {
        (!self.lease.pool.0.direct).then_some(self.lease.index)
    }

    /// The window with what follows it up to the next one: a direct read fills whole sectors.
    pub fn with_padding(&mut self) -> &mut [u8] {
        let length = self.length.next_multiple_of(self.lease.pool.room().align);
        // SAFETY: as in `deref_mut`: `carve` begins the next window behind this, and what all of them may use, and
        // the whole buffer, are multiples of the alignment.
        unsafe { std::slice::from_raw_parts_mut(self.address(), length) }
    }
}

impl Deref for Window {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `carve` gave this part to this window alone, it is initialised (allocated zeroed),
        // and the lease keeps it. While an operation fills it, the operation owns the window.
        unsafe { std::slice::from_raw_parts(self.address(), self.length) }
    }
}

impl DerefMut for Window {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.address(), self.length) }
    }
}

/// A part of a window that several read and nobody changes any more.
#[derive(Clone)]
pub struct View {
    window: Arc<Window>,
    bytes: Range<usize>,
}

impl View {
    /// These bytes of a window.
    ///
    /// # Panics
    /// If they lie outside of it.
    pub fn new(window: Arc<Window>, bytes: Range<usize>) -> View {
        assert!(bytes.start <= bytes.end && bytes.end <= window.len());
        View { window, bytes }
    }
}

impl Deref for View {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.window[self.bytes.clone()]
    }
}

/// What a piece is made of.
pub enum Chunk {
    /// What was read or rebuilt for it.
    Own(Window),
    /// What was read ahead.
    Ahead(View),
}

impl Deref for Chunk {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Chunk::Own(window) => window,
            Chunk::Ahead(view) => view,
        }
    }
}

/// What one `sendmsg` sends: the rest of a head, then parts of chunks.
pub struct Message {
    head: Bytes,
    chunks: Vec<Chunk>,
    slices: Vec<(usize, Range<usize>)>,
}

impl Message {
    /// A message of `head` and then `slices` (of the chunk with that index, these bytes), in order.
    pub fn new(head: Bytes, chunks: Vec<Chunk>, slices: Vec<(usize, Range<usize>)>) -> Message {
        Message {
            head,
            chunks,
            slices,
        }
    }

    /// What goes before the slices.
    pub fn head(&self) -> &Bytes {
        &self.head
    }

    /// The slices alone.
    #[must_use]
    pub fn without_head(self) -> Message {
        Message {
            head: Bytes::new(),
            ..self
        }
    }

    /// Whether all of it lies in windows of its own, and so in one buffer.
    pub fn is_own(&self) -> bool {
        self.chunks
            .iter()
            .all(|chunk| matches!(chunk, Chunk::Own(_)))
    }

    /// The index under which the buffer of its own windows is registered, if there are some, and it is.
    pub fn buffer_index(&self) -> Option<u16> {
        self.chunks.iter().find_map(|chunk| match chunk {
            Chunk::Own(window) => window.buffer_index(),
            Chunk::Ahead(_) => None,
        })
    }

    /// Bytes in all.
    pub fn bytes(&self) -> usize {
        let slices = self.slices.iter().map(|(_, bytes)| bytes.len());
        self.head.len() + slices.sum::<usize>()
    }

    /// The parts in order, as far as they lie in `range` of the message.
    ///
    /// # Panics
    /// If a slice lies outside its window: plans make them.
    pub fn parts(&self, range: Range<usize>) -> Vec<IoSlice<'_>> {
        within(self.whole(), range)
    }

    /// All parts in order.
    ///
    /// # Panics
    /// As [`Message::parts`].
    pub fn whole(&self) -> impl Iterator<Item = &[u8]> + Clone {
        let slices = self.slices.iter();
        std::iter::once(&self.head[..])
            .chain(slices.map(|(at, bytes)| &self.chunks[*at][bytes.clone()]))
    }
}

/// Of parts that follow one another, what lies in `range`, counted from the first one's start.
pub(super) fn within<'a>(
    parts: impl Iterator<Item = &'a [u8]>,
    range: Range<usize>,
) -> Vec<IoSlice<'a>> {
    let mut at = 0;
    parts
        .filter_map(|part| {
            let start = range.start.saturating_sub(at);
            let end = range.end.saturating_sub(at).min(part.len());
            at += part.len();
            (start < end).then(|| IoSlice::new(&part[start..end]))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(pool: &Pool) -> Option<PoolBuffer> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            tokio::select! {
                biased;
                buffer = pool.take() => Some(buffer),
                () = tokio::task::yield_now() => None,
            }
        })
    }

    #[test]
    fn windows_are_disjoint_and_the_buffer_returns_with_the_last() {
        let pool = Pool::new(1, 16 * 1024);
        let (mut windows, mut page) = take(&pool).unwrap().carve([100, 4096, 64].into_iter());
        for (i, window) in windows.iter_mut().chain([&mut page]).enumerate() {
            window.fill(i as u8 + 1);
        }
        for (i, window) in windows.iter().chain([&page]).enumerate() {
            assert!(window.iter().all(|&b| b == i as u8 + 1));
        }
        assert_eq!(pool.free(), 0);
        assert!(take(&pool).is_none());
        drop(page);
        windows.truncate(1);
        assert!(take(&pool).is_none());
        windows.clear();
        assert_eq!(pool.free(), 1);
        assert!(take(&pool).is_some());
    }

    #[test]
    fn a_message_lists_its_parts_in_order() {
        let pool = Pool::new(1, 16 * 1024);
        let (mut windows, _) = take(&pool).unwrap().carve([4, 4].into_iter());
        windows[0].copy_from_slice(b"abcd");
        windows[1].copy_from_slice(b"efgh");
        let message = Message::new(
            Bytes::from_static(b"head"),
            windows.into_iter().map(Chunk::Own).collect(),
            vec![(1, 1..3), (0, 0..4)],
        );
        let text = |range: Range<usize>| -> Vec<u8> {
            let parts = message.parts(range);
            assert!(parts.iter().all(|part| !part.is_empty()));
            parts.iter().flat_map(|part| part.to_vec()).collect()
        };
        let whole = b"headfgabcd";
        assert_eq!(message.bytes(), whole.len());
        for start in 0..=whole.len() {
            for end in start..=whole.len() {
                assert_eq!(text(start..end), whole[start..end]);
            }
        }
    }

    #[test]
    #[should_panic(expected = "does not fit")]
    fn windows_that_do_not_fit_are_a_bug() {
        let pool = Pool::new(1, 16 * 1024);
        let _ = take(&pool).unwrap().carve([8192, 8192].into_iter());
    }
}
