//! Stores that are buckets, each behind a proxy that does what a test says.

use std::fs;
use std::ops::Range;
use std::path::PathBuf;
use std::process::Command;

use penstock_faultproxy::{Chance, DirectoryBuckets, FaultProxy, Faults, Seen};

use super::{Backend, Noise, Server, Stores, assert_same, get};

pub const BLOCK: u32 = 64 << 10;
/// Some extents of each share, and an end that fills no block.
pub const SIZE: usize = 4 * (3 << 20) + 12_345;

/// For tests that count: on a busy machine others may be asked in place of a store that is late.
pub const ONCE: [&str; 1] = ["--no-hedging"];

/// Six stores, each behind a proxy of its own.
pub struct Buckets {
    pub stores: Stores,
    _server: DirectoryBuckets,
    pub proxies: Vec<FaultProxy>,
}

impl Buckets {
    pub fn new() -> Buckets {
        let stores = Stores::new(6);
        let root = stores.file("buckets");
        fs::create_dir(&root).unwrap();
        for (number, path) in stores.paths.iter().enumerate() {
            std::os::unix::fs::symlink(path, root.join(format!("store-{number}"))).unwrap();
        }
        let server = DirectoryBuckets::start(&root).unwrap();
        let any = "127.0.0.1:0".parse().unwrap();
        let proxy = |seed| FaultProxy::start(any, server.address(), Faults::default(), seed);
        let proxies: Vec<FaultProxy> = (0..6).map(|seed| proxy(seed).unwrap()).collect();
        for proxy in &proxies {
            proxy.keep_seen();
        }
        Buckets {
            stores,
            _server: server,
            proxies,
        }
    }

    pub fn url(&self, store: usize) -> String {
        format!(
            "s3://store-{store}?endpoint=http://{}&region=us-east-1",
            self.proxies[store].address()
        )
    }

    pub fn cache(&self) -> PathBuf {
        self.stores.file("cache")
    }

    pub fn command(&self, io: Backend, options: &[&str]) -> Command {
        let stores: Vec<String> = (0..6).map(|store| self.url(store)).collect();
        self.command_of(io, &stores, options)
    }

    pub fn command_of(&self, io: Backend, stores: &[String], options: &[&str]) -> Command {
        let mut command = super::penstock();
        command.arg("serve");
        for store in stores {
            command.args(["--store", store]);
        }
        command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        command.args(["--cores", "2"]);
        if !options.contains(&"--survey-every") {
            command.args(["--survey-every", "0s"]);
        }
        command.args(["--io", &io.to_string()]);
        command.arg("--cache").arg(self.cache());
        command.args(options);
        command
            .env("AWS_ACCESS_KEY_ID", "key")
            .env("AWS_SECRET_ACCESS_KEY", "secret");
        command
    }

    pub fn serve(&self, io: Backend, options: &[&str]) -> Server {
        Server::launch(self.command(io, options)).expect("it starts")
    }

    /// Stores that do this, the others do nothing wrong.
    pub fn set(&self, stores: &[usize], faults: &[&str]) {
        for (number, proxy) in self.proxies.iter().enumerate() {
            let struck = stores.contains(&number);
            let chances = faults.iter().filter(|_| struck);
            proxy.set(Faults {
                chances: chances
                    .map(|fault| fault.parse::<Chance>().unwrap())
                    .collect(),
                ..Faults::default()
            });
        }
    }

    /// What was asked of each store since the last time.
    pub fn seen(&self) -> Vec<Vec<Seen>> {
        self.proxies.iter().map(FaultProxy::take_seen).collect()
    }
}

/// The bytes of shares that were asked for.
pub fn fetched(seen: &[Seen]) -> Vec<Range<u64>> {
    let ranges = seen.iter().filter(|seen| seen.target.contains(".share"));
    ranges.filter_map(|seen| seen.range.clone()).collect()
}

pub fn content(seed: u64) -> Vec<u8> {
    Noise::new(seed).bytes(SIZE)
}

pub fn whole(server: &Server, path: &str, content: &[u8]) {
    let response = get(server.plain, path, &[]);
    assert_eq!(response.status(), 200, "{}", server.log());
    assert_same(&response.body, content, path);
}

pub fn all_serve(server: &Server) {
    server.wait_for_status("six stores that serve", |status| {
        let stores = status["stores"].as_array().unwrap();
        stores.iter().all(|store| store["state"] == "serving")
    });
}
