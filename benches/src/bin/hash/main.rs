//! The speed of hashing and decrypting blocks for Tahoe-LAFS: GB per second of CPU time of SHA-256d
//! over a number of blocks in lockstep, and of AES-128-CTR in place. One run measures every
//! back-end of this CPU, the process's own choice, and the crates `sha2`, `aes` and `ctr` used
//! directly.

use std::hint::black_box;
use std::path::PathBuf;
use std::time::Duration;

use aes::Aes128;
use aes::cipher::{InnerIvInit, KeyInit, StreamCipher, StreamCipherSeek};
use anyhow::ensure;
use clap::Parser;
use ctr::{Ctr128BE, CtrCore};
use decode_kernel::aes::Aes128Ctr;
use decode_kernel::arch::{AesKernel, ShaKernel};
use decode_kernel::sha256::{Hash, LANES_MAX, Lanes};
use penstock_benches::common::blocks::Blocks;
use penstock_benches::common::cpu::{pin, speed};
use penstock_benches::common::interleave::{self, Competitor};
use penstock_benches::common::record::Record;
use penstock_benches::common::stats::Summary;
use penstock_benches::common::{machine, seed};
use sha2::{Digest, Sha256};

#[derive(Parser)]
#[command(about = "Speed of SHA-256d over several blocks and of AES-128-CTR, beside the crates")]
struct Options {
    /// Write a record, with commit, command and CPU, to this file.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Measurements per competitor.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Milliseconds per measurement.
    #[arg(long, default_value_t = 2)]
    millis: u64,
    /// Bytes per block. Can be repeated; by default a leaf, and blocks of segments of 128 KiB and
    /// 1 MiB cut in three.
    #[arg(long = "block", value_name = "BYTES", default_values_t = [4096, 43_691, 349_526])]
    blocks: Vec<usize>,
    /// Blocks hashed in lockstep. Can be repeated.
    #[arg(long, value_name = "COUNT", default_values_t = [1, 2, 3, 4, 8, 9, 10, 16, 25, 100],
          value_parser = lanes)]
    lanes: Vec<usize>,
    /// The core to run on [default: the last].
    #[arg(long)]
    core: Option<usize>,
}

fn lanes(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(lanes) if (1..=LANES_MAX).contains(&lanes) => Ok(lanes),
        _ => Err(format!("a number from 1 to {LANES_MAX}")),
    }
}

/// The tag hashed before a block of a Tahoe-LAFS share.
const PREFIX: &[u8] = b"29:allmydata_encoded_subshare_v1,";

const KEY: [u8; 16] = *b"any key will do.";

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    // The facts are read before pinning, after which only one core would be counted.
    let facts = machine::facts();
    let core = pin(options.core)?;
    for (name, value) in &facts {
        println!("{name}: {value}");
    }
    println!("core: {core}");
    let columns = [
        "work",
        "lanes",
        "block_bytes",
        "competitor",
        "median_gb_s",
        "spread",
        "min",
        "max",
    ];
    let mut record = Record::new(facts, &columns);
    let mut add = |work: &str, lanes: usize, bytes: usize, results: Vec<(String, Summary)>| {
        println!(
            "\n{work}: {lanes} x {bytes} bytes{:>20} {:>8}",
            "GB/s", "+-%"
        );
        for (name, summary) in results {
            let spread = 100.0 * summary.spread();
            println!("  {name:<36} {:>8.2} {spread:>8.1}", summary.median);
            let numbers = [summary.median, summary.spread(), summary.min, summary.max];
            let mut row = vec![work.to_owned(), lanes.to_string(), bytes.to_string(), name];
            row.extend(numbers.map(|number| format!("{number:.3}")));
            record.push(row);
        }
    };
    for &bytes in &options.blocks {
        for &lanes in &options.lanes {
            add("sha256d", lanes, bytes, hash(&options, lanes, bytes)?);
        }
    }
    for &bytes in &options.blocks {
        add("aes-128-ctr", 1, bytes, decrypt(&options, bytes)?);
    }
    if let Some(path) = &options.csv {
        record.write(path)?;
        println!("\nwritten: {}", path.display());
    }
    Ok(())
}

