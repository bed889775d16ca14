//! Tahoe-LAFS, where it is installed: one storage node, and a gateway before it, the program of its own that gives files
//! by HTTP. They know each other by a file, without an introducer.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use super::launch::{self, Server};
use super::seaweed::{ask, wait};

/// The program: `given`, or the one in the path. `None` when it is not installed.
///
/// # Errors
///
/// If it is there and doesn't run, or `given` and not there.
pub fn find(given: Option<&Path>) -> anyhow::Result<Option<(PathBuf, String)>> {
    launch::installed("tahoe", given, "--version")
}

/// A storage node and a gateway, with their directories.
pub struct Grid {
    program: PathBuf,
    storage: Node,
    gateway: Node,
}

/// A node's directory, and where it listens.
struct Node {
    directory: PathBuf,
    address: SocketAddr,
}

impl Grid {
    /// Makes both nodes in a directory. New files get `total` shares, all on the one storage node, of which any `needed`
    /// give them back.
    ///
    /// # Errors
    ///
    /// If the program fails; the message has what it said.
    pub fn make(
        program: PathBuf,
        [needed, total]: [u16; 2],
        directory: &Path,
    ) -> anyhow::Result<Grid> {
        let node = |name: &str| {
            anyhow::Ok(Node {
                directory: directory.join(name),
                address: launch::free_address()?,
            })
        };
        let grid = Grid {
            program,
            storage: node("storage")?,
            gateway: node("gateway")?,
        };
        let at = grid.storage.address;
        grid.create(
            &grid.storage,
            &[
                "create-node".to_owned(),
                "--listen=tcp".to_owned(),
                format!("--port=tcp:{}:interface={}", at.port(), at.ip()),
                format!("--location=tcp:{at}"),
                "--webport=none".to_owned(),
            ],
        )?;
        let at = grid.gateway.address;
        grid.create(
            &grid.gateway,
            &[
                "create-client".to_owned(),
                format!("--webport=tcp:{}:interface={}", at.port(), at.ip()),
                format!("--shares-needed={needed}"),
                "--shares-happy=1".to_owned(),
                format!("--shares-total={total}"),
            ],
        )?;
        Ok(grid)
    }

    fn create(&self, node: &Node, words: &[String]) -> anyhow::Result<()> {
        let output = Command::new(&self.program)
            .args(words)
            .arg(&node.directory)
            .stdin(Stdio::null())
            .output()?;
        ensure!(
            output.status.success(),
            "tahoe {}: {}{}",
            words[0],
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    fn run(&self, node: &Node) -> anyhow::Result<Server> {
        let command = [
            self.program.display().to_string(),
            "run".to_owned(),
            // Else it ends with its standard input, which a server of a benchmark has none of.
            "--allow-stdin-close".to_owned(),
            node.directory.display().to_string(),
        ];
        let log = node.directory.join("log");
        Server::start_silent(None, &command, &log, node.address)
    }

    /// Starts the storage node, and tells the gateway where it is.
    ///
    /// # Errors
    ///
    /// As [`Server::start_silent`], and if it doesn't say how it can be reached.
    pub fn start_storage(&self) -> anyhow::Result<Server> {
        let server = self.run(&self.storage)?;
        let read = |file: &str| {
            let text = fs::read_to_string(self.storage.directory.join(file));
            text.with_context(|| format!("no {file} of the storage node"))
        };
        // It writes these when it starts for the first time.
        wait(|| Ok(!read("private/storage.furl")?.is_empty()))?;
        let (furl, key) = (read("private/storage.furl")?, read("node.pubkey")?);
        let servers = format!(
            "storage:\n  {}:\n    ann:\n      nickname: storage\n      anonymous-storage-FURL: {}\n",
            key.trim().trim_start_matches("pub-"),
            furl.trim()
        );
        fs::write(self.gateway.directory.join("private/servers.yaml"), servers)?;
        Ok(server)
    }

    /// Starts the gateway, and waits until it is connected to the storage node, which must run.
    ///
    /// # Errors
    ///
    /// As [`Server::start_silent`], and if it isn't connected in time.
    pub fn start_gateway(&self) -> anyhow::Result<Server> {
        let server = self.run(&self.gateway)?;
        wait(|| {
            let (_, page) = ask(self.gateway.address, "GET", "/?t=json", &[])?;
            Ok(String::from_utf8_lossy(&page).contains("Connected to"))
        })
        .context("the gateway does not find the storage node")?;
        Ok(server)
    }

    /// Stores a file, by the gateway, which must run. Returns the path to get it by, without a leading slash.
    ///
    /// # Errors
    ///
    /// If it is not stored; the message has what the gateway said.
    pub fn put(&self, content: &[u8]) -> anyhow::Result<String> {
        let (status, said) = ask(self.gateway.address, "PUT", "/uri", content)?;
        let said = String::from_utf8_lossy(&said);
        ensure!(
            matches!(status, 200 | 201) && said.starts_with("URI:CHK:"),
            "storing a file in Tahoe-LAFS: {status}, {said}"
        );
        Ok(format!("uri/{}", said.trim()))
    }
}
