//! System calls that no crate we use wraps, each behind a safe function.

use std::io;

mod epoll;
mod files;
mod limits;
mod pipe;
mod sockets;

pub use epoll::{Epoll, Event};
pub use files::{FileStamp, cached_pages, file_stamp, read_cached_at};
pub use limits::{Resource, limit, may_lock_memory, raise_limit};
pub use pipe::{pipe, splice};
pub use sockets::{
    SocketMemory, abort, socket_memory, tcp_info, unacknowledged_bytes, unsent_bytes,
};

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
