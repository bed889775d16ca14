//! Stores that are buckets: the right bytes whatever stores do, nothing fetched twice, and a cache that outlives its server.

mod common;

use std::fs;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::process::Command;

use common::buckets::{BLOCK, Buckets, ONCE, SIZE, all_serve, content, fetched, whole};
use common::{Backend, Client, KEY, PATH, Server, assert_same, get, together};
use decode_kernel::share::{Key, object_dir};
use penstock_faultfs::{Errno, Op, mount};
use penstock_faultproxy::Seen;

on_both_backends! {
    objects_of_buckets_are_served_whole_and_in_ranges
    what_was_fetched_is_not_fetched_again
    any_two_of_six_stores_may_be_gone
    a_store_that_lies_costs_no_byte
    a_store_that_hangs_breaks_no_download
    many_cold_clients_have_every_byte_fetched_once
    the_cache_outlives_its_server
    what_rots_in_the_cache_is_fetched_again
    a_cache_disk_that_fills_up_costs_no_byte
    a_cache_disk_that_dies_breaks_no_download
    without_a_cache_objects_are_served_from_memory
    a_server_that_takes_over_has_the_cache
    a_new_put_is_seen_when_its_listing_is_old
    directories_and_buckets_mix
    no_survey_takes_remote_shares_for_lost
    buckets_are_listed_for_clients_of_s3
    what_a_listing_of_buckets_costs
    a_listing_of_buckets_says_if_objects_may_be_lacking
}

fn objects_of_buckets_are_served_whole_and_in_ranges(io: Backend) {
    let buckets = Buckets::new();
    let content = content(1);
    buckets.stores.put(KEY, &mut &content[..], 4, BLOCK);
    buckets.stores.put("small", &mut &content[..1000], 4, BLOCK);
    buckets.stores.put("empty", &mut &b""[..], 4, BLOCK);
    let server = buckets.serve(io, &[]);
    let mut client = Client::connect_plain(server.plain);
    // The middle of it first: what is before is not there yet.
    for range in [
        5_000_000..5_000_100,
        0..1,
        SIZE - 10..SIZE,
        700_000..9_000_000,
    ] {
        let field = format!("Range: bytes={}-{}", range.start, range.end - 1);
        let part = client.request("GET", PATH, &[&field]);
        assert_eq!(part.status(), 206, "{}", server.log());
        assert_same(&part.body, &content[range], &field);
    }
    whole(&server, PATH, &content);
    whole(&server, "/small", &content[..1000]);
    whole(&server, "/empty", b"");
    let head = client.request("HEAD", PATH, &[]);
    assert_eq!((head.status(), head.head.length()), (200, SIZE as u64));
    assert_eq!(get(server.plain, "/nothing", &[]).status(), 404);
}

fn what_was_fetched_is_not_fetched_again(io: Backend) {
    let buckets = Buckets::new();
    let content = content(2);
    buckets.stores.put(KEY, &mut &content[..], 4, BLOCK);
    let server = buckets.serve(io, &ONCE);
    whole(&server, PATH, &content);
    let first: usize = buckets.seen().iter().map(|seen| fetched(seen).len()).sum();
    assert!(first >= 4 * 4, "{first} parts of shares");
    for _ in 0..3 {
        whole(&server, PATH, &content);
    }
    let again: usize = buckets.seen().iter().map(|seen| fetched(seen).len()).sum();
    assert_eq!(again, 0);
}

