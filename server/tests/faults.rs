//! Disks that die, rot and come back under a running server. Whatever happens to the shares, a client gets the right
//! bytes, an error, or a reset: never a wrong byte, never a short body that looks whole.

mod common;

use std::collections::HashSet;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;

use common::client::End;
use common::stores::{BLOCK, flip};
use common::{
    Backend, Client, KEY, Noise, PATH, Server, Stores, assert_same, get, served, wait_until,
};
use decode_kernel::share::{BLOCKS_OFFSET, Key};
use penstock_store::repair::{RepairOptions, repair};
use penstock_store::{Progress, Store, Walk};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

on_both_backends! {
    any_two_of_six_stores_gone
    a_store_deleted_in_the_middle_of_a_download
    shares_corrupted_in_the_middle_of_a_download
    shares_truncated_in_the_middle_of_a_download
    too_few_shares_in_the_middle_of_a_download
    too_few_shares_for_a_part
    a_new_put_in_the_middle_of_a_download
    stores_that_come_back
    a_repair_is_noticed
    further_copies_of_bad_shares
    a_share_that_rots_while_a_copy_is_good
    random_damage
}

/// Far more than the sockets of both sides hold. So most of it is not produced yet when a client stops reading early.
const LARGE: usize = 4 << 20;
/// The receive buffer of such a client: small enough for that, large enough to finish soon.
const RECEIVE_BYTES: usize = 64 << 10;
/// The bytes that such a client reads before it stops.
const READ_FIRST: usize = 100_000;

fn served_large(io: Backend) -> (Stores, Server, Vec<u8>) {
    let stores = Stores::new(6);
    let content = Noise::new(3).bytes(LARGE);
    stores.put_bytes(&content);
    let server = Server::start(&stores, io, &[]);
    (stores, server, content)
}

/// Begins a download and stops reading.
fn begin(server: &Server, content: &[u8]) -> Client {
    let mut client = Client::connect_with(server.objects, RECEIVE_BYTES);
    client.ask("GET", PATH, &[]);
    let head = client.head();
    assert_eq!((head.status, head.length()), (200, content.len() as u64));
    assert_same(
        &client.body(READ_FIRST),
        &content[..READ_FIRST],
        "the beginning",
    );
    client
}

/// Reads the rest of the download, then sends another GET. Both must return the right bytes.
fn finish(server: &Server, content: &[u8], mut client: Client) {
    let rest = client.body(content.len() - READ_FIRST);
    assert_same(&rest, &content[READ_FIRST..], "the rest");
    client.expect_open(PATH);
    assert_same(&get(server.objects, PATH, &[]).body, content, "another GET");
    assert_eq!(server.total("reset_bodies"), 0);
}

fn any_two_of_six_stores_gone(io: Backend) {
    let (stores, healthy, content) = served(io);
    assert_same(&get(healthy.objects, PATH, &[]).body, &content, "healthy");
    assert_eq!(
        healthy.total("parity_read_bytes"),
        0,
        "a healthy GET reads data shares only"
    );
    assert_eq!(healthy.total("rebuilt_bytes"), 0);
    drop(healthy);
    for first in 0..6 {
        for second in first + 1..6 {
            let gone = [first, second];
            let away = |store: usize| stores.file(&format!("{store} is away"));
            for store in gone {
                fs::rename(&stores.paths[store], away(store)).unwrap();
            }
            let server = Server::start(&stores, io, &[]);
            let mut client = Client::connect(server.objects);
            let whole = client.request("GET", PATH, &[]);
            assert_eq!(whole.status(), 200, "{gone:?}");
            assert_same(&whole.body, &content, &format!("{gone:?}"));
            let part = client.request("GET", PATH, &["Range: bytes=20000-90000"]);
            assert_same(&part.body, &content[20_000..=90_000], &format!("{gone:?}"));
            let lost_data = gone.iter().any(|&store| store < 4);
            assert_eq!(server.total("rebuilt_bytes") > 0, lost_data, "{gone:?}");
            for store in gone {
                fs::rename(away(store), &stores.paths[store]).unwrap();
            }
        }
    }
}

