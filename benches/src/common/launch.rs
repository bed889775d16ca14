//! Servers as child processes: pinned to a core, killed when the benchmark ends, and stopped in an orderly way.
//!
//! The benchmark starts itself again as the launcher. The launcher pins itself, asks the kernel for a signal when its
//! parent dies, and then becomes the server, so the process id stays the same.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use core_affinity::CoreId;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getppid};

/// The first argument that makes the benchmark a launcher. For internal use.
const LAUNCH: &str = "launch-pinned";
/// In place of a core's number: the server may use all cores.
const ANY_CORE: &str = "any";
/// How long a server may take until it listens. SeaweedFS takes half of it when the one before was killed.
const START: Duration = Duration::from_secs(60);
/// How long a server may take to end when asked to; then it is killed.
const STOP: Duration = Duration::from_secs(5);
/// The text that a server prints before its address once it listens.
pub const READY: &str = "listening on http://";

/// Becomes the server, if this process was started as a launcher. To be called first in `main`.
///
/// # Errors
///
/// If it is a launcher and the server cannot be started.
pub fn launch_if_started_as_launcher() -> anyhow::Result<()> {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_none_or(|first| first != LAUNCH) {
        return Ok(());
    }
    let mut next = || {
        args.next()
            .context("a launcher takes CORE PARENT PROGRAM ARGUMENTS")
    };
    let core = next()?;
    let parent: i32 = next()?.to_string_lossy().parse()?;
    let program = next()?;
    if core != ANY_CORE {
        let id: usize = core.to_string_lossy().parse()?;
        ensure!(
            core_affinity::set_for_current(CoreId { id }),
            "can't pin to core {id}"
        );
    }
    set_pdeathsig(Signal::SIGTERM)?;
    // The parent may have died before that call.
    ensure!(getppid().as_raw() == parent, "the benchmark is gone");
    let error = Command::new(&program).args(args).exec();
    Err(error).with_context(|| format!("can't run {}", program.display()))
}

/// A running server.
pub struct Server {
    child: Child,
    /// Kept open: a server that prints into a closed pipe fails.
    _output: Option<BufReader<std::process::ChildStdout>>,
    /// The address on which it listens.
    pub address: SocketAddr,
    /// What is spoken there.
    scheme: &'static str,
    /// How long it may take to end.
    stop: Duration,
}

impl Server {
    /// Starts `command` on `core` (on all cores if `None`), with its standard error in the file `log`, and waits until
    /// it prints its address.
    ///
    /// # Errors
    ///
    /// If it does not start, ends, or does not listen in time; the message has the end of its log.
    pub fn start(
        core: impl Into<Option<usize>>,
        command: &[String],
        log: &Path,
    ) -> anyhow::Result<Server> {
        let mut child = launch(core.into(), command, log, Stdio::piped())?;
        let output = child.stdout.take().context("its output is piped")?;
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut line = String::new();
            let found = loop {
                line.clear();
                match output.read_line(&mut line) {
                    Ok(0) | Err(_) => break None,
                    Ok(_) => {
                        if let Some(address) = line.trim().strip_prefix(READY) {
                            break address.parse().ok();
                        }
                    }
                }
            };
            // The receiver is gone if the time is over.
            let _ = sender.send((found, output));
        });
        match receiver.recv_timeout(START) {
            Ok((Some(address), output)) => Ok(Server {
                child,
                _output: Some(output),
                address,
                scheme: "http",
                stop: STOP,
            }),
            _ => Err(failed(child, command, log)),
        }
    }

    /// Starts a server that prints nothing, on `address`, and waits until it accepts connections. It runs on `core`, or on
    /// all cores if `None`.
    ///
    /// # Errors
    ///
    /// As [`Server::start`].
    pub fn start_silent(
        core: impl Into<Option<usize>>,
        command: &[String],
        log: &Path,
        address: SocketAddr,
    ) -> anyhow::Result<Server> {
        let mut child = launch(core.into(), command, log, Stdio::null())?;
        let start = Instant::now();
        while TcpStream::connect(address).is_err() {
            if start.elapsed() > START || child.try_wait()?.is_some() {
                return Err(failed(child, command, log));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Server {
            child,
            _output: None,
            address,
            scheme: "http",
            stop: STOP,
        })
    }

    /// The same server, to be killed at once when it is stopped. For one that takes long to end and has nothing to
    /// lose.
    pub fn killed(mut self) -> Server {
        self.stop = Duration::ZERO;
        self
    }

    /// Its process.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// The same server, asked by TLS at this address.
    pub fn secured(mut self, address: SocketAddr) -> Server {
        self.address = address;
        self.scheme = "https";
        self
    }

    /// The URL of `path`, which has no leading slash.
    pub fn url(&self, path: &str) -> String {
        format!("{}://{}/{path}", self.scheme, self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        stop(&mut self.child, self.stop);
    }
}

fn launch(
    core: Option<usize>,
    command: &[String],
    log: &Path,
    output: Stdio,
) -> anyhow::Result<Child> {
    let program = command.first().context("an empty command")?;
    let core = core.map_or_else(|| ANY_CORE.to_owned(), |core| core.to_string());
    let log = File::create(log).with_context(|| format!("can't create {}", log.display()))?;
    Command::new(std::env::current_exe()?)
        .args([LAUNCH, &core, &std::process::id().to_string()])
        .args(command)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(log)
        .spawn()
        .with_context(|| format!("can't start {program}"))
}

fn failed(mut child: Child, command: &[String], log: &Path) -> anyhow::Error {
    stop(&mut child, STOP);
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let end = lines[lines.len().saturating_sub(5)..].join("\n  ");
    anyhow::anyhow!("`{}` does not listen; it said:\n  {end}", command.join(" "))
}

/// Asks a process to end, waits up to `patience`, then kills it.
fn stop(child: &mut Child, patience: Duration) {
    let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM);
    let start = Instant::now();
    while start.elapsed() < patience {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// A port of the loopback address that no server listens on now.
///
/// # Errors
///
/// If the system has none.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// A competitor's program, and the first line that it says about its version: `given`, or the one of this name in the
/// path. `None` when it is not installed.
///
/// # Errors
///
/// If it is there and doesn't run, or `given` and not there.
pub fn installed(
    name: &str,
    given: Option<&Path>,
    version: &str,
) -> anyhow::Result<Option<(PathBuf, String)>> {
    let program = given.map_or_else(|| PathBuf::from(name), Path::to_owned);
    let output = Command::new(&program)
        .arg(version)
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout);
            let line = text.lines().next().unwrap_or_default().to_owned();
            Ok(Some((program, line)))
        }
        Err(error) if given.is_none() && error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Ok(output) => bail!("{} {version}: {}", program.display(), output.status),
        Err(error) => Err(error).with_context(|| format!("can't run {}", program.display())),
    }
}

