//! Is tokio-uring worth its cost? The same work, reading pieces of a cached file and sending them to many connections,
//! is done by tokio-uring tasks, by a loop on the raw io-uring crate, and by a loop on epoll.
//!
//! Each is a server process of its own ([`stream`]), started anew for each measurement, on one core. The clients in
//! this process run on another core and drop received bytes inside the kernel. First the output is compared byte by
//! byte. The memory of a connection is the difference in peak resident memory between many and fewer connections, all
//! else being equal.

mod raw;
mod stream;
mod work;

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytesize::ByteSize;
use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use penstock_benches::common::launch::{self, Server};
use penstock_benches::common::record::Record;
use penstock_benches::common::sink::{self, Sink};
use penstock_benches::common::stats::Summary;
use penstock_benches::common::usage::Usage;
use penstock_benches::common::{interleave, machine, object, scratch};

use work::{POOL, Way, Work};

#[derive(Parser)]
#[command(about = "tokio-uring, a loop on the raw ring, and epoll, at the same work")]
struct Options {
    /// Write a record, with commit, command and CPU, to this file.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Run for less than half a minute, to see that everything works: few connections, one round.
    #[arg(long)]
    quick: bool,
    /// Bytes of a piece; can be repeated [default: 4KiB, 64KiB and 1MiB].
    #[arg(long = "piece", value_name = "SIZE")]
    pieces: Vec<ByteSize>,
    /// Connections; can be repeated [default: 1, 64 and 10000; 1 and 200 with --quick].
    #[arg(long = "connections", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=15_000))]
    connections: Vec<u32>,
    /// What drives the I/O; can be repeated [default: tokio-uring, raw and epoll].
    #[arg(long = "way", value_name = "WAY")]
    ways: Vec<Way>,
    /// Measurements [default: 5; 1 with --quick].
    #[arg(long)]
    rounds: Option<usize>,
    /// Milliseconds per measurement, after a warm-up [default: 600; 200 with --quick].
    #[arg(long)]
    millis: Option<u64>,
    /// Directory to write the file in; removed afterwards.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The servers' core [default: the first].
    #[arg(long, value_name = "N")]
    server_core: Option<usize>,
    /// The clients' core [default: the second].
    #[arg(long, value_name = "N")]
    client_core: Option<usize>,
}

/// Bytes of the file: whole pieces, and small enough for some caches, since all connections read it.
const FILE_BYTES: u64 = 64 << 20;
const WARM_UP: Duration = Duration::from_millis(200);
/// How long the first bytes may take.
const LATE: Duration = Duration::from_secs(10);
/// Connections whose output is compared.
const COMPARED: usize = 3;

#[derive(Clone, Copy)]
struct Cores {
    server: usize,
    client: usize,
}

/// The results of one measurement.
struct Measured {
    gb_s: f64,
    process_per_gb: f64,
    core_per_gb: f64,
    server_busy: f64,
    client_busy: f64,
    resident_most: u64,
}

