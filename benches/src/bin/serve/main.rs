//! The cost of a GET from end to end: GB/s and CPU seconds per GB of penstock, healthy and degraded, on both I/O
//! backends, and of nginx, if it is installed, sending the plain file by `sendfile`. Then the same for small objects,
//! in requests per second.
//!
//! SeaweedFS takes part where it is installed ([`seaweed`]).
//!
//! The server runs pinned to one core, the clients to another; everything is in the page cache. Each measurement starts
//! its server anew and downloads the object once. It then counts from the end of the warm-up to the end of the run; the
//! first download is measured apart. The clients drop received bytes inside the kernel, so that the server's core is
//! the bottleneck; with `--copy` they read as usual.
//!
//! There are three CPU times. The first is the server's own (user and system). The second is all the time that its core
//! was busy. It includes the receiving half of TCP where softirqs run it on that core, and on a busy machine the
//! neighbours too. The third is that of both cores. On loopback the clients' acknowledgements send more of a full send
//! buffer on *their* core, so a server with large buffers gets much of its sending done there, outside the other two
//! times. Ratios are relative to the better of the two nginx configurations.

mod competitors;
mod measure;
mod picture;
mod report;
mod seaweed;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use bytesize::ByteSize;
use clap::Parser;
use core_affinity::CoreId;
use penstock_benches::common::{gets, interleave, launch, machine, object, scratch};
use penstock_store::put;

use competitors::Competitor;
use measure::{Asked, Cores, Measured};

#[derive(Parser)]
#[command(about = "GB/s, requests/s and CPU time of end-to-end GETs, beside nginx")]
struct Options {
    /// Write a record, with commit, command and CPU, to this file.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Draw the CPU times, relative to nginx, to this file, an SVG.
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
    /// Run for less than half a minute, to see that everything works: 64 MiB, one round, 1 and 32 connections.
    #[arg(long)]
    quick: bool,
    /// Bytes of the large object [default: 1GiB; 64MiB with --quick].
    #[arg(long, value_name = "SIZE")]
    size: Option<ByteSize>,
    /// Bytes of a small object.
    #[arg(long, value_name = "SIZE", default_value = "16KiB")]
    small_size: ByteSize,
    /// Connections to the large object; can be repeated [default: 1, 8, 32 and 256].
    #[arg(long = "connections", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    connections: Vec<u32>,
    /// Connections to small objects; 0 leaves them out.
    #[arg(long, value_name = "N", default_value_t = 64)]
    small_connections: u32,
    /// Measurements per competitor [default: 3; 1 with --quick].
    #[arg(long)]
    rounds: Option<usize>,
    /// Milliseconds per measurement, after a warm-up [default: 1500; 250 with --quick].
    #[arg(long)]
    millis: Option<u64>,
    /// A code, `K,M`: m shares are gone in the degraded runs. Can be repeated [default: 4,2 and 10,4; 4,2 with --quick].
    #[arg(long = "shape", value_name = "K,M", value_parser = object::shape)]
    shapes: Vec<[u16; 2]>,
    /// Bytes of one block [default: as `penstock put`].
    #[arg(long, value_name = "SIZE")]
    block_size: Option<ByteSize>,
    /// Only competitors whose names contain this; nginx always takes part. Can be repeated.
    #[arg(long = "only", value_name = "TEXT")]
    only: Vec<String>,
    /// The clients copy what they receive to user space, instead of dropping it in the kernel.
    #[arg(long)]
    copy: bool,
    /// Directory to build the objects in; needs about 4 times the size, and is removed afterwards.
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
    /// SeaweedFS's program [default: `weed`, if it is in the path].
    #[arg(long, value_name = "FILE")]
    weed: Option<PathBuf>,
    /// Directory for SeaweedFS's volumes; SeaweedFS does not erasure-code on a disk that is nearly full [default: as
    /// --dir].
    #[arg(long, value_name = "DIR")]
    weed_dir: Option<PathBuf>,
    /// The server's core [default: the first].
    #[arg(long, value_name = "N")]
    server_core: Option<usize>,
    /// The clients' core [default: the second].
    #[arg(long, value_name = "N")]
    client_core: Option<usize>,
}

