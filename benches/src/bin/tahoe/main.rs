//! Files of a Tahoe-LAFS grid: the gateway's cost by the uploader's segment length and the client's speed, with shares
//! that need rebuilding and without, and its memory with a thousand stalled clients.
//!
//! Shares come from a test writer of Tahoe-LAFS's format. Bodies are compared with the file, except those of the
//! thousand clients, which read almost nothing. Each measurement has a server of its own, on one core.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use bytesize::ByteSize;
use clap::Parser;
use penstock_benches::common::record::Record;
use penstock_benches::common::{launch, machine, seed};
use penstock_load::{ByteSpan, Class, Group, Plan, Report, Verify, Watch};
use penstock_store::tahoe::write::{Upload, content, on_nodes, segment_bytes};

#[derive(Parser)]
#[command(about = "A gateway to Tahoe-LAFS grids: CPU per byte, and memory under stalled clients")]
struct Options {
    /// Write the results to this file.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Bytes of the file for the measurements per byte.
    #[arg(long, value_name = "SIZE", default_value = "192MiB")]
    size: ByteSize,
    /// I/O backends. Can be repeated [default: uring, epoll].
    #[arg(long, value_name = "BACKEND")]
    io: Vec<String>,
    /// A smaller and shorter run, to see that everything works.
    #[arg(long)]
    quick: bool,
    /// Directory to build the grid in: room for four times the file, three times.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The server's program [default: the one beside this benchmark].
    #[arg(long, value_name = "FILE")]
    penstock: Option<PathBuf>,
}

/// 3 of 10, the default of Tahoe-LAFS.
const NODES: usize = 10;
const K: u16 = 3;

/// A file on its nodes.
struct Grid {
    nodes: Vec<PathBuf>,
    path: String,
    bytes: u64,
}

impl Grid {
    fn new(dir: &Path, name: &str, bytes: &[u8], segment_max: u64) -> anyhow::Result<Grid> {
        let nodes: Vec<PathBuf> = (0..NODES)
            .map(|node| dir.join(name).join(node.to_string()))
            .collect();
        for node in &nodes {
            std::fs::create_dir_all(node)?;
        }
        let size = bytes.len() as u64;
        let upload = Upload {
            segment_bytes: segment_bytes(segment_max, size, K),
            ..Upload::default()
        };
        let cap = upload.write(size, &content(bytes), &on_nodes(&nodes))?;
        Ok(Grid {
            nodes,
            path: format!("/uri/{}", cap.expose()),
            bytes: size,
        })
    }
}

/// One run against one server.
struct Run<'a> {
    penstock: &'a Path,
    io: &'a str,
    nodes: &'a [PathBuf],
    log: &'a Path,
    path: &'a str,
}

impl Run<'_> {
    fn clients(
        &self,
        group: Group,
        plain: Option<&Path>,
        duration: Duration,
    ) -> anyhow::Result<Report> {
        let mut command: Vec<String> =
            vec![self.penstock.display().to_string(), "serve".to_owned()];
        let arguments = [
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
            "--cores",
            "1",
        ];
        command.extend(arguments.map(str::to_owned));
        command.extend(["--memory", "256MiB", "--io", self.io].map(str::to_owned));
        for node in self.nodes {
            command.extend(["--tahoe-node".to_owned(), node.display().to_string()]);
        }
        let server = launch::Server::start(0, &command, self.log)?;
        let mut plan = Plan::new(&format!("http://{}{}", server.address, self.path));
        plan.groups = vec![group];
        plan.duration = duration;
        if let Some(plain) = plain {
            plan.verify = Verify::File(plain.to_owned());
        }
        plan.watch = Some(Watch {
            pids: vec![server.pid()],
            ..Watch::default()
        });
        let report = penstock_load::run(&plan)?;
        ensure!(!report.has_wrong_bytes(), "wrong bytes");
        ensure!(
            report.groups[0].faults.is_empty(),
            "{:?}",
            report.groups[0].faults
        );
        Ok(report)
    }
}

