//! What clients notice of a store that hangs, fails or goes away: how long small requests take before, in the second of
//! the fault, after it, and once the store is well again, while downloads are under way.
//!
//! The stores that fail are FUSE file systems of this process. The server has its defaults, and all cores but as many as
//! it is told to use. Every byte is compared, and every download must end right.

mod load;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::Parser;
use decode_kernel::share::Key;
use penstock_benches::common::launch::{self, Server};
use penstock_benches::common::record::Record;
use penstock_benches::common::{machine, object, scratch, seed};
use penstock_faultfs::{Errno, FaultFs, Op};
use penstock_store::put::{self, Placement, PutOptions};
use penstock_store::{Progress, Store};

#[derive(Parser)]
#[command(about = "Small requests and downloads while stores hang, fail and go away")]
struct Options {
    /// Write a record, with commit, command and CPU, to this file.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Run for less than half a minute, to see that everything works: one hanging store, briefly.
    #[arg(long)]
    quick: bool,
    /// Only this case. Can be repeated.
    #[arg(long = "only", value_name = "CASE")]
    only: Vec<String>,
    /// Only this I/O backend: uring or epoll.
    #[arg(long, value_name = "BACKEND")]
    io: Option<String>,
    /// Directory to build the stores in, removed afterwards.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The server's program [default: the one beside this benchmark].
    #[arg(long, value_name = "FILE")]
    penstock: Option<PathBuf>,
}

/// Data and parity shares.
const SHAPE: [u16; 2] = [4, 2];
const SMALL: u32 = 1000;
const SMALL_BYTES: usize = 10_000;
const LARGE: &str = "large";
const LARGE_BYTES: usize = 48 << 20;
const DOWNLOADS: usize = 10;
/// How long a store may take to serve again after it was healed.
const RETURN: Duration = Duration::from_secs(60);

/// What goes wrong with some stores.
struct Case {
    name: &'static str,
    /// The first so many stores have data shares of some objects and parity of others.
    stores: usize,
    fault: fn(&mut FaultFs),
}

const CASES: &[Case] = &[
    case("nothing", 1, |_| ()),
    case("hangs", 1, |disk| disk.hang(Op::ALL)),
    case("two hang", 2, |disk| disk.hang(Op::ALL)),
    case("reads fail", 1, |disk| disk.fail(&[Op::Read], Errno::EIO)),
    case("two: reads fail", 2, |disk| {
        disk.fail(&[Op::Read], Errno::EIO);
    }),
    case("all fails", 1, |disk| disk.fail(Op::ALL, Errno::EIO)),
    case("read-only", 1, |disk| disk.read_only()),
    case("unmounted", 1, FaultFs::unmount),
    case("two unmounted", 2, FaultFs::unmount),
];

const fn case(name: &'static str, stores: usize, fault: fn(&mut FaultFs)) -> Case {
    Case {
        name,
        stores,
        fault,
    }
}

/// When the fault happens, when it ends, and when small requests do, after the start.
#[derive(Clone, Copy)]
struct Times {
    fault: Duration,
    heal: Duration,
    end: Duration,
}

fn main() -> anyhow::Result<()> {
    launch::launch_if_started_as_launcher()?;
    let options = Options::parse();
    let seconds = Duration::from_secs;
    let times = match options.quick {
        true => Times {
            fault: seconds(1),
            heal: seconds(3),
            end: seconds(4),
        },
        false => Times {
            fault: seconds(5),
            heal: seconds(20),
            end: seconds(25),
        },
    };
    let wanted = |case: &&Case| match options.only.is_empty() {
        true => !options.quick || case.name == "hangs",
        false => options.only.iter().any(|only| only == case.name),
    };
    let cases: Vec<&Case> = CASES.iter().filter(wanted).collect();
    ensure!(!cases.is_empty(), "--only: there are {}", names());
    let directory = scratch::directory("faults", options.dir.as_deref())?;
    let stores = object::stores(directory.path(), SHAPE)?;
    let penstock = launch::penstock(options.penstock.as_deref())?;
    let facts = machine::facts();
    for (name, value) in &facts {
        println!("{name}: {value}");
    }
    let columns = [
        "case", "backend", "window", "requests", "p50_ms", "p99_ms", "max_ms",
    ];
    let mut record = Record::new(facts, &columns);
    put(&stores, LARGE, &content(LARGE_BYTES, u64::MAX))?;
    for number in 0..SMALL {
        put(&stores, &number.to_string(), &small(number))?;
    }
    for backend in ["uring", "epoll"] {
        if options.io.as_deref().is_some_and(|only| only != backend) {
            continue;
        }
        for case in &cases {
            let place = directory.path();
            let rows = run(case, backend, &penstock, &stores, place, times)
                .with_context(|| format!("{}, {backend}", case.name))?;
            rows.into_iter().for_each(|row| record.push(row));
        }
    }
    if let Some(path) = &options.csv {
        record.write(path)?;
        println!("\nwritten: {}", path.display());
    }
    Ok(())
}

fn names() -> String {
    let names: Vec<&str> = CASES.iter().map(|case| case.name).collect();
    names.join(", ")
}

fn content(bytes: usize, number: u64) -> Vec<u8> {
    let mut content = vec![0; bytes];
    seed::fill(&mut content, number);
    content
}

