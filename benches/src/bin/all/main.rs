//! Runs every benchmark, one after another, and writes their records and pictures as `bench-results/README.md` says:
//! one command for a whole machine.
//!
//! Each benchmark has a time limit. One that takes longer, or fails, is ended and reported, and the others still run.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail, ensure};
use clap::Parser;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[derive(Parser)]
#[command(about = "All benchmarks, with their records and pictures")]
struct Options {
    /// Write records and pictures to this directory, `bench-results/MACHINE`.
    #[arg(long, value_name = "DIR")]
    record: Option<PathBuf>,
    /// Run each for less than half a minute, to see that everything works.
    #[arg(long)]
    quick: bool,
    /// Run only these benchmarks. Can be repeated.
    #[arg(long = "only", value_name = "NAME")]
    only: Vec<String>,
    /// Directory for the objects to serve: on a disk with some gigabytes free.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// SeaweedFS's program, for `serve`.
    #[arg(long, value_name = "FILE")]
    weed: Option<PathBuf>,
    /// Directory for SeaweedFS's volumes.
    #[arg(long, value_name = "DIR")]
    weed_dir: Option<PathBuf>,
}

/// One benchmark.
struct Bench {
    name: &'static str,
    /// Seconds that a full run may take.
    seconds: u64,
    /// Part of the record's name, after date and commit; empty for the oldest benchmark.
    suffix: &'static str,
    /// The option for a quick run.
    quick: &'static str,
    takes: &'static [Takes],
}

#[derive(Clone, Copy, PartialEq)]
enum Takes {
    /// `--csv FILE`.
    Csv,
    /// `--picture FILE`, an SVG beside the record.
    Picture,
    /// `--record DIR`, for a benchmark that writes several files.
    Directory,
    /// `--dir DIR`.
    Dir,
    /// `--weed` and `--weed-dir`.
    Weed,
}

use Takes::{Csv, Dir, Directory, Picture, Weed};

const QUICKLY: &str = "--quick";
/// For benchmarks within one thread, which are quick with few rounds.
const FEW: &str = "--rounds=2";

const BENCHES: &[Bench] = &[
    bench("decode", 600, "", FEW, &[Csv]),
    bench("hash", 300, "-hash", FEW, &[Csv]),
    bench("serve", 1500, "-serve", QUICKLY, &[Csv, Picture, Dir, Weed]),
    bench("accept", 120, "-accept", QUICKLY, &[Csv, Dir]),
    bench("cold", 450, "-cold", QUICKLY, &[Csv, Picture, Dir]),
    bench("sweep", 900, "-sweep", QUICKLY, &[Csv, Picture, Dir]),
    bench("rings", 600, "-rings", QUICKLY, &[Csv, Dir]),
    bench(
        "strategies",
        300,
        "-strategies",
        QUICKLY,
        &[Csv, Picture, Dir],
    ),
    bench("tahoe", 900, "-tahoe", QUICKLY, &[Csv, Dir]),
    bench("faults", 900, "-faults", QUICKLY, &[Csv, Dir]),
    bench("tls", 400, "-tls", QUICKLY, &[Csv, Dir]),
    bench("memory", 1200, "-memory", QUICKLY, &[Directory]),
];

const fn bench(
    name: &'static str,
    seconds: u64,
    suffix: &'static str,
    quick: &'static str,
    takes: &'static [Takes],
) -> Bench {
    Bench {
        name,
        seconds,
        suffix,
        quick,
        takes,
    }
}

/// The time limit of a quick run, building included.
const QUICK: Duration = Duration::from_secs(120);
/// How long a benchmark that is told to end may take to clean up.
const CLEAN_UP: Duration = Duration::from_secs(20);

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    for name in &options.only {
        let known = BENCHES.iter().any(|bench| bench.name == name);
        ensure!(
            known,
            "--only {name}: no such benchmark; there are {}",
            names()
        );
    }
    let chosen = BENCHES.iter().filter(|bench| {
        options.only.is_empty() || options.only.iter().any(|name| name == bench.name)
    });
    let chosen: Vec<&Bench> = chosen.collect();
    let programs = std::env::current_exe()?;
    let program = |name: &str| programs.with_file_name(name);
    for needed in chosen.iter().map(|bench| bench.name).chain(["penstock"]) {
        let path = program(needed);
        ensure!(
            path.is_file(),
            "no program {}; build them with `cargo build --release -p penstock -p penstock-benches`",
            path.display()
        );
    }
    let base = match &options.record {
        Some(directory) => Some(directory.join(format!("{}-{}", date(), commit()?))),
        None => None,
    };
    let mut failed = Vec::new();
    for bench in chosen {
        let mut command = Command::new(program(bench.name));
        command.args(arguments(bench, &options, base.as_deref()));
        println!("\n==== {}", bench.name);
        let limit = match options.quick {
            true => QUICK,
            false => Duration::from_secs(bench.seconds),
        };
        let begun = Instant::now();
        match run(&mut command, limit) {
            Ok(status) if status.success() => {
                println!(
                    "==== {}: {:.0} s",
                    bench.name,
                    begun.elapsed().as_secs_f64()
                );
            }
            Ok(status) => failed.push(format!("{}: {status}", bench.name)),
            Err(error) => failed.push(format!("{}: {error:#}", bench.name)),
        }
    }
    if !failed.is_empty() {
        bail!("not all ended well: {}", failed.join("; "));
    }
    Ok(())
}

