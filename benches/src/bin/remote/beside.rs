//! Penstock with a cache beside what one would put before the same SeaweedFS otherwise: nginx with `proxy_cache` and `slice`,
//! `rclone serve http`, or nothing.
//!
//! SeaweedFS holds 4+2 shares of an object in six buckets, and the plain object in a seventh, which the others read. All
//! servers, SeaweedFS and the clients may use all cores, where Penstock and nginx have one thread each that serves.
//!
//! Last comes Tahoe-LAFS's own gateway, whose storage node has the same object in 4+2 shares. It is in the overview alone.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use penstock_benches::common::launch::{self, Server};
use penstock_benches::common::seaweed::{ask, server_command, wait};
use penstock_benches::common::tahoe_lafs::{self, Grid};
use penstock_benches::common::usage::Usage;
use penstock_benches::common::{nginx, seaweed, seed};
use penstock_load::{Class, Group, GroupReport, Peaks, Plan, Reading, Report, Verify, Watch};
use sha2::{Digest as _, Sha256};

use super::picture::{self, Figures};
use super::{LARGE, Options, Results, SHAPE, STORES, Stores};

/// The bucket of the plain object.
const PLAIN: &str = "plain";
/// Keys of all buckets. The plain one can be read without.
const KEYS: [&str; 2] = ["AWS_ACCESS_KEY_ID=key", "AWS_SECRET_ACCESS_KEY=secret"];
/// Who may do what in SeaweedFS's buckets.
const IDENTITIES: &str = r#"{"identities": [
    {"name": "edge", "credentials": [{"accessKey": "key", "secretKey": "secret"}],
     "actions": ["Admin", "Read", "Write", "List"]},
    {"name": "anonymous", "actions": ["Read:plain"]}
]}"#;
/// Clients that are slow, and as many again that stall.
const CROWD: Crowd = Crowd {
    clients: 1000,
    slow_seconds: 20,
    stalled_seconds: 30,
};
/// For Tahoe-LAFS, which takes some tens of milliseconds to begin a download, and gives all of them less than a thousand
/// slow clients ask for.
const TAHOE_CROWD: Crowd = Crowd {
    clients: 100,
    slow_seconds: 30,
    stalled_seconds: 30,
};
/// What a slow one takes a second.
const SLOW: u64 = 100_000;
/// Fast clients at one time, besides a single one.
const MANY: usize = 32;

/// Measures all that are installed. Without SeaweedFS there is nothing to stand before.
pub(super) fn beside(
    options: &Options,
    stores: &Stores,
    results: &mut Results,
) -> anyhow::Result<()> {
    let Some((program, version)) = seaweed::find(options.weed.as_deref())? else {
        println!("  skipped: weed is not installed");
        return Ok(());
    };
    results.record.fact("seaweedfs", version);
    let weed = Weed::new(program, &stores.place)?;
    let bytes: usize = if options.quick { 32 << 20 } else { 256 << 20 };
    let digest = weed.fill(options, bytes)?;
    let run = Run {
        options,
        bytes,
        digest,
    };

    let mut all = Vec::new();
    let directly = || weed.start();
    let plain = format!("{PLAIN}/{LARGE}");
    let direct = Subject {
        name: "SeaweedFS",
        path: &plain,
        start: &directly,
        behind: None,
        crowd: CROWD,
    };
    all.extend(run.measure(&direct, results));

    let server = weed.start()?;
    let behind = Some(("SeaweedFS", &server));
    let penstock = || penstock(options, &weed, &stores.place);
    let subject = Subject {
        name: "Penstock",
        path: LARGE,
        start: &penstock,
        behind,
        crowd: CROWD,
    };
    all.extend(run.measure(&subject, results));
    match nginx::find() {
        Some((program, version)) => {
            results.record.fact("nginx", version);
            // The second holds less of what is sent in the kernel, and is slower over a long way.
            for (name, listen) in [("nginx", ""), ("nginx, sndbuf=64k", " sndbuf=64k")] {
                let directory = directory(&stores.place, &format!("nginx{}", listen.len()))?;
                let start = || nginx::start_cache(&program, weed.s3, listen, &directory);
                let start = &start;
                let subject = Subject {
                    name,
                    start,
                    behind,
                    ..direct
                };
                all.extend(run.measure(&subject, results));
            }
        }
        None => println!("  nginx: skipped, it is not installed"),
    }
    match rclone_version() {
        Some(version) => {
            results.record.fact("rclone", version);
            let directory = directory(&stores.place, "rclone")?;
            let start = || rclone(&weed, &directory);
            let subject = Subject {
                name: "rclone",
                path: LARGE,
                start: &start,
                behind,
                crowd: CROWD,
            };
            all.extend(run.measure(&subject, results));
        }
        None => println!("  rclone: skipped, it is not installed"),
    }
    drop(server);
    // First what this is about.
    all.sort_by_key(|figures| figures.name != "Penstock");
    if let Some(path) = &options.picture {
        picture::beside(path, bytes, &all)?;
    }
    all.extend(tahoe(&run, &stores.place, results)?);
    if let Some(path) = &options.overview {
        picture::overview(path, bytes, &all)?;
    }
    Ok(())
}

