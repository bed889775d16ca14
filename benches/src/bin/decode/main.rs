//! The speed of rebuilding missing data: GB of original data (k blocks per segment) per second of
//! CPU time, with segments in the cache. One run measures every rs8 kernel of this CPU, rs16 by
//! every kernel and by the crate alone, and ISA-L where its library is installed. It also measures
//! the limits: summing k blocks into e, the multiplying instruction alone, and copying the segment.

mod affine;
mod isal;

use std::hint::black_box;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Parser;
use decode_kernel::arch::{Kernel, Products};
use decode_kernel::code::{Code, CodeKind, Coder};
use penstock_benches::common::blocks::Blocks;
use penstock_benches::common::cpu::{pin, speed};
use penstock_benches::common::interleave::{self, Competitor};
use penstock_benches::common::record::Record;
use penstock_benches::common::stats::Summary;
use penstock_benches::common::{machine, seed};

#[derive(Parser)]
#[command(about = "Decoding speed of every kernel, beside its limits and competitors")]
struct Options {
    /// Write a record, with commit, command and CPU, to this file.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Measurements per competitor.
    #[arg(long, default_value_t = 41)]
    rounds: usize,
    /// Milliseconds per measurement.
    #[arg(long, default_value_t = 2)]
    millis: u64,
    /// Original bytes per segment.
    #[arg(long, default_value_t = 128 * 1024)]
    segment: usize,
    /// A code and a loss, `K,M,E`: E of the K data shares are lost. Can be repeated.
    #[arg(long = "shape", value_name = "K,M,E", value_parser = shape)]
    shapes: Vec<[usize; 3]>,
    /// Only competitors whose names contain this.
    #[arg(long, default_value = "")]
    only: String,
    /// The core to run on [default: the last].
    #[arg(long)]
    core: Option<usize>,
}

/// The default shapes.
const SHAPES: &[[usize; 3]] = &[
    [3, 7, 3],
    [4, 2, 1],
    [4, 2, 2],
    [8, 3, 1],
    [10, 4, 1],
    [10, 4, 2],
    [10, 4, 3],
    [10, 4, 4],
    [16, 4, 1],
    [16, 4, 4],
    [64, 16, 1],
    [64, 16, 4],
    [64, 16, 16],
];

fn shape(text: &str) -> Result<[usize; 3], String> {
    let numbers: Result<Vec<usize>, _> = text.split(',').map(str::parse).collect();
    match numbers.ok().as_deref() {
        Some(&[k, m, e]) if 1 <= e && e <= k.min(m) && k + m <= 256 => Ok([k, m, e]),
        _ => Err("K,M,E with 1 <= E <= K, E <= M and K + M <= 256, like 10,4,1".to_owned()),
    }
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    // The facts are read before pinning, after which only one core would be counted.
    let facts = machine::facts();
    let core = pin(options.core)?;

    let isal = isal::Library::load();
    for (name, value) in &facts {
        println!("{name}: {value}");
    }
    println!("core: {core}; segments of {} bytes", options.segment);
    match &isal {
        Ok(library) => println!("ISA-L: {}", library.description()),
        Err(why) => println!("ISA-L: skipped: {why:#}"),
    }
    let columns = [
        "k",
        "m",
        "e",
        "segment_bytes",
        "competitor",
        "median_gb_s",
        "spread",
        "min",
        "max",
    ];
    let mut record = Record::new(facts, &columns);
    let shapes = if options.shapes.is_empty() {
        SHAPES
    } else {
        &options.shapes
    };
    for &shape in shapes {
        let results = measure(&options, shape, isal.as_ref().ok())?;
        print(shape, &results);
        for (name, summary) in results {
            let [k, m, e] = shape.map(|number| number.to_string());
            let numbers = [summary.median, summary.spread(), summary.min, summary.max];
            let mut row = vec![k, m, e, options.segment.to_string(), name];
            row.extend(numbers.map(|number| format!("{number:.3}")));
            record.push(row);
        }
    }
    if let Some(path) = &options.csv {
        record.write(path)?;
        println!("\nwritten: {}", path.display());
    }
    Ok(())
}

fn print([k, m, e]: [usize; 3], results: &[(String, Summary)]) {
    let find = |name: &str| {
        results
            .iter()
            .find(|(other, _)| other == name)
            .map(|(_, s)| s.median)
    };
    let limit = find(LIMIT);
    println!(
        "\n{k}+{m}, {e} lost{:>21} {:>8} {:>8} {:>8}",
        "GB/s", "+-%", "max", "of limit"
    );
    for (name, summary) in results {
        let of_limit = limit.map_or(String::new(), |limit| {
            format!("{:.2}", summary.median / limit)
        });
        let spread = 100.0 * summary.spread();
        println!(
            "  {name:<22} {:>8.2} {spread:>8.1} {:>8.2} {of_limit:>8}",
            summary.median, summary.max
        );
    }
}

/// The limit that others are printed relative to.
const LIMIT: &str = "limit: xor";

/// One segment with its first `e` data blocks lost.
struct Segment {
    code: Code,
    sources: Vec<usize>,
    wanted: Vec<usize>,
    block_bytes: usize,
    shares: Blocks,
}

impl Segment {
    fn new(kind: CodeKind, [k, m, e]: [usize; 3], bytes: usize) -> anyhow::Result<Segment> {
        let code = Code::new(kind, k, k + m)?;
        let block_bytes = (bytes / k).next_multiple_of(64);
        let mut shares = Blocks::new(k + m, block_bytes);
        let mut all = shares.all_mut();
        let (data, parity) = all.split_at_mut(k);
        for (share, number) in data.iter_mut().zip(1..) {
            seed::fill(share, number);
        }
        let data: Vec<&[u8]> = data.iter().map(|share| &**share).collect();
        Coder::new(1).encode(&code, &data, parity)?;
        let (sources, wanted) = ((e..k + e).collect(), (0..e).collect());
        Ok(Segment {
            code,
            sources,
            wanted,
            block_bytes,
            shares,
        })
    }

