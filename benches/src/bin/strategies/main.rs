//! The comparison that Penstock began with. The same erasure-coded object, with as many shares lost as its parity
//! allows, goes to the same slow and stalled clients in four ways, and the memory of each way is measured.
//!
//! - *queue all*: decode at full speed into the connection's queue, as a server does whose transport accepts
//!   everything. Its memory grows to clients times object.
//! - *spool*: decode at full speed into an anonymous temporary file, and send from the file.
//! - *one segment ahead*: a producer that pauses; each client holds one decoded segment. Most servers do this.
//! - *ours*: penstock.
//!
//! The first three are small honest servers ([`others`]). They run one at a time as child processes of this program, as
//! penstock does, so that memory is measured alike: the process's resident memory, the kernel memory of its sockets
//! (both measured from outside), and the temporary files. They leave the socket buffers to the kernel, as such servers
//! do; penstock sets its own.

mod others;
mod picture;
mod watch;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use bytesize::ByteSize;
use clap::{Parser, ValueEnum};
use penstock_benches::common::launch::{self, Server};
use penstock_benches::common::object::{self, Coded};
use penstock_benches::common::record::Record;
use penstock_benches::common::{machine, record, scratch};
use penstock_load::{Class, Group, Plan, Verify};

use watch::Course;

#[derive(Parser)]
#[command(about = "Memory of four ways to deliver a decoded object to slow clients")]
struct Options {
    /// Write all samples, with commit, command and CPU, to this file.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Draw memory over time to this SVG file.
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
    /// Run for less than half a minute, to see that everything works: 8 MiB, 8 clients, 2 s each.
    #[arg(long)]
    quick: bool,
    /// Bytes of the object [default: 64MiB].
    #[arg(long, value_name = "SIZE")]
    size: Option<ByteSize>,
    /// Clients that stop reading after the response's head [default: 32].
    #[arg(long, value_name = "N")]
    stalled: Option<usize>,
    /// Clients that read slowly [default: 32].
    #[arg(long, value_name = "N")]
    slow: Option<usize>,
    /// Bytes a second of a slow client.
    #[arg(long, value_name = "SIZE", default_value = "100KB")]
    rate: ByteSize,
    /// Seconds that the clients stay, per strategy [default: 20].
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// Data and parity shares, `K,M`; m data shares are lost.
    #[arg(long, value_name = "K,M", default_value = "4,2", value_parser = shape)]
    shape: [u16; 2],
    /// Bytes of a segment, k blocks. 1 MiB is usual among erasure-coded servers.
    #[arg(long, value_name = "SIZE", default_value = "1MiB")]
    segment: ByteSize,
    /// Refuse to run if *queue all* would take more than this for its queues.
    #[arg(long, value_name = "SIZE", default_value = "6GiB")]
    memory_max: ByteSize,
    /// Only these strategies. Can be repeated.
    #[arg(long, value_name = "STRATEGY")]
    only: Vec<Strategy>,
    /// Directory for the object, and for the spool.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The server's program [default: the one beside this benchmark].
    #[arg(long, value_name = "FILE")]
    penstock: Option<PathBuf>,
    /// I/O backend of penstock.
    #[arg(long, value_name = "BACKEND", default_value = "auto")]
    io: String,
}

fn shape(text: &str) -> Result<[u16; 2], String> {
    let numbers: Result<Vec<u16>, _> = text.split(',').map(str::parse).collect();
    match numbers.ok().as_deref() {
        Some(&[k, m]) if 1 <= m && m <= k && k.saturating_add(m) <= 256 => Ok([k, m]),
        _ => Err("K,M with 1 <= M <= K and K + M <= 256, like 4,2".to_owned()),
    }
}

/// A way to deliver an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Strategy {
    /// Decode everything into the connection's queue.
    QueueAll,
    /// Decode everything into a temporary file.
    Spool,
    /// Hold one decoded segment per client.
    OneSegment,
    /// Penstock.
    Ours,
}

impl Strategy {
    const ALL: [Strategy; 4] = [
        Strategy::QueueAll,
        Strategy::Spool,
        Strategy::OneSegment,
        Strategy::Ours,
    ];

