//! Shares in remote stores: what a late store costs with and without hedging, how fast one cold download is beside plain
//! ranged GETs of as many connections, what is fetched for many cold clients, the memory of a crowd on cold objects, and Penstock
//! beside others before the same SeaweedFS.
//!
//! The stores are buckets of this process (directories, by HTTP), each behind a proxy that adds latency and faults by a seed.
//! They share the machine with the server and the clients, so only ratios say something.

mod beside;
mod client;
mod picture;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Parser;
use decode_kernel::share::Key;
use penstock_benches::common::launch::{self, Server};
use penstock_benches::common::record::Record;
use penstock_benches::common::{machine, object, scratch, seed};
use penstock_faultproxy::{Chance, DirectoryBuckets, FaultProxy, Faults, Seen};
use penstock_load::{Class, Group, Plan, Verify, Watch};
use penstock_store::put::{self, Placement, PutOptions};
use penstock_store::{Progress, Store};
use sha2::{Digest as _, Sha256};

use client::{Got, download, parts};

#[derive(Parser)]
#[command(about = "Late stores, cold downloads and crowds on shares in remote stores")]
struct Options {
    /// Write a record, with commit, command and CPU, to this file.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Run for less than half a minute, to see that everything works.
    #[arg(long)]
    quick: bool,
    /// Only this case: tail, sequential, once, memory or beside. Can be repeated.
    #[arg(long = "only", value_name = "CASE")]
    only: Vec<String>,
    /// Draw `beside` to this SVG file.
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
    /// Draw what tells most of it, with Tahoe-LAFS, to this SVG file.
    #[arg(long, value_name = "FILE")]
    overview: Option<PathBuf>,
    /// SeaweedFS's program, for `beside` [default: `weed`, if it is in the path].
    #[arg(long, value_name = "FILE")]
    weed: Option<PathBuf>,
    /// Tahoe-LAFS's program, for `beside` [default: `tahoe`, if it is in the path].
    #[arg(long, value_name = "FILE")]
    tahoe: Option<PathBuf>,
    /// The I/O backend.
    #[arg(long, value_name = "BACKEND", default_value = "uring")]
    io: String,
    /// Directory to build the stores in, removed afterwards.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The server's program [default: the one beside this benchmark].
    #[arg(long, value_name = "FILE")]
    penstock: Option<PathBuf>,
}

/// Data and parity shares.
const SHAPE: [u16; 2] = [4, 2];
const STORES: usize = 6;
const LARGE: &str = "large";

/// The stores, and what is between them and the server.
struct Stores {
    dirs: Vec<PathBuf>,
    _buckets: DirectoryBuckets,
    proxies: Vec<FaultProxy>,
    place: PathBuf,
}

impl Stores {
    fn start(place: &Path) -> anyhow::Result<Stores> {
        let root = place.join("buckets");
        let dirs = object::stores(&root, SHAPE)?;
        let buckets = DirectoryBuckets::start(&root)?;
        let any: SocketAddr = "127.0.0.1:0".parse()?;
        let proxy = |seed| FaultProxy::start(any, buckets.address(), Faults::default(), seed);
        let proxies: Vec<FaultProxy> = (0..STORES as u64).map(proxy).collect::<Result<_, _>>()?;
        proxies.iter().for_each(FaultProxy::keep_seen);
        Ok(Stores {
            dirs,
            _buckets: buckets,
            proxies,
            place: place.to_owned(),
        })
    }

    fn put(&self, key: &str, bytes: usize, number: u64) -> anyhow::Result<Vec<u8>> {
        let mut content = vec![0; bytes];
        seed::fill(&mut content, number);
        let options = PutOptions {
            stores: Store::directories(&self.dirs),
            data: SHAPE[0],
            parity: SHAPE[1],
            key: Key::new(key)?,
            block_size: 64 << 10,
            code: None,
            content_type: None,
            expires: None,
            fields: Default::default(),
            size_hint: Some(bytes as u64),
            min_shares: None,
            no_clobber: false,
            placement: Placement::Listed,
        };
        put::put(&mut &content[..], &options, &Progress::hidden())?;
        Ok(content)
    }

    /// All stores have this latency; one does something else besides.
    fn set(&self, latency: Duration, fault: Option<(usize, Chance)>) {
        for (number, proxy) in self.proxies.iter().enumerate() {
            let chances = fault.filter(|(store, _)| *store == number);
            proxy.set(Faults {
                latency,
                bandwidth: None,
                chances: chances.map(|(_, chance)| chance).into_iter().collect(),
            });
        }
    }

