//! What comes from a disk: a GET of a large object whose shares are not in the page cache, beside `dd`
//! reading the same share files, one after another and all at once.
//!
//! Before each measurement the files' pages are given up (`posix_fadvise`, POSIX_FADV_DONTNEED), which
//! needs no privilege since they are written back; that they are gone is checked. A cache below, of a
//! disk or of a host, serves all alike.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bytesize::ByteSize;
use clap::Parser;
use core_affinity::CoreId;
use penstock::io::sys::read_cached_at;
use penstock_benches::common::launch::{self, Server};
use penstock_benches::common::record::Record;
use penstock_benches::common::stats::Summary;
use penstock_benches::common::usage::Usage;
use penstock_benches::common::{gets, interleave, machine, object, scratch};
use rustix::fs::{Advice, fadvise};
use rustix::net::{RecvFlags, recv};

#[derive(Parser)]
#[command(about = "A GET of what is not in the page cache, beside dd")]
struct Options {
    /// Write a record, with commit, command and CPU, to this file.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// A run of under half a minute, to see that all works: 64 MiB, one round.
    #[arg(long)]
    quick: bool,
    /// Bytes of the object [default: 1GiB; 64MiB with --quick].
    #[arg(long, value_name = "SIZE")]
    size: Option<ByteSize>,
    /// Data and parity shares, `K,M`; m are lost in the degraded runs.
    #[arg(long, value_name = "K,M", default_value = "4,2", value_parser = object::shape)]
    shape: [u16; 2],
    /// Bytes of one block.
    #[arg(long, value_name = "SIZE", default_value = "16KiB")]
    block_size: ByteSize,
    /// Measurements [default: 5; 1 with --quick].
    #[arg(long)]
    rounds: Option<usize>,
    /// Where to build the object, on the disk to be measured; needs about 3 times the size.
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
    /// The client's core [default: the second].
    #[arg(long, value_name = "N")]
    client_core: Option<usize>,
}

const KEY: &str = "object";
/// Bytes that `dd` reads at once.
const DD_BYTES: u64 = 1 << 20;
/// How far apart the places are that are looked at when pages should be gone.
const LOOK_BYTES: usize = 16 << 20;

/// Who reads.
enum Competitor {
    /// `dd`, one file after another or all at once.
    Dd { at_once: bool },
    /// The command.
    Penstock(Vec<String>),
}

/// What one measurement found.
struct Measured {
    gb_s: f64,
    /// CPU seconds of the server per GB; none of `dd`.
    process_per_gb: Option<f64>,
}

fn main() -> anyhow::Result<()> {
    launch::launch_if_asked()?;
    let options = Options::parse();
    let (server_core, client_core) = launch::cores(options.server_core, options.client_core)?;
    let mut facts = machine::facts();
    let size = options
        .size
        .map_or(if options.quick { 64 << 20 } else { 1 << 30 }, |size| {
            size.0.max(1)
        });
    facts.push(("object", format!("{size} bytes")));
    for (name, value) in &facts {
        println!("{name}: {value}");
    }
    let penstock = launch::penstock(options.penstock.as_deref())?;
    let directory = scratch::directory("cold", options.dir.as_deref())?;
    let plain = directory.path().join("plain");
    let block_bytes = u32::try_from(options.block_size.0).context("--block-size is too large")?;
    object::write_plain(&plain, size, 1)?;
    let coded = object::put(&plain, KEY, options.shape, block_bytes, directory.path())?;
    std::fs::remove_file(&plain)?;
    let files = files_of(&coded.stores)?;
    // Written back, so that the pages can be given up.
    for file in &files {
        File::open(file)?.sync_all()?;
    }
    // dd reads what a healthy GET needs: the data shares.
    let data = &files[..coded.k];

    let mut competitors = vec![
        (
            "dd, one after another".to_owned(),
            Competitor::Dd { at_once: false },
        ),
        (
            "dd, all at once".to_owned(),
            Competitor::Dd { at_once: true },
        ),
    ];
    for (state, stores) in [("", &coded.stores[..]), (" degraded", coded.degraded())] {
        for backend in ["uring", "epoll"] {
            let command = launch::serve_command(&penstock, backend, stores, &options.serve_args);
            let [k, m] = options.shape;
            let name = format!("penstock {k}+{m}{state} {backend}");
            competitors.push((name, Competitor::Penstock(command)));
        }
    }
    let log = directory.path().join("log");
    let mut verified = 0;
    for (name, competitor) in &competitors {
        if let Competitor::Penstock(command) = competitor {
            give_up(&files)?;
            let server = Server::start(server_core, command, &log)?;
            let whole = [(KEY.to_owned(), coded.sha256.clone())];
            gets::verify(&server, &whole).with_context(|| format!("verifying {name}"))?;
            verified += 1;
        }
    }
    println!("verified by SHA-256, cold: {verified} competitors");

    ensure!(
        core_affinity::set_for_current(CoreId { id: client_core }),
        "can't pin the client to core {client_core}"
    );
    let rounds = options
        .rounds
        .unwrap_or(if options.quick { 1 } else { 5 })
        .max(1);
    let mut values: Vec<Vec<Measured>> = competitors.iter().map(|_| Vec::new()).collect();
    for at in interleave::turns(rounds, competitors.len()) {
        let (name, competitor) = &competitors[at];
        let measured = match competitor {
            Competitor::Dd { at_once } => {
                give_up(&files)?;
                dd(data, *at_once)
            }
            Competitor::Penstock(command) => {
                let server = Server::start(server_core, command, &log)?;
                give_up(&files)?;
                get(&server, size, [server_core, client_core])
            }
        };
        values[at].push(measured.with_context(|| format!("measuring {name}"))?);
    }
    report(facts, &competitors, &values, options.csv.as_deref())
}

