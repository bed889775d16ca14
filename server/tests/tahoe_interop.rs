//! A real Tahoe-LAFS grid on loopback. Penstock downloads, from the storage nodes' disks, files that the grid's own
//! gateway uploaded; and the grid's gateway downloads files that this repository's test writer made.
//!
//! Needs Tahoe-LAFS (`pip install tahoe-lafs`): the command `tahoe`, or the program named by PENSTOCK_TAHOE.

mod common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::{Noise, Server, assert_same, get, penstock, program, run, wait_until};
use decode_kernel::tahoe::{Cap, ChkCap};
use penstock_store::tahoe::write::{Upload, content, on_nodes, segment_bytes};
use serde_json::Value;

/// A running process of the grid, killed when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One storage node, which is a gateway too, with its own encoding.
struct Node {
    dir: PathBuf,
    web: SocketAddr,
    _process: Process,
}

struct Grid {
    nodes: Vec<Node>,
    _introducer: Process,
    _root: tempfile::TempDir,
}

/// k, n and the longest segment of each node's uploads; `None` is Tahoe's default.
const ENCODINGS: [(u16, u16, Option<u64>); 3] =
    [(3, 10, None), (2, 4, Some(131_072)), (1, 3, Some(1000))];

fn tahoe() -> Option<Command> {
    let named = std::env::var("PENSTOCK_TAHOE");
    program(named.as_deref().unwrap_or("tahoe"))
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// `--port` and `--location` of a node.
fn listen(command: &mut Command) {
    let port = free_port();
    command
        .arg("--listen=tcp")
        .arg(format!("--port=tcp:{port}:interface=127.0.0.1"));
    command.arg(format!("--location=tcp:127.0.0.1:{port}"));
}

/// Runs a node that was created in `dir`; its output goes to a file beside it.
fn start(dir: &Path) -> Process {
    let log = File::create(dir.with_extension("log")).unwrap();
    let mut command = tahoe().expect("it was there before");
    command.args(["run", "--allow-stdin-close"]).arg(dir);
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    Process(command.spawn().unwrap())
}

impl Grid {
    /// Starts an introducer and a node for each encoding, all connected. `None` if Tahoe is not installed.
    fn start() -> Option<Grid> {
        let mut command = tahoe()?;
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("introducer");
        command.arg("create-introducer");
        listen(&mut command);
        run(command.arg(&dir));
        let introducer = start(&dir);
        let furl = wait_until(|| {
            let furl = fs::read_to_string(dir.join("private/introducer.furl"));
            let furl = furl.map_err(|error| error.to_string())?;
            if furl.trim().is_empty() {
                Err("no furl".to_owned())
            } else {
                Ok(furl)
            }
        });
        let nodes: Vec<Node> = ENCODINGS
            .iter()
            .enumerate()
            .map(|(index, (k, n, segment_max))| {
                let dir = root.path().join(format!("node{index}"));
                let web: SocketAddr = ([127, 0, 0, 1], free_port()).into();
                let mut command = tahoe().expect("it was there before");
                command
                    .arg("create-node")
                    .arg(format!("--introducer={}", furl.trim()));
                command.arg(format!("--webport=tcp:{}:interface=127.0.0.1", web.port()));
                command
                    .arg(format!("--shares-needed={k}"))
                    .arg(format!("--shares-total={n}"));
                command
                    .arg("--shares-happy=1")
                    .arg(format!("--nickname=node{index}"));
                listen(&mut command);
                run(command.arg(&dir));
                if let Some(max) = segment_max {
                    let path = dir.join("tahoe.cfg");
                    let key = "shares._max_immutable_segment_size_for_testing";
                    let text = fs::read_to_string(&path).unwrap();
                    let text = text.replace("[client]\n", &format!("[client]\n{key} = {max}\n"));
                    fs::write(path, text).unwrap();
                }
                Node {
                    _process: start(&dir),
                    dir,
                    web,
                }
            })
            .collect();
        for node in &nodes {
            wait_until(|| {
                let (status, body) = ask(node.web, "GET", "/?t=json", &[])?;
                let found: Value = serde_json::from_slice(&body)
                    .map_err(|error| format!("status {status}: {error}"))?;
                let servers = found["servers"].as_array().cloned().unwrap_or_default();
                let up = |server: &&Value| server["connection_status"] == "connected";
                match servers.iter().filter(up).count() == ENCODINGS.len() {
                    true => Ok(()),
                    false => Err(format!("not all connected: {found}")),
                }
            });
        }
        Some(Grid {
            nodes,
            _introducer: introducer,
            _root: root,
        })
    }

    fn dirs(&self) -> Vec<PathBuf> {
        self.nodes.iter().map(|node| node.dir.clone()).collect()
    }

    /// The share files of a cap, on all nodes.
    fn shares(&self, cap: &ChkCap) -> Vec<PathBuf> {
        let mut shares = Vec::new();
        for node in &self.nodes {
            let dir = node
                .dir
                .join("storage/shares")
                .join(cap.storage_index().dir());
            for entry in fs::read_dir(dir).into_iter().flatten() {
                shares.push(entry.unwrap().path());
            }
        }
        let number = |path: &PathBuf| -> u16 {
            path.file_name().unwrap().to_str().unwrap().parse().unwrap()
        };
        shares.sort_by_key(number);
        shares
    }

    /// Starts Penstock as a gateway to these nodes.
    fn gateway(&self) -> Server {
        let mut command = penstock();
        command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        self.dirs().iter().for_each(|dir| {
            command.arg("--tahoe-node").arg(dir);
        });
        Server::launch(command).unwrap_or_else(|error| panic!("the gateway did not start: {error}"))
    }

    /// Runs `penstock get` or `verify` with a cap. Returns its exit code and standard output.
    fn penstock(&self, command: &str, cap: &str) -> (Option<i32>, Vec<u8>) {
        let mut run = penstock();
        run.arg(command).arg(cap);
        self.dirs().iter().for_each(|dir| {
            run.arg("--tahoe-node").arg(dir);
        });
        let output = run.output().unwrap();
        (output.status.code(), output.stdout)
    }
}

/// Sends a request to a node of the grid, in HTTP/1.0 so that the response ends with the connection. Returns status and
/// body.
fn ask(web: SocketAddr, method: &str, path: &str, body: &[u8]) -> Result<(u16, Vec<u8>), String> {
    let exchange = || -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(web)?;
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nContent-Length: {length}\r\n\r\n"
        )?;
        stream.write_all(body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    };
    let answer = exchange().map_err(|error| format!("{method} {path}: {error}"))?;
    let end = answer
        .windows(4)
        .position(|bytes| bytes == b"\r\n\r\n")
        .ok_or("no head")?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    Ok((status.ok_or(head)?, answer[end + 4..].to_vec()))
}

