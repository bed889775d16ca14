//! What comes from a disk: GETs of a large object whose shares are not in the page cache, beside `dd`
//! reading the same share files, one after another and all at once.
//!
//! Before each measurement the files' pages are given up (`posix_fadvise`, POSIX_FADV_DONTNEED), which
//! needs no privilege since they are written back; that they are gone is checked. A cache below, of a
//! disk or of a host, serves all alike.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use bytesize::ByteSize;
use clap::Parser;
use penstock_benches::common::launch::{self, Server};
use penstock_benches::common::record::Record;
use penstock_benches::common::stats::Summary;
use penstock_benches::common::{gets, interleave, machine, object, scratch};

use reads::{Dd, Measured};

mod disk;
mod reads;

#[derive(Parser)]
#[command(about = "GETs of what is not in the page cache, beside dd")]
struct Options {
    /// Write a record, with commit, command and CPU, to this file.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// A run of under half a minute, to see that all works: 64 MiB, one round.
    #[arg(long)]
    quick: bool,
    /// Bytes of the object [default: 512MiB; 64MiB with --quick].
    #[arg(long, value_name = "SIZE")]
    size: Option<ByteSize>,
    /// Data and parity shares, `K,M`; m are lost in the degraded runs.
    #[arg(long, value_name = "K,M", default_value = "4,2", value_parser = object::shape)]
    shape: [u16; 2],
    /// Bytes of one block.
    #[arg(long, value_name = "SIZE,…", value_delimiter = ',', default_values = ["16KiB", "64KiB"])]
    block_size: Vec<ByteSize>,
    /// Connections, each with its part of the object.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values = ["1", "4"])]
    connections: Vec<u64>,
    /// Backends of the server.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', default_values = ["uring", "epoll"])]
    io: Vec<String>,
    /// Measurements [default: 5; 1 with --quick].
    #[arg(long)]
    rounds: Option<usize>,
    /// Where to build the objects, on the disk to be measured; needs about 3 times the size.
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

/// An object with all or just enough of its shares.
struct Case {
    key: String,
    block_bytes: u32,
    degraded: bool,
    /// The files that a GET reads.
    files: Vec<PathBuf>,
    stores: Vec<PathBuf>,
    sha256: String,
}

/// Who reads.
enum Reader {
    Dd(Dd),
    Penstock {
        command: Vec<String>,
        connections: u64,
    },
}

struct Competitor<'a> {
    case: &'a Case,
    name: String,
    reader: Reader,
}

fn main() -> anyhow::Result<()> {
    launch::launch_if_asked()?;
    let options = Options::parse();
    let (server_core, client_core) = launch::cores(options.server_core, options.client_core)?;
    let cores = [server_core, client_core];
    ensure!(
        !options.connections.contains(&0),
        "--connections: 0 clients read nothing"
    );
    let default_size = ByteSize::mib(if options.quick { 64 } else { 512 });
    let size = options.size.unwrap_or(default_size).0;
    ensure!(size >= 1 << 20, "--size: nothing under 1MiB can be timed");
    let penstock = launch::penstock(options.penstock.as_deref())?;
    let directory = scratch::directory("cold", options.dir.as_deref())?;

    let mut facts = machine::facts();
    facts.push(("object", format!("{size} bytes")));
    facts.push(("disk", disk::describe(directory.path())?));
    facts.push(("cores of server and clients", format!("{cores:?}")));
    for (name, value) in &facts {
        println!("{name}: {value}");
    }

    let cases = build(&options, size, directory.path())?;
    let files: Vec<PathBuf> = cases.iter().flat_map(|case| case.files.clone()).collect();
    let competitors = competitors(&options, &penstock, &cases);
    let log = directory.path().join("log");
    let mut verified = 0;
    for competitor in &competitors {
        if let Reader::Penstock { command, .. } = &competitor.reader {
            disk::give_up(&files)?;
            let server = Server::start(server_core, command, &log)?;
            let whole = [(competitor.case.key.clone(), competitor.case.sha256.clone())];
            gets::verify(&server, &whole)
                .with_context(|| format!("verifying {}", competitor.name))?;
            verified += 1;
        }
    }
    println!("verified by SHA-256, cold: {verified} competitors");

    let rounds = options.rounds.unwrap_or(if options.quick { 1 } else { 5 });
    let mut values: Vec<Vec<Measured>> = competitors.iter().map(|_| Vec::new()).collect();
    for at in interleave::turns(rounds.max(1), competitors.len()) {
        let Competitor { case, name, reader } = &competitors[at];
        let server = match reader {
            Reader::Dd(_) => None,
            Reader::Penstock { command, .. } => Some(Server::start(server_core, command, &log)?),
        };
        disk::chill(&case.files)?;
        let measured = match (reader, &server) {
            (Reader::Penstock { connections, .. }, Some(server)) => {
                reads::get(server, &case.key, size, *connections, cores)
            }
            (Reader::Dd(how), _) => reads::dd(&case.files, *how),
            (Reader::Penstock { .. }, None) => continue,
        };
        values[at].push(measured.with_context(|| format!("measuring {name}"))?);
    }
    report(facts, &competitors, &values, options.csv.as_deref())
}

