//! Splicing: what was verified is sent straight from the page cache, and never past its time.

mod common;

use std::fs;
use std::io::Write;
use std::os::fd::AsFd;

use common::client::End;
use common::stores::flip;
use common::{
    Backend, Client, KEY, Noise, PATH, Server, Stores, assert_same, get, penstock, run, skip,
    together, wait_until,
};
use decode_kernel::share::BLOCKS_OFFSET;
use penstock::io::cached_pages;
use penstock::memory::limits::{VERIFIED_PAGE_BYTES, VERIFIED_PAGES_MAX};

on_both_backends! {
    the_second_get_is_spliced
    always_is_always
    damage_after_the_verification_is_noticed
    a_file_whose_times_change_is_verified_again
    what_was_verified_long_ago_is_verified_again
    shares_cut_off_under_a_body
    too_many_shares_cut_off_under_a_body
    a_degraded_body_is_copied
    what_many_wait_for_is_verified_once
    stalled_clients_hold_no_more
    what_is_remembered_is_bounded
}

/// Far more than the sockets of both sides hold.
const LARGE: usize = 4 << 20;
/// Blocks that are worth it.
const BLOCK: usize = 64 << 10;

/// One core, so that every request meets what the ones before left. There are so few connections that each has a send
/// buffer of 64 KiB from the start, and none gets more. The kernel doubles that, so it takes a block whole on every
/// machine.
fn served_large(io: Backend, options: &[&str]) -> (Stores, Server, Vec<u8>) {
    let stores = Stores::new(6);
    let content = Noise::new(7).bytes(LARGE);
    stores.put(KEY, &mut &content[..], 4, BLOCK as u32);
    let send_buffers = ["--max-connections", "300", "--send-buffer-max", "64KiB"];
    // The server must not close clients that stall, however long a test takes.
    let patient = ["--cores", "1", "--send-timeout", "1h"];
    let options = [&patient[..], &send_buffers, options].concat();
    let server = Server::start(&stores, io, &options);
    (stores, server, content)
}

/// Whether the kernel says what the page cache holds. Without that a leaf is spliced only for a moment after it was
/// verified, too short for a test to rely on.
fn kernel_can_tell() -> bool {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"cached").unwrap();
    let can_tell = cached_pages(file.as_fd(), &(0..1)).is_ok();
    if !can_tell {
        skip("this kernel has no cachestat");
    }
    can_tell
}

/// Asks for the whole until nothing of it is read any more: the files must have rested for a moment.
fn until_spliced(server: &Server, content: &[u8]) {
    wait_until(|| {
        let before = server.total("spliced_bytes");
        assert_same(&get(server.objects, PATH, &[]).body, content, "a GET");
        match server.total("spliced_bytes") - before {
            spliced if spliced == content.len() as u64 => Ok(()),
            spliced => Err(format!("only {spliced} bytes were spliced")),
        }
    });
}

/// Fails if anything is spliced that was not verified, or if anything that was is read, verified or copied again.
fn the_second_get_is_spliced(io: Backend) {
    if !kernel_can_tell() {
        return;
    }
    let (_stores, server, content) = served_large(io, &[]);
    // Block by block: each is taken whole, so no part of it is asked for a second time.
    let mut client = Client::connect(server.objects);
    for first in (0..LARGE).step_by(BLOCK) {
        let last = first + BLOCK - 1;
        let range = format!("Range: bytes={first}-{last}");
        let part = client.request("GET", PATH, &[&range]);
        assert_same(&part.body, &content[first..=last], &range);
    }
    assert_eq!(server.total("spliced_bytes"), 0);
    let sent = ["copied_bytes", "zero_copy_bytes"].map(|name| server.total(name));
    assert_eq!(sent.iter().sum::<u64>(), LARGE as u64);
    until_spliced(&server, &content);

    let counters = [
        "verified_leaves",
        "data_read_bytes",
        "copied_bytes",
        "spliced_bytes",
    ];
    let before = counters.map(|name| server.total(name));
    let mut client = Client::connect(server.objects);
    let mut asked = 0;
    for (first, last) in [
        (0, LARGE - 1),
        (1, LARGE - 2),
        (16_383, 99_999),
        (70_001, 200_000),
        (5, 104),
        (LARGE - 123_457, LARGE - 1),
    ] {
        let range = format!("Range: bytes={first}-{last}");
        let part = client.request("GET", PATH, &[&range]);
        assert_eq!(part.status(), 206);
        assert_same(&part.body, &content[first..=last], &range);
        asked += part.body.len() as u64;
    }
    let after = counters.map(|name| server.total(name));
    assert_eq!(
        after[..3],
        before[..3],
        "nothing was read, verified or copied"
    );
    assert_eq!(after[3] - before[3], asked);
    client.expect_open(PATH);
    // Several at once, each on its own way.
    together(8, |i| {
        let first = i * 300_001;
        let range = format!("Range: bytes={first}-");
        let part = get(server.objects, PATH, &[&range]);
        assert_same(&part.body, &content[first..], &range);
    });
}