fn any_two_of_six_stores_may_be_gone(io: Backend) {
    let buckets = Buckets::new();
    let pairs = (0..6).flat_map(|one| (one + 1..6).map(move |two| [one, two]));
    let content = content(3);
    for pair in pairs.clone() {
        let key = format!("of-{}-{}", pair[0], pair[1]);
        buckets.stores.put(&key, &mut &content[..], 4, BLOCK);
    }
    let server = buckets.serve(io, &[]);
    // All look-ups are done while all is well: what is tested is the way of the bytes.
    for pair in pairs.clone() {
        let path = format!("/of-{}-{}", pair[0], pair[1]);
        assert_eq!(
            get(server.plain, &path, &["Range: bytes=0-0"]).status(),
            206
        );
    }
    for pair in pairs {
        buckets.set(&pair, &["slowdown"]);
        let path = format!("/of-{}-{}", pair[0], pair[1]);
        whole(&server, &path, &content);
        buckets.set(&[], &[]);
        all_serve(&server);
    }
}

/// Waits until no store is suspended any more.
fn a_store_that_lies_costs_no_byte(io: Backend) {
    let buckets = Buckets::new();
    let content = content(4);
    let lies = [
        "short",
        "wrong-range",
        "wrong-bytes",
        "whole",
        "truncated",
        "reset=70000",
        "slowdown",
    ];
    for lie in lies {
        buckets.stores.put(lie, &mut &content[..], 4, BLOCK);
    }
    let server = buckets.serve(io, &[]);
    for lie in lies {
        let path = format!("/{lie}");
        assert_eq!(
            get(server.plain, &path, &["Range: bytes=0-0"]).status(),
            206
        );
        buckets.set(&[1], &[lie]);
        whole(&server, &path, &content);
        buckets.set(&[], &[]);
        all_serve(&server);
    }
}

fn a_store_that_hangs_breaks_no_download(io: Backend) {
    let buckets = Buckets::new();
    let content = content(5);
    for key in ["before", "within"] {
        buckets.stores.put(key, &mut &content[..], 4, BLOCK);
    }
    let server = buckets.serve(io, &[]);
    for (key, fault) in [("before", "late=1h"), ("within", "hang=100000")] {
        let path = format!("/{key}");
        assert_eq!(
            get(server.plain, &path, &["Range: bytes=0-0"]).status(),
            206
        );
        buckets.set(&[2], &[fault]);
        whole(&server, &path, &content);
        buckets.set(&[], &[]);
        all_serve(&server);
    }
}

fn many_cold_clients_have_every_byte_fetched_once(io: Backend) {
    let buckets = Buckets::new();
    let content = content(6);
    buckets.stores.put(KEY, &mut &content[..], 4, BLOCK);
    let server = buckets.serve(io, &["--no-hedging"]);
    together(32, |_| whole(&server, PATH, &content));
    for (store, seen) in buckets.seen().iter().enumerate() {
        let mut ranges = fetched(seen);
        ranges.sort_by_key(|range| range.start);
        for pair in ranges.windows(2) {
            assert!(pair[0].end <= pair[1].start, "store {store}: {ranges:?}");
        }
    }
}

fn the_cache_outlives_its_server(io: Backend) {
    let buckets = Buckets::new();
    let content = content(7);
    buckets.stores.put(KEY, &mut &content[..], 4, BLOCK);
    let server = buckets.serve(io, &ONCE);
    whole(&server, PATH, &content);
    // While it has the cache, nobody else gets it.
    let refused = Server::launch(buckets.command(io, &ONCE)).err().unwrap();
    assert!(
        refused.contains("another process uses the cache"),
        "{refused}"
    );
    // Killed, not stopped.
    drop(server);
    buckets.seen();
    let server = buckets.serve(io, &ONCE);
    whole(&server, PATH, &content);
    let again: Vec<_> = buckets
        .seen()
        .iter()
        .flat_map(|seen| fetched(seen))
        .collect();
    assert_eq!(again, []);
}

