//! Plays a plan: prepares it, starts the event loops and the watcher, waits for them, and adds up the results.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Builder;
use tokio::task::LocalSet;

use crate::check::Expected;
use crate::client::{Place, client};
use crate::connect::{claim_descriptors, claim_sources};
use crate::error::LoadError;
use crate::plan::{Plan, Reading, Verify};
use crate::report::{Report, ServerReport};
use crate::response::{HEAD_BYTES_MAX, Head};
use crate::scratch::Scratch;
use crate::session::blocking;
use crate::shared::{Local, Prepared, Shared};
use crate::tally::{Counters, Tally};
use crate::target::Target;
use crate::tls::TlsClient;
use crate::watch::{Watcher, settle};

/// The interval at which [`run_with`]'s observer is called.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// The interval at which the event loops check for an early end.
const STOP_INTERVAL: Duration = Duration::from_millis(50);

/// The state of a running plan.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Time since the start.
    pub elapsed: Duration,
    /// Connections open now.
    pub open: u64,
    /// Response heads received.
    pub responses: u64,
    /// Response heads with status 503.
    pub refused: u64,
    /// Faults of any kind.
    pub faults: u64,
    /// Body bytes received.
    pub body_bytes: u64,
    /// Responses received to their end.
    pub completed: u64,
    /// Clients that hold a connection without reading (after the run: at the moment it ended).
    pub holding: u64,
    /// Samples of the server so far.
    pub samples: u64,
}

/// Plays `plan` to its end. Blocks for up to its duration and settling time. Starts its own threads, which inherit the
/// caller's CPU affinity.
///
/// ```no_run
/// use penstock_load::{Class, Group, Plan, run};
///
/// let mut plan = Plan::new("http://127.0.0.1:8080/big.bin");
/// plan.groups.push(Group::parse(Class::Slow, "100@100KB/s")?);
/// plan.groups.push(Group::new(Class::Fast, 4));
/// let report = run(&plan)?;
/// println!("{report}");
/// # Ok::<(), penstock_load::LoadError>(())
/// ```
///
/// # Errors
/// If the plan is unsound, the target is not allowed or not resolvable, or the machine has too few
/// descriptors or ports. Connections that fail are no errors: the report counts them.
pub fn run(plan: &Plan) -> Result<Report, LoadError> {
    run_with(plan, |_| ControlFlow::Continue(()))
}

/// As [`run`], with an observer that is called a few times a second and may end the run early, and with it the settling
/// time.
///
/// # Errors
/// As for [`run`].
pub fn run_with(
    plan: &Plan,
    mut observer: impl FnMut(&Progress) -> ControlFlow<()>,
) -> Result<Report, LoadError> {
    plan.check()?;
    let target = Target::parse(&plan.url, plan.allow_remote)?;
    claim_descriptors(plan.clients())?;
    let sources = claim_sources(&target, plan.clients(), plan.sources)?;
    let tls = match target.tls {
        true => Some(TlsClient::new(&plan.tls, &target)?),
        false => None,
    };
    let groups = prepare(plan, &target, tls.as_ref())?;
    let counters = Arc::new(Counters::default());
    let shared = Arc::new(Shared {
        plan: plan.clone(),
        target,
        tls,
        sources,
        groups,
        counters,
        stop: false.into(),
    });

    let start = Instant::now();
    let watcher = match &plan.watch {
        Some(watch) => Some(Watcher::start(
            &shared.target,
            watch,
            &shared.counters,
            start,
        )?),
        None => None,
    };
    let running = Arc::new(AtomicUsize::new(plan.threads));
    let mut threads = Vec::new();
    for number in 0..plan.threads {
        let (shared, running) = (Arc::clone(&shared), Arc::clone(&running));
        let work = move || {
            let _end = End(running);
            work(&shared, number, start)
        };
        threads.push(
            std::thread::Builder::new()
                .name(format!("load-{number}"))
                .spawn(work)?,
        );
    }
    while running.load(Ordering::Acquire) > 0 {
        if observer(&progress(&shared, start)).is_break() {
            shared.stop.store(true, Ordering::Relaxed);
        }
        std::thread::sleep(
            PROGRESS_INTERVAL
                .min(plan.duration / 20)
                .max(Duration::from_millis(1)),
        );
    }
    let mut tallies: Vec<Tally> = plan.groups.iter().map(|_| Tally::new()).collect();
    for thread in threads {
        let found = thread
            .join()
            .map_err(|_| std::io::Error::other("a client thread panicked"))??;
        for (sum, tally) in tallies.iter_mut().zip(found) {
            sum.merge(tally);
        }
    }
    let elapsed = start.elapsed();
    let settled = Instant::now() + settle(plan.watch.as_ref());
    while let Some(left) = settled
        .checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())
    {
        if observer(&progress(&shared, start)).is_break() {
            break;
        }
        std::thread::sleep(PROGRESS_INTERVAL.min(left));
    }
    let server = watcher.map(|watcher| {
        let (samples, problem) = watcher.stop();
        ServerReport::new(samples, problem)
    });
    Ok(Report::new(plan, elapsed, tallies, server))
}

