//! Stores whose disks hang, fail, lie, are slow and go away under a running server. Clients must not notice: they get the
//! right bytes soon, from the other stores. Where too few are left they get 503, soon too.
//!
//! The story: one of six stores hung in every call. No GET was answered any more, also none of keys that don't exist, until
//! the server was started again, and then it never listened. `/readyz` said 200 and the log nothing.

mod common;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use common::client::End;
use common::{
    Backend, Client, KEY, Noise, PATH, Server, Stores, assert_same, get, together, wait_until,
};
use decode_kernel::share::BLOCKS_OFFSET;
use penstock_faultfs::{Errno, FaultFs, Op, mount};

on_both_backends! {
    one_of_six_hangs
    two_of_six_hang
    three_of_six_hang
    each_kind_of_call_hangs
    reads_fail
    reads_are_short
    every_call_fails
    read_only_does_not_matter
    a_mount_goes_away
    wrong_bits_from_the_disk
    slow_reads
    slow_but_needed
    one_file_hangs
    comes_and_goes
    all_hang
    started_with_a_hanging_and_a_missing_store
    sigterm_while_a_store_hangs
}

/// The large object: far more than sockets and readahead hold, so that most of it is read after a fault.
const LARGE: usize = 8 << 20;
/// What a client reads of it before the fault.
const READ_FIRST: usize = 100_000;
/// Its receive buffer: small, so that the server waits for it.
const RECEIVE_BYTES: usize = 64 << 10;
/// Small objects, named by their numbers, and their length.
const SMALL: u64 = 60;
const SMALL_BYTES: usize = 10_000;
/// The deadline of stores: longer than by default, so that one that serves isn't late because the machine is busy.
const STORE_TIMEOUT: [&str; 2] = ["--store-timeout", "1s"];
/// No answer may take longer. Some deadlines, and far less than a hang.
const SOON: Duration = Duration::from_secs(8);

/// A server whose stores are 4+2 shares of each object, some of them on disks that fail on demand.
struct Scene {
    // The disks go before the server that may hang in them.
    disks: Vec<FaultFs>,
    server: Server,
    stores: Stores,
    large: Vec<u8>,
}

/// Stores with objects, those of `faulty` on disks of their own.
fn stores(faulty: &[usize]) -> Option<(Vec<FaultFs>, Stores, Vec<u8>)> {
    let mut stores = Stores::new(6);
    let large = Noise::new(7).bytes(LARGE);
    stores.put(KEY, &mut &large[..], 4, 64 << 10);
    for number in 0..SMALL {
        stores.put(&number.to_string(), &mut small(number), 4, 4096);
    }
    let mut disks = Vec::new();
    for &store in faulty {
        let place = stores.file(&format!("disk{store}"));
        fs::create_dir(&place).unwrap();
        match mount(&stores.paths[store], &place) {
            Ok(disk) => disks.push(disk),
            Err(why) => {
                common::skip(&why);
                return None;
            }
        }
        stores.paths[store] = place;
    }
    Some((disks, stores, large))
}

/// The content of a small object.
fn small(number: u64) -> &'static [u8] {
    static ALL: OnceLock<Vec<u8>> = OnceLock::new();
    let all = ALL.get_or_init(|| Noise::new(8).bytes(SMALL as usize * SMALL_BYTES));
    &all[number as usize * SMALL_BYTES..][..SMALL_BYTES]
}

/// The scene of most tests, unless FUSE can't be had here.
fn scene(io: Backend, faulty: &[usize]) -> Option<Scene> {
    let (disks, stores, large) = stores(faulty)?;
    let server = Server::start(&stores, io, &STORE_TIMEOUT);
    Some(Scene {
        disks,
        server,
        stores,
        large,
    })
}

impl Scene {
    /// The state of a store in `/status`.
    fn state(&self, store: usize) -> String {
        let status = self.server.status();
        let path = self.stores.paths[store].to_str();
        let all = status["stores"].as_array();
        let one = all.and_then(|all| all.iter().find(|one| one["path"].as_str() == path));
        let state = one.and_then(|one| one["state"].as_str());
        state
            .unwrap_or_else(|| panic!("no state of store {store}: {status:#}"))
            .to_owned()
    }