fn what_rots_in_the_cache_is_fetched_again(io: Backend) {
    let buckets = Buckets::new();
    let content = content(8);
    buckets.stores.put(KEY, &mut &content[..], 4, BLOCK);
    let server = buckets.serve(io, &ONCE);
    whole(&server, PATH, &content);
    drop(server);
    for file in fs::read_dir(buckets.cache()).unwrap() {
        let path = file.unwrap().path();
        let file = fs::File::options().write(true).open(&path).unwrap();
        if file.metadata().unwrap().len() > 3 << 20 {
            // Many leaves of several units.
            file.write_all_at(&vec![0; 512 << 10], 2 << 20).unwrap();
        }
    }
    buckets.seen();
    let server = buckets.serve(io, &ONCE);
    // From a block that has only rotten leaves.
    let part = get(server.plain, PATH, &["Range: bytes=8388608-8500000"]);
    assert_same(&part.body, &content[8388608..=8500000], "a part");
    whole(&server, PATH, &content);
    let again: Vec<_> = buckets
        .seen()
        .iter()
        .flat_map(|seen| fetched(seen))
        .collect();
    // The units that rotted, and no more.
    let mut units: Vec<u64> = again
        .iter()
        .flat_map(|range| range.clone().step_by(64 << 10))
        .collect();
    units.sort_unstable();
    let rotten = (2 << 20..(2 << 20) + (512 << 10)).step_by(64 << 10);
    let rotten: Vec<u64> = rotten.flat_map(|unit| [unit; 4]).collect();
    assert_eq!(units, rotten, "{again:?}");
    whole(&server, PATH, &content);
}

