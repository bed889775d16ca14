//! The load beside which a store fails: small objects asked for at fixed times, and downloads at a fixed pace.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use socket2::{Domain, Socket, Type};

/// Small requests a second.
pub(crate) const REQUESTS_A_SECOND: u32 = 200;
/// Connections that take turns with them: more than are asked while a store hangs, so that none waits for another.
pub(crate) const CONNECTIONS: u32 = 200;
/// Bytes a second of one download.
const DOWNLOAD_RATE: f64 = 1e6;
/// Bytes that a download takes at once.
const DOWNLOAD_STEP: usize = 50_000;
/// A download's receive buffer: small, so that the server reads its object as it goes on.
const DOWNLOAD_BUFFER: usize = 64 << 10;
/// No answer may take longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A small request: when it was to be sent, after the start, and how long after that its answer was there.
pub(crate) type Answer = (Duration, Duration);

/// One connection that asks for one object after another.
pub(crate) struct Client(BufReader<TcpStream>);

impl Client {
    /// Connects; with `receive_bytes` as the receive buffer, if given.
    ///
    /// # Errors
    ///
    /// If it can't.
    pub(crate) fn connect(
        address: SocketAddr,
        receive_bytes: Option<usize>,
    ) -> anyhow::Result<Client> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        if let Some(bytes) = receive_bytes {
            socket.set_recv_buffer_size(bytes)?;
        }
        socket.connect_timeout(&address.into(), PATIENCE)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_tcp_nodelay(true)?;
        Ok(Client(BufReader::with_capacity(16 << 10, socket.into())))
    }

    /// Asks for an object, whose head it reads.
    ///
    /// # Errors
    ///
    /// If the answer is not 200.
    pub(crate) fn ask(&mut self, key: &str) -> anyhow::Result<()> {
        let request = format!("GET /{key} HTTP/1.1\r\nHost: x\r\n\r\n");
        self.0.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        ensure!(line.starts_with("HTTP/1.1 200"), "{key}: {line}");
        while line != "\r\n" {
            line.clear();
            ensure!(self.0.read_line(&mut line)? > 0, "{key}: cut off");
        }
        Ok(())
    }

    /// Reads what must be these bytes.
    ///
    /// # Errors
    ///
    /// If it is something else, or the end.
    pub(crate) fn expect(&mut self, expected: &[u8]) -> anyhow::Result<()> {
        let mut body = vec![0; expected.len()];
        self.0.read_exact(&mut body)?;
        if body != expected {
            bail!("wrong bytes");
        }
        Ok(())
    }
}

/// Small requests at fixed times until `end`: each time counts from when the request was to be sent, even if its
/// connection still waited for another.
///
/// # Errors
///
/// If an answer is not what it must be.
pub(crate) fn small_requests(
    address: SocketAddr,
    start: Instant,
    end: Duration,
    object: impl Fn(u32) -> (String, Vec<u8>) + Sync,
) -> anyhow::Result<Vec<Answer>> {
    let one = |connection: u32| -> anyhow::Result<Vec<Answer>> {
        let mut client = Client::connect(address, None)?;
        let mut answers = Vec::new();
        for number in (connection..).step_by(CONNECTIONS as usize) {
            let due = Duration::from_secs(1) * number / REQUESTS_A_SECOND;
            if due >= end {
                break;
            }
            let (key, content) = object(number);
            thread::sleep((start + due).saturating_duration_since(Instant::now()));
            client.ask(&key)?;
            client.expect(&content).context(key)?;
            answers.push((due, (start + due).elapsed()));
        }
        Ok(answers)
    };
    thread::scope(|scope| {
        let all: Vec<_> = (0..CONNECTIONS)
            .map(|connection| scope.spawn(move || one(connection)))
            .collect();
        let mut answers = Vec::new();
        for thread in all {
            answers.extend(thread.join().expect("no panic")?);
        }
        Ok(answers)
    })
}

/// A download at a fixed pace until `end`, and as fast as it can from then on.
///
/// # Errors
///
/// If it does not get the whole object.
pub(crate) fn download(
    address: SocketAddr,
    start: Instant,
    end: Duration,
    key: &str,
    content: &[u8],
) -> anyhow::Result<()> {
    let mut client = Client::connect(address, Some(DOWNLOAD_BUFFER))?;
    client.ask(key)?;
    let mut read = 0;
    for part in content.chunks(DOWNLOAD_STEP) {
        let due = Duration::from_secs_f64(read as f64 / DOWNLOAD_RATE).min(end);
        thread::sleep((start + due).saturating_duration_since(Instant::now()));
        client
            .expect(part)
            .with_context(|| format!("{key}, after {read} bytes"))?;
        read += part.len();
    }
    Ok(())
}