/// One kind of work: the object to request, and the order of the competitors.
struct Work {
    /// The large object, and the pattern of the small ones, as the record has it.
    label: &'static str,
    asked: Asked,
}

/// Small objects: several, so that the result is not the cache hit of one.
const SMALL_OBJECTS: u64 = 16;
/// The label of work on the large object.
const LARGE: &str = "large";
/// The label of the first download of the large object.
const FIRST: &str = "first";
const LARGE_KEY: &str = "large.bin";
/// The default codes.
const SHAPES: &[[u16; 2]] = &[[4, 2], [10, 4]];

fn main() -> anyhow::Result<()> {
    launch::launch_if_started_as_launcher()?;
    let options = Options::parse();
    let mut facts = machine::facts();
    let (server_core, client_core) = launch::cores(options.server_core, options.client_core)?;
    ensure!(
        core_affinity::set_for_current(CoreId { id: client_core }),
        "can't pin the clients to core {client_core}"
    );
    let cores = Cores {
        server: server_core,
        client: client_core,
    };
    let programs = launch::programs(options.penstock.as_deref(), options.before.as_deref())?;
    for (name, value) in &facts {
        println!("{name}: {value}");
    }
    println!("server on core {server_core}, clients on core {client_core}");
    if server_core == client_core {
        println!("one core for both: what the clients cost is in the core's time");
    }

    let directory = scratch::directory("serve", options.dir.as_deref())?;
    let built = build(&options, directory.path())?;
    // The directory is removed after the run, as the other one is.
    let (weed_directory, stored) =
        match penstock_benches::common::seaweed::find(options.weed.as_deref())? {
            Some((program, version)) => {
                println!("seaweedfs: {version}");
                facts.push(("seaweedfs", version));
                let parent = options.weed_dir.as_deref().unwrap_or(directory.path());
                let place = scratch::directory("seaweedfs", Some(parent))?;
                let stored = seaweed::store(program, place.path(), server_core)?;
                (Some(place), Some(stored))
            }
            None => {
                println!("seaweedfs: skipped, no `weed` in the path and no --weed");
                (None, None)
            }
        };
    let competitors = competitors::all(
        &programs,
        &options.serve_args,
        directory.path(),
        &built,
        stored,
    )?;
    let competitors: Vec<Competitor> = competitors
        .into_iter()
        .filter(|competitor| {
            let named = |text: &String| competitor.name.contains(text.as_str());
            competitor.is_nginx() || options.only.is_empty() || options.only.iter().any(named)
        })
        .collect();
    verify(&competitors, &built, cores)?;

    let rounds = options
        .rounds
        .unwrap_or(if options.quick { 1 } else { 3 })
        .max(1);
    let millis = options
        .millis
        .unwrap_or(if options.quick { 250 } else { 1500 });
    let span = Duration::from_millis(millis.clamp(100, 60_000));
    let mut report = report::Report::new(facts, cores);
    for work in works(&options, built.large_bytes, span) {
        let mut values: Vec<Vec<Measured>> = vec![Vec::new(); competitors.len()];
        for at in interleave::turns(rounds, competitors.len()) {
            let Some(asked) = competitors[at].asked(work.label == LARGE, &work.asked) else {
                continue;
            };
            let server = competitors[at].start(server_core)?;
            let measured = measure::measure(&server, &asked, cores)
                .with_context(|| format!("measuring {}", competitors[at].name))?;
            values[at].push(measured);
        }
        let asked = |competitor: &Competitor| competitor.asked(work.label == LARGE, &work.asked);
        let found = competitors
            .iter()
            .zip(values)
            .filter_map(|(competitor, values)| {
                Some((competitor.name.as_str(), asked(competitor)?.bytes, values))
            });
        report.add(work.label, &work.asked, found.collect());
    }
    if let Some(path) = &options.csv {
        report.write(path)?;
        println!("\nwritten: {}", path.display());
    }
    if let Some(path) = &options.picture {
        report.draw(path)?;
    }
    drop(weed_directory);
    Ok(())
}

