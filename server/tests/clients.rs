//! Real clients, each compared by SHA-256, with all stores and with as many stores gone as the parity allows. A client
//! that is not installed is skipped, and the test says so.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{
    BLOCK, Backend, KEY, Noise, PATH, Server, Stores, number, program, run, secure, sha256,
    together,
};

on_both_backends! {
    curl
    curl_resumes
    wget
    aria2
    python
}

/// Enough for eight connections of aria2, with a MiB and more for each.
const SIZE: usize = (12 << 20) + 4321;

/// Runs `test` with all six stores, then with two of them lost. It gets the server, the object's URL and content, and a
/// directory for downloads.
fn healthy_and_degraded(io: Backend, test: impl Fn(&Server, &str, &[u8], &Path)) {
    let stores = Stores::new(6);
    let content = Noise::new(7).bytes(SIZE);
    stores.put(KEY, &mut &content[..], 4, BLOCK);
    let files = stores.file("downloads");
    for lost in [&[][..], &[1, 3]] {
        for &store in lost {
            stores.remove_store(store);
        }
        fs::create_dir(&files).unwrap();
        let server = Server::start(&stores, io, &[]);
        let url = server.url(PATH);
        test(&server, &url, &content, &files);
        let status = server.status();
        let rebuilt = number(&status, &["totals", "rebuilt_bytes"]);
        assert_eq!(rebuilt > 0, !lost.is_empty(), "{status:#}");
        assert_eq!(number(&status, &["totals", "reset_bodies"]), 0);
        fs::remove_dir_all(&files).unwrap();
    }
}

#[track_caller]
fn check(path: &Path, content: &[u8]) {
    let got = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(got.len(), content.len(), "{}", path.display());
    assert_eq!(sha256(&got), sha256(content), "{}", path.display());
}

fn curl_command(files: &Path) -> Option<Command> {
    let mut curl = program("curl")?;
    curl.args(["-q", "--silent", "--show-error", "--fail"]);
    if secure::is_on() {
        curl.arg("--cacert").arg(trusted(files));
    }
    Some(curl)
}

/// The certificate that clients trust where the suites run over TLS.
fn trusted(files: &Path) -> PathBuf {
    files.with_file_name("tls.pem")
}

/// An option that names it, or nothing.
fn trust(option: &str, files: &Path) -> Option<String> {
    secure::is_on().then(|| format!("{option}={}", trusted(files).display()))
}

fn curl(io: Backend) {
    if program("curl").is_none() {
        return;
    }
    healthy_and_degraded(io, |server, url, content, files| {
        let curl = || curl_command(files).unwrap();
        let out = files.join("whole");
        run(curl().arg("-o").arg(&out).arg(url));
        check(&out, content);

        for (range, wanted) in [
            ("0-0", &content[..1]),
            ("100-99999", &content[100..100_000]),
            ("5000000-", &content[5_000_000..]),
            ("-70000", &content[SIZE - 70_000..]),
        ] {
            let out = files.join("part");
            run(curl().args(["-r", range, "-o"]).arg(&out).arg(url));
            check(&out, wanted);
        }

        let head = run(curl().arg("--head").arg(url));
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(
            head.contains(&format!("Content-Length: {SIZE}\r\n")),
            "{head}"
        );
        assert!(
            head.contains(&format!("ETag: \"{}\"\r\n", sha256(content))),
            "{head}"
        );

        // Several requests over one connection, as curl itself counts them.
        let before = server.total("accepted_connections");
        let mut several = curl();
        several.args(["--write-out", "%{num_connects} "]);
        for name in ["a", "b", "c", "d"] {
            several.arg("-o").arg(files.join(name)).arg(url);
        }
        assert_eq!(run(&mut several).trim(), "1 0 0 0");
        assert_eq!(server.total("accepted_connections"), before + 1);
        for name in ["a", "b", "c", "d"] {
            check(&files.join(name), content);
        }

        let out = files.join("http10");
        run(curl().args(["--http1.0", "-o"]).arg(&out).arg(url));
        check(&out, content);

        // An object that it already has by its tag is not sent again.
        let tag = files.join("tag");
        fs::write(&tag, format!("\"{}\"", sha256(content))).unwrap();
        let mut again = curl();
        again
            .arg("--etag-compare")
            .arg(&tag)
            .args(["--write-out", "%{http_code}", url]);
        assert_eq!(run(&mut again), "304");
    });
}

