//! Programs that read over HTTP in ways of their own: apt, ffmpeg, a browser, Python's requests. A program that is not
//! installed is skipped, and the test says so.

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use common::cli::{expect, on};
use common::{Backend, Server, Stores, program, run, secure, sha256, skip};

on_both_backends! {
    apt
    ffmpeg
    browser
    requests
}

/// Puts a file under a key, with what is said of it.
fn put(stores: &Stores, key: &str, file: &Path, more: &[&str]) {
    let path = file.to_str().unwrap();
    let arguments = [&["--data=4", "--parity=2", "--key", key], more, &[path]].concat();
    expect(on(stores, "put", &arguments), 0, &[]);
}

/// A command that has no `--version`.
fn installed(name: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(name);
    command
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let runs = command.status().is_ok_and(|status| status.success());
    if !runs {
        skip(&format!("{name} is not installed"));
    }
    runs
}

/// A flat repository is asked for `/flat/./Packages`; the usual one for `/usual/dists/stable/…`.
fn apt(io: Backend) {
    if program("apt-get").is_none() || program("dpkg-deb").is_none() {
        return;
    }
    let stores = Stores::new(6);
    let package = make_package(&stores.file("package"));
    let content = fs::read(&package).unwrap();
    let entry = |path: &str| {
        format!(
            "Package: penstock-test\nVersion: 1.0\nArchitecture: all\nMaintainer: Penstock <test@example.org>\n\
             Filename: {path}\nSize: {}\nSHA256: {}\nDescription: nothing\n",
            content.len(),
            sha256(&content)
        )
    };
    let text = |name: &str, text: &str| -> PathBuf {
        let path = stores.file(name);
        fs::write(&path, text).unwrap();
        path
    };
    let release = |name: &str, packages: &str, text_of: &str| {
        let line = format!(
            " {} {} {packages}\n",
            sha256(text_of.as_bytes()),
            text_of.len()
        );
        text(
            name,
            &format!(
                "Suite: stable\nCodename: stable\nComponents: main\nArchitectures: all\nDate: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n{line}"
            ),
        )
    };
    let flat = entry("./penstock-test.deb");
    put(&stores, "flat/Packages", &text("flat-packages", &flat), &[]);
    put(
        &stores,
        "flat/Release",
        &release("flat-release", "Packages", &flat),
        &[],
    );
    put(&stores, "flat/penstock-test.deb", &package, &[]);
    let usual = entry("pool/penstock-test.deb");
    let packages = "main/binary-all/Packages";
    put(
        &stores,
        &format!("usual/dists/stable/{packages}"),
        &text("usual-packages", &usual),
        &[],
    );
    put(
        &stores,
        "usual/dists/stable/Release",
        &release("usual-release", packages, &usual),
        &[],
    );
    put(&stores, "usual/pool/penstock-test.deb", &package, &[]);
    stores.remove_store(2);
    let server = Server::start(&stores, io, &[]);

    for (name, source) in [("flat", "flat ./"), ("usual", "usual stable main")] {
        let root = stores.file(&format!("apt-{name}"));
        for directory in [
            "state/lists/partial",
            "cache/archives/partial",
            "etc",
            "out",
        ] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        fs::write(root.join("state/status"), "").unwrap();
        let source = format!("deb [trusted=yes arch=all] {}/{source}\n", server.url(""));
        fs::write(root.join("etc/sources.list"), source).unwrap();
        let apt = || {
            let mut apt = program("apt-get").unwrap();
            for (option, path) in [
                ("Dir::State", "state"),
                ("Dir::State::status", "state/status"),
                ("Dir::Cache", "cache"),
                ("Dir::Etc::sourcelist", "etc/sources.list"),
                ("Dir::Etc::sourceparts", "etc/none"),
                ("Dir::Etc::parts", "etc/none"),
                ("Dir::Etc::preferencesparts", "etc/none"),
            ] {
                apt.arg("-o")
                    .arg(format!("{option}={}", root.join(path).display()));
            }
            if secure::is_on() {
                let trusted = stores.file("tls.pem");
                let option = format!("Acquire::https::CAInfo={}", trusted.display());
                apt.args(["-o", &option]);
            }
            apt.args([
                "-o",
                "APT::Architecture=all",
                "-o",
                "APT::Architectures::=all",
            ]);
            apt.args([
                "-o",
                "APT::Sandbox::User=root",
                "-o",
                "Acquire::Languages=none",
            ]);
            apt.current_dir(root.join("out")).env("LC_ALL", "C");
            apt
        };
        run(apt().arg("update"));
        run(apt().args(["download", "penstock-test"]));
        let got = fs::read_dir(root.join("out"))
            .unwrap()
            .next()
            .expect("a package");
        assert_eq!(fs::read(got.unwrap().path()).unwrap(), content, "{name}");
        // Nothing changed: apt asks with If-Modified-Since.
        let again = run(apt().arg("update"));
        assert!(again.contains("Hit:"), "{name}: {again}");
    }
}