/// The cache's disk is smaller than the cache may be. One that holds some objects has room made for the next ones; one that
/// holds not even one, and one that others have filled, is done without.
fn a_cache_disk_that_fills_up_costs_no_byte(io: Backend) {
    // A user of its own may mount what nobody else sees, where that is allowed.
    let isolate = ["--user", "--map-root-user", "--mount"];
    let may = Command::new("unshare").args(isolate).arg("true").output();
    if !may.is_ok_and(|output| output.status.success()) {
        common::skip("this user can't mount a file system of its own (unshare)");
        return;
    }
    let buckets = Buckets::new();
    let keys: Vec<String> = (0..6).map(|object| format!("object-{object}")).collect();
    let content = |object: usize| content(14 + object as u64);
    for (object, key) in keys.iter().enumerate() {
        let content = content(object);
        buckets.stores.put(key, &mut &content[..], 4, BLOCK);
    }
    fs::create_dir(buckets.cache()).unwrap();
    for (mount, is_given_up) in [
        ("mount -t tmpfs -o size=32m cache \"$0\"", false),
        ("mount -t tmpfs -o size=8m cache \"$0\"", true),
        (
            "mount -t tmpfs -o size=1m cache \"$0\" && ! head -c 2m /dev/zero > \"$0/others\"",
            true,
        ),
    ] {
        let serve = buckets.command(io, &["--cache-size", "1GiB"]);
        let mut command = Command::new("unshare");
        command.args(isolate).args(["sh", "-c"]);
        command
            .arg(format!("{mount} && exec \"$@\""))
            .arg(buckets.cache());
        command.arg(serve.get_program()).args(serve.get_args());
        command.envs(
            serve
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        let server = Server::launch(command).expect("it starts");
        for (object, key) in keys.iter().enumerate() {
            whole(&server, &format!("/{key}"), &content(object));
        }
        let first = content(0);
        together(4, |_| whole(&server, "/object-0", &first));
        let said = server.log().contains("the cache's disk failed");
        assert_eq!(said, is_given_up, "{mount}: {}", server.log());
    }
}

fn a_cache_disk_that_dies_breaks_no_download(io: Backend) {
    let buckets = Buckets::new();
    let content = content(21);
    buckets.stores.put(KEY, &mut &content[..], 4, BLOCK);
    for failing in [&[Op::Read, Op::Write, Op::Create][..], &[Op::Read]] {
        let disk = buckets.stores.file("disk");
        let _ = fs::remove_dir_all(&disk);
        let _ = fs::remove_dir_all(buckets.cache());
        fs::create_dir(&disk).unwrap();
        fs::create_dir(buckets.cache()).unwrap();
        let disk = match mount(&disk, &buckets.cache()) {
            Ok(disk) => disk,
            Err(why) => return common::skip(&why),
        };
        disk.bypass_page_cache(true);
        let server = buckets.serve(io, &[]);
        whole(&server, PATH, &content);
        let mut client = Client::connect_plain(server.plain);
        client.ask("GET", PATH, &[]);
        assert_eq!(client.head().status, 200, "{}", server.log());
        let mut body = client.body(1 << 20);
        disk.fail(failing, Errno::EIO);
        let (rest, end) = client.rest(content.len() - body.len());
        assert_eq!(end, None, "{}", server.log());
        body.extend(rest);
        assert_same(&body, &content, "under way");
        assert!(
            server.log().contains("the cache's disk failed"),
            "{}",
            server.log()
        );
        whole(&server, PATH, &content);
    }
}

fn without_a_cache_objects_are_served_from_memory(io: Backend) {
    let buckets = Buckets::new();
    let content = content(12);
    for key in ["before", "after"] {
        buckets.stores.put(key, &mut &content[..], 4, BLOCK);
    }
    let server = buckets.serve(io, &[]);
    whole(&server, "/before", &content);
    // Nothing can be created there any more.
    fs::remove_dir_all(buckets.cache()).unwrap();
    together(4, |_| whole(&server, "/after", &content));
    server.wait_for_log("the cache's disk failed");
    whole(&server, "/before", &content);
}

fn a_server_that_takes_over_has_the_cache(io: Backend) {
    let buckets = Buckets::new();
    let (old_content, new_content) = (content(13), content(14));
    buckets.stores.put("old", &mut &old_content[..], 4, BLOCK);
    buckets.stores.put("new", &mut &new_content[..], 4, BLOCK);
    let socket = buckets.stores.file("hand-over");
    let socket = socket.to_str().unwrap();
    let old = buckets.serve(io, &[ONCE[0], "--hand-over", socket]);
    whole(&old, "/old", &old_content);
    // A download of the old server goes on meanwhile.
    let mut client = Client::connect_plain(old.plain);
    client.ask("GET", "/old", &[]);
    let head = client.head();
    buckets.seen();
    let new = buckets.serve(io, &[ONCE[0], "--take-over", socket, "--hand-over", socket]);
    whole(&new, "/old", &old_content);
    let again: Vec<_> = buckets
        .seen()
        .iter()
        .flat_map(|seen| fetched(seen))
        .collect();
    assert_eq!(again, []);
    whole(&new, "/new", &new_content);
    let body = client.body(head.length() as usize);
    assert_same(&body, &old_content, "of the old server");
    drop(old);
    whole(&new, "/new", &new_content);
}

fn a_new_put_is_seen_when_its_listing_is_old(io: Backend) {
    let buckets = Buckets::new();
    let (old, new) = (content(9), content(10));
    buckets.stores.put(KEY, &mut &old[..], 4, BLOCK);
    let server = buckets.serve(io, &["--store-ttl", "0s"]);
    whole(&server, PATH, &old);
    buckets.stores.put(KEY, &mut &new[..], 4, BLOCK);
    common::wait_until(|| match get(server.plain, PATH, &[]).body == new {
        true => Ok(()),
        false => Err("the old one is still served".to_owned()),
    });
}

fn directories_and_buckets_mix(io: Backend) {
    let buckets = Buckets::new();
    let content = content(11);
    buckets.stores.put(KEY, &mut &content[..], 4, BLOCK);
    let mut stores: Vec<String> = (0..3).map(|store| buckets.url(store)).collect();
    stores.extend(
        buckets.stores.paths[3..]
            .iter()
            .map(|path| path.display().to_string()),
    );
    let server = Server::launch(buckets.command_of(io, &stores, &[])).expect("it starts");
    whole(&server, PATH, &content);
    buckets.set(&[0, 1], &["slowdown"]);
    whole(&server, PATH, &content);
}

/// Story: the survey looked for the shares of buckets in directories. Of a set with three remote stores it took every object
/// for unreadable, and alerts went off while all were served.
fn no_survey_takes_remote_shares_for_lost(io: Backend) {
    let buckets = Buckets::new();
    let content = content(12);
    buckets.stores.put(KEY, &mut &content[..], 4, BLOCK);
    let mut stores: Vec<String> = (0..3).map(|store| buckets.url(store)).collect();
    let directories = buckets.stores.paths[3..].iter();
    stores.extend(directories.map(|path| path.display().to_string()));
    let command = buckets.command_of(io, &stores, &["--survey-every", "100ms"]);
    let server = Server::launch(command).expect("it starts");
    whole(&server, PATH, &content);
    server.wait_for_log("not all objects are looked at in the background");
    let survey = &server.status()["survey"];
    for name in ["rounds", "objects", "degraded", "unreadable"] {
        assert_eq!(survey[name], 0, "{survey:#}");
    }
}

/// The texts of all elements with this name.
fn values(text: &str, name: &str) -> Vec<String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let parts = text.split(&open).skip(1);
    parts
        .map(|part| part.split(&close).next().unwrap().to_owned())
        .collect()
}

