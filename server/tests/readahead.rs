//! Readahead, past the page cache: what comes from the disk is what was put, verified as everything is, and
//! nobody keeps what was read for them.
//!
//! How much is read ahead depends on how fast a client is, and so on the machine. Unit tests judge that (`is_fast`).
//! These tests ask for the first batch only, which every client gets.

mod common;

use std::fs::File;
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use common::crowd::memory;
use common::stores::flip;
use common::{
    Backend, Client, KEY, Noise, PATH, Server, Stores, assert_same, get, number, skip, together,
    wait_until,
};
use decode_kernel::share::BLOCKS_OFFSET;
use penstock::io::cached_pages;
use penstock::memory::limits::READAHEAD_FIRST_BYTES;
use rustix::fs::{Advice, Mode, OFlags, fadvise, open};

on_both_backends! {
    what_is_new_is_read_directly_and_then_kept
    ranges_and_ends
    damage_is_rebuilt
    a_share_cut_off_while_it_is_served
    a_degraded_object
    clients_that_stall_keep_no_buffer
    there_is_no_readahead_where_there_is_to_be_none
}

/// With an end that fills no page.
const SIZE: usize = (5 << 20) + 1234;
const DATA: u16 = 4;
/// So often it is tried to have files forgotten, and so far apart.
const EVICTIONS: usize = 100;
const EVICTION_PAUSE: Duration = Duration::from_millis(20);

/// An object on a disk, not in the page cache, and a server with one core, so that every request meets what the ones
/// before left. `None` where that can't be had.
fn served_cold(io: Backend, options: &[&str]) -> Option<(Stores, Server, Vec<u8>)> {
    let stores = Stores::on_disk(6);
    let content = Noise::new(11).bytes(SIZE);
    stores.put(KEY, &mut &content[..], DATA, 64 << 10);
    let server = served(&stores, io, options)?;
    Some((stores, server, content))
}

fn served(stores: &Stores, io: Backend, options: &[&str]) -> Option<Server> {
    if let Err(why) = evict(stores) {
        skip(&why);
        return None;
    }
    // Clients that stall are not to be closed, however long a test takes.
    let options = [&["--cores", "1", "--send-timeout", "1h"], options].concat();
    let server = Server::start(stores, io, &options);
    // The server reads headers when it opens the files, and the kernel reads on. How far depends on its page size.
    get(server.objects, PATH, &["Range: bytes=0-0"]);
    evict_again(stores);
    Some(server)
}

/// Lets the page cache forget the shares once more. Pages that the server has just read may stay for a while.
fn evict_again(stores: &Stores) {
    wait_until(|| evict(stores));
}

/// Lets the page cache forget the shares, or says why that isn't possible here.
fn evict(stores: &Stores) -> Result<(), String> {
    for store in 0..stores.paths.len() {
        for path in stores.shares(KEY, store) {
            let file = File::open(&path).unwrap();
            let length = file.metadata().unwrap().len();
            file.sync_all().unwrap();
            // Pages that are just being read in stay.
            let is_gone = (0..EVICTIONS).any(|_| {
                fadvise(&file, 0, None, Advice::DontNeed).unwrap();
                let is_gone = cached_pages(file.as_fd(), &(0..length)).is_ok_and(|(n, _)| n == 0);
                if !is_gone {
                    thread::sleep(EVICTION_PAUSE);
                }
                is_gone
            });
            if !is_gone {
                return Err("files stay in the page cache here, or it can't be asked".to_owned());
            }
            open(&path, OFlags::DIRECT, Mode::empty())
                .map_err(|error| format!("no direct reads here: {error}"))?;
        }
    }
    Ok(())
}

fn whole(server: &Server, content: &[u8], what: &str) {
    let response = get(server.objects, PATH, &[]);
    assert_eq!(response.status(), 200, "{what}");
    assert_same(&response.body, content, what);
}

fn direct(server: &Server) -> u64 {
    server.total("direct_read_bytes")
}

fn wait_for_buffers(server: &Server) {
    server.wait_for_status("all buffers for readahead are free", |status| {
        let [all, free] = ["readahead_buffers", "readahead_buffers_free"]
            .map(|name| number(status, &["totals", name]));
        all > 0 && all == free
    });
}

/// Fails if the first batch does not come from the disk, and if what was verified before is read past the page cache.
fn what_is_new_is_read_directly_and_then_kept(io: Backend) {
    let Some((stores, server, content)) = served_cold(io, &[]) else {
        return;
    };
    whole(&server, &content, "the first");
    let [first, read] = ["direct_read_bytes", "data_read_bytes"].map(|name| server.total(name));
    // How much more depends on how fast this client was.
    assert!(first >= READAHEAD_FIRST_BYTES, "{first} bytes");
    assert!(read >= SIZE as u64, "{read} bytes");
    wait_for_buffers(&server);
    // Once the files have rested long enough for it to be remembered what was verified, the page cache is filled.
    wait_until(|| {
        evict(&stores)?;
        let before = direct(&server);
        whole(&server, &content, "again");
        match direct(&server) - before {
            0 => Ok(()),
            bytes => Err(format!("{bytes} bytes were read directly again")),
        }
    });
    let file = File::open(stores.share(KEY, 0)).unwrap();
    let blocks = BLOCKS_OFFSET..BLOCKS_OFFSET + SIZE as u64 / u64::from(DATA);
    let (cached, all) = cached_pages(file.as_fd(), &blocks).unwrap();
    assert!(cached > 0, "none of {all} pages were kept");
}

