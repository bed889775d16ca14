//! SeaweedFS, where it is installed: its program, and one request after another to it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::launch;

/// How long it may take to start and to find its shards.
const START: Duration = Duration::from_secs(40);
/// How long one answer may take. Tahoe-LAFS, which is asked by the same means, answers an upload when all of it is encoded.
const ANSWER: Duration = Duration::from_secs(60);

/// The program: `given`, or the one in the path. `None` when it is not installed.
///
/// # Errors
///
/// If it is there and doesn't run, or `given` and not there.
pub fn find(given: Option<&Path>) -> anyhow::Result<Option<(PathBuf, String)>> {
    launch::installed("weed", given, "version")
}

/// How a server is started on a directory, without its ports: master and volume server in one process, which ask nobody
/// outside this machine anything.
pub fn server_command(program: &Path, directory: &Path) -> Vec<String> {
    let fixed = [
        "-logtostderr=true",
        "server",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=1000",
        "-volume.max=100",
    ];
    let mut command = vec![program.display().to_string()];
    command.extend(fixed.map(str::to_owned));
    command.push(format!("-dir={}", directory.display()));
    command
}

/// Retries until the condition is true. Errors count as not yet, until the time is over.
///
/// # Errors
///
/// If it is not true in time: the last error, if there was one.
pub fn wait(mut so: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        match so() {
            Ok(true) => return Ok(()),
            Ok(false) if begun.elapsed() > START => bail!("not within {} s", START.as_secs()),
            Err(error) if begun.elapsed() > START => return Err(error),
            _ => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// One request on a connection of its own: status and body.
///
/// # Errors
///
/// If there is no answer, or it is not HTTP.
pub fn ask(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: &[u8],
) -> anyhow::Result<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(ANSWER))?;
    let length = body.len();
    // Without a body it wants no type: the filer takes that for an upload.
    let kind = match length {
        0 => "",
        _ => "Content-Type: application/octet-stream\r\n",
    };
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: {address}\r\n{kind}Content-Length: {length}\r\n\r\n"
    )?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
    let end = end.context("an answer without a head")?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .with_context(|| format!("no status in {head:?}"))?;
    Ok((status, answer.split_off(end + 4)))
}
