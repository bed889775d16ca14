//! What commands print: data on standard output, talk on standard error, and JSON as docs/guide/output.md describes it.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::{KEY, Noise, Stores, penstock, skip};
use penstock_store::Store;
use penstock_store::tahoe::write::{Upload, content, on_nodes};
use serde_json::Value;

/// Commands that have no JSON: servers, and what makes files for other programs.
const WITHOUT_JSON: [&str; 5] = ["demo", "serve", "default-config", "completions", "man"];

/// The names of all commands, from `--help`.
fn commands() -> BTreeSet<String> {
    let help = common::run(penstock().arg("--help"));
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let lines = lines.take_while(|line| !line.is_empty());
    let names = lines.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let names = names.filter(|name| !["", "help"].contains(name));
    names.map(str::to_owned).collect()
}

/// A row of a table of the guide: a field of JSON.
#[derive(Debug)]
struct Field {
    /// Lines that have it, by action, finding, type or format; empty for all.
    lines: Vec<String>,
    /// Its name, with the names of the objects that it is in.
    path: String,
    /// What it can be, as `text or null`.
    value: String,
    /// Whether it may be missing.
    optional: bool,
}

impl Field {
    fn of(row: &str) -> Field {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [lines, path, value, _] = cells[..] else {
            panic!("not four cells: {row}");
        };
        let lines = lines.split(", ").filter(|name| !name.is_empty());
        let (value, condition) = value.split_once(", if ").unwrap_or((value, ""));
        Field {
            lines: lines.map(str::to_owned).collect(),
            path: path.trim_matches('`').to_owned(),
            value: value.to_owned(),
            optional: !condition.is_empty(),
        }
    }

    /// Whether a line with these names has it.
    fn is_in(&self, names: &BTreeSet<&str>) -> bool {
        self.lines.is_empty() || self.lines.iter().any(|name| names.contains(name.as_str()))
    }
}

/// The tables of the guide, by their headings.
fn documented() -> BTreeMap<String, Vec<Field>> {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/guide/output.md");
    let text = fs::read_to_string(guide).unwrap();
    let (_, text) = text.split_once("\n## JSON\n").expect("a part on JSON");
    let mut tables = BTreeMap::new();
    for part in text.split("\n### ").skip(1) {
        let (heading, text) = part.split_once('\n').unwrap();
        let rows = text.lines().filter(|line| line.starts_with('|')).skip(2);
        tables.insert(heading.to_owned(), rows.map(Field::of).collect());
    }
    tables
}

/// Whether a date is as ISO 8601 has it, in UTC.
fn is_date(value: &Value) -> bool {
    let text = value.as_str().unwrap_or_default();
    text.ends_with('Z') && humantime::parse_rfc3339(text).is_ok()
}

/// Whether a value is what the guide says.
fn is_a(value: &Value, what: &str) -> bool {
    let list_of = |is: fn(&Value) -> bool| value.as_array().is_some_and(|list| list.iter().all(is));
    what.split(" or ").any(|what| match what {
        "null" => value.is_null(),
        // `true or false`
        "true" | "false" => value.is_boolean(),
        "text" => value.is_string(),
        "number" => value.is_number(),
        "date" => is_date(value),
        "object" => value.is_object(),
        "list of texts" => list_of(Value::is_string),
        "list of numbers" => list_of(Value::is_number),
        "list of objects" => list_of(Value::is_object),
        what => panic!("the guide says {what:?}"),
    })
}

/// Objects whose fields the guide does not name.
const OPEN: [&str; 7] = [
    "fields",
    "object.fields",
    "leaves",
    "offsets",
    "range",
    "segments",
    "ueb",
];

