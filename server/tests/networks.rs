//! Clients of many networks at once: each gets its turn and its bytes, and whoever leaves while it waits holds up nobody.

mod common;

use std::net::{IpAddr, Ipv4Addr};

use common::crowd::{degraded, nothing_is_left};
use common::{Backend, Client, Noise, PATH, Server, assert_same, get, together};

on_both_backends! {
    clients_of_many_networks_get_their_bytes
}

const SIZE: usize = 1 << 20;

fn clients_of_many_networks_get_their_bytes(io: Backend) {
    let content = Noise::new(31).bytes(SIZE);
    let stores = degraded(&content);
    // With send buffers as small as they get, so that there are many turns.
    let options = [
        "--cores",
        "1",
        "--send-buffer-max",
        "4KiB",
        "--memory",
        "96MiB",
    ];
    let server = Server::start(&stores, io, &options);
    for _ in 0..2 {
        together(24, |number| {
            let source = IpAddr::from(Ipv4Addr::new(127, 0, number as u8 % 8, 1));
            let mut client = Client::connect_from(source, server.objects);
            client.ask("GET", PATH, &[]);
            let head = client.head();
            assert_eq!((head.status, head.length()), (200, SIZE as u64));
            if number % 3 == 0 {
                client.body(number * 10_000);
                client.reset();
                return;
            }
            assert_same(&client.body(SIZE), &content, "one of many");
            // The next response of the same connection.
            let range = format!("Range: bytes={}-", number * 1000);
            let part = client.request("GET", PATH, &[&range]);
            assert_same(&part.body, &content[number * 1000..], "its second one");
        });
        nothing_is_left(&server);
    }
    assert_same(&get(server.objects, PATH, &[]).body, &content, "one alone");
    assert_eq!(server.total("reset_bodies"), 0);
}
