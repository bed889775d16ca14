//! How a client takes bytes: heads, bodies at a pace, into a buffer that all clients of a thread share.
//! No buffer is held across a wait, so what a waiting client costs does not depend on how it reads.

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{MsgFlags, recv};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

use crate::check::Check;
use crate::pace::Pacer;
use crate::plan::{Class, Reading};
use crate::response::{Body, Head};
use crate::shared::Member;
use crate::tally::{Counters, Failure, FaultKind, record};

/// Bytes of one read; one buffer of this size serves all clients of a thread.
pub(crate) const READ_BYTES: usize = 256 * 1024;
/// Bytes of one read while the head is awaited, for clients that shall not take much more than it.
const HEAD_READ_BYTES: usize = 1024;
/// Bytes one client takes before the others get their turn.
const TURN_BYTES: u64 = 1 << 20;

/// How reading a body ended well.
#[derive(PartialEq, Eq)]
pub(crate) enum Ended {
    Whole,
    /// The wanted number of bytes was reached first.
    Enough,
}

impl Member<'_> {
    /// The head, and what came behind it. Notes the time of the first byte.
    pub(crate) async fn read_head(
        &self,
        stream: &TcpStream,
        begun: Instant,
    ) -> Result<(Head, Vec<u8>), Failure> {
        let wish = match self.prepared.group.class {
            Class::Fast | Class::Short | Class::Drip => READ_BYTES / 8,
            _ => HEAD_READ_BYTES,
        };
        let closed = |detail: &dyn ToString, got: usize| match got {
            0 => Failure::new(FaultKind::HeadClosed, detail.to_string()),
            got => Failure::new(
                FaultKind::HeadBad,
                format!("{} after {got} bytes", detail.to_string()),
            ),
        };
        let mut bytes = Vec::new();
        loop {
            let wait = {
                let scratch = &mut self.local.scratch.borrow_mut().read[..wish];
                match stream.try_read(scratch) {
                    Ok(0) => return Err(closed(&"closed before the end of the head", bytes.len())),
                    Ok(got) => {
                        if bytes.is_empty() {
                            self.tally(|tally| record(&mut tally.first_byte_time, begun.elapsed()));
                        }
                        bytes.extend_from_slice(&scratch[..got]);
                        false
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => true,
                    Err(error) => return Err(closed(&error, bytes.len())),
                }
            };
            if wait {
                stream
                    .readable()
                    .await
                    .map_err(|error| closed(&error, bytes.len()))?;
                continue;
            }
            let bad = |detail| Failure::new(FaultKind::HeadBad, detail);
            while let Some((head, length)) = Head::parse(&bytes).map_err(bad)? {
                bytes.drain(..length);
                // 1xx are announcements; the response follows.
                if head.status >= 200 {
                    return Ok((head, bytes));
                }
            }
        }
    }

    /// Reads a body to its end, or until `stop_at` bytes of it are there.
    pub(crate) async fn read_body(
        &self,
        stream: &TcpStream,
        body: &mut Body,
        check: &mut Check<'_>,
        rest: &[u8],
        stop_at: Option<u64>,
        mut pacer: Option<&mut Pacer>,
    ) -> Result<Ended, Failure> {
        let reading = self.prepared.group.reading;
        let discard = reading == Reading::Discard && check.is_nothing() && body.length_is_known();
        self.feed(body, check, rest)?;
        if let Some(pacer) = pacer.as_deref_mut() {
            pacer.took(rest.len() as u64);
        }
        let mut turn = 0;
        loop {
            if body.is_done() {
                return Ok(Ended::Whole);
            }
            let mut wish = READ_BYTES as u64;
            if let Some(stop_at) = stop_at {
                if body.received() >= stop_at {
                    return Ok(Ended::Enough);
                }
                wish = wish.min(stop_at - body.received());
            }
            if let Some(pacer) = pacer.as_deref_mut() {
                wish = wish.min(wait_for(pacer).await);
            }
            let wish = body.want(wish);
            let got = if discard {
                self.discard(stream, body, wish)
            } else {
                self.take(stream, body, check, wish)?
            };
            match got {
                Ok(0) => {
                    body.end()
                        .map_err(|detail| Failure::new(FaultKind::BodyClosed, detail))?;
                    return Ok(Ended::Whole);
                }
                Ok(got) => {
                    turn += got as u64;
                    if let Some(pacer) = pacer.as_deref_mut() {
                        pacer.took(got as u64);
                    }
                    if turn >= TURN_BYTES {
                        turn = 0;
                        tokio::task::yield_now().await;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    turn = 0;
                    let patience = self.plan().idle_timeout;
                    let ready = timeout(patience, stream.readable()).await.map_err(|_| {
                        let detail =
                            format!("nothing for {patience:?} after {} bytes", body.received());
                        Failure::new(FaultKind::BodyTimeout, detail)
                    })?;
                    ready.map_err(|error| Failure::new(FaultKind::BodyClosed, error))?;
                }
                Err(error) => {
                    let detail = format!("{error} after {} bytes", body.received());
                    return Err(Failure::new(FaultKind::BodyClosed, detail));
                }
            }
        }
    }

    /// One read of at most `wish` bytes, fed to body and check.
    fn take(
        &self,
        stream: &TcpStream,
        body: &mut Body,
        check: &mut Check<'_>,
        wish: u64,
    ) -> Result<io::Result<usize>, Failure> {
        let wish = usize::try_from(wish).unwrap_or(usize::MAX).min(READ_BYTES);
        let mut scratch = self.local.scratch.borrow_mut();
        let got = stream.try_read(&mut scratch.read[..wish]);
        if let Ok(got) = got {
            // Taken out for a moment, so that the comparison can use the other buffer.
            let read = std::mem::take(&mut scratch.read);
            drop(scratch);
            let fed = self.feed(body, check, &read[..got]);
            self.local.scratch.borrow_mut().read = read;
            fed?;
        }
        Ok(got)
    }

    fn feed(&self, body: &mut Body, check: &mut Check<'_>, bytes: &[u8]) -> Result<(), Failure> {
        let before = body.received();
        let mut scratch = self.local.scratch.borrow_mut();
        let fed = body.feed(bytes, |at, bytes| {
            let compared = check.feed(at, bytes, &mut scratch.compare);
            compared.map_err(|detail| Failure::new(FaultKind::WrongBytes, detail))
        });
        let checked = !check.is_nothing();
        self.count_body(body.received() - before, checked);
        fed
    }

    /// One read of at most `wish` bytes that the kernel throws away: TCP's MSG_TRUNC.
    fn discard(&self, stream: &TcpStream, body: &mut Body, wish: u64) -> io::Result<usize> {
        let wish = usize::try_from(wish).unwrap_or(usize::MAX).min(READ_BYTES);
        let mut scratch = self.local.scratch.borrow_mut();
        let got = stream.try_io(Interest::READABLE, || {
            Ok(recv(
                stream.as_raw_fd(),
                &mut scratch.read[..wish],
                MsgFlags::MSG_TRUNC,
            )?)
        })?;
        body.skip(got as u64);
        self.count_body(got as u64, false);
        Ok(got)
    }

    fn count_body(&self, bytes: u64, checked: bool) {
        self.tally(|tally| {
            tally.body_bytes += bytes;
            tally.checked_bytes += if checked { bytes } else { 0 };
            tally.touch(Instant::now());
        });
        Counters::add(&self.local.shared.counters.body_bytes, bytes);
    }
}

/// Waits until `pacer` allows something, and how much.
pub(crate) async fn wait_for(pacer: &mut Pacer) -> u64 {
    loop {
        let allowed = pacer.allowed(Instant::now());
        if allowed > 0 {
            return allowed;
        }
        sleep_until(pacer.ready_at()).await;
    }
}
