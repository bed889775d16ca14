//! Helpers for the tests of the running server: stores, servers, and content that is easy to check.
//!
//! Every test starts the real `penstock` on loopback with port 0. No test's result depends on time:
//! [`PATIENCE`] only bounds how long a failing test hangs.

#![allow(dead_code, unreachable_pub, unused_imports)] // each test binary uses some of it

pub mod buckets;
pub mod cli;
pub mod client;
pub mod crowd;
pub mod secure;
pub mod sockets;
pub mod stores;

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

pub use client::{Client, Response, get};
pub use stores::{BLOCK, KEY, Noise, Stores, assert_same, sha256};

/// The longest wait for anything before a test fails. Far more than anything takes on a busy
/// machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long `/status` waits for the cores.
const CORES_ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// How the server under test talks to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    Uring,
    Epoll,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Backend::Uring => "uring",
            Backend::Epoll => "epoll",
        })
    }
}

impl Backend {
    /// Runs a test's body, unless this machine refuses the backend.
    pub fn run(self, body: fn(Backend)) {
        static REFUSAL: OnceLock<Option<String>> = OnceLock::new();
        if self == Backend::Uring
            && let Some(why) = REFUSAL.get_or_init(uring_refusal)
        {
            skip(&format!("io_uring is refused here: {why}"));
            return;
        }
        body(self);
    }
}

/// Why `penstock serve --io uring` does not start here, if io_uring is the reason.
fn uring_refusal() -> Option<String> {
    let stores = Stores::new(1);
    // An empty directory is no store.
    stores.put(KEY, &mut &b"x"[..], 1, BLOCK);
    let error = Server::launch(Server::command(&stores, Backend::Uring, &[])).err()?;
    let at = error
        .find("--io uring: ")
        .unwrap_or_else(|| panic!("the probe failed: {error}"));
    Some(error[at..].lines().next().unwrap_or_default().to_owned())
}

/// Makes two tests of each function, one per backend.
#[macro_export]
macro_rules! on_both_backends {
    ($($test:ident)*) => {
        mod uring {
            $(#[test] fn $test() { $crate::common::Backend::Uring.run(super::$test) })*
        }
        mod epoll {
            $(#[test] fn $test() { $crate::common::Backend::Epoll.run(super::$test) })*
        }
    };
}

/// A program that may not be installed, isolated from the machine's configuration of it.
pub fn program(name: &str) -> Option<Command> {
    let mut command = Command::new(name);
    for proxy in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        command.env_remove(proxy);
    }
    command.stdin(Stdio::null());
    let runs = Command::new(name)
        .arg("--version")
        .output()
        .is_ok_and(|o| o.status.success());
    if !runs {
        skip(&format!("{name} is not installed"));
    }
    runs.then_some(command)
}

/// OpenSSL knows no `--version`.
pub fn openssl() -> Option<Command> {
    let mut command = Command::new("openssl");
    let runs = command
        .arg("version")
        .output()
        .is_ok_and(|o| o.status.success());
    if !runs {
        skip("openssl is not installed");
    }
    runs.then(|| Command::new("openssl"))
}

/// Runs a command to its end and returns its standard output. It must succeed.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = command.output().expect("it starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (said, errors) = (text(&output.stdout), text(&output.stderr));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{said}{errors}",
        output.status
    );
    said
}

/// The `penstock` program that was built with these tests.
pub fn penstock() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_penstock"));
    command.env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

/// What becomes of the server's log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogReader {
    /// They are collected for [`Server::log`].
    Collects,
    /// The other end of standard error is closed.
    Gone,
    /// The other end is open, but nobody reads.
    Stalls,
}

/// A running server. It is killed when dropped.
pub struct Server {
    child: Child,
    /// The address of the object listener: that of TLS where the suites run over it.
    pub objects: SocketAddr,
    /// The address of the object listener without TLS.
    pub plain: SocketAddr,
    /// The address of the object listener of TLS.
    pub secured: Option<SocketAddr>,
    /// The address of the admin listener: metrics, health and status.
    pub admin: SocketAddr,
    /// The lines that it printed until it was ready.
    pub printed: String,
    log: Arc<Mutex<String>>,
    /// Standard error, if it is held open and not read.
    _unread: Option<ChildStderr>,
}

