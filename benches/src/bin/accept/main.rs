//! Short connections: how many per second one core accepts, answers and closes, and the cost of each, for penstock on
//! both I/O backends and for nginx, if it is installed.
//!
//! Each connection requests a small object once, with `Connection: close`, reads the response to its end, and closes. A
//! constant number of connections is open ([`clients`]). The server runs pinned to one core, the clients to another.
//! The record says which of the two cores was busy all the time, and so was the limit: on loopback the whole handshake
//! is done on the clients' core.

mod clients;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytesize::ByteSize;
use clap::Parser;
use penstock_benches::common::launch::{self, Server};
use penstock_benches::common::record::Record;
use penstock_benches::common::stats::Summary;
use penstock_benches::common::usage::Usage;
use penstock_benches::common::{gets, interleave, machine, nginx, object, scratch};

use clients::Clients;

#[derive(Parser)]
#[command(about = "Short connections a second, and CPU time of each, beside nginx")]
struct Options {
    /// Write a record, with commit, command and CPU, to this file.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Run for less than half a minute, to see that everything works: one round.
    #[arg(long)]
    quick: bool,
    /// Bytes of the object.
    #[arg(long, value_name = "SIZE", default_value = "4KiB")]
    size: ByteSize,
    /// Open connections; can be repeated [default: 1, 64 and 200].
    #[arg(long = "connections", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    connections: Vec<u32>,
    /// Measurements per competitor [default: 5; 1 with --quick].
    #[arg(long)]
    rounds: Option<usize>,
    /// Milliseconds per measurement, after a warm-up [default: 1500; 250 with --quick].
    #[arg(long)]
    millis: Option<u64>,
    /// Directory to build the object in; removed afterwards.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The server's program [default: the one beside this benchmark].
    #[arg(long, value_name = "FILE")]
    penstock: Option<PathBuf>,
    /// More arguments of `penstock serve`, separated by blanks.
    #[arg(
        long,
        value_name = "ARGS",
        default_value = "",
        allow_hyphen_values = true
    )]
    serve_args: String,
    /// The server's core [default: the first].
    #[arg(long, value_name = "N")]
    server_core: Option<usize>,
    /// The clients' core [default: the second].
    #[arg(long, value_name = "N")]
    client_core: Option<usize>,
}

const KEY: &str = "small";
/// Data and parity shares of the object.
const SHAPE: [u16; 2] = [4, 2];
const BLOCK_BYTES: u32 = 16 << 10;
/// Fewer connections than the shortest listen backlog holds. A connection that finds the backlog full is tried again a
/// second later.
const BACKLOG: u32 = 256;
const WARM_UP: Duration = Duration::from_millis(250);

/// A server that can be started several times.
struct Competitor {
    name: String,
    kind: Kind,
    directory: PathBuf,
}

enum Kind {
    /// The program and its root.
    Nginx(PathBuf, PathBuf),
    /// The whole command line.
    Penstock(Vec<String>),
}

impl Competitor {
    fn start(&self, core: usize) -> anyhow::Result<Server> {
        match &self.kind {
            Kind::Nginx(program, root) => {
                nginx::start(program, root, ("", ""), &self.directory, core)
            }
            Kind::Penstock(command) => Server::start(core, command, &self.directory.join("log")),
        }
    }
}

/// The results of one measurement. Times in seconds.
struct Measured {
    connections_s: f64,
    process: f64,
    server: f64,
    both: f64,
    server_busy: f64,
    client_busy: f64,
    slow: f64,
    slowest: f64,
}

