//! Downloads and handshakes by TLS: bytes per second, CPU time per byte and per handshake, for penstock on both backends, with
//! all shares and with two lost, and for nginx with OpenSSL, if it is installed.
//!
//! Servers are on one core, clients on another. A client that decrypts is slower than a server, so what counts is the
//! server's CPU time. Servers take turns; each figure is the median of the rounds, and each ratio is to nginx in the same run.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use bytesize::ByteSize;
use clap::Parser;
use core_affinity::CoreId;
use penstock_benches::common::certificate::Certificate;
use penstock_benches::common::interleave::turns;
use penstock_benches::common::launch::{self, Server};
use penstock_benches::common::record::Record;
use penstock_benches::common::stats::Summary;
use penstock_benches::common::usage::Usage;
use penstock_benches::common::{machine, nginx, object, scratch};
use penstock_load::{Class, Group, Plan, Report, TlsVersion, Trust, Verify};

#[derive(Parser)]
#[command(about = "Downloads and handshakes by TLS, beside nginx")]
struct Options {
    /// Write a record, with commit, command and CPU, to this file.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// One short round, to see that everything works.
    #[arg(long)]
    quick: bool,
    /// Rounds; the median of each figure counts.
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
    /// Length of each measurement, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 4)]
    seconds: u64,
    /// Bytes of the object.
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    size: ByteSize,
    /// The only version that is spoken, 1.2 or 1.3.
    #[arg(long, value_name = "VERSION", default_value = "1.3", value_parser = version)]
    tls: TlsVersion,
    /// Directory to build the object in.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The server's program [default: the one beside this benchmark].
    #[arg(long, value_name = "FILE")]
    penstock: Option<PathBuf>,
}

fn version(text: &str) -> Result<TlsVersion, String> {
    match text {
        "1.2" => Ok(TlsVersion::V12),
        "1.3" => Ok(TlsVersion::V13),
        _ => Err("1.2 or 1.3".to_owned()),
    }
}

const KEY: &str = "object.bin";
/// Clients of each measurement of downloads.
const CLIENTS: [usize; 3] = [1, 32, 256];
/// Clients that only make handshakes.
const HANDSHAKE_CLIENTS: usize = 16;

/// A server to be measured.
struct Competitor {
    name: String,
    server: Server,
}

/// What is measured of a competitor.
#[derive(Clone, Copy)]
enum Load {
    Downloads(usize),
    Handshakes,
}

fn main() -> anyhow::Result<()> {
    launch::launch_if_started_as_launcher()?;
    let options = Options::parse();
    let (server_core, client_core) = launch::cores(None, None)?;
    let facts = machine::facts();
    for (name, value) in &facts {
        println!("{name}: {value}");
    }
    let directory = scratch::directory("tls", options.dir.as_deref())?;
    let plain = directory.path().join("root").join(KEY);
    std::fs::create_dir_all(directory.path().join("root"))?;
    object::write_plain(&plain, options.size.0, 1)?;
    let coded = object::put(&plain, KEY, [4, 2], 64 << 10, directory.path())?;
    let certificate = Certificate::make(directory.path())?;
    let competitors = start(
        &options,
        &directory.path().join("root"),
        &coded,
        &certificate,
        server_core,
    )?;
    // The clients' threads inherit it.
    ensure!(
        core_affinity::set_for_current(CoreId { id: client_core }),
        "can't pin to core {client_core}"
    );
    for competitor in &competitors {
        verify(competitor, &plain, options.tls)?;
    }
    let (rounds, stretch) = match options.quick {
        true => (1, Duration::from_secs(1)),
        false => (options.rounds, Duration::from_secs(options.seconds)),
    };
    let mut record = Record::new(
        facts,
        &[
            "load",
            "server",
            "per_second",
            "cpu_seconds",
            "cpu_to_nginx",
        ],
    );
    let loads = CLIENTS.map(Load::Downloads).into_iter();
    for load in loads.chain([Load::Handshakes]) {
        let mut seen = vec![(Vec::new(), Vec::new()); competitors.len()];
        for at in turns(rounds, competitors.len()) {
            let competitor = &competitors[at];
            let cores = (server_core, client_core);
            let (rate, cpu) = measure(competitor, load, stretch, options.tls, cores)?;
            seen[at].0.push(rate);
            seen[at].1.push(cpu);
        }
        let (what, rate_unit, cpu_unit) = match load {
            Load::Downloads(clients) => (format!("{clients} clients"), "GB/s", "CPU s/GB"),
            Load::Handshakes => ("handshakes".to_owned(), "a second", "CPU ms each"),
        };
        let medians: Vec<(f64, f64)> = seen
            .iter()
            .map(|(rates, cpus)| (Summary::of(rates).median, Summary::of(cpus).median))
            .collect();
        let nginx = competitors
            .iter()
            .position(|competitor| competitor.name == "nginx")
            .map(|at| medians[at].1);
        for (competitor, (rate, cpu)) in competitors.iter().zip(&medians) {
            let ratio = nginx.map_or(String::new(), |nginx| format!("{:.2}", cpu / nginx));
            println!(
                "{what:<12} {:<24} {rate:>9.2} {rate_unit} {cpu:>8.3} {cpu_unit}  {ratio}",
                competitor.name
            );
            let cells = [
                what.clone(),
                competitor.name.clone(),
                format!("{rate:.3}"),
                format!("{cpu:.4}"),
                ratio,
            ];
            record.push(cells.to_vec());
        }
    }
    if let Some(path) = &options.csv {
        record.write(path)?;
        println!("\nwritten: {}", path.display());
    }
    Ok(())
}

