//! Limits on rates. That no limit is ever exceeded holds on every machine, however slow: times are only compared with the
//! least that a limit allows, or with far less.

mod common;

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use common::{Backend, Client, Noise, PATH, Server, Stores, assert_same, get, number, together};

on_both_backends! {
    a_connection_has_its_rate
    the_connections_of_an_address_share_its_rate
    the_addresses_of_a_network_share_its_rate
    who_waits_for_a_rate_holds_nothing
}

/// At the rate below it takes two seconds.
const SIZE: usize = 512 << 10;
const RATE: &str = "256KiB";
/// The least that it may take, with what may be ahead.
const LEAST: Duration = Duration::from_secs(1);

fn served(io: Backend, options: &[&str]) -> (Stores, Server, Vec<u8>) {
    let content = Noise::new(41).bytes(SIZE);
    let stores = Stores::new(6);
    stores.put_bytes(&content);
    let server = Server::start(&stores, io, options);
    (stores, server, content)
}

/// Clients at these addresses take the whole object at the same time. Returns how long that took.
fn all_take(server: &Server, content: &[u8], sources: &[[u8; 4]]) -> Duration {
    let begun = Instant::now();
    together(sources.len(), |number| {
        let source = IpAddr::from(Ipv4Addr::from(sources[number]));
        let mut client = Client::connect_from(source, server.objects);
        let response = client.request("GET", PATH, &[]);
        assert_eq!(response.status(), 200);
        assert_same(&response.body, content, "at a rate");
    });
    begun.elapsed()
}

fn a_connection_has_its_rate(io: Backend) {
    let (_stores, server, content) = served(io, &["--rate-per-connection", RATE]);
    let time = all_take(&server, &content, &[[127, 0, 0, 1]; 2]);
    assert!(time >= LEAST, "{time:?}");
    // The rate holds for the connection, not for each response.
    let mut client = Client::connect(server.objects);
    let begun = Instant::now();
    for part in 0..8 {
        let first = part * SIZE / 8;
        let range = format!("Range: bytes={first}-{}", first + SIZE / 8 - 1);
        let response = client.request("GET", PATH, &[&range]);
        assert_same(&response.body, &content[first..][..SIZE / 8], &range);
    }
    assert!(begun.elapsed() >= LEAST, "{:?}", begun.elapsed());
}

fn the_connections_of_an_address_share_its_rate(io: Backend) {
    let (_stores, server, content) = served(io, &["--rate-per-address", RATE]);
    let time = all_take(&server, &content, &[[127, 0, 0, 1]; 3]);
    assert!(time >= 3 * LEAST, "{time:?}");
    // One after another, too: what was allowed stays noted for as long as it takes to flow.
    let begun = Instant::now();
    for _ in 0..3 {
        assert_same(&get(server.objects, PATH, &[]).body, &content, "again");
    }
    assert!(begun.elapsed() >= 3 * LEAST, "{:?}", begun.elapsed());
}

fn the_addresses_of_a_network_share_its_rate(io: Backend) {
    let (_stores, server, content) = served(io, &["--rate-per-network", RATE]);
    let sources = [[127, 0, 7, 1], [127, 0, 7, 2], [127, 0, 7, 3]];
    let time = all_take(&server, &content, &sources);
    assert!(time >= 3 * LEAST, "{time:?}");
}

fn who_waits_for_a_rate_holds_nothing(io: Backend) {
    let options = [
        "--rate-per-network",
        "16KiB",
        "--cores",
        "1",
        "--min-rate",
        "1KiB",
    ];
    let (_stores, server, content) =
        served(io, &[&options[..], &["--send-timeout", "1s"]].concat());
    let mut limited: Vec<Client> = (0..40).map(|_| Client::connect(server.objects)).collect();
    for client in &mut limited {
        client.ask("GET", PATH, &[]);
    }
    let status = server.wait_for_status("all of them are sent to", |status| {
        status["connections"]["sending"] == 40
    });
    let of = |name| number(&status, &["totals", name]);
    assert_eq!(of("pool_buffers_free"), of("pool_buffers"));
    // Others are served, and those that wait are not taken for dead, though the limit lets each have less than the least
    // rate.
    let other = IpAddr::from(Ipv4Addr::new(127, 0, 8, 1));
    let part =
        Client::connect_from(other, server.objects).request("GET", PATH, &["Range: bytes=0-9999"]);
    assert_same(&part.body, &content[..10_000], "another network's");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(server.total("timed_out_connections"), 0);
    assert_eq!(server.total("accepted_connections"), 41);
}