fn a_store_deleted_in_the_middle_of_a_download(io: Backend) {
    let (stores, server, content) = served_large(io);
    let client = begin(&server, &content);
    stores.remove_store(0);
    stores.remove_store(3);
    finish(&server, &content, client);
}

fn shares_corrupted_in_the_middle_of_a_download(io: Backend) {
    let (stores, server, content) = served_large(io);
    let client = begin(&server, &content);
    stores.corrupt(KEY, 1);
    stores.corrupt(KEY, 4);
    finish(&server, &content, client);
    assert!(server.total("failed_leaves") > 0);
    server.wait_for_log("bad leaf");
    server.wait_for_log(stores.share(KEY, 1).to_str().unwrap());
}

fn shares_truncated_in_the_middle_of_a_download(io: Backend) {
    let (stores, server, content) = served_large(io);
    let client = begin(&server, &content);
    stores.truncate(KEY, 0, 5000);
    stores.truncate(KEY, 2, 0);
    finish(&server, &content, client);
    assert!(server.total("failed_shares") >= 2);
    server.wait_for_log("share given up");
}

fn too_few_shares_in_the_middle_of_a_download(io: Backend) {
    type Harm = fn(&Stores, usize);
    let harms: [(Harm, &str); 2] = [
        (|stores, store| stores.corrupt(KEY, store), "bad leaf"),
        (
            |stores, store| stores.truncate(KEY, store, 4096),
            "share given up",
        ),
    ];
    for (harm, reason) in harms {
        let (stores, server, content) = served_large(io);
        stores.put("other", &mut &content[..5000], 4, BLOCK);
        let mut client = begin(&server, &content);
        for store in [0, 3, 5] {
            harm(&stores, store);
        }
        let (rest, end) = client.until_end();
        assert_eq!(
            end,
            End::Reset,
            "no end that a client could take for the body's"
        );
        let got = READ_FIRST + rest.len();
        assert!(got < content.len(), "too much was in the sockets already");
        assert_same(&rest, &content[READ_FIRST..got], "until the reset");
        server.wait_for_log("the object can't be read");
        server.wait_for_log("3 usable shares, 4 are needed");
        server.wait_for_log(reason);
        assert_eq!(server.total("reset_bodies"), 1);
        // Everything else continues.
        assert_same(
            &get(server.objects, "/other", &[]).body,
            &content[..5000],
            "another object",
        );
        assert_eq!(get(server.objects, PATH, &[]).status(), 500);
        server.wait_for_status("all buffers free", |status| {
            status["totals"]["pool_buffers_free"] == status["totals"]["pool_buffers"]
        });
    }
}

fn too_few_shares_for_a_part(io: Backend) {
    let (stores, server, content) = served(io);
    // The first leaf of three shares; nothing else is damaged.
    for store in [0, 1, 5] {
        flip(&stores.share(KEY, store), BLOCKS_OFFSET + 1000);
    }
    let mut client = Client::connect(server.objects);
    for fields in [&[][..], &["Range: bytes=0-"], &["Range: bytes=17000-17010"]] {
        let answer = client.request("GET", PATH, fields);
        assert_eq!(answer.status(), 500, "{fields:?}");
        assert!(
            answer.text().contains("too few good shares"),
            "{}",
            answer.text()
        );
    }
    // Readable parts are served: the same leaf of the good shares, and everything after it.
    for first in [4096, 2 * BLOCK as usize, 4 * BLOCK as usize] {
        let last = if first < BLOCK as usize {
            first + 8000
        } else {
            content.len() - 1
        };
        let last = if first == 2 * BLOCK as usize {
            first + 30_000
        } else {
            last
        };
        let range = format!("Range: bytes={first}-{last}");
        let part = client.request("GET", PATH, &[&range]);
        assert_eq!(part.status(), 206, "{range}");
        assert_same(&part.body, &content[first..=last], &range);
    }
    // A range that begins before the damage is cut off there.
    let start = 4096;
    client.ask("GET", PATH, &[&format!("Range: bytes={start}-40000")]);
    assert_eq!(client.head().status, 206);
    let (bytes, end) = client.until_end();
    assert_eq!(end, End::Reset);
    assert!(bytes.len() <= 16_384 - start, "byte 16384 can't be known");
    assert_same(
        &bytes,
        &content[start..start + bytes.len()],
        "until the damage",
    );
}