fn start(
    options: &Options,
    root: &Path,
    coded: &object::Coded,
    certificate: &Certificate,
    core: usize,
) -> anyhow::Result<Vec<Competitor>> {
    let parent = root.parent().context("a directory was made")?;
    let penstock = launch::penstock(options.penstock.as_deref())?;
    let mut competitors = Vec::new();
    for (name, io, stores) in [
        ("penstock, io_uring", "uring", &coded.stores[..]),
        ("penstock, epoll", "epoll", &coded.stores[..]),
        ("penstock, two lost", "uring", coded.degraded()),
    ] {
        let address = launch::free_address()?;
        let more = certificate.options(address).join(" ");
        let command = launch::serve_command(&penstock, io, stores, &more);
        let log = parent.join("penstock.log");
        let server = Server::start(core, &command, &log)?.killed();
        competitors.push(Competitor {
            name: name.to_owned(),
            server: server.secured(address),
        });
    }
    match nginx::find() {
        None => println!("nginx: skipped: it is not installed"),
        Some((program, version)) => {
            println!("{version}, sendfile off");
            let more = format!(
                "sendfile off; ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache off; ssl_session_tickets off; ssl_certificate {}; ssl_certificate_key {};",
                certificate.certificate.display(),
                certificate.key.display()
            );
            let directory = parent.join("nginx");
            std::fs::create_dir_all(&directory)?;
            let server = nginx::start(&program, root, (" ssl", &more), &directory, core)?;
            let address = server.address;
            competitors.push(Competitor {
                name: "nginx".to_owned(),
                server: server.secured(address),
            });
        }
    }
    Ok(competitors)
}

fn plan(competitor: &Competitor, tls: TlsVersion) -> Plan {
    let mut plan = Plan::new(&competitor.server.url(KEY));
    plan.tls.trust = Trust::All;
    plan.tls.version = Some(tls);
    plan
}

/// Downloads the object once and compares it.
fn verify(competitor: &Competitor, plain: &Path, tls: TlsVersion) -> anyhow::Result<()> {
    let mut plan = plan(competitor, tls);
    plan.duration = Duration::from_secs(120);
    plan.verify = Verify::File(plain.to_owned());
    plan.groups = vec![Group {
        requests: Some(1),
        ..Group::new(Class::Fast, 1)
    }];
    let report = penstock_load::run(&plan)?;
    let group = &report.groups[0];
    for negotiated in group.negotiated.keys() {
        println!("{}: {negotiated}", competitor.name);
    }
    ensure!(
        group.completed == 1 && group.faults.is_empty(),
        "{}: the object was not received whole: {:?}",
        competitor.name,
        group.faults.first().map(|fault| &fault.first)
    );
    Ok(())
}

/// Measures once: how many gigabytes or handshakes a second, and the server's CPU time for each (a handshake's in
/// milliseconds).
fn measure(
    competitor: &Competitor,
    load: Load,
    stretch: Duration,
    tls: TlsVersion,
    (server_core, client_core): (usize, usize),
) -> anyhow::Result<(f64, f64)> {
    let mut plan = plan(competitor, tls);
    plan.duration = stretch;
    plan.groups = vec![match load {
        Load::Downloads(clients) => Group::new(Class::Fast, clients),
        Load::Handshakes => Group::new(Class::Handshake, HANDSHAKE_CLIENTS),
    }];
    let pid = competitor.server.pid();
    let before = Usage::now(pid, server_core, client_core)?;
    let report: Report = penstock_load::run(&plan)?;
    let after = Usage::now(pid, server_core, client_core)?;
    let cpu = after.process - before.process;
    let group = &report.groups[0];
    let (done, unit) = match load {
        Load::Downloads(_) => (group.body_bytes as f64 / 1e9, 1.0),
        Load::Handshakes => (group.handshakes as f64, 1000.0),
    };
    ensure!(done > 0.0, "{}: nothing was done", competitor.name);
    Ok((done / stretch.as_secs_f64(), cpu * unit / done))
}