const LISTED: [&str; 2] = ["--s3-bucket", "media"];

/// All keys of the bucket `media`, by pages of so many.
fn keys_of_media(server: &Server, page: usize) -> Vec<String> {
    let mut keys = Vec::new();
    let mut token = String::new();
    loop {
        let path = format!("/media?list-type=2&max-keys={page}{token}");
        let answer = get(server.plain, &path, &[]);
        assert_eq!(answer.status(), 200, "{}\n{}", answer.text(), server.log());
        keys.extend(values(answer.text(), "Key"));
        match &values(answer.text(), "NextContinuationToken")[..] {
            [next] => token = format!("&continuation-token={next}"),
            _ => return keys,
        }
    }
}

/// The object `number` of [`fill_media`], as the bucket shows it.
fn name(number: usize) -> String {
    format!("dir-{}/{number:03}", number % 3)
}

/// Puts so many objects, each with its number for content, as a put in directories leaves them and as one in buckets does.
fn fill_media(buckets: &Buckets, numbers: Range<usize>) {
    for number in numbers {
        let key = format!("media/{}", name(number));
        let header = buckets
            .stores
            .put(&key, &mut number.to_string().as_bytes(), 4, BLOCK);
        if number.is_multiple_of(2) {
            continue;
        }
        for path in &buckets.stores.paths {
            let dir = path.join("objects").join(object_dir(&header.key));
            let file = dir.join(header.generation.to_string());
            fs::rename(file.with_extension("share"), file.with_extension("pending")).unwrap();
            fs::write(file.with_extension("decided"), "").unwrap();
        }
    }
}

fn names(numbers: Range<usize>) -> Vec<String> {
    let mut names: Vec<String> = numbers.map(name).collect();
    names.sort();
    names
}

