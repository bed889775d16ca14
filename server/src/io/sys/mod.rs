//! System calls that no crate we use wraps, each behind a safe function.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::time::{Duration, SystemTime};

/// `SIOCOUTQNSD` (linux/sockios.h): bytes of a TCP socket's queue that were never sent.
const SIOCOUTQNSD: libc::c_ulong = 0x894B;
/// `SO_MEMINFO` (asm-generic/socket.h): an array of `SK_MEMINFO_*` counters.
const SO_MEMINFO: libc::c_int = 55;
/// Entries of that array (linux/sock_diag.h, `SK_MEMINFO_VARS`).
const SK_MEMINFO_VARS: usize = 9;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Kernel memory of one socket, in bytes (`SO_MEMINFO`, socket(7); the same numbers as `ss -m`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketMemory {
    /// Received and not yet read.
    pub receive_queue: u32,
    /// Charged to the send queue, overhead included.
    pub send_queue: u32,
    /// The bound on `send_queue`.
    pub send_buffer: u32,
    /// Reserved by the socket, not used yet.
    pub forward_alloc: u32,
    /// Options and filters.
    pub options: u32,
    /// Packets waiting while the socket is locked.
    pub backlog: u32,
}

impl SocketMemory {
    /// All of it.
    pub fn total(&self) -> u64 {
        [
            self.receive_queue,
            self.send_queue,
            self.forward_alloc,
            self.options,
            self.backlog,
        ]
        .iter()
        .map(|&part| u64::from(part))
        .sum()
    }
}

/// Reads `SO_MEMINFO`.
pub fn socket_memory(fd: BorrowedFd<'_>) -> io::Result<SocketMemory> {
    let mut info = [0u32; SK_MEMINFO_VARS];
    let mut length = size_of_val(&info) as libc::socklen_t;
    // SAFETY: `info` is writable for `length` bytes, and both live through the call.
    check(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_MEMINFO,
            info.as_mut_ptr().cast(),
            &mut length,
        )
    })?;
    let at = |index: libc::c_int| info[index as usize];
    Ok(SocketMemory {
        receive_queue: at(libc::SK_MEMINFO_RMEM_ALLOC),
        send_queue: at(libc::SK_MEMINFO_WMEM_QUEUED),
        send_buffer: at(libc::SK_MEMINFO_SNDBUF),
        forward_alloc: at(libc::SK_MEMINFO_FWD_ALLOC),
        options: at(libc::SK_MEMINFO_OPTMEM),
        backlog: at(libc::SK_MEMINFO_BACKLOG),
    })
}

fn queue_length(fd: BorrowedFd<'_>, request: libc::c_ulong) -> io::Result<u32> {
    let mut value: libc::c_int = 0;
    // SAFETY: both requests write one int through the pointer, which is valid for that.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request as _, &mut value) })?;
    Ok(value.max(0) as u32)
}

/// Bytes queued and not yet sent (`SIOCOUTQNSD`, tcp(7)).
pub fn unsent_bytes(fd: BorrowedFd<'_>) -> io::Result<u32> {
    queue_length(fd, SIOCOUTQNSD)
}

/// Bytes queued and not yet acknowledged, unsent ones included (`SIOCOUTQ`, tcp(7)).
pub fn unacknowledged_bytes(fd: BorrowedFd<'_>) -> io::Result<u32> {
    queue_length(fd, libc::TIOCOUTQ as libc::c_ulong)
}

/// The kernel's view of a connection (`TCP_INFO`, tcp(7)).
pub fn tcp_info(fd: BorrowedFd<'_>) -> io::Result<libc::tcp_info> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: `info` is writable for `length` bytes; all-zero is a valid tcp_info, so what an older
    // kernel leaves unwritten is initialised too.
    let info = unsafe {
        check(libc::getsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &mut length,
        ))?;
        info.assume_init()
    };
    Ok(info)
}

/// Aborts a connection at once: its queues are freed, the peer gets a reset, and whoever polls the
/// socket is woken. This is connect(2) to AF_UNSPEC; unlike close(2) it works while an operation of
/// the ring still holds the socket.
pub fn abort(fd: BorrowedFd<'_>) {
    let unspecified = libc::sockaddr {
        sa_family: libc::AF_UNSPEC as libc::sa_family_t,
        sa_data: [0; 14],
    };
    // SAFETY: the address is a whole sockaddr and lives through the call. A failure means that the
    // connection is gone already, which is what was wanted.
    unsafe {
        libc::connect(
            fd.as_raw_fd(),
            &unspecified,
            size_of::<libc::sockaddr>() as libc::socklen_t,
        );
    }
}

