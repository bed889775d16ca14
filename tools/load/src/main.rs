//! `penstock-load`: runs clients of all kinds against an HTTP/1.1 server, with TLS or without, and reports its memory and
//! CPU time.

use std::io::{IsTerminal, Write as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use bytesize::ByteSize;
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use penstock_load::{
    Class, Group, Plan, Progress, Report, Tls, TlsVersion, Trust, Verify, Watch, run_with,
};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// Runs fast, slow, stalled, aborting and other clients against an HTTP/1.1 server, with TLS or without, and reports
/// throughput, times, and (of a server on this machine) memory and CPU.
///
/// Clients come in groups, `COUNT[@RATE][,key=value...]`; an option can be given several times. Keys: name, start
/// (a delay such as 5s), requests (at most, per client, failed ones included), path (instead of the URL's; {N} in it is a
/// random number below N), range (LEN or MIN-MAX: random ranges), take (LEN or MIN-MAX: body bytes before stalling or
/// aborting), hello (nothing/part/whole: what half-open clients send of their ClientHello), keepalive (yes/no), rcvbuf (a
/// size or auto), read (copy/discard), network (N: from addresses in 127.0.N.0/24), verify (a file), sha256.
///
/// Exit status: 0 if all is well; 1 if wrong bytes were received, the budget was exceeded, or no client of any group got
/// what it came for; 2 if the run could not be made.
#[derive(Debug, Parser)]
#[command(
    name = "penstock-load",
    version,
    after_help = "Example: penstock-load --url http://127.0.0.1:8080/big.bin \
--stalled 10000 --slow 100@100KB/s --fast 4 --duration 30s --pid 1234 --csv out.csv --svg out.svg --seed 1"
)]
struct Args {
    /// The object to request: `http://host[:port]/path`, or `https:`
    #[arg(long)]
    url: String,
    /// Clients that read as fast as they can
    #[arg(long, value_name = "GROUP")]
    fast: Vec<String>,
    /// Clients that read at a rate: 100@100KB/s
    #[arg(long, value_name = "GROUP")]
    slow: Vec<String>,
    /// Clients that read the head (and `take` bytes of body), then stop reading and stay connected
    #[arg(long, value_name = "GROUP")]
    stalled: Vec<String>,
    /// Clients that close or reset the connection after `take` bytes of body (default: 0-1MiB)
    #[arg(long, value_name = "GROUP")]
    aborting: Vec<String>,
    /// Clients that connect, send one request, read the response, and close, again and again
    #[arg(long, value_name = "GROUP")]
    short: Vec<String>,
    /// Clients that connect and close without a request, again and again
    #[arg(long, visible_alias = "connect-only", value_name = "GROUP")]
    connect: Vec<String>,
    /// Clients that connect, do the TLS handshake if there is one, and send nothing
    #[arg(long, value_name = "GROUP")]
    idle: Vec<String>,
    /// Clients that send their request head at a rate: 100@20B/s
    #[arg(long, value_name = "GROUP")]
    drip: Vec<String>,
    /// Clients that connect, do the TLS handshake, and close, again and again
    #[arg(long, value_name = "GROUP")]
    handshake: Vec<String>,
    /// Clients that connect, send a part of the TLS handshake's first message, and then nothing
    #[arg(long, value_name = "GROUP")]
    half_open: Vec<String>,

    /// Length of the run; connections still open at its end are dropped
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Largest number of requests of each client, for groups without `requests`
    #[arg(long)]
    requests: Option<u64>,
    /// Clients started per second
    #[arg(long, default_value_t = 4000)]
    ramp: u32,
    /// Seed of all random choices
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Number of event loops, each on its own thread
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Number of source addresses, 127.0.0.1 and up (default: as many as the clients need)
    #[arg(long)]
    sources: Option<usize>,
    /// Longest wait for a connection, and for a response head
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Longest wait for the next bytes of a body
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    idle_timeout: Duration,
    /// Pause of a client after a failure or a 503
    #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
    backoff: Duration,
    /// Longest Retry-After that is obeyed
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    retry_after_max: Duration,
    /// Header line to add to every request, "Name: value"; can be repeated
    #[arg(long, value_name = "LINE")]
    header: Vec<String>,
    /// Compare received bytes with this file
    #[arg(long, value_name = "FILE", conflicts_with = "sha256")]
    verify_file: Option<PathBuf>,
    /// Compare whole objects with this SHA-256
    #[arg(long, value_name = "HEX")]
    sha256: Option<String>,

