//! nginx as a competitor, where it is installed: one worker, configured for large downloads.

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
    let log = directory.join("log");
    let address = launch::free_address()?;
    let file = directory.join("nginx.conf");
    std::fs::write(
        &file,
        configuration(directory, root, &format!("{address}{listen}"), more),
    )?;
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
fn configuration(directory: &Path, root: &Path, listen: &str, more: &str) -> String {
    let directory = directory.display();
    let root = root.display();
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
    server {{ listen {listen}; root {root}; {more} }}
}}
"
    )
}