    fn inputs(&self) -> Vec<&[u8]> {
        let shares = self.shares.all();
        self.sources.iter().map(|&s| shares[s]).collect()
    }

    /// Original bytes of the segment.
    fn bytes(&self) -> usize {
        self.code.k() * self.block_bytes
    }

    /// Room for the lost blocks.
    fn room(&self) -> Blocks {
        Blocks::new(self.wanted.len(), self.block_bytes)
    }

    /// Whether the room holds what was lost.
    fn verify(&self, name: &str, room: &Blocks) -> anyhow::Result<()> {
        let shares = self.shares.all();
        for (rebuilt, &number) in room.all().iter().zip(&self.wanted) {
            ensure!(
                *rebuilt == shares[number],
                "{name} rebuilt share {number} wrongly"
            );
        }
        Ok(())
    }

    /// The coefficients that give the lost blocks from the sources, row by row: the results of
    /// rebuilding with unit vectors as sources.
    fn coefficients(&self) -> anyhow::Result<Vec<u8>> {
        let k = self.code.k();
        let units: Vec<Vec<u8>> = (0..k)
            .map(|i| (0..k).map(|j| u8::from(i == j)).collect())
            .collect();
        let inputs: Vec<&[u8]> = units.iter().map(Vec::as_slice).collect();
        let mut rows = vec![0; self.wanted.len() * k];
        let mut outputs: Vec<&mut [u8]> = rows.chunks_mut(k).collect();
        Coder::new(1).rebuild(
            &self.code,
            &self.sources,
            &inputs,
            &self.wanted,
            &mut outputs,
        )?;
        Ok(rows)
    }
}

fn measure(
    options: &Options,
    shape: [usize; 3],
    isal: Option<&isal::Library>,
) -> anyhow::Result<Vec<(String, Summary)>> {
    let [k, _, e] = shape;
    let rs8 = Segment::new(CodeKind::Rs8, shape, options.segment)?;
    let rs16 = Segment::new(CodeKind::Rs16, shape, options.segment)?;
    let (inputs8, inputs16) = (rs8.inputs(), rs16.inputs());
    let target = Duration::from_millis(options.millis);
    let bytes = rs8.bytes();
    let mut competitors = Vec::new();

    let best = Kernel::available().next().context("no kernel")?;
    let each = |kind: &'static str| {
        Kernel::available().map(move |kernel| {
            // The portable kernel uses the crate for rs16.
            let name = match (kind, kernel.name()) {
                ("rs16", "portable") => "rs16 crate".to_owned(),
                (_, kernel) => format!("{kind} {kernel}"),
            };
            (name, kernel)
        })
    };
    let narrow = each("rs8").map(|(name, kernel)| (name, kernel, &rs8, &inputs8));
    let wide = each("rs16").map(|(name, kernel)| (name, kernel, &rs16, &inputs16));
    for (name, kernel, segment, inputs) in narrow.chain(wide) {
        let Segment {
            code,
            sources,
            wanted,
            ..
        } = segment;
        let mut coder = Coder::with_kernel(4, kernel);
        let mut room = segment.room();
        coder.rebuild(code, sources, inputs, wanted, &mut room.all_mut())?;
        segment.verify(&name, &room)?;
        competitors.push(Competitor::new(name, move || {
            let mut outputs = room.all_mut();
            speed(bytes, target, || {
                coder
                    .rebuild(code, sources, black_box(inputs), wanted, &mut outputs)
                    .is_ok()
            })
        }));
    }

    let variants = isal.map(isal::Library::variants).unwrap_or_default();
    for (name, encoder) in variants {
        let tables = encoder.tables(k, e, &rs8.coefficients()?);
        let mut room = rs8.room();
        encoder.apply(&tables, &inputs8, &mut room.all_mut())?;
        rs8.verify(name, &room)?;
        let inputs = &inputs8;
        competitors.push(Competitor::new(name, move || {
            let mut outputs = room.all_mut();
            speed(bytes, target, || {
                encoder
                    .apply(&tables, black_box(inputs), &mut outputs)
                    .is_ok()
            })
        }));
    }

    let ones = Products::new(best, k, e, &vec![1; k * e]);
    let (mut room, inputs) = (rs8.room(), &inputs8);
    competitors.push(Competitor::new(LIMIT, move || {
        let mut outputs = room.all_mut();
        speed(bytes, target, || {
            ones.apply(black_box(inputs), &mut outputs);
            true
        })
    }));
    if affine::available() {
        // A segment takes k products of a block for each of its e outputs.
        let bytes = affine::ROUND_BYTES / e;
        competitors.push(Competitor::new("limit: affine", move || {
            speed(bytes, target, || {
                black_box(affine::round(black_box(0x0123_4567_89AB_CDEF))) != 1
            })
        }));
    }
    let mut room = Blocks::new(k, rs8.block_bytes);
    competitors.push(Competitor::new("limit: memcpy", move || {
        let mut outputs = room.all_mut();
        speed(bytes, target, || {
            for (to, from) in outputs.iter_mut().zip(black_box(inputs)) {
                to.copy_from_slice(from);
            }
            black_box(&outputs).len() == k
        })
    }));

    competitors.retain(|competitor| {
        competitor.name.starts_with("limit") || competitor.name.contains(&options.only)
    });
    let summaries = interleave::run(options.rounds, &mut competitors);
    let names = competitors.iter().map(|competitor| competitor.name.clone());
    Ok(names.zip(summaries).collect())
}
