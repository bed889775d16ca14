//! Proxies in front: what they say of clients is taken from trusted ones only, and what passes through the usual ones is
//! right. Programs that are not installed are skipped.

mod common;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::{
    BLOCK, Backend, Client, KEY, Noise, PATH, Server, Stores, assert_same, served, skip, wait_until,
};

on_both_backends! {
    a_preamble_names_the_client
    a_preamble_is_required_of_proxies_and_of_nobody_else
    fields_name_the_client
    haproxy
    nginx_caches_slices
    varnish
    squid
}

const PREAMBLE: [&str; 4] = [
    "--trusted-proxy",
    "127.0.0.1",
    "--proxy-protocol",
    "--max-connections-per-address=1",
];

/// A header of version 1 for a client.
fn v1(client: &str) -> String {
    format!("PROXY TCP4 {client} 127.0.0.1 4711 80\r\n")
}

/// The same of version 2.
fn v2(client: Ipv4Addr) -> Vec<u8> {
    let start = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c";
    [
        &start[..],
        &client.octets(),
        &[127, 0, 0, 1, 0x12, 0x67, 0, 80],
    ]
    .concat()
}

/// The addresses of clients that have connections.
fn clients(server: &Server) -> Vec<String> {
    let status = server.status();
    let listed = status["largest_and_slowest"].as_array();
    let listed = listed.unwrap_or_else(|| panic!("no connections in {status:#}"));
    listed
        .iter()
        .map(|one| one["client"].as_str().unwrap().to_owned())
        .collect()
}

