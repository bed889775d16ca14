//! The cache of remote shares, and what is known of them: what rots, and what is old.

mod common;

use std::fs;
use std::os::unix::fs::FileExt;

use common::buckets::{BLOCK, Buckets, ONCE, SIZE, all_serve, content, fetched, whole};
use common::{Backend, KEY, PATH, assert_same, get, together};

on_both_backends! {
    what_rots_in_a_cached_header_is_fetched_again
    a_header_that_rots_in_its_store_is_not_fetched_for_every_request
    a_store_that_is_late_for_the_first_object_is_not_waited_for
    what_was_not_there_long_ago_is_asked_for
    many_who_ask_for_one_object_have_it_listed_once
    listings_of_several_times_hide_no_share
    with_no_time_to_live_a_new_put_is_seen_at_once
}

/// The headers of all shares, also of those that are short, and of an object without bytes.
fn what_rots_in_a_cached_header_is_fetched_again(io: Backend) {
    let buckets = Buckets::new();
    let content = content(31);
    buckets.stores.put(KEY, &mut &content[..], 4, BLOCK);
    buckets.stores.put("small", &mut &content[..1000], 4, BLOCK);
    buckets.stores.put("empty", &mut &b""[..], 4, BLOCK);
    let all = |server: &_| {
        whole(server, PATH, &content);
        whole(server, "/small", &content[..1000]);
        whole(server, "/empty", b"");
    };
    for rot in [0, 0xa5] {
        let server = buckets.serve(io, &ONCE);
        all(&server);
        drop(server);
        for file in fs::read_dir(buckets.cache()).unwrap() {
            let path = file.unwrap().path();
            let file = fs::File::options().write(true).open(&path).unwrap();
            let bytes = file.metadata().unwrap().len().min(4096);
            file.write_all_at(&vec![rot; bytes as usize], 0).unwrap();
        }
        let server = buckets.serve(io, &ONCE);
        all(&server);
        all(&server);
    }
}

/// Each look at an object would cost a request for each header that is bad.
fn a_header_that_rots_in_its_store_is_not_fetched_for_every_request(io: Backend) {
    let buckets = Buckets::new();
    let content = content(32);
    buckets.stores.put(KEY, &mut &content[..], 4, BLOCK);
    for store in 0..6 {
        let path = buckets.stores.share(KEY, store);
        let file = fs::File::options().write(true).open(path).unwrap();
        file.write_all_at(&[0xa5; 64], 0).unwrap();
    }
    let server = buckets.serve(io, &ONCE);
    for _ in 0..10 {
        assert_eq!(
            get(server.plain, PATH, &[]).status(),
            500,
            "{}",
            server.log()
        );
    }
    for seen in buckets.seen() {
        let ranges = fetched(&seen);
        assert!((1..=2).contains(&ranges.len()), "{ranges:?}");
    }
}

/// How many shares an object takes is known of none yet.
fn a_store_that_is_late_for_the_first_object_is_not_waited_for(io: Backend) {
    let buckets = Buckets::new();
    let content = content(33);
    buckets.stores.put(KEY, &mut &content[..], 4, BLOCK);
    let server = buckets.serve(io, &[]);
    buckets.set(&[2], &["late=1h"]);
    whole(&server, PATH, &content);
    // One that was waited for would have been found to hang.
    assert!(
        !server.log().contains("store suspended"),
        "{}",
        server.log()
    );
}

/// What is known of an object counts for a while. Long after that it says nothing, also if nobody asked in between.
fn what_was_not_there_long_ago_is_asked_for(io: Backend) {
    let buckets = Buckets::new();
    let content = content(34);
    let server = buckets.serve(io, &["--store-ttl", "1s"]);
    assert_eq!(get(server.plain, PATH, &[]).status(), 404);
    buckets.stores.put(KEY, &mut &content[..], 4, BLOCK);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    whole(&server, PATH, &content);
    // The same of one that was replaced.
    let new = &content[..5000];
    buckets.stores.put(KEY, &mut &new[..], 4, BLOCK);
    std::thread::sleep(std::time::Duration::from_millis(2100));
    whole(&server, PATH, new);
}

fn many_who_ask_for_one_object_have_it_listed_once(io: Backend) {
    let buckets = Buckets::new();
    let content = content(35);
    buckets.stores.put(KEY, &mut &content[..], 4, BLOCK);
    let server = buckets.serve(io, &ONCE);
    together(48, |_| {
        let part = get(server.plain, PATH, &["Range: bytes=0-999"]);
        assert_same(&part.body, &content[..1000], "a part");
    });
    for seen in buckets.seen() {
        let lists = seen.iter().filter(|seen| seen.target.contains("list-type"));
        assert_eq!(lists.count(), 1);
    }
}

/// One store is asked after an object was replaced, the others were before: the new put has all its shares.
fn listings_of_several_times_hide_no_share(io: Backend) {
    let buckets = Buckets::new();
    let content = content(36);
    buckets.stores.put(KEY, &mut &content[..], 4, BLOCK);
    // Two stores can't be asked at first.
    buckets.set(&[0, 1], &["slowdown"]);
    let server = buckets.serve(io, &["--store-ttl", "1h"]);
    assert_eq!(get(server.plain, PATH, &["Range: bytes=0-0"]).status(), 206);
    let new = &content[..SIZE / 2];
    buckets.stores.put(KEY, &mut &new[..], 4, BLOCK);
    buckets.set(&[], &[]);
    all_serve(&server);
    // An object that is open is asked for once a second.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    whole(&server, PATH, new);
}

fn with_no_time_to_live_a_new_put_is_seen_at_once(io: Backend) {
    let buckets = Buckets::new();
    let content = content(37);
    let server = buckets.serve(io, &["--store-ttl", "0s", "--no-hedging"]);
    for length in 1..10 {
        let new = &content[..length * 1000];
        buckets.stores.put(KEY, &mut &new[..], 4, BLOCK);
        whole(&server, PATH, new);
    }
}
