//! What a package ships beside the program: manual pages, completions, the configuration file, units.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::cli::expect;
use common::{Stores, penstock, program, run, skip};
use serde_json::Value;

/// The words of a text that may be options or commands.
fn words(text: &str) -> BTreeSet<&str> {
    let separator = |c: char| !(c.is_ascii_alphanumeric() || "-_".contains(c));
    text.split(separator).collect()
}

/// The commands that `--help` lists.
fn commands() -> Vec<String> {
    let help = run(penstock().arg("--help"));
    let list = help
        .split_once("Commands:\n")
        .expect("a list of commands")
        .1;
    let list = list.lines().take_while(|line| !line.is_empty());
    // What an entry says on further lines is indented further.
    let names = list.filter_map(|line| line.strip_prefix("  ")?.split_once(' '));
    let names: Vec<String> = names
        .filter(|(name, _)| !name.is_empty() && *name != "help")
        .map(|(name, _)| name.to_owned())
        .collect();
    assert!(names.len() >= 17, "{names:?}");
    names
}

/// The long options that the help of a command lists.
fn options(command: &str) -> Vec<String> {
    let help = run(penstock().args([command, "--help"]));
    let entries = help.lines().map(str::trim_start);
    let entries = entries.filter(|line| line.starts_with('-'));
    let options: Vec<String> = entries
        .filter_map(|line| {
            line.split([' ', '=', ','])
                .find(|word| word.starts_with("--"))
        })
        .map(|word| word.trim_end_matches('[').to_owned())
        .collect();
    assert!(
        options.contains(&"--help".to_owned()),
        "{command}: {options:?}"
    );
    options
}

#[test]
fn every_command_has_a_manual_page_with_all_of_its_options() {
    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("man1");
    run(penstock().arg("man").arg(&pages));
    let page = |name: &str| {
        let text = fs::read_to_string(pages.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        // Without what says how it looks.
        let plain = ["\\fB", "\\fI", "\\fR"]
            .iter()
            .fold(text, |text, font| text.replace(font, ""));
        plain.replace("\\-", "-")
    };
    let whole = page("penstock.1");
    let commands = commands();
    for command in &commands {
        let name = format!("penstock-{command}");
        assert!(
            words(&whole).contains(name.as_str()),
            "{name} in penstock(1)"
        );
        let text = page(&format!("{name}.1"));
        assert!(text.contains(".SH \"EXIT STATUS\"\n0 "), "{name}: {text}");
        let words = words(&text);
        for option in options(command) {
            assert!(words.contains(option.as_str()), "{option} in {name}(1)");
        }
    }
    assert!(options("serve").len() > 60, "{:?}", options("serve"));
    assert_eq!(fs::read_dir(&pages).unwrap().count(), commands.len() + 1);
    // The same release has the same pages: nothing in them tells when they were made.
    let again = dir.path().join("again");
    run(penstock().arg("man").arg(&again));
    for entry in fs::read_dir(&pages).unwrap() {
        let name = entry.unwrap().file_name();
        let read = |dir: &Path| fs::read(dir.join(&name)).unwrap();
        assert_eq!(read(&pages), read(&again), "{name:?}");
    }
    expect(
        penstock().args(["man", "/dev/null/man1"]).output().unwrap(),
        1,
        &["/dev/null/man1"],
    );
}

#[test]
fn the_manual_pages_have_no_faults() {
    let Some(mut groff) = program("groff") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    run(penstock().arg("man").arg(dir.path()));
    let pages = fs::read_dir(dir.path()).unwrap();
    groff.args(["-man", "-Tutf8", "-ww", "-z"]);
    groff.args(pages.map(|page| page.unwrap().path()));
    let output = groff.output().unwrap();
    let faults = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && faults.is_empty(), "{faults}");
}

