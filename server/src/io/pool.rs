//! The pool of buffers that pieces are made in, and the windows of one buffer.
//!
//! One buffer serves one piece at a time: all that the piece reads and rebuilds lies in it. A task takes a
//! [`PoolBuffer`] and carves it into [`Window`]s, each the sole owner of its part. The buffer goes back when the last
//! window is dropped. Windows move into the operations that fill or send them, so a buffer that the kernel still uses
//! can't be handed out again, even if the task that started the operation was dropped.
#![allow(unsafe_code)] // one allocation, shared out in disjoint parts

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::memory::limits::{DIRECT_ALIGN, TABLE_PAGE_BYTES, WINDOW_ALIGN};

/// Buffers start at page boundaries, so that direct reads and registration need no rounding.
const ALIGN: usize = 4096;
/// A pool for direct reads of at least this size is aligned to huge pages and made of them where the kernel has some,
/// so that the disk reads into few long extents and not into many pages (Linux 6.18, virtio disk, 16 direct reads of
/// 256 KiB at a time: 2.9-3.4 GB/s in place of 2.1).
///
/// Other pools keep small pages: zero-copy sends from registered huge pages are charged to the send buffer far above
/// their bytes (Linux 6.18: 64 KiB fill one of 1 MiB).
const HUGE_PAGE: usize = 2 << 20;

/// A fixed number of equal buffers, allocated once.
#[derive(Clone)]
pub struct Pool(Arc<Inner>);

struct Inner {
    memory: NonNull<u8>,
    layout: Layout,
    buffer_bytes: usize,
    buffers: usize,
    /// Whether it is for direct reads, and so not registered with a ring.
    direct: bool,
    free: Mutex<Vec<u16>>,
    permits: Arc<Semaphore>,
    /// Buffers of the reserve that may be used and take no other's place.
    spare: AtomicUsize,
    reserve: Mutex<Reserve>,
    /// Buffers that hang and have no replacement.
    missing: AtomicUsize,
    /// The memory of the reserve's buffers that were granted.
    extra: Box<[OnceLock<Extra>]>,
}

/// The memory of one buffer of the reserve.
struct Extra(NonNull<u8>);

// SAFETY: as for `Inner::memory`.
unsafe impl Send for Extra {}
// SAFETY: as above.
unsafe impl Sync for Extra {}

/// Buffers whose memory has to be granted before they are made.
struct Reserve {
    /// How many were granted. What was granted once is kept.
    granted: usize,
    most: usize,
    /// Asks for memory for so many in all.
    grant: Box<dyn FnMut(usize) -> bool + Send>,
}

// SAFETY: `memory` is reached only through windows, each of which owns its part alone; the free list
// and the semaphore are thread-safe.
unsafe impl Send for Inner {}
// SAFETY: as above; a shared `Inner` gives no access to the memory.
unsafe impl Sync for Inner {}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: allocated in `Pool::allocate` with this layout; every window held an Arc of this, so
        // none is left.
        unsafe { dealloc(self.memory.as_ptr(), self.layout) }
        for extra in self.extra.iter().filter_map(OnceLock::get) {
            // SAFETY: the same for `Lease::make`.
            unsafe { dealloc(extra.0.as_ptr(), extra_layout(self.buffer_bytes)) }
        }
    }
}

/// The layout of a reserve's buffer.
fn extra_layout(buffer_bytes: usize) -> Layout {
    Layout::from_size_align(buffer_bytes, ALIGN).expect("the size of a buffer was checked")
}

impl Pool {
    /// Allocates `buffers` buffers of `buffer_bytes` each (a multiple of 4096, more than one page).
    ///
    /// # Panics
    /// If the sizes are not like that. They are settings, and were checked before.
    pub fn new(buffers: usize, buffer_bytes: usize) -> Pool {
        Pool::with_reserve(buffers, 0, buffer_bytes, |_| false)
    }