fn buckets_are_listed_for_clients_of_s3(io: Backend) {
    let buckets = Buckets::new();
    fill_media(&buckets, 0..40);
    buckets.stores.put("other", &mut &b"x"[..], 4, BLOCK);
    // Seats take all memory that they can, so that hardly any credit is left.
    let options = ["--store-ttl", "0s", "--memory", "128MiB"];
    let server = buckets.serve(io, &[&LISTED[..], &options].concat());
    assert_eq!(keys_of_media(&server, 1000), names(0..40));
    assert_eq!(keys_of_media(&server, 7), names(0..40));
    let list = |query: &str| {
        let answer = get(server.plain, &format!("/media?list-type=2{query}"), &[]);
        assert_eq!(answer.status(), 200, "{}", answer.text());
        answer.text().to_owned()
    };
    let dirs = list("&delimiter=%2F");
    assert_eq!(values(&dirs, "Prefix")[1..], ["dir-0/", "dir-1/", "dir-2/"]);
    assert_eq!(values(&dirs, "Key").len(), 0);
    let one = list("&prefix=dir-1%2F&start-after=dir-1%2F034");
    assert_eq!(values(&one, "Key"), ["dir-1/037"]);
    assert_eq!(values(&one, "Size"), ["2"]);
    // With two stores gone all are there still, but for one that loses three more shares: the two may have some of it, and
    // that is not enough. A share that was named by hand is told by its header.
    for store in 0..2 {
        buckets.stores.remove_store(store);
    }
    for (store, path) in buckets.stores.paths.iter().enumerate().skip(2) {
        let dir = |number| path.join("objects").join(object_dir(&media_key(number)));
        let share = fs::read_dir(dir(2))
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        fs::rename(&share, share.with_file_name("by-hand.share")).unwrap();
        if store > 2 {
            fs::remove_dir_all(dir(3)).unwrap();
        }
    }
    let mut left = names(0..40);
    left.retain(|left| *left != name(3));
    let found = common::wait_until(|| match keys_of_media(&server, 1000) {
        keys if keys.len() == left.len() => Ok(keys),
        keys => Err(format!("{keys:?}")),
    });
    assert_eq!(found, left);
}

fn media_key(number: usize) -> Key {
    Key::new(&format!("media/{}", name(number))).unwrap()
}

/// Requests for names of files and for headers, by store.
fn looked(seen: &[Vec<Seen>]) -> (Vec<usize>, usize) {
    let lists = seen.iter().map(|seen| {
        let lists = seen
            .iter()
            .filter(|seen| seen.target.contains("prefix=objects"));
        lists.count()
    });
    let headers = seen.iter().flatten().filter(|seen| seen.range.is_some());
    (lists.collect(), headers.count())
}

fn what_a_listing_of_buckets_costs(io: Backend) {
    let buckets = Buckets::new();
    fill_media(&buckets, 0..30);
    let ttl = ["--store-ttl", "0s"];
    let server = buckets.serve(io, &[LISTED, ttl].concat());
    buckets.seen();
    // Each store is listed once, and of each object one header read.
    assert_eq!(keys_of_media(&server, 1000), names(0..30));
    assert_eq!(looked(&buckets.seen()), (vec![1; 6], 30));
    // A header that was read once is known. The window may be as young as its walk, so a listing may be answered from it.
    fill_media(&buckets, 30..32);
    buckets
        .stores
        .put("media/dir-0/000", &mut &b"new"[..], 4, BLOCK);
    let mut headers = 0;
    common::wait_until(|| {
        let keys = keys_of_media(&server, 1000);
        headers += looked(&buckets.seen()).1;
        match keys == names(0..32) {
            true => Ok(()),
            false => Err(format!("{keys:?}")),
        }
    });
    assert_eq!(headers, 3);
    drop(server);
    // What is known counts for as long as what is known of objects.
    let server = buckets.serve(io, &LISTED);
    assert_eq!(keys_of_media(&server, 5), names(0..32));
    buckets.seen();
    fill_media(&buckets, 32..33);
    assert_eq!(keys_of_media(&server, 1000), names(0..32));
    assert_eq!(looked(&buckets.seen()), (vec![0; 6], 0));
}

fn a_listing_of_buckets_says_if_objects_may_be_lacking(io: Backend) {
    let buckets = Buckets::new();
    fill_media(&buckets, 0..3);
    let server = buckets.serve(io, &LISTED);
    buckets.set(&[0, 1, 2, 3, 4, 5], &["slowdown"]);
    let answer = common::wait_until(|| match get(server.plain, "/media", &[]) {
        answer if values(answer.text(), "Code") == ["ServiceUnavailable"] => Ok(answer),
        answer => Err(answer.text().to_owned()),
    });
    assert_eq!(answer.status(), 503);
    buckets.set(&[], &[]);
    all_serve(&server);
    assert_eq!(keys_of_media(&server, 1000), names(0..3));
}
