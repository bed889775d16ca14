//! The cost of a byte by the sizes of a sending socket: `SO_SNDBUF` x `TCP_NOTSENT_LOWAT` x bytes per turn x segment
//! size, under loads of 1 to 256 connections, by `sendfile` and by copy, for two block sizes.
//!
//! The sender is written for this purpose ([`sender`]): one readiness-driven thread over the share files of a real
//! object, so that only the sizes differ. It has one core, the receivers another; everything is in the page cache.
//!
//! The first pass measures every combination once, briefly, in an order that scatters neighbours over the whole run.
//! The second pass measures those near the best again, longer, several times and in turns, together with the server's
//! own knobs and the kernel's defaults. From these follows the knee: the smallest send buffer whose cost is within 5%
//! of the cheapest over all loads.

mod cells;
mod picture;
mod report;
mod sender;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytesize::ByteSize;
use clap::Parser;
use penstock::memory::limits;
use penstock_benches::common::sink::{self, Sink};
use penstock_benches::common::{interleave, launch, machine, object, scratch, usage};
use socket2::{Domain, SockRef, Socket, Type};

use cells::{Axes, Knobs, Load, Sample, Way};
use report::{Found, Phase};
use sender::{Sender, Source};

#[derive(Parser)]
#[command(
    about = "CPU time and speed by socket buffer, unsent limit, turn, segment and block size"
)]
struct Options {
    /// Write a record, with commit, command and CPU, to this file.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Draw the heat maps to this SVG file.
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
    /// Run for less than half a minute, to see that everything works: few sizes, short samples.
    #[arg(long)]
    quick: bool,
    /// Bytes of the object, rounded up to whole segments [default: 256MiB; 32MiB with --quick].
    #[arg(long, value_name = "SIZE")]
    size: Option<ByteSize>,
    /// Bytes of a block; can be repeated [default: 16KiB and 64KiB].
    #[arg(long = "block-size", value_name = "SIZE")]
    block_sizes: Vec<ByteSize>,
    /// Connections; can be repeated [default: 1, 8, 32 and 256; 1 and 32 with --quick].
    #[arg(long = "connections", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    connections: Vec<u32>,
    /// Milliseconds of a measurement of the first pass [default: 120; 40 with --quick].
    #[arg(long)]
    millis: Option<u64>,
    /// Measurements of the second pass, each twice as long [default: 3; 1 with --quick].
    #[arg(long)]
    rounds: Option<usize>,
    /// Directory to build the objects in; needs about 4 times the size, and is removed afterwards.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The sender's core [default: the first].
    #[arg(long, value_name = "N")]
    server_core: Option<usize>,
    /// The receivers' core [default: the second].
    #[arg(long, value_name = "N")]
    client_core: Option<usize>,
}

/// The code of the object; parity is never read.
const SHAPE: [u16; 2] = [4, 2];
/// The second segment size, beside loopback's own: a page, with no room for timestamps.
const SHORT_SEGMENT_BYTES: u32 = 4096;
/// The time before a measurement: windows grow, buffers fill.
const WARM_UP: Duration = Duration::from_millis(30);
/// Knobs measured again for each way and block size: the best over all loads, and of each load.
const OVERALL: usize = 6;
const EACH: usize = 2;

/// The most that the server lends a low-latency connection, and how the server sends to it.
fn server_knobs() -> Knobs {
    Knobs {
        send_buffer: Some(limits::SEND_BUFFER_LOW_LATENCY_BYTES_MAX),
        unsent: None,
        turn: limits::PIECE_BYTES_MAX as u32,
        segment: None,
    }
}

/// The kernel's defaults.
fn kernel_knobs() -> Knobs {
    Knobs {
        send_buffer: None,
        ..server_knobs()
    }
}