/// The `penstock` program: `given`, or the one beside this benchmark.
///
/// # Errors
///
/// If there is none; the message says how to build it.
pub fn penstock(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let path = match given {
        Some(path) => path.to_owned(),
        None => std::env::current_exe()?.with_file_name("penstock"),
    };
    if !path.is_file() {
        bail!(
            "no program {}; build it with `cargo build --release -p penstock` or give it with --penstock",
            path.display()
        );
    }
    Ok(path)
}

/// A build of `penstock`.
pub struct Program {
    /// The text after "penstock" in its name: nothing, or " before".
    pub name: &'static str,
    /// Its file.
    pub path: PathBuf,
}

/// The `penstock` program, as [`penstock()`] finds it, and another build to compare it with, if that is `given`.
///
/// # Errors
///
/// As [`penstock()`].
pub fn programs(given: Option<&Path>, before: Option<&Path>) -> anyhow::Result<Vec<Program>> {
    let mut programs = vec![Program {
        name: "",
        path: penstock(given)?,
    }];
    if before.is_some() {
        programs.push(Program {
            name: " before",
            path: penstock(before)?,
        });
    }
    Ok(programs)
}

/// The command line that serves `stores` on one core, on addresses that the system chooses. `more` has further
/// arguments, separated by blanks.
pub fn serve_command(
    penstock: &Path,
    backend: &str,
    stores: &[PathBuf],
    more: &str,
) -> Vec<String> {
    let mut command = vec![
        penstock.display().to_string(),
        "serve".to_owned(),
        "--listen=127.0.0.1:0".to_owned(),
        "--admin=127.0.0.1:0".to_owned(),
        "--cores=1".to_owned(),
        format!("--io={backend}"),
    ];
    let stores = stores
        .iter()
        .map(|store| format!("--store={}", store.display()));
    command.extend(stores);
    command.extend(more.split_ascii_whitespace().map(str::to_owned));
    command
}

/// The core for the servers and the one for the clients: the first and the second that this process may use, unless
/// given; the same core twice if there is only one.
///
/// # Errors
///
/// If the system does not list its cores, or a given core is not among them.
pub fn cores(server: Option<usize>, client: Option<usize>) -> anyhow::Result<(usize, usize)> {
    let all = core_affinity::get_core_ids().context("can't list the cores")?;
    let all: Vec<usize> = all.iter().map(|core| core.id).collect();
    let first = *all.first().context("no cores")?;
    let second = *all.get(1).unwrap_or(&first);
    for told in [server, client].into_iter().flatten() {
        ensure!(all.contains(&told), "no core {told}; there are {all:?}");
    }
    Ok((server.unwrap_or(first), client.unwrap_or(second)))
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_existing_cores_are_used() {
        let (first, second) = super::cores(None, None).unwrap();
        assert_eq!(
            super::cores(Some(second), Some(first)).unwrap(),
            (second, first)
        );
        let error = super::cores(None, Some(1 << 20)).unwrap_err().to_string();
        assert!(error.starts_with("no core 1048576; there are ["), "{error}");
    }
}