    /// Waits until a store is suspended, or serves again.
    fn wait_for(&self, store: usize, serving: bool) {
        wait_until(|| match self.state(store) {
            state if (state == "serving") == serving => Ok(()),
            state => Err(format!("store {store} is still {state}")),
        });
    }

    fn heal(&self) {
        self.disks.iter().for_each(FaultFs::heal);
    }

    /// What hung gives back what it held.
    fn expect_all_buffers_free(&self) {
        self.server.wait_for_status("all buffers free", |status| {
            let totals = &status["totals"];
            ["pool_buffers", "readahead_buffers"]
                .iter()
                .all(|name| totals[*name] == totals[format!("{name}_free")])
        });
    }

    /// A small object, which must be right and soon here.
    fn expect_small(&self, number: u64) {
        let asked = Instant::now();
        let answer = get(self.server.objects, &format!("/{number}"), &[]);
        assert_eq!(answer.status(), 200, "object {number}: {}", answer.text());
        assert_same(&answer.body, small(number), "a small object");
        assert!(asked.elapsed() < SOON, "after {:?}", asked.elapsed());
    }

    /// The fault happens in the middle of ten downloads and of a stream of small requests, of which every eighth is for
    /// a key that doesn't exist. All must be answered right and soon.
    fn under_load(&mut self, fault: impl FnOnce(&mut [FaultFs])) {
        const BEFORE: usize = 100;
        const AFTER: usize = 300;
        let (server, large) = (&self.server, &self.large);
        let mut downloads: Vec<Client> = (0..10).map(|_| begin(server, large)).collect();
        let (answered, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let wait_for_small = |count: usize| {
            wait_until(|| match answered.load(Ordering::Relaxed) {
                so_far if so_far >= count => Ok(()),
                so_far => Err(format!("{so_far} of {count} small requests are answered")),
            });
        };
        let mut times = thread::scope(|scope| {
            // Four clients with 50 requests a second each.
            let clients: Vec<_> = (0..4)
                .map(|client| {
                    let (answered, stop) = (&answered, &stop);
                    scope.spawn(move || small_requests(server, client, answered, stop))
                })
                .collect();
            // However this ends, the clients do.
            let _stop = StopOnDrop(&stop);
            wait_for_small(BEFORE);
            fault(&mut self.disks);
            let before = answered.load(Ordering::Relaxed);
            thread::scope(|scope| {
                let rests: Vec<_> = downloads
                    .iter_mut()
                    .map(|client| scope.spawn(|| client.body(LARGE - READ_FIRST)))
                    .collect();
                for rest in rests {
                    assert_same(&rest.join().unwrap(), &large[READ_FIRST..], "the rest");
                }
            });
            wait_for_small(before + AFTER);
            stop.store(true, Ordering::Relaxed);
            let times = clients.into_iter().map(|client| client.join().unwrap());
            times.flatten().collect::<Vec<_>>()
        });
        times.sort();
        let (p99, most) = (times[times.len() * 99 / 100], times[times.len() - 1]);
        println!(
            "{} small requests: p99 {p99:?}, at most {most:?}",
            times.len()
        );
        assert!(most < SOON, "an answer took {most:?}");
    }
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Begins a download of the large object and stops reading.
fn begin(server: &Server, large: &[u8]) -> Client {
    let mut client = Client::connect_with(server.objects, RECEIVE_BYTES);
    client.ask("GET", PATH, &[]);
    assert_eq!(client.head().status, 200);
    assert_same(
        &client.body(READ_FIRST),
        &large[..READ_FIRST],
        "the beginning",
    );
    client
}

/// Requests over one connection until told to stop, and how long each took.
fn small_requests(
    server: &Server,
    client: u64,
    answered: &AtomicUsize,
    stop: &AtomicBool,
) -> Vec<Duration> {
    let mut connection = Client::connect(server.objects);
    let mut times = Vec::new();
    for turn in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let asked = Instant::now();
        if turn % 8 == 7 {
            let answer = connection.request("GET", &format!("/none/{client}/{turn}"), &[]);
            // While a store is away it may not be certain that the key doesn't exist.
            assert!([404, 503].contains(&answer.status()), "{:?}", answer.head);
        } else {
            let number = (client * 17 + turn) % SMALL;
            let answer = connection.request("GET", &format!("/{number}"), &[]);
            assert_eq!(answer.status(), 200, "object {number}: {}", answer.text());
            assert_same(&answer.body, small(number), "a small object");
        }
        times.push(asked.elapsed());
        answered.fetch_add(1, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(20).saturating_sub(asked.elapsed()));
    }
    times
}

fn one_of_six_hangs(io: Backend) {
    let Some(mut scene) = scene(io, &[0, 1, 2]) else {
        return;
    };
    scene.under_load(|disks| disks[0].hang(Op::ALL));
    scene.wait_for(0, false);
    scene.heal();
    scene.wait_for(0, true);
    scene.expect_all_buffers_free();
    // It is needed now: four of six are left.
    scene.under_load(|disks| disks[1..].iter().for_each(|disk| disk.hang(Op::ALL)));
    assert_eq!(scene.state(0), "serving");
    assert_ne!(scene.state(1), "serving");
    scene.heal();
    scene.expect_all_buffers_free();
}

fn two_of_six_hang(io: Backend) {
    let Some(mut scene) = scene(io, &[1, 4]) else {
        return;
    };
    scene.under_load(|disks| disks.iter().for_each(|disk| disk.hang(Op::ALL)));
    for store in [1, 4] {
        scene.wait_for(store, false);
    }
    scene.heal();
    for store in [1, 4] {
        scene.wait_for(store, true);
    }
}

fn three_of_six_hang(io: Backend) {
    let Some(scene) = scene(io, &[0, 3, 5]) else {
        return;
    };
    let mut downloads: Vec<Client> = (0..4).map(|_| begin(&scene.server, &scene.large)).collect();
    scene.disks.iter().for_each(|disk| disk.hang(Op::ALL));
    for client in &mut downloads {
        let asked = Instant::now();
        let (bytes, end) = client.until_end();
        assert!(asked.elapsed() < SOON, "after {:?}", asked.elapsed());
        assert_same(
            &bytes,
            &scene.large[READ_FIRST..][..bytes.len()],
            "until the end",
        );
        assert_eq!(end, End::Reset, "it can't be read to the end");
    }
    // Several at once, as many as are looked up at one time and more.
    together(16, |client| {
        // That a key doesn't exist may be certain: the other stores would have a share of it.
        let (path, may_be) = match client % 2 {
            0 => (format!("/{client}"), &[503][..]),
            _ => (format!("/none/{client}"), &[503, 404][..]),
        };
        let asked = Instant::now();
        let answer = get(scene.server.objects, &path, &[]);
        let status = answer.status();
        assert!(may_be.contains(&status), "{path}: {:?}", answer.head);
        assert_eq!(answer.field("Retry-After").is_some(), status == 503);
        assert!(asked.elapsed() < SOON, "after {:?}", asked.elapsed());
    });
    scene.heal();
    for store in [0, 3, 5] {
        scene.wait_for(store, true);
    }
    together(16, |client| scene.expect_small(client as u64));
    assert_eq!(get(scene.server.objects, "/none", &[]).status(), 404);
}

/// Some calls hang while others go on, as where a disk's cache still answers.
fn each_kind_of_call_hangs(io: Backend) {
    let Some(mut scene) = scene(io, &[1, 5]) else {
        return;
    };
    for op in [Op::Read, Op::Lookup, Op::GetAttr, Op::Open, Op::ReadDir] {
        println!("{op:?} hangs");
        scene.disks.iter().for_each(FaultFs::evict);
        scene.under_load(|disks| disks.iter().for_each(|disk| disk.hang(&[op])));
        scene.heal();
        for store in [1, 5] {
            scene.wait_for(store, true);
        }
    }
    scene.expect_all_buffers_free();
}

fn reads_fail(io: Backend) {
    let Some(mut scene) = scene(io, &[1]) else {
        return;
    };
    scene.under_load(|disks| disks[0].fail(&[Op::Read], Errno::EIO));
    scene.heal();
    scene.wait_for(1, true);
}

fn reads_are_short(io: Backend) {
    let Some(mut scene) = scene(io, &[0]) else {
        return;
    };
    scene.under_load(|disks| {
        disks[0].evict();
        disks[0].truncate_reads(300_000);
    });
}

/// As a network file system does whose server forgot everything.
fn every_call_fails(io: Backend) {
    let Some(mut scene) = scene(io, &[3]) else {
        return;
    };
    scene.under_load(|disks| disks[0].fail(Op::ALL, Errno::ESTALE));
    scene.wait_for(3, false);
    scene.heal();
    scene.wait_for(3, true);
}

fn read_only_does_not_matter(io: Backend) {
    let Some(mut scene) = scene(io, &[0]) else {
        return;
    };
    scene.under_load(|disks| disks[0].read_only());
    assert_eq!(scene.state(0), "serving");
    assert_eq!(scene.server.total("failed_shares"), 0);
}

fn a_mount_goes_away(io: Backend) {
    let Some(mut scene) = scene(io, &[2]) else {
        return;
    };
    scene.under_load(|disks| disks[0].unmount());
    scene.wait_for(2, false);
    // The mount point is an empty directory now, which is not an empty store.
    assert_eq!(scene.state(2), "missing");
    scene.disks[0] = scene.disks[0].mount_again().unwrap();
    scene.wait_for(2, true);
}

fn wrong_bits_from_the_disk(io: Backend) {
    let Some(mut scene) = scene(io, &[0]) else {
        return;
    };
    // It is in the page cache, and verified.
    for _ in 0..3 {
        let answer = get(scene.server.objects, PATH, &[]);
        assert_same(&answer.body, &scene.large, "the large object");
    }
    scene.under_load(|disks| {
        disks[0].evict();
        disks[0].flip_bits_from(BLOCKS_OFFSET);
    });
    for _ in 0..3 {
        scene.disks[0].evict();
        let answer = get(scene.server.objects, PATH, &[]);
        assert_eq!(answer.status(), 200);
        assert_same(&answer.body, &scene.large, "the large object");
    }
}

fn slow_reads(io: Backend) {
    const DELAY: Duration = Duration::from_millis(300);
    let Some(scene) = scene(io, &[1]) else {
        return;
    };
    scene.disks[0].bypass_page_cache(true);
    scene.disks[0].delay(&[Op::Read], DELAY);
    let asked = Instant::now();
    let answer = get(scene.server.objects, PATH, &[]);
    let took = asked.elapsed();
    assert_same(&answer.body, &scene.large, "the large object");
    // A share has this many blocks, one after the other.
    let blocks = (LARGE / 4 / (64 << 10)) as u32;
    println!(
        "{took:?} where {:?} were one delay for each of {blocks} blocks",
        DELAY * blocks
    );
    assert!(took < DELAY * blocks / 3, "{took:?}");
}

/// A slow store is asked where the others don't suffice: late is better than never.
fn slow_but_needed(io: Backend) {
    let Some(mut scene) = scene(io, &[0, 2, 4]) else {
        return;
    };
    scene.under_load(|disks| disks[0].delay(&[Op::Read], Duration::from_millis(200)));
    scene.disks[1..].iter().for_each(|disk| disk.hang(Op::ALL));
    // Those that hang are found out by one who asks.
    wait_until(|| {
        get(scene.server.objects, "/none", &[]);
        let hung = [2, 4].map(|store| scene.state(store) == "hung");
        hung.iter()
            .all(|&hung| hung)
            .then_some(())
            .ok_or_else(|| format!("{hung:?}"))
    });
    together(8, |client| scene.expect_small(client as u64));
    let answer = get(scene.server.objects, PATH, &[]);
    assert_eq!(answer.status(), 200);
    assert_same(&answer.body, &scene.large, "the large object");
}

/// A place on a disk that can't be read: all other files can.
fn one_file_hangs(io: Backend) {
    let Some(mut scene) = scene(io, &[0]) else {
        return;
    };
    let share = scene.stores.share(KEY, 0);
    let name = share.file_name().unwrap().to_str().unwrap();
    scene.under_load(|disks| disks[0].hang_at(&[Op::Read], name));
    for _ in 0..3 {
        let asked = Instant::now();
        let answer = get(scene.server.objects, PATH, &[]);
        assert_same(&answer.body, &scene.large, "the large object");
        assert!(asked.elapsed() < SOON, "after {:?}", asked.elapsed());
    }
    scene.heal();
    scene.wait_for(0, true);
}

fn comes_and_goes(io: Backend) {
    let Some(mut scene) = scene(io, &[0, 1]) else {
        return;
    };
    for turn in 0..4 {
        scene.disks.iter().for_each(FaultFs::evict);
        scene.under_load(|disks| disks[turn % 2].hang(Op::ALL));
        scene.heal();
        scene.wait_for(0, true);
        scene.wait_for(1, true);
    }
    scene.expect_all_buffers_free();
}

fn all_hang(io: Backend) {
    let Some(scene) = scene(io, &[0, 1, 2, 3, 4, 5]) else {
        return;
    };
    scene.disks.iter().for_each(|disk| disk.hang(Op::ALL));
    for _ in 0..3 {
        together(32, |client| {
            let asked = Instant::now();
            let answer = get(scene.server.objects, &format!("/{client}"), &[]);
            assert_eq!(answer.status(), 503, "{}", answer.text());
            assert!(asked.elapsed() < SOON, "after {:?}", asked.elapsed());
        });
    }
    assert_eq!(get(scene.server.admin, "/readyz", &[]).status(), 503);
    // It said that the server was ready.
    let status = scene.server.status();
    assert_eq!(status["ready"], false);
    assert_eq!(status["why_not_ready"], "no store can be reached");
    scene.heal();
    for store in 0..6 {
        scene.wait_for(store, true);
    }
    together(16, |client| scene.expect_small(client as u64));
    assert_eq!(get(scene.server.admin, "/readyz", &[]).status(), 200);
}

fn started_with_a_hanging_and_a_missing_store(io: Backend) {
    let Some((disks, mut stores, large)) = stores(&[0]) else {
        return;
    };
    stores.paths[3] = stores.file("nowhere");
    disks[0].hang(Op::ALL);
    let command = Server::command(&stores, io, &STORE_TIMEOUT);
    let (started, start) = mpsc::channel();
    let starting = thread::spawn(move || drop(started.send(Server::launch(command))));
    let server = start.recv_timeout(SOON * 4).unwrap_or_else(|_| {
        // It is of no use to wait for the server any more.
        disks[0].heal();
        starting.join().unwrap();
        panic!("the server does not start")
    });
    let server = server.expect("it starts");
    let scene = Scene {
        disks,
        server,
        stores,
        large,
    };
    together(16, |client| scene.expect_small(client as u64));
    let answer = get(scene.server.objects, PATH, &[]);
    assert_same(&answer.body, &scene.large, "the large object");
    assert_ne!(scene.state(0), "serving");
    assert_eq!(scene.state(3), "missing");
    scene.heal();
    scene.wait_for(0, true);
}

fn sigterm_while_a_store_hangs(io: Backend) {
    let Some((disks, stores, large)) = stores(&[2]) else {
        return;
    };
    let [name, time] = STORE_TIMEOUT;
    let server = Server::start(&stores, io, &[name, time, "--drain-timeout", "1s"]);
    let mut scene = Scene {
        disks,
        server,
        stores,
        large,
    };
    // A download under way needs the store, and another never ends.
    let mut reading = begin(&scene.server, &scene.large);
    let _stalled = begin(&scene.server, &scene.large);
    scene.disks[0].hang(Op::ALL);
    // Another is looked up.
    let mut looking = Client::connect(scene.server.objects);
    looking.ask("GET", "/5", &[]);
    wait_until(|| match scene.disks[0].hanging() {
        0 => Err("nothing hangs".to_owned()),
        _ => Ok(()),
    });
    scene.server.signal("TERM");
    let told = Instant::now();
    // Whole or cut off: the drain is short.
    let (bytes, _) = reading.until_end();
    assert_same(
        &bytes,
        &scene.large[READ_FIRST..][..bytes.len()],
        "until the end",
    );
    scene.server.wait();
    println!("ended after {:?}", told.elapsed());
    assert!(told.elapsed() < SOON * 4, "after {:?}", told.elapsed());
}

/// The file system that the other tests rely on does what its rules say.
#[test]
fn the_faults_are_what_the_rules_say() {
    let root = tempfile::tempdir().unwrap();
    let (backing, place) = (root.path().join("backing"), root.path().join("mounted"));
    for directory in [&backing, &place] {
        fs::create_dir(directory).unwrap();
    }
    let mut disk = match mount(&backing, &place) {
        Ok(disk) => disk,
        Err(why) => return common::skip(&why),
    };
    // Everything that a put does.
    fs::create_dir_all(place.join("a/b")).unwrap();
    let (temporary, file) = (place.join("a/new"), place.join("a/b/file"));
    let content: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
    fs::write(&temporary, &content).unwrap();
    fs::File::open(&temporary).unwrap().sync_all().unwrap();
    fs::rename(&temporary, &file).unwrap();
    fs::File::open(place.join("a")).unwrap().sync_all().unwrap();
    assert_eq!(fs::read(&file).unwrap(), content);
    assert_eq!(fs::read(backing.join("a/b/file")).unwrap(), content);
    assert_eq!(fs::read_dir(place.join("a")).unwrap().count(), 1);
    fs::write(place.join("other"), "x").unwrap();
    fs::remove_file(place.join("other")).unwrap();

    // Errors, of the kinds of calls that they are for.
    disk.read_only();
    let error = fs::write(place.join("other"), "x").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    assert_eq!(fs::read(&file).unwrap(), content);
    disk.heal();
    disk.fail(&[Op::Open], Errno::ESTALE);
    let error = fs::read(&file).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StaleNetworkFileHandle);
    disk.heal();
    disk.fail_at(&[Op::Read], "nowhere", Errno::EIO);
    disk.evict();
    assert_eq!(fs::read(&file).unwrap(), content);