#[test]
fn shells_complete_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run(penstock().args(["completions", shell]));
        for command in commands() {
            assert!(
                words(&script).contains(command.as_str()),
                "{shell}: {command}"
            );
        }
        for option in options("serve") {
            // fish has them without dashes.
            let name = option.trim_start_matches('-');
            let found = [name, option.as_str()]
                .iter()
                .any(|word| words(&script).contains(word));
            assert!(found, "{shell}: {option}");
        }
        // It is what the shell takes.
        let Some(mut shell) = program(shell) else {
            continue;
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), script).unwrap();
        run(shell.arg("-n").arg(file.path()));
    }
}

/// The file that packages install. That each example can be used is a test of `config::file`.
#[test]
fn the_default_configuration_shows_every_option_and_sets_none() {
    let text = run(penstock().arg("default-config"));
    let settings: Vec<&str> = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with("# "))
        .collect();
    let keys: BTreeSet<String> = settings
        .iter()
        .map(|line| {
            let (key, value) = line.split_once(" = ").unwrap_or_else(|| panic!("{line}"));
            let key = key
                .strip_prefix('#')
                .unwrap_or_else(|| panic!("{line} is set"));
            assert!(!value.is_empty(), "{line}");
            format!("--{}", key.replace('_', "-"))
        })
        .collect();
    let options = options("serve");
    // What all commands have is no setting.
    let of_all = ["--config", "--help", "--version", "--quiet", "--verbose"];
    let options = options
        .iter()
        .filter(|option| !of_all.contains(&option.as_str()));
    let options: BTreeSet<String> = options.cloned().collect();
    assert_eq!(keys, options);
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), &text).unwrap();
    run(penstock().args(["plan", "--config"]).arg(file.path()));
}

/// An operator names stores once, in the file of the server.
#[test]
fn commands_take_the_stores_of_a_configuration_file() {
    let stores = Stores::new(3);
    let config = stores.file("penstock.toml");
    let file = stores.file("one.txt");
    fs::write(&file, "one").unwrap();
    let paths = stores.paths.iter().map(|path| format!("{path:?}"));
    let paths = paths.collect::<Vec<_>>().join(", ");
    let text = format!("store = [{paths}]\nmemory = \"64MiB\"\n");
    fs::write(&config, text).unwrap();
    let command = |arguments: &[&str]| {
        let mut command = penstock();
        command
            .arg(arguments[0])
            .arg("--config")
            .arg(&config)
            .args(&arguments[1..]);
        command.output().unwrap()
    };
    let file = file.to_str().unwrap();
    run(penstock().arg("init").args(stores.flags()));
    expect(
        command(&["put", "--data", "2", "--parity", "1", file]),
        0,
        &["one.txt"],
    );
    expect(command(&["ls"]), 0, &["one.txt"]);
    expect(command(&["stat", "one.txt"]), 0, &["one.txt"]);
    expect(command(&["df"]), 0, &[]);
    expect(command(&["get", "one.txt"]), 0, &["one"]);
    expect(command(&["verify"]), 0, &[]);
    fs::remove_dir_all(stores.paths[0].join("objects")).unwrap();
    expect(command(&["verify"]), 1, &["one.txt"]);
    expect(command(&["repair"]), 0, &["one.txt"]);
    expect(command(&["rebalance"]), 0, &[]);
    expect(command(&["rm", "one.txt"]), 0, &["removed one.txt"]);
    fs::write(&config, "memory = \"64MiB\"\n").unwrap();
    expect(command(&["ls"]), 1, &["penstock.toml: it names no store"]);
    fs::write(&config, "stores = []\n").unwrap();
    expect(
        command(&["ls"]),
        1,
        &["line 1: there is no key `stores`; did you mean `store`?"],
    );
    expect(command(&["ls", "--store", "/x"]), 2, &["--config"]);
}

/// Where the files are that packages are made of.
fn packaging(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tools/packaging")
        .join(name)
}

const UNITS: [&str; 4] = [
    "penstock.service",
    "penstock.socket",
    "scrub/penstock-scrub.service",
    "scrub/penstock-scrub.timer",
];