/// SHA-256d of `count` blocks, each after the prefix.
fn hash(options: &Options, count: usize, bytes: usize) -> anyhow::Result<Vec<(String, Summary)>> {
    let mut blocks = Blocks::new(count, bytes);
    for (block, number) in blocks.all_mut().into_iter().zip(1..) {
        seed::fill(block, number);
    }
    let inputs = &blocks.all();
    let target = Duration::from_millis(options.millis);
    let by_crate = |hashes: &mut [Hash]| {
        for (input, hash) in black_box(inputs).iter().zip(hashes) {
            let once = Sha256::new().chain_update(PREFIX).chain_update(input);
            *hash = Sha256::digest(once.finalize()).into();
        }
    };
    let mut expected = vec![Hash::default(); count];
    by_crate(&mut expected);
    let expected = &expected;

    let mut competitors = Vec::new();
    let chosen = ShaKernel::chosen();
    let alone = ShaKernel::available().map(|kernel| (kernel.name().to_owned(), kernel));
    let all = alone.chain([(format!("chosen: {}", chosen.name()), chosen)]);
    for (name, kernel) in all {
        let mut lanes = Lanes::with_kernel(count, kernel);
        let mut hashes = vec![Hash::default(); count];
        let mut work = move || {
            lanes.restart(count, PREFIX);
            lanes.update(black_box(inputs));
            lanes.finish(&mut hashes);
            hashes == *expected
        };
        ensure!(work(), "{name} hashes wrongly");
        competitors.push(Competitor::new(name, move || {
            speed(count * bytes, target, &mut work)
        }));
    }
    let mut hashes = vec![Hash::default(); count];
    competitors.push(Competitor::new("crate sha2", move || {
        speed(count * bytes, target, || {
            by_crate(&mut hashes);
            hashes == *expected
        })
    }));
    Ok(run(options, competitors))
}

/// Decrypts a block in place, at the offset of a share's second block. No keystream block begins
/// there, if the block's size is not a multiple of 16.
fn decrypt(options: &Options, bytes: usize) -> anyhow::Result<Vec<(String, Summary)>> {
    let target = Duration::from_millis(options.millis);
    let offset = bytes as u64;
    let cipher = Aes128::new(&KEY.into());
    let by_crate = |data: &mut [u8]| {
        let core = CtrCore::inner_iv_init(cipher.clone(), &[0; 16].into());
        let mut stream = Ctr128BE::<Aes128>::from_core(core);
        stream.seek(offset);
        stream.apply_keystream(black_box(data));
    };
    let mut expected = vec![7; bytes];
    by_crate(&mut expected);

    let mut competitors = Vec::new();
    let chosen = AesKernel::chosen();
    let alone = AesKernel::available().map(|kernel| (kernel.name().to_owned(), kernel));
    let all = alone.chain([(format!("chosen: {}", chosen.name()), chosen)]);
    for (name, kernel) in all {
        let cipher = Aes128Ctr::with_kernel(&KEY, kernel);
        let mut data = vec![7; bytes];
        cipher.apply(offset, &mut data);
        ensure!(data == expected, "{name} decrypts wrongly");
        competitors.push(Competitor::new(name, move || {
            speed(bytes, target, || {
                cipher.apply(offset, black_box(&mut data));
                true
            })
        }));
    }
    let mut data = expected;
    competitors.push(Competitor::new("crates aes, ctr", move || {
        speed(bytes, target, || {
            by_crate(&mut data);
            true
        })
    }));
    Ok(run(options, competitors))
}

fn run(options: &Options, mut competitors: Vec<Competitor<'_>>) -> Vec<(String, Summary)> {
    let summaries = interleave::run(options.rounds, &mut competitors);
    let names = competitors.into_iter().map(|competitor| competitor.name);
    names.zip(summaries).collect()
}