fn upload(node: &Node, path: &str, method: &str, body: &[u8]) -> String {
    let (status, answer) = ask(node.web, method, path, body).unwrap();
    let answer = String::from_utf8_lossy(&answer).trim().to_owned();
    assert!(matches!(status, 200 | 201), "{status} {answer}");
    answer
}

#[test]
fn a_grid_on_loopback() {
    let Some(grid) = Grid::start() else { return };
    let gateway = grid.gateway();
    download_what_tahoe_uploaded(&grid, &gateway);
    tahoe_downloads_what_the_test_writer_made(&grid);
    unsupported_caps_are_refused(&grid, &gateway);
}

/// Whole, by ranges, from all shares and from the last k of them.
fn download_what_tahoe_uploaded(grid: &Grid, gateway: &Server) {
    let mut files = 0;
    for (index, (node, (k, n, segment_max))) in grid.nodes.iter().zip(ENCODINGS).enumerate() {
        for size in [
            0, 1, 55, 56, 1000, 4099, 131_072, 131_073, 1_048_576, 2_500_001,
        ] {
            if size > 200 * segment_max.unwrap_or(1 << 20) as usize {
                continue; // thousands of segments of a kilobyte each take Tahoe long
            }
            let bytes = Noise::new((size * 10 + index) as u64).bytes(size);
            let text = upload(node, "/uri", "PUT", &bytes);
            let what = format!("{size} bytes, {k} of {n}");
            let path = format!("/uri/{text}");
            let check = || {
                let whole = get(gateway.objects, &path, &[]);
                assert_eq!(whole.status(), 200, "{what}: {}", gateway.log());
                assert_same(&whole.body, &bytes, &what);
                if size > 20 {
                    let part = get(gateway.objects, &path, &["Range: bytes=17-18"]);
                    assert_eq!(part.status(), 206, "{what}");
                    assert_same(&part.body, &bytes[17..19], &what);
                }
                let (status, got) = grid.penstock("get", &text);
                assert_eq!(status, Some(0), "{what}");
                assert_same(&got, &bytes, &what);
            };
            check();
            assert_eq!(grid.penstock("verify", &text).0, Some(0), "{what}");
            files += 1;
            let Cap::Chk(cap) = Cap::parse(&text).unwrap() else {
                continue;
            };
            assert_eq!((cap.k(), cap.n(), cap.size()), (k, n, size as u64));
            let shares = grid.shares(&cap);
            assert_eq!(shares.len(), usize::from(n), "{what}");
            for share in &shares[..usize::from(n - k)] {
                fs::remove_file(share).unwrap();
            }
            check();
            assert_eq!(grid.penstock("verify", &text).0, Some(1), "{what}");
        }
    }
    assert!(files > 20, "{files} files");
}

/// The test writer's shares, which other tests treat as Tahoe's, are shares for Tahoe too.
fn tahoe_downloads_what_the_test_writer_made(grid: &Grid) {
    for (key, (k, n, size, max, container, layout)) in [
        (3, 10, 1000, 1 << 20, 2, 1),
        (3, 5, 300_000, 131_072, 1, 1),
        (2, 4, 300_000, 4096, 2, 2),
        (7, 12, 50_000, 1000, 2, 1),
    ]
    .into_iter()
    .enumerate()
    {
        let bytes = Noise::new(size).bytes(size as usize);
        let segment_bytes = segment_bytes(max, size, k);
        let key = [key as u8 + 1; 16];
        let upload = Upload {
            key,
            k,
            n,
            segment_bytes,
            container,
            layout,
            ..Upload::default()
        };
        let dirs = grid.dirs();
        let cap = upload
            .write(size, &content(&bytes), &on_nodes(&dirs))
            .unwrap();
        let path = format!("/uri/{}", cap.expose());
        let (status, got) = ask(grid.nodes[0].web, "GET", &path, &[]).unwrap();
        assert_eq!(status, 200, "{k} of {n}: {}", String::from_utf8_lossy(&got));
        assert_same(&got, &bytes, "what Tahoe reads");
    }
}

fn unsupported_caps_are_refused(grid: &Grid, gateway: &Server) {
    let node = &grid.nodes[0];
    for text in [
        upload(node, "/uri?format=SDMF", "PUT", b"mutable"),
        upload(node, "/uri?format=MDMF", "PUT", b"mutable"),
        upload(node, "/uri?t=mkdir", "POST", b""),
    ] {
        assert!(text.starts_with("URI:"), "{text}");
        let answer = get(gateway.objects, &format!("/uri/{text}"), &[]);
        assert_eq!(answer.status(), 501);
        assert_eq!(grid.penstock("get", &text).0, Some(1));
    }
}