fn a_new_put_in_the_middle_of_a_download(io: Backend) {
    let (stores, server, old) = served_large(io);
    let client = begin(&server, &old);
    let new = Noise::new(4).bytes(LARGE / 3);
    stores.put_bytes(&new);
    // Requests get the old object first and the new one soon, and nothing in between.
    wait_until(|| {
        let answer = get(server.objects, PATH, &[]);
        assert_eq!(answer.status(), 200);
        if answer.body.len() == new.len() {
            assert_same(&answer.body, &new, "the new object");
            return Ok(());
        }
        assert_same(&answer.body, &old, "the old object");
        Err("the new object is never served".into())
    });
    let mut client = client;
    assert_same(
        &client.body(LARGE - READ_FIRST),
        &old[READ_FIRST..],
        "the old object's rest",
    );
    // Its core may have revalidated the object less than a second ago.
    wait_until(|| match client.request("GET", PATH, &[]).body {
        body if body == new => Ok(()),
        _ => Err("the same connection never gets the new object".into()),
    });
    assert_eq!(server.total("reset_bodies"), 0);
}

/// Every request finds the state that earlier requests left.
fn served_by_one_core(io: Backend) -> (Stores, Server, Vec<u8>) {
    let (stores, server, content) = served(io);
    drop(server);
    let server = Server::start(&stores, io, &["--cores", "1"]);
    (stores, server, content)
}

/// The share file that a store has had from the start.
fn own_share(stores: &Stores, store: usize) -> PathBuf {
    let is_copy = |path: &PathBuf| path.to_string_lossy().contains("copy-of");
    let paths = stores.shares(KEY, store);
    paths.into_iter().find(|path| !is_copy(path)).unwrap()
}

/// Puts a copy of the share of one store into another.
fn copy_share(stores: &Stores, from: usize, to: usize) -> PathBuf {
    let share = own_share(stores, from);
    let directory = stores.shares(KEY, to)[0].parent().unwrap().to_owned();
    let copy = directory.join(format!("copy-of-{from}.share"));
    fs::copy(share, &copy).unwrap();
    copy
}

/// Story: with a share rebuilt onto another disk, and the old one still there, there are two copies of it. Where the first
/// was bad and too few others were left, the server gave up, although `get` read the object: from the other copy, or leaf
/// by leaf from both.
fn further_copies_of_bad_shares(io: Backend) {
    let stores = Stores::new(6);
    let content = Noise::new(11).bytes(LARGE);
    stores.put_bytes(&content);
    // A copy of every data share, in the next store, and no parity.
    let copies: Vec<PathBuf> = (0..4)
        .map(|share| copy_share(&stores, share, share + 1))
        .collect();
    for store in [4, 5] {
        fs::remove_file(own_share(&stores, store)).unwrap();
    }
    let first: Vec<PathBuf> = (0..4).map(|store| own_share(&stores, store)).collect();
    let server = Server::start(&stores, io, &[]);
    let expect_whole = |what: &str| {
        for _ in 0..3 {
            let answer = get(server.objects, PATH, &[]);
            assert_eq!(answer.status(), 200, "{what}");
            assert_same(&answer.body, &content, what);
        }
    };
    // What is queued for a client are the page cache's own pages, unless everything is verified every time: a file that is
    // overwritten in place would change them.
    let always = Server::start(&stores, io, &["--verify", "always"]);
    let client = begin(&always, &content);
    expect_whole("all are good");
    // Different leaves of both copies of a share, many of them: nowhere are both bad.
    let leaves = (LARGE / 4 / 4096) as u64;
    for leaf in (0..leaves).step_by(16) {
        flip(&first[1], BLOCKS_OFFSET + leaf * 4096 + 7);
        flip(&copies[1], BLOCKS_OFFSET + ((leaf + 5) % leaves) * 4096 + 8);
    }
    expect_whole("one has bad leaves in both copies");
    // The first copy of another is cut short, and that of a third can't be read by its checksums.
    let cut = fs::OpenOptions::new().write(true).open(&first[0]).unwrap();
    cut.set_len(BLOCKS_OFFSET + 300_000).unwrap();
    let end = fs::metadata(&first[2]).unwrap().len();
    for back in (0..4096).step_by(64) {
        flip(&first[2], end - 1 - back);
    }
    expect_whole("three are bad");
    finish(&always, &content, client);
    assert_eq!(server.total("reset_bodies"), 0);
}