fn axes(quick: bool) -> Axes {
    let kib = |sizes: &[u32]| -> Vec<Option<u32>> {
        sizes
            .iter()
            .map(|&kib| (kib > 0).then_some(kib << 10))
            .collect()
    };
    // 0 stands for "not set".
    if quick {
        return Axes {
            send_buffers: kib(&[64, 256]),
            unsent: kib(&[0, 64]),
            turns: vec![64 << 10, 256 << 10],
            segments: vec![None],
        };
    }
    Axes {
        send_buffers: kib(&[32, 64, 128, 256, 512, 0]),
        unsent: kib(&[0, 16, 64, 256]),
        turns: [64, 128, 256, 512].map(|kib| kib << 10).to_vec(),
        segments: vec![Some(SHORT_SEGMENT_BYTES), None],
    }
}

/// The cores of sender and receivers.
#[derive(Clone, Copy)]
struct Cores {
    server: usize,
    client: usize,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let mut facts = machine::facts();
    let (server, client) = launch::cores(options.server_core, options.client_core)?;
    let cores = Cores { server, client };
    facts.push(("sender's core", server.to_string()));
    facts.push(("receivers' core", client.to_string()));
    for (name, value) in &facts {
        println!("{name}: {value}");
    }
    let directory = scratch::directory("sweep", options.dir.as_deref())?;
    let sources = build(&options, directory.path(), cores)?;

    let quick = options.quick;
    let knobs = axes(quick).knobs();
    let loads = loads(&options, &sources);
    let pick = |full: u64, quick_value: u64| if quick { quick_value } else { full };
    let millis = options.millis.unwrap_or(pick(120, 40)).clamp(10, 10_000);
    let rounds = options.rounds.unwrap_or(pick(3, 1) as usize).max(1);
    let span = Duration::from_millis(millis);

    let mut first: HashMap<Load, HashMap<Knobs, Sample>> = HashMap::new();
    let pairs: Vec<(Load, Knobs)> = loads
        .iter()
        .flat_map(|&load| knobs.iter().map(move |&knobs| (load, knobs)))
        .collect();
    println!("first look: {} combinations, {millis} ms each", pairs.len());
    for at in scattered(pairs.len()) {
        let (load, knobs) = pairs[at];
        let sample = measure(&sources[&load.block_bytes], load, knobs, span, cores)?;
        first.entry(load).or_default().insert(knobs, sample);
    }

    let mut again: Vec<(Load, Knobs)> = Vec::new();
    for (way, block_bytes) in groups(&loads) {
        let of_group = |load: &&Load| (load.way, load.block_bytes) == (way, block_bytes);
        let costs: Vec<_> = loads
            .iter()
            .filter(of_group)
            .map(|load| cells::costs(&first[load]))
            .collect();
        let always = [server_knobs(), kernel_knobs()];
        let chosen = cells::finalists(&costs, OVERALL, EACH, &always);
        for &load in loads.iter().filter(of_group) {
            again.extend(chosen.iter().map(|&knobs| (load, knobs)));
        }
    }
    println!(
        "second look: {} combinations, {rounds} rounds of {} ms",
        again.len(),
        2 * millis
    );
    let mut second: HashMap<(Load, Knobs), Vec<Sample>> = HashMap::new();
    // Neighbours in the list are alternatives under one load, so they are measured in turns.
    for at in interleave::turns(rounds, again.len()) {
        let (load, knobs) = again[at];
        let sample = measure(&sources[&load.block_bytes], load, knobs, 2 * span, cores)?;
        second.entry((load, knobs)).or_default().push(sample);
    }

    let mut found: Vec<Found> = Vec::new();
    for &(load, knobs) in &pairs {
        found.push(Found::new(
            Phase::First,
            load,
            knobs,
            &[first[&load][&knobs]],
        ));
    }
    for &(load, knobs) in &again {
        found.push(Found::new(
            Phase::Second,
            load,
            knobs,
            &second[&(load, knobs)],
        ));
    }
    let knees = report::knees(&groups(&loads), &found);
    report::print(
        &groups(&loads),
        &found,
        &knees,
        server_knobs(),
        kernel_knobs(),
    );
    if let Some(path) = &options.csv {
        report::record(facts, &found, &knees).write(path)?;
        println!("written: {}", path.display());
    }
    if let Some(path) = &options.picture {
        picture::draw(path, &found, &knees)?;
        println!("drawn: {}", path.display());
    }
    Ok(())
}