/// Tahoe-LAFS's gateway, before a storage node of its own.
fn tahoe(run: &Run, place: &Path, results: &mut Results) -> anyhow::Result<Option<Figures>> {
    let Some((program, version)) = tahoe_lafs::find(run.options.tahoe.as_deref())? else {
        println!("  Tahoe-LAFS: skipped, it is not installed");
        return Ok(None);
    };
    results.record.fact("tahoe-lafs", version);
    let [data, parity] = SHAPE;
    let grid = Grid::make(program, [data, data + parity], &directory(place, "tahoe")?)?;
    let storage = grid.start_storage()?;
    let path = {
        let _gateway = grid.start_gateway()?;
        grid.put(&content(run.bytes))?
    };
    let start = || grid.start_gateway();
    let subject = Subject {
        name: "Tahoe-LAFS",
        path: &path,
        start: &start,
        behind: Some(("its storage node", &storage)),
        crowd: TAHOE_CROWD,
    };
    Ok(run.measure(&subject, results))
}

/// Some clients of one kind after those of another.
#[derive(Clone, Copy)]
struct Crowd {
    clients: usize,
    /// How long they are there.
    slow_seconds: u64,
    stalled_seconds: u64,
}

impl Crowd {
    /// A small one, to see that everything works.
    fn quick(self) -> Crowd {
        Crowd {
            clients: self.clients / 20,
            slow_seconds: 3,
            stalled_seconds: 3,
        }
    }
}

/// One that is measured.
#[derive(Clone, Copy)]
struct Subject<'a> {
    name: &'static str,
    /// Of the object, without a leading slash.
    path: &'a str,
    start: &'a dyn Fn() -> anyhow::Result<Server>,
    /// What it gets its bytes from, by name.
    behind: Option<(&'a str, &'a Server)>,
    crowd: Crowd,
}

/// How each is measured.
struct Run<'a> {
    options: &'a Options,
    bytes: usize,
    digest: [u8; 32],
}

