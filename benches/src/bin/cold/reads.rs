//! The two ways to read the same bytes: `dd` from the files, and GET from a server.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use core_affinity::CoreId;
use penstock_benches::common::launch::Server;
use penstock_benches::common::usage::Usage;
use rustix::net::{RecvFlags, recv};

/// Bytes that `dd` reads at once.
const DD_BYTES: u64 = 1 << 20;
/// The longest that anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How `dd` reads several files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dd {
    /// One file after another.
    InTurn,
    /// All of them at once, a process for each.
    AtOnce,
    /// All of them at once, bypassing the page cache.
    Direct,
    /// One file after another on the server's core, while the clients' core copies memory.
    BesideCopies,
}

impl Dd {
    pub(crate) const ALL: [Dd; 4] = [Dd::InTurn, Dd::AtOnce, Dd::Direct, Dd::BesideCopies];

    /// The name in the record.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Dd::InTurn => "dd, one after another",
            Dd::AtOnce => "dd, all at once",
            Dd::Direct => "dd, all at once, direct",
            Dd::BesideCopies => "dd, beside a core that copies",
        }
    }
}

/// The results of one measurement.
pub(crate) struct Measured {
    /// GB per second from the first request to the last byte.
    pub gb_s: f64,
    /// CPU seconds per GB of the server's process and of its core; `None` for `dd`.
    pub cpu_per_gb: Option<[f64; 2]>,
}

/// Reads files whole. `dd` may use every core, unless the other one copies.
pub(crate) fn dd(
    files: &[PathBuf],
    how: Dd,
    [server_core, _]: [usize; 2],
) -> anyhow::Result<Measured> {
    if how != Dd::BesideCopies {
        return run_dd(files, how);
    }
    // A process started by a pinned thread is pinned too.
    std::thread::scope(|scope| {
        let pinned = scope.spawn(|| {
            pin("dd", server_core)?;
            run_dd(files, how)
        });
        pinned
            .join()
            .map_err(|_| anyhow!("what started dd panicked"))?
    })
}

fn run_dd(files: &[PathBuf], how: Dd) -> anyhow::Result<Measured> {
    let mut bytes = 0;
    for file in files {
        bytes += std::fs::metadata(file)?.len();
    }
    let begun = Instant::now();
    let mut running = Vec::new();
    for file in files {
        let mut command = Command::new("dd");
        command
            .arg(format!("if={}", file.display()))
            .arg("of=/dev/null")
            .arg(format!("bs={DD_BYTES}"))
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        if how == Dd::Direct {
            command.arg("iflag=direct");
        }
        running.push(command.spawn().context("can't start dd")?);
        if matches!(how, Dd::InTurn | Dd::BesideCopies) {
            finish(&mut running)?;
        }
    }
    finish(&mut running)?;
    Ok(Measured {
        gb_s: bytes as f64 / 1e9 / begun.elapsed().as_secs_f64(),
        cpu_per_gb: None,
    })
}

/// Pins the calling thread to a core; `what` names the thread in errors.
fn pin(what: &str, id: usize) -> anyhow::Result<()> {
    let pinned = core_affinity::set_for_current(CoreId { id });
    ensure!(pinned, "can't pin {what} to core {id}");
    Ok(())
}

fn finish(running: &mut Vec<Child>) -> anyhow::Result<()> {
    for mut child in running.drain(..) {
        let status = child.wait()?;
        ensure!(status.success(), "dd: {status}");
    }
    Ok(())
}

/// Downloads an object of `size` bytes once, in parts over several connections.
pub(crate) fn get(
    server: &Server,
    key: &str,
    size: u64,
    connections: u64,
    [server_core, client_core]: [usize; 2],
) -> anyhow::Result<Measured> {
    let before = Usage::now(server.pid(), server_core, client_core)?;
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let parts = (0..connections).map(|at| {
            let part = size * at / connections..size * (at + 1) / connections;
            scope.spawn(move || {
                pin("the client", client_core)?;
                fetch(server.address, key, part)
            })
        });
        let parts: Vec<_> = parts.collect();
        parts.into_iter().try_for_each(|part| {
            part.join()
                .map_err(|_| anyhow!("a client panicked"))
                .flatten()
        })
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    let after = Usage::now(server.pid(), server_core, client_core)?;
    let gigabytes = size as f64 / 1e9;
    Ok(Measured {
        gb_s: gigabytes / seconds,
        cpu_per_gb: Some([
            (after.process - before.process) / gigabytes,
            (after.server_core - before.server_core) / gigabytes,
        ]),
    })
}

/// Downloads a part of an object. The body is dropped inside the kernel and counted.
fn fetch(address: SocketAddr, key: &str, part: Range<u64>) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let (first, last) = (part.start, part.end - 1);
    write!(
        stream,
        "GET /{key} HTTP/1.1\r\nHost: {address}\r\nRange: bytes={first}-{last}\r\n\r\n"
    )?;
    // The head is read byte by byte, so that no byte of the body is read with it.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        ensure!(stream.read(&mut byte)? == 1, "closed within the head");
        head.push(byte[0]);
        ensure!(head.len() < 8192, "a head of over 8192 bytes");
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    let length = format!("content-length: {}\r\n", part.end - part.start);
    ensure!(
        head.starts_with("http/1.1 206") && head.contains(&length),
        "not the part that was asked for: {head}"
    );
    let mut nowhere = vec![0; 256 << 10];
    let mut left = part.end - part.start;
    while left > 0 {
        let wish = nowhere
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        match recv(&stream, &mut nowhere[..wish], RecvFlags::TRUNC) {
            Ok((_, 0)) => bail!("closed with {left} bytes to come"),
            Ok((_, count)) => left -= count as u64,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("receiving"),
        }
    }
    Ok(())
}