/// What was verified of one copy says nothing of the other: both have been sent from the page cache when one rots, and
/// then the other does at other places.
fn a_share_that_rots_while_a_copy_is_good(io: Backend) {
    let stores = Stores::new(6);
    let content = Noise::new(12).bytes(LARGE);
    stores.put_bytes(&content);
    for store in [4, 5] {
        fs::remove_file(stores.share(KEY, store)).unwrap();
    }
    let first = own_share(&stores, 0);
    let second = copy_share(&stores, 0, 1);
    let server = Server::start(&stores, io, &[]);
    let expect_whole = |what: &str| {
        for _ in 0..4 {
            let answer = get(server.objects, PATH, &[]);
            assert_eq!(answer.status(), 200, "{what}");
            assert_same(&answer.body, &content, what);
        }
    };
    expect_whole("both are good");
    // Some leaves of the one and some of the other, none of both.
    for (bad, offset) in [
        (&first, 1000),
        (&second, 26_000),
        (&first, 13_000),
        (&second, 38_000),
    ] {
        for at in 0..20 {
            flip(bad, BLOCKS_OFFSET + offset + at * 50_000);
        }
        expect_whole(&format!("{} is bad at {offset}", bad.display()));
    }
    assert!(server.total("failed_leaves") > 0);
    assert_eq!(server.total("reset_bodies"), 0);
}

fn stores_that_come_back(io: Backend) {
    let (stores, server, content) = served_by_one_core(io);
    assert_eq!(get(server.objects, PATH, &[]).status(), 200);
    let away = |store: usize| stores.file(&format!("{store} is away"));
    for store in [0, 1, 2] {
        fs::rename(&stores.paths[store], away(store)).unwrap();
    }
    let becomes = |status| {
        wait_until(|| {
            let answer = get(server.objects, PATH, &[]);
            // Never 404: without the stores the server cannot know whether the object exists. Never 500 either: it may pass.
            assert!(
                [200, 503].contains(&answer.status()),
                "{}",
                answer.head.line
            );
            if answer.status() == status {
                Ok(answer)
            } else {
                Err(format!("still {}", answer.head.line))
            }
        })
    };
    becomes(503);
    fs::rename(away(1), &stores.paths[1]).unwrap();
    assert_same(&becomes(200).body, &content, "one came back");
    for store in 0..6 {
        let _ = fs::remove_dir_all(&stores.paths[store]);
    }
    becomes(503);
}

fn a_repair_is_noticed(io: Backend) {
    let (stores, server, content) = served_by_one_core(io);
    stores.remove_store(2);
    stores.corrupt(KEY, 0);
    assert_same(&get(server.objects, PATH, &[]).body, &content, "damaged");
    assert!(server.total("failed_leaves") > 0);
    stores.init();
    let options = RepairOptions {
        stores: Store::directories(&stores.paths),
        key: Some(Key::new(KEY).unwrap()),
        walk: Walk::default(),
    };
    let report = repair(&options, &Progress::hidden(), &mut |_, _| {}).unwrap();
    assert!(report.complete(), "{report:?}");
    wait_until(|| {
        let before = server.total("rebuilt_bytes");
        assert_same(&get(server.objects, PATH, &[]).body, &content, "repaired");
        match server.total("rebuilt_bytes") - before {
            0 => Ok(()),
            bytes => Err(format!("still rebuilds {bytes} bytes")),
        }
    });
}

