//! The gateway to Tahoe-LAFS grids: real and generated shares, whole and damaged, under names and ranges. Whatever the
//! shares are, a client gets the file's bytes, an error, or a reset; a cap is never printed.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::client::End;
use common::stores::flip;
use common::{
    Backend, Client, Noise, Server, assert_same, get, penstock, sha256, skip, together, wait_until,
};
use decode_kernel::tahoe::ChkCap;
use penstock_store::tahoe::write::{Upload, content, on_nodes};
use serde_json::Value;

on_both_backends! {
    the_fixtures_of_a_real_grid
    more_vectors_if_a_directory_is_named
    any_k_shares_suffice
    damaged_blocks_are_replaced
    a_bad_copy_does_not_hide_a_good_one
    shares_that_are_no_codeword_are_refused
    too_few_good_shares_are_answered_410
    too_few_good_shares_in_the_middle_reset_the_connection
    segments_over_the_limit_are_refused
    stalled_clients_of_one_segment_cost_one_verification
    stalled_clients_of_many_files_keep_nobody_from_another
    literal_files
    names_types_and_conditions
    other_caps_and_texts_are_refused
    stores_and_nodes_together
}

/// Nodes with the shares of one file.
struct Grid {
    _root: tempfile::TempDir,
    nodes: Vec<PathBuf>,
    cap: ChkCap,
}

impl Grid {
    fn new(nodes: usize, upload: &Upload<'_>, bytes: &[u8]) -> Grid {
        let root = tempfile::tempdir().unwrap();
        let nodes: Vec<PathBuf> = (0..nodes)
            .map(|i| root.path().join(i.to_string()))
            .collect();
        nodes.iter().for_each(|node| fs::create_dir(node).unwrap());
        let cap = upload
            .write(bytes.len() as u64, &content(bytes), &on_nodes(&nodes))
            .unwrap();
        Grid {
            _root: root,
            nodes,
            cap,
        }
    }

    fn share(&self, number: u16) -> PathBuf {
        on_nodes(&self.nodes)(self.cap.storage_index(), number).unwrap()
    }

    fn path(&self) -> String {
        format!("/uri/{}", self.cap.expose())
    }
}

/// A gateway to these nodes. Small pool buffers make it read even short segments in steps.
fn gateway(nodes: &[PathBuf], io: Backend, options: &[&str]) -> Server {
    let mut command = penstock();
    command.arg("serve").arg("--io").arg(io.to_string());
    command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    for node in nodes {
        command.arg("--tahoe-node").arg(node);
    }
    if !options.contains(&"--cores") {
        command.args(["--cores", "1"]);
    }
    command.args(options);
    Server::launch(command).unwrap_or_else(|error| panic!("the gateway did not start: {error}"))
}

/// Pool buffers that hold a usual segment at once, and pool buffers that don't.
const POOLS: [&[&str]; 2] = [&[], &["--pool-buffer-size", "64KiB"]];

/// Checks the whole file and some ranges of it.
fn assert_serves(server: &Server, path: &str, bytes: &[u8]) {
    let whole = get(server.objects, path, &[]);
    assert_eq!(whole.status(), 200, "{}", server.log());
    assert_same(&whole.body, bytes, "the whole file");
    let length = bytes.len();
    for (start, end) in [
        (0, 1),
        (length - 1, length),
        (length / 3, length / 2 + 1),
        (length / 2, length),
    ] {
        let field = format!("Range: bytes={start}-{}", end - 1);
        let part = get(server.objects, path, &[&field]);
        assert_eq!(part.status(), 206, "{field}");
        assert_same(&part.body, &bytes[start..end], &field);
    }
}

fn the_fixtures_of_a_real_grid(io: Backend) {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/store/tests/data/tahoe");
    assert!(vectors(&data, io) >= 5, "there are some");
}

fn more_vectors_if_a_directory_is_named(io: Backend) {
    match std::env::var_os("PENSTOCK_TAHOE_VECTORS") {
        None => skip("PENSTOCK_TAHOE_VECTORS names no directory of vectors"),
        Some(data) => assert!(vectors(Path::new(&data), io) > 0),
    }
}