    // Wrong bits show once the right ones left the page cache.
    let open = fs::File::open(&file).unwrap();
    let read = || {
        let mut bytes = vec![0; 50_000];
        open.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    };
    disk.flip_bits_from(8192);
    assert_eq!(read(), content[..50_000], "from the page cache");
    disk.evict();
    let bytes = read();
    assert_eq!(bytes[..8192], content[..8192]);
    assert_eq!(bytes[8192], content[8192] ^ 0x10);
    disk.heal();
    disk.evict();
    assert_eq!(read(), content[..50_000]);

    // What hangs holds up nothing else, and goes on afterwards. It is another process: see `penstock_faultfs`.
    let hang = |program: &str, argument: &Path| {
        let child = Command::new(program)
            .arg(argument)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        wait_until(|| match disk.hanging() {
            0 => Err("nothing hangs".to_owned()),
            _ => Ok(()),
        });
        child
    };
    disk.hang(&[Op::ReadDir]);
    let mut listing = hang("ls", &place.join("a"));
    assert_eq!(fs::metadata(&file).unwrap().len(), 100_000);
    assert!(listing.try_wait().unwrap().is_none());
    disk.heal();
    assert!(listing.wait().unwrap().success());

    // A process that hangs can be killed.
    disk.hang(Op::ALL);
    let mut reading = hang("cat", &file);
    reading.kill().unwrap();
    assert!(!reading.wait().unwrap().success());

    disk.heal();
    disk.delay(&[Op::Read], Duration::from_millis(1));
    disk.unmount();
    assert!(!file.exists());
    assert!(open.read_at(&mut [0], 60_000).is_err());
    let _again = mount(&backing, &place).unwrap();
    assert_eq!(fs::read(&file).unwrap(), content);
}
