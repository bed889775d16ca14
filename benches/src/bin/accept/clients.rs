//! Clients of one request each, on a core of their own, as cheap as possible: eight system calls per connection.
//!
//! One thread keeps a number of connections open, in a queue. It opens one at the end of the queue and sends the
//! request, then waits until the first is answered and closed. Answers out of order cost nothing; they are only noticed
//! later.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use core_affinity::CoreId;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use socket2::{Domain, Socket, Type};

/// Bytes dropped at once.
const DROP_BYTES: usize = 256 << 10;
/// The longest time that one answer may take.
const ANSWER: Duration = Duration::from_secs(10);

/// The running clients.
pub(super) struct Clients {
    shared: Arc<Shared>,
    thread: JoinHandle<anyhow::Result<Vec<Duration>>>,
}

#[derive(Default)]
struct Shared {
    done: AtomicU64,
    begun: AtomicBool,
    stop: AtomicBool,
}

fn request(address: SocketAddr, key: &str) -> String {
    format!("GET /{key} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")
}

/// Sends one request and compares every byte of the body. Returns the number of bytes of the whole answer.
pub(super) fn answer_bytes(address: SocketAddr, key: &str, body: &[u8]) -> anyhow::Result<u64> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.write_all(request(address, key).as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    ensure!(
        answer.starts_with(b"HTTP/1.1 200 ") && answer.ends_with(body),
        "the answer is not the object: {:?}",
        String::from_utf8_lossy(&answer[..answer.len().min(200)])
    );
    Ok(answer.len() as u64)
}

impl Clients {
    /// Keeps `count` connections open, each of which must be answered by `expected` bytes.
    pub(super) fn start(
        address: SocketAddr,
        key: &str,
        expected: u64,
        count: usize,
        core: usize,
    ) -> Clients {
        let shared = Arc::new(Shared::default());
        let (ours, request) = (Arc::clone(&shared), request(address, key));
        let thread = std::thread::spawn(move || {
            ensure!(
                core_affinity::set_for_current(CoreId { id: core }),
                "can't pin the clients to core {core}"
            );
            ours.run(address, request.as_bytes(), expected, count)
        });
        Clients { shared, thread }
    }

    /// Connections answered and closed so far.
    pub(super) fn done(&self) -> u64 {
        self.shared.done.load(Relaxed)
    }

    /// Starts recording the duration of each connection.
    pub(super) fn begin(&self) {
        self.shared.begun.store(true, Relaxed);
    }

    /// Ends the clients. Returns the duration of each connection, from before it was opened until its end was seen.
    pub(super) fn finish(self) -> anyhow::Result<Vec<Duration>> {
        self.shared.stop.store(true, Relaxed);
        let joined = self.thread.join();
        joined.map_err(|_| anyhow::anyhow!("the clients' thread panicked"))?
    }
}

impl Shared {
    fn run(
        &self,
        address: SocketAddr,
        request: &[u8],
        expected: u64,
        count: usize,
    ) -> anyhow::Result<Vec<Duration>> {
        let mut under_way = VecDeque::with_capacity(count);
        let mut times = Vec::with_capacity(1 << 16);
        // Never touched: the kernel writes nothing there.
        let mut nowhere = vec![0; DROP_BYTES];
        while !self.stop.load(Relaxed) {
            while under_way.len() < count {
                let begun = Instant::now();
                let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
                // The timeout of sending also bounds connecting, so nothing here waits for ever.
                socket.set_write_timeout(Some(ANSWER))?;
                socket.set_read_timeout(Some(ANSWER))?;
                socket.connect(&address.into()).context("connecting")?;
                let mut stream = TcpStream::from(socket);
                stream.write_all(request).context("asking")?;
                under_way.push_back((begun, stream));
            }
            let Some((begun, stream)) = under_way.pop_front() else {
                break;
            };
            let mut received = 0;
            loop {
                match recv(&stream, &mut nowhere[..], RecvFlags::TRUNC) {
                    Ok((0, _)) => break,
                    Ok((_, more)) => received += more as u64,
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => bail!("no answer within {} s", ANSWER.as_secs()),
                    Err(error) => return Err(error).context("receiving"),
                }
            }
            ensure!(
                received == expected,
                "an answer of {received} bytes and not {expected}"
            );
            drop(stream);
            self.done.fetch_add(1, Relaxed);
            if self.begun.load(Relaxed) {
                times.push(begun.elapsed());
            }
        }
        Ok(times)
    }
}