    fn name(self) -> &'static str {
        match self {
            Strategy::QueueAll => "queue all",
            Strategy::Spool => "spool",
            Strategy::OneSegment => "one segment ahead",
            Strategy::Ours => "ours",
        }
    }
}

const KEY: &str = "object.bin";

/// The numbers of a run, defaults filled in.
struct Numbers {
    size: u64,
    stalled: usize,
    slow: usize,
    rate: u64,
    duration: Duration,
    settle: Duration,
    interval: Duration,
}

impl Numbers {
    fn of(options: &Options) -> anyhow::Result<Numbers> {
        let pick = |full: u64, quick: u64| if options.quick { quick } else { full };
        let numbers = Numbers {
            size: options.size.map_or(pick(64 << 20, 8 << 20), |size| size.0),
            stalled: options.stalled.unwrap_or(pick(32, 4) as usize),
            slow: options.slow.unwrap_or(pick(32, 4) as usize),
            rate: options.rate.0,
            duration: Duration::from_secs(options.seconds.unwrap_or(pick(20, 2)).clamp(1, 600)),
            settle: Duration::from_secs(pick(3, 1)),
            interval: Duration::from_millis(pick(200, 100)),
        };
        let queued = (numbers.clients() as u64).saturating_mul(numbers.size);
        ensure!(
            numbers.clients() > 0,
            "no clients; raise --stalled or --slow"
        );
        ensure!(
            queued <= options.memory_max.0,
            "queue all would hold {} ({} clients times {}), more than --memory-max {}: \
             lower --size, --stalled or --slow",
            ByteSize(queued).display().iec(),
            numbers.clients(),
            ByteSize(numbers.size).display().iec(),
            options.memory_max.display().iec()
        );
        Ok(numbers)
    }

    fn clients(&self) -> usize {
        self.stalled.saturating_add(self.slow)
    }
}

fn main() -> anyhow::Result<()> {
    launch::launch_if_started_as_launcher()?;
    others::serve_if_started_as_server()?;
    let options = Options::parse();
    let mut facts = machine::facts();
    let numbers = Numbers::of(&options)?;
    let penstock = launch::penstock(options.penstock.as_deref())?;
    for (name, value) in &facts {
        println!("{name}: {value}");
    }
    let directory = scratch::directory("strategies", options.dir.as_deref())?;
    let coded = build(&options, &numbers, directory.path())?;
    let [k, m] = options.shape;
    let what = format!(
        "{} object, {k}+{m} with {m} data shares lost, segments of {}; {} stalled clients and {} at {}/s",
        ByteSize(numbers.size).display().iec(),
        options.segment.display().iec(),
        numbers.stalled,
        numbers.slow,
        options.rate.display().si()
    );
    println!("{what}\n");

    let wanted = |strategy: &Strategy| options.only.is_empty() || options.only.contains(strategy);
    let mut courses = Vec::new();
    for strategy in Strategy::ALL.into_iter().filter(wanted) {
        let log = directory.path().join("log");
        let command = command(strategy, &coded, &penstock, &options.io, directory.path())?;
        let run = || {
            let (core, _) = launch::cores(None, None)?;
            // The digest is compared on a separate server, so that memory left by this check is not measured.
            verify(&Server::start(core, &command, &log)?, &coded)?;
            course(strategy, &Server::start(core, &command, &log)?, &numbers)
        };
        let course = run().with_context(|| format!("the strategy {:?}", strategy.name()))?;
        print(&course, numbers.clients());
        courses.push(course);
    }

    facts.push(("clients", what.clone()));
    if let Some(path) = &options.csv {
        record(facts, &courses).write(path)?;
        println!("\nwritten: {}", path.display());
    }
    if let Some(path) = &options.picture {
        picture::draw(path, &what, &courses)?;
        println!("drawn: {}", path.display());
    }
    Ok(())
}

fn build(options: &Options, numbers: &Numbers, directory: &Path) -> anyhow::Result<Coded> {
    let [k, m] = options.shape;
    let block = options.segment.0 / u64::from(k);
    ensure!(
        block > 0 && block.is_multiple_of(4096),
        "--segment {} is not {k} blocks of whole pages (4KiB)",
        options.segment
    );
    let block = u32::try_from(block).context("--segment is too large")?;
    let plain = directory.join("plain");
    object::write_plain(&plain, numbers.size, 1)?;
    object::put(&plain, KEY, [k, m], block, directory)
}

