//! Three SeaweedFS clusters and two edges, by the script that the guide shows.

mod common;

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use common::get;
use sha2::{Digest as _, Sha256};

/// Whether a tool can be run.
fn has(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(tool).is_file())
}

/// The first of a hundred ports that seem to be free.
fn ports() -> u16 {
    let free = |first: &u16| {
        (*first..first + 100)
            .step_by(3)
            .all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok())
    };
    (20_000..30_000)
        .step_by(100)
        .find(free)
        .expect("a hundred free ports")
}

/// Ends what the script has started, however the test ends.
struct Clusters<'a> {
    dir: &'a Path,
    ports: u16,
}

impl Clusters<'_> {
    #[track_caller]
    fn run(&self, action: &[&str]) {
        let script =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/remote/three-clusters.sh");
        let penstock = Path::new(env!("CARGO_BIN_EXE_penstock")).parent().unwrap();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(
            [penstock.to_owned()]
                .into_iter()
                .chain(std::env::split_paths(&path)),
        );
        let mut command = Command::new("bash");
        command
            .arg(script)
            .arg(action[0])
            .arg(self.dir)
            .args(&action[1..]);
        command
            .env("PATH", path.unwrap())
            .env("PORTS", self.ports.to_string());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{action:?}: {output:?}");
    }
}

impl Drop for Clusters<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.run(&["down"]);
        }
    }
}

#[test]
fn two_edges_serve_an_object_of_three_clusters_and_lose_one() {
    for tool in ["weed", "curl", "bash", "setsid"] {
        if !has(tool) {
            println!("skipped: {tool} is not installed (weed: SeaweedFS)");
            return;
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let clusters = Clusters {
        dir: dir.path(),
        ports: ports(),
    };
    clusters.run(&["up"]);
    let sample = std::fs::read(dir.path().join("sample.bin")).unwrap();
    let wanted = Sha256::digest(&sample);
    let served = |edge: u16| {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], clusters.ports + 80 + edge));
        Sha256::digest(get(address, "/sample.bin", &[]).body)
    };
    assert_eq!(served(1), wanted);
    clusters.run(&["lose", "2"]);
    assert_eq!(served(2), wanted);
    assert_eq!(served(1), wanted);
}
