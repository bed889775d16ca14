//! Objects of all shapes: narrow and wide codes, small and large blocks, with pools down to one small buffer.

mod common;

use common::{Backend, Client, KEY, Noise, PATH, Server, Stores, assert_same, get, together};
use decode_kernel::code::CodeKind;

on_both_backends! {
    codes_narrow_and_wide
    one_small_buffer_serves_many
    buffers_too_small_for_a_leaf_of_each_share
}

/// Checks the whole object, a range from the middle, and the end.
fn check(server: &Server, content: &[u8], what: &str) {
    let mut client = Client::connect(server.objects);
    assert_same(&client.request("GET", PATH, &[]).body, content, what);
    let middle = content.len() / 3;
    let range = format!("Range: bytes={middle}-{}", middle + 100_000);
    assert_same(
        &client.request("GET", PATH, &[&range]).body,
        &content[middle..content.len().min(middle + 100_001)],
        what,
    );
    let end = client.request("GET", PATH, &["Range: bytes=-1"]);
    assert_same(&end.body, &content[content.len() - 1..], what);
}

fn codes_narrow_and_wide(io: Backend) {
    use CodeKind::{Rs8, Rs16};
    for (code, data, parity, block) in [
        (Rs8, 1, 0, 4096),
        (Rs8, 1, 3, 65_536),
        (Rs16, 1, 1, 8192),
        (Rs16, 4, 2, 16_384),
        (Rs8, 3, 10, 4096),
        (Rs8, 60, 20, 4096),
        (Rs16, 200, 60, 4096),
    ] {
        let what = format!("{code} {data}+{parity} of {block} bytes");
        let stores = Stores::new(usize::from(data + parity));
        // Two segments and a part of a third.
        let size = usize::from(data) * block as usize * 5 / 2 + 777;
        let content = Noise::new(10).bytes(size);
        stores.put_in(Some(code), KEY, &mut &content[..], data, block);
        let server = Server::start(&stores, io, &[]);
        check(&server, &content, &format!("{what}, healthy"));
        assert_eq!(server.total("rebuilt_bytes"), 0);
        drop(server);
        // The first shares are the data itself, so losing those is the hardest case.
        for store in 0..usize::from(parity) {
            stores.remove_store(store);
        }
        let server = Server::start(&stores, io, &[]);
        check(
            &server,
            &content,
            &format!("{what}, as few shares as can be"),
        );
        assert_eq!(server.total("rebuilt_bytes") > 0, parity > 0);
        drop(server);
        if data > 1 {
            stores.remove_store(usize::from(parity));
            let server = Server::start(&stores, io, &[]);
            let answer = get(server.objects, PATH, &[]);
            assert_eq!(answer.status(), 503, "{what}, one fewer");
        }
    }
}

fn one_small_buffer_serves_many(io: Backend) {
    let stores = Stores::new(6);
    let content = Noise::new(11).bytes((9 << 20) + 4567);
    // One block is sixteen times the buffer.
    stores.put(KEY, &mut &content[..], 4, 1 << 20);
    let small = [
        "--cores",
        "1",
        "--pool-buffers",
        "1",
        "--pool-buffer-size",
        "64KiB",
    ];
    for lost in [None, Some([1, 2])] {
        for store in lost.into_iter().flatten() {
            stores.remove_store(store);
        }
        let server = Server::start(&stores, io, &small);
        together(6, |_| check(&server, &content, "through one buffer"));
        assert_eq!(server.total("pool_buffers"), 1);
    }
}

fn buffers_too_small_for_a_leaf_of_each_share(io: Backend) {
    let stores = Stores::new(60);
    let content = Noise::new(12).bytes(500_000);
    stores.put(KEY, &mut &content[..], 40, 4096);
    let server = Server::start(&stores, io, &["--pool-buffer-size", "64KiB"]);
    let answer = get(server.objects, PATH, &[]);
    assert_eq!(answer.status(), 500);
    assert!(
        answer.text().contains("larger pool buffers"),
        "{}",
        answer.text()
    );
    server.wait_for_log("--pool-buffer-size needs");
    let server = Server::start(&stores, io, &["--pool-buffer-size", "256KiB"]);
    check(&server, &content, "with enough");
}