    fn seen(&self) -> Vec<Vec<Seen>> {
        self.proxies.iter().map(FaultProxy::take_seen).collect()
    }

    /// A server with an empty cache.
    fn serve(&self, options: &Options, more: &str) -> anyhow::Result<Server> {
        let cache = self.place.join("cache");
        if cache.exists() {
            fs::remove_dir_all(&cache)?;
        }
        self.serve_again(options, more)
    }

    /// A server with the cache as it is.
    fn serve_again(&self, options: &Options, more: &str) -> anyhow::Result<Server> {
        let url = |(number, proxy): (usize, &FaultProxy)| {
            let at = proxy.address();
            PathBuf::from(format!(
                "s3://store{number}?endpoint=http://{at}&region=us-east-1"
            ))
        };
        let stores: Vec<PathBuf> = self.proxies.iter().enumerate().map(url).collect();
        let cache = self.place.join("cache");
        let more = format!("--cache={} --survey-every=0s {more}", cache.display());
        let keys = [
            "env",
            "AWS_ACCESS_KEY_ID=key",
            "AWS_SECRET_ACCESS_KEY=secret",
        ];
        let mut command: Vec<String> = keys.map(str::to_owned).into();
        let penstock = launch::penstock(options.penstock.as_deref())?;
        command.extend(launch::serve_command(
            &penstock,
            &options.io,
            &stores,
            &more,
        ));
        Server::start(None, &command, &self.place.join("log"))
    }
}

/// The rows of the record, and what did not hold.
struct Results {
    record: Record,
    failed: Vec<String>,
}

impl Results {
    fn row(&mut self, case: &str, what: &str, value: f64, unit: &str) {
        println!("  {what:<44} {value:>10.2} {unit}");
        let value = format!("{value:.3}");
        self.record
            .push(vec![case.into(), what.into(), value, unit.into()]);
    }

    fn verdict(&mut self, what: &str, holds: bool) {
        println!(
            "  {}: {what}",
            if holds { "holds" } else { "DOES NOT HOLD" }
        );
        if !holds {
            self.failed.push(what.to_owned());
        }
    }
}

fn main() -> anyhow::Result<()> {
    launch::launch_if_started_as_launcher()?;
    let options = Options::parse();
    let directory = scratch::directory("remote", options.dir.as_deref())?;
    let facts = machine::facts();
    for (name, value) in &facts {
        println!("{name}: {value}");
    }
    let mut results = Results {
        record: Record::new(facts, &["case", "what", "value", "unit"]),
        failed: Vec::new(),
    };
    let stores = Stores::start(directory.path())?;
    type Case = fn(&Options, &Stores, &mut Results) -> anyhow::Result<()>;
    let cases: [(&str, Case); 5] = [
        ("tail", tail),
        ("sequential", sequential),
        ("once", once),
        ("memory", memory),
        ("beside", beside::beside),
    ];
    for only in &options.only {
        let known = cases.iter().any(|(name, _)| name == only);
        ensure!(known, "--only: tail, sequential, once, memory or beside");
    }
    for (name, case) in cases {
        if options.only.is_empty() || options.only.iter().any(|only| only == name) {
            println!("\n{name}");
            case(&options, &stores, &mut results).with_context(|| name.to_owned())?;
            stores.set(Duration::ZERO, None);
        }
    }
    if let Some(path) = &options.csv {
        results.record.write(path)?;
        println!("\nwritten: {}", path.display());
    }
    ensure!(
        results.failed.is_empty(),
        "does not hold: {}",
        results.failed.join("; ")
    );
    Ok(())
}