/// One kind of damage to one share file.
#[derive(Clone, Debug)]
enum Damage {
    Remove,
    Truncate(prop::sample::Index),
    Flip(prop::sample::Index),
    Zeros(prop::sample::Index, usize),
    Append(usize),
    /// The share of another store replaces it.
    Swap(usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    let place = any::<prop::sample::Index>;
    prop_oneof![
        Just(Damage::Remove),
        place().prop_map(Damage::Truncate),
        place().prop_map(Damage::Flip),
        (place(), 1usize..9000).prop_map(|(at, count)| Damage::Zeros(at, count)),
        (1usize..9000).prop_map(Damage::Append),
        (0usize..6).prop_map(Damage::Swap),
    ]
}

fn harm(stores: &Stores, key: &str, store: usize, damage: &Damage) {
    // Earlier damage may have removed the file.
    let Some(path) = stores.shares(key, store).pop() else {
        return;
    };
    let mut bytes = fs::read(&path).unwrap();
    let length = bytes.len();
    match damage {
        Damage::Remove => return fs::remove_file(&path).unwrap(),
        Damage::Truncate(at) => bytes.truncate(at.index(length.max(1))),
        Damage::Flip(_) | Damage::Zeros(..) if length == 0 => {}
        Damage::Flip(at) => bytes[at.index(length)] ^= 1,
        Damage::Zeros(at, count) => {
            let at = at.index(length);
            bytes[at..length.min(at + count)].fill(0);
        }
        Damage::Append(count) => bytes.resize(length + count, 7),
        Damage::Swap(other) => match stores.shares(key, *other).pop() {
            Some(other) => bytes = fs::read(other).unwrap(),
            None => return,
        },
    }
    // In place, as bit rot is: a server that has the file open reads the damage.
    fs::write(&path, bytes).unwrap();
}

/// Random damage to random shares, some before the first request, some during a download.
fn random_damage(io: Backend) {
    let seed = RandomState::new().hash_one(0u8);
    println!("seed: {seed:#018x}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        cases: 48,
        max_shrink_iters: 200,
        failure_persistence: None,
        ..Config::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);

    let stores = Stores::new(6);
    let server = Server::start(&stores, io, &[]);
    let noise = Noise::new(seed);
    let object = std::cell::Cell::new(0);
    let harms = || prop::collection::vec((0usize..6, damage()), 0..4);
    let size = prop_oneof![1usize..100_000, 1_000_000usize..3_000_000];
    TestRunner::new_with_rng(config, rng)
        .run(&(size, harms(), harms()), |(size, before, during)| {
            if object.replace(object.get() + 1) > 0 {
                stores.clear();
            }
            let key = format!("object{}", object.get());
            let content = noise.bytes(size);
            stores.put(&key, &mut &content[..], 4, BLOCK);
            for (store, damage) in &before {
                harm(&stores, &key, *store, damage);
            }
            let mut client = Client::connect_with(server.objects, RECEIVE_BYTES);
            client.ask("GET", &format!("/{key}"), &[]);
            let head = client.head();
            for (store, damage) in &during {
                harm(&stores, &key, *store, damage);
            }
            let harmed: HashSet<_> = before
                .iter()
                .chain(&during)
                .map(|(store, _)| store)
                .collect();
            let must_survive = harmed.len() <= 2;
            let failed = |what: &str| Err(TestCaseError::fail(what.to_owned()));
            if head.status != 200 {
                // If all six are gone, the server cannot tell that from an object that was never put.
                return match head.status {
                    500 | 404 if !must_survive => Ok(()),
                    status => failed(&format!("status {status}")),
                };
            }
            let (got, end) = client.rest(size);
            if got != content[..got.len()] {
                return failed("a wrong byte");
            }
            match end {
                None => Ok(()),
                Some(End::Reset) if !must_survive => Ok(()),
                Some(end) => failed(&format!("{end:?} after {} of {size} bytes", got.len())),
            }
        })
        .unwrap_or_else(|error| panic!("{error}"));
    assert!(!server.log().contains("panicked"), "{}", server.log());
}
