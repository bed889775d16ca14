//! How a client reads: heads, and bodies at a limited rate, into a buffer that all clients of a thread share. No buffer
//! is held across a wait, so the memory of a waiting client does not depend on how it reads.

use std::io;

use tokio::time::{Instant, sleep_until, timeout};

use crate::check::Check;
use crate::plan::{Class, Reading};
use crate::rate_limit::RateLimit;
use crate::response::{Body, Head};
use crate::scratch::READ_BYTES;
use crate::shared::Member;
use crate::stream::Stream;
use crate::tally::{Counters, Failure, FaultKind, record};

/// Bytes of one read while waiting for the head, for clients that should read little beyond it.
const HEAD_READ_BYTES: usize = 1024;
/// Bytes that one client reads before the others get their turn.
const TURN_BYTES: u64 = 1 << 20;

/// Why reading a body ended, without a fault.
#[derive(PartialEq, Eq)]
pub(crate) enum Ended {
    Whole,
    /// The wanted number of bytes was reached.
    Enough,
}

impl Member<'_> {
    /// Reads the head and returns it with the bytes read behind it. Notes the time of the first byte.
    pub(crate) async fn read_head(
        &self,
        stream: &mut Stream,
        begun: Instant,
    ) -> Result<(Head, Vec<u8>), Failure> {
        let wish = match self.prepared.group.class {
            Class::Fast | Class::Short | Class::Drip => READ_BYTES / 8,
            _ => HEAD_READ_BYTES,
        };
        let closed = |error: &io::Error, got: usize| match got {
            0 => Failure::unless_tls(FaultKind::HeadClosed, error, error),
            got => Failure::unless_tls(
                FaultKind::HeadBad,
                error,
                format!("{error} after {got} bytes"),
            ),
        };
        let cut = || {
            io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "closed before the end of the head",
            )
        };
        let mut bytes = Vec::new();
        loop {
            let wait = {
                let scratch = &mut self.local.scratch.borrow_mut();
                match stream.try_read(wish, scratch) {
                    Ok(0) => return Err(closed(&cut(), bytes.len())),
                    Ok(got) => {
                        if bytes.is_empty() {
                            self.tally(|tally| record(&mut tally.first_byte_time, begun.elapsed()));
                        }
                        bytes.extend_from_slice(&scratch.read[..got]);
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
                // 1xx responses are interim; the final response follows.
                if head.status >= 200 {
                    return Ok((head, bytes));
                }
            }
        }
    }

    /// Reads a body to its end, or until it has `stop_at` bytes.
    pub(crate) async fn read_body(
        &self,
        stream: &mut Stream,
        body: &mut Body,
        check: &mut Check<'_>,
        rest: &[u8],
        stop_at: Option<u64>,
        mut limit: Option<&mut RateLimit>,
    ) -> Result<Ended, Failure> {
        let reading = self.prepared.group.reading;
        let discard = reading == Reading::Discard
            && check.is_nothing()
            && body.length_is_known()
            && stream.can_discard();
        self.feed(body, check, rest)?;
        if let Some(limit) = limit.as_deref_mut() {
            limit.record(rest.len() as u64);
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
            if let Some(limit) = limit.as_deref_mut() {
                wish = wish.min(wait_for(limit).await);
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
                    // Only close_notify says that a body of unknown length is whole.
                    if stream.is_cut_off() {
                        let detail = format!(
                            "closed without close_notify after {} bytes",
                            body.received()
                        );
                        return Err(Failure::new(FaultKind::TlsCutOff, detail));
                    }
                    return Ok(Ended::Whole);
                }
                Ok(got) => {
                    turn += got as u64;
                    if let Some(limit) = limit.as_deref_mut() {
                        limit.record(got as u64);
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
                    return Err(Failure::unless_tls(FaultKind::BodyClosed, &error, detail));
                }
            }
        }
    }

    /// Reads about `wish` bytes once, and passes them to body and check.
    fn take(
        &self,
        stream: &mut Stream,
        body: &mut Body,
        check: &mut Check<'_>,
        wish: u64,
    ) -> Result<io::Result<usize>, Failure> {
        let wish = usize::try_from(wish).unwrap_or(usize::MAX).min(READ_BYTES);
        let mut scratch = self.local.scratch.borrow_mut();
        let got = stream.try_read(wish, &mut scratch);
        if let Ok(got) = got {
            // The buffer is moved out for a moment, so that the comparison can use the other buffer.
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

    /// Reads at most `wish` bytes once, which nobody sees.
    fn discard(&self, stream: &Stream, body: &mut Body, wish: u64) -> io::Result<usize> {
        let wish = usize::try_from(wish).unwrap_or(usize::MAX).min(READ_BYTES);
        let got = stream.discard(wish, &mut self.local.scratch.borrow_mut())?;
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

/// Waits until `limit` allows bytes, and returns their number.
pub(crate) async fn wait_for(limit: &mut RateLimit) -> u64 {
    loop {
        let allowed = limit.allowed(Instant::now());
        if allowed > 0 {
            return allowed;
        }
        sleep_until(limit.ready_at()).await;
    }
}