fn main() -> anyhow::Result<()> {
    launch::launch_if_started_as_launcher()?;
    let options = Options::parse();
    let mut facts = machine::facts();
    let cores = launch::cores(options.server_core, options.client_core)?;
    facts.push(("server core", cores.0.to_string()));
    facts.push(("client core", cores.1.to_string()));
    let directory = scratch::directory("accept", options.dir.as_deref())?;
    let plain = directory.path().join("plain");
    std::fs::create_dir(&plain)?;
    object::write_plain(&plain.join(KEY), options.size.0, 1)?;
    let coded = object::put(
        &plain.join(KEY),
        KEY,
        SHAPE,
        BLOCK_BYTES,
        &directory.path().join("stores"),
    )?;
    let body = std::fs::read(plain.join(KEY))?;

    let penstock = launch::penstock(options.penstock.as_deref())?;
    let mut kinds = Vec::new();
    match nginx::find() {
        Some((program, version)) => {
            facts.push(("nginx", version));
            kinds.push(("nginx".to_owned(), Kind::Nginx(program, plain)));
        }
        None => println!("nginx: skipped, not installed; there will be no ratios"),
    }
    for backend in ["uring", "epoll"] {
        let command = launch::serve_command(&penstock, backend, &coded.stores, &options.serve_args);
        kinds.push((format!("penstock {backend}"), Kind::Penstock(command)));
    }
    for (name, value) in &facts {
        println!("{name}: {value}");
    }
    let mut competitors = Vec::new();
    for (name, kind) in kinds {
        let directory = directory.path().join(name.replace(' ', "-"));
        std::fs::create_dir(&directory)?;
        competitors.push(Competitor {
            name,
            kind,
            directory,
        });
    }
    for competitor in &competitors {
        let server = competitor.start(cores.0)?;
        gets::verify(&server, &[(KEY.to_owned(), coded.sha256.clone())])
            .and_then(|()| clients::answer_bytes(server.address, KEY, &body))
            .with_context(|| format!("verifying {}", competitor.name))?;
    }
    println!("verified: {} competitors", competitors.len());

    let rounds = options.rounds.unwrap_or(if options.quick { 1 } else { 5 });
    let millis = options
        .millis
        .unwrap_or(if options.quick { 250 } else { 1500 });
    let span = Duration::from_millis(millis.clamp(50, 60_000));
    let under_way = match &options.connections[..] {
        [] => &[1, 64, 200],
        given => given,
    };
    let mut report = Report(Record::new(facts, COLUMNS));
    for &connections in under_way {
        if connections >= BACKLOG {
            println!("{connections} connections under way: more than the backlog may hold");
        }
        let mut values: Vec<Vec<Measured>> = competitors.iter().map(|_| Vec::new()).collect();
        for at in interleave::turns(rounds.max(1), competitors.len()) {
            let server = competitors[at].start(cores.0)?;
            let measured = measure(&server, connections as usize, &body, span, cores)
                .with_context(|| format!("measuring {}", competitors[at].name))?;
            values[at].push(measured);
        }
        report.add(connections, body.len(), &competitors, &values);
    }
    if let Some(path) = &options.csv {
        report.0.write(path)?;
        println!("\nwritten: {}", path.display());
    }
    Ok(())
}

fn measure(
    server: &Server,
    connections: usize,
    body: &[u8],
    span: Duration,
    cores: (usize, usize),
) -> anyhow::Result<Measured> {
    let expected = clients::answer_bytes(server.address, KEY, body)?;
    let clients = Clients::start(server.address, KEY, expected, connections, cores.1);
    std::thread::sleep(WARM_UP);
    clients.begin();
    let before = (clients.done(), Usage::now(server.pid(), cores.0, cores.1)?);
    let start = std::time::Instant::now();
    std::thread::sleep(span);
    let seconds = start.elapsed().as_secs_f64();
    let after = (clients.done(), Usage::now(server.pid(), cores.0, cores.1)?);
    let mut times = clients.finish()?;
    let count = (after.0 - before.0) as f64;
    ensure!(count > 0.0, "no connection was answered in {seconds:.1} s");
    times.sort_unstable();
    let place = |part: f64| {
        let place = ((times.len() as f64 * part) as usize).min(times.len().saturating_sub(1));
        times.get(place).map_or(0.0, Duration::as_secs_f64)
    };
    let server_core = (after.1.server_core - before.1.server_core).clamp(0.0, seconds);
    let client_core = (after.1.client_core - before.1.client_core).clamp(0.0, seconds);
    Ok(Measured {
        connections_s: count / seconds,
        process: (after.1.process - before.1.process) / count,
        server: server_core / count,
        both: (server_core + client_core) / count,
        server_busy: server_core / seconds,
        client_busy: client_core / seconds,
        slow: place(0.99),
        slowest: place(1.0),
    })
}