fn always_is_always(io: Backend) {
    let (_stores, server, content) = served_large(io, &["--verify", "always"]);
    for round in 1..=3 {
        assert_same(&get(server.objects, PATH, &[]).body, &content, "a GET");
        // What a socket does not take is verified again.
        assert!(server.total("verified_leaves") >= round * (LARGE as u64).div_ceil(4096));
        // The next would be spliced now, if any.
        std::thread::sleep(2 * penstock::memory::limits::FILE_SETTLES);
    }
    let totals = ["spliced_bytes", "verified_memory_bytes"].map(|name| server.total(name));
    assert_eq!(totals, [0, 0]);
    let sent = ["copied_bytes", "zero_copy_bytes"].map(|name| server.total(name));
    assert_eq!(sent.iter().sum::<u64>(), 3 * LARGE as u64);
}

fn damage_after_the_verification_is_noticed(io: Backend) {
    if !kernel_can_tell() {
        return;
    }
    let (stores, server, content) = served_large(io, &[]);
    for (share, at) in [(1, 0), (3, 500_000)] {
        until_spliced(&server, &content);
        let bad = server.total("failed_leaves");
        flip(&stores.share(KEY, share), BLOCKS_OFFSET + at);
        // Not one request later.
        assert_same(&get(server.objects, PATH, &[]).body, &content, "damaged");
        assert!(server.total("failed_leaves") > bad);
        // The rest of the damaged share is verified again, and what lies around the bad leaf spliced.
        wait_until(|| {
            let before = server.total("spliced_bytes");
            assert_same(&get(server.objects, PATH, &[]).body, &content, "damaged");
            match server.total("spliced_bytes") - before {
                0 => Err("nothing is spliced any more".into()),
                spliced if spliced < LARGE as u64 => Ok(()),
                spliced => Err(format!("{spliced} bytes were spliced, damage and all")),
            }
        });
        flip(&stores.share(KEY, share), BLOCKS_OFFSET + at);
        // A mended leaf is found good when its share is opened anew.
        let path = stores.share(KEY, share);
        fs::copy(&path, path.with_extension("new")).unwrap();
        fs::rename(path.with_extension("new"), &path).unwrap();
    }
    until_spliced(&server, &content);
}

fn a_file_whose_times_change_is_verified_again(io: Backend) {
    if !kernel_can_tell() {
        return;
    }
    let (stores, server, content) = served_large(io, &[]);
    until_spliced(&server, &content);
    let before = server.total("verified_leaves");
    let file = fs::File::options()
        .write(true)
        .open(stores.share(KEY, 2))
        .unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH)
        .unwrap();
    assert_same(&get(server.objects, PATH, &[]).body, &content, "a GET");
    assert!(server.total("verified_leaves") - before >= LARGE as u64 / 4096 / 4);
    until_spliced(&server, &content);
}

fn what_was_verified_long_ago_is_verified_again(io: Backend) {
    let (_stores, server, content) = served_large(io, &["--verify-age", "2s"]);
    let grows = |name: &str| {
        wait_until(|| {
            let before = server.total(name);
            // The second finds what the first verified, well before its time is over.
            for _ in 0..2 {
                let part = get(server.objects, PATH, &["Range: bytes=0-65535"]);
                assert_same(&part.body, &content[..65_536], "a part");
            }
            match server.total(name) - before {
                0 => Err(format!("{name} does not grow")),
                _ => Ok(()),
            }
        });
    };
    for _ in 0..2 {
        grows("spliced_bytes");
        grows("verified_leaves");
    }
}

/// A download that is spliced, of which a part was read.
fn begin(server: &Server, content: &[u8], read: usize) -> Client {
    until_spliced(server, content);
    let before = server.total("spliced_bytes");
    let mut client = Client::connect_with(server.objects, 64 << 10);
    client.ask("GET", PATH, &[]);
    assert_eq!(client.head().status, 200);
    assert_same(&client.body(read), &content[..read], "the beginning");
    assert!(server.total("spliced_bytes") - before >= read as u64);
    client
}

fn shares_cut_off_under_a_body(io: Backend) {
    if !kernel_can_tell() {
        return;
    }
    let (stores, server, content) = served_large(io, &[]);
    let mut client = begin(&server, &content, 100_000);
    // The sockets hold less than the first 3 MiB of the object, which are whole.
    stores.truncate(KEY, 0, BLOCKS_OFFSET + (768 << 10));
    stores.truncate(KEY, 2, 0);
    let rest = client.body(LARGE - 100_000);
    assert_same(&rest, &content[100_000..], "the rest");
    client.expect_open(PATH);
    assert_same(
        &get(server.objects, PATH, &[]).body,
        &content,
        "another GET",
    );
    assert!(server.total("failed_shares") >= 2 && server.total("reset_bodies") == 0);
}