fn a_preamble_names_the_client(io: Backend) {
    let (stores, _, content) = served(io);
    let server = Server::start(&stores, io, &PREAMBLE);
    let introduced = |header: &[u8], step: usize| {
        let mut client = Client::connect(server.objects);
        let all = [header, b"GET /dir/object.bin HTTP/1.1\r\nHost: h\r\n\r\n"].concat();
        for part in all.chunks(step) {
            client.send(part);
        }
        client
    };
    // In one go, and byte by byte. The proxy has as many connections as its clients have.
    let mut first = introduced(v1("192.0.2.1").as_bytes(), 1000);
    let mut second = introduced(&v2(Ipv4Addr::new(192, 0, 2, 2)), 1);
    assert_same(&first.response("GET").body, &content, "the first's");
    assert_same(&second.response("GET").body, &content, "the second's");
    let mut seen = clients(&server);
    seen.sort();
    assert_eq!(seen, ["192.0.2.1", "192.0.2.2"]);
    // A client has one connection here.
    let mut again = introduced(v1("192.0.2.1").as_bytes(), 1000);
    assert_eq!(again.response("GET").status(), 503);
    again.expect_close();
    first.expect_open(PATH);
    drop(first);
    wait_until(|| {
        let mut again = introduced(v1("192.0.2.1").as_bytes(), 1000);
        match again.response("GET").status() {
            200 => Ok(()),
            status => Err(format!("still {status}")),
        }
    });
    // A proxy that looks whether the server is well speaks for itself.
    let mut local = introduced(b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00", 1000);
    assert_eq!(local.response("GET").status(), 200);
}

fn a_preamble_is_required_of_proxies_and_of_nobody_else(io: Backend) {
    let (stores, _, content) = served(io);
    let server = Server::start(&stores, io, &PREAMBLE);
    for bytes in [
        "GET /dir/object.bin HTTP/1.1\r\nHost: h\r\n\r\n",
        "PROXY TCP4 nobody 127.0.0.1 1 2\r\n",
    ] {
        let mut client = Client::connect(server.objects);
        let _ = client.try_send(bytes);
        let (answer, _) = client.until_end();
        assert_eq!(String::from_utf8_lossy(&answer), "", "{bytes:?}");
    }
    server.wait_for_log("doesn't begin with a header of the PROXY protocol");
    // Of another address a preamble is no request, and a request needs none.
    let other = "127.0.0.2".parse().unwrap();
    let mut client = Client::connect_from(other, server.objects);
    client.send(v1("192.0.2.1"));
    assert_eq!(client.response("GET").status(), 400);
    client.expect_close();
    let other = "127.0.0.3".parse().unwrap();
    let mut client = Client::connect_from(other, server.objects);
    assert_same(&client.request("GET", PATH, &[]).body, &content, "its own");
    assert!(clients(&server).contains(&"127.0.0.3".to_owned()));
}

fn fields_name_the_client(io: Backend) {
    let (stores, _, _) = served(io);
    let trusted = ["--trusted-proxy", "127.0.0.1", "--trusted-proxy=10.0.0.0/8"];
    for (options, from, fields, expected) in [
        (
            &[][..],
            "127.0.0.1",
            &["X-Forwarded-For: 192.0.2.1"][..],
            "127.0.0.1",
        ),
        (
            &trusted,
            "127.0.0.1",
            &["X-Forwarded-For: 192.0.2.1"],
            "192.0.2.1",
        ),
        (
            &trusted,
            "127.0.0.1",
            &[
                "X-Forwarded-For: 1.1.1.1",
                "X-Forwarded-For: 192.0.2.1, 10.0.0.1",
            ],
            "192.0.2.1",
        ),
        (
            &trusted,
            "127.0.0.1",
            &["Forwarded: for=192.0.2.1"],
            "127.0.0.1",
        ),
        (&trusted, "127.0.0.1", &[], "127.0.0.1"),
        (
            &trusted,
            "127.0.0.2",
            &["X-Forwarded-For: 192.0.2.1"],
            "127.0.0.2",
        ),
    ] {
        let server = Server::start(&stores, io, options);
        let mut client = Client::connect_from(from.parse().unwrap(), server.objects);
        assert_eq!(client.request("GET", PATH, fields).status(), 200);
        assert_eq!(clients(&server), [expected], "{from} {fields:?}");
        // The next request may be another client's.
        client.request("GET", PATH, &[]);
        assert_eq!(clients(&server), [from]);
    }
    let options = [&trusted[..], &["--client-address", "forwarded"]].concat();
    let server = Server::start(&stores, io, &options);
    let mut client = Client::connect(server.objects);
    let fields = [
        "Forwarded: for=\"[2001:db8::7]:80\";proto=https",
        "X-Forwarded-For: 6.6.6.6",
    ];
    client.request("GET", PATH, &fields);
    assert_eq!(clients(&server), ["2001:db8::7"]);
}

/// A proxy that runs. It is killed when dropped.
struct Proxy {
    child: Child,
    address: SocketAddr,
}

impl Proxy {
    /// Starts `name` with what `configure` says of it, given a directory and its address. `None`: it isn't installed.
    fn start(
        stores: &Stores,
        name: &str,
        configure: impl Fn(&Path, SocketAddr) -> Vec<String>,
    ) -> Option<Proxy> {
        if Command::new(name)
            .arg("-v")
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .is_err()
        {
            skip(&format!("{name} is not installed"));
            return None;
        }
        let directory = stores.file(name);
        fs::create_dir_all(&directory).unwrap();
        // Another may take the port in between: then the proxy ends at once, and the next try has another.
        wait_until(|| {
            let address = TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap();
            let mut child = Command::new(name)
                .args(configure(&directory, address))
                .current_dir(&directory)
                .stdin(Stdio::null())
                .spawn()
                .map_err(|error| format!("{name}: {error}"))?;
            let listening = wait_until(|| {
                if let Some(status) = child.try_wait().unwrap() {
                    return Ok(Err(format!("{name} ended: {status}")));
                }
                match TcpStream::connect(address) {
                    Ok(_) => Ok(Ok(())),
                    Err(error) => Err(format!("{name} doesn't listen: {error}")),
                }
            });
            listening.map(|()| Some(Proxy { child, address }))
        })
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn write(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A MiB and more, so that it has several slices.
const SIZE: usize = (3 << 20) + 77;

/// A server whose proxies are on this machine, and an object.
fn behind_a_proxy(io: Backend, options: &[&str]) -> (Stores, Server, Vec<u8>) {
    let stores = Stores::new(6);
    let content = Noise::new(11).bytes(SIZE);
    stores.put(KEY, &mut &content[..], 4, BLOCK);
    stores.remove_store(1);
    let options = [&["--trusted-proxy", "127.0.0.1"], options].concat();
    let server = Server::start(&stores, io, &options);
    (stores, server, content)
}

/// What any proxy must let through: whole objects, ranges, conditions, what isn't there.
fn check_through(proxy: SocketAddr, content: &[u8]) {
    let mut client = Client::connect(proxy);
    for _ in 0..2 {
        let whole = client.request("GET", PATH, &[]);
        assert_eq!(whole.status(), 200);
        assert_same(&whole.body, content, "the object");
        let tag = whole.field("ETag").unwrap().to_owned();
        let part = client.request("GET", PATH, &["Range: bytes=1000000-2500000"]);
        assert_eq!(part.status(), 206);
        assert_same(&part.body, &content[1_000_000..=2_500_000], "a part");
        let known = client.request("GET", PATH, &[&format!("If-None-Match: {tag}")]);
        // squid answers with what it has, whatever tag is asked for.
        match known.status() {
            304 => {}
            status => {
                assert_eq!(status, 200);
                assert_same(&known.body, content, "the object again");
            }
        }
        let missing = client.request("GET", "/nothing", &[]);
        assert_eq!(missing.status(), 404);
    }
}

fn haproxy(io: Backend) {
    for (option, field) in [
        ("send-proxy", None),
        ("send-proxy-v2", None),
        ("", Some("option forwardfor")),
    ] {
        let preamble = ["--proxy-protocol"];
        let options = if field.is_none() { &preamble[..] } else { &[] };
        let (stores, server, content) = behind_a_proxy(io, options);
        let started = Proxy::start(&stores, "haproxy", |directory, address| {
            let field = field.unwrap_or_default();
            let text = format!(
                "defaults\n mode http\n {field}\n timeout connect 10s\n timeout client 1m\n timeout server 1m\n\
                 listen edge\n bind {address}\n server one {} {option}\n",
                server.objects
            );
            vec![
                "-f".into(),
                write(directory, "haproxy.cfg", &text),
                "-db".into(),
            ]
        });
        let Some(proxy) = started else { return };
        check_through(proxy.address, &content);
        // It says who the client is.
        let mut client = Client::connect_from("127.0.0.3".parse().unwrap(), proxy.address);
        assert_eq!(client.request("GET", PATH, &[]).status(), 200);
        assert!(
            clients(&server).contains(&"127.0.0.3".to_owned()),
            "{option}"
        );
    }
}

/// nginx asks for slices of a MiB and keeps them; the server is asked once for each.
fn nginx_caches_slices(io: Backend) {
    let (stores, server, content) = behind_a_proxy(io, &[]);
    let started = Proxy::start(&stores, "nginx", |directory, address| {
        let dir = directory.display();
        let text = format!(
            "daemon off; master_process off; pid {dir}/pid; error_log stderr;\n\
             events {{}}\n\
             http {{ access_log off; client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f;\n\
             uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;\n\
             proxy_cache_path {dir}/cache keys_zone=edge:1m;\n\
             server {{ listen {address}; location / {{ slice 1m; proxy_cache edge; proxy_cache_valid 200 206 1h;\n\
             proxy_cache_key $uri$slice_range; proxy_set_header Range $slice_range; proxy_http_version 1.1;\n\
             proxy_set_header Connection \"\"; proxy_pass http://{}; }} }} }}\n",
            server.objects
        );
        let file = write(directory, "nginx.conf", &text);
        vec!["-p".into(), dir.to_string(), "-c".into(), file]
    });
    let Some(proxy) = started else { return };
    check_through(proxy.address, &content);
    let sent = server.total("sent_bytes");
    assert!(sent < 2 * SIZE as u64, "{sent} bytes: nothing was kept");
}

fn varnish(io: Backend) {
    let (stores, server, content) = behind_a_proxy(io, &[]);
    let started = Proxy::start(&stores, "varnishd", |directory, address| {
        let arguments = format!(
            "-F -a {address} -b {} -n {} -s malloc,64m",
            server.objects,
            directory.display()
        );
        arguments.split(' ').map(str::to_owned).collect()
    });
    let Some(proxy) = started else { return };
    check_through(proxy.address, &content);
}

fn squid(io: Backend) {
    let (stores, server, content) = behind_a_proxy(io, &[]);
    let started = Proxy::start(&stores, "squid", |directory, address| {
        let dir = directory.display();
        let text = format!(
            "http_port {address} accel defaultsite=h no-vhost\n\
             cache_peer 127.0.0.1 parent {} 0 no-query originserver\n\
             http_access allow all\npid_filename {dir}/pid\ncache_log {dir}/log\naccess_log none\n\
             cache_mem 16 MB\nmaximum_object_size_in_memory 8 MB\nshutdown_lifetime 1 second\n\
             coredump_dir {dir}\nunlinkd_program /bin/true\npinger_enable off\nicon_directory {dir}\n",
            server.objects.port()
        );
        let file = write(directory, "squid.conf", &text);
        vec!["-N".into(), "-f".into(), file]
    });
    let Some(proxy) = started else { return };
    check_through(proxy.address, &content);
}