/// Cold objects asked for one after another by four clients, with one store of six that is 2 s late now and then.
fn tail(options: &Options, stores: &Stores, results: &mut Results) -> anyhow::Result<()> {
    const CLIENTS: usize = 4;
    const LATENCY: Duration = Duration::from_millis(20);
    let objects: usize = if options.quick { 60 } else { 600 };
    for number in 0..objects {
        stores.put(&format!("tail/{number}"), 1 << 20, number as u64)?;
    }
    let late: Chance = "late=2s@5%".parse().map_err(anyhow::Error::msg)?;
    let mut figures = Vec::new();
    for (name, fault, more) in [
        ("all stores well", None, ""),
        ("one late, hedged", Some((2, late)), ""),
        ("one late, --no-hedging", Some((2, late)), "--no-hedging"),
    ] {
        stores.set(LATENCY, fault);
        let server = stores.serve(options, more)?;
        stores.seen();
        let address = server.address;
        let took = thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|client| {
                    scope.spawn(move || {
                        let mine = (client..objects).step_by(CLIENTS);
                        mine.map(|number| download(address, &format!("/tail/{number}")))
                            .collect::<anyhow::Result<Vec<Got>>>()
                    })
                })
                .collect();
            let done = clients
                .into_iter()
                .map(|client| client.join().expect("no panic"));
            done.collect::<anyhow::Result<Vec<_>>>()
        })?;
        let mut first: Vec<f64> = took
            .iter()
            .flatten()
            .map(|got| got.first_byte.as_secs_f64() * 1e3)
            .collect();
        first.sort_by(f64::total_cmp);
        let at = |percent: usize| first[(first.len() * percent).div_ceil(100).max(1) - 1];
        let requests: usize = stores.seen().iter().map(Vec::len).sum();
        results.row("tail", &format!("{name}: first byte p50"), at(50), "ms");
        results.row("tail", &format!("{name}: first byte p99"), at(99), "ms");
        results.row("tail", &format!("{name}: requests"), requests as f64, "");
        figures.push((at(99), requests as f64));
    }
    let [(well, asked), (hedged, hedged_asked), (waited, _)] = figures[..] else {
        unreachable!("three cases");
    };
    results.row("tail", "p99 hedged / well", hedged / well, "times");
    results.row("tail", "p99 not hedged / well", waited / well, "times");
    results.row(
        "tail",
        "requests hedged / well",
        hedged_asked / asked,
        "times",
    );
    results.verdict(
        "p99 with a late store is at most 1.5 times",
        hedged <= 1.5 * well,
    );
    results.verdict("at most 6% more requests", hedged_asked <= 1.06 * asked);
    Ok(())
}

/// One client takes a large object, cold and warm, beside k connections that take a file by ranges of 8 MiB.
fn sequential(options: &Options, stores: &Stores, results: &mut Results) -> anyhow::Result<()> {
    const LATENCY: Duration = Duration::from_millis(30);
    let bytes: usize = if options.quick { 64 << 20 } else { 1 << 30 };
    let rounds = if options.quick { 1 } else { 3 };
    stores.put(LARGE, bytes, 1)?;
    // The same bytes as plain files: one for each connection.
    let k = usize::from(SHAPE[0]);
    for dir in &stores.dirs[..k] {
        let mut plain = vec![0; bytes / k];
        seed::fill(&mut plain, 2);
        fs::write(dir.join("plain"), plain)?;
    }
    let rate = |took: Duration| bytes as f64 / 1e6 / took.as_secs_f64();
    let (mut plain, mut cold, mut warm) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        stores.set(LATENCY, None);
        // What was written before is on the disk, and its writing back is not measured.
        rustix::fs::sync();
        let start = Instant::now();
        thread::scope(|scope| {
            let connections: Vec<_> = stores.proxies[..k]
                .iter()
                .enumerate()
                .map(|(number, proxy)| {
                    let path = format!("/store{number}/plain");
                    scope.spawn(move || parts(proxy.address(), &path, bytes / k, 8 << 20))
                })
                .collect();
            connections
                .into_iter()
                .try_for_each(|connection| connection.join().expect("no panic"))
        })?;
        plain.push(rate(start.elapsed()));
        let server = stores.serve(options, "")?;
        let path = format!("/{LARGE}");
        machine::back_free_memory(2 * bytes);
        cold.push(rate(download(server.address, &path)?.whole));
        download(server.address, &path)?;
        warm.push(rate(download(server.address, &path)?.whole));
    }
    let local = {
        let penstock = launch::penstock(options.penstock.as_deref())?;
        let command = launch::serve_command(&penstock, &options.io, &stores.dirs, "");
        let server = Server::start(None, &command, &stores.place.join("log"))?;
        let path = format!("/{LARGE}");
        download(server.address, &path)?;
        let mut all = Vec::new();
        for _ in 0..rounds {
            all.push(rate(download(server.address, &path)?.whole));
        }
        median(all)
    };
    let (plain, cold, warm) = (median(plain), median(cold), median(warm));
    results.row(
        "sequential",
        "4 connections, ranges of 8 MiB",
        plain,
        "MB/s",
    );
    results.row("sequential", "cold, through 30 ms", cold, "MB/s");
    results.row("sequential", "warm, from the cache", warm, "MB/s");
    results.row("sequential", "directories", local, "MB/s");
    results.row("sequential", "cold / 4 connections", cold / plain, "times");
    results.row("sequential", "warm / directories", warm / local, "times");
    results.verdict(
        "a cold download has 80% of 4 connections' rate",
        cold >= 0.8 * plain,
    );
    results.verdict(
        "a warm one is as fast as from directories (90%)",
        warm >= 0.9 * local,
    );
    Ok(())
}