/// The units, with this program as that which they start.
fn units() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("scrub")).unwrap();
    for name in UNITS {
        let text = fs::read_to_string(packaging("systemd").join(name)).unwrap();
        let text = text.replace("/usr/bin/penstock", env!("CARGO_BIN_EXE_penstock"));
        fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

#[test]
fn systemd_takes_the_units() {
    let Some(mut systemd) = program("systemd-analyze") else {
        return;
    };
    let dir = units();
    systemd.args(["verify", "--man=no"]);
    systemd.args(UNITS.map(|name| dir.path().join(name)));
    let output = systemd.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    // It speaks of the machine's other units too.
    let faults: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("penstock"))
        .collect();
    assert!(faults.is_empty(), "{text}");
    assert!(output.status.success(), "{text}");
}

/// What systemd thinks of what the services may do: 0 is nothing, 100 is everything that root may.
#[test]
fn the_units_may_do_little() {
    const EXPOSURE_MAX: &str = "--threshold=25";
    let Some(_) = program("systemd-analyze") else {
        return;
    };
    let dir = units();
    for unit in UNITS.iter().filter(|name| name.ends_with(".service")) {
        let mut systemd = program("systemd-analyze").unwrap();
        systemd.args(["security", "--offline=true", "--no-pager", EXPOSURE_MAX]);
        let output = systemd.arg(dir.path().join(unit)).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        if text.contains("unrecognized option") {
            return skip("this systemd-analyze judges no files");
        }
        assert!(output.status.success(), "{text}");
    }
}

/// The commands in units are whole: their options exist, and what they name is made by the unit.
#[test]
fn what_units_start_exists() {
    let mut commands = 0;
    for name in UNITS {
        let text = fs::read_to_string(packaging("systemd").join(name)).unwrap();
        let text = text.replace("\\\n", " ");
        for line in text
            .lines()
            .filter_map(|line| line.strip_prefix("ExecStart="))
        {
            let mut words = line.split_whitespace();
            assert_eq!(words.next(), Some("/usr/bin/penstock"), "{line}");
            let options = options(words.next().unwrap());
            for word in words.filter(|word| word.starts_with("--")) {
                assert!(options.contains(&word.to_owned()), "{word} in {line}");
            }
            commands += 1;
        }
    }
    assert_eq!(commands, 2);
}

