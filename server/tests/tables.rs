//! Tables of leaf checksums: each page is read once, however many fit beside a piece's blocks. Where a page can't be
//! read or does not match its checksum, its leaves come from other shares.

mod common;

use common::client::End;
use common::stores::flip;
use common::{Backend, Client, KEY, Noise, PATH, Server, Stores, assert_same, get};
use decode_kernel::share::{BLOCKS_OFFSET, Geometry};

on_both_backends! {
    each_page_is_read_once
    pages_come_with_the_blocks
    more_pages_than_are_read_together
    damaged_pages
    shares_that_end_in_their_tables
}

const PAGE: u64 = 4096;
/// The leaves that a page covers.
const ENTRIES: u64 = 511;
const BLOCK: u32 = 64 << 10;
/// Three table pages for each of four data shares.
const SIZE: usize = 20 << 20;
/// Without readahead: for a fast client it reads the second pages before any piece needs them.
const PIECES_ALONE: [&str; 4] = ["--cores", "1", "--read-ahead", "0"];
/// What [`begin`] reads: with what the sockets hold, much less than the 8 MiB that the first pages cover.
const READ_FIRST: usize = 1 << 20;

fn put() -> (Stores, Vec<u8>, Geometry) {
    let stores = Stores::new(6);
    let content = Noise::new(21).bytes(SIZE);
    let geometry = stores.put(KEY, &mut &content[..], 4, BLOCK).geometry;
    assert_eq!(geometry.table_pages(), 3);
    (stores, content, geometry)
}

/// Begins a download and stops reading. The first page of each data share's table was read, and no second one is read
/// while the client reads nothing more.
fn begin(server: &Server, content: &[u8]) -> Client {
    let mut client = Client::connect_with(server.objects, 64 << 10);
    client.ask("GET", PATH, &[]);
    assert_eq!(client.head().status, 200);
    let first = client.body(READ_FIRST);
    assert_same(&first, &content[..READ_FIRST], "the beginning");
    client
}

fn each_page_is_read_once(io: Backend) {
    let (stores, content, geometry) = put();
    // As many shares' pages are read as there are data shares, also with one of them gone.
    for gone in [None, Some(1)] {
        if let Some(store) = gone {
            stores.remove_store(store);
        }
        let server = Server::start(&stores, io, &["--cores", "1", "--verify", "always"]);
        for turn in ["first", "second"] {
            let got = get(server.objects, PATH, &[]).body;
            assert_same(&got, &content, turn);
            let pages = 4 * geometry.table_pages();
            assert_eq!(server.total("table_read_bytes"), pages * PAGE, "{turn}");
        }
        assert_eq!(server.total("rebuilt_bytes") > 0, gone.is_some());
    }
}

fn pages_come_with_the_blocks(io: Backend) {
    let (stores, content, geometry) = put();
    stores.remove_store(5);
    let server = Server::start(&stores, io, &PIECES_ALONE);
    let mut client = begin(&server, &content);
    // Three of five shares end where the leaves of the second page begin, so no block from there on is verified.
    let leaf = u64::from(geometry.leaf_bytes());
    for store in [0, 2, 4] {
        stores.truncate(KEY, store, BLOCKS_OFFSET + ENTRIES * leaf);
    }
    let (rest, end) = client.until_end();
    assert_eq!(end, End::Reset);
    let got = READ_FIRST + rest.len();
    assert_same(&rest, &content[READ_FIRST..got], "until the reset");
    // The first pages of the data shares, and the second pages of the shares that were read together with the truncated
    // ones: both of the two whole shares, or one if the piece ended between them, since too few shares were left for
    // another piece.
    let pages = server.total("table_read_bytes") / PAGE;
    assert!((4 + 1..=4 + 2).contains(&pages), "{pages} pages");
}

fn more_pages_than_are_read_together(io: Backend) {
    for (data, leaf, buffer) in [
        // A leaf of each share and no room beside them; room for two pages; more than one piece requests at once.
        (60, 4096, "248KiB"),
        (60, 4096, "256KiB"),
        (200, 2048, "2MiB"),
    ] {
        let stores = Stores::new(usize::from(data) + 2);
        let content = Noise::new(22).bytes(usize::from(data) * 3 * 4096 + 777);
        let geometry = stores.put(KEY, &mut &content[..], data, 4096).geometry;
        assert_eq!((geometry.leaf_bytes(), geometry.table_pages()), (leaf, 1));
        stores.remove_store(0);
        let options = ["--cores", "1", "--pool-buffer-size", buffer];
        let server = Server::start(&stores, io, &options);
        let what = format!("{data} shares through {buffer}");
        // A piece that takes one leaf of each of k shares.
        let range = get(server.objects, PATH, &["Range: bytes=0-99"]).body;
        assert_same(&range, &content[..100], &what);
        let pages = u64::from(data);
        assert_eq!(server.total("table_read_bytes"), pages * PAGE, "{what}");
        assert_same(&get(server.objects, PATH, &[]).body, &content, &what);
        assert_eq!(server.total("table_read_bytes"), pages * PAGE, "{what}");
    }
}

fn damaged_pages(io: Backend) {
    let (stores, content, geometry) = put();
    for (store, page) in [(1, 0), (4, 0), (2, 2)] {
        let entry = geometry.table_offset() + page * PAGE + 100;
        flip(&stores.share(KEY, store), entry);
    }
    let server = Server::start(&stores, io, &["--cores", "1"]);
    // A range of share 1 alone.
    let start = BLOCK as usize;
    let range = format!("Range: bytes={start}-{}", start + 99);
    let got = get(server.objects, PATH, &[&range]).body;
    assert_same(&got, &content[start..start + 100], "a part");
    // The page of share 1, found damaged; then those of shares 0, 2, 3 and 4, the last of them damaged; then that of
    // share 5.
    assert_eq!(server.total("table_read_bytes"), 6 * PAGE);
    assert_eq!(server.total("failed_leaves"), 2);
    server.wait_for_log("leaf checksums can't be used");
    assert_same(&get(server.objects, PATH, &[]).body, &content, "the whole");
    assert_eq!(
        server.total("failed_shares"),
        0,
        "what is good is still used"
    );
    assert_eq!(server.total("reset_bodies"), 0);
}

fn shares_that_end_in_their_tables(io: Backend) {
    let (stores, content, geometry) = put();
    let server = Server::start(&stores, io, &PIECES_ALONE);
    let mut client = begin(&server, &content);
    let second = geometry.table_offset() + PAGE;
    // Within the second page, and just before it.
    stores.truncate(KEY, 1, second + 100);
    stores.truncate(KEY, 4, second);
    let rest = client.body(SIZE - READ_FIRST);
    assert_same(&rest, &content[READ_FIRST..], "the rest");
    // Both truncated shares were noticed: share 4 replaced share 1. Their blocks are whole.
    assert_eq!(server.total("failed_shares"), 2);
    server.wait_for_log("the file ends early: 100 of 4096 bytes");
    server.wait_for_log("the file ends early: 0 of 4096 bytes");
    assert_same(&get(server.objects, PATH, &[]).body, &content, "once more");
    assert_eq!(server.total("reset_bodies"), 0);
}