    /// Accept every certificate of an `https` server, and every signature
    #[arg(long, conflicts_with = "ca")]
    insecure: bool,
    /// Accept certificates of the roots in this PEM file (default: the system's)
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Name that the certificate must have, sent as SNI (default: the URL's host)
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// Speak only this version of TLS (default: 1.3, or 1.2 if the server has no other)
    #[arg(long, value_name = "1.2|1.3", value_parser = parse_version)]
    tls: Option<TlsVersion>,
    /// Resume TLS sessions (default: every handshake is a full one)
    #[arg(long)]
    resume: bool,
    /// Offer the key exchange X25519MLKEM768 first (default: not at all)
    #[arg(long)]
    post_quantum: bool,

    /// Process of the server, whose memory and CPU time are sampled; several are separated by commas
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pid: Vec<i32>,
    /// Sample the descendants of --pid too
    #[arg(long, requires = "pid")]
    children: bool,
    /// Time between samples
    #[arg(long, default_value = "500ms", value_parser = humantime::parse_duration)]
    interval: Duration,
    /// How long to go on sampling after the last client
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    settle: Duration,
    /// Memory that the server may use, process and kernel together: drawn in the picture; exit status 1 if exceeded
    #[arg(long, value_name = "SIZE")]
    budget: Option<ByteSize>,

    /// Write the samples as CSV
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Draw the samples as SVG
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Write the groups' results as CSV
    #[arg(long, value_name = "FILE")]
    groups_csv: Option<PathBuf>,
    /// Write the whole report as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Allow a target that is not this machine
    #[arg(long)]
    allow_remote: bool,
}

fn main() -> ExitCode {
    match play(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            complain(format_args!("{error:#}"));
            ExitCode::from(2)
        }
    }
}

fn play(args: &Args) -> anyhow::Result<bool> {
    let plan = plan(args)?;
    let bar = progress_bar();
    // The first interrupt ends the run, and the report is printed. A second one ends the process.
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_shutdown(signal, 2, Arc::clone(&interrupted))?;
        flag::register(signal, Arc::clone(&interrupted))?;
    }
    let report = run_with(&plan, |progress| {
        show(&bar, progress, &plan);
        match interrupted.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    })?;
    bar.finish_and_clear();
    // A reader that went away doesn't keep the files from being written.
    let _ = write!(std::io::stdout(), "{report}");
    write_files(args, &report)?;
    let over = over_budget(args, &report)?;
    if !report.has_successes() {
        complain(format_args!("nothing succeeded{}", first_fault(&report)));
    }
    Ok(report.has_successes() && !report.has_wrong_bytes() && !over)
}

/// Writes to standard error, where nobody may be there to read it.
fn complain(text: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "penstock-load: {text}");
}

/// A fault to begin the search with.
fn first_fault(report: &Report) -> String {
    let mut faults = report.groups.iter().flat_map(|group| &group.faults);
    match faults.next() {
        Some(fault) => format!("; the first {}: {}", fault.kind.name(), fault.first),
        None => ": no client got what it came for, nor met a fault".to_owned(),
    }
}

