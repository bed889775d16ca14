//! nginx as a competitor, where it is installed: one worker, configured for large downloads.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::launch::{self, Server};

/// The places where distributions install it, besides the path.
const PLACES: &[&str] = &["nginx", "/usr/sbin/nginx", "/usr/local/sbin/nginx"];

/// The program and its version, if it is installed.
pub fn find() -> Option<(PathBuf, String)> {
    PLACES.iter().find_map(|place| {
        let output = Command::new(place).arg("-v").output().ok()?;
        let version = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Some((PathBuf::from(place), version))
    })
}

/// Starts it on `core`, serving the files in `root`. `listen` are further words of its `listen` line, each after
/// a blank, `more` further lines of the server's block; its configuration and log go to `directory`.
///
/// # Errors
///
/// If it does not start; the message has the end of its log.
pub fn start(
    program: &Path,
    root: &Path,
    (listen, more): (&str, &str),
    directory: &Path,
    core: usize,
) -> anyhow::Result<Server> {
    let address = launch::free_address()?;
    let root = root.display();
    let server = format!("server {{ listen {address}{listen}; root {root}; {more} }}");
    run(program, &server, directory, Some(core), address)
}

/// Starts it as a cache of what `origin` serves, on all cores: slices of 1 MiB, kept in `directory/cache`.
/// `listen` is as for [`start`].
///
/// # Errors
///
/// As [`start`].
pub fn start_cache(
    program: &Path,
    origin: SocketAddr,
    listen: &str,
    directory: &Path,
) -> anyhow::Result<Server> {
    let address = launch::free_address()?;
    let cache = directory.join("cache");
    let cache = cache.display();
    let server = format!(
        "proxy_cache_path {cache} levels=1:2 keys_zone=slices:10m max_size=10g inactive=1d use_temp_path=off;
    upstream origin {{ server {origin}; keepalive 8; }}
    server {{
        listen {address}{listen};
        location / {{
            slice 1m;
            proxy_cache slices;
            proxy_cache_key $uri$slice_range;
            proxy_cache_lock on;
            proxy_cache_valid 200 206 1d;
            proxy_set_header Range $slice_range;
            proxy_http_version 1.1;
            proxy_set_header Connection '';
            proxy_pass http://origin;
        }}
    }}"
    );
    run(program, &server, directory, None, address)
}

/// Starts it with these lines for a server.
fn run(
    program: &Path,
    server: &str,
    directory: &Path,
    core: Option<usize>,
    address: SocketAddr,
) -> anyhow::Result<Server> {
    let log = directory.join("log");
    let file = directory.join("nginx.conf");
    std::fs::write(&file, configuration(directory, server))?;
    let command = [
        program.display().to_string(),
        "-e".to_owned(),
        log.display().to_string(),
        "-p".to_owned(),
        directory.display().to_string(),
        "-c".to_owned(),
        file.display().to_string(),
    ];
    Server::start_silent(core, &command, &log, address)
}

/// One worker, sendfile, whole packets, open files remembered, no access log. `sendfile_max_chunk` stays at its
/// default of 2 MiB.
fn configuration(directory: &Path, server: &str) -> String {
    let directory = directory.display();
    format!(
        "daemon off;
worker_processes 1;
pid {directory}/pid;
error_log {directory}/errors error;
events {{ worker_connections 8192; multi_accept on; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    tcp_nodelay on;
    keepalive_requests 1000000000;
    keepalive_timeout 60s;
    open_file_cache max=1000 inactive=60s;
    open_file_cache_valid 60s;
    default_type application/octet-stream;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    {server}
}}
"
    )
}
