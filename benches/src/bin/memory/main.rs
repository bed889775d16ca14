//! Recorded runs under a declared memory: thousands of stalled clients, a hundred slow and a few fast ones on a
//! degraded object; fast ones that come after thousands have stalled; more attempts than there are places; and hours of
//! random clients. Each run lists what must hold and
//! whether it did, measured from outside: VmHWM of the process plus the kernel memory of its sockets, never the
//! server's own counters.
//!
//! The fast clients are measured alone and beside the others in turns, within one run of one server, so that both see
//! the same machine.

mod attempts;
mod cases;
mod crowd;
mod networks;
mod picture;
mod soak;
mod stalled_first;
mod subject;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use bytesize::ByteSize;
use clap::Parser;
use penstock_benches::common::certificate::Certificate;
use penstock_benches::common::object::{self, Coded};
use penstock_benches::common::record::Record;
use penstock_benches::common::{launch, machine, scratch};

use cases::Case;
use crowd::SMALL_KEY;
use soak::{OTHER_KEY, OTHERS};
use subject::{KEY, Subject, Verdict};

#[derive(Parser)]
#[command(
    about = "Whether the declared memory holds: stalled, slow, fast and refused clients; a soak"
)]
struct Options {
    /// Write all samples and verdicts to files in this directory.
    #[arg(long, value_name = "DIR")]
    record: Option<PathBuf>,
    /// Bytes of the object.
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    size: ByteSize,
    /// I/O backends. Can be repeated [default: uring, epoll].
    #[arg(long, value_name = "BACKEND")]
    io: Vec<String>,
    /// Only these cases: 256, 96, 1024, stalled-first, networks, attempts. Can be repeated.
    #[arg(long, value_name = "CASE")]
    only: Vec<String>,
    /// Instead of the cases: random clients for this long, then memory at the end against memory after the warm-up.
    #[arg(long, value_name = "TIME", value_parser = humantime_seconds)]
    soak: Option<Duration>,
    /// Seed of the random choices.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// A tenth of the clients and shorter measurements, to see that everything works.
    #[arg(long)]
    quick: bool,
    /// All clients speak TLS.
    #[arg(long)]
    tls: bool,
    /// Further options of the server, as in `--share-files=1024`. Can be repeated.
    #[arg(long, value_name = "OPTION", allow_hyphen_values = true)]
    server: Vec<String>,
    /// Directory to build the object in: room for one and a half times its size, twice.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The server's program [default: the one beside this benchmark].
    #[arg(long, value_name = "FILE")]
    penstock: Option<PathBuf>,
}

/// `90s`, `10m`, `1h`.
fn humantime_seconds(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time such as 90s, 10m or 1h");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        _ => return Err(wrong()),
    };
    let count: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    if count == 0 || count > 86_400 / factor {
        return Err("between 1s and 24h".to_owned());
    }
    Ok(Duration::from_secs(count * factor))
}

/// Bytes of a small object.
const SMALL_BYTES: u64 = 10_000;

fn main() -> anyhow::Result<()> {
    launch::launch_if_started_as_launcher()?;
    let options = Options::parse();
    let facts = machine::facts();
    for (name, value) in &facts {
        println!("{name}: {value}");
    }
    let directory = scratch::directory("memory", options.dir.as_deref())?;
    let others = if options.soak.is_some() { OTHERS } else { 0 };
    let coded = build(options.size.0, others, directory.path())?;
    let penstock = launch::penstock(options.penstock.as_deref())?;
    let certificate = options
        .tls
        .then(|| Certificate::make(directory.path()))
        .transpose()?;
    let backends = match options.io.is_empty() {
        true => vec!["uring".to_owned(), "epoll".to_owned()],
        false => options.io.clone(),
    };
    let mut record = Record::new(facts, &["case", "io", "must hold", "seen", "verdict"]);
    let mut failed = 0;
    for io in &backends {
        let subject = Subject {
            penstock: &penstock,
            healthy: &coded.stores,
            stores: coded.degraded(),
            io,
            seed: options.seed,
            scale: if options.quick { 10 } else { 1 },
            rounds: if options.quick { 1 } else { subject::ROUNDS },
            stretch: if options.quick {
                Duration::from_secs(1)
            } else {
                subject::STRETCH
            },
            certificate: certificate.as_ref(),
            options: &options.server,
            record: options.record.as_deref(),
            log: directory.path(),
        };
        let mut say = |case: &str, verdicts: Vec<Verdict>| {
            for verdict in verdicts {
                let word = if verdict.held {
                    "holds"
                } else {
                    "DOES NOT HOLD"
                };
                println!("{case} {io}: {}: {} -- {word}", verdict.what, verdict.seen);
                failed += usize::from(!verdict.held);
                let cells = [case, io, &verdict.what, &verdict.seen, word];
                record.push(cells.map(str::to_owned).to_vec());
            }
        };
        if let Some(time) = options.soak {
            say("soak", subject.soak(time)?);
            continue;
        }
        for case in Case::ALL {
            if options.only.is_empty() || options.only.iter().any(|name| name == case.name()) {
                say(case.name(), subject.run(case)?);
            }
        }
    }
    if let Some(directory) = &options.record {
        let name = if options.soak.is_some() {
            "soak.csv"
        } else {
            "verdicts.csv"
        };
        record.write(&directory.join(name))?;
    }
    ensure!(failed == 0, "{failed} of the verdicts: it does not hold");
    Ok(())
}

fn build(size: u64, others: usize, directory: &Path) -> anyhow::Result<Coded> {
    let put = |key: &str, size, seed| -> anyhow::Result<Coded> {
        let plain = directory.join("plain");
        object::write_plain(&plain, size, seed)?;
        let coded = object::put(&plain, key, [4, 2], 256 << 10, directory)?;
        std::fs::remove_file(&plain).context("can't remove the plain object")?;
        Ok(coded)
    };
    put(SMALL_KEY, SMALL_BYTES, 2)?;
    for number in 0..others {
        put(
            &format!("{OTHER_KEY}{number}"),
            SMALL_BYTES,
            3 + number as u64,
        )?;
    }
    put(KEY, size, 1)
}
