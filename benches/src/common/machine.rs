//! The facts that belong to every number: machine, kernel, commit, command.

use std::process::Command;
use std::time::SystemTime;

/// CPU flags that decide which code runs; the others are left out.
const FLAGS: &[&str] = &[
    "ssse3",
    "avx",
    "avx2",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "gfni",
    "pclmulqdq",
    "vpclmulqdq",
    "aes",
    "vaes",
    "sha_ni",
    "asimd",
    "pmull",
    "sha2",
    "sve",
];

/// Has the machine's host back this many bytes of free memory, right before something takes them.
///
/// On a virtual machine the first use of a page is a fault that its host serves, which can cost ten times what a copy into it does, and
/// guests that report their free pages lose them within seconds. What takes memory once, as a cold download does for its cache, would
/// be measured by the host's price beside what takes none.
pub fn back_free_memory(bytes: usize) {
    const PAGE: usize = 4096;
    let mut memory = vec![0_u8; bytes];
    for page in memory.chunks_mut(PAGE) {
        page[0] = 1;
    }
    std::hint::black_box(&memory);
}

/// Reads the facts, as names and values. A fact that cannot be found out is `unknown`.
pub fn facts() -> Vec<(&'static str, String)> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |names: &[&str]| {
        cpuinfo.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            names
                .contains(&name.trim())
                .then(|| value.trim().to_owned())
        })
    };
    let identity = ["cpu family", "model", "stepping"]
        .iter()
        .filter_map(|name| Some(format!("{name} {}", field(&[name])?)))
        .collect::<Vec<_>>()
        .join(", ");
    let flags = field(&["flags", "Features"]).map(|all| {
        let has = |flag: &&&str| all.split(' ').any(|other| other == **flag);
        FLAGS
            .iter()
            .filter(has)
            .copied()
            .collect::<Vec<_>>()
            .join(" ")
    });
    let cores = std::thread::available_parallelism()
        .map(|n| n.to_string())
        .ok();
    let system = |name: &str| std::fs::read_to_string(format!("/proc/sys/{name}")).ok();
    let unknown = |value: Option<String>| match value {
        Some(value) if !value.trim().is_empty() => value.trim().to_owned(),
        _ => "unknown".to_owned(),
    };
    vec![
        ("date", httpdate::fmt_http_date(SystemTime::now())),
        ("command", command()),
        ("commit", unknown(commit())),
        ("cpu", unknown(field(&["model name", "CPU part"]))),
        ("cpu identity", unknown(Some(identity))),
        ("cpu flags", unknown(flags)),
        ("cores", unknown(cores)),
        ("kernel", unknown(system("kernel/osrelease"))),
        // A congestion control that paces packets (BBR) costs a sender more.
        (
            "congestion control",
            unknown(system("net/ipv4/tcp_congestion_control")),
        ),
        ("rustc", unknown(output(&["rustc", "--version"]))),
    ]
}

/// The program's name, without its directory, and its arguments.
fn command() -> String {
    let mut args = std::env::args();
    let program = args.next().unwrap_or_default();
    let name = program.rsplit('/').next().unwrap_or_default().to_owned();
    std::iter::once(name)
        .chain(args)
        .collect::<Vec<_>>()
        .join(" ")
}

/// The commit checked out, with a mark if files under version control differ from it.
fn commit() -> Option<String> {
    let hash = output(&["git", "rev-parse", "--short=12", "HEAD"])?;
    let changed = output(&["git", "status", "--porcelain", "--untracked-files=no"])?;
    let mark = if changed.is_empty() {
        ""
    } else {
        " (with changes)"
    };
    Some(hash + mark)
}

fn output(command: &[&str]) -> Option<String> {
    let output = Command::new(command[0]).args(&command[1..]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