/// Files and objects built to be served.
struct Built {
    /// Directory of the plain files, for nginx.
    plain: PathBuf,
    /// The same bytes in shares; all objects are in the same stores.
    coded: Vec<([u16; 2], object::Coded)>,
    large_bytes: u64,
    /// Path (without a leading slash) and SHA-256 of every object.
    objects: Vec<(String, String)>,
}

fn build(options: &Options, directory: &Path) -> anyhow::Result<Built> {
    let large = options
        .size
        .map_or(if options.quick { 64 << 20 } else { 1 << 30 }, |size| {
            size.0
        });
    let shapes = match (&options.shapes[..], options.quick) {
        ([], true) => &SHAPES[..1],
        ([], false) => SHAPES,
        (given, _) => given,
    };
    let plain = directory.join("plain");
    std::fs::create_dir(&plain)?;
    let mut sizes = vec![(LARGE_KEY.to_owned(), large)];
    sizes.extend((0..SMALL_OBJECTS).map(|number| (number.to_string(), options.small_size.0)));
    for ((key, bytes), seed) in sizes.iter().zip(1..) {
        object::write_plain(&plain.join(key), *bytes, seed)?;
    }
    let mut built = Built {
        plain: plain.clone(),
        coded: Vec::new(),
        large_bytes: large,
        objects: Vec::new(),
    };
    for &[k, m] in shapes {
        let stores = directory.join(format!("{k}+{m}"));
        let block_bytes = match options.block_size {
            None => put::default_block_bytes(k),
            Some(size) => u32::try_from(size.0).context("--block-size is too large")?,
        };
        let mut objects = Vec::new();
        for (key, _) in &sizes {
            let coded = object::put(&plain.join(key), key, [k, m], block_bytes, &stores)?;
            objects.push((key.clone(), coded.sha256.clone()));
            if key == LARGE_KEY {
                built.coded.push(([k, m], coded));
            }
        }
        // The digests are those of the plain bytes, the same for every code.
        built.objects = objects;
    }
    println!(
        "objects: {} and {SMALL_OBJECTS} of {}; blocks {}",
        ByteSize(large).display().iec(),
        options.small_size.display().iec(),
        match options.block_size {
            Some(size) => format!("of {}", size.display().iec()),
            None => "as put makes them".to_owned(),
        }
    );
    Ok(built)
}

/// Checks that every competitor serves every object unchanged. Otherwise nothing is measured.
fn verify(competitors: &[Competitor], built: &Built, cores: Cores) -> anyhow::Result<()> {
    for competitor in competitors {
        let server = competitor.start(cores.server)?;
        gets::verify(&server, competitor.objects(built))
            .with_context(|| format!("verifying {}", competitor.name))?;
    }
    println!("verified by SHA-256: {} competitors", competitors.len());
    Ok(())
}

fn works(options: &Options, large_bytes: u64, span: Duration) -> Vec<Work> {
    let connections: &[u32] = match (&options.connections[..], options.quick) {
        ([], true) => &[1, 32],
        ([], false) => &[1, 8, 32, 256],
        (given, _) => given,
    };
    let asked = |path: String, bytes, connections| Asked {
        path,
        bytes,
        connections,
        span,
        first: false,
        copy: options.copy,
    };
    let first = Work {
        label: FIRST,
        asked: Asked {
            first: true,
            ..asked(LARGE_KEY.to_owned(), large_bytes, 1)
        },
    };
    let large = connections.iter().map(|&connections| Work {
        label: LARGE,
        asked: asked(LARGE_KEY.to_owned(), large_bytes, connections),
    });
    let small = (options.small_connections > 0).then(|| Work {
        label: "small",
        asked: asked(
            format!("{{{SMALL_OBJECTS}}}"),
            options.small_size.0,
            options.small_connections,
        ),
    });
    std::iter::once(first).chain(large).chain(small).collect()
}