/// The command line of a strategy's server.
fn command(
    strategy: Strategy,
    coded: &Coded,
    penstock: &Path,
    io: &str,
    directory: &Path,
) -> anyhow::Result<Vec<String>> {
    let stores = coded
        .degraded()
        .iter()
        .map(|store| store.display().to_string());
    if strategy != Strategy::Ours {
        return others::command(strategy, KEY, directory, stores);
    }
    let mut command = vec![
        penstock.display().to_string(),
        "serve".to_owned(),
        "--listen=127.0.0.1:0".to_owned(),
        "--admin=127.0.0.1:0".to_owned(),
        "--cores=1".to_owned(),
        format!("--io={io}"),
    ];
    command.extend(stores.map(|store| format!("--store={store}")));
    Ok(command)
}

/// Checks that the server serves the object unchanged.
fn verify(server: &Server, coded: &Coded) -> anyhow::Result<()> {
    let mut plan = Plan::new(&server.url(KEY));
    plan.duration = Duration::from_secs(60);
    plan.verify = Verify::sha256_hex(&coded.sha256)?;
    plan.groups.push(Group {
        requests: Some(1),
        ..Group::new(Class::Fast, 1)
    });
    let group = penstock_load::run(&plan)?.groups.remove(0);
    if let Some(fault) = group.faults.first() {
        anyhow::bail!("wrong or no answer: {}", fault.first);
    }
    ensure!(
        group.completed == 1 && group.checked_bytes == group.body_bytes,
        "the object was not received whole: {} bytes, {} of them compared",
        group.body_bytes,
        group.checked_bytes
    );
    Ok(())
}

/// Runs the clients against a server and records its memory.
fn course(strategy: Strategy, server: &Server, numbers: &Numbers) -> anyhow::Result<Course> {
    let mut plan = Plan::new(&server.url(KEY));
    plan.duration = numbers.duration;
    // The clients come over about a second, so that the rise is visible.
    plan.ramp = u32::try_from(numbers.clients())?.max(1);
    if numbers.stalled > 0 {
        plan.groups
            .push(Group::new(Class::Stalled, numbers.stalled));
    }
    if numbers.slow > 0 {
        plan.groups.push(Group {
            rate: Some(numbers.rate),
            ..Group::new(Class::Slow, numbers.slow)
        });
    }
    plan.watch = Some(penstock_load::Watch {
        pids: vec![server.pid()],
        children: false,
        interval: numbers.interval,
        settle: numbers.settle,
    });
    let course = Course::watch(strategy, server.pid(), &plan)?;
    ensure!(
        course.held + course.unfinished == numbers.clients() as u64,
        "only {} stalled and {} slow clients were there at the end of the run",
        course.held,
        course.unfinished
    );
    Ok(course)
}

fn print(course: &Course, clients: usize) {
    let peak = course.peak();
    let size = |bytes: u64| ByteSize(bytes).display().iec().to_string();
    println!(
        "{:<18} most at one time {:>10} ({:>10} per client): process {:>10}, kernel {:>10}, spool {:>10}; after the clients left {:>10}",
        course.strategy.name(),
        size(peak.total()),
        size((peak.total() - course.before().total().min(peak.total())) / clients as u64),
        size(peak.process),
        size(peak.kernel),
        size(peak.spool),
        size(course.after().total()),
    );
}

const COLUMNS: &[&str] = &[
    "strategy",
    "at_s",
    "process_bytes",
    "process_most_bytes",
    "kernel_bytes",
    "spool_bytes",
    "total_bytes",
    "clients_connected",
    "clients_received_bytes",
];

fn record(facts: Vec<(&'static str, String)>, courses: &[Course]) -> record::Record {
    let mut record = Record::new(facts, COLUMNS);
    for course in courses {
        for point in &course.points {
            record.push(vec![
                course.strategy.name().to_owned(),
                format!("{:.3}", point.at),
                point.process.to_string(),
                point.process_most.to_string(),
                point.kernel.to_string(),
                point.spool.to_string(),
                point.total().to_string(),
                point.connected.to_string(),
                point.received.to_string(),
            ]);
        }
    }
    record
}
