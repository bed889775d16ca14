//! The three strategies that penstock does not use, as small tokio servers: one thread, one task per connection; any
//! path serves the object. They read k shares and rebuild the lost data segment by segment with the same kernels as
//! penstock. They differ only in the place where decoded bytes wait for a slow client.
//!
//! They take two shortcuts, which cost no memory: leaf checksums are not verified, and HTTP is limited to reading a
//! head and answering 200 (one request per connection).

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use decode_kernel::code::{Code, Coder};
use decode_kernel::share::{BLOCKS_OFFSET, Key};
use penstock_benches::common::launch::READY;
use penstock_store::{OpenObject, Store, open_object};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use super::Strategy;

/// The first argument that makes the benchmark one of these servers. For internal use.
const SERVE: &str = "serve-strategy";
/// Longest request head.
const HEAD_BYTES_MAX: usize = 8192;
/// Bytes that the spooling server sends at once, as servers do that copy a file to a socket.
const COPY_BYTES: usize = 128 << 10;

/// The command that runs one of these servers.
pub(super) fn command(
    strategy: Strategy,
    key: &str,
    spool: &Path,
    stores: impl Iterator<Item = String>,
) -> anyhow::Result<Vec<String>> {
    let name = strategy.to_possible_value().context("a hidden strategy")?;
    let mut command = vec![
        std::env::current_exe()?.display().to_string(),
        SERVE.to_owned(),
        name.get_name().to_owned(),
        key.to_owned(),
        spool.display().to_string(),
    ];
    command.extend(stores);
    Ok(command)
}

/// Serves and never returns, if this process was started as one of these servers.
///
/// # Errors
///
/// If it was, and cannot serve.
pub(super) fn serve_if_started_as_server() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    if args.next().is_none_or(|first| first != SERVE) {
        return Ok(());
    }
    let mut next = || args.next().context("it takes STRATEGY KEY SPOOL STORE...");
    let strategy = Strategy::from_str(&next()?, true).map_err(anyhow::Error::msg)?;
    let (key, spool) = (Key::new(&next()?)?, PathBuf::from(next()?));
    let stores: Vec<PathBuf> = args.map(PathBuf::from).collect();
    let source = Rc::new(Source::open(&stores, &key)?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{READY}{}", listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            let (source, spool) = (Rc::clone(&source), spool.clone());
            tokio::task::spawn_local(async move {
                if let Err(error) = answer(strategy, &source, &spool, stream).await {
                    eprintln!("connection ended: {error:#}");
                }
            });
        }
    })
}

/// The object's shares, and the state that decodes them.
struct Source {
    object: OpenObject,
    code: Code,
    /// Shares to read: data shares first. Then the data shares to rebuild.
    sources: Vec<usize>,
    lost: Vec<usize>,
}

impl Source {
    fn open(stores: &[PathBuf], key: &Key) -> anyhow::Result<Source> {
        let object = open_object(&Store::directories(stores), key, false)?;
        let geometry = object.header.geometry;
        let (k, n) = (usize::from(geometry.k()), usize::from(geometry.n()));
        let have: Vec<usize> = object
            .shares
            .iter()
            .map(|share| usize::from(share.number))
            .collect();
        Ok(Source {
            code: Code::new(object.header.code, k, n)?,
            sources: have.iter().copied().take(k).collect(),
            lost: (0..k).filter(|number| !have.contains(number)).collect(),
            object,
        })
    }

    fn size(&self) -> u64 {
        self.object.header.geometry.size()
    }

    fn segments(&self) -> u64 {
        self.object.header.geometry.segments()
    }

    /// Reads and decodes one segment. Returns the object's bytes, without the padding of the last segment.
    fn segment(&self, segment: u64) -> anyhow::Result<Vec<u8>> {
        let geometry = self.object.header.geometry;
        let block = geometry.block_len(segment) as usize;
        let offset = BLOCKS_OFFSET + segment * u64::from(geometry.block_bytes());
        let k = self.code.k();
        let mut decoded = vec![0; k * block];
        // Parity is read into a separate buffer, which is returned at the end.
        let mut parity = Vec::new();
        for (share, &number) in self.object.shares.iter().zip(&self.sources) {
            if number < k {
                share
                    .file
                    .read_exact_at(&mut decoded[number * block..][..block], offset)?;
            } else {
                let mut bytes = vec![0; block];
                share.file.read_exact_at(&mut bytes, offset)?;
                parity.push(bytes);
            }
        }
        if !self.lost.is_empty() {
            let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
            for (number, bytes) in decoded.chunks_exact_mut(block).enumerate() {
                if self.lost.contains(&number) {
                    outputs.push(bytes);
                } else {
                    inputs.push(&*bytes);
                }
            }
            inputs.extend(parity.iter().map(Vec::as_slice));
            Coder::new(1).rebuild(&self.code, &self.sources, &inputs, &self.lost, &mut outputs)?;
        }
        let left = self.size() - segment * geometry.segment_bytes();
        decoded.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        Ok(decoded)
    }
}