    /// The same with a reserve, whose buffers take the place of those into which a read was given up, once
    /// `grant` has said that there is memory for so many of them in all. They are not made before.
    ///
    /// # Panics
    /// As [`Pool::new`].
    pub fn with_reserve(
        buffers: usize,
        reserve: usize,
        buffer_bytes: usize,
        grant: impl FnMut(usize) -> bool + Send + 'static,
    ) -> Pool {
        let reserve = Reserve {
            granted: 0,
            most: reserve,
            grant: Box::new(grant),
        };
        Pool::allocate(buffers, reserve, buffer_bytes, false)
    }

    /// The same, for direct reads ([`Io::start_direct_read`](super::Io::start_direct_read)).
    ///
    /// # Panics
    /// As [`Pool::new`].
    pub fn for_direct_reads(buffers: usize, buffer_bytes: usize) -> Pool {
        let none = Reserve {
            granted: 0,
            most: 0,
            grant: Box::new(|_| false),
        };
        Pool::allocate(buffers, none, buffer_bytes, true)
    }

    fn allocate(buffers: usize, reserve: Reserve, buffer_bytes: usize, direct: bool) -> Pool {
        let all = buffers + reserve.most;
        assert!(
            buffers > 0 && u16::try_from(all).is_ok(),
            "{all} pool buffers"
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
        // Before the memory is touched, because pages that are there already stay small.
        if huge {
            prefer_huge_pages(memory, bytes);
        }
        // SAFETY: `bytes` bytes were just allocated.
        unsafe { memory.write_bytes(0, bytes) };
        Pool(Arc::new(Inner {
            memory,
            layout,
            buffer_bytes,
            buffers,
            direct,
            free: Mutex::new((0..buffers as u16).rev().collect()),
            permits: Arc::new(Semaphore::new(buffers)),
            spare: AtomicUsize::new(0),
            extra: (0..reserve.most).map(|_| OnceLock::new()).collect(),
            reserve: Mutex::new(reserve),
            missing: AtomicUsize::new(0),
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
            hangs: Mutex::new(None),
            permit: Some(permit),
        })
    }

    /// Whether every buffer hangs and the reserve is used up: nobody knows when there will be one again.
    pub fn is_exhausted(&self) -> bool {
        self.0.missing.load(Ordering::Relaxed) >= self.0.buffers
    }

    /// The number of buffers that hang.
    pub fn hung_buffers(&self) -> usize {
        self.0.missing.load(Ordering::Relaxed)
            + (self.granted() - self.0.spare.load(Ordering::Relaxed))
    }

    /// Buffers of the reserve that may be used.
    fn granted(&self) -> usize {
        self.reserve().granted
    }

    fn reserve(&self) -> MutexGuard<'_, Reserve> {
        let reserve = self.0.reserve.lock();
        reserve.unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of buffers.
    pub fn buffers(&self) -> usize {
        self.0.buffers
    }

    /// The number of buffers that nothing holds.
    pub fn free_buffers(&self) -> usize {
        self.0.permits.available_permits()
    }

    /// Bytes of a buffer that windows may use: all but the page for leaf checksums at its end.
    pub fn piece_capacity(&self) -> usize {
        self.0.buffer_bytes - TABLE_PAGE_BYTES
    }

    /// What the windows of one buffer must fit.
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

    /// The extent of each buffer, in index order, for registering them with a ring.
    pub(super) fn extents(&self) -> impl Iterator<Item = Extent> + '_ {
        (0..self.0.buffers).map(|index| Extent {
            pool: self.clone(),
            index,
        })
    }

    fn address(&self, index: usize) -> *mut u8 {
        match index.checked_sub(self.0.buffers) {
            // SAFETY: `index` is below the number of buffers, so the offset lies in the allocation.
            None => unsafe { self.0.memory.as_ptr().add(index * self.0.buffer_bytes) },
            Some(extra) => {
                let extra = self.0.extra[extra].get();
                extra.expect("its index came after its memory").0.as_ptr()
            }
        }
    }
}

/// The extent of one buffer, for registering it: an address and a length. It keeps the memory, and gives no access to
/// the bytes.
pub(super) struct Extent {
    pool: Pool,
    index: usize,
}

// SAFETY: the memory stays at its address while `pool` is held. The length is reported as fully
// initialised, which it is, because the pool zeroed it.
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
    /// Whether a read into it hangs, and whether a buffer of the reserve has taken its place.
    hangs: Mutex<Option<bool>>,
    /// Released after `drop` has put the index back.
    permit: Option<OwnedSemaphorePermit>,
}