/// Builds the objects, by block size, and checks that both ways send every byte of each. Otherwise nothing is measured.
fn build(
    options: &Options,
    directory: &Path,
    cores: Cores,
) -> anyhow::Result<HashMap<u32, Arc<Source>>> {
    let given: Vec<u64> = options.block_sizes.iter().map(|size| size.0).collect();
    let blocks = match (&given[..], options.quick) {
        ([], true) => &[16 << 10][..],
        ([], false) => &[16 << 10, 64 << 10],
        (given, _) => given,
    };
    let size = options
        .size
        .map_or(if options.quick { 32 << 20 } else { 256 << 20 }, |s| s.0);
    let mut sources = HashMap::new();
    for &block in blocks {
        let block_bytes = u32::try_from(block).context("--block-size is too large")?;
        ensure!(block_bytes > 0, "--block-size must be at least a byte");
        let segment = block * u64::from(SHAPE[0]);
        let bytes = size.max(1).div_ceil(segment) * segment;
        let plain = directory.join("plain");
        object::write_plain(&plain, bytes, block)?;
        let stores = directory.join(block.to_string());
        let coded = object::put(&plain, "object", SHAPE, block_bytes, &stores)?;
        let source = Arc::new(Source::open(&coded.stores, "object")?);
        let expected = std::fs::read(&plain)?;
        for way in Way::ALL {
            verify(&source, way, &expected, cores)
                .with_context(|| format!("verifying {}", way.name()))?;
        }
        std::fs::remove_file(&plain)?;
        println!(
            "object of {} in blocks of {}: verified, byte by byte, both ways",
            ByteSize(bytes).display().iec(),
            ByteSize(block).display().iec()
        );
        sources.insert(block_bytes, source);
    }
    Ok(sources)
}

/// Receives the whole object once, from the middle on, through a buffer that holds only part of a turn.
fn verify(source: &Arc<Source>, way: Way, expected: &[u8], cores: Cores) -> anyhow::Result<()> {
    let knobs = Knobs {
        send_buffer: Some(64 << 10),
        unsent: None,
        turn: 500_001,
        segment: None,
    };
    let (socket, mut client) = connect(&listener(knobs)?, knobs)?;
    let middle = source.start(1, 2);
    let sockets = vec![(socket, middle)];
    let sender = Sender::start(Arc::clone(source), way, knobs.turn, sockets, cores.server)?;
    let (head, tail) = expected.split_at(middle as usize);
    sink::compare(&mut client, tail)?;
    sink::compare(&mut client, head)?;
    sender.stop();
    drop(client);
    sender.finish()
}

fn loads(options: &Options, sources: &HashMap<u32, Arc<Source>>) -> Vec<Load> {
    let connections: &[u32] = match (&options.connections[..], options.quick) {
        ([], true) => &[1, 32],
        ([], false) => &[1, 8, 32, 256],
        (given, _) => given,
    };
    let mut blocks: Vec<u32> = sources.keys().copied().collect();
    blocks.sort_unstable();
    let mut loads = Vec::new();
    for way in Way::ALL {
        for &block_bytes in &blocks {
            loads.extend(connections.iter().map(|&connections| Load {
                way,
                block_bytes,
                connections: connections as usize,
            }));
        }
    }
    loads
}

/// The pairs of way and block size, each of which has a knee.
fn groups(loads: &[Load]) -> Vec<(Way, u32)> {
    let mut groups: Vec<(Way, u32)> = loads.iter().map(|l| (l.way, l.block_bytes)).collect();
    groups.dedup();
    groups
}