impl Server {
    /// The command that serves these stores, on two cores unless `options` say otherwise.
    pub fn command(stores: &Stores, backend: Backend, options: &[&str]) -> Command {
        let mut command = penstock();
        command.arg("serve").args(stores.flags());
        command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        command.args(["--io", &backend.to_string()]);
        if !options.contains(&"--cores") {
            command.args(["--cores", "2"]);
        }
        // What looks at objects in the background makes calls and has files open at times that no test chose.
        if !options.contains(&"--survey-every") {
            command.args(["--survey-every", "0s"]);
        }
        if secure::is_on() && !options.contains(&"--tls-listen") {
            let [certificate, key] = secure::Identity::shared().write(stores, "tls");
            command.args(["--tls-listen", "127.0.0.1:0", "--tls-cert"]);
            command.arg(certificate).arg("--tls-key").arg(key);
        }
        command.args(options);
        command
    }

    pub fn start(stores: &Stores, backend: Backend, options: &[&str]) -> Server {
        Server::launch(Server::command(stores, backend, options))
            .unwrap_or_else(|error| panic!("the server did not start: {error}"))
    }

    /// Starts a server and waits until it listens. If it ends instead, returns its output.
    pub fn launch(command: Command) -> Result<Server, String> {
        Server::launch_with(command, LogReader::Collects)
    }

    /// As [`Server::launch`], with another reader of its log.
    pub fn launch_with(mut command: Command, reader: LogReader) -> Result<Server, String> {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("penstock starts");
        let log = Arc::new(Mutex::new(String::new()));
        let (read, unread) = match (child.stderr.take(), reader) {
            (errors, LogReader::Collects) => (errors, None),
            (errors, LogReader::Stalls) => (None, errors),
            (errors, LogReader::Gone) => {
                drop(errors);
                (None, None)
            }
        };
        let lines = Arc::clone(&log);
        let reader = thread::spawn(move || {
            let Some(errors) = read else {
                return;
            };
            let mut errors = BufReader::new(errors);
            let mut line = String::new();
            while errors.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
                lines.lock().unwrap().push_str(&line);
                line.clear();
            }
        });
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let (mut plain, mut secured, mut admin) = (None, None, None);
        let mut printed = String::new();
        while plain.is_none() || admin.is_none() {
            let start = printed.len();
            if output
                .read_line(&mut printed)
                .expect("UTF-8 on standard output")
                == 0
            {
                let status = child.wait().unwrap();
                reader.join().unwrap();
                return Err(format!("{status}\n{}", log.lock().unwrap()));
            }
            let line = printed[start..].trim_end();
            if let Some(address) = line.strip_prefix("listening on http://") {
                plain = Some(address.parse().expect("an address"));
            } else if let Some(address) = line.strip_prefix("listening on https://") {
                secured = Some(address.parse().expect("an address"));
            } else if let Some(address) = ["metrics on http://", "metrics on https://"]
                .iter()
                .find_map(|start| line.strip_prefix(start))
            {
                let address = address
                    .strip_suffix("/metrics")
                    .expect("the path of the metrics");
                admin = Some(address.parse().expect("an address"));
            } else if line.starts_with("metrics on unix:") {
                // Nobody listens there.
                admin = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
            }
        }
        // Later output must not fill the pipe.
        thread::spawn(move || output.read_to_end(&mut Vec::new()));
        let (plain, admin): (SocketAddr, SocketAddr) = (plain.unwrap(), admin.unwrap());
        let objects = secured.filter(|_| secure::is_on()).unwrap_or(plain);
        for address in [plain, admin, objects] {
            secure::note_listener(address, address != plain && address != admin);
        }
        Ok(Server {
            child,
            objects,
            plain,
            secured,
            admin,
            printed,
            log,
            _unread: unread,
        })
    }

    /// The URL of a path, as its clients are to be told it.
    pub fn url(&self, path: &str) -> String {
        let scheme = match self.objects == self.plain {
            true => "http",
            false => "https",
        };
        format!("{scheme}://{}{path}", self.objects)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything that it has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until the log holds `text`.
    pub fn wait_for_log(&self, text: &str) {
        wait_until(|| match self.log().contains(text) {
            true => Ok(()),
            false => Err(format!("the log does not say {text:?}:\n{}", self.log())),
        });
    }

    /// The admin listener's `/status`. It asks every core for its connections. A core answers between two sends, so a
    /// body that a test has read is counted by then. A status that took [`CORES_ANSWER_WITHIN`] may lack a core's answer;
    /// then it is requested again.
    pub fn status(&self) -> Value {
        wait_until(|| {
            let asked = Instant::now();
            let status = get(self.admin, "/status", &[]);
            if asked.elapsed() >= CORES_ANSWER_WITHIN {
                return Err("a core is kept from answering".to_owned());
            }
            Ok(serde_json::from_slice(&status.body).expect("JSON"))
        })
    }

    /// One of the numbers in `/status`.
    pub fn total(&self, name: &str) -> u64 {
        number(&self.status(), &["totals", name])
    }

    /// The number of open connections, in all phases.
    pub fn connections(&self) -> u64 {
        let status = self.status();
        let phases = status["connections"]
            .as_object()
            .expect("connections by phase");
        phases.values().map(|count| count.as_u64().unwrap()).sum()
    }

    /// Waits until `wanted` is true of the status.
    pub fn wait_for_status(&self, what: &str, mut wanted: impl FnMut(&Value) -> bool) -> Value {
        wait_until(|| {
            let status = self.status();
            if wanted(&status) {
                Ok(status)
            } else {
                Err(format!("never saw {what}: {status:#}"))
            }
        })
    }

    /// Waits until this many downloads stall and their sockets hold no more than the plan allows. The sum is as old as
    /// the sockets' last samples. A round of sampling takes eight ticks, and every status takes one, so the sum is right
    /// once nothing was sent during ten of them.
    pub fn expect_stalled_within_plan(&self, clients: usize) {
        let (mut sent, mut at_rest) = (0, 0);
        self.wait_for_status("all wait, with no more than they may have", |status| {
            let before = std::mem::replace(&mut sent, number(status, &["totals", "sent_bytes"]));
            at_rest = if sent == before { at_rest + 1 } else { 0 };
            let memory = |name| number(status, &["memory", name]);
            let each = memory("memory_planned_connections_bytes") / memory("connections_max");
            let allowed = clients as u64 * each + memory("memory_credit_lent_bytes");
            status["connections"]["sending"] == clients as u64
                && at_rest >= 10
                && number(status, &["totals", "socket_bytes"]) <= allowed
        });
    }

    /// The process's resident memory in bytes.
    pub fn rss_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let text = std::fs::read_to_string(path).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .expect("VmRSS");
        line.trim()
            .strip_suffix("kB")
            .unwrap()
            .trim()
            .parse::<u64>()
            .unwrap()
            * 1024
    }

    /// Sends a signal by name, as an operator does.
    pub fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.pid());
        assert!(
            Command::new("sh")
                .args(["-c", &kill])
                .status()
                .unwrap()
                .success(),
            "{kill}"
        );
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits until the process ends by itself.
    pub fn wait(&mut self) -> ExitStatus {
        wait_until(|| {
            self.child
                .try_wait()
                .unwrap()
                .ok_or_else(|| format!("the server did not end:\n{}", self.log.lock().unwrap()))
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        secure::note_listener(self.objects, false);
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            println!("the server's log:\n{}", self.log());
        }
    }
}