fn main() -> anyhow::Result<()> {
    launch::launch_if_started_as_launcher()?;
    stream::serve_if_started_as_server()?;
    let options = Options::parse();
    let mut facts = machine::facts();
    let (server, client) = launch::cores(options.server_core, options.client_core)?;
    let cores = Cores { server, client };
    facts.push(("server core", server.to_string()));
    facts.push(("client core", client.to_string()));
    facts.push(("buffers", POOL.to_string()));
    for (name, value) in &facts {
        println!("{name}: {value}");
    }
    if let Err(error) = raw::available() {
        println!("skipped: this kernel gives no ring: {error}");
        return Ok(());
    }
    let quick = options.quick;
    let pick = |full: u64, short: u64| if quick { short } else { full };
    let connections: Vec<usize> = match (&options.connections[..], quick) {
        ([], true) => vec![1, 200],
        ([], false) => vec![1, POOL, 10_000],
        (given, _) => given.iter().map(|&count| count as usize).collect(),
    };
    let pieces: Vec<usize> = match &options.pieces[..] {
        [] => vec![4 << 10, 64 << 10, 1 << 20],
        given => given.iter().map(|size| size.0 as usize).collect(),
    };
    for &piece in &pieces {
        ensure!(
            piece > 0 && FILE_BYTES.is_multiple_of(piece as u64),
            "--piece {piece}: the file of {FILE_BYTES} bytes must be whole pieces"
        );
    }
    let ways = match &options.ways[..] {
        [] => &Way::USUAL,
        given => given,
    };
    let rounds = options.rounds.unwrap_or(pick(5, 1) as usize).max(1);
    let span = options.millis.unwrap_or(pick(600, 200));
    let span = Duration::from_millis(span.clamp(50, 60_000));
    let most = connections.iter().copied().max().unwrap_or(1);
    raise_descriptors(most as u64 + 64)?;

    let directory = scratch::directory("rings", options.dir.as_deref())?;
    let file = directory.path().join("file");
    object::write_plain(&file, FILE_BYTES, 1)?;
    verify(&file, &pieces, ways, cores)?;

    let mut report = Report {
        record: Record::new(facts, COLUMNS),
        resident: Vec::new(),
    };
    for &piece in &pieces {
        for &connections in &connections {
            let work = Work { piece, connections };
            let mut values: Vec<Vec<Measured>> = ways.iter().map(|_| Vec::new()).collect();
            for at in interleave::turns(rounds, ways.len()) {
                let way = ways[at];
                let measured = measure(way, work, &file, span, cores)
                    .with_context(|| format!("{}, {work:?}", way.name()))?;
                values[at].push(measured);
            }
            report.add(work, ways, &values);
        }
    }
    report.memory();
    if let Some(path) = &options.csv {
        report.record.write(path)?;
        println!("written: {}", path.display());
    }
    Ok(())
}

/// Raises the soft limit on open files, which the servers inherit.
fn raise_descriptors(wanted: u64) -> anyhow::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    ensure!(
        hard >= wanted,
        "the hard limit on open files is {hard}, {wanted} are needed; ask for fewer --connections"
    );
    if soft < wanted {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(())
}

/// Starts a server and connects.
fn start(
    way: Way,
    work: Work,
    file: &Path,
    core: usize,
) -> anyhow::Result<(Server, Vec<TcpStream>)> {
    let log = file.with_extension("log");
    let server = Server::start(core, &stream::command(way, work, file)?, &log)?;
    let connect = |_| TcpStream::connect(server.address);
    let clients: Result<_, _> = (0..work.connections).map(connect).collect();
    let clients = clients.context("connecting")?;
    Ok((server, clients))
}

/// Checks that every way sends each connection the file from its start position, and around.
fn verify(file: &Path, pieces: &[usize], ways: &[Way], cores: Cores) -> anyhow::Result<()> {
    let expected = std::fs::read(file)?;
    for &piece in pieces {
        for &way in ways {
            let work = Work {
                piece,
                connections: COMPARED,
            };
            let (_server, mut clients) = start(way, work, file, cores.server)?;
            for (number, client) in clients.iter_mut().enumerate() {
                let start = work.start(number, FILE_BYTES) as usize;
                sink::compare(client, &expected[start..])
                    .and_then(|()| sink::compare(client, &expected[..start + 1]))
                    .with_context(|| format!("verifying {}, {work:?}", way.name()))?;
            }
        }
    }
    println!("verified byte by byte: {} ways", ways.len());
    Ok(())
}

