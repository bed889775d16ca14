//! A small HTTP server of known behaviour, by TLS if it is given a configuration, that counts connections, requests and
//! bytes.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use penstock_load::Plan;
use rustls::{ServerConfig, ServerConnection};

pub(crate) const BIG: usize = 8 << 20;

#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) connections: AtomicU64,
    pub(crate) handshakes: AtomicU64,
    pub(crate) close_notifies: AtomicU64,
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
/// `/garbage`, `/flipped` (one wrong byte), `/close-idle` (closes after the answer without saying so), `/until-close` (no
/// length), `/cut-off` (the same, and no close_notify), `/bad-record` (bytes that are no TLS inside the body), `/new-keys` (as `/big`, with new keys in its middle).
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    scheme: &'static str,
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
        Server::start_with(None)
    }

    pub(crate) fn start_tls(config: ServerConfig) -> Server {
        Server::start_with(Some(Arc::new(config)))
    }

    fn start_with(config: Option<Arc<ServerConfig>>) -> Server {
        let scheme = if config.is_some() { "https" } else { "http" };
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
                let config = config.clone();
                connections.push(std::thread::spawn(move || {
                    // Some tests have clients that go away, so errors are expected.
                    let served = Peer::accept(stream, config, &counts).and_then(|mut peer| {
                        match serve(&mut peer, &counts, &big)? {
                            End::Orderly => peer.close(),
                            End::CutOff => Ok(()),
                        }
                    });
                    drop(served);
                }));
            }
            for connection in connections {
                connection.join().unwrap();
            }
        });
        Server {
            address,
            scheme,
            counts,
            stop,
            thread: Some(thread),
        }
    }

    pub(crate) fn plan(&self, path: &str) -> Plan {
        Plan {
            duration: Duration::from_secs(600),
            backoff: Duration::from_millis(1),
            ..Plan::new(&format!("{}://{}{path}", self.scheme, self.address))
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

/// One client, as the server sees it.
struct Peer {
    tcp: TcpStream,
    tls: Option<ServerConnection>,
    /// The client's close_notify has come.
    notified: bool,
    counts: Arc<Counts>,
}

impl Peer {
    fn accept(
        mut tcp: TcpStream,
        config: Option<Arc<ServerConfig>>,
        counts: &Arc<Counts>,
    ) -> io::Result<Peer> {
        tcp.set_nodelay(true)?;
        let peer = |tcp, tls| Peer {
            tcp,
            tls,
            notified: false,
            counts: Arc::clone(counts),
        };
        let Some(config) = config else {
            return Ok(peer(tcp, None));
        };
        let mut tls = ServerConnection::new(config).map_err(io::Error::other)?;
        while tls.is_handshaking() {
            if tls.complete_io(&mut tcp)? == (0, 0) {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        // The tickets of TLS 1.3 are still to be sent.
        tls.write_tls(&mut tcp)?;
        counts.handshakes.fetch_add(1, Ordering::SeqCst);
        Ok(peer(tcp, Some(tls)))
    }

    /// Sends a close_notify, then waits for the client's end.
    fn close(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            return Ok(());
        };
        tls.send_close_notify();
        while tls.wants_write() {
            tls.write_tls(&mut self.tcp)?;
        }
        self.tcp.shutdown(std::net::Shutdown::Write)?;
        if !self.notified {
            let _ = self.read(&mut [0])?;
        }
        Ok(())
    }
}

impl Read for Peer {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            return self.tcp.read(bytes);
        };
        // It fails if the connection ends without a close_notify.
        let got = rustls::Stream::new(tls, &mut self.tcp).read(bytes)?;
        if got == 0 && !self.notified {
            self.notified = true;
            self.counts.close_notifies.fetch_add(1, Ordering::SeqCst);
        }
        Ok(got)
    }
}

impl Write for Peer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            Some(tls) => rustls::Stream::new(tls, &mut self.tcp).write(bytes),
            None => self.tcp.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => rustls::Stream::new(tls, &mut self.tcp).flush(),
            None => self.tcp.flush(),
        }
    }
}

/// How a connection ends that was served to its end.
enum End {
    Orderly,
    CutOff,
}

fn read_head(stream: &mut Peer) -> io::Result<Option<String>> {
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

fn serve(stream: &mut Peer, counts: &Counts, big: &[u8]) -> io::Result<End> {
    while let Some(head) = read_head(stream)? {
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
                respond(stream, counts, "206 Partial", &fields, &big[first..=last])?;
            }
            "/big" => respond(stream, counts, "200 OK", "", big)?,
            "/flipped" => {
                let mut wrong = big.to_vec();
                wrong[BIG - 5] ^= 0x10;
                respond(stream, counts, "200 OK", "", &wrong)?;
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
            "/busy" => respond(stream, counts, "503 Busy", "Retry-After: 3\r\n", b"busy\n")?,
            "/missing" => respond(stream, counts, "404 Missing", "", b"missing\n")?,
            "/short" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this")?;
                return Ok(End::Orderly);
            }
            "/garbage" => {
                stream.write_all(b"what is this\r\n\r\n")?;
                return Ok(End::Orderly);
            }
            "/close-idle" => {
                respond(stream, counts, "200 OK", "", b"bye")?;
                return Ok(End::Orderly);
            }
            "/until-close" | "/cut-off" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nall of it?")?;
                stream.flush()?;
                return Ok(if path == "/cut-off" {
                    End::CutOff
                } else {
                    End::Orderly
                });
            }
            "/new-keys" => {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BIG}\r\n\r\n");
                stream.write_all(head.as_bytes())?;
                let (first, last) = big.split_at(BIG / 2);
                stream.write_all(first)?;
                if let Some(tls) = &mut stream.tls {
                    tls.refresh_traffic_keys().map_err(io::Error::other)?;
                }
                stream.write_all(last)?;
                stream.flush()?;
            }
            "/bad-record" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this")?;
                stream.flush()?;
                stream
                    .tcp
                    .write_all(b"\x17\x03\x03\x00\x20 bytes that nobody has encrypted")?;
                return Ok(End::CutOff);
            }
            _ => respond(stream, counts, "200 OK", "", b"small object")?,
        }
        if head.contains("Connection: close") {
            return Ok(End::Orderly);
        }
    }
    Ok(End::Orderly)
}

fn respond(
    stream: &mut Peer,
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
    stream.flush()?;
    counts.whole_bodies.fetch_add(1, Ordering::SeqCst);
    Ok(())
}
