//! Stores of three providers: an object over one bucket of each, and credentials that are asked for first.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;

use common::{Backend, Noise, Server, assert_same, get, penstock, run};
use penstock_faultproxy::DirectoryBuckets;

on_both_backends! {
    an_object_over_three_providers_outlives_any_of_them
}

const BUCKETS: [&str; 3] = ["aws", "google", "azure"];

fn urls(at: SocketAddr) -> [String; 3] {
    [
        format!("s3://aws/p?endpoint=http://{at}&region=r"),
        format!("gs://google/p?endpoint=http://{at}"),
        format!("az://azure/p?account=name&endpoint=http://{at}/name"),
    ]
}

/// Buckets of all, in a directory.
fn buckets(root: &Path) -> DirectoryBuckets {
    for bucket in BUCKETS {
        fs::create_dir(root.join(bucket)).unwrap();
    }
    DirectoryBuckets::start(root).unwrap()
}

fn command(name: &str, urls: &[String]) -> Command {
    let mut command = penstock();
    command.arg(name);
    for url in urls {
        command.args(["--store", url]);
    }
    for (variable, _) in std::env::vars_os() {
        let text = variable.to_string_lossy();
        let is_a_providers = ["AWS_", "GOOGLE_", "AZURE_"];
        if is_a_providers.iter().any(|start| text.starts_with(start)) {
            command.env_remove(&variable);
        }
    }
    // No files of their tools.
    command.env("HOME", "/nonexistent");
    command
}

fn with_keys(mut command: Command) -> Command {
    command.env("AWS_ACCESS_KEY_ID", "key");
    command.env("AWS_SECRET_ACCESS_KEY", "secret");
    command.env("GOOGLE_BEARER_TOKEN", "token");
    command.env("AZURE_STORAGE_ACCOUNT_KEY", "a2V5");
    command
}

fn an_object_over_three_providers_outlives_any_of_them(io: Backend) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("buckets");
    fs::create_dir(&root).unwrap();
    let server = buckets(&root);
    let urls = urls(server.address());
    let keyed = |name| with_keys(command(name, &urls));
    // Each share is of several parts.
    let content = Noise::new(1).bytes(18_000_000);
    let file = dir.path().join("film");
    fs::write(&file, &content).unwrap();
    run(&mut keyed("init"));
    let mut put = keyed("put");
    put.args(["--data", "2", "--parity", "1", "--key", "film"]);
    run(put.arg(&file));
    assert!(run(keyed("ls").arg("--json")).contains("\"film\""));
    run(&mut keyed("verify"));

    for gone in BUCKETS {
        let (there, away) = (root.join(gone), dir.path().join("away"));
        fs::rename(&there, &away).unwrap();
        let mut serve = keyed("serve");
        serve.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        serve.args(["--cores", "2", "--survey-every", "0s"]);
        serve.args(["--io", &io.to_string()]);
        serve
            .arg("--cache")
            .arg(dir.path().join(format!("cache-{gone}")));
        let edge = Server::launch(serve).expect("it starts");
        let got = get(edge.plain, "/film", &[]);
        assert_eq!(got.status(), 200, "without {gone}: {}", edge.log());
        assert_same(&got.body, &content, gone);
        fs::rename(&away, &there).unwrap();
    }

    // One that has lost all gets it again.
    fs::remove_dir_all(root.join("azure/p/objects")).unwrap();
    run(&mut keyed("repair"));
    run(&mut keyed("verify"));
    let mut fetched = keyed("get");
    let copy = dir.path().join("copy");
    run(fetched.args(["--output"]).arg(&copy).arg("film"));
    assert_same(&fs::read(copy).unwrap(), &content, "get");
    run(keyed("rm").arg("film"));
    assert!(!run(&mut keyed("ls")).contains("film"));
}

/// Gives this answer to whoever asks for a token. Its thread ends with the process.
fn tokens(status: &str, body: &str) -> SocketAddr {
    let length = body.len();
    let answer =
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, answer) = (stream.unwrap(), answer.clone());
            std::thread::spawn(move || {
                let mut stream = BufReader::new(stream);
                let (mut line, mut bytes) = (String::new(), 0);
                while stream.read_line(&mut line).unwrap() > 2 {
                    let field = line.to_ascii_lowercase();
                    if let Some(length) = field.strip_prefix("content-length:") {
                        bytes = length.trim().parse().unwrap();
                    }
                    line.clear();
                }
                stream.read_exact(&mut vec![0; bytes]).unwrap();
                let _ = stream.get_mut().write_all(answer.as_bytes());
            });
        }
    });
    address
}

/// `ls` of Google's or Azure's bucket, with credentials that are asked for there.
fn ls(url: &String, tokens: SocketAddr) -> Command {
    let mut command = command("ls", std::slice::from_ref(url));
    let at = tokens.to_string();
    command.envs([("GCE_METADATA_HOST", &at), ("GCE_METADATA_IP", &at)]);
    command
        .env("AZURE_CLIENT_ID", "client")
        .env("AZURE_CLIENT_SECRET", "topsecret")
        .env("AZURE_TENANT_ID", "tenant")
        .env("AZURE_AUTHORITY_HOST", format!("http://{tokens}"));
    command
}

#[test]
fn tokens_are_asked_for_and_told_when_refused() {
    let root = tempfile::tempdir().unwrap();
    let server = buckets(root.path());
    let urls = urls(server.address());
    run(&mut with_keys(command("init", &urls)));
    let given = tokens("200 OK", r#"{"access_token":"good","expires_in":3600}"#);
    let of_no_use = tokens("200 OK", r#"{"access_token":"refused","expires_in":3600}"#);
    let not_given = tokens(
        "400 Bad Request",
        r#"{"error":"invalid_client","error_description":"Expired."}"#,
    );
    let nobody = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    for url in &urls[1..] {
        run(&mut ls(url, given));
        for (tokens, said) in [
            (of_no_use, "AccessDenied"),
            (not_given, "credentials: invalid_client: Expired."),
            (nobody, "credentials: 127.0.0.1 can't be asked"),
        ] {
            let output = ls(url, tokens).output().unwrap();
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(
                !output.status.success() && error.contains(said),
                "{url}: {error}"
            );
            assert!(!error.contains("topsecret"), "{error}");
        }
    }
}