/// Holds an object against the rows about it, those whose paths begin with `before`.
#[track_caller]
fn check_fields(object: &Value, before: &str, names: &BTreeSet<&str>, fields: &[Field]) {
    let object = object.as_object().expect("an object");
    let ours = fields.iter().filter(|field| field.is_in(names));
    for field in ours {
        let Some(name) = field.path.strip_prefix(before) else {
            continue;
        };
        if name.contains('.') {
            continue;
        }
        match object.get(name) {
            Some(value) => assert!(
                is_a(value, &field.value),
                "{} is not {}: {value}",
                field.path,
                field.value
            ),
            None => assert!(field.optional, "no {} in {object:?}", field.path),
        }
    }
    for (name, value) in object {
        let path = format!("{before}{name}");
        let known = |field: &&Field| field.path == path && field.is_in(names);
        assert!(
            fields.iter().any(|field| known(&field)),
            "the guide does not tell of {path} in {names:?}: {object:?}"
        );
        if OPEN.contains(&path.as_str()) {
            continue;
        }
        match value {
            Value::Object(_) => check_fields(value, &format!("{path}."), names, fields),
            Value::Array(list) => {
                for item in list.iter().filter(|item| item.is_object()) {
                    check_fields(item, &format!("{path}[]."), names, fields);
                }
            }
            _ => {}
        }
    }
}

/// What commands printed, held against the guide.
struct Checker {
    tables: BTreeMap<String, Vec<Field>>,
    /// Tables that something was held against.
    seen: BTreeSet<String>,
    /// Names of lines that were seen, with their tables.
    lines: BTreeSet<(String, String)>,
}

impl Checker {
    fn new() -> Checker {
        Checker {
            tables: documented(),
            seen: BTreeSet::new(),
            lines: BTreeSet::new(),
        }
    }

    /// Checks what a command printed under a heading of the guide: one document, or lines.
    #[track_caller]
    fn check(&mut self, heading: &str, output: &Output) -> Vec<Value> {
        let text = std::str::from_utf8(&output.stdout).unwrap();
        assert!(text.ends_with('\n'), "{output:?}");
        let is_document = text.starts_with("{\n");
        let values: Vec<Value> = match is_document {
            true => vec![serde_json::from_str(text).expect("one document")],
            false => (text.lines())
                .map(|line| serde_json::from_str(line).expect("a document per line"))
                .collect(),
        };
        let fields = &self.tables[heading];
        for value in &values {
            let named = ["type", "action", "finding", "format"].map(|name| value[name].as_str());
            let mut names: BTreeSet<&str> = named.into_iter().flatten().collect();
            if heading == "ls" {
                let unusable = value.get("directory").is_some();
                names.insert(if unusable { "unusable" } else { "object" });
            }
            check_fields(value, "", &names, fields);
            self.lines.extend(
                names
                    .iter()
                    .map(|name| (heading.to_owned(), (*name).to_owned())),
            );
        }
        self.seen.insert(heading.to_owned());
        values
    }
}

