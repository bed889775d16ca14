//! A read under way, on either backend.

use std::io;

pub(in crate::io) mod aio;
pub(in crate::io) mod epoll;
mod target;
pub(in crate::io) mod uring;

pub(in crate::io) use target::Target;

use super::pool::Window;

/// A read under way.
pub struct Reading<'a>(pub(in crate::io) ReadingInner<'a>);

pub(in crate::io) enum ReadingInner<'a> {
    Done(Window),
    Uring {
        uring: &'a uring::Uring,
        offset: u64,
        operation: uring::InFlight<uring::ReadData>,
    },
    Epoll(epoll::InFlight),
    /// And its offset.
    Aio(aio::InFlight, u64),
}

async fn on_a_thread(read: epoll::InFlight) -> (io::Result<usize>, Option<Window>) {
    match read.await {
        Ok((result, window)) => (result, Some(window)),
        Err(error) => (Err(io::Error::other(error)), None),
    }
}

impl Reading<'_> {
    /// Waits until the window is full, the file ended, or reading failed. Gives the window back with
    /// the count; `None` for it if the runtime is going down.
    pub async fn finish(self) -> (io::Result<usize>, Option<Window>) {
        match self.0 {
            ReadingInner::Done(window) => (Ok(window.len()), Some(window)),
            ReadingInner::Epoll(read) => on_a_thread(read).await,
            ReadingInner::Aio(read, offset) => {
                let (result, mut target, file) = read.await;
                target.filled += result.unwrap_or(0);
                match target.is_done() {
                    true => (Ok(target.wanted()), Some(target.window)),
                    // Not all of it, or nothing: where it would have to be waited for, that can be done. What else is
                    // wrong is seen there, too.
                    false => on_a_thread(epoll::read(file, target, offset)).await,
                }
            }
            ReadingInner::Uring {
                uring,
                offset,
                mut operation,
            } => {
                loop {
                    let (result, (mut target, file, _)) = operation.await;
                    // A short read is continued until it brings nothing.
                    match result {
                        Ok(0) => return (Ok(target.wanted()), Some(target.window)),
                        Ok(count) => target.filled += count,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return (Err(error), Some(target.window)),
                    }
                    if target.is_done() {
                        return (Ok(target.wanted()), Some(target.window));
                    }
                    operation = uring.read(file, target, offset);
                }
            }
        }
    }
}