fn main() -> anyhow::Result<()> {
    launch::launch_if_started_as_launcher()?;
    let options = Options::parse();
    let facts = machine::facts();
    for (name, value) in &facts {
        println!("{name}: {value}");
    }
    let directory = match &options.dir {
        Some(dir) => tempfile::Builder::new().prefix("tahoe-").tempdir_in(dir),
        None => tempfile::Builder::new().prefix("tahoe-").tempdir(),
    };
    let directory = directory.context("can't make a directory for the grid")?;
    let dir = directory.path();
    let penstock = launch::penstock(options.penstock.as_deref())?;
    let size = if options.quick {
        24 << 20
    } else {
        options.size.0
    };
    let mut bytes = vec![0; usize::try_from(size)?];
    seed::fill(&mut bytes, 1);
    let plain = dir.join("plain");
    std::fs::write(&plain, &bytes)?;
    let grids = [
        ("128 KiB", Grid::new(dir, "old", &bytes, 128 << 10)?),
        ("1 MiB", Grid::new(dir, "new", &bytes, 1 << 20)?),
        ("the whole file", Grid::new(dir, "one", &bytes, u64::MAX)?),
    ];
    let crowd_bytes = bytes.len().min(64 << 20);
    let crowd = Grid::new(dir, "crowd", &bytes[..crowd_bytes], u64::MAX)?;
    drop(bytes);

    let columns = [
        "io",
        "segments",
        "shares",
        "clients",
        "gb_s",
        "cpu_s_per_gb",
        "process_and_kernel_mib",
    ];
    let mut record = Record::new(facts, &columns);
    println!("{}", columns.join(", "));
    let backends = match options.io.is_empty() {
        true => vec!["uring".to_owned(), "epoll".to_owned()],
        false => options.io.clone(),
    };
    let mut note = |cells: [String; 7]| {
        println!("{}", cells.join(", "));
        record.push(cells.to_vec());
    };
    let rounds = if options.quick { 1 } else { 3 };
    for io in &backends {
        for (segments, grid) in &grids {
            for (shares, nodes) in [
                ("data", &grid.nodes[..]),
                ("parity alone", &grid.nodes[7..]),
            ] {
                let run = Run {
                    penstock: &penstock,
                    io,
                    nodes,
                    log: &dir.join("server.log"),
                    path: &grid.path,
                };
                // The slow clients together read as many bytes as the fast one.
                let seconds = if options.quick { 2 } else { 8 };
                let rate = 1_000_000;
                let slow = grid.bytes / (rate * seconds);
                let mut seen: Vec<(String, Vec<Report>)> = Vec::new();
                for _ in 0..rounds {
                    let mut fast = Group::new(Class::Fast, 1);
                    fast.requests = Some(1);
                    let mut slow = Group::new(Class::Slow, usize::try_from(slow)?.max(1));
                    slow.rate = Some(rate);
                    let clients = [("1 fast", fast, 60), ("slow, 1 MB/s each", slow, seconds)];
                    for (name, group, seconds) in clients {
                        let report =
                            run.clients(group, Some(&plain), Duration::from_secs(seconds))?;
                        match seen.iter_mut().find(|(known, _)| known == name) {
                            Some((_, reports)) => reports.push(report),
                            None => seen.push((name.to_owned(), vec![report])),
                        }
                    }
                }
                for (name, mut reports) in seen {
                    let cpu = |report: &Report| {
                        let group = &report.groups[0];
                        let server = report
                            .server
                            .as_ref()
                            .map_or(0.0, |server| server.cpu.server);
                        server / (group.body_bytes as f64 / 1e9)
                    };
                    reports.sort_by(|a, b| cpu(a).total_cmp(&cpu(b)));
                    let report = &reports[reports.len() / 2];
                    note([
                        io.clone(),
                        (*segments).to_owned(),
                        shares.to_owned(),
                        name,
                        format!("{:.3}", report.groups[0].bytes_per_second / 1e9),
                        format!("{:.2}", cpu(report)),
                        mib(report),
                    ]);
                }
            }
        }
        let run = Run {
            penstock: &penstock,
            io,
            nodes: &crowd.nodes,
            log: &dir.join("server.log"),
            path: &crowd.path,
        };
        let count = if options.quick { 100 } else { 1000 };
        let mut stalled = Group::new(Class::Stalled, count);
        stalled.take = ByteSpan::exactly(10_000);
        let report = run.clients(stalled, None, Duration::from_secs(10))?;
        ensure!(
            report.groups[0].held == count as u64,
            "{} are held",
            report.groups[0].held
        );
        note([
            io.clone(),
            format!("the whole file, {} MiB", crowd_bytes >> 20),
            "data".to_owned(),
            format!("{count} stalled"),
            String::new(),
            String::new(),
            mib(&report),
        ]);
    }
    if let Some(path) = &options.csv {
        record.write(path)?;
    }
    Ok(())
}

fn mib(report: &Report) -> String {
    let bound = report
        .server
        .as_ref()
        .map_or(0, |server| server.peaks.bound);
    format!("{:.1}", bound as f64 / (1 << 20) as f64)
}