/// Runs a command and requires its status, and that it says nothing if that is 0.
#[track_caller]
fn quietly(stores: &Stores, command: &str, status: i32, arguments: &[&str]) -> Output {
    let output = common::cli::on(stores, command, &[&["--quiet"], arguments].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{command}: {errors}");
    if status == 0 {
        assert_eq!(errors, "", "{command}");
    }
    output
}

/// Every command with JSON, where all is well and where not, prints what the guide says, and nothing else.
#[test]
fn json_is_as_the_guide_describes_it() {
    let mut checker = Checker::new();
    let stores = Stores::new(6);
    let file = |name: &str, bytes: &[u8]| {
        let path = stores.file(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let a = file("a.bin", &Noise::new(1).bytes(300_000));
    let b = file("b.txt", b"hello\n");
    let json = |command: &str, status, arguments: &[&str]| {
        quietly(&stores, command, status, &[&["--json"], arguments].concat())
    };

    let lines = checker.check("init", &json("init", 0, &[]));
    assert_eq!(lines.len(), 6);

    let code = ["--data", "4", "--parity", "2"];
    let said = ["--expires", "30d", "--header", "X-Kind: test"];
    let lines = checker.check(
        "put",
        &json("put", 0, &[&code[..], &said, &[&a, &b]].concat()),
    );
    assert_eq!(lines.len(), 3);
    assert_eq!(
        (&lines[0]["object"], &lines[2]["stored"]),
        (&"a.bin".into(), &2.into())
    );
    assert_eq!(lines[0]["paths"].as_array().unwrap().len(), 6);
    let lines = checker.check(
        "put",
        &json("put", 1, &[&code[..], &["/nowhere", &b]].concat()),
    );
    assert_eq!(
        (&lines[0]["action"], &lines[1]["action"]),
        (&"failed".into(), &"put".into())
    );
    assert_eq!(
        (&lines[2]["complete"], &lines[2]["failed"]),
        (&false.into(), &1.into())
    );

    let copy = stores.file("copy");
    let output = json("get", 0, &["a.bin", "--output", copy.to_str().unwrap()]);
    let document = &checker.check("get", &output)[0];
    assert_eq!(document["output"], copy.to_str().unwrap());
    assert_eq!(fs::read(&copy).unwrap(), fs::read(&a).unwrap());

    checker.check("ls", &json("ls", 0, &[]));
    checker.check("stat", &json("stat", 0, &["a.bin"]));
    checker.check("stat", &json("stat", 1, &["nothing"]));
    checker.check("df", &json("df", 0, &[]));
    checker.check("df", &json("df", 0, &["--no-count"]));
    checker.check("verify", &json("verify", 0, &[]));
    checker.check("repair", &json("repair", 0, &[]));
    checker.check("rebalance", &json("rebalance", 0, &[]));

    // A share is gone, another damaged, and a third is none.
    let share = |key: &str, store: usize| stores.share(key, store);
    let shares = (0..6).map(|store| share("a.bin", store));
    let shares: Vec<_> = shares.filter(|path| path.exists()).collect();
    fs::remove_file(&shares[0]).unwrap();
    let mut bytes = fs::read(&shares[1]).unwrap();
    bytes[40_000] ^= 1;
    fs::write(&shares[1], &bytes).unwrap();
    let inspected = |arguments: &[&str]| {
        let mut command = penstock();
        command.args(["inspect", "--quiet", "--json"]);
        command.args(arguments).output().unwrap()
    };
    let path = shares[1].to_str().unwrap();
    checker.check("inspect", &inspected(&[path]));
    let output = inspected(&["--leaves", path]);
    assert_eq!(output.status.code(), Some(1));
    checker.check("inspect", &output);
    checker.check("verify", &json("verify", 1, &[]));
    let lines = checker.check("repair", &json("repair", 0, &[]));
    assert_eq!(lines[0]["action"], "share");

    // A new store gets its part, and a store that is away is told of.
    let more = stores.file("more");
    let more = more.to_str().unwrap();
    checker.check("init", &json("init", 0, &["--store", more]));
    let lines = checker.check(
        "rebalance",
        &json("rebalance", 0, &["--store", more, "--dry-run"]),
    );
    let count = lines.len();
    assert!(lines.iter().all(|line| line["dry_run"] == true));
    let lines = checker.check("rebalance", &json("rebalance", 0, &["--store", more]));
    assert_eq!(lines.len(), count);
    fs::rename(&stores.paths[5], stores.file("away")).unwrap();
    let away = json("verify", 1, &["--store", more]);
    checker.check("verify", &away);
    checker.check("stat", &json("stat", 0, &["--store", more, "b.txt"]));
    checker.check("df", &json("df", 1, &["--store", more]));
    let output = common::cli::on(&stores, "repair", &["--store", more, "--quiet", "--json"]);
    checker.check("repair", &output);
    let output = common::cli::on(
        &stores,
        "rebalance",
        &["--store", more, "--quiet", "--json"],
    );
    checker.check("rebalance", &output);
    fs::rename(stores.file("away"), &stores.paths[5]).unwrap();

    // Nothing of an object can be used.
    for path in stores.paths.iter().map(Path::new).chain([Path::new(more)]) {
        let dir =
            path.join("objects/00/11223344556677889900aabbccddeeff00112233445566778899aabbccddee");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("18ec1a26c2647b9129813766ed7161f4.share"), b"none").unwrap();
    }
    let unusable = json("ls", 0, &["--store", more]);
    checker.check("ls", &unusable);

    let dry = json("rm", 0, &["--store", more, "--dry-run", "--prefix", "a"]);
    let lines = checker.check("rm", &dry);
    assert_eq!(lines[0]["object"], "a.bin");
    let lines = checker.check("rm", &json("rm", 1, &["--store", more, "a.bin", "nothing"]));
    assert_eq!(
        (&lines[0]["action"], &lines[1]["action"]),
        (&"removed".into(), &"failed".into())
    );
    checker.check("stat", &json("stat", 1, &["--store", more, "a.bin"]));

    checker.check("plan", &json("plan", 0, &[]));
    let url = "s3://bucket?endpoint=http://127.0.0.1:1&region=us-east-1";
    let mut plan = penstock();
    plan.args(["plan", "--json", "--quiet", "--store", url, "--cache"]);
    plan.arg(stores.file("cache"));
    plan.env("AWS_ACCESS_KEY_ID", "key");
    plan.env("AWS_SECRET_ACCESS_KEY", "secret");
    checker.check("plan", &plan.output().unwrap());
    // What is amiss depends on the machine.
    let output = common::cli::on(&stores, "doctor", &["--json", "--quiet"]);
    checker.check("doctor", &output);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");

    let keys = file(
        "keys.toml",
        b"[[key]]\nid = \"ops\"\nsecret = \"0123456789abcdef0123456789abcdef\"\n",
    );
    fs::set_permissions(&keys, Permissions::from_mode(0o600)).unwrap();
    let mut sign = penstock();
    sign.args(["sign", "--json", "--quiet", "b.txt", "--keys-file", &keys]);
    let output = sign.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    checker.check("sign", &output);

    grids(&mut checker, &stores);

    let headings: BTreeSet<String> = checker.tables.keys().cloned().collect();
    assert_eq!(headings, checker.seen);
    let expected: BTreeSet<String> = commands();
    let without = WITHOUT_JSON.map(str::to_owned);
    let with: BTreeSet<String> = expected.difference(&without.into()).cloned().collect();
    let tables = headings.iter().filter(|heading| !heading.contains(' '));
    assert_eq!(with, tables.cloned().collect());
    for (heading, line) in [
        ("put", "failed"),
        ("rm", "failed"),
        ("verify", "bad_leaves"),
        ("verify", "missing_share"),
        ("verify", "rejected"),
        ("repair", "passed_over"),
        ("rebalance", "moved"),
        ("rebalance", "passed_over"),
        ("ls", "unusable"),
    ] {
        let line = (heading.to_owned(), line.to_owned());
        assert!(checker.lines.contains(&line), "{line:?} was not printed");
    }
}

/// The same of what is found and done where more is amiss.
#[test]
fn json_of_damage_is_as_the_guide_describes_it() {
    let mut checker = Checker::new();
    let stores = Stores::new(6);
    let bytes = Noise::new(3).bytes(300_000);
    let keys = ["copied", "gone", "lost", "row", "table"];
    for key in keys {
        stores.put(key, &mut &bytes[..], 4, common::BLOCK);
    }
    stores.put_said("expired", &mut &b"content"[..], 1_700_000_000, &[]);
    // A removed object comes back with a store that was away.
    stores.put("removed", &mut &bytes[..], 4, common::BLOCK);
    let away = stores.file("away");
    fs::rename(&stores.paths[5], &away).unwrap();
    let others: Vec<&Path> = stores.paths[..5]
        .iter()
        .map(|path| path.as_path())
        .collect();
    let rm = Store::directories(others);
    penstock_store::rm::rm(&rm, &decode_kernel::share::Key::new("removed").unwrap()).unwrap();
    fs::rename(&away, &stores.paths[5]).unwrap();
    // Others lack more shares than their code allows, have one twice, or bad leaves in the same place of three.
    for store in 0..3 {
        fs::remove_file(stores.share("lost", store)).unwrap();
        common::stores::flip(&stores.share("row", store), 5000);
    }
    let share = stores.share("copied", 0);
    let directory = stores.share("copied", 1);
    let copy = directory.parent().unwrap().join(share.file_name().unwrap());
    fs::remove_file(&directory).unwrap();
    fs::copy(&share, copy).unwrap();
    let table = stores.share("table", 0);
    let length = fs::metadata(&table).unwrap().len();
    common::stores::flip(&table, length - 1000);
    fs::write(stores.paths[0].join("objects/stray"), b"").unwrap();

    let json = |command: &str, arguments: &[&str]| {
        common::cli::on(&stores, command, &[&["-q", "--json"], arguments].concat())
    };
    checker.check("ls", &json("ls", &[]));
    for key in ["expired", "lost", "removed", "copied"] {
        checker.check("stat", &json("stat", &[key]));
    }
    let lines = checker.check("verify", &json("verify", &[]));
    let dates = lines.iter().filter(|line| is_date(&line["at"]));
    assert_eq!(dates.count(), 1, "{lines:?}");
    checker.check("repair", &json("repair", &[]));
    for (heading, line) in [
        ("verify", "bad_leaves"),
        ("verify", "bad_table_page"),
        ("verify", "copy"),
        ("verify", "expired"),
        ("verify", "lost_rows"),
        ("verify", "missing_share"),
        ("verify", "removed"),
        ("verify", "stray"),
        ("verify", "too_few_shares"),
        ("repair", "expired"),
        ("repair", "removed"),
        ("repair", "share"),
        ("repair", "unreadable"),
    ] {
        let line = (heading.to_owned(), line.to_owned());
        assert!(checker.lines.contains(&line), "{line:?} was not printed");
    }
}

/// The same of files of a Tahoe-LAFS grid.
fn grids(checker: &mut Checker, stores: &Stores) {
    let nodes: Vec<_> = (0..3)
        .map(|node| stores.file(&format!("node{node}")))
        .collect();
    let bytes = Noise::new(2).bytes(10_000);
    let upload = Upload {
        k: 3,
        n: 5,
        segment_bytes: 3000,
        ..Upload::default()
    };
    let cap = upload
        .write(10_000, &content(&bytes), &on_nodes(&nodes))
        .unwrap();
    let share = on_nodes(&nodes)(cap.storage_index(), 0).unwrap();
    let run = |command: &str, arguments: &[&str]| {
        let mut run = penstock();
        run.args([command, "--quiet", "--json"]).args(arguments);
        if command != "inspect" {
            let nodes = nodes
                .iter()
                .flat_map(|node| [Path::new("--tahoe-node"), node]);
            run.args(nodes).arg(cap.expose());
        }
        run.output().unwrap()
    };
    let copy = stores.file("grid-copy");
    checker.check("get", &run("get", &["-o", copy.to_str().unwrap()]));
    assert_eq!(fs::read(&copy).unwrap(), bytes);
    checker.check("verify of a grid's file", &run("verify", &[]));
    checker.check(
        "inspect of a grid's share",
        &run("inspect", &["--leaves", share.to_str().unwrap()]),
    );
    let mut damaged = fs::read(&share).unwrap();
    damaged[200] ^= 1;
    fs::write(&share, damaged).unwrap();
    let output = run("verify", &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let lines = checker.check("verify of a grid's file", &output);
    assert_eq!(lines[0]["finding"], "bad_blocks");
}

/// What a command wrote to standard output and standard error.
#[track_caller]
fn written(output: &Output) -> (&str, &str) {
    let text = |bytes| std::str::from_utf8(bytes).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn what_is_done_is_said_on_standard_error() {
    let stores = Stores::new(6);
    let name = stores.file("k");
    fs::write(&name, b"content").unwrap();
    let name = name.to_str().unwrap();
    let copy = stores.file("copy");
    let runs: [(&str, &[&str], &str); 6] = [
        ("init", &[], "of set"),
        (
            "put",
            &["--data", "4", "--parity", "2", name],
            "put k: 7 bytes",
        ),
        (
            "get",
            &["k", "-o", copy.to_str().unwrap()],
            "got k: 7 bytes",
        ),
        ("repair", &[], "1 healthy, 0 repaired"),
        ("rebalance", &[], "0 shares moved, 0 not moved"),
        ("rm", &["k"], "removed k: 6 files"),
    ];
    for (command, arguments, said) in runs {
        // What it says does not depend on where the option stands.
        for quiet in [true, false] {
            let mut run = penstock();
            if quiet {
                run.arg("-q");
            }
            let output = run.arg(command).args(stores.flags()).args(arguments);
            let output = output.output().unwrap();
            let (data, talk) = written(&output);
            assert!(output.status.success(), "{command}: {talk}");
            assert_eq!(data, "", "{command}");
            match quiet {
                true => assert_eq!(talk, "", "{command}"),
                false => assert!(talk.contains(said), "{command}: {talk}"),
            }
            if command == "rm" && quiet {
                stores.put("k", &mut &b"content"[..], 4, common::BLOCK);
            }
        }
    }
}

#[test]
fn reports_are_data_and_errors_are_for_the_quiet_too() {
    let stores = Stores::new(6);
    stores.put_bytes(b"content");
    for (command, arguments) in [
        ("ls", &[][..]),
        ("stat", &[KEY]),
        ("df", &[]),
        ("verify", &[]),
        ("plan", &[]),
        ("rm", &["--dry-run", KEY]),
        ("rebalance", &["--dry-run"]),
        ("get", &[KEY]),
    ] {
        let output = quietly(&stores, command, 0, arguments);
        assert_ne!(output.stdout, b"", "{command}");
    }
    for (command, arguments, status) in [
        ("get", &["nothing"][..], 1),
        ("rm", &["nothing"], 1),
        ("put", &["--data", "4", "--parity", "2", "/nowhere"], 1),
        ("repair", &["nothing"], 1),
        ("verify", &["nothing"], 2),
    ] {
        let output = quietly(&stores, command, status, arguments);
        let (_, errors) = written(&output);
        assert!(errors.starts_with("penstock: "), "{command}: {errors}");
    }
}

#[test]
fn the_verbose_tell_of_each_store() {
    let stores = Stores::new(3);
    let name = stores.file("k");
    fs::write(&name, b"content").unwrap();
    let put = ["--data", "2", "--parity", "1", name.to_str().unwrap(), "-v"];
    let output = common::cli::on(&stores, "put", &put);
    let (data, talk) = written(&output);
    assert_eq!(data, "");
    for path in &stores.paths {
        let named = |line: &&str| line.contains("DEBUG") && line.contains(path.to_str().unwrap());
        let line = talk.lines().find(named).unwrap_or_else(|| panic!("{talk}"));
        let date = line.split(' ').next().unwrap();
        assert!(is_date(&date.into()), "{line}");
    }
    assert!(talk.contains("put k: 7 bytes"), "{talk}");
    // It goes before the environment.
    let mut ls = penstock();
    ls.env("RUST_LOG", "error").arg("ls").args(stores.flags());
    let output = ls.arg("--verbose").output().unwrap();
    assert!(written(&output).1.contains("DEBUG"), "{output:?}");
    // It can't be both, wherever the two stand.
    for both in [&["-q", "ls", "-v"][..], &["ls", "-q", "-v"]] {
        let output = penstock().args(both).args(stores.flags()).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(written(&output).1.contains("--verbose"), "{output:?}");
    }
}

#[test]
fn an_object_and_json_are_not_mixed() {
    let stores = Stores::new(6);
    stores.put_bytes(b"content");
    for arguments in [&["--json", KEY][..], &["--json", KEY, "--output", "-"]] {
        let output = common::cli::on(&stores, "get", arguments);
        let (data, errors) = written(&output);
        assert_eq!((output.status.code(), data), (Some(2), ""));
        assert!(errors.contains("--output"), "{errors}");
    }
}

#[test]
fn a_wrong_command_line_has_status_2() {
    for command in commands() {
        let output = penstock().args([&command, "--no-such-option"]).output();
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(2), "{command}");
        assert_eq!(written(&output).0, "", "{command}");
    }
    let stores = Stores::new(1);
    for (command, arguments) in [
        ("put", &["--data", "1", "--parity", "0", "x"][..]),
        (
            "put",
            &["--data", "1", "--no-redundancy", "--key", "k", "x", "y"],
        ),
        ("get", &[]),
    ] {
        let output = common::cli::on(&stores, command, arguments);
        assert_eq!(output.status.code(), Some(2), "{command}: {output:?}");
    }
    assert_eq!(penstock().output().unwrap().status.code(), Some(2));
}

/// `penstock sign … > file` on a full disk ended with 0, and no link was in the file.
#[test]
fn output_that_cannot_be_written_is_an_error() {
    let full = || File::options().write(true).open("/dev/full");
    if full().is_err() {
        return skip("there is no /dev/full");
    }
    let stores = Stores::new(6);
    stores.put_bytes(b"content");
    let share = stores.share(KEY, 0);
    let share = share.to_str().unwrap();
    for (arguments, status) in [
        (&["ls"][..], 1),
        (&["ls", "--json"], 1),
        (&["df"], 1),
        (&["stat", KEY], 2),
        (&["verify"], 2),
        (&["verify", "--json"], 2),
        (&["repair", "--json"], 1),
        (&["rebalance", "--json"], 1),
        (&["rm", "--dry-run", KEY], 1),
        (&["get", KEY], 1),
        (&["plan"], 1),
        (&["init", "--json"], 1),
    ] {
        let mut command = penstock();
        command.args(arguments).args(stores.flags());
        let output = command.stdout(full().unwrap()).stderr(Stdio::piped());
        let output = output.spawn().unwrap().wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            output.status.code(),
            Some(status),
            "{arguments:?}: {errors}"
        );
        assert!(errors.contains("No space left"), "{arguments:?}: {errors}");
    }
    for arguments in [
        &["inspect", share][..],
        &["default-config"],
        &["completions", "bash"],
    ] {
        let mut command = penstock();
        command.args(arguments).stdout(full().unwrap());
        let output = command.stderr(Stdio::piped()).spawn().unwrap();
        let status = output.wait_with_output().unwrap().status;
        assert_eq!(status.code(), Some(1), "{arguments:?}");
    }
}

#[test]
fn a_quiet_server_says_where_it_listens() {
    let stores = Stores::new(1);
    let mut command = penstock();
    command.args(["serve", "--quiet", "--cores", "1"]);
    command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    command.args(stores.flags());
    let mut server = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let line = lines.next().expect("a line").unwrap();
    assert!(line.starts_with("listening on http://"), "{line}");
    server.kill().unwrap();
    let output = server.wait_with_output().unwrap();
    let (_, log) = written(&output);
    assert!(!log.contains(" INFO "), "{log}");
}

/// Progress is shown on a terminal: a put of a stream that goes on has its rate, until it ends. The terminal is one that
/// `script` (util-linux) makes.
#[test]
fn progress_is_shown_on_a_terminal_only() {
    if Command::new("script").arg("--version").output().is_err() {
        return skip("script is not installed");
    }
    let stores = Stores::new(3);
    let program = env!("CARGO_BIN_EXE_penstock");
    let line = format!(
        "{program} put {} --data 2 --parity 1 --key k {}",
        stores.flags().join(" "),
        stores.file("pipe").display()
    );
    let run = |options: &str, shown: bool| {
        let _ = fs::remove_file(stores.file("pipe"));
        let made = Command::new("mkfifo").arg(stores.file("pipe")).status();
        assert!(made.unwrap().success());
        let mut command = Command::new("script");
        command.env("TERM", "xterm").env_remove("RUST_LOG");
        command.args(["-q", "-e", "-c", &format!("{line}{options}"), "/dev/null"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut put = command.spawn().unwrap();
        let mut pipe = File::options()
            .write(true)
            .open(stores.file("pipe"))
            .unwrap();
        pipe.write_all(b"content").unwrap();
        let mut terminal = put.stdout.take().unwrap();
        let mut text = Vec::new();
        let has_rate = |text: &[u8]| String::from_utf8_lossy(text).contains("B/s");
        // It is drawn now and then while the stream is open.
        while shown && !has_rate(&text) {
            let mut buffer = [0; 4096];
            let read = terminal.read(&mut buffer).unwrap();
            assert!(read > 0, "it ended: {}", String::from_utf8_lossy(&text));
            text.extend_from_slice(&buffer[..read]);
        }
        drop(pipe);
        terminal.read_to_end(&mut text).unwrap();
        assert!(put.wait().unwrap().success());
        assert_eq!(has_rate(&text), shown, "{}", String::from_utf8_lossy(&text));
    };
    run("", true);
    for silent in [" --quiet", " --json", " --verbose", " 2> /dev/null"] {
        run(silent, false);
    }
}
