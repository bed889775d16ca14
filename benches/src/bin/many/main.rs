//! Many small objects: how fast one process puts them, lists them and verifies them, how long a server takes to start
//! over them, how fast it serves each of them once, and how much memory all that takes.
//!
//! Nothing is compared: the figures tell what an operator of so many objects has to expect on a disk like this. Puts are
//! limited by the disk, which is to sync every file of every object.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, ensure};
use bytesize::ByteSize;
use clap::Parser;
use decode_kernel::share::Key;
use nix::sys::resource::{UsageWho, getrusage};
use penstock_benches::common::launch::{self, Server};
use penstock_benches::common::record::Record;
use penstock_benches::common::usage::Usage;
use penstock_benches::common::{machine, object, scratch, seed};
use penstock_store::put::{self, Content, Placement, PutOptions, Puts};
use penstock_store::{Progress, Store};

#[derive(Parser)]
#[command(about = "Put, list, verify, start and serve with very many small objects")]
struct Options {
    /// Write a record, with commit, command and CPU, to this file.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Run for less than half a minute, to see that everything works: 500 objects.
    #[arg(long)]
    quick: bool,
    /// Objects [default: 100000; 500 with --quick].
    #[arg(long, value_name = "N")]
    objects: Option<u64>,
    /// Bytes of each.
    #[arg(long, value_name = "SIZE", default_value = "4KiB")]
    size: ByteSize,
    /// Data and parity shares, `K,M`.
    #[arg(long, value_name = "K,M", default_value = "4,2", value_parser = object::shape)]
    shape: [u16; 2],
    /// Memory that the server declares.
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    memory: ByteSize,
    /// Directory to build the stores in, on the disk to be measured; removed afterwards.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Go on in this directory, where a run was killed that had put some of the objects, and put those from number
    /// `--resume-at` on. It stays
    #[arg(
        long,
        value_name = "DIR",
        requires = "resume_at",
        conflicts_with = "dir"
    )]
    resume: Option<PathBuf>,
    /// See `--resume`
    #[arg(long, value_name = "N")]
    resume_at: Option<u64>,
    /// The server's program [default: the one beside this benchmark].
    #[arg(long, value_name = "FILE")]
    penstock: Option<PathBuf>,
}

/// How many objects are asked for, each once.
const GETS_MAX: u64 = 20_000;

fn key(object: u64) -> String {
    format!("objects/{:03}/{object}", object % 1000)
}

fn main() -> anyhow::Result<()> {
    launch::launch_if_started_as_launcher()?;
    let options = Options::parse();
    let objects = options
        .objects
        .unwrap_or(if options.quick { 500 } else { 100_000 });
    let begun = options.resume_at.unwrap_or(0);
    ensure!(begun < objects, "--resume-at: there are {objects} objects");
    let logs = scratch::directory("many", options.dir.as_deref())?;
    let stores = match &options.resume {
        None => object::stores(logs.path(), options.shape)?,
        Some(begun) => (0..options.shape[0] + options.shape[1])
            .map(|number| begun.join(format!("store{number}")))
            .collect(),
    };
    let penstock = launch::penstock(options.penstock.as_deref())?;
    let facts = machine::facts();
    for (name, value) in &facts {
        println!("{name}: {value}");
    }
    let mut report = Report {
        record: Record::new(
            facts,
            &[
                "step",
                "objects",
                "seconds",
                "per_second",
                "memory_peak_bytes",
            ],
        ),
    };

    let start = Instant::now();
    put_all(&stores, &options, begun..objects)?;
    report.add(
        "put",
        objects - begun,
        start,
        peak_of(UsageWho::RUSAGE_SELF)?,
    );

    let lines = timed(&penstock, "ls", &stores, objects, &mut report)?;
    ensure!(
        lines as u64 == objects,
        "ls tells {lines} objects of {objects}"
    );
    timed(&penstock, "verify", &stores, objects, &mut report)?;

    let memory = format!("--memory {}B", options.memory.as_u64());
    let command = launch::serve_command(&penstock, "uring", &stores, &memory);
    let log = logs.path().join("log");
    for step in ["start", "restart"] {
        let start = Instant::now();
        let server = Server::start(None, &command, &log)?;
        report.add(
            step,
            objects,
            start,
            Usage::now(server.pid(), 0, 0)?.resident_most,
        );
    }
    let server = Server::start(None, &command, &log)?;
    let gets = objects.min(GETS_MAX);
    for step in ["get, cold", "get, again"] {
        let start = Instant::now();
        get_each(&server, objects, gets, &options)?;
        report.add(
            step,
            gets,
            start,
            Usage::now(server.pid(), 0, 0)?.resident_most,
        );
    }
    if let Some(path) = &options.csv {
        report.record.write(path)?;
        println!("\nwritten: {}", path.display());
    }
    Ok(())
}

