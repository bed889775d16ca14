//! Many clients at once, in the background, and measurements of the server meanwhile. The clients are this repository's
//! load generator, which measures from outside (`/proc`, `sock_diag`) and never asks the server for its own numbers.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use penstock_load::{Class, Group, Peaks, Plan, Progress, Report, Trust, Verify, Watch};

use super::{PATH, Server, Stores, wait_until};

/// Kernel structures of one socket, which `sock_diag` does not count: `tcp_sock`, inode, file, dentry (2.4, 0.8, 0.2
/// and 0.2 KiB in slab on Linux 6.18).
const SOCKET_STRUCTURES_BYTES: u64 = 3700;

/// Running clients. They continue until [`Crowd::end`].
pub struct Crowd {
    stop: Arc<AtomicBool>,
    progress: Arc<Mutex<Option<Progress>>>,
    thread: JoinHandle<Report>,
}

impl Crowd {
    /// Runs these groups against a server; `content` is the object's expected content.
    pub fn start(server: &Server, groups: Vec<Group>, content: Option<&[u8]>) -> Crowd {
        Crowd::start_with(server, groups, content, |_| {})
    }

    /// As [`Crowd::start`], with the plan changed by `change`.
    pub fn start_with(
        server: &Server,
        groups: Vec<Group>,
        content: Option<&[u8]>,
        change: impl FnOnce(&mut Plan),
    ) -> Crowd {
        let mut plan = Plan::new(&server.url(PATH));
        plan.tls.trust = Trust::All;
        plan.groups = groups;
        plan.duration = Duration::from_secs(600);
        // Refused clients come back at once.
        plan.backoff = Duration::from_millis(1);
        plan.retry_after_max = Duration::from_millis(1);
        plan.timeout = Duration::from_secs(120);
        plan.watch = Some(Watch {
            pids: vec![server.pid() as i32],
            interval: Duration::from_millis(50),
            ..Watch::default()
        });
        let file = content.map(|content| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), content).unwrap();
            plan.verify = Verify::File(file.path().to_owned());
            file
        });
        change(&mut plan);
        let stop = Arc::new(AtomicBool::new(false));
        let progress = Arc::new(Mutex::new(None));
        let (stopped, seen) = (Arc::clone(&stop), Arc::clone(&progress));
        let thread = std::thread::spawn(move || {
            let _file = file;
            let observer = |now: &Progress| {
                *seen.lock().unwrap() = Some(*now);
                match stopped.load(Ordering::Relaxed) {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            };
            penstock_load::run_with(&plan, observer).expect("the clients can be started")
        });
        Crowd {
            stop,
            progress,
            thread,
        }
    }

    /// One connection that sends no request and only measures the server.
    pub fn watch(server: &Server) -> Crowd {
        Crowd::start(server, vec![Group::new(Class::Idle, 1)], None)
    }

    /// Waits until `wanted` is true of the clients' progress.
    pub fn wait(&self, what: &str, mut wanted: impl FnMut(&Progress) -> bool) {
        wait_until(|| match *self.progress.lock().unwrap() {
            Some(now) if wanted(&now) => Ok(()),
            now if self.thread.is_finished() => panic!("ended before {what}: {now:?}"),
            now => Err(format!("never saw {what}: {now:?}")),
        });
    }

    /// Waits until all clients have made their requests, and returns the report.
    pub fn finish(self) -> Report {
        wait_until(|| match self.thread.is_finished() {
            true => Ok(()),
            false => Err(format!("never done: {:?}", self.progress.lock().unwrap())),
        });
        self.end()
    }

    /// Ends all clients and returns the report.
    pub fn end(self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the clients end")
    }
}

/// The most memory that the server was measured to use: process (VmHWM) and sockets, with their structures.
#[track_caller]
pub fn most_bytes(report: &Report) -> u64 {
    let server = report.server.as_ref().expect("it was watched");
    assert_eq!(server.problem, None);
    let Peaks {
        resident_most,
        sockets,
        kernel,
        ..
    } = server.peaks;
    println!(
        "VmHWM {} KiB, {sockets} sockets with {} KiB in the kernel",
        resident_most >> 10,
        kernel >> 10
    );
    // The kernel may hold no bytes, if the server has read everything and has nothing to send.
    assert!(sockets > 0, "nothing was seen");
    resident_most + kernel + sockets * SOCKET_STRUCTURES_BYTES
}

/// Fails if the server used more than `declared` bytes.
#[track_caller]
pub fn assert_within(report: &Report, declared: u64) {
    let most = most_bytes(report);
    assert!(
        most <= declared,
        "{} KiB used, {} KiB declared",
        most >> 10,
        declared >> 10
    );
}

/// Stores with an object of 4+2 shares, two of them lost, so that every segment must be rebuilt.
pub fn degraded(content: &[u8]) -> Stores {
    let stores = Stores::new(6);
    stores.put_bytes(content);
    stores.remove_store(0);
    stores.remove_store(2);
    stores
}

/// Waits until no client is connected and nothing is lent.
pub fn nothing_is_left(server: &Server) {
    server.wait_for_status("no connection, no claim, no buffer in use", |status| {
        let (memory, totals) = (&status["memory"], &status["totals"]);
        memory["connections_open"] == 0
            && memory["memory_credit_lent_bytes"] == 0
            && totals["pool_buffers_free"] == totals["pool_buffers"]
    });
}

/// A number of the server's memory status, by name.
pub fn memory(server: &Server, name: &str) -> u64 {
    super::number(&server.status(), &["memory", name])
}