fn plan(args: &Args) -> anyhow::Result<Plan> {
    let mut plan = Plan::new(&args.url);
    let classes = [
        (Class::Stalled, &args.stalled),
        (Class::Idle, &args.idle),
        (Class::HalfOpen, &args.half_open),
        (Class::Drip, &args.drip),
        (Class::Slow, &args.slow),
        (Class::Aborting, &args.aborting),
        (Class::Connect, &args.connect),
        (Class::Handshake, &args.handshake),
        (Class::Short, &args.short),
        (Class::Fast, &args.fast),
    ];
    for (class, specs) in classes {
        for (number, spec) in specs.iter().enumerate() {
            let mut group = Group::parse(class, spec)?;
            // A second group of the same class without a name gets a number.
            if number > 0 && group.name == class.name() {
                group.name = format!("{}-{}", class.name(), number + 1);
            }
            group.requests = group.requests.or(args.requests);
            plan.groups.push(group);
        }
    }
    for line in &args.header {
        let (name, value) = line
            .split_once(':')
            .with_context(|| format!("--header {line:?} has no colon"))?;
        plan.headers
            .push((name.trim().to_owned(), value.trim().to_owned()));
    }
    plan.verify = match (&args.verify_file, &args.sha256) {
        (Some(path), _) => Verify::File(path.clone()),
        (None, Some(hex)) => Verify::sha256_hex(hex)?,
        (None, None) => Verify::No,
    };
    let watched =
        !args.pid.is_empty() || args.csv.is_some() || args.svg.is_some() || args.budget.is_some();
    plan.watch = watched.then(|| Watch {
        pids: args.pid.clone(),
        children: args.children,
        interval: args.interval,
        settle: args.settle,
    });
    plan.duration = args.duration;
    plan.ramp = args.ramp;
    plan.seed = args.seed;
    plan.threads = args.threads;
    plan.sources = args.sources;
    plan.timeout = args.timeout;
    plan.idle_timeout = args.idle_timeout;
    plan.backoff = args.backoff;
    plan.retry_after_max = args.retry_after_max;
    plan.allow_remote = args.allow_remote;
    plan.tls = Tls {
        trust: match &args.ca {
            _ if args.insecure => Trust::All,
            Some(path) => Trust::File(path.clone()),
            None => Trust::System,
        },
        version: args.tls,
        resume: args.resume,
        post_quantum: args.post_quantum,
        server_name: args.server_name.clone(),
    };
    Ok(plan)
}

fn parse_version(text: &str) -> Result<TlsVersion, String> {
    match text {
        "1.2" => Ok(TlsVersion::V12),
        "1.3" => Ok(TlsVersion::V13),
        _ => Err("neither 1.2 nor 1.3".to_owned()),
    }
}

fn progress_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
        bar.set_style(style);
    }
    bar
}

fn show(bar: &ProgressBar, progress: &Progress, plan: &Plan) {
    bar.set_message(format!(
        "{:.0} of {:.0} s: {} open, {} responses, {} refused, {} faults, {:.2} GB",
        progress.elapsed.as_secs_f64(),
        plan.duration.as_secs_f64(),
        progress.open,
        progress.responses,
        progress.refused,
        progress.faults,
        progress.body_bytes as f64 / 1e9
    ));
    bar.tick();
}

fn write_files(args: &Args, report: &Report) -> anyhow::Result<()> {
    let write = |path: &Path, text: String| {
        std::fs::write(path, text).with_context(|| path.display().to_string())
    };
    if let Some(path) = &args.json {
        write(path, report.to_json() + "\n")?;
    }
    if let Some(path) = &args.groups_csv {
        write(path, report.groups_csv())?;
    }
    if let Some(server) = &report.server {
        if let Some(path) = &args.csv {
            write(path, server.samples_csv())?;
        }
        if let Some(path) = &args.svg {
            let clients: Vec<String> = report
                .groups
                .iter()
                .map(|group| format!("{} {}", group.clients, group.name))
                .collect();
            server.draw(
                path,
                &clients.join(", "),
                args.budget.map(|budget| budget.as_u64()),
            )?;
        }
    }
    Ok(())
}

fn over_budget(args: &Args, report: &Report) -> anyhow::Result<bool> {
    let (Some(budget), Some(server)) = (args.budget, &report.server) else {
        return Ok(false);
    };
    if args.pid.is_empty() {
        bail!("--budget needs --pid: without the process there is only half of the sum");
    }
    let used = server.peaks.bound;
    let verdict = if used <= budget.as_u64() {
        "kept"
    } else {
        "EXCEEDED"
    };
    let _ = writeln!(
        std::io::stdout(),
        "budget {verdict}: VmHWM + kernel {} of {}",
        ByteSize(used).display().iec(),
        budget.display().iec()
    );
    Ok(used > budget.as_u64())
}