impl Lease {
    /// A read into this buffer was given up: until it ends, a buffer of the reserve takes its place.
    fn note_hung(&self) {
        let pool = &self.pool.0;
        let mut hangs = self.hangs.lock().unwrap_or_else(PoisonError::into_inner);
        if hangs.is_some() {
            return;
        }
        let take = |spare: usize| spare.checked_sub(1);
        let order = Ordering::Relaxed;
        let mut replaced = pool.spare.fetch_update(order, order, take).is_ok();
        if !replaced {
            let mut reserve = self.pool.reserve();
            let wanted = reserve.granted + 1;
            replaced =
                wanted <= reserve.most && (reserve.grant)(wanted) && self.make(reserve.granted);
            reserve.granted += usize::from(replaced);
        }
        *hangs = Some(replaced);
        if replaced {
            pool.permits.add_permits(1);
        } else {
            pool.missing.fetch_add(1, order);
        }
    }
}

impl Lease {
    /// Makes a buffer of the reserve. Returns whether there was memory.
    fn make(&self, number: usize) -> bool {
        let pool = &self.pool.0;
        // SAFETY: the layout's size is not zero.
        let memory = NonNull::new(unsafe { alloc_zeroed(extra_layout(pool.buffer_bytes)) });
        let Some(memory) = memory else { return false };
        let news = pool.extra[number].set(Extra(memory)).is_ok();
        debug_assert!(news, "each is made once");
        let mut free = pool.free.lock().unwrap_or_else(PoisonError::into_inner);
        // Behind those that are registered with the ring.
        free.insert(0, (pool.buffers + number) as u16);
        true
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let pool = &self.pool.0;
        let mut free = pool.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.push(self.index);
        drop(free);
        match self.hangs.get_mut().unwrap_or_else(PoisonError::into_inner) {
            None => {}
            Some(true) => {
                // Another has the permit.
                if let Some(permit) = self.permit.take() {
                    permit.forget();
                }
                pool.spare.fetch_add(1, Ordering::Relaxed);
            }
            Some(false) => {
                pool.missing.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

/// The buffer that a read fills, without keeping it.
pub(super) struct Filled(Weak<Lease>);

impl Filled {
    /// The read was given up, and did not end yet: until it does, a buffer of the reserve takes the place of this one.
    pub(super) fn note_hung(&self) {
        if let Some(lease) = self.0.upgrade() {
            lease.note_hung();
        }
    }
}

/// What the windows of one buffer must fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes for all windows.
    pub bytes: usize,
    /// The start of each window is a multiple of this.
    pub align: usize,
}

/// A whole buffer, not carved yet.
pub struct PoolBuffer(Lease);

impl PoolBuffer {
    /// What its windows must fit.
    pub fn room(&self) -> Room {
        self.0.pool.room()
    }

    /// Carves the buffer into windows of these lengths, and one for a page of leaf checksums.
    ///
    /// # Panics
    /// If the windows don't fit. Plans keep to [`Pool::room`].
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

/// The sole owner of one part of a pool buffer.
pub struct Window {
    lease: Arc<Lease>,
    start: usize,
    length: usize,
}

impl Window {
    fn address(&self) -> *mut u8 {
        // SAFETY: `carve` makes windows that lie inside their buffer.
        unsafe {
            self.lease
                .pool
                .address(usize::from(self.lease.index))
                .add(self.start)
        }
    }

    /// The index of the buffer in a ring that has its pool registered; `None` if it never is.
    pub(super) fn buffer_index(&self) -> Option<u16> {
        let index = self.lease.index;
        let pool = &self.lease.pool.0;
        (!pool.direct && usize::from(index) < pool.buffers).then_some(index)
    }

    /// Its buffer.
    pub(super) fn filled(&self) -> Filled {
        Filled(Arc::downgrade(&self.lease))
    }

    /// The window and the padding up to the next one, because a direct read fills whole sectors.
    pub(super) fn with_padding(&mut self) -> &mut [u8] {
        let length = self.length.next_multiple_of(self.lease.pool.room().align);
        // SAFETY: as in `deref_mut`. `carve` starts the next window behind the padding, and the room of a buffer is a
        // multiple of the alignment.
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

/// A part of a window that has several readers and no writer any more.
#[derive(Clone)]
pub struct View {
    window: Arc<Window>,
    bytes: Range<usize>,
}

impl View {
    /// Shares these bytes of a window.
    ///
    /// # Panics
    /// If they lie outside the window.
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

/// Asks for huge pages where this memory is touched from now on (`MADV_HUGEPAGE`, madvise(2)). It begins at a page.
/// Small pages do as well, so a refusal is no error.
fn prefer_huge_pages(memory: NonNull<u8>, bytes: usize) {
    // SAFETY: this advice changes no byte of any mapping, whatever lies at the address.
    let refused = unsafe { libc::madvise(memory.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) } < 0;
    if refused {
        tracing::debug!(error = %io::Error::last_os_error(), "no huge pages");
    }
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
    fn windows_are_disjoint_and_the_last_one_returns_the_buffer() {
        let pool = Pool::new(1, 16 * 1024);
        let (mut windows, mut page) = take(&pool).unwrap().carve([100, 4096, 64].into_iter());
        for (i, window) in windows.iter_mut().chain([&mut page]).enumerate() {
            window.fill(i as u8 + 1);
        }
        for (i, window) in windows.iter().chain([&page]).enumerate() {
            assert!(window.iter().all(|&b| b == i as u8 + 1));
        }
        assert_eq!(pool.free_buffers(), 0);
        assert!(take(&pool).is_none());
        drop(page);
        windows.truncate(1);
        assert!(take(&pool).is_none());
        windows.clear();
        assert_eq!(pool.free_buffers(), 1);
        assert!(take(&pool).is_some());
    }

    #[test]
    fn the_reserve_takes_the_place_of_buffers_that_hang() {
        let pool = Pool::with_reserve(2, 3, 16 * 1024, |buffers| buffers < 2);
        assert_eq!((pool.buffers(), pool.free_buffers()), (2, 2));
        let window = |pool: &Pool| {
            let (mut windows, _) = take(pool).unwrap().carve(std::iter::once(4096));
            windows.remove(0)
        };
        let (mut first, second) = (window(&pool), window(&pool));
        assert!(take(&pool).is_none());
        first.filled().note_hung();
        first.filled().note_hung();
        assert_eq!((pool.free_buffers(), pool.hung_buffers()), (1, 1));
        let mut third = window(&pool);
        assert!(third.iter().all(|&byte| byte == 0));
        assert_eq!(third.buffer_index(), None, "it is not registered");
        first.fill(1);
        third.fill(3);
        assert!(first[0] == 1 && third[0] == 3);
        second.filled().note_hung();
        assert!(take(&pool).is_none() && !pool.is_exhausted());
        third.filled().note_hung();
        assert!(take(&pool).is_none() && pool.is_exhausted());
        assert_eq!(pool.hung_buffers(), 3);
        drop((first, second, third));
        assert_eq!((pool.free_buffers(), pool.hung_buffers()), (2, 0));
        assert!(!pool.is_exhausted());
        let all = (take(&pool).unwrap(), take(&pool).unwrap());
        assert!(take(&pool).is_none());
        drop(all);
    }

    #[test]
    #[should_panic(expected = "does not fit")]
    fn windows_that_do_not_fit_are_a_bug() {
        let pool = Pool::new(1, 16 * 1024);
        let _ = take(&pool).unwrap().carve([8192, 8192].into_iter());
    }
}