const COLUMNS: &[&str] = &[
    "connections",
    "object_bytes",
    "competitor",
    "rounds",
    "connections_s",
    "connections_s_spread",
    "connections_s_min",
    "connections_s_max",
    "process_cpu_us",
    "core_cpu_us",
    "core_cpu_spread",
    "both_cores_us",
    "speed_to_nginx",
    "core_cpu_to_nginx",
    "server_core_busy",
    "client_core_busy",
    "p99_ms",
    "slowest_ms",
];

struct Report(Record);

impl Report {
    fn add(
        &mut self,
        connections: u32,
        object_bytes: usize,
        competitors: &[Competitor],
        values: &[Vec<Measured>],
    ) {
        let sum = |at: usize, value: fn(&Measured) -> f64| {
            let all: Vec<f64> = values[at].iter().map(value).collect();
            Summary::of(&all)
        };
        println!(
            "\n{connections} connection{} under way, {} rounds",
            if connections == 1 { "" } else { "s" },
            values[0].len()
        );
        println!(
            "  {:<15} {:>7} {:>5} {:>7} {:>7} {:>5} {:>7} {:>7} {:>6}  busy: server client  p99 slowest ms",
            "", "conn/s", "+-%", "us", "core", "+-%", "both", "speed/n", "core/n"
        );
        // nginx comes first, if it is installed.
        let nginx = matches!(competitors[0].kind, Kind::Nginx(..));
        let nginx = nginx.then(|| (sum(0, |m| m.connections_s), sum(0, |m| m.server)));
        for (at, competitor) in competitors.iter().enumerate() {
            let (speed, core) = (sum(at, |m| m.connections_s), sum(at, |m| m.server));
            let (process, both) = (sum(at, |m| m.process), sum(at, |m| m.both));
            let (server, client) = (sum(at, |m| m.server_busy), sum(at, |m| m.client_busy));
            let (slow, slowest) = (sum(at, |m| m.slow).median, sum(at, |m| m.slowest).max);
            let ratios = nginx.map(|(of_speed, of_core)| {
                [speed.median / of_speed.median, core.median / of_core.median]
            });
            let ratio = |which: usize| ratios.map_or(String::new(), |r| format!("{:.3}", r[which]));
            println!(
                "  {:<15} {:>7.0} {:>5.1} {:>7.1} {:>7.1} {:>5.1} {:>7.1} {:>7} {:>6}  {:>12.2} {:>6.2}  {:>3.1} {:>7.1}",
                competitor.name,
                speed.median,
                100.0 * speed.spread(),
                1e6 * process.median,
                1e6 * core.median,
                100.0 * core.spread(),
                1e6 * both.median,
                ratio(0),
                ratio(1),
                server.median,
                client.median,
                1e3 * slow,
                1e3 * slowest,
            );
            let number = |value: f64| format!("{value:.3}");
            self.0.push(vec![
                connections.to_string(),
                object_bytes.to_string(),
                competitor.name.clone(),
                speed.count.to_string(),
                format!("{:.0}", speed.median),
                number(speed.spread()),
                format!("{:.0}", speed.min),
                format!("{:.0}", speed.max),
                number(1e6 * process.median),
                number(1e6 * core.median),
                number(core.spread()),
                number(1e6 * both.median),
                ratio(0),
                ratio(1),
                number(server.median),
                number(client.median),
                number(1e3 * slow),
                number(1e3 * slowest),
            ]);
        }
    }
}