fn small(number: u32) -> Vec<u8> {
    content(SMALL_BYTES, number.into())
}

fn put(stores: &[PathBuf], key: &str, mut content: &[u8]) -> anyhow::Result<()> {
    let options = PutOptions {
        stores: Store::directories(stores),
        data: SHAPE[0],
        parity: SHAPE[1],
        key: Key::new(key)?,
        block_size: 64 << 10,
        code: None,
        content_type: None,
        expires: None,
        fields: Default::default(),
        size_hint: Some(content.len() as u64),
        min_shares: None,
        no_clobber: false,
        placement: Placement::Hashed,
    };
    put::put(&mut content, &options, &Progress::hidden())?;
    Ok(())
}

/// The stores that fail, each on a disk of its own in place of its directory.
fn disks(count: usize, stores: &mut [PathBuf], place: &Path) -> anyhow::Result<Vec<FaultFs>> {
    let on_disk = |(number, store): (usize, &mut PathBuf)| {
        let mountpoint = place.join(format!("disk{number}"));
        fs::create_dir_all(&mountpoint)?;
        let disk = penstock_faultfs::mount(store, &mountpoint).map_err(anyhow::Error::msg)?;
        *store = mountpoint;
        Ok(disk)
    };
    stores
        .iter_mut()
        .take(count)
        .enumerate()
        .map(on_disk)
        .collect()
}

/// One case: a server of its own, all objects asked for once, and then the load.
fn run(
    case: &Case,
    backend: &str,
    penstock: &Path,
    stores: &[PathBuf],
    place: &Path,
    times: Times,
) -> anyhow::Result<Vec<Vec<String>>> {
    let mut stores = stores.to_vec();
    let mut disks = disks(case.stores, &mut stores, place)?;
    let command = launch::serve_command(penstock, backend, &stores, "");
    let log = place.join("log");
    let server = Server::start(None, &command, &log)?;
    let mut client = load::Client::connect(server.address, None)?;
    for number in 0..SMALL {
        client.ask(&number.to_string())?;
        client.expect(&small(number))?;
    }
    // Downloads have something to read from the disks.
    disks.iter().for_each(FaultFs::evict);

    let large = content(LARGE_BYTES, u64::MAX);
    let start = Instant::now();
    let answers = thread::scope(|scope| {
        let (address, large) = (server.address, &large);
        let downloads: Vec<_> = (0..DOWNLOADS)
            .map(|_| scope.spawn(move || load::download(address, start, times.end, LARGE, large)))
            .collect();
        // Not in their order, so that the objects that are kept in memory are not those that come next.
        let object = |request: u32| {
            let number = request.wrapping_mul(2_654_435_761) % SMALL;
            (number.to_string(), small(number))
        };
        let requests = scope.spawn(move || load::small_requests(address, start, times.end, object));
        thread::sleep((start + times.fault).saturating_duration_since(Instant::now()));
        disks.iter_mut().for_each(case.fault);
        thread::sleep((start + times.heal).saturating_duration_since(Instant::now()));
        for disk in &mut disks {
            disk.heal();
            if case.name.ends_with("unmounted") {
                *disk = disk.mount_again().map_err(anyhow::Error::msg)?;
            }
        }
        let answers = requests.join().expect("no panic")?;
        for download in downloads {
            download.join().expect("no panic")?;
        }
        anyhow::Ok(answers)
    })?;
    let suspended = wait_for_return(&log)?;
    println!(
        "\n{}, {backend}: {DOWNLOADS} downloads ended right; stores suspended and back again: {suspended}",
        case.name
    );
    let second = times.fault + Duration::from_secs(1);
    let windows = [
        ("before", Duration::ZERO..times.fault),
        ("second", times.fault..second),
        ("after", second..times.heal),
        ("healed", times.heal..times.end),
    ];
    let row = |(name, window): (&str, std::ops::Range<Duration>)| {
        let inside = answers.iter().filter(|(due, _)| window.contains(due));
        let mut took: Vec<f64> = inside.map(|(_, took)| took.as_secs_f64() * 1e3).collect();
        took.sort_by(f64::total_cmp);
        let at = |percent: usize| took[(took.len() * percent).div_ceil(100).max(1) - 1];
        let figures = [at(50), at(99), at(100)].map(|ms| format!("{ms:.2}"));
        println!(
            "  {name:<7} {:>5} requests: p50 {:>8} ms, p99 {:>8} ms, at most {:>8} ms",
            took.len(),
            figures[0],
            figures[1],
            figures[2],
        );
        let place = [case.name, backend, name].map(str::to_owned);
        let count = took.len().to_string();
        place.into_iter().chain([count]).chain(figures).collect()
    };
    Ok(windows.into_iter().map(row).collect())
}

/// Waits until every store that was suspended serves again. Returns how many there were, from the server's log.
fn wait_for_return(log: &Path) -> anyhow::Result<usize> {
    let start = Instant::now();
    loop {
        let text = fs::read_to_string(log)?;
        let count = |what| text.matches(what).count();
        let (suspended, back) = (count("store suspended"), count("store serves again"));
        if suspended == back {
            return Ok(suspended);
        }
        if start.elapsed() > RETURN {
            bail!("{back} of {suspended} stores serve again; the log says:\n{text}");
        }
        thread::sleep(Duration::from_millis(50));
    }
}