/// Answers one request, whatever it asks for, and closes.
async fn answer(
    strategy: Strategy,
    source: &Rc<Source>,
    spool: &Path,
    mut stream: TcpStream,
) -> anyhow::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        ensure!(
            head.len() < HEAD_BYTES_MAX,
            "a head over {HEAD_BYTES_MAX} bytes"
        );
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    drop(head);
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        source.size()
    );
    stream.write_all(head.as_bytes()).await?;
    match strategy {
        Strategy::QueueAll => queue_all(source, &mut stream).await,
        Strategy::Spool => spool_all(source, spool, &mut stream).await,
        Strategy::OneSegment => one_segment(source, &mut stream).await,
        Strategy::Ours => bail!("penstock is a program of its own"),
    }
}

/// Decoding does not wait for the client: bytes that the client has not read are queued.
async fn queue_all(source: &Rc<Source>, stream: &mut TcpStream) -> anyhow::Result<()> {
    let (queue, mut queued) = mpsc::unbounded_channel();
    let producer = Rc::clone(source);
    tokio::task::spawn_local(async move {
        for segment in 0..producer.segments() {
            let decoded = producer.segment(segment);
            let failed = decoded.is_err();
            // The receiver is gone if the client is.
            if queue.send(decoded).is_err() || failed {
                return;
            }
            tokio::task::yield_now().await;
        }
    });
    while let Some(segment) = queued.recv().await {
        stream.write_all(&segment?).await?;
    }
    Ok(())
}

/// Decodes the whole object into an unnamed file, then sends the file.
async fn spool_all(source: &Source, dir: &Path, stream: &mut TcpStream) -> anyhow::Result<()> {
    let mut file: File = tempfile::tempfile_in(dir)?;
    for segment in 0..source.segments() {
        file.write_all(&source.segment(segment)?)?;
        tokio::task::yield_now().await;
    }
    let mut sent = 0;
    while sent < source.size() {
        // The buffer is not kept while waiting: the file is the memory of this strategy.
        stream.writable().await?;
        let mut buffer = vec![0; COPY_BYTES];
        let count = file.read_at(&mut buffer, sent)?;
        ensure!(
            count > 0,
            "the spool ends at {sent} of {} bytes",
            source.size()
        );
        match stream.try_write(&buffer[..count]) {
            Ok(taken) => sent += taken as u64,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Decodes a segment, sends it, decodes the next.
async fn one_segment(source: &Source, stream: &mut TcpStream) -> anyhow::Result<()> {
    for segment in 0..source.segments() {
        stream.write_all(&source.segment(segment)?).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_benches::common::object;

    #[test]
    fn segments_are_the_object_whatever_is_lost() {
        let directory = tempfile::tempdir().unwrap();
        let plain = directory.path().join("plain");
        object::write_plain(&plain, 1_000_001, 7).unwrap();
        let coded = object::put(&plain, "x", [4, 2], 64 << 10, directory.path()).unwrap();
        let expected = std::fs::read(&plain).unwrap();
        let chosen = |numbers: &[usize]| -> Vec<PathBuf> {
            numbers
                .iter()
                .map(|&number| coded.stores[number].clone())
                .collect()
        };
        let some: [&[usize]; 4] = [
            &[0, 1, 2, 3, 4, 5],
            &[2, 3, 4, 5],
            &[0, 2, 3, 5],
            &[0, 1, 2, 3],
        ];
        for numbers in some {
            let source = Source::open(&chosen(numbers), &Key::new("x").unwrap()).unwrap();
            let segments: Result<Vec<_>, _> = (0..source.segments())
                .map(|segment| source.segment(segment))
                .collect();
            assert_eq!(segments.unwrap().concat(), expected, "shares {numbers:?}");
        }
    }
}