fn curl_resumes(io: Backend) {
    if program("curl").is_none() {
        return;
    }
    healthy_and_degraded(io, |_, url, content, files| {
        for (name, have) in [("early", 1), ("middle", 5_000_001), ("late", SIZE - 1)] {
            let out = files.join(name);
            fs::write(&out, &content[..have]).unwrap();
            run(curl_command(files)
                .unwrap()
                .args(["-C", "-", "-o"])
                .arg(&out)
                .arg(url));
            check(&out, content);
        }
        // Several clients at once, each with a part.
        together(8, |i| {
            let out = files.join(format!("client {i}"));
            fs::write(&out, &content[..i * 1_234_567]).unwrap();
            run(curl_command(files)
                .unwrap()
                .args(["-C", "-", "-o"])
                .arg(&out)
                .arg(url));
            check(&out, content);
        });
    });
}

fn wget(io: Backend) {
    if program("wget").is_none() {
        return;
    }
    healthy_and_degraded(io, |server, url, content, files| {
        let wget = || {
            let mut wget = program("wget").unwrap();
            wget.args(["--no-config", "--no-proxy", "--no-verbose", "--tries=1"]);
            wget.args(trust("--ca-certificate", files));
            wget
        };
        let out = files.join("whole");
        run(wget().arg("-O").arg(&out).arg(url));
        check(&out, content);

        let out = files.join("object.bin");
        fs::write(&out, &content[..7_654_321]).unwrap();
        run(wget().args(["-c", "-P"]).arg(files).arg(url));
        check(&out, content);
        server.wait_for_status("one part", |s| s["responses"]["206"] == 1);

        // When it has all bytes it requests a range past the end, and takes the 416 for the end.
        run(wget().args(["-c", "-P"]).arg(files).arg(url));
        check(&out, content);
        server.wait_for_status("one 416", |s| s["responses"]["416"] == 1);
    });
}

fn aria2(io: Backend) {
    if program("aria2c").is_none() {
        return;
    }
    healthy_and_degraded(io, |server, url, content, files| {
        let mut aria2 = program("aria2c").unwrap();
        aria2.args([
            "--no-conf",
            "--quiet",
            "--file-allocation=none",
            "--async-dns=false",
        ]);
        aria2.args(trust("--ca-certificate", files));
        aria2
            // The rate is limited, so that one connection isn't done before it opens another.
            .args(["--max-overall-download-limit=16M", "-x8", "-s8", "-k1M"])
            .args(["-o", "whole", "-d"])
            .arg(files);
        run(aria2.arg(url));
        check(&files.join("whole"), content);
        // The number of parts depends on how fast they come.
        server.wait_for_status("a part", |s| s["responses"]["206"].as_u64() >= Some(1));
        assert!(server.total("accepted_connections") >= 2);
    });
}

/// One connection, whole and in parts, with Python's own digest of the received bytes.
const PYTHON: &str = r#"
import hashlib, http.client, ssl, sys
address, path, size, trusted = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:]
if trusted:
    context = ssl.create_default_context(cafile=trusted[0])
    # A certificate that signs itself lacks what strict checks of a chain ask for.
    context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
    connection = http.client.HTTPSConnection(address, context=context)
else:
    connection = http.client.HTTPConnection(address)
def ask(method, headers={}):
    connection.request(method, path, headers=headers)
    return connection.getresponse()
answer = ask("HEAD")
assert answer.status == 200 and answer.read() == b"", answer.status
assert int(answer.headers["Content-Length"]) == size, answer.headers
tag = answer.headers["ETag"]
answer = ask("GET")
whole = answer.read()
print(hashlib.sha256(whole).hexdigest())
parts = hashlib.sha256()
step = 1000003
for start in range(0, size, step):
    answer = ask("GET", {"Range": f"bytes={start}-{start + step - 1}", "If-Range": tag})
    assert answer.status == 206, answer.status
    parts.update(answer.read())
print(parts.hexdigest())
answer = ask("GET", {"If-None-Match": tag})
assert answer.status == 304 and answer.read() == b"", answer.status
answer = ask("GET", {"Range": f"bytes={size}-"})
assert answer.status == 416 and answer.read() != b"", answer.status
connection.request("GET", "/nothing")
answer = connection.getresponse()
assert answer.status == 404 and answer.read() != b"", answer.status
"#;

fn python(io: Backend) {
    if program("python3").is_none() {
        return;
    }
    healthy_and_degraded(io, |server, _, content, files| {
        let mut python = program("python3").unwrap();
        python.args([
            "-I",
            "-c",
            PYTHON,
            &server.objects.to_string(),
            PATH,
            &SIZE.to_string(),
        ]);
        python.args(secure::is_on().then(|| trusted(files)));
        let digest = sha256(content);
        assert_eq!(run(&mut python), format!("{digest}\n{digest}\n"));
        assert_eq!(server.total("accepted_connections"), 1);
    });
}
