//! The admin listener's page in a real browser: it fits a phone, shows what the server tells, works by keyboard, and says
//! when the server is gone.
//!
//! `PENSTOCK_AXE=path/to/axe.min.js` has axe-core look for what keeps people out, `PENSTOCK_SHOTS=dir` writes pictures.

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::{PATH, Server, Stores, get, skip, wait_until};
use penstock_faultproxy::DirectoryBuckets;
use serde_json::{Value, json};

/// A phone, a tablet, a laptop.
const WIDTHS: [u32; 3] = [375, 768, 1280];
const SCHEMES: [&str; 2] = ["light", "dark"];
/// The longest wait for one answer of the browser, whose start takes long on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A browser that is told what to do through a pipe (the Chrome DevTools Protocol), with one page.
struct Browser {
    child: Child,
    commands: ChildStdin,
    messages: Receiver<Value>,
    last_id: u64,
    session: Option<String>,
    /// What the page wrote to the console, or failed with.
    complaints: Vec<String>,
}

impl Browser {
    /// `None`, and the test is skipped, where there is none or it doesn't run.
    fn start(stores: &Stores) -> Option<Browser> {
        let names = ["chromium", "chromium-browser", "google-chrome"];
        let Some(name) = names
            .into_iter()
            .find(|name| Command::new(name).arg("--version").output().is_ok())
        else {
            skip("no Chromium is installed");
            return None;
        };
        // It reads commands from descriptor 3 and writes answers to 4, each ended by a zero.
        let mut child = Command::new("sh")
            .args(["-c", r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null"#])
            .arg(name)
            .args(["--headless=new", "--no-sandbox", "--disable-gpu"])
            .args(["--no-first-run", "--disable-dev-shm-usage"])
            .args(["--disable-background-networking", "--hide-scrollbars"])
            .arg(format!(
                "--user-data-dir={}",
                stores.file("profile").display()
            ))
            .arg("--remote-debugging-pipe")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (sender, messages) = channel();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            let mut message = Vec::new();
            while output.read_until(0, &mut message).is_ok_and(|n| n > 0) {
                message.pop_if(|last| *last == 0);
                let Ok(value) = serde_json::from_slice(&message) else {
                    return;
                };
                if sender.send(value).is_err() {
                    return;
                }
                message.clear();
            }
        });
        let mut browser = Browser {
            commands: child.stdin.take().unwrap(),
            child,
            messages,
            last_id: 0,
            session: None,
            complaints: Vec::new(),
        };
        let page = match browser.try_tell("Target.createTarget", json!({ "url": "about:blank" })) {
            Ok(target) => target,
            // Some machines let no browser run: that says nothing of the page.
            Err(why) => {
                skip(&format!("Chromium does not run here: {why}"));
                return None;
            }
        };
        let target = json!({ "targetId": page["targetId"], "flatten": true });
        let attached = browser.tell("Target.attachToTarget", target);
        browser.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Page", "Runtime", "Log"] {
            browser.tell(&format!("{domain}.enable"), json!({}));
        }
        Some(browser)
    }

    fn try_tell(&mut self, method: &str, parameters: Value) -> Result<Value, String> {
        self.last_id += 1;
        let mut command = json!({ "id": self.last_id, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            command["sessionId"] = json!(session);
        }
        let mut bytes = command.to_string().into_bytes();
        bytes.push(0);
        self.commands
            .write_all(&bytes)
            .map_err(|error| error.to_string())?;
        loop {
            let message = match self.messages.recv_timeout(PATIENCE) {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout) => return Err("no answer".to_owned()),
                Err(RecvTimeoutError::Disconnected) => return Err("it has ended".to_owned()),
            };
            if message["id"] == self.last_id {
                return match message.get("error") {
                    Some(error) => Err(error.to_string()),
                    None => Ok(message["result"].clone()),
                };
            }
            self.note(&message);
        }
    }

    #[track_caller]
    fn tell(&mut self, method: &str, parameters: Value) -> Value {
        self.try_tell(method, parameters)
            .unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    fn note(&mut self, event: &Value) {
        let wrong = match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Runtime.consoleAPICalled") => {
                event["params"]["type"] == "error" || event["params"]["type"] == "warning"
            }
            Some("Log.entryAdded") => event["params"]["entry"]["level"] == "error",
            _ => false,
        };
        if wrong {
            self.complaints.push(event["params"].to_string());
        }
    }

    /// What an expression is in the page, or what its promise becomes.
    #[track_caller]
    fn value(&mut self, expression: &str) -> Value {
        let wanted =
            json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let found = self.tell("Runtime.evaluate", wanted);
        assert!(
            found.get("exceptionDetails").is_none(),
            "{expression}: {found:#}"
        );
        found["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    #[track_caller]
    fn wait_for(&mut self, expression: &str) {
        wait_until(|| match self.value(expression) == true {
            true => Ok(()),
            false => {
                let text = self.value("document.body.innerText");
                Err(format!("never: {expression}\n{text}"))
            }
        });
    }

    fn open(&mut self, url: &str, width: u32, scheme: &str) {
        let screen =
            json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false });
        self.tell("Emulation.setDeviceMetricsOverride", screen);
        let feature = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.tell("Emulation.setEmulatedMedia", json!({ "features": feature }));
        self.tell("Page.navigate", json!({ "url": url }));
    }

    fn press(&mut self, key: &str) {
        for kind in ["rawKeyDown", "keyUp"] {
            let code = match key {
                "Tab" => 9,
                "ArrowLeft" => 37,
                _ => panic!("{key}"),
            };
            let event =
                json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code });
            self.tell("Input.dispatchKeyEvent", event);
        }
    }

    /// Writes a picture of the whole page, if somebody wants to look at it.
    fn picture(&mut self, name: &str) {
        let Some(dir) = std::env::var_os("PENSTOCK_SHOTS").map(PathBuf::from) else {
            return;
        };
        let wanted = json!({ "captureBeyondViewport": true });
        let picture = self.tell("Page.captureScreenshot", wanted);
        let bytes = STANDARD.decode(picture["data"].as_str().unwrap()).unwrap();
        fs::write(dir.join(format!("{name}.png")), bytes).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server with a store lost, two that are remote, and some traffic in its history.
fn busy_server(stores: &Stores) -> (Server, DirectoryBuckets) {
    stores.put_bytes(&common::Noise::new(3).bytes(3 << 20));
    stores.remove_store(1);
    let root = stores.file("buckets");
    fs::create_dir(&root).unwrap();
    let buckets = DirectoryBuckets::start(&root).unwrap();
    let mut command = common::penstock();
    command.arg("serve");
    for (number, path) in stores.paths.iter().enumerate() {
        command.arg("--store");
        if number < 4 {
            command.arg(path);
            continue;
        }
        std::os::unix::fs::symlink(path, root.join(format!("store-{number}"))).unwrap();
        command.arg(format!(
            "s3://store-{number}?endpoint=http://{}&region=us-east-1",
            buckets.address()
        ));
    }
    command
        .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .args(["--cores", "2", "--survey-every", "1s", "--io", "epoll"])
        .arg("--cache")
        .arg(stores.file("cache"))
        .env("AWS_ACCESS_KEY_ID", "key")
        .env("AWS_SECRET_ACCESS_KEY", "secret");
    let server = Server::launch(command).unwrap();
    wait_until(|| {
        for path in [PATH, "/nothing"] {
            get(server.plain, path, &[]);
        }
        let range = get(server.plain, PATH, &["Range: bytes=0-99"]);
        assert_eq!(range.status(), 206);
        let history = get(server.admin, "/history", &[]);
        let history: Value = serde_json::from_slice(&history.body).unwrap();
        let samples = history["sent_bytes"].as_array().unwrap();
        match samples.len() {
            few @ 0..2 => Err(format!("{few} samples")),
            _ => Ok(()),
        }
    });
    (server, buckets)
}

/// Has axe-core look for what keeps people out, if there is one.
fn keeps_nobody_out(browser: &mut Browser, axe: Option<&str>, what: &str) {
    let Some(axe) = axe else { return };
    browser.value(&format!("{axe}; null"));
    let found = browser.value(
        "axe.run().then((found) => ({ passed: found.passes.length, wrong: found.violations.map((one) => \
         [one.id, one.help, one.nodes.map((node) => node.html + ' ' + node.failureSummary)]) }))",
    );
    assert_eq!(found["wrong"], json!([]), "{what}");
    assert!(found["passed"].as_u64() > Some(20), "{what}: {found}");
}

/// Whether the chart of this title has something drawn.
fn has_data(title: &str) -> String {
    format!(
        "[...document.querySelectorAll('figure')].some((figure) => figure.querySelector('h3').textContent === '{title}' \
         && [...figure.querySelectorAll('path')].some((path) => path.getAttribute('d').length > 10))"
    )
}

#[test]
fn the_page_fits_every_screen_and_keeps_nobody_out() {
    let stores = Stores::new(6);
    let Some(mut browser) = Browser::start(&stores) else {
        return;
    };
    let axe = std::env::var_os("PENSTOCK_AXE").map(|path| fs::read_to_string(path).unwrap());
    if axe.is_none() {
        skip("the look for what keeps people out: PENSTOCK_AXE does not name axe.min.js");
    }
    let (mut server, _buckets) = busy_server(&stores);
    let url = format!("http://{}/", server.admin);
    for (width, scheme) in WIDTHS
        .into_iter()
        .flat_map(|width| SCHEMES.map(|scheme| (width, scheme)))
    {
        let what = format!("{width} px, {scheme}");
        browser.open(&url, width, scheme);
        for title in [
            "Sent",
            "Time to the first byte",
            "Responses by status",
            "Memory",
        ] {
            browser.wait_for(&has_data(title));
        }
        // What the server told is there, the lost store included.
        browser.wait_for("document.querySelectorAll('#stores tbody tr').length === 6");
        browser.wait_for("document.getElementById('stores').innerText.includes('s3://store-5')");
        browser.wait_for("!document.getElementById('remote-text').hidden");
        browser.wait_for(
            "document.getElementById('alarm').textContent.includes('1 store of 6 not serving')",
        );
        browser.wait_for("document.querySelector('#tiles dd.bad') !== null");
        // Shares in remote stores count.
        browser.wait_for("!document.body.innerText.includes(\"can't be read\")");
        // With all tables open too, nothing is wider than the screen.
        browser.picture(&format!("{width}-{scheme}"));
        browser
            .value("document.querySelectorAll('details').forEach((one) => { one.open = true; })");
        browser.wait_for("document.querySelectorAll('details tbody td').length > 6");
        let sizes = browser.value("[innerWidth, document.scrollingElement.scrollWidth]");
        assert_eq!(sizes[0], width, "{what}");
        let wide = browser.value(
            "[...document.querySelectorAll('body *')].filter((one) => one.getBoundingClientRect().right > innerWidth) \
             .map((one) => one.outerHTML.slice(0, 99))",
        );
        assert!(sizes[1].as_u64() <= Some(width.into()), "{what}: {wide:#}");
        keeps_nobody_out(&mut browser, axe.as_deref(), &what);
    }
    assert!(browser.complaints.is_empty(), "{:#?}", browser.complaints);

    // By keyboard: past the skip link and the button, a value of the past.
    browser.press("Tab");
    let focus = "document.activeElement.className || document.activeElement.id";
    assert_eq!(browser.value(focus), "skip");
    browser.press("Tab");
    assert_eq!(browser.value(focus), "pause");
    browser.press("Tab");
    assert_eq!(browser.value(focus), "when");
    browser.press("ArrowLeft");
    browser.wait_for("/^[0-9:]+$/.test(document.getElementById('when-text').textContent)");
    browser.wait_for("document.querySelectorAll('.cross').length === 6");

    // A server that is gone: it is said, once, and what is shown is said to be old.
    server.signal("KILL");
    server.wait();
    browser.wait_for("document.body.classList.contains('stale')");
    browser
        .wait_for("document.getElementById('alarm').textContent.includes('What you see is as of')");
    browser.wait_for("document.title.startsWith('No answer')");
    keeps_nobody_out(&mut browser, axe.as_deref(), "gone");
    browser.picture("gone");
}