/// Builds an object for each block size, down to the disk.
fn build(options: &Options, size: u64, directory: &Path) -> anyhow::Result<Vec<Case>> {
    let plain = directory.join("plain");
    object::write_plain(&plain, size, 1)?;
    let mut cases = Vec::new();
    for block in &options.block_size {
        let block_bytes = u32::try_from(block.0).context("--block-size is too large")?;
        let key = format!("blocks-of-{block_bytes}");
        let place = directory.join(&key);
        let coded = object::put(&plain, &key, options.shape, block_bytes, &place)?;
        for degraded in [false, true] {
            let stores = match degraded {
                true => coded.degraded(),
                false => &coded.stores[..],
            };
            let mut files = files_of(stores, &key)?;
            // Only the data shares, where they are all there.
            files.truncate(coded.k);
            for file in &files {
                // Written back, so that the pages can be given up.
                File::open(file)?.sync_all()?;
            }
            cases.push(Case {
                key: key.clone(),
                block_bytes,
                degraded,
                files,
                stores: stores.to_vec(),
                sha256: coded.sha256.clone(),
            });
        }
    }
    std::fs::remove_file(&plain)?;
    Ok(cases)
}

/// The object's share files, in the order of their numbers.
fn files_of(stores: &[PathBuf], key: &str) -> anyhow::Result<Vec<PathBuf>> {
    let key = decode_kernel::share::Key::new(key)?;
    let mut shares = penstock_tools::store::open_object(stores, &key)?.shares;
    shares.sort_by_key(|share| share.number);
    Ok(shares.into_iter().map(|share| share.path).collect())
}

fn competitors<'a>(options: &Options, penstock: &Path, cases: &'a [Case]) -> Vec<Competitor<'a>> {
    let mut all = Vec::new();
    for case in cases {
        let dd = [
            ("dd, one after another", Dd::InTurn),
            ("dd, all at once", Dd::AtOnce),
            ("dd, all at once, direct", Dd::Direct),
        ];
        all.extend(dd.map(|(name, how)| Competitor {
            case,
            name: name.to_owned(),
            reader: Reader::Dd(how),
        }));
        for backend in &options.io {
            for &connections in &options.connections {
                let command =
                    launch::serve_command(penstock, backend, &case.stores, &options.serve_args);
                all.push(Competitor {
                    case,
                    name: format!("penstock {backend}"),
                    reader: Reader::Penstock {
                        command,
                        connections,
                    },
                });
            }
        }
    }
    all
}

const COLUMNS: &[&str] = &[
    "block_bytes",
    "state",
    "competitor",
    "connections",
    "rounds",
    "gb_s",
    "gb_s_spread",
    "gb_s_min",
    "gb_s_max",
    "speed_to_dd",
    "process_cpu_s_per_gb",
    "core_cpu_s_per_gb",
];

fn report(
    facts: Vec<(&'static str, String)>,
    competitors: &[Competitor<'_>],
    values: &[Vec<Measured>],
    csv: Option<&Path>,
) -> anyhow::Result<()> {
    let speeds: Vec<Summary> = values
        .iter()
        .map(|all| Summary::of(&all.iter().map(|m| m.gb_s).collect::<Vec<_>>()))
        .collect();
    // The fastest way of dd with the same files counts.
    let dd = |case: &Case| {
        let all = competitors.iter().zip(&speeds);
        all.filter(|(other, _)| std::ptr::eq(other.case, case))
            .filter(|(other, _)| matches!(other.reader, Reader::Dd(_)))
            .map(|(_, speed)| speed.median)
            .fold(0.0, f64::max)
    };
    let mut record = Record::new(facts, COLUMNS);
    println!(
        "\n  {:>6} {:<8} {:<24} {:>5} {:>6} {:>5} {:>6} {:>14}",
        "block", "", "", "conns", "GB/s", "+-%", "to dd", "CPU, core s/GB"
    );
    for ((competitor, speed), values) in competitors.iter().zip(&speeds).zip(values) {
        let Competitor { case, name, reader } = competitor;
        let connections = match reader {
            Reader::Dd(_) => String::new(),
            Reader::Penstock { connections, .. } => connections.to_string(),
        };
        let cpu = [0, 1].map(|at| {
            let all: Vec<f64> = values
                .iter()
                .filter_map(|m| Some(m.cpu_per_gb?[at]))
                .collect();
            let median = (!all.is_empty()).then(|| Summary::of(&all).median);
            median.map_or_else(String::new, |median| format!("{median:.3}"))
        });
        let state = if case.degraded { "degraded" } else { "healthy" };
        let to_dd = speed.median / dd(case);
        println!(
            "  {:>6} {state:<8} {name:<24} {connections:>5} {:>6.2} {:>5.1} {to_dd:>6.2} {:>7}{:>7}",
            case.block_bytes,
            speed.median,
            100.0 * speed.spread(),
            cpu[0],
            cpu[1],
        );
        let number = |value: f64| format!("{value:.4}");
        let [process, core] = cpu;
        record.push(vec![
            case.block_bytes.to_string(),
            state.to_owned(),
            name.clone(),
            connections,
            speed.count.to_string(),
            number(speed.median),
            number(speed.spread()),
            number(speed.min),
            number(speed.max),
            format!("{to_dd:.3}"),
            process,
            core,
        ]);
    }
    if let Some(path) = csv {
        record.write(path)?;
        println!("written: {}", path.display());
    }
    Ok(())
}