/// Signals the waiting thread on drop that one event loop has ended, for whatever reason.
struct End(Arc<AtomicUsize>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

fn progress(shared: &Shared, start: Instant) -> Progress {
    Progress {
        elapsed: start.elapsed(),
        open: Counters::get(&shared.counters.open),
        responses: Counters::get(&shared.counters.responses),
        refused: Counters::get(&shared.counters.refused),
        faults: Counters::get(&shared.counters.faults),
        body_bytes: Counters::get(&shared.counters.body_bytes),
        completed: Counters::get(&shared.counters.completed),
        holding: Counters::get(&shared.counters.holding),
        samples: Counters::get(&shared.counters.samples),
    }
}

fn prepare(
    plan: &Plan,
    target: &Target,
    tls: Option<&TlsClient>,
) -> Result<Vec<Prepared>, LoadError> {
    let mut prepared = Vec::new();
    for group in &plan.groups {
        if group.class.needs_tls() && tls.is_none() {
            return Err(LoadError::Group {
                group: group.name.clone(),
                reason: format!("{} clients need an https URL", group.class.name()),
            });
        }
        let path = group.path.as_deref().unwrap_or(&target.path);
        let sound = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic());
        if !sound {
            let reason =
                format!("path {path:?} does not start with '/' or has blanks; escape them as %20");
            return Err(LoadError::Group {
                group: group.name.clone(),
                reason,
            });
        }
        let verify = match (&group.verify, &group.path) {
            (Some(verify), _) => verify,
            (None, None) => &plan.verify,
            (None, Some(_)) => &Verify::No,
        };
        let mut expected = Expected::open(verify)?;
        if group.reading == Reading::Discard {
            expected = Expected::Nothing;
        }
        let size = match (group.range, expected.size()) {
            (None, _) => 0,
            (Some(_), Some(size)) => size,
            (Some(_), None) => probe(plan, target, tls, path)?,
        };
        if group.range.is_some() && size == 0 {
            let reason = "an empty object has no ranges".into();
            return Err(LoadError::Probe {
                path: path.to_owned(),
                reason,
            });
        }
        prepared.push(Prepared {
            group: group.clone(),
            expected,
            size,
        });
    }
    Ok(prepared)
}

/// Requests one byte of `path`. The response tells the object's size, and that the server supports ranges.
fn probe(
    plan: &Plan,
    target: &Target,
    tls: Option<&TlsClient>,
    path: &str,
) -> Result<u64, LoadError> {
    let fail = |reason: String| LoadError::Probe {
        path: path.to_owned(),
        reason,
    };
    let ask = || -> io::Result<Result<Head, String>> {
        let stream = TcpStream::connect_timeout(&target.address, plan.timeout)?;
        stream.set_read_timeout(Some(plan.timeout))?;
        match tls {
            None => ask_size(stream, target, path),
            Some(tls) => ask_size(blocking(tls, stream)?, target, path),
        }
    };
    let head = ask()
        .map_err(|error| fail(error.to_string()))?
        .map_err(fail)?;
    match head.content_range.and_then(|range| range.size) {
        Some(size) if head.status == 206 => Ok(size),
        _ => Err(fail(format!(
            "a request for its first byte was answered with status {}, not 206 and a size",
            head.status
        ))),
    }
}

/// Asks for the first byte of `path`, and returns the head of the response.
fn ask_size(
    mut stream: impl Read + Write,
    target: &Target,
    path: &str,
) -> io::Result<Result<Head, String>> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {}\r\nRange: bytes=0-0\r\nConnection: close\r\n\r\n",
        target.host
    );
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    let mut part = [0; 1024];
    while bytes.len() < HEAD_BYTES_MAX {
        let got = stream.read(&mut part)?;
        if got == 0 {
            return Ok(Err("the connection was closed before a response".into()));
        }
        bytes.extend_from_slice(&part[..got]);
        match Head::parse(&bytes) {
            Ok(Some((head, _))) => return Ok(Ok(head)),
            Ok(None) => {}
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Err("the response head is too long".into()))
}

/// Runs one event loop, with every `threads`th client.
fn work(shared: &Arc<Shared>, number: usize, start: Instant) -> std::io::Result<Vec<Tally>> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let local = Rc::new(Local {
        shared: Arc::clone(shared),
        tallies: shared
            .groups
            .iter()
            .map(|_| Tally::new())
            .collect::<Vec<_>>()
            .into(),
        scratch: Scratch::new(shared.tls.is_some()).into(),
        panics: 0.into(),
    });
    let clients = LocalSet::new();
    let mut ordinal = 0u64;
    for (group, prepared) in shared.groups.iter().enumerate() {
        for _ in 0..prepared.group.clients {
            let ramp = Duration::from_secs_f64(ordinal as f64 / f64::from(shared.plan.ramp));
            let begin = start + prepared.group.start + ramp;
            if ordinal % shared.plan.threads as u64 == number as u64 {
                let place = Place { group, ordinal };
                clients.spawn_local(client(Rc::clone(&local), place, begin.into()));
            }
            ordinal += 1;
        }
    }
    let deadline = start + shared.plan.duration;
    runtime.block_on(async {
        // At the end of the duration the remaining clients are dropped, and their guards count them.
        let mut clients = std::pin::pin!(clients);
        while Instant::now() < deadline && !shared.stop.load(Ordering::Relaxed) {
            let until = deadline.min(Instant::now() + STOP_INTERVAL);
            if tokio::time::timeout_at(until.into(), &mut clients)
                .await
                .is_ok()
            {
                break;
            }
        }
    });
    drop(runtime);
    if local.panics.get() > 0 {
        return Err(std::io::Error::other(format!(
            "{} clients panicked",
            local.panics.get()
        )));
    }
    Ok(local.tallies.take())
}
