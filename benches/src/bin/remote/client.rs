//! A client that takes a body as fast as it comes, and says when its first byte came.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

/// What a download took.
pub(crate) struct Got {
    /// Until the first byte of the body.
    pub first_byte: Duration,
    /// Until the last one.
    pub whole: Duration,
}

/// One connection, for one request after another.
struct Connection(BufReader<TcpStream>);

impl Connection {
    fn open(address: SocketAddr) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Connection(BufReader::with_capacity(256 << 10, stream)))
    }

    /// Asks, and reads the body to its end.
    fn get(&mut self, path: &str, range: Option<(usize, usize)>) -> anyhow::Result<Got> {
        let start = Instant::now();
        let range = range.map(|(first, last)| format!("Range: bytes={first}-{last}\r\n"));
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: bench\r\n{}\r\n",
            range.unwrap_or_default()
        );
        self.0.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        let mut length = None;
        let mut status = None;
        loop {
            line.clear();
            ensure!(self.0.read_line(&mut line)? > 0, "{path}: closed");
            let text = line.trim_end();
            if status.is_none() {
                status = Some(text.to_owned());
            } else if text.is_empty() {
                break;
            } else if let Some((name, value)) = text.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = Some(value.trim().parse::<u64>()?);
            }
        }
        let status = status.unwrap_or_default();
        ensure!(status.contains(" 20"), "{path}: {status}");
        let mut left = length.with_context(|| format!("{path}: no length"))?;
        let mut first_byte = None;
        while left > 0 {
            let here = self.0.fill_buf()?.len() as u64;
            ensure!(here > 0, "{path}: {left} bytes are missing");
            first_byte.get_or_insert_with(|| start.elapsed());
            let taken = here.min(left);
            self.0.consume(taken as usize);
            left -= taken;
        }
        let whole = start.elapsed();
        Ok(Got {
            first_byte: first_byte.unwrap_or(whole),
            whole,
        })
    }
}

/// Downloads a path on a connection of its own.
///
/// # Errors
/// If it is not received whole.
pub(crate) fn download(address: SocketAddr, path: &str) -> anyhow::Result<Got> {
    Connection::open(address)?.get(path, None)
}

/// Takes a file by ranges of so many bytes, one after another.
///
/// # Errors
/// If one is not received whole.
pub(crate) fn parts(
    address: SocketAddr,
    path: &str,
    bytes: usize,
    part: usize,
) -> anyhow::Result<()> {
    let mut connection = Connection::open(address)?;
    for first in (0..bytes).step_by(part) {
        let last = (first + part).min(bytes) - 1;
        connection.get(path, Some((first, last)))?;
    }
    Ok(())
}