fn measure(
    way: Way,
    work: Work,
    file: &Path,
    span: Duration,
    cores: Cores,
) -> anyhow::Result<Measured> {
    let (server, clients) = start(way, work, file, cores.server)?;
    let sink = Sink::start(clients, cores.client)?;
    let look = || {
        let usage = Usage::now(server.pid(), cores.server, cores.client)?;
        anyhow::Ok((Instant::now(), usage, sink.received()))
    };
    // The measurement starts with the first bytes; on a busy machine they may be late.
    let begun = Instant::now();
    while sink.received() == 0 && begun.elapsed() < LATE {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(WARM_UP);
    let before = look()?;
    std::thread::sleep(span);
    let after = look()?;
    sink.finish()?;
    let seconds = (after.0 - before.0).as_secs_f64();
    let gigabytes = (after.2 - before.2) as f64 / 1e9;
    ensure!(gigabytes > 0.0, "nothing came in {seconds:.2} s");
    let busy = |value: fn(&Usage) -> f64| value(&after.1) - value(&before.1);
    let core = busy(|usage| usage.server_core).clamp(0.0, seconds);
    Ok(Measured {
        gb_s: gigabytes / seconds,
        process_per_gb: busy(|usage| usage.process) / gigabytes,
        core_per_gb: core / gigabytes,
        server_busy: core / seconds,
        client_busy: busy(|usage| usage.client_core).clamp(0.0, seconds) / seconds,
        resident_most: after.1.resident_most,
    })
}

const COLUMNS: &[&str] = &[
    "piece_bytes",
    "connections",
    "competitor",
    "rounds",
    "gb_s",
    "gb_s_spread",
    "pieces_s",
    "process_cpu_s_per_gb",
    "process_cpu_spread",
    "core_cpu_s_per_gb",
    "core_cpu_spread",
    "core_cpu_to_raw",
    "server_core_busy",
    "client_core_busy",
    "resident_mib_most",
];

struct Report {
    record: Record,
    /// Peak resident memory.
    resident: Vec<(Way, Work, f64)>,
}

impl Report {
    fn add(&mut self, work: Work, ways: &[Way], values: &[Vec<Measured>]) {
        let sum = |way: usize, value: fn(&Measured) -> f64| {
            let all: Vec<f64> = values[way].iter().map(value).collect();
            Summary::of(&all)
        };
        println!(
            "\npieces of {}, {} connections, {} rounds",
            ByteSize(work.piece as u64).display().iec(),
            work.connections,
            values[0].len()
        );
        println!(
            "  {:<29} {:>6} {:>5} {:>9} {:>8} {:>8} {:>5} {:>6}  busy: server client  MiB",
            "", "GB/s", "+-%", "pieces/s", "s/GB", "core", "+-%", "to raw"
        );
        let raw = ways.iter().position(|&way| way == Way::Raw);
        let raw = raw.map(|place| sum(place, |m| m.core_per_gb).median);
        for (place, &way) in ways.iter().enumerate() {
            let (gb_s, process) = (sum(place, |m| m.gb_s), sum(place, |m| m.process_per_gb));
            let core = sum(place, |m| m.core_per_gb);
            let (server, client) = (sum(place, |m| m.server_busy), sum(place, |m| m.client_busy));
            let resident = sum(place, |m| m.resident_most as f64).max;
            let pieces = gb_s.median * 1e9 / work.piece as f64;
            let to_raw = raw.map_or(String::new(), |raw| format!("{:.3}", core.median / raw));
            println!(
                "  {:<29} {:>6.2} {:>5.1} {pieces:>9.0} {:>8.3} {:>8.3} {:>5.1} {to_raw:>6}  {:>12.2} {:>6.2} {:>4.0}",
                way.name(),
                gb_s.median,
                100.0 * gb_s.spread(),
                process.median,
                core.median,
                100.0 * core.spread(),
                server.median,
                client.median,
                resident / f64::from(1 << 20),
            );
            let number = |value: f64| format!("{value:.4}");
            self.record.push(vec![
                work.piece.to_string(),
                work.connections.to_string(),
                way.name().to_owned(),
                gb_s.count.to_string(),
                number(gb_s.median),
                number(gb_s.spread()),
                format!("{pieces:.0}"),
                number(process.median),
                number(process.spread()),
                number(core.median),
                number(core.spread()),
                to_raw,
                number(server.median),
                number(client.median),
                format!("{:.2}", resident / f64::from(1 << 20)),
            ]);
            self.resident.push((way, work, resident));
        }
    }

    /// Prints the user memory of a connection, from the smallest number of connections that uses the whole pool to the
    /// largest.
    fn memory(&self) {
        for &(way, many, most) in &self.resident {
            let fewer = self.resident.iter().find(|(other, work, _)| {
                *other == way && work.piece == many.piece && work.connections == POOL
            });
            if let (Some(&(_, few, least)), true) = (fewer, many.connections > POOL) {
                println!(
                    "memory of a connection, pieces of {}, {}: {:.0} bytes",
                    ByteSize(many.piece as u64).display().iec(),
                    way.name(),
                    (most - least) / (many.connections - few.connections) as f64
                );
            }
        }
    }
}