/// A package with one large file.
fn make_package(directory: &Path) -> PathBuf {
    fs::create_dir_all(directory.join("DEBIAN")).unwrap();
    fs::write(
        directory.join("DEBIAN/control"),
        "Package: penstock-test\nVersion: 1.0\nArchitecture: all\nMaintainer: Penstock <test@example.org>\n\
         Description: nothing\n",
    )
    .unwrap();
    fs::write(directory.join("data"), common::Noise::new(3).bytes(700_000)).unwrap();
    let package = directory.with_extension("deb");
    let mut build = Command::new("dpkg-deb");
    run(build
        .args(["--root-owner-group", "-Znone", "--build"])
        .arg(directory)
        .arg(&package));
    package
}

/// Makes a video of some MiB, in which a key frame comes every two seconds.
fn make_video(path: &Path, codec: &[&str]) {
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-nostdin", "-y", "-f", "lavfi"]);
    ffmpeg.args([
        "-i",
        "testsrc2=size=640x360:rate=25:duration=30,noise=alls=20",
    ]);
    ffmpeg
        .args(codec)
        .args(["-g", "50", "-b:v", "1M"])
        .arg(path);
    run(&mut ffmpeg);
}

fn ffmpeg(io: Backend) {
    if !installed("ffmpeg", &["-version"]) {
        return;
    }
    let stores = Stores::new(6);
    let video = stores.file("video.mp4");
    // The index is at the end: it is read first, by ranges.
    make_video(&video, &["-c:v", "mpeg4"]);
    put(&stores, "video.mp4", &video, &[]);
    for lost in [None, Some(0)] {
        if let Some(store) = lost {
            stores.remove_store(store);
        }
        let server = Server::start(&stores, io, &[]);
        let url = server.url("/video.mp4");
        // The frames of a second, from the file and over HTTP.
        for from in ["0", "11.5", "28"] {
            let frames = |input: &str| {
                let mut ffmpeg = Command::new("ffmpeg");
                ffmpeg.args([
                    "-v", "error", "-nostdin", "-ss", from, "-i", input, "-t", "1",
                ]);
                run(ffmpeg.args(["-f", "framemd5", "-"]))
            };
            assert_eq!(frames(&url), frames(video.to_str().unwrap()), "from {from}");
        }
    }
}

/// A page of another origin: it plays a video, seeks in it, looks at its picture, downloads all of it and a part, and says
/// what it found.
const PAGE: &str = r#"<!doctype html><video id=v muted crossorigin=anonymous src="URL"></video><script>
const say = found => fetch("/found?" + encodeURIComponent(JSON.stringify(found)));
const hex = buffer => [...new Uint8Array(buffer)].map(b => b.toString(16).padStart(2, "0")).join("");
const event = name => new Promise((done, fail) => { v.addEventListener(name, done, {once: true}); v.addEventListener("error", () => fail("video: " + (v.error && v.error.message)), {once: true}); });
(async () => {
  try {
    if (v.readyState < 1) await event("loadedmetadata");
    const seeks = [];
    for (const at of [20, 3, 28]) {
      const seeked = event("seeked"); v.currentTime = at; await seeked; seeks.push(Math.round(v.currentTime));
    }
    const canvas = document.createElement("canvas"); canvas.width = canvas.height = 16;
    const context = canvas.getContext("2d"); context.drawImage(v, 0, 0, 16, 16);
    const picture = context.getImageData(0, 0, 16, 16).data.some(x => x > 0 && x < 255);
    const whole = await fetch("URL"); const bytes = await whole.arrayBuffer();
    const part = await fetch("URL", {headers: {Range: "bytes=1000-1999", "If-Match": whole.headers.get("ETag")}});
    await say({seeks, picture, digest: hex(await crypto.subtle.digest("SHA-256", bytes)), tag: whole.headers.get("ETag"),
      status: part.status, range: part.headers.get("Content-Range"), part: (await part.arrayBuffer()).byteLength});
  } catch (error) { await say({error: String(error)}); }
})();
</script>"#;