/// The share file in each store.
fn files_of(stores: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let key = decode_kernel::share::Key::new(KEY)?;
    let object = penstock_tools::store::open_object(stores, &key)?;
    Ok(object.shares.into_iter().map(|share| share.path).collect())
}

/// Has the kernel forget the files' pages, and looks whether it did.
fn give_up(files: &[PathBuf]) -> anyhow::Result<()> {
    for path in files {
        let file = File::open(path).with_context(|| format!("can't open {}", path.display()))?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
        let bytes = file.metadata()?.len();
        let places = (0..bytes).step_by(LOOK_BYTES);
        let mut page = [0; 512];
        let cached = |&place: &u64| read_cached_at(file.as_fd(), &mut page, place).is_ok();
        let cached = places.filter(cached).count();
        ensure!(
            cached == 0,
            "{} is still in the page cache: give a --dir on a disk (tmpfs has none)",
            path.display()
        );
    }
    Ok(())
}

fn dd(files: &[PathBuf], at_once: bool) -> anyhow::Result<Measured> {
    let mut bytes = 0;
    for file in files {
        bytes += std::fs::metadata(file)?.len();
    }
    let begun = Instant::now();
    let mut running = Vec::new();
    for file in files {
        let child = Command::new("dd")
            .arg(format!("if={}", file.display()))
            .arg("of=/dev/null")
            .arg(format!("bs={DD_BYTES}"))
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("can't start dd")?;
        running.push(child);
        if !at_once {
            finish(&mut running)?;
        }
    }
    finish(&mut running)?;
    Ok(Measured {
        gb_s: bytes as f64 / 1e9 / begun.elapsed().as_secs_f64(),
        process_per_gb: None,
    })
}

fn finish(running: &mut Vec<std::process::Child>) -> anyhow::Result<()> {
    for mut child in running.drain(..) {
        let status = child.wait()?;
        ensure!(status.success(), "dd: {status}");
    }
    Ok(())
}

fn get(server: &Server, size: u64, cores: [usize; 2]) -> anyhow::Result<Measured> {
    let before = Usage::now(server.pid(), cores[0], cores[1])?;
    let begun = Instant::now();
    fetch(server.address, size)?;
    let seconds = begun.elapsed().as_secs_f64();
    let after = Usage::now(server.pid(), cores[0], cores[1])?;
    let gigabytes = size as f64 / 1e9;
    Ok(Measured {
        gb_s: gigabytes / seconds,
        process_per_gb: Some((after.process - before.process) / gigabytes),
    })
}

/// Downloads the object once; the body is dropped inside the kernel and counted.
fn fetch(address: SocketAddr, size: u64) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    write!(stream, "GET /{KEY} HTTP/1.1\r\nHost: {address}\r\n\r\n")?;
    // Byte by byte to the end of the head, so that none of the body is taken with it.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        ensure!(stream.read(&mut byte)? == 1, "closed within the head");
        head.push(byte[0]);
        ensure!(head.len() < 8192, "a head of over 8192 bytes");
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    let length = format!("content-length: {size}\r\n");
    ensure!(
        head.starts_with("http/1.1 200") && head.contains(&length),
        "not the object: {head}"
    );
    let mut nowhere = vec![0; 256 << 10];
    let mut left = size;
    while left > 0 {
        let wish = nowhere
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        match recv(&stream, &mut nowhere[..wish], RecvFlags::TRUNC) {
            Ok((0, _)) => bail!("closed with {left} bytes to come"),
            Ok((count, _)) => left -= count as u64,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("receiving"),
        }
    }
    Ok(())
}

const COLUMNS: &[&str] = &[
    "competitor",
    "rounds",
    "gb_s",
    "gb_s_spread",
    "gb_s_min",
    "gb_s_max",
    "speed_to_dd",
    "process_cpu_s_per_gb",
];

fn report(
    facts: Vec<(&'static str, String)>,
    competitors: &[(String, Competitor)],
    values: &[Vec<Measured>],
    csv: Option<&Path>,
) -> anyhow::Result<()> {
    let speeds: Vec<Summary> = values
        .iter()
        .map(|all| Summary::of(&all.iter().map(|m| m.gb_s).collect::<Vec<_>>()))
        .collect();
    // The faster way of dd counts.
    let dd = competitors.iter().zip(&speeds);
    let dd = dd.filter(|((_, competitor), _)| matches!(competitor, Competitor::Dd { .. }));
    let dd = dd.map(|(_, speed)| speed.median).fold(0.0, f64::max);
    let mut record = Record::new(facts, COLUMNS);
    println!(
        "\n  {:<28} {:>6} {:>5} {:>6} {:>8}",
        "", "GB/s", "+-%", "to dd", "CPU s/GB"
    );
    for (((name, _), speed), values) in competitors.iter().zip(&speeds).zip(values) {
        let cpu: Vec<f64> = values.iter().filter_map(|m| m.process_per_gb).collect();
        let cpu = (!cpu.is_empty()).then(|| format!("{:.3}", Summary::of(&cpu).median));
        let cpu = cpu.unwrap_or_default();
        println!(
            "  {name:<28} {:>6.2} {:>5.1} {:>6.2} {cpu:>8}",
            speed.median,
            100.0 * speed.spread(),
            speed.median / dd
        );
        let number = |value: f64| format!("{value:.4}");
        record.push(vec![
            name.clone(),
            speed.count.to_string(),
            number(speed.median),
            number(speed.spread()),
            number(speed.min),
            number(speed.max),
            format!("{:.3}", speed.median / dd),
            cpu,
        ]);
    }
    if let Some(path) = csv {
        record.write(path)?;
        println!("written: {}", path.display());
    }
    Ok(())
}
