//! Reads on the threads of the file's store: all that is not cached where io_uring is refused, and files of file systems
//! that can't read without waiting. Neither a slow disk nor one that hangs then holds up a core.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use super::target::Target;
use crate::io::pool::Window;
use crate::io::threads::{Refused, StoreFile};

/// A read that waits for a thread, or is under way on one.
pub(super) struct InFlight {
    /// Until a thread takes it.
    order: Arc<Mutex<Option<Order>>>,
    answer: oneshot::Receiver<(io::Result<usize>, Window)>,
}

struct Order {
    file: Arc<StoreFile>,
    target: Target,
    offset: u64,
}

/// Starts filling the rest of `target`, whose first byte is at `offset` of `file`.
pub(super) fn read(
    file: Arc<StoreFile>,
    target: Target,
    offset: u64,
) -> Result<InFlight, (Refused, Window)> {
    let threads = Arc::clone(file.threads());
    let order = Order {
        file,
        target,
        offset,
    };
    let order = Arc::new(Mutex::new(Some(order)));
    let (reply, answer) = oneshot::channel();
    let job = Arc::clone(&order);
    let submitted = threads.reads.submit(move || {
        // What nobody waits for need not be read.
        if let Some(order) = take(&job).filter(|_| !reply.is_closed()) {
            let _ = reply.send(order.perform());
        }
    });
    match submitted {
        Ok(()) => Ok(InFlight { order, answer }),
        Err(refused) => {
            let order = take(&order).expect("a job that was refused did not run");
            Err((refused, order.target.window))
        }
    }
}

fn take(order: &Mutex<Option<Order>>) -> Option<Order> {
    order.lock().unwrap_or_else(PoisonError::into_inner).take()
}

impl InFlight {
    /// The result and the window; an error if the thread is gone.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<(io::Result<usize>, Window), oneshot::error::RecvError>> {
        std::pin::Pin::new(&mut self.answer).poll(context)
    }

    /// Gives the read up. Its window is free again if no thread has begun; otherwise the answer is still to come.
    pub(super) fn give_up(self) -> Option<oneshot::Receiver<(io::Result<usize>, Window)>> {
        match take(&self.order) {
            Some(_) => None,
            None => Some(self.answer),
        }
    }
}

impl Order {
    /// Reads until the target is filled or the file ends.
    fn perform(mut self) -> (io::Result<usize>, Window) {
        let result = self.read_to_end();
        (result, self.target.window)
    }

    fn read_to_end(&mut self) -> io::Result<usize> {
        let target = &mut self.target;
        while !target.is_done() {
            let at = self.offset + target.filled as u64;
            match self.file.read_at(target.rest(), at) {
                Ok(0) => break,
                Ok(count) => target.filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(target.filled_bytes())
    }
}