impl Run<'_> {
    /// Measures one. If it fails, that is said, and the others are measured.
    fn measure(&self, subject: &Subject, results: &mut Results) -> Option<Figures> {
        println!("  {}", subject.name);
        match self.figures(subject, results) {
            Ok(figures) => Some(figures),
            Err(error) => {
                results.verdict(&format!("{}: {error:#}", subject.name), false);
                None
            }
        }
    }

    fn figures(&self, subject: &Subject, results: &mut Results) -> anyhow::Result<Figures> {
        let Subject {
            name,
            path,
            start,
            behind,
            crowd:
                Crowd {
                    clients,
                    slow_seconds,
                    stalled_seconds,
                },
        } = match self.options.quick {
            true => Subject {
                crowd: subject.crowd.quick(),
                ..*subject
            },
            false => *subject,
        };
        let mut row = |what: &str, value, unit: &str| {
            results.row("beside", &format!("{name}: {what}"), value, unit);
            value
        };
        let server = start()?;
        let busy = || match behind {
            Some((_, server)) => Ok(Usage::now(server.pid(), 0, 0)?.process),
            None => anyhow::Ok(0.0),
        };
        let before = busy()?;
        let first = self.download(&server, path, Verify::No)?;
        let gigabytes = self.bytes as f64 / 1e9;
        let cold = row("cold", rate(&first.groups[0]), "MB/s");
        let cold_cpu = row("cold, CPU", cpu(&first)?, "s/GB");
        if let Some((behind, _)) = behind {
            let cpu = (busy()? - before) / gigabytes;
            row(&format!("cold, CPU of {behind} behind"), cpu, "s/GB");
        }
        // What it sent is looked at when nothing is measured.
        self.download(&server, path, Verify::Sha256(self.digest))?;
        let seconds = if self.options.quick { 1 } else { 6 };
        let mut warm = |clients: usize, what: &str| -> anyhow::Result<(f64, f64)> {
            let group = fast(clients);
            let report = run(&server, path, group, Duration::from_secs(seconds))?;
            Ok((
                row(what, rate(&report.groups[0]), "MB/s"),
                row(&format!("{what}, CPU"), cpu(&report)?, "s/GB"),
            ))
        };
        let before = busy()?;
        let (warm_one, warm_cpu) = warm(1, "warm")?;
        // Bytes as those of the rate, over the time that was asked for.
        let warm_behind = (busy()? - before) / (warm_one * seconds as f64 / 1e3);
        let (warm_many, many_cpu) = warm(MANY, &format!("warm, {MANY} connections"))?;
        drop(server);
        if let Some((behind, _)) = behind {
            row(
                &format!("warm, CPU of {behind} behind"),
                warm_behind,
                "s/GB",
            );
        }

        // Each crowd comes to a server that has served the object once.
        let mut crowd = |what: &str, group: Group, seconds| -> anyhow::Result<[f64; 2]> {
            let server = start()?;
            self.download(&server, path, Verify::Sha256(self.digest))?;
            let report = run(&server, path, group, Duration::from_secs(seconds))?;
            let (first, peaks) = memory(&report)?;
            let moved = &report.groups[0];
            ensure!(
                moved.responses >= clients as u64,
                "{what}: {} of {clients} were answered",
                moved.responses
            );
            let what = format!("{clients} {what}");
            row(&format!("{what}: before"), mib(first), "MiB");
            row(&format!("{what}: sockets"), mib(peaks.kernel), "MiB");
            if moved.class == Class::Slow {
                row(&format!("{what}: received"), rate(moved), "MB/s");
            }
            let most = format!("{what}: process and sockets");
            Ok([mib(first), row(&most, mib(peaks.together), "MiB")])
        };
        let slow = Group {
            rate: Some(SLOW),
            ..Group::new(Class::Slow, clients)
        };
        let [_, slow] = crowd("slow", slow, slow_seconds)?;
        let stalled = Group::new(Class::Stalled, clients);
        let [before, stalled] = crowd("stalled", stalled, stalled_seconds)?;
        Ok(Figures {
            name,
            cold,
            cold_cpu,
            warm: warm_one,
            warm_cpu,
            warm_all_cpu: warm_cpu + warm_behind,
            many: warm_many,
            many_cpu,
            slow,
            stalled,
            stalled_each: (stalled - before) * 1024.0 / clients as f64,
        })
    }

    /// One download of the whole object.
    fn download(&self, server: &Server, path: &str, verify: Verify) -> anyhow::Result<Report> {
        let reading = match verify {
            Verify::No => Reading::Discard,
            _ => Reading::Copy,
        };
        let group = Group {
            requests: Some(1),
            reading,
            verify: Some(verify),
            ..fast(1)
        };
        let report = run(server, path, group, Duration::from_secs(120))?;
        ensure!(
            report.groups[0].completed == 1 && report.groups[0].body_bytes == self.bytes as u64,
            "/{path} was not received whole and right: {:?}",
            report.groups[0].faults
        );
        Ok(report)
    }
}