/// The documents of a YAML file, by Python. `None` where that can't be had.
fn yaml(text: &str) -> Option<Vec<Value>> {
    let mut python = program("python3")?;
    python.arg("-c");
    python.arg(
        "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))",
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    let output = python.arg(file.path()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    if errors.contains("No module named 'yaml'") {
        skip("Python has no yaml here");
        return None;
    }
    assert!(output.status.success(), "{errors}");
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

#[test]
fn the_seccomp_profile_allows_io_uring_and_no_namespaces() {
    let text = fs::read_to_string(packaging("container/seccomp.json")).unwrap();
    let profile: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let allowed = |name: &str| {
        let rules = profile["syscalls"].as_array().unwrap().iter();
        rules
            .filter(|rule| rule["action"] == "SCMP_ACT_ALLOW")
            .any(|rule| rule["names"].as_array().unwrap().contains(&name.into()))
    };
    for name in [
        "io_uring_setup",
        "io_uring_enter",
        "io_uring_register",
        "splice",
        "execve",
    ] {
        assert!(allowed(name), "{name}");
    }
    for name in [
        "unshare", "setns", "mount", "bpf", "ptrace", "keyctl", "clone3",
    ] {
        assert!(!allowed(name), "{name}");
    }
}

/// A pod is killed after its grace period. Until then it must have drained.
#[test]
fn a_pod_has_time_to_drain() {
    let text = fs::read_to_string(packaging("container/kubernetes.yaml")).unwrap();
    let Some(documents) = yaml(&text) else {
        return;
    };
    let kind = |kind: &str| {
        let found = documents.iter().find(|document| document["kind"] == kind);
        found.unwrap_or_else(|| panic!("no {kind}"))
    };
    let config = kind("ConfigMap")["data"]["penstock.toml"].as_str().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), config).unwrap();
    let mut plan = penstock();
    plan.args(["plan", "--json", "--config"]).arg(file.path());
    run(&mut plan);
    let seconds = |key: &str| -> u64 {
        let line = config.lines().find_map(|line| line.strip_prefix(key));
        let value = line.unwrap_or_else(|| panic!("no {key}"));
        let value = value.trim_matches([' ', '=', '"', 's']);
        value.parse().unwrap_or_else(|_| panic!("{key}: {value}"))
    };
    let pod = &kind("DaemonSet")["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let before = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        .as_u64()
        .unwrap();
    let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
    assert!(grace > before + seconds("drain_delay") + seconds("drain_timeout"));
    assert_eq!(container["readinessProbe"]["httpGet"]["path"], "/readyz");
    assert_eq!(container["livenessProbe"]["httpGet"]["path"], "/healthz");
}

#[test]
fn the_compose_file_names_what_is_there() {
    let dir = packaging("container");
    let text = fs::read_to_string(dir.join("compose.yaml")).unwrap();
    let Some(documents) = yaml(&text) else {
        return;
    };
    let edge = &documents[0]["services"]["edge"];
    let top = dir.join(edge["build"]["context"].as_str().unwrap());
    let dockerfile = top.join(edge["build"]["dockerfile"].as_str().unwrap());
    let dockerfile = fs::read_to_string(dockerfile).unwrap();
    for line in dockerfile
        .lines()
        .filter(|line| line.starts_with("COPY --from"))
    {
        let names = line
            .split(' ')
            .filter_map(|word| word.strip_prefix("/source/"));
        for name in names.filter(|name| !name.starts_with("target/")) {
            assert!(top.join(name).exists(), "{name}");
        }
    }
    let options = edge["security_opt"].as_array().unwrap().iter();
    let mut profiles = options.filter_map(|one| one.as_str()?.strip_prefix("seccomp:"));
    assert!(dir.join(profiles.next().unwrap()).exists());
    // Its command is one that the server takes.
    let words = edge["command"].as_array().unwrap().iter();
    let words: Vec<&str> = words.filter_map(Value::as_str).collect();
    assert_eq!(words[0], "serve");
    run(penstock().arg("plan").args(&words[1..]));
}

/// The .deb on a copy of this machine: installed, started, upgraded, removed.
#[test]
fn the_deb_is_installed_upgraded_and_removed() {
    let cargo = Command::new(env!("CARGO"))
        .args(["deb", "--version"])
        .output();
    if !cargo.is_ok_and(|output| output.status.success()) {
        return skip("cargo-deb is not installed");
    }
    let Some(_) = program("dpkg") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let debs = ["0.0.1", "0.0.2"].map(|version| {
        let out = dir.path().join(version);
        let mut build = Command::new(packaging("build"));
        // Where there is no checkout, as in an unpacked archive, there is no commit whose time it could be.
        build
            .env("SOURCE_DATE_EPOCH", "0")
            .env("PENSTOCK_PACKAGES", "deb");
        run(build
            .arg(env!("CARGO_BIN_EXE_penstock"))
            .arg(&out)
            .arg(version));
        let mut made = fs::read_dir(&out).unwrap().map(|file| file.unwrap().path());
        made.find(|path| path.extension().is_some_and(|name| name == "deb"))
            .unwrap_or_else(|| panic!("no .deb in {}", out.display()))
    });
    let output = Command::new(packaging("try-deb"))
        .args(debs)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    match output.status.code() {
        Some(77) => skip(text.lines().last().unwrap_or("no copy of the machine")),
        code => assert_eq!(code, Some(0), "{text}"),
    }
}