fn content(options: &Options, object: u64) -> Vec<u8> {
    let mut bytes = vec![0; options.size.as_u64() as usize];
    seed::fill(&mut bytes, object);
    bytes
}

fn put_all(stores: &[PathBuf], options: &Options, objects: Range<u64>) -> anyhow::Result<()> {
    let mut puts = Puts::default();
    for object in objects {
        let bytes = content(options, object);
        let put = PutOptions {
            stores: Store::directories(stores),
            data: options.shape[0],
            parity: options.shape[1],
            key: Key::new(&key(object))?,
            block_size: put::default_block_bytes(options.shape[0]),
            code: None,
            content_type: None,
            expires: None,
            fields: Default::default(),
            size_hint: Some(options.size.as_u64()),
            min_shares: None,
            no_clobber: false,
            placement: Placement::Hashed,
        };
        let mut source = &bytes[..];
        puts.put(&mut Content::Stream(&mut source), &put, &Progress::hidden())?;
    }
    Ok(())
}

/// Runs a command over all objects. Returns the number of lines that it prints.
fn timed(
    penstock: &Path,
    command: &str,
    stores: &[PathBuf],
    objects: u64,
    report: &mut Report,
) -> anyhow::Result<usize> {
    let start = Instant::now();
    let stores = stores
        .iter()
        .flat_map(|store| ["--store".as_ref(), store.as_os_str()]);
    let mut child = Command::new(penstock)
        .arg(command)
        .args(stores)
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("can't run {}", penstock.display()))?;
    let output = child.stdout.take().context("its output is piped")?;
    let mut lines = 0;
    let mut last = String::new();
    for line in BufReader::new(output).lines() {
        last = line?;
        lines += 1;
    }
    let status = child.wait()?;
    ensure!(status.success(), "penstock {command}: {status}, {last}");
    // That of the largest child so far: each command takes more than the one before, or the figure is an upper bound.
    report.add(command, objects, start, peak_of(UsageWho::RUSAGE_CHILDREN)?);
    Ok(lines)
}

fn peak_of(who: UsageWho) -> anyhow::Result<u64> {
    Ok(getrusage(who)?.max_rss().unsigned_abs() * 1024)
}

/// Asks for `gets` objects spread over all, each once, on one connection, and compares their bytes.
fn get_each(server: &Server, objects: u64, gets: u64, options: &Options) -> anyhow::Result<()> {
    let mut stream = BufReader::new(TcpStream::connect(server.address)?);
    for number in 0..gets {
        let object = number * (objects / gets);
        let expected = content(options, object);
        let request = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", key(object));
        stream.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        stream.read_line(&mut line)?;
        ensure!(line.starts_with("HTTP/1.1 200"), "{}: {line}", key(object));
        while line != "\r\n" {
            line.clear();
            stream.read_line(&mut line)?;
        }
        let mut body = vec![0; expected.len()];
        stream.read_exact(&mut body)?;
        ensure!(body == expected, "{}: wrong bytes", key(object));
    }
    Ok(())
}

struct Report {
    record: Record,
}

impl Report {
    fn add(&mut self, step: &str, objects: u64, start: Instant, memory: u64) {
        let seconds = start.elapsed().as_secs_f64();
        println!(
            "{step:<12} {objects:>9} objects {seconds:>9.2} s {:>9.0} a second, {} at most",
            objects as f64 / seconds,
            ByteSize(memory).display().iec()
        );
        self.record.push(vec![
            step.to_owned(),
            objects.to_string(),
            format!("{seconds:.3}"),
            format!("{:.0}", objects as f64 / seconds),
            memory.to_string(),
        ]);
    }
}
