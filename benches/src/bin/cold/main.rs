//! Reads from a disk: GETs of a large object whose shares are not in the page cache. Beside them, `dd` reads the same
//! share files, one after another and all at once, and nginx, if it is installed, sends the plain file by `sendfile`.
//!
//! Before each measurement the files' pages are dropped (`posix_fadvise`, POSIX_FADV_DONTNEED), which needs no
//! privilege since they are written back. That they are gone is checked. A cache below, of a disk or of a host, serves
//! all competitors alike.
//!
//! A server does more with the bytes than `dd`, which copies them to one small buffer. Where the disk of a virtual
//! machine is its host's memory, every program that uses memory slows the disk, and no server may be able to reach
//! `dd`. Two competitors show how much of that is due to the machine: nginx, and `dd` beside a core that copies memory
//! all the time, which is more than a server does.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use bytesize::ByteSize;
use clap::Parser;
use penstock_benches::common::launch::{self, Server};
use penstock_benches::common::{gets, interleave, machine, nginx, object, scratch};

use copier::Copier;
use reads::{Dd, Measured};
use report::Report;

mod copier;
mod disk;
mod reads;
mod report;

#[derive(Parser)]
#[command(about = "GETs of what is not in the page cache, beside dd and nginx")]
struct Options {
    /// Write a record, with commit, command and CPU, to this file.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Draw the speeds to this file, an SVG.
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
    /// Run for less than half a minute, to see that everything works: 64 MiB, one round.
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
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values = ["1", "4", "16"])]
    connections: Vec<u64>,
    /// Backends of the server.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', default_values = ["uring", "epoll"])]
    io: Vec<String>,
    /// Measurements [default: 5; 1 with --quick].
    #[arg(long)]
    rounds: Option<usize>,
    /// Directory to build the objects in, on the disk to be measured; needs about 4 times the size.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The server's program [default: the one beside this benchmark].
    #[arg(long, value_name = "FILE")]
    penstock: Option<PathBuf>,
    /// Another build of the server's program, measured in turns with it.
    #[arg(long, value_name = "FILE")]
    before: Option<PathBuf>,
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

/// The bytes to read: an object with all or just enough of its shares, or the plain file.
struct Case {
    key: String,
    /// A plain file has no blocks.
    block_bytes: Option<u32>,
    state: &'static str,
    /// The files that a GET reads.
    files: Vec<PathBuf>,
    /// The object's stores; none for a plain file.
    stores: Vec<PathBuf>,
    sha256: String,
}

impl Case {
    /// The name in the picture.
    fn name(&self) -> String {
        match self.block_bytes {
            Some(bytes) => {
                let bytes = ByteSize(bytes.into()).display().iec().to_string();
                format!("{}, blocks of {}", self.state, bytes.replace(".0 ", " "))
            }
            None => "the plain file".to_owned(),
        }
    }
}

const HEALTHY: &str = "healthy";
const DEGRADED: &str = "degraded";
const PLAIN: &str = "plain";
/// The plain file is in a directory of its own, nginx's root.
const PLAIN_KEY: &str = "plain.bin";

/// Its name in the record.
const NGINX: &str = "nginx";

/// The program that reads.
enum Reader {
    Dd(Dd),
    Get { source: Source, connections: u64 },
}

/// The server that clients use.
#[derive(Clone)]
enum Source {
    /// The whole command line.
    Penstock(Vec<String>),
    /// The program, its root, and the directory of its configuration.
    Nginx(PathBuf, PathBuf, PathBuf),
}

impl Source {
    fn start(&self, core: usize, log: &Path) -> anyhow::Result<Server> {
        match self {
            Source::Penstock(command) => Server::start(core, command, log),
            Source::Nginx(program, root, directory) => {
                nginx::start(program, root, ("", ""), directory, core)
            }
        }
    }
}

struct Competitor<'a> {
    case: &'a Case,
    name: String,
    reader: Reader,
}

fn main() -> anyhow::Result<()> {
    launch::launch_if_started_as_launcher()?;
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
    let programs = launch::programs(options.penstock.as_deref(), options.before.as_deref())?;
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
    let competitors = competitors(&options, &programs, &cases, directory.path(), cores)?;
    let log = directory.path().join("log");
    let mut verified = 0;
    for Competitor { case, name, reader } in &competitors {
        if let Reader::Get { source, .. } = reader {
            disk::drop_pages(&files)?;
            let server = source.start(server_core, &log)?;
            gets::verify(&server, &[(case.key.clone(), case.sha256.clone())])
                .with_context(|| format!("verifying {name}"))?;
            verified += 1;
        }
    }
    println!("verified by SHA-256, cold: {verified} competitors");

    let rounds = options.rounds.unwrap_or(if options.quick { 1 } else { 5 });
    let mut values: Vec<Vec<Measured>> = competitors.iter().map(|_| Vec::new()).collect();
    for at in interleave::turns(rounds.max(1), competitors.len()) {
        let Competitor { case, name, reader } = &competitors[at];
        let measured = match reader {
            Reader::Dd(how) => {
                // The copier starts before the files are read once, so that its memory does not come from the pages
                // that this frees.
                let copies = *how == Dd::BesideCopies;
                let _copier = copies.then(|| Copier::start(client_core)).transpose()?;
                disk::chill(&case.files)?;
                reads::dd(&case.files, *how, cores)
            }
            Reader::Get {
                source,
                connections,
            } => {
                let server = source.start(server_core, &log)?;
                disk::chill(&case.files)?;
                reads::get(&server, &case.key, size, *connections, cores)
            }
        };
        values[at].push(measured.with_context(|| format!("measuring {name}"))?);
    }
    let report = Report::of(&competitors, &values);
    report.print();
    if let Some(path) = &options.csv {
        report.record(facts).write(path)?;
        println!("written: {}", path.display());
    }
    if let Some(path) = &options.picture {
        report.draw(path)?;
        println!("drawn: {}", path.display());
    }
    Ok(())
}