fn ranges_and_ends(io: Backend) {
    let Some((stores, server, content)) = served_cold(io, &[]) else {
        return;
    };
    for (first, last) in [
        (SIZE - 1, SIZE - 1),
        (SIZE - READAHEAD_FIRST_BYTES as usize, SIZE - 1),
        (SIZE - READAHEAD_FIRST_BYTES as usize - 1, SIZE - 1),
        (1, 3_000_000),
        (65_535, 65_536 + 2_500_000),
        (262_143, 900_001),
        (0, SIZE - 2),
    ] {
        evict_again(&stores);
        let range = format!("Range: bytes={first}-{last}");
        let part = get(server.objects, PATH, &[&range]);
        assert_eq!(part.status(), 206);
        assert_same(&part.body, &content[first..=last], &range);
    }
    assert!(direct(&server) > 0);
    // Several at once, more than there are buffers for.
    evict_again(&stores);
    together(12, |i| {
        let first = i * 200_003;
        let range = format!("Range: bytes={first}-");
        let part = get(server.objects, PATH, &[&range]);
        assert_same(&part.body, &content[first..], &range);
    });
    wait_for_buffers(&server);
}

fn damage_is_rebuilt(io: Backend) {
    let Some((stores, server, content)) = served_cold(io, &[]) else {
        return;
    };
    for (share, at) in [(1, 5), (3, 64 << 10), (2, 1_000_000)] {
        flip(&stores.share(KEY, share), BLOCKS_OFFSET + at);
    }
    evict_again(&stores);
    whole(&server, &content, "damaged");
    assert!(direct(&server) > 0);
    assert_eq!(server.total("failed_leaves"), 3);
    assert!(server.total("rebuilt_bytes") > 0);
    whole(&server, &content, "damaged, again");
    wait_for_buffers(&server);
}

fn a_share_cut_off_while_it_is_served(io: Backend) {
    let Some((stores, server, content)) = served_cold(io, &[]) else {
        return;
    };
    // In the first batch, and behind it.
    stores.truncate(KEY, 1, BLOCKS_OFFSET + 10_000);
    stores.truncate(KEY, 2, BLOCKS_OFFSET + 700_001);
    evict_again(&stores);
    whole(&server, &content, "cut off");
    assert!(server.total("failed_shares") > 0);
    assert!(server.total("rebuilt_bytes") > 0);
    wait_for_buffers(&server);
}

fn a_degraded_object(io: Backend) {
    let stores = Stores::on_disk(6);
    let content = Noise::new(12).bytes(SIZE);
    stores.put(KEY, &mut &content[..], DATA, 64 << 10);
    stores.remove_store(0);
    stores.remove_store(2);
    let Some(server) = served(&stores, io, &[]) else {
        return;
    };
    whole(&server, &content, "degraded");
    assert!(direct(&server) >= READAHEAD_FIRST_BYTES);
    assert!(server.total("rebuilt_bytes") >= SIZE as u64 / 2);
    let parity = server.total("parity_read_bytes");
    assert!(parity >= SIZE as u64 / 2, "{parity} bytes");
    wait_for_buffers(&server);
}

/// Fails if a batch stays with a client that takes nothing.
fn clients_that_stall_keep_no_buffer(io: Backend) {
    let Some((_stores, server, content)) = served_cold(io, &[]) else {
        return;
    };
    let mut clients: Vec<Client> = (0..4)
        .map(|_| {
            let mut client = Client::connect_small(server.objects);
            client.ask("GET", PATH, &[]);
            assert_eq!(client.head().length(), SIZE as u64);
            client
        })
        .collect();
    // The first client had a batch. The others may have found everything in the page cache.
    assert!(direct(&server) > 0);
    wait_for_buffers(&server);
    assert_eq!(memory(&server, "connections_open"), 4);
    for client in &mut clients {
        assert_same(&client.body(SIZE), &content, "after a rest");
    }
    drop(clients);
    wait_for_buffers(&server);
}

fn there_is_no_readahead_where_there_is_to_be_none(io: Backend) {
    for options in [["--read-ahead", "0"], ["--verify", "always"]] {
        let Some((_stores, server, content)) = served_cold(io, &options) else {
            return;
        };
        whole(&server, &content, "not read ahead");
        assert_eq!(direct(&server), 0, "{options:?}");
    }
}