fn names() -> String {
    let names: Vec<&str> = BENCHES.iter().map(|bench| bench.name).collect();
    names.join(", ")
}

/// The arguments of a benchmark. `base` is the beginning of its record's path.
fn arguments(bench: &Bench, options: &Options, base: Option<&Path>) -> Vec<String> {
    let mut arguments = Vec::new();
    let mut add = |option: &str, value: Option<String>| {
        if let Some(value) = value {
            arguments.extend([option.to_owned(), value]);
        }
    };
    let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    let file = |end: &str| base.map(|base| format!("{}{}{end}", base.display(), bench.suffix));
    for takes in bench.takes {
        match takes {
            Csv => add("--csv", file(".csv")),
            Picture => add("--picture", file(".svg")),
            Directory => add("--record", file("")),
            Dir => add("--dir", path(&options.dir)),
            Weed => {
                add("--weed", path(&options.weed));
                add("--weed-dir", path(&options.weed_dir));
            }
        }
    }
    if options.quick {
        arguments.push(bench.quick.to_owned());
    }
    arguments
}

/// Runs a benchmark within its time limit. After that it is told to end, and then killed.
fn run(command: &mut Command, limit: Duration) -> anyhow::Result<ExitStatus> {
    let mut child = command
        .stdin(Stdio::null())
        .spawn()
        .context("can't be started")?;
    if let Some(status) = wait(&mut child, limit)? {
        return Ok(status);
    }
    // SIGTERM lets it remove what it has built.
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM)?;
    if wait(&mut child, CLEAN_UP)?.is_none() {
        child.kill()?;
        child.wait()?;
    }
    bail!("ended after {} s", limit.as_secs())
}

fn wait(child: &mut Child, limit: Duration) -> anyhow::Result<Option<ExitStatus>> {
    let begun = Instant::now();
    while begun.elapsed() < limit {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(None)
}

/// Today's date, as in the names of records: `YYYY-MM-DD`.
fn date() -> String {
    // `Sun, 06 Nov 1994 08:49:37 GMT`
    let text = httpdate::fmt_http_date(SystemTime::now());
    let parts: Vec<&str> = text.split(' ').collect();
    let months = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let month = months.iter().zip(1..).find(|(name, _)| **name == parts[2]);
    format!("{}-{:02}-{}", parts[3], month.map_or(0, |m| m.1), parts[1])
}

fn commit() -> anyhow::Result<String> {
    let output = Command::new("git")
        .args(["rev-parse", "--short", "HEAD"])
        .output()
        .context("can't run git, and records are named after the commit")?;
    ensure!(
        output.status.success(),
        "not in a git checkout, and records are named after the commit"
    );
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_have_the_names_of_the_readme() {
        let options = Options::parse_from(["all", "--quick", "--weed", "w", "--dir", "d"]);
        let of = |name: &str| {
            let bench = BENCHES.iter().find(|bench| bench.name == name).unwrap();
            arguments(bench, &options, Some(Path::new("m/2026-01-02-abc"))).join(" ")
        };
        assert_eq!(of("decode"), "--csv m/2026-01-02-abc.csv --rounds=2");
        assert_eq!(
            of("serve"),
            "--csv m/2026-01-02-abc-serve.csv --picture m/2026-01-02-abc-serve.svg --dir d --weed w --quick"
        );
        assert_eq!(
            of("sweep"),
            "--csv m/2026-01-02-abc-sweep.csv --picture m/2026-01-02-abc-sweep.svg --dir d --quick"
        );
    }

    #[test]
    fn a_benchmark_over_its_time_is_ended() {
        let begun = Instant::now();
        let error = run(Command::new("sleep").arg("60"), Duration::from_millis(100));
        assert!(error.unwrap_err().to_string().starts_with("ended after"));
        assert!(begun.elapsed() < Duration::from_secs(30));
        let status = run(&mut Command::new("true"), Duration::from_secs(60)).unwrap();
        assert!(status.success());
    }

    #[test]
    fn dates_sort() {
        let date = date();
        assert_eq!(date.len(), 10, "{date}");
        assert!(
            date.as_str() > "2020-01-01" && &date[5..7] != "00",
            "{date}"
        );
    }
}