/// Clients that take all they can, at little cost.
fn fast(clients: usize) -> Group {
    Group {
        reading: Reading::Discard,
        ..Group::new(Class::Fast, clients)
    }
}

fn run(server: &Server, path: &str, group: Group, duration: Duration) -> anyhow::Result<Report> {
    let mut plan = Plan::new(&server.url(path));
    plan.duration = duration;
    plan.timeout = duration;
    plan.watch = Some(Watch {
        pids: vec![server.pid()],
        children: true,
        ..Watch::default()
    });
    plan.groups.push(group);
    Ok(penstock_load::run(&plan)?)
}

fn rate(group: &GroupReport) -> f64 {
    group.bytes_per_second / 1e6
}

fn cpu(report: &Report) -> anyhow::Result<f64> {
    let watched = report.server.as_ref();
    Ok(watched
        .context("the server was not watched")?
        .cpu
        .server_per_gb)
}

/// Of process and sockets: before the clients came, and the most.
fn memory(report: &Report) -> anyhow::Result<(u64, Peaks)> {
    let watched = report.server.as_ref();
    let watched = watched.context("the server was not watched")?;
    let first = watched.samples.first().context("no sample")?;
    Ok((first.together(), watched.peaks))
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1 << 20) as f64
}

/// The object.
fn content(bytes: usize) -> Vec<u8> {
    let mut content = vec![0; bytes];
    seed::fill(&mut content, 1);
    content
}

fn directory(place: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let directory = place.join(name);
    fs::create_dir_all(&directory)?;
    Ok(directory)
}

/// SeaweedFS, all of it in one process: master, volume server, filer and S3.
struct Weed {
    program: PathBuf,
    directory: PathBuf,
    s3: SocketAddr,
    filer: SocketAddr,
    /// It remembers addresses, so each start has the same ones.
    others: [SocketAddr; 6],
}

impl Weed {
    fn new(program: PathBuf, place: &Path) -> anyhow::Result<Weed> {
        let directory = directory(place, "seaweedfs")?;
        fs::write(directory.join("identities.json"), IDENTITIES)?;
        let mut others = [launch::free_address()?; 6];
        for address in &mut others {
            *address = launch::free_address()?;
        }
        Ok(Weed {
            program,
            directory,
            s3: launch::free_address()?,
            filer: launch::free_address()?,
            others,
        })
    }

    fn start(&self) -> anyhow::Result<Server> {
        let directory = self.directory.display();
        let mut command = server_command(&self.program, &self.directory);
        command.extend([
            "-filer".to_owned(),
            "-s3".to_owned(),
            "-s3.port.iceberg=0".to_owned(),
            "-s3.port.lance=0".to_owned(),
            format!("-s3.config={directory}/identities.json"),
            format!("-s3.port={}", self.s3.port()),
            format!("-filer.port={}", self.filer.port()),
        ]);
        let names = [
            "master.port",
            "master.port.grpc",
            "volume.port",
            "volume.port.grpc",
            "filer.port.grpc",
            "s3.port.grpc",
        ];
        let ports = names.iter().zip(&self.others);
        command.extend(ports.map(|(name, address)| format!("-{name}={}", address.port())));
        let log = self.directory.join("log");
        let server = Server::start_silent(None, &command, &log, self.s3)?;
        // When told to end, it takes ten seconds. What it was given is in its files by then.
        let server = server.killed();
        // Buckets are directories of the filer. One that is there is a conflict.
        for bucket in buckets() {
            let path = format!("/buckets/{bucket}/");
            wait(|| Ok(matches!(ask(self.filer, "POST", &path, &[])?.0, 201 | 409)))
                .with_context(|| format!("can't make the bucket {bucket}"))?;
        }
        // It knows its volumes later than it listens; an object that isn't there is 404 before and after.
        let path = format!("/{PLAIN}/try");
        wait(|| {
            let put = ask(self.filer, "PUT", &format!("/buckets{path}"), b"try")?;
            Ok(put.0 == 201 && ask(self.s3, "GET", &path, &[])? == (200, b"try".to_vec()))
        })
        .context("SeaweedFS does not give what it stored")?;
        Ok(server)
    }

