//! A small HTTP server of known behaviour that counts connections, requests and bytes.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use penstock_load::Plan;

pub(crate) const BIG: usize = 8 << 20;

#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) connections: AtomicU64,
    pub(crate) requests: AtomicU64,
    pub(crate) whole_bodies: AtomicU64,
    pub(crate) cut_bodies: AtomicU64,
    /// The most body bytes that went into the socket of one unfinished response so far.
    pub(crate) sent_most: AtomicU64,
    pub(crate) peers: Mutex<HashSet<IpAddr>>,
    pub(crate) heads: Mutex<Vec<String>>,
}

impl Counts {
    pub(crate) fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::SeqCst)
    }
}

/// Serves `/big` (whole or ranges), `/chunked`, `/small`, `/busy` (503), `/missing` (404), `/short` (breaks off),
/// `/garbage`, `/flipped` (one wrong byte), `/close-idle` (closes after the answer without saying so).
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) counts: Arc<Counts>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

pub(crate) fn object() -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    (0..BIG).map(|_| random.u8(..)).collect()
}

impl Server {
    pub(crate) fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (counts, stop) = (
            Arc::new(Counts::default()),
            Arc::new(AtomicBool::new(false)),
        );
        let big = Arc::new(object());
        let (its_counts, its_stop) = (Arc::clone(&counts), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut connections = Vec::new();
            while let Ok((stream, peer)) = listener.accept() {
                if its_stop.load(Ordering::SeqCst) {
                    break;
                }
                its_counts.connections.fetch_add(1, Ordering::SeqCst);
                its_counts.peers.lock().unwrap().insert(peer.ip());
                let (counts, big) = (Arc::clone(&its_counts), Arc::clone(&big));
                connections.push(std::thread::spawn(move || {
                    // Some tests have clients that go away, so errors are expected.
                    let _ = serve(stream, &counts, &big);
                }));
            }
            for connection in connections {
                connection.join().unwrap();
            }
        });
        Server {
            address,
            counts,
            stop,
            thread: Some(thread),
        }
    }

    pub(crate) fn plan(&self, path: &str) -> Plan {
        Plan {
            duration: Duration::from_secs(600),
            backoff: Duration::from_millis(1),
            ..Plan::new(&format!("http://{}{path}", self.address))
        }
    }
}

impl Drop for Server {
    /// Ends the accepting thread, then waits until every connection has ended. A client that stayed would hang the
    /// test.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            ended.unwrap().unwrap();
        }
    }
}

fn read_head(stream: &mut TcpStream) -> io::Result<Option<String>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            return Ok(None);
        }
        head.push(byte[0]);
    }
    Ok(Some(String::from_utf8(head).unwrap()))
}

fn serve(mut stream: TcpStream, counts: &Counts, big: &[u8]) -> io::Result<()> {
    stream.set_nodelay(true)?;
    while let Some(head) = read_head(&mut stream)? {
        counts.requests.fetch_add(1, Ordering::SeqCst);
        counts.heads.lock().unwrap().push(head.clone());
        let path = head.split(' ').nth(1).unwrap();
        let range = head
            .lines()
            .find_map(|line| line.strip_prefix("Range: bytes="));
        match path {
            "/big" if range.is_some() => {
                let (first, last) = range.unwrap().split_once('-').unwrap();
                let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
                let fields = format!("Content-Range: bytes {first}-{last}/{}\r\n", big.len());
                respond(
                    &mut stream,
                    counts,
                    "206 Partial",
                    &fields,
                    &big[first..=last],
                )?;
            }
            "/big" => respond(&mut stream, counts, "200 OK", "", big)?,
            "/flipped" => {
                let mut wrong = big.to_vec();
                wrong[BIG - 5] ^= 0x10;
                respond(&mut stream, counts, "200 OK", "", &wrong)?;
            }
            "/chunked" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
                for part in big.chunks(100_001) {
                    stream.write_all(format!("{:x}\r\n", part.len()).as_bytes())?;
                    stream.write_all(part)?;
                    stream.write_all(b"\r\n")?;
                }
                stream.write_all(b"0\r\n\r\n")?;
                counts.whole_bodies.fetch_add(1, Ordering::SeqCst);
            }
            "/busy" => respond(
                &mut stream,
                counts,
                "503 Busy",
                "Retry-After: 3\r\n",
                b"busy\n",
            )?,
            "/missing" => respond(&mut stream, counts, "404 Missing", "", b"missing\n")?,
            "/short" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this")?;
                return Ok(());
            }
            "/garbage" => {
                stream.write_all(b"what is this\r\n\r\n")?;
                return Ok(());
            }
            "/close-idle" => {
                respond(&mut stream, counts, "200 OK", "", b"bye")?;
                return Ok(());
            }
            _ => respond(&mut stream, counts, "200 OK", "", b"small object")?,
        }
        if head.contains("Connection: close") {
            return Ok(());
        }
    }
    Ok(())
}

fn respond(
    stream: &mut TcpStream,
    counts: &Counts,
    status: &str,
    fields: &str,
    body: &[u8],
) -> io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {status}\r\n{fields}Content-Length: {}\r\n\r\n",
        body.len()
    )?;
    let mut sent = 0;
    while sent < body.len() {
        match stream.write(&body[sent..]) {
            Ok(bytes) => sent += bytes,
            Err(error) => {
                counts.cut_bodies.fetch_add(1, Ordering::SeqCst);
                return Err(error);
            }
        }
        counts.sent_most.fetch_max(sent as u64, Ordering::SeqCst);
    }
    counts.whole_bodies.fetch_add(1, Ordering::SeqCst);
    Ok(())
}