fn too_many_shares_cut_off_under_a_body(io: Backend) {
    if !kernel_can_tell() {
        return;
    }
    let (stores, server, content) = served_large(io, &[]);
    let mut client = begin(&server, &content, 100_000);
    for share in [0, 1, 5] {
        stores.truncate(KEY, share, 0);
    }
    let (rest, end) = client.until_end();
    assert_eq!(
        end,
        End::Reset,
        "no end that a client could take for the body's"
    );
    assert!(rest.len() < LARGE - 100_000);
    assert_same(
        &rest,
        &content[100_000..100_000 + rest.len()],
        "until the reset",
    );
    assert_eq!(server.total("reset_bodies"), 1);
}

fn a_degraded_body_is_copied(io: Backend) {
    let (stores, server, content) = served_large(io, &[]);
    stores.remove_store(1);
    drop(server);
    let server = Server::start(&stores, io, &["--cores", "1"]);
    for _ in 0..3 {
        assert_same(&get(server.objects, PATH, &[]).body, &content, "degraded");
    }
    assert!(server.total("rebuilt_bytes") > 0);
    assert_eq!(
        [
            "spliced_bytes",
            "copied_bytes",
            "zero_copy_bytes",
            "rebuilt_sent_bytes"
        ]
        .map(|name| server.total(name))
        .iter()
        .sum::<u64>(),
        3 * LARGE as u64
    );
}

fn what_many_wait_for_is_verified_once(io: Backend) {
    const CLIENTS: usize = 16;
    // One produces at a time, and the others wait for their turn.
    let options = ["--pool-buffers", "1", "--read-ahead", "0"];
    let (_stores, server, content) = served_large(io, &options);
    // Only of files that have rested is remembered what was verified.
    std::thread::sleep(2 * penstock::memory::limits::FILE_SETTLES);
    together(CLIENTS, |_| {
        assert_same(&get(server.objects, PATH, &[]).body, &content, "a GET");
    });
    let verified = server.total("verified_leaves");
    let leaves = (LARGE as u64).div_ceil(4096);
    // A leaf that two pieces share may be verified twice. Clients that found nothing would verify all leaves each.
    assert!(
        (leaves..2 * leaves).contains(&verified),
        "{verified} leaves were verified of {leaves}, for {CLIENTS} clients"
    );
}

fn stalled_clients_hold_no_more(io: Backend) {
    if !kernel_can_tell() {
        return;
    }
    const CLIENTS: usize = 200;
    let (_stores, server, content) = served_large(io, &[]);
    until_spliced(&server, &content);
    let spliced = server.total("spliced_bytes");
    let clients: Vec<Client> = (0..CLIENTS)
        .map(|_| {
            let mut client = Client::connect_small(server.objects);
            client.ask("GET", PATH, &[]);
            assert_eq!(client.head().status, 200);
            client
        })
        .collect();
    server.expect_stalled_within_plan(CLIENTS);
    assert!(server.total("spliced_bytes") > spliced);
    drop(clients);
}

fn what_is_remembered_is_bounded(io: Backend) {
    if !kernel_can_tell() {
        return;
    }
    let stores = Stores::new(2);
    // One block: what is left behind a last whole block would be copied.
    let content = Noise::new(8).bytes(64 << 10);
    const OBJECTS: usize = 40;
    for number in 0..OBJECTS {
        stores.put(&number.to_string(), &mut &content[..], 1, 64 << 10);
    }
    // None of them kept in memory whole.
    let server = Server::start(&stores, io, &["--cores", "1", "--hot-objects", "0"]);
    let get_all = || {
        for number in 0..OBJECTS {
            let body = get(server.objects, &format!("/{number}"), &[]).body;
            assert_same(&body, &content, "a GET");
        }
    };
    let most = OBJECTS * VERIFIED_PAGE_BYTES;
    let whole = (OBJECTS * content.len()) as u64;
    // What was read while its file was too young is not remembered.
    wait_until(|| {
        let before = server.total("spliced_bytes");
        get_all();
        match server.total("spliced_bytes") - before {
            spliced if spliced == whole => Ok(()),
            spliced => Err(format!("{spliced} bytes were spliced, not {whole}")),
        }
    });
    assert_eq!(server.total("verified_memory_bytes"), most as u64);
    let plan = run(penstock().args(["plan", "--cores", "3"]));
    let row = plan
        .lines()
        .find(|line| line.starts_with("core: verified leaves"))
        .unwrap_or_else(|| panic!("no row in {plan}"));
    let each = (VERIFIED_PAGES_MAX * VERIFIED_PAGE_BYTES) as f64 / 1024.0;
    assert!(row.contains(&format!("{each:.1}")), "{row}");
    assert!(most < VERIFIED_PAGES_MAX * VERIFIED_PAGE_BYTES);
}