/// Reads at `offset` only what is in the page cache (`RWF_NOWAIT`, preadv2(2)); EAGAIN where the
/// disk would have to be asked, EOPNOTSUPP where the file system can't tell.
pub fn read_cached_at(fd: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    let iov = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: the iovec describes `buffer`, which is writable and lives through the call.
    let result = unsafe { libc::preadv2(fd.as_raw_fd(), &iov, 1, offset, libc::RWF_NOWAIT) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result as usize)
    }
}

/// `cachestat` (Linux 6.5): the same number on every architecture.
const SYS_CACHESTAT: libc::c_long = 451;

/// How many pages of a file's range, which is not empty, are in the page cache, and how many it has (`cachestat`,
/// linux/mman.h). ENOSYS where the kernel is older, EPERM where the file is another's.
pub fn cached_pages(fd: BorrowedFd<'_>, range: &Range<u64>) -> io::Result<(u64, u64)> {
    // struct cachestat_range { off, len }; struct cachestat { nr_cache, nr_dirty, nr_writeback, nr_evicted,
    // nr_recently_evicted }, all of them __u64.
    let asked: [u64; 2] = [range.start, range.end.saturating_sub(range.start)];
    let mut counts = [0u64; 5];
    // SAFETY: the kernel reads two and writes five u64 through pointers that are valid for that and live
    // through the call. A kernel without the call touches neither.
    let result = unsafe {
        libc::syscall(
            SYS_CACHESTAT,
            fd.as_raw_fd(),
            asked.as_ptr(),
            counts.as_mut_ptr(),
            0,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: sysconf has no pointers; it reads what the kernel said at start.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) }.max(1) as u64;
    let (first, last) = (range.start / page, (range.end - 1) / page);
    Ok((counts[0], last - first + 1))
}

/// Asks for huge pages where memory of ours, which begins at a page, is touched from now on (`MADV_HUGEPAGE`,
/// madvise(2)). Without them it works as well, so a refusal is no error.
pub fn prefer_huge_pages(memory: NonNull<u8>, bytes: usize) {
    // SAFETY: this advice changes no byte of any mapping, whatever lies at this address.
    let refused = unsafe { libc::madvise(memory.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) } < 0;
    if refused {
        tracing::debug!(error = %io::Error::last_os_error(), "no huge pages here");
    }
}

/// What tells whether a file was changed: another length, or another time of change (of its bytes or of
/// anything else about it).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStamp {
    /// Bytes.
    pub size: u64,
    /// When its bytes changed last (`stx_mtime`), which `utimensat` can set back.
    pub modified: SystemTime,
    /// When anything about it changed last (`stx_ctime`).
    pub changed: SystemTime,
}

/// Reads a file's stamp (statx(2)) as it is known here: over a network, no server is asked.
pub fn file_stamp(fd: BorrowedFd<'_>) -> io::Result<FileStamp> {
    let mut found = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is an empty C string, the kernel writes at most one statx through the pointer, and
    // all-zero is a valid statx.
    let found = unsafe {
        check(libc::statx(
            fd.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC,
            libc::STATX_SIZE | libc::STATX_MTIME | libc::STATX_CTIME,
            found.as_mut_ptr(),
        ))?;
        found.assume_init()
    };
    let time = |stamp: libc::statx_timestamp| {
        let seconds = Duration::from_secs(stamp.tv_sec.unsigned_abs());
        let start = match stamp.tv_sec < 0 {
            true => SystemTime::UNIX_EPOCH.checked_sub(seconds),
            false => SystemTime::UNIX_EPOCH.checked_add(seconds),
        };
        start
            .and_then(|start| start.checked_add(Duration::from_nanos(stamp.tv_nsec.into())))
            .ok_or(io::ErrorKind::InvalidData)
    };
    Ok(FileStamp {
        size: found.stx_size,
        modified: time(found.stx_mtime)?,
        changed: time(found.stx_ctime)?,
    })
}

/// A pipe (pipe2(2)), its reading and its writing end, with room for `bytes` if the kernel allows it.
pub fn pipe(bytes: usize) -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: the kernel writes two descriptors through the pointer, which is valid for that; they are owned
    // by nobody else.
    let (reading, writing) = unsafe {
        check(libc::pipe2(
            ends.as_mut_ptr(),
            libc::O_CLOEXEC | libc::O_NONBLOCK,
        ))?;
        (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]))
    };
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    // SAFETY: no pointers. A refusal leaves the pipe as it is, 64 KiB as a rule.
    unsafe { libc::fcntl(writing.as_raw_fd(), libc::F_SETPIPE_SZ, bytes) };
    Ok((reading, writing))
}

