//! Clients that drop all received bytes inside the kernel (TCP's MSG_TRUNC), on a core of their
//! own: for measuring the cost of sending, without HTTP. Also a client that compares every byte.

use std::io::Read;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;

use anyhow::{Context, bail, ensure};
use core_affinity::CoreId;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

/// Bytes dropped at once.
const DROP_BYTES: usize = 256 << 10;
/// Events taken at once.
const EVENTS: usize = 512;
/// The interval at which a sleeping thread checks whether it should end.
pub const PATIENCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 10_000_000,
};

/// Connections that a thread drains.
pub struct Sink {
    received: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Sink {
    /// Drains `streams` on `core`.
    ///
    /// # Errors
    ///
    /// If they cannot be watched.
    pub fn start(streams: Vec<TcpStream>, core: usize) -> anyhow::Result<Sink> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (stream, number) in streams.iter().zip(0..) {
            stream.set_nonblocking(true)?;
            let data = epoll::EventData::new_u64(number);
            epoll::add(&epoll, stream, data, epoll::EventFlags::IN)?;
        }
        let (received, stop) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (counter, stopped) = (Arc::clone(&received), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            ensure!(
                core_affinity::set_for_current(CoreId { id: core }),
                "can't pin the clients to core {core}"
            );
            let mut events = Vec::with_capacity(EVENTS);
            // Never touched: the kernel writes nothing there.
            let mut nowhere = vec![0; DROP_BYTES];
            while !stopped.load(Relaxed) {
                events.clear();
                match epoll::wait(&epoll, spare_capacity(&mut events), Some(&PATIENCE)) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
                for event in &events {
                    let stream = &streams[event.data.u64() as usize];
                    match recv(stream, &mut nowhere[..], RecvFlags::TRUNC) {
                        Ok((0, _)) if stopped.load(Relaxed) => return Ok(()),
                        Ok((0, _)) => bail!("the sender has closed a connection"),
                        Ok((count, _)) => {
                            counter.fetch_add(count as u64, Relaxed);
                        }
                        Err(Errno::AGAIN | Errno::INTR) => {}
                        Err(error) => return Err(error).context("receiving"),
                    }
                }
            }
            Ok(())
        });
        Ok(Sink {
            received,
            stop,
            thread,
        })
    }

    /// Bytes received so far, on all connections.
    pub fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    /// Closes all connections.
    ///
    /// # Errors
    ///
    /// Why draining ended early, if it did.
    pub fn finish(self) -> anyhow::Result<()> {
        self.stop.store(true, Relaxed);
        self.thread
            .join()
            .map_err(|_| anyhow::anyhow!("the clients' thread panicked"))?
    }
}

/// Reads `expected` from `stream`, comparing every byte.
///
/// # Errors
///
/// If the bytes differ, or the stream ends early.
pub fn compare(stream: &mut TcpStream, expected: &[u8]) -> anyhow::Result<()> {
    let mut chunk = vec![0; DROP_BYTES];
    let mut place = 0;
    while place < expected.len() {
        let wish = chunk.len().min(expected.len() - place);
        let count = stream.read(&mut chunk[..wish])?;
        ensure!(
            count > 0,
            "closed after {place} of {} bytes",
            expected.len()
        );
        if chunk[..count] != expected[place..place + count] {
            let same = chunk
                .iter()
                .zip(&expected[place..])
                .take_while(|(a, b)| a == b);
            bail!("byte {} differs", place + same.count());
        }
        place += count;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::TcpListener;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (listener.accept().unwrap().0, client)
    }

    #[test]
    fn all_received_bytes_are_counted() {
        let core = core_affinity::get_core_ids().unwrap()[0].id;
        let ((mut a, x), (mut b, y)) = (pair(), pair());
        let sink = Sink::start(vec![x, y], core).unwrap();
        a.write_all(&[1; 100_000]).unwrap();
        b.write_all(&[2; 50_000]).unwrap();
        while sink.received() < 150_000 {
            std::thread::yield_now();
        }
        assert_eq!(sink.received(), 150_000);
        sink.finish().unwrap();
    }

    #[test]
    fn a_sender_that_leaves_is_an_error() {
        let core = core_affinity::get_core_ids().unwrap()[0].id;
        let (sender, client) = pair();
        let sink = Sink::start(vec![client], core).unwrap();
        drop(sender);
        while !sink.thread.is_finished() {
            std::thread::yield_now();
        }
        let error = sink.finish().unwrap_err().to_string();
        assert!(error.contains("closed"), "{error}");
    }

    #[test]
    fn a_wrong_byte_is_found() {
        let (mut sender, mut client) = pair();
        sender.write_all(b"abcdefgh").unwrap();
        drop(sender);
        compare(&mut client, b"abc").unwrap();
        let error = compare(&mut client, b"deXg").unwrap_err().to_string();
        assert_eq!(error, "byte 2 differs");
        let error = compare(&mut client, b"hi").unwrap_err().to_string();
        assert_eq!(error, "closed after 1 of 2 bytes");
    }
}