/// Downloads every file of a set of vectors. Returns the number of files.
fn vectors(data: &Path, io: Backend) -> usize {
    let text = fs::read_to_string(data.join("vectors.json")).unwrap();
    let vectors: Value = serde_json::from_str(&text).unwrap();
    let nodes: Vec<PathBuf> = fs::read_dir(data.join("nodes"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let files = vectors["files"].as_array().unwrap();
    for pool in POOLS {
        let server = gateway(&nodes, io, pool);
        for file in files {
            let name = file["name"].as_str().unwrap();
            let path = format!("/uri/{}", file["cap"].as_str().unwrap());
            let whole = get(server.objects, &path, &[]);
            assert_eq!(whole.status(), 200, "{name}: {}", server.log());
            assert_eq!(
                sha256(&whole.body),
                file["sha256"].as_str().unwrap(),
                "{name}"
            );
            for range in file["ranges"].as_array().into_iter().flatten() {
                let number = |at: usize| range[at].as_u64().unwrap();
                let field = format!("Range: bytes={}-{}", number(0), number(1));
                let part = get(server.objects, &path, &[&field]);
                assert_eq!(part.status(), 206, "{name} {field}");
                assert_eq!(
                    sha256(&part.body),
                    range[2].as_str().unwrap(),
                    "{name} {field}"
                );
            }
        }
    }
    files.len()
}

fn any_k_shares_suffice(io: Backend) {
    let bytes = Noise::new(1).bytes(300_000);
    let upload = Upload {
        k: 2,
        n: 4,
        segment_bytes: 131_072,
        ..Upload::default()
    };
    let grid = Grid::new(4, &upload, &bytes);
    for pool in POOLS {
        for gone in [(0, 1), (0, 3), (1, 2), (2, 3)] {
            let lost = [gone.0, gone.1].map(|node| grid.nodes[node].clone());
            let nodes: Vec<PathBuf> = grid
                .nodes
                .iter()
                .filter(|node| !lost.contains(node))
                .cloned()
                .collect();
            let server = gateway(&nodes, io, pool);
            assert_serves(&server, &grid.path(), &bytes);
        }
    }
}

fn damaged_blocks_are_replaced(io: Backend) {
    let bytes = Noise::new(2).bytes(500_000);
    let upload = Upload {
        segment_bytes: 99_999,
        ..Upload::default()
    };
    // Every share is bad somewhere, but no segment in more than n - k of them; one is another file's.
    let grid = Grid::new(10, &upload, &bytes);
    for share in 0..8u16 {
        flip(
            &grid.share(share),
            12 + 0x24 + u64::from(share % 6) * 33_333 + 7,
        );
    }
    fs::copy(grid.share(8), grid.share(9)).unwrap();
    for pool in POOLS {
        let server = gateway(&grid.nodes, io, pool);
        assert_serves(&server, &grid.path(), &bytes);
        server.wait_for_log("bad block");
        assert_eq!(server.total("reset_bodies"), 0);
        assert_secret(&server, &grid.cap);
    }
}

/// The key must not be in the log, the status or the metrics.
fn assert_secret(server: &Server, cap: &ChkCap) {
    let text = cap.expose();
    let key = text.split(':').nth(2).unwrap();
    assert!(!server.log().contains(key), "the key is in the log");
    assert!(!server.status().to_string().contains(key), "in the status");
    let metrics = get(server.admin, "/metrics", &[]);
    assert!(!metrics.text().contains(key), "in the metrics");
}

fn a_bad_copy_does_not_hide_a_good_one(io: Backend) {
    let bytes = Noise::new(3).bytes(100_000);
    let upload = Upload {
        k: 2,
        n: 2,
        segment_bytes: 60_000,
        ..Upload::default()
    };
    let grid = Grid::new(4, &upload, &bytes);
    let on_another = |node: usize, number: u16| {
        let below = Path::new("storage/shares").join(grid.cap.storage_index().dir());
        let copy = grid.nodes[node].join(below).join(number.to_string());
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(grid.share(number), &copy).unwrap();
        copy
    };
    on_another(2, 0);
    let bad = on_another(3, 1);
    flip(&grid.share(0), 100);
    flip(&bad, 50_000);
    // A truncated share, and a file that is no share.
    fs::write(on_another(2, 1), b"short").unwrap();
    let server = gateway(&grid.nodes, io, &[]);
    assert_serves(&server, &grid.path(), &bytes);
}

fn shares_that_are_no_codeword_are_refused(io: Backend) {
    let bytes = Noise::new(4).bytes(200_000);
    let lie = |number: u16, segment: u64, at: u64, block: &mut [u8]| {
        if number == 3 && segment == 1 && at == 0 {
            block[0] ^= 1;
        }
    };
    let upload = Upload {
        k: 2,
        n: 4,
        segment_bytes: 100_000,
        edit_block: Some(&lie),
        ..Upload::default()
    };
    let grid = Grid::new(4, &upload, &bytes);
    // With shares that agree, the file is served.
    let server = gateway(&grid.nodes[..3], io, &[]);
    assert_serves(&server, &grid.path(), &bytes);
    let few = [grid.nodes[1].clone(), grid.nodes[3].clone()];
    for pool in POOLS {
        let server = gateway(&few, io, pool);
        let whole = get(server.objects, &grid.path(), &["Range: bytes=0-99999"]);
        assert_same(&whole.body, &bytes[..100_000], "the first segment");
        for _ in 0..2 {
            let rest = get(server.objects, &grid.path(), &["Range: bytes=100000-"]);
            assert_eq!(rest.status(), 410);
        }
        server.wait_for_log("the ciphertext is not what the cap stands for");
    }
}

fn too_few_good_shares_are_answered_410(io: Backend) {
    let bytes = Noise::new(5).bytes(50_000);
    let grid = Grid::new(10, &Upload::default(), &bytes);
    let server = gateway(&grid.nodes[..2], io, &[]);
    let answer = get(server.objects, &grid.path(), &[]);
    assert_eq!(answer.status(), 410);
    assert!(answer.text().contains("fewer good shares"), "{answer:?}");
    server.wait_for_log(&grid.cap.storage_index().to_string());
    // A file without shares on any node.
    let other = ChkCap::new([9; 16], *grid.cap.ueb_hash(), 3, 10, 50_000).unwrap();
    let path = format!("/uri/{}", other.expose());
    assert_eq!(get(server.objects, &path, &[]).status(), 404);
    assert_secret(&server, &grid.cap);
    assert_secret(&server, &other);
    // The right number of shares, all of them bad.
    for share in 0..10 {
        flip(&grid.share(share), 100);
    }
    let server = gateway(&grid.nodes, io, &[]);
    assert_eq!(get(server.objects, &grid.path(), &[]).status(), 410);
    assert!(server.total("sent_bytes") < 1000);
}

fn too_few_good_shares_in_the_middle_reset_the_connection(io: Backend) {
    let bytes = Noise::new(6).bytes(1 << 20);
    let upload = Upload {
        segment_bytes: 131_073,
        ..Upload::default()
    };
    let grid = Grid::new(10, &upload, &bytes);
    for share in 0..8 {
        flip(&grid.share(share), 12 + 0x24 + 5 * 43_691);
    }
    let server = gateway(&grid.nodes, io, &[]);
    let mut client = Client::connect(server.objects);
    client.ask("GET", &grid.path(), &[]);
    assert_eq!(client.head().length(), 1 << 20);
    let (body, end) = client.until_end();
    assert_eq!(end, End::Reset);
    assert!(body.len() <= 5 * 131_073, "{} bytes", body.len());
    assert_same(&body, &bytes[..body.len()], "what came");
    server.wait_for_log("segment 5: 2 shares have a good block, 3 are needed");
    assert_eq!(server.total("reset_bodies"), 1);
}

fn segments_over_the_limit_are_refused(io: Backend) {
    let bytes = Noise::new(7).bytes(400_000);
    let upload = Upload {
        segment_bytes: 399_999,
        ..Upload::default()
    };
    let grid = Grid::new(10, &upload, &bytes);
    let server = gateway(&grid.nodes, io, &["--tahoe-segment-max", "128KiB"]);
    assert_eq!(get(server.objects, &grid.path(), &[]).status(), 501);
    server.wait_for_log("segment_size");
    let server = gateway(&grid.nodes, io, &["--tahoe-segment-max", "400KiB"]);
    assert_serves(&server, &grid.path(), &bytes);
}

fn stalled_clients_of_one_segment_cost_one_verification(io: Backend) {
    const CLIENTS: usize = 200;
    let bytes = Noise::new(8).bytes(8 << 20);
    let upload = Upload {
        segment_bytes: (8 << 20) + 1,
        ..Upload::default()
    };
    let grid = Grid::new(10, &upload, &bytes);
    let server = gateway(&grid.nodes, io, &["--memory", "48MiB"]);
    let mut clients: Vec<Client> = (0..CLIENTS)
        .map(|_| Client::connect_small(server.objects))
        .collect();
    for client in &mut clients {
        client.ask("GET", &grid.path(), &[]);
    }
    for client in &mut clients {
        assert_eq!(client.head().length(), 8 << 20);
        assert_same(&client.body(5000), &bytes[..5000], "the beginning");
    }
    server.wait_for_status("all buffers free", |status| {
        status["totals"]["pool_buffers_free"] == status["totals"]["pool_buffers"]
    });
    assert_eq!(server.total("verified_segments"), 1);
    assert!(server.rss_bytes() < 48 << 20);
    // A client that continues does not wait for the others, and costs no verification either.
    let mut first = clients.swap_remove(0);
    assert_same(&first.body((8 << 20) - 5000), &bytes[5000..], "the rest");
    assert_eq!(server.total("verified_segments"), 1);
}

/// As for objects: a client that waits needs no open files.
fn stalled_clients_of_many_files_keep_nobody_from_another(io: Backend) {
    const FILES: usize = 30;
    const BYTES: usize = 300_000;
    let root = tempfile::tempdir().unwrap();
    let nodes: Vec<PathBuf> = (0..10).map(|i| root.path().join(i.to_string())).collect();
    nodes.iter().for_each(|node| fs::create_dir(node).unwrap());
    let files: Vec<(Vec<u8>, String)> = (0..=FILES)
        .map(|file| {
            let bytes = Noise::new(file as u64).bytes(BYTES);
            let upload = Upload {
                key: [file as u8; 16],
                ..Upload::default()
            };
            let written = upload.write(BYTES as u64, &content(&bytes), &on_nodes(&nodes));
            (bytes, format!("/uri/{}", written.unwrap().expose()))
        })
        .collect();
    // Each file opens its ten shares and counts as two more: five files fit.
    let server = gateway(
        &nodes,
        io,
        &["--share-files", "64", "--send-timeout", "10m"],
    );
    let mut clients: Vec<Client> = files[..FILES]
        .iter()
        .map(|(_, path)| {
            let mut client = Client::connect_small(server.objects);
            client.ask("GET", path, &[]);
            assert_eq!(client.head().status, 200);
            client
        })
        .collect();
    let (bytes, path) = &files[FILES];
    let answer = get(server.objects, path, &[]);
    assert_eq!(answer.status(), 200, "another file");
    assert_same(&answer.body, bytes, "another file");
    // Data shares are gone by the time when they go on.
    for node in &nodes[..2] {
        fs::remove_dir_all(node.join("storage/shares")).unwrap();
    }
    for (client, (bytes, _)) in clients.iter_mut().zip(&files) {
        assert_same(&client.body(BYTES), bytes, "it goes on");
    }
    assert_eq!(server.total("reset_bodies"), 0);
    assert!(server.total("reopened") >= FILES as u64 - 5);
}

fn literal_files(io: Backend) {
    let root = tempfile::tempdir().unwrap();
    let server = gateway(&[root.path().to_owned()], io, &[]);
    let answer = get(server.objects, "/uri/URI:LIT:", &[]);
    assert_eq!((answer.status(), answer.body.len()), (200, 0));
    let hello = "/uri/URI:LIT:nbswy3dp";
    let answer = get(server.objects, hello, &[]);
    assert_eq!(answer.text(), "hello");
    let part = get(server.objects, hello, &["Range: bytes=1-3"]);
    assert_eq!((part.status(), part.text()), (206, "ell"));
    assert_eq!(part.field("Content-Range"), Some("bytes 1-3/5"));
    let etag = answer.field("ETag").unwrap();
    let again = get(server.objects, hello, &[&format!("If-None-Match: {etag}")]);
    assert_eq!(again.status(), 304);
    assert_eq!(
        get(server.objects, "/uri/URI:LIT:nbswy3dP", &[]).status(),
        400
    );
}

fn names_types_and_conditions(io: Backend) {
    let bytes = Noise::new(9).bytes(70_000);
    let grid = Grid::new(3, &Upload::default(), &bytes);
    let server = gateway(&grid.nodes, io, &[]);
    let cap = grid.cap.expose();
    let encoded = cap.replace(':', "%3A");
    for path in [
        format!("/uri/{encoded}"),
        format!("/uri?uri={encoded}"),
        format!("/file/{encoded}/@@named=/a.png"),
        format!("/named/{cap}/a.png"),
    ] {
        assert_same(&get(server.objects, &path, &[]).body, &bytes, "by any name");
    }
    let answer = Client::connect(server.objects).request(
        "HEAD",
        &format!("/file/{cap}/@@named=/s%C3%A9%22a.png?save=true"),
        &[],
    );
    assert_eq!((answer.status(), answer.body.len()), (200, 0));
    for (field, value) in [
        ("Content-Length", "70000"),
        ("Content-Type", "image/png"),
        ("Accept-Ranges", "bytes"),
        ("Referrer-Policy", "no-referrer"),
        ("Cache-Control", "private, max-age=31536000, immutable"),
        (
            "Content-Disposition",
            "attachment; filename=\"s__a.png\"; filename*=UTF-8''s%C3%A9%22a.png",
        ),
    ] {
        assert_eq!(answer.field(field), Some(value), "{field}");
    }
    let path = grid.path();
    let etag = answer.field("ETag").unwrap().to_owned();
    assert!(etag.starts_with('"') && etag.ends_with('"'), "{etag}");
    let same = format!("If-None-Match: {etag}");
    assert_eq!(get(server.objects, &path, &[&same]).status(), 304);
    let ranged = ["Range: bytes=5-9", &format!("If-Range: {etag}")];
    assert_eq!(get(server.objects, &path, &ranged).status(), 206);
    let other = ["Range: bytes=5-9", "If-Range: \"x\""];
    assert_eq!(get(server.objects, &path, &other).status(), 200);
    assert_eq!(
        get(server.objects, &path, &["Range: bytes=70000-"]).status(),
        416
    );
    let long = format!("{path}?filename={}", "a".repeat(256));
    assert_eq!(get(server.objects, &long, &[]).status(), 400);
    assert_secret(&server, &grid.cap);
}

fn other_caps_and_texts_are_refused(io: Backend) {
    let root = tempfile::tempdir().unwrap();
    let server = gateway(&[root.path().to_owned()], io, &[]);
    let key = "nbswy3dpnbswy3dpnbswy3dpne";
    for (path, status) in [
        (format!("/uri/URI:SSK:{key}:{key}"), 501),
        (format!("/uri/URI:MDMF-RO:{key}:{key}"), 501),
        (format!("/uri/URI:DIR2:{key}:{key}"), 501),
        (format!("/uri/URI:DIR2-CHK:{key}:{key}:3:10:99"), 501),
        (format!("/uri/URI:CHK-Verifier:{key}:{key}:3:10:99"), 501),
        (format!("/uri/URI:CHK:{key}"), 400),
        ("/uri/".to_owned(), 400),
        ("/uri".to_owned(), 400),
        ("/uri/a/b".to_owned(), 400),
        ("/object".to_owned(), 404),
    ] {
        let answer = get(server.objects, &path, &[]);
        assert_eq!(answer.status(), status, "{path}");
        assert!(!answer.text().contains(key), "{path}: a cap is told");
        if status == 501 {
            assert!(
                answer.text().contains("URI:CHK"),
                "what is served: {answer:?}"
            );
        }
    }
    assert!(!server.log().contains(key), "{}", server.log());
}

fn stores_and_nodes_together(io: Backend) {
    let stores = common::Stores::new(6);
    let object = Noise::new(10).bytes(100_000);
    stores.put_bytes(&object);
    let bytes = Noise::new(11).bytes(300_000);
    let grid = Grid::new(5, &Upload::default(), &bytes);
    let mut options = Vec::new();
    for node in &grid.nodes {
        options.extend(["--tahoe-node", node.to_str().unwrap()]);
    }
    let server = Server::start(&stores, io, &options);
    let all = together(4, |_| {
        let object = get(server.objects, common::PATH, &[]).body;
        let file = get(server.objects, &grid.path(), &[]).body;
        (object, file)
    });
    for (one, other) in all {
        assert_same(&one, &object, "the object");
        assert_same(&other, &bytes, "the file");
    }
    // A share that can't be read any more is replaced; after a failure the file is looked up again.
    for share in 0..3 {
        fs::OpenOptions::new()
            .write(true)
            .open(grid.share(share))
            .unwrap()
            .set_len(100)
            .unwrap();
    }
    wait_until(|| match get(server.objects, &grid.path(), &[]) {
        answer if answer.body == bytes => Ok(()),
        answer => Err(format!("{}", answer.status())),
    });
}