/// The numbers 0..count in an order in which neighbours are far apart, so that drift affects no single region of the
/// grid.
fn scattered(count: usize) -> impl Iterator<Item = usize> {
    let gcd = |mut a: usize, mut b: usize| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    // Near the golden section, and coprime to the count, so that every number occurs once.
    let step = (count * 618 / 1000..)
        .find(|&step| step > 0 && gcd(step, count) == 1)
        .unwrap_or(1);
    (0..count).map(move |at| at * step % count)
}

/// A listener whose connections have the segment size.
fn listener(knobs: Knobs) -> anyhow::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    if let Some(segment) = knobs.segment {
        socket.set_tcp_mss(segment)?;
    }
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.listen(128)?;
    Ok(socket)
}

/// A connection: the sender's socket with its sizes set, and the client's.
fn connect(listener: &Socket, knobs: Knobs) -> anyhow::Result<(TcpStream, TcpStream)> {
    let address = listener.local_addr()?.as_socket().context("an address")?;
    let client = TcpStream::connect(address)?;
    let socket = TcpStream::from(listener.accept()?.0);
    socket.set_nodelay(true)?;
    let options = SockRef::from(&socket);
    if let Some(bytes) = knobs.send_buffer {
        options.set_send_buffer_size(bytes as usize)?;
    }
    if let Some(bytes) = knobs.unsent {
        options.set_tcp_notsent_lowat(bytes)?;
    }
    Ok((socket, client))
}

fn measure(
    source: &Arc<Source>,
    load: Load,
    knobs: Knobs,
    span: Duration,
    cores: Cores,
) -> anyhow::Result<Sample> {
    let listener = listener(knobs)?;
    let (mut sockets, mut clients) = (Vec::new(), Vec::new());
    for number in 0..load.connections {
        let (socket, client) = connect(&listener, knobs)?;
        sockets.push((socket, source.start(number, load.connections)));
        clients.push(client);
    }
    let sink = Sink::start(clients, cores.client)?;
    let sender = Sender::start(
        Arc::clone(source),
        load.way,
        knobs.turn,
        sockets,
        cores.server,
    )?;
    let look = || {
        let busy = usage::busy([cores.server, cores.client])?;
        anyhow::Ok((Instant::now(), busy, sink.received(), sender.progress()))
    };
    std::thread::sleep(WARM_UP);
    let before = look()?;
    std::thread::sleep(span);
    let after = look()?;
    sender.stop();
    let drained = sink.finish();
    sender.finish()?;
    drained?;

    let seconds = (after.0 - before.0).as_secs_f64();
    let gigabytes = (after.2 - before.2) as f64 / 1e9;
    ensure!(
        gigabytes > 0.0,
        "nothing came in {seconds:.2} s with {load:?}, {knobs:?}"
    );
    // Idle time is counted in hundredths of a second, so the difference is cut to the possible range.
    let busy = |core: usize| (after.1[core] - before.1[core]).clamp(0.0, seconds);
    let (server, client) = (busy(0), busy(1));
    let both = match cores.server == cores.client {
        true => server,
        false => server + client,
    };
    Ok(Sample {
        gb_s: gigabytes / seconds,
        core_per_gb: server / gigabytes,
        both_per_gb: both / gigabytes,
        thread_per_gb: (after.3.1 - before.3.1).as_secs_f64() / gigabytes,
        turns_per_gb: (after.3.0 - before.3.0) as f64 / gigabytes,
        client_busy: client / seconds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scattered_order_has_every_number_once() {
        for count in [1, 2, 3, 10, 97, 1696] {
            let mut all: Vec<usize> = scattered(count).collect();
            if count > 20 {
                assert!(
                    all.windows(2)
                        .all(|two| two[0].abs_diff(two[1]) > count / 5)
                );
            }
            all.sort_unstable();
            assert!(all.iter().copied().eq(0..count), "{count}");
        }
    }
}