/// The path of [`KEY`].
pub const PATH: &str = "/dir/object.bin";
/// Length of the object of [`served`]: some segments and a tail.
pub const SIZE: usize = 3 * 4 * BLOCK as usize + 1234;

/// A server with one object of 4+2 shares.
pub fn served(backend: Backend) -> (Stores, Server, Vec<u8>) {
    let stores = Stores::new(6);
    let content = Noise::new(1).bytes(SIZE);
    stores.put_bytes(&content);
    let server = Server::start(&stores, backend, &[]);
    (stores, server, content)
}

/// A number in a JSON document.
pub fn number(document: &Value, path: &[&str]) -> u64 {
    let value = path.iter().fold(document, |value, name| &value[*name]);
    value
        .as_u64()
        .unwrap_or_else(|| panic!("no number {path:?} in {document:#}"))
}

/// Reports a test that could not run here, past the capturing of output of passing tests.
pub fn skip(why: &str) {
    let test = thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(io::stderr(), "{test}: skipped: {why}");
}

/// Retries until `attempt` succeeds. If it never does, the test fails with the last error.
pub fn wait_until<T>(mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let started = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(error) if started.elapsed() > PATIENCE => panic!("{error}"),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Runs `work` on this many threads at once and returns their results.
pub fn together<T: Send>(threads: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let work = &work;
    thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|i| scope.spawn(move || work(i))).collect();
        all.into_iter()
            .map(|one| {
                one.join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    })
}
