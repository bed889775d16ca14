//! Sockets: memory, queues, the state of a connection, and resetting it.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::check::check;

/// `SIOCOUTQNSD` (linux/sockios.h): bytes of a TCP socket's queue that were never sent.
const SIOCOUTQNSD: libc::c_ulong = 0x894B;
/// `SO_MEMINFO` (asm-generic/socket.h): an array of `SK_MEMINFO_*` counters.
const SO_MEMINFO: libc::c_int = 55;
/// Entries of that array (linux/sock_diag.h, `SK_MEMINFO_VARS`).
const SK_MEMINFO_VARS: usize = 9;

/// Kernel memory of one socket, in bytes (`SO_MEMINFO`, socket(7); the same numbers as `ss -m`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketMemory {
    /// Received and not yet read.
    pub receive_queue: u32,
    /// Charged to the send queue, skb overhead included.
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

/// Bytes that are queued and not sent (`SIOCOUTQNSD`, tcp(7)).
pub(in crate::io) fn unsent_bytes(fd: BorrowedFd<'_>) -> io::Result<u32> {
    queue_length(fd, SIOCOUTQNSD)
}

/// Bytes that are queued and not acknowledged, unsent ones included (`SIOCOUTQ`, tcp(7)).
pub(in crate::io) fn unacknowledged_bytes(fd: BorrowedFd<'_>) -> io::Result<u32> {
    queue_length(fd, libc::TIOCOUTQ as libc::c_ulong)
}

/// The kernel's view of a connection (`TCP_INFO`, tcp(7)).
pub(in crate::io) fn tcp_info(fd: BorrowedFd<'_>) -> io::Result<libc::tcp_info> {
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

/// Resets a connection at once, by connect(2) to AF_UNSPEC. Its queues are freed, the peer gets a reset, and pollers of
/// the socket wake. Unlike close(2) it works while an operation of a ring still holds the socket.
pub(in crate::io) fn reset(fd: BorrowedFd<'_>) {
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