/// Moves up to `count` bytes from one descriptor to another, one of which is a pipe, without copying them
/// (splice(2)) and without waiting for the pipe or for a non-blocking socket. `offset` is where to begin in
/// `from` if that is a file. Returns how many, 0 at the end of `from`. Needs SIGPIPE to be ignored, as Rust's
/// start-up does.
pub fn splice(
    from: BorrowedFd<'_>,
    offset: Option<u64>,
    to: BorrowedFd<'_>,
    count: usize,
    more: bool,
) -> io::Result<usize> {
    let mut offset = offset
        .map(|offset| libc::loff_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput))
        .transpose()?;
    let offset: *mut libc::loff_t = offset.as_mut().map_or(std::ptr::null_mut(), |at| at);
    // SAFETY: the kernel reads and writes the offset through the pointer, which is null or valid for that.
    let result = unsafe {
        libc::splice(
            from.as_raw_fd(),
            offset,
            to.as_raw_fd(),
            std::ptr::null_mut(),
            count,
            libc::SPLICE_F_NONBLOCK | if more { libc::SPLICE_F_MORE } else { 0 },
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result as usize)
    }
}

/// An epoll instance (epoll(7)).
pub struct Epoll(OwnedFd);

/// One event of [`Epoll::wait`].
pub type Event = libc::epoll_event;

impl Epoll {
    /// A new instance.
    pub fn new() -> io::Result<Epoll> {
        // SAFETY: no pointers; the new descriptor is owned by nobody else.
        unsafe {
            let fd = check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?;
            Ok(Epoll(OwnedFd::from_raw_fd(fd)))
        }
    }

    /// Registers `fd`: its `flags` (and errors and hang-ups) are reported as `token`.
    pub fn add(&self, fd: BorrowedFd<'_>, flags: u32, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, flags, token)
    }

    /// Changes the registration of `fd`. What is true of it now is reported again.
    pub fn modify(&self, fd: BorrowedFd<'_>, flags: u32, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, flags, token)
    }

    fn control(
        &self,
        operation: libc::c_int,
        fd: BorrowedFd<'_>,
        flags: u32,
        token: u64,
    ) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: flags,
            u64: token,
        };
        // SAFETY: `event` is valid for the call; the kernel copies it.
        check(unsafe {
            libc::epoll_ctl(self.0.as_raw_fd(), operation, fd.as_raw_fd(), &mut event)
        })?;
        Ok(())
    }

    /// What has happened, without waiting.
    pub fn wait<'a>(&self, events: &'a mut [MaybeUninit<Event>]) -> io::Result<&'a [Event]> {
        let room = libc::c_int::try_from(events.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: the kernel writes at most `room` events to the start of `events` and returns how
        // many; only those are read as initialised.
        unsafe {
            let count = check(libc::epoll_wait(
                self.0.as_raw_fd(),
                events.as_mut_ptr().cast(),
                room,
                0,
            ))?;
            Ok(std::slice::from_raw_parts(
                events.as_ptr().cast(),
                count as usize,
            ))
        }
    }
}

impl AsRawFd for Epoll {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// A resource whose limit matters to us (getrlimit(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Open descriptors.
    Descriptors,
    /// Bytes of locked memory, which registered buffers are charged to.
    LockedMemory,
}

impl Resource {
    fn id(self) -> libc::__rlimit_resource_t {
        match self {
            Resource::Descriptors => libc::RLIMIT_NOFILE,
            Resource::LockedMemory => libc::RLIMIT_MEMLOCK,
        }
    }
}

/// The soft and the hard limit; `u64::MAX` is none.
pub fn limit(resource: Resource) -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes one rlimit through the pointer, which is valid for that.
    check(unsafe { libc::getrlimit(resource.id(), &mut limit) })?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// Raises the soft limit to the hard one and returns it.
pub fn raise_limit(resource: Resource) -> io::Result<u64> {
    let (soft, hard) = limit(resource)?;
    if soft < hard {
        let limit = libc::rlimit {
            rlim_cur: hard,
            rlim_max: hard,
        };
        // SAFETY: the rlimit lives through the call, which only reads it.
        check(unsafe { libc::setrlimit(resource.id(), &limit) })?;
    }
    Ok(hard)
}

/// Whether limits on locked memory and socket buffers don't bind this process: its effective user is
/// root. (`CAP_IPC_LOCK` and `CAP_NET_ADMIN` could be had otherwise; then a warning is one too many.)
pub fn may_lock_memory() -> bool {
    // SAFETY: geteuid has no arguments and can't fail.
    unsafe { libc::geteuid() == 0 }
}