/// Serves the page, and hands on what it says.
fn serve_page(page: String) -> (SocketAddr, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (found, finds) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (page, found) = (page.clone(), found.clone());
            // A browser opens connections that it may never use.
            thread::spawn(move || {
                let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
                let line = lines.next().unwrap_or_default();
                while lines.next().is_some_and(|line| !line.is_empty()) {}
                if let Some(said) = line.strip_prefix("GET /found?") {
                    let said = said.split(' ').next().unwrap_or_default();
                    let said = percent_encoding::percent_decode_str(said);
                    let _ = found.send(said.decode_utf8_lossy().into_owned());
                }
                let body = if line.starts_with("GET / ") {
                    page.as_str()
                } else {
                    ""
                };
                let _ = write!(
                    &stream,
                    "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
            });
        }
    });
    (address, finds)
}

fn browser(io: Backend) {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let Some(name) = names
        .into_iter()
        .find(|name| Command::new(name).arg("--version").output().is_ok())
    else {
        return skip("no Chromium is installed");
    };
    if !installed("ffmpeg", &["-version"]) {
        return;
    }
    let stores = Stores::new(6);
    let video = stores.file("video.webm");
    make_video(
        &video,
        &["-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8"],
    );
    let content = fs::read(&video).unwrap();
    put(
        &stores,
        "video.webm",
        &video,
        &["--content-type", "video/webm"],
    );
    stores.remove_store(1);
    // The page's origin isn't known before its listener is, which needs the address of the server: any may read.
    let server = Server::start(&stores, io, &["--cors-origin", "*"]);
    let url = server.url("/video.webm");
    let (page, finds) = serve_page(PAGE.replace("URL", &url));
    let mut chromium = Command::new(name)
        .args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--mute-audio",
            "--no-first-run",
        ])
        .args(["--disable-dev-shm-usage", "--disable-background-networking"])
        // It can't be told whom to trust but by the machine's own list.
        .args(secure::is_on().then_some("--ignore-certificate-errors"))
        .arg(format!(
            "--user-data-dir={}",
            stores.file("profile").display()
        ))
        .arg("--remote-debugging-port=0")
        .arg(format!("http://{page}/"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let said = finds.recv_timeout(Duration::from_secs(120));
    let _ = chromium.kill();
    let _ = chromium.wait();
    let said = match said {
        Ok(said) => said,
        // Some machines let no browser run: that says nothing of the server.
        Err(RecvTimeoutError::Timeout) if server.total("accepted_connections") == 0 => {
            return skip("Chromium asks for nothing here");
        }
        Err(error) => panic!("the page says nothing: {error}"),
    };
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    let digest = sha256(&content);
    let expected = serde_json::json!({
        "seeks": [20, 3, 28],
        "picture": true,
        "digest": digest,
        "tag": format!("\"{digest}\""),
        "status": 206,
        "range": format!("bytes 1000-1999/{}", content.len()),
        "part": 1000,
    });
    assert_eq!(said, expected);
}

const REQUESTS: &str = r#"
import hashlib, requests, sys
url, digest, trusted = sys.argv[1], sys.argv[2], sys.argv[3:]
with requests.Session() as session:
    session.verify = trusted[0] if trusted else True
    session.trust_env = False
    whole = session.get(url)
    assert hashlib.sha256(whole.content).hexdigest() == digest
    tag = whole.headers["ETag"]
    assert session.get(url, headers={"If-None-Match": tag}).status_code == 304
    assert session.get(url, headers={"If-Match": '"other"'}).status_code == 412
    several = session.get(url, headers={"Range": "bytes=0-9,100-199"})
    assert several.status_code == 206 and several.headers["Content-Type"].startswith("multipart/byteranges"), several.headers
    assert session.options(url).headers["Allow"] == "GET, HEAD, OPTIONS"
    assert session.post(url, data=b"x").status_code == 405
    with session.get(url, stream=True) as part:
        assert next(part.iter_content(1000)) == whole.content[:1000]
"#;

fn requests(io: Backend) {
    if !installed("python3", &["-c", "import requests"]) {
        return;
    }
    let stores = Stores::new(6);
    let content = common::Noise::new(5).bytes(3 << 20);
    stores.put_bytes(&content);
    let server = Server::start(&stores, io, &[]);
    let url = server.url(common::PATH);
    let mut python = program("python3").unwrap();
    python.args(["-c", REQUESTS, &url, &sha256(&content)]);
    run(python.args(secure::is_on().then(|| stores.file("tls.pem"))));
}
