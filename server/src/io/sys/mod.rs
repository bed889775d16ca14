//! System calls that the standard library and our crates don't wrap, each behind a safe function.

mod check;
mod epoll;
mod files;
mod inherited;
mod limits;
mod pipe;
mod sockets;

pub(in crate::io) use epoll::{Epoll, Event};
pub use files::{FileVersion, cached_pages};
pub(in crate::io) use files::{file_version, read_cached_at};
pub use inherited::take_inherited;
pub use limits::{
    Resource, idle_io_priority, may_lock_memory, raise_resource_limit, resource_limit,
};
pub(in crate::io) use pipe::{pipe, splice};
pub use sockets::{SocketMemory, socket_memory};
pub(in crate::io) use sockets::{reset, tcp_info, unacknowledged_bytes, unsent_bytes};