/// Builds an object for each block size, and the plain file, and writes all of them to the disk.
fn build(options: &Options, size: u64, directory: &Path) -> anyhow::Result<Vec<Case>> {
    let root = directory.join(PLAIN);
    std::fs::create_dir(&root)?;
    let plain = root.join(PLAIN_KEY);
    object::write_plain(&plain, size, 1)?;
    let mut sha256 = String::new();
    let mut cases = Vec::new();
    for block in &options.block_size {
        let block_bytes = u32::try_from(block.0).context("--block-size is too large")?;
        let key = format!("blocks-of-{block_bytes}");
        let place = directory.join(&key);
        let coded = object::put(&plain, &key, options.shape, block_bytes, &place)?;
        for (state, stores) in [(HEALTHY, &coded.stores[..]), (DEGRADED, coded.degraded())] {
            let mut files = files_of(stores, &key)?;
            // Only the data shares are read if they all exist.
            files.truncate(coded.k);
            for file in &files {
                // Pages can be dropped only after they are written back.
                File::open(file)?.sync_all()?;
            }
            cases.push(Case {
                key: key.clone(),
                block_bytes: Some(block_bytes),
                state,
                files,
                stores: stores.to_vec(),
                sha256: coded.sha256.clone(),
            });
        }
        // The digest of the plain bytes is the same for every block size.
        sha256 = coded.sha256;
    }
    cases.push(Case {
        key: PLAIN_KEY.to_owned(),
        block_bytes: None,
        state: PLAIN,
        files: vec![plain],
        stores: Vec::new(),
        sha256,
    });
    Ok(cases)
}

/// The object's share files, in the order of their numbers.
fn files_of(stores: &[PathBuf], key: &str) -> anyhow::Result<Vec<PathBuf>> {
    let key = decode_kernel::share::Key::new(key)?;
    let mut shares =
        penstock_store::open_object(&penstock_store::Store::directories(stores), &key, false)?
            .shares;
    shares.sort_by_key(|share| share.number);
    Ok(shares.into_iter().map(|share| share.path).collect())
}

fn competitors<'a>(
    options: &Options,
    programs: &[launch::Program],
    cases: &'a [Case],
    directory: &Path,
    [server_core, client_core]: [usize; 2],
) -> anyhow::Result<Vec<Competitor<'a>>> {
    let nginx = nginx::find();
    match &nginx {
        Some((_, version)) => println!("nginx: {version}"),
        None => println!("nginx: skipped, not installed; there will be no ratios to it"),
    }
    let two_cores = server_core != client_core;
    if !two_cores {
        println!("dd beside a core that copies: skipped, dd has the only core");
    }
    let mut all = Vec::new();
    for case in cases {
        // A single file cannot be read one after another.
        let dd = Dd::ALL.into_iter().filter(|how| match how {
            Dd::AtOnce => case.files.len() > 1,
            Dd::BesideCopies => two_cores,
            Dd::InTurn | Dd::Direct => true,
        });
        all.extend(dd.map(|how| Competitor {
            case,
            name: how.name().to_owned(),
            reader: Reader::Dd(how),
        }));
        let mut add = |name: &str, source: Source| {
            all.extend(options.connections.iter().map(|&connections| Competitor {
                case,
                name: name.to_owned(),
                reader: Reader::Get {
                    source: source.clone(),
                    connections,
                },
            }));
        };
        if case.block_bytes.is_some() {
            for (backend, program) in options
                .io
                .iter()
                .flat_map(|backend| programs.iter().map(move |program| (backend, program)))
            {
                let args = &options.serve_args;
                let command = launch::serve_command(&program.path, backend, &case.stores, args);
                let name = format!("penstock{} {backend}", program.name);
                add(&name, Source::Penstock(command));
            }
        } else if let Some((program, _)) = &nginx {
            let place = directory.join("nginx");
            std::fs::create_dir_all(&place)?;
            add(
                NGINX,
                Source::Nginx(program.clone(), directory.join(PLAIN), place),
            );
        }
    }
    Ok(all)
}
