//! A shell that is given the steps of a chapter.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use penstock_faultproxy::DirectoryBuckets;

use super::blocks::{Chapter, matches};
use super::common::skip;

/// The longest that a chapter may take before it counts as hung. None takes a tenth of it.
const PATIENCE: Duration = Duration::from_secs(300);

/// Ports that the kernel gives to nobody who asks for any port: they lie below its usual range.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// Where chapters that use this port find a bucket service, and its buckets. It takes any keys.
const BUCKETS_AT: u16 = 8333;
const BUCKETS: [&str; 6] = ["one", "two", "three", "four", "five", "six"];

/// Runs the steps of a chapter. An error says where what happens is not what is printed there.
pub(crate) fn run(chapter: &Chapter) -> Result<(), String> {
    let name = chapter.path.display();
    let steps = match missing_tool(chapter) {
        None => &chapter.steps[..],
        Some((at, tool)) => {
            let line = chapter.steps[at].line;
            skip(&format!(
                "{name} from line {line} on: {tool} is not installed"
            ));
            &chapter.steps[..at]
        }
    };
    if steps.is_empty() {
        return Ok(());
    }
    let dir = tempfile::tempdir().unwrap();
    let [work, bin, notes] = ["work", "bin", "notes"].map(|name| dir.path().join(name));
    for dir in [&work, &bin, &notes] {
        fs::create_dir(dir).unwrap();
    }
    let program = std::env::var_os("PENSTOCK_PROGRAM");
    let program = program.unwrap_or_else(|| env!("CARGO_BIN_EXE_penstock").into());
    symlink(program, bin.join("penstock")).unwrap();
    let mut ports = Ports::default();
    let is_for_buckets = chapter.text().contains(&format!(":{BUCKETS_AT}"));
    let _buckets = is_for_buckets.then(|| {
        let root = dir.path().join("buckets");
        for name in BUCKETS {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        let service = DirectoryBuckets::start(&root).unwrap();
        ports.0.insert(BUCKETS_AT, service.address().port());
        service
    });
    let mut script = String::new();
    for (number, step) in steps.iter().enumerate() {
        let file = notes.join(number.to_string());
        fs::write(&file, ports.replace(&step.command) + "\n").unwrap();
        let file = file.display();
        // A block of several commands ends at the first that fails.
        let is_block = step.expected.is_none() && step.status == Some(0);
        let mode = if is_block { "set -e" } else { "set +e" };
        script.push_str(&format!(
            "{mode}\n. '{file}' > '{file}.out' 2>&1 < /dev/null\necho $? > '{file}.status'\n"
        ));
    }
    let script_file = notes.join("all");
    fs::write(&script_file, script).unwrap();
    let hung = Shell::start(&script_file, &work, &bin).wait();
    for (number, step) in steps.iter().enumerate() {
        let note = |end: &str| fs::read_to_string(notes.join(format!("{number}.{end}"))).ok();
        let printed = note("out").unwrap_or_default();
        let (line, command) = (step.line, &step.command);
        let status = match note("status") {
            Some(status) => status.trim().to_owned(),
            None if hung => "none: it hung".to_owned(),
            None => "not 0, so the block ended".to_owned(),
        };
        let wanted = step.status.map(|status| status.to_string());
        let is_any = wanted.is_none() && status.parse::<u8>().is_ok();
        if !is_any && wanted.as_ref() != Some(&status) {
            let wanted = wanted.unwrap_or_default();
            return Err(format!(
                "{name}:{line}: the status is {status}, not {wanted}, of\n{command}\n--- printed\n{printed}"
            ));
        }
        let expected = step.expected.as_ref().map(|text| ports.replace(text));
        if let Some(expected) = expected.filter(|expected| !matches(expected, &printed)) {
            return Err(format!(
                "{name}:{line}: {command}\n--- expected\n{expected}\n--- printed\n{printed}"
            ));
        }
    }
    Ok(())
}

/// The first step that needs what is not installed.
fn missing_tool(chapter: &Chapter) -> Option<(usize, &'static str)> {
    let installed = |tool: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|dir| dir.join(tool).is_file())
    };
    let mut steps = chapter.steps.iter().enumerate();
    steps.find_map(|(at, step)| {
        let mut tools = step.tools();
        tools.find(|tool| !installed(tool)).map(|tool| (at, tool))
    })
}

/// A shell with all that it started. Dropping it kills them.
struct Shell {
    child: Child,
    group: Pid,
}

impl Shell {
    fn start(script: &Path, work: &Path, bin: &Path) -> Shell {
        let mut path = bin.as_os_str().to_owned();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let mut command = Command::new("bash");
        command.arg("--norc").arg(script).current_dir(work);
        command
            .env("PATH", path)
            .env("HOME", work)
            .env("LC_ALL", "C");
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            let is_proxy = text.to_ascii_lowercase().ends_with("_proxy");
            let is_ours = [
                "AWS_",
                "AZURE_",
                "GOOGLE_",
                "XDG_",
                "PENSTOCK_",
                "RUST_LOG",
                "BASH_ENV",
                "NOTIFY_",
                "LISTEN_",
            ];
            if is_proxy || is_ours.iter().any(|start| text.starts_with(start)) {
                command.env_remove(&name);
            }
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.process_group(0).spawn().expect("bash starts");
        let group = Pid::from_raw(i32::try_from(child.id()).unwrap());
        Shell { child, group }
    }

    /// Waits until the script has ended. Returns whether it hung.
    fn wait(mut self) -> bool {
        let started = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            if started.elapsed() > PATIENCE {
                return true;
            }
            thread::sleep(Duration::from_millis(20));
        }
        false
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // Nobody may be left.
        let _ = killpg(self.group, Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// Free ports in place of those of a chapter: `:8080` is the same one everywhere in it.
#[derive(Default)]
struct Ports(BTreeMap<u16, u16>);

impl Ports {
    /// Replaces every `:PORT` of four or five digits.
    fn replace(&mut self, text: &str) -> String {
        let mut parts = text.split(':');
        let mut replaced = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            replaced.push(':');
            let digits = part.bytes().take_while(u8::is_ascii_digit).count();
            match part[..digits].parse() {
                Ok(port) if (4..=5).contains(&digits) && port >= 1024 => {
                    let free = *self.0.entry(port).or_insert_with(free_port);
                    replaced.push_str(&free.to_string());
                    replaced.push_str(&part[digits..]);
                }
                _ => replaced.push_str(part),
            }
        }
        replaced
    }
}

/// A port on which nobody listens. No two calls of this process return the same.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let count = PORTS.end - PORTS.start;
    // Other test processes begin elsewhere.
    let begin = u16::try_from(std::process::id() * 37 % u32::from(count)).unwrap();
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(step < count, "no free port");
        let port = PORTS.start + (begin + step) % count;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

#[test]
fn ports_are_replaced_and_nothing_else() {
    let mut ports = Ports::default();
    let text = "http://localhost:8080/a:80 10:30:00 --admin :9090 127.0.0.1:8080";
    let replaced = ports.replace(text);
    let (first, second) = (ports.0[&8080], ports.0[&9090]);
    assert_eq!(
        replaced,
        format!("http://localhost:{first}/a:80 10:30:00 --admin :{second} 127.0.0.1:{first}")
    );
}