    /// Stores the object plainly and in shares. Returns its SHA-256.
    fn fill(&self, options: &Options, bytes: usize) -> anyhow::Result<[u8; 32]> {
        let _server = self.start()?;
        let content = content(bytes);
        let path = format!("/buckets/{PLAIN}/{LARGE}");
        let (status, said) = ask(self.filer, "PUT", &path, &content)?;
        ensure!(
            status == 201,
            "storing {path}: {status}, {}",
            String::from_utf8_lossy(&said)
        );
        let file = self.directory.join(LARGE);
        fs::write(&file, &content)?;
        let program = launch::penstock(options.penstock.as_deref())?;
        let shape = SHAPE.map(|shares| shares.to_string());
        let file_name = file.display().to_string();
        let put = [
            "put", "--key", LARGE, "--data", &shape[0], "--parity", &shape[1], &file_name,
        ];
        for words in [&["init"][..], &put] {
            let mut command = Command::new(&program);
            command.envs(KEYS.iter().filter_map(|key| key.split_once('=')));
            command.args(words);
            for store in self.shares() {
                command.arg("--store").arg(store);
            }
            let done = command.output()?;
            ensure!(
                done.status.success(),
                "penstock {}: {}",
                words[0],
                String::from_utf8_lossy(&done.stderr)
            );
        }
        fs::remove_file(&file)?;
        Ok(Sha256::digest(&content).into())
    }

    /// The stores of the shares.
    fn shares(&self) -> Vec<PathBuf> {
        let url = |number| {
            let s3 = self.s3;
            PathBuf::from(format!(
                "s3://store{number}?endpoint=http://{s3}&region=us-east-1"
            ))
        };
        (0..STORES).map(url).collect()
    }
}

/// The names of all buckets.
fn buckets() -> impl Iterator<Item = String> {
    (0..STORES)
        .map(|number| format!("store{number}"))
        .chain([PLAIN.to_owned()])
}

fn penstock(options: &Options, weed: &Weed, place: &Path) -> anyhow::Result<Server> {
    let cache = directory(place, "penstock")?;
    let more = format!(
        "--cache={} --memory=256MiB --max-connections-per-address=unlimited",
        cache.display()
    );
    let program = launch::penstock(options.penstock.as_deref())?;
    let mut command = vec!["env".to_owned()];
    command.extend(KEYS.map(str::to_owned));
    command.extend(launch::serve_command(
        &program,
        &options.io,
        &weed.shares(),
        &more,
    ));
    Server::start(None, &command, &place.join("log"))
}

/// The version of the `rclone` in the path.
fn rclone_version() -> Option<String> {
    let output = Command::new("rclone").arg("version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().next().map(str::to_owned)
}

fn rclone(weed: &Weed, directory: &Path) -> anyhow::Result<Server> {
    let address = launch::free_address()?;
    let command: Vec<String> = vec![
        "env".to_owned(),
        // Some versions refuse to talk to S3 at all with this, even by HTTP.
        "--unset=AWS_CA_BUNDLE".to_owned(),
        "RCLONE_CONFIG_WEED_TYPE=s3".to_owned(),
        "RCLONE_CONFIG_WEED_PROVIDER=Other".to_owned(),
        "RCLONE_CONFIG_WEED_ACCESS_KEY_ID=key".to_owned(),
        "RCLONE_CONFIG_WEED_SECRET_ACCESS_KEY=secret".to_owned(),
        format!("RCLONE_CONFIG_WEED_ENDPOINT=http://{}", weed.s3),
        "rclone".to_owned(),
        "serve".to_owned(),
        "http".to_owned(),
        format!("weed:{PLAIN}"),
        "--config=/dev/null".to_owned(),
        format!("--addr={address}"),
        "--read-only".to_owned(),
        "--vfs-cache-mode=full".to_owned(),
        format!("--cache-dir={}", directory.join("cache").display()),
    ];
    Server::start_silent(None, &command, &directory.join("log"), address)
}