/// Many clients ask for one cold object at one time.
fn once(options: &Options, stores: &Stores, results: &mut Results) -> anyhow::Result<()> {
    let clients = if options.quick { 32 } else { 256 };
    let bytes: usize = 64 << 20;
    let content = stores.put("once", bytes, 3)?;
    stores.set(Duration::from_millis(20), None);
    let server = stores.serve(
        options,
        "--no-hedging --max-connections-per-address=unlimited",
    )?;
    stores.seen();
    let mut plan = Plan::new(&server.url("once"));
    plan.duration = Duration::from_secs(120);
    plan.groups.push(Group {
        requests: Some(1),
        verify: Some(Verify::Sha256(Sha256::digest(&content).into())),
        ..Group::new(Class::Fast, clients)
    });
    let report = penstock_load::run(&plan)?;
    let completed: u64 = report.groups.iter().map(|group| group.completed).sum();
    ensure!(
        completed == clients as u64,
        "{completed} of {clients} downloads were whole"
    );
    let mut twice = 0;
    let mut fetched = 0;
    for seen in stores.seen() {
        let shares = seen.iter().filter(|seen| seen.target.contains(".share"));
        let mut ranges: Vec<_> = shares.filter_map(|seen| seen.range.clone()).collect();
        ranges.sort_by_key(|range| range.start);
        fetched += ranges
            .iter()
            .map(|range| range.end - range.start)
            .sum::<u64>();
        let pairs = ranges.windows(2);
        twice += pairs
            .map(|pair| pair[0].end.saturating_sub(pair[1].start))
            .sum::<u64>();
    }
    let mib = |bytes: u64| bytes as f64 / (1 << 20) as f64;
    results.row("once", "clients", clients as f64, "");
    results.row("once", "fetched", mib(fetched), "MiB");
    results.row("once", "fetched more than once", mib(twice), "MiB");
    results.verdict("every byte is fetched once", twice == 0);
    Ok(())
}

/// Clients that stall and clients that are slow, each on cold objects of its own; then with one store that hangs after the
/// heads of its answers.
fn memory(options: &Options, stores: &Stores, results: &mut Results) -> anyhow::Result<()> {
    const DECLARED: u64 = 256 << 20;
    let (stalled, slow) = if options.quick {
        (200, 20)
    } else {
        (2000, 200)
    };
    let objects = stalled + slow;
    for number in 0..objects {
        stores.put(&format!("crowd/{number}"), 2 << 20, number as u64)?;
    }
    let hang: Chance = "hang=1000".parse().map_err(anyhow::Error::msg)?;
    for (name, fault) in [("all stores well", None), ("one hangs", Some((3, hang)))] {
        stores.set(Duration::from_millis(50), fault);
        let more = "--memory=256MiB --max-connections-per-address=unlimited";
        let server = stores.serve(options, more)?;
        let mut plan = Plan::new(&server.url("crowd/0"));
        plan.duration = Duration::from_secs(if options.quick { 10 } else { 90 });
        plan.timeout = plan.duration;
        plan.watch = Some(Watch {
            pids: vec![server.pid()],
            ..Watch::default()
        });
        plan.groups.push(Group {
            path: Some(format!("/crowd/{{{objects}}}")),
            ..Group::new(Class::Stalled, stalled)
        });
        plan.groups.push(Group {
            path: Some(format!("/crowd/{{{objects}}}")),
            rate: Some(100_000),
            ..Group::new(Class::Slow, slow)
        });
        let report = penstock_load::run(&plan)?;
        let watched = report
            .server
            .as_ref()
            .context("the server was not watched")?;
        let mib = |bytes: u64| bytes as f64 / (1 << 20) as f64;
        let moved: u64 = report.groups.iter().map(|group| group.body_bytes).sum();
        results.row(
            "memory",
            &format!("{name}: process and sockets"),
            mib(watched.peaks.bound),
            "MiB",
        );
        results.row("memory", &format!("{name}: received"), mib(moved), "MiB");
        results.verdict(
            &format!("{name}: never over {} MiB", DECLARED >> 20),
            watched.peaks.bound <= DECLARED,
        );
        ensure!(moved > 0, "nobody got anything");
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
