//! The commands on stores, as a user runs them: their output and exit codes.

mod common;

use std::fs;
use std::io::Write;
use std::process::{Command, Output, Stdio};

use common::cli::{expect, on, said};
use common::stores::flip;
use common::{BLOCK, KEY, Noise, Stores, penstock, sha256};
use decode_kernel::share::{BLOCKS_OFFSET, Key};
use serde_json::{Value, json};

#[test]
fn a_file_is_put_and_got() {
    let stores = Stores::new(6);
    let content = Noise::new(1).bytes(700_001);
    let file = stores.file("photo.jpg");
    fs::write(&file, &content).unwrap();
    let file = file.to_str().unwrap();
    let digest = sha256(&content);

    let code = ["--data", "4", "--parity", "2"];
    // The key is the file's name; the size has a unit.
    let options = [&code[..], &["--block-size", "64KiB", file]].concat();
    expect(on(&stores, "put", &options), 0, &["photo.jpg", &digest]);
    let options = [&code[..], &["--key", "a/b.txt", file]].concat();
    expect(on(&stores, "put", &options), 0, &["a/b.txt", "text/plain"]);
    expect(
        on(&stores, "ls", &[]),
        0,
        &["rs8 4+2", "6/6 shares", "photo.jpg", "a/b.txt"],
    );
    stores.remove_store(0);
    stores.remove_store(5);
    expect(on(&stores, "ls", &[]), 0, &["4/6 shares"]);

    let got = on(&stores, "get", &["photo.jpg"]);
    assert!(
        got.status.success() && got.stdout == content,
        "to standard output"
    );
    let out = stores.file("got");
    let options = ["a/b.txt", "-o", out.to_str().unwrap()];
    expect(on(&stores, "get", &options), 0, &[&digest]);
    assert!(fs::read(&out).unwrap() == content, "to a file");

    let share = stores.share("photo.jpg", 3);
    let inspected = penstock().arg("inspect").arg(&share).output().unwrap();
    expect(
        inspected,
        0,
        &["photo.jpg", "rs8, 4 of 6", "of 0..6", &digest],
    );
    let inspected = penstock().args(["inspect", file]).output().unwrap();
    expect(inspected, 1, &["not a Penstock share"]);

    // Objects that do not exist, and options that cannot work.
    expect(on(&stores, "get", &["other"]), 1, &["no object \"other\""]);
    let options = [&code[..], &["-"]].concat();
    expect(on(&stores, "put", &options), 1, &["--key"]);
    let options = ["--data", "4", "--parity", "3", file];
    expect(
        on(&stores, "put", &options),
        1,
        &["7 shares need 7 stores", "only 4 can be written"],
    );
}

#[test]
fn options_for_grids_are_refused_beside_stores() {
    let stores = Stores::new(6);
    let words = &["cannot be used with", "--store <STORE>"];
    for command in ["get", "verify"] {
        for option in ["--cap-file=-", "--tahoe-segment-max=1MB"] {
            expect(on(&stores, command, &[option]), 2, words);
            expect(on(&stores, command, &[option, KEY]), 2, words);
        }
    }
    expect(on(&stores, "get", &["--range=0-9", KEY]), 2, words);
}

#[test]
fn verify_exits_with_the_health_of_the_objects() {
    let stores = Stores::new(6);
    stores.put(
        "other",
        &mut &b"unlike the first, this is well"[..],
        4,
        BLOCK,
    );
    stores.put_bytes(&Noise::new(2).bytes(300_000));
    let healthy = "2 healthy, 0 damaged, 0 unreadable";
    expect(on(&stores, "verify", &[]), 0, &[healthy, "0 bad leaves"]);

    // A bad leaf is reported with its share and offset.
    let leaf = BLOCKS_OFFSET + 2 * 4096;
    flip(&stores.share(KEY, 1), leaf + 100);
    stores.remove_store(4);
    let found = format!(
        "share 1 in store 1: bad leaf 2 at bytes {leaf}..{}",
        leaf + 4096
    );
    let path = stores.share(KEY, 1);
    let missing = "share 4 is missing";
    expect(
        on(&stores, "verify", &[KEY]),
        1,
        &[&found, path.to_str().unwrap(), missing, "1 damaged"],
    );
    expect(on(&stores, "verify", &["other"]), 1, &[missing]);

    // A new disk takes the place of the lost one.
    stores.init();
    // The repair is in place: the same file is whole again, and nothing else changed.
    // A store that is away is not written; a new disk in its place is, once it is a store.
    let before = fs::read(stores.share(KEY, 0)).unwrap();
    stores.init();
    expect(
        on(&stores, "repair", &[]),
        0,
        &["rebuilt share 1", "rebuilt share 4", "2 repaired"],
    );
    assert_eq!(path, stores.share(KEY, 1));
    assert!(fs::read(stores.share(KEY, 0)).unwrap() == before);
    expect(on(&stores, "verify", &[]), 0, &[healthy]);
    expect(on(&stores, "repair", &[]), 0, &["2 healthy, 0 repaired"]);

    for store in [0, 2, 5] {
        flip(&stores.share(KEY, store), leaf);
    }
    expect(
        on(&stores, "verify", &[]),
        2,
        &["1 healthy, 0 damaged, 1 unreadable", "3 bad leaves"],
    );
    expect(on(&stores, "repair", &[]), 1, &["1 not repaired"]);
    expect(on(&stores, "get", &[KEY]), 1, &[KEY]);

    // Never "damaged but readable" if nothing was read.
    expect(on(&stores, "verify", &["nothing"]), 2, &["no object"]);
    expect(on(&stores, "verify", &["../x"]), 2, &["\"..\""]);
    for store in 0..6 {
        stores.remove_store(store);
    }
    let none = "none of the stores can be read";
    expect(on(&stores, "verify", &[]), 2, &[none]);
    expect(on(&stores, "verify", &[KEY]), 2, &[none]);
    expect(on(&stores, "ls", &[]), 1, &[none]);
    expect(on(&stores, "repair", &[]), 1, &[none]);
}

/// A put from a pipe that is killed once some bytes are on the disks.
#[test]
fn a_killed_put_leaves_the_object_as_it_was() {
    let stores = Stores::new(6);
    let old = Noise::new(3).bytes(300_000);
    stores.put_bytes(&old);
    for signal in ["KILL", "TERM"] {
        let mut put: Command = penstock();
        put.arg("put").args(stores.flags());
        put.args(["--data", "4", "--parity", "2", "--key", KEY, "-"]);
        put.stdin(Stdio::piped()).stderr(Stdio::null());
        let mut put = put.spawn().unwrap();
        let mut pipe = put.stdin.take().unwrap();
        // More than one batch of put, and never the end.
        pipe.write_all(&Noise::new(4).bytes(20 << 20)).unwrap();
        let kill = format!("kill -{signal} {}", put.id());
        assert!(
            Command::new("sh")
                .args(["-c", &kill])
                .status()
                .unwrap()
                .success()
        );
        assert!(!put.wait().unwrap().success(), "{signal}");
        drop(pipe);
        let got = on(&stores, "get", &[KEY]);
        assert!(got.status.success() && got.stdout == old, "{signal}");
        expect(on(&stores, "verify", &[]), 0, &["1 healthy"]);
    }
    // The next put removes the files that the killed one left.
    let left = |store: usize| {
        fs::read_dir(stores.paths[store].join("tmp"))
            .unwrap()
            .count()
    };
    assert!((0..6).all(|store| left(store) > 0));
    stores.put_bytes(&old);
    assert!((0..6).all(|store| left(store) == 0));
}

/// `get … | head -c 100` ended with an error text, and status 1.
#[test]
fn a_reader_that_went_away_is_nothing_to_talk_about() {
    let stores = Stores::new(6);
    stores.put_bytes(&Noise::new(3).bytes(300_000));
    let share = stores.share(KEY, 0).to_str().unwrap().to_owned();
    let unread = |arguments: &[&str], stores: &[String]| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = penstock();
        command.args(arguments).args(stores).stdout(writer);
        let output = command.stderr(Stdio::piped()).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(errors, "", "{arguments:?}");
        output.status.code()
    };
    let flags = stores.flags();
    // As if SIGPIPE had ended them: what was asked for was not written.
    assert_eq!(unread(&["get", KEY], &flags), Some(141));
    assert_eq!(unread(&["ls"], &flags), Some(141));
    assert_eq!(unread(&["df"], &flags), Some(141));
    assert_eq!(unread(&["stat", KEY], &flags), Some(141));
    // The status of these is a finding.
    assert_eq!(unread(&["verify"], &flags), Some(0));
    assert_eq!(unread(&["verify", "--json"], &flags), Some(0));
    assert_eq!(unread(&["repair", "--json"], &flags), Some(0));
    assert_eq!(unread(&["inspect", &share], &[]), Some(0));
    assert_eq!(unread(&["plan"], &flags), Some(0));
}

/// The lines of JSON that a command printed.
#[track_caller]
fn json_lines(output: &Output) -> Vec<Value> {
    let text = std::str::from_utf8(&output.stdout).unwrap();
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    text.lines().map(parse).collect()
}

#[test]
fn ls_is_sorted_and_tells_what_it_could_not_see() {
    let stores = Stores::new(6);
    // A removed object is none. Keys are escaped where they are printed, and not in JSON.
    for key in ["b/2", "a", "b/1", "sp ace", "gone"] {
        stores.put(key, &mut &b"content"[..], 4, BLOCK);
    }
    penstock_store::rm::rm(
        &penstock_store::Store::directories(&stores.paths),
        &Key::new("gone").unwrap(),
    )
    .unwrap();
    let keys = |arguments: &[&str]| -> Vec<String> {
        let lines = json_lines(&on(&stores, "ls", &[&["--json"], arguments].concat()));
        let keys = lines.iter().map(|line| line["key"].as_str().unwrap());
        keys.map(str::to_owned).collect()
    };
    assert_eq!(keys(&[]), ["a", "b/1", "b/2", "sp ace"]);
    assert_eq!(keys(&["--prefix", "b/"]), ["b/1", "b/2"]);
    let line = &json_lines(&on(&stores, "ls", &["--json", "--prefix=a"]))[0];
    assert_eq!(line["size"], 7);
    assert_eq!((&line["k"], &line["n"]), (&json!(4), &json!(6)));
    assert_eq!(
        (&line["shares"], &line["health"]),
        (&json!(6), &json!("healthy"))
    );
    assert_eq!(line["sha256"], sha256(b"content"));
    assert!(line["created"].as_str().unwrap().ends_with('Z'), "{line}");
    let long = on(&stores, "ls", &["--long"]);
    expect(long, 0, &["6/6 shares", "\"sp ace\"", &sha256(b"content")]);

    for (store, health) in [(0, "degraded"), (1, "at-risk"), (2, "unreadable")] {
        stores.remove_store(store);
        // As many as are away can't have all shares of an object: none is lacking.
        expect(on(&stores, "ls", &[]), 0, &[health, "the store is missing"]);
    }
    stores.init();
    // Something that can't be listed, for root too.
    let first = stores
        .share("a", 3)
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .to_owned();
    fs::remove_dir_all(&first).unwrap();
    std::os::unix::fs::symlink(first.file_name().unwrap(), &first).unwrap();
    expect(
        on(&stores, "ls", &[]),
        1,
        &[first.to_str().unwrap(), "may lack objects"],
    );
    expect(
        on(&stores, "verify", &[]),
        2,
        &["1 directory cannot be listed"],
    );
    expect(on(&stores, "repair", &[]), 1, &["CANNOT be listed"]);
}

#[test]
fn ls_is_not_sure_of_a_list_where_most_stores_are_away() {
    let stores = Stores::new(6);
    for store in 0..3 {
        stores.remove_store(store);
    }
    expect(on(&stores, "ls", &[]), 1, &["may lack objects"]);
}

#[test]
fn df_tells_the_state_of_each_store() {
    let stores = Stores::new(4);
    stores.put(KEY, &mut &b"content"[..], 3, BLOCK);
    let lines = json_lines(&on(&stores, "df", &["--json"]));
    assert_eq!(lines.len(), 4);
    let share = fs::metadata(stores.share(KEY, 0)).unwrap().len();
    for line in &lines {
        assert_eq!(line["state"], "ok");
        assert_eq!(line["shares"]["files"], 1);
        assert_eq!(line["shares"]["bytes"], share);
        assert_eq!(line["deviation_percent"], 0.0);
        assert_eq!(line["space"]["stores_on_it"], 4);
        assert_eq!(line["id"].as_str().unwrap().len(), 32);
    }
    let lines = json_lines(&on(&stores, "df", &["--json", "--no-count"]));
    assert!(lines[0]["shares"].is_null() && lines[0]["space"].is_object());

    fs::remove_file(stores.paths[0].join("penstock-store.toml")).unwrap();
    stores.remove_store(1);
    fs::remove_dir_all(stores.paths[2].join("objects")).unwrap();
    fs::remove_file(stores.paths[2].join("penstock-store.toml")).unwrap();
    let output = on(&stores, "df", &[]);
    let words = ["no marker", "missing", "not a store", "ok  ", "deviation"];
    expect(output, 1, &words);
}

#[test]
fn stat_tells_where_each_share_is() {
    let stores = Stores::new(6);
    stores.put_bytes(b"old");
    stores.put_bytes(b"content");
    stores.remove_store(5);
    fs::write(stores.share(KEY, 4), "not a share").unwrap();
    let stat = |code: i32| -> Value {
        let output = on(&stores, "stat", &[KEY, "--json"]);
        assert_eq!(output.status.code(), Some(code));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let found = stat(0);
    assert_eq!(
        (&found["key"], &found["state"]),
        (&json!(KEY), &json!("readable"))
    );
    let object = &found["object"];
    assert_eq!(object["sha256"], sha256(b"content"));
    assert_eq!(
        (&object["health"], &object["missing"]),
        (&json!("at-risk"), &json!([4, 5]))
    );
    let files = found["files"].as_array().unwrap();
    let share = &files[2];
    assert_eq!(
        (&share["number"], &share["state"]),
        (&json!(2), &json!("share"))
    );
    assert_eq!(share["path"], stores.share(KEY, 2).to_str().unwrap());
    let rejected = &files[4];
    assert_eq!(
        (&rejected["state"], &rejected["size"]),
        (&json!("rejected"), &json!(11))
    );
    assert_eq!(found["stores_away"].as_array().unwrap().len(), 1);
    expect(
        on(&stores, "stat", &[KEY]),
        0,
        &["at-risk: 4 of 6 shares", "missing"],
    );
    fs::remove_file(stores.share(KEY, 0)).unwrap();
    assert_eq!(stat(2)["state"], "unreadable");

    expect(on(&stores, "stat", &["nothing"]), 1, &["no such object"]);
    stores.init();
    penstock_store::rm::rm(
        &penstock_store::Store::directories(&stores.paths),
        &Key::new(KEY).unwrap(),
    )
    .unwrap();
    let removed = stat(1);
    assert!(removed["object"].is_null() && removed["tombstone"].is_string());
    for store in 0..6 {
        stores.remove_store(store);
    }
    expect(on(&stores, "stat", &[KEY]), 2, &["none of the stores"]);
}

#[test]
fn verify_and_repair_report_in_json_and_as_metrics() {
    let stores = Stores::new(6);
    stores.put("sp ace", &mut &b"content"[..], 4, BLOCK);
    stores.put_bytes(&Noise::new(2).bytes(300_000));
    flip(&stores.share(KEY, 1), BLOCKS_OFFSET + 100);
    fs::remove_file(stores.share(KEY, 0)).unwrap();
    let metrics = stores.file("metrics.prom");
    let options = ["--json", "--metrics-file", metrics.to_str().unwrap()];
    let value = |name: &str| {
        let text = fs::read_to_string(&metrics).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {text}"))
            .trim()
            .parse::<f64>()
            .unwrap()
    };

    let output = on(&stores, "verify", &options);
    assert_eq!(output.status.code(), Some(1));
    let lines = json_lines(&output);
    let (summary, findings) = lines.split_last().unwrap();
    let missing = findings
        .iter()
        .find(|line| line["finding"] == "missing_share")
        .unwrap();
    assert_eq!(
        (&missing["object"], &missing["number"]),
        (&json!(KEY), &json!(0))
    );
    let bad = findings
        .iter()
        .find(|line| line["finding"] == "bad_leaves")
        .unwrap();
    assert_eq!(bad["path"], stores.share(KEY, 1).to_str().unwrap());
    assert_eq!(
        (&bad["leaves"]["start"], &bad["note"]),
        (&json!(0), &json!(false))
    );
    assert_eq!(
        (&summary["type"], &summary["health"]),
        (&json!("summary"), &json!("damaged"))
    );
    assert_eq!(
        (&summary["healthy"], &summary["damaged"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(summary["without_redundancy"], 1);
    assert_eq!(value("penstock_verify_objects{health=\"damaged\"}"), 1.0);
    assert_eq!(value("penstock_verify_objects_without_redundancy"), 1.0);
    assert_eq!(value("penstock_verify_bad_leaves"), 1.0);
    assert_eq!(value("penstock_verify_exit_status"), 1.0);
    assert!(value("penstock_verify_last_run_timestamp_seconds") > 1.7e9);

    let output = on(&stores, "repair", &options);
    assert_eq!(output.status.code(), Some(0));
    let lines = json_lines(&output);
    assert_eq!(
        (&lines[0]["action"], &lines[0]["object"]),
        (&json!("share"), &json!(KEY))
    );
    let summary = lines.last().unwrap();
    assert_eq!(
        (&summary["complete"], &summary["shares"]),
        (&json!(true), &json!(2))
    );
    assert_eq!(value("penstock_repair_shares_rebuilt"), 2.0);

    // A run that can't do anything leaves a file that says so.
    for store in 0..6 {
        stores.remove_store(store);
    }
    assert_eq!(on(&stores, "verify", &options).status.code(), Some(2));
    assert_eq!(value("penstock_verify_exit_status"), 2.0);
}

/// With six of twelve stores missing or empty, verify exited with 0.
#[test]
fn verify_is_not_content_while_a_store_is_away() {
    let stores = Stores::new(6);
    let text = b"three shares in the first three stores";
    let put = penstock_store::put::PutOptions {
        stores: penstock_store::Store::directories(&stores.paths[..3]),
        data: 2,
        parity: 1,
        key: Key::new(KEY).unwrap(),
        block_size: BLOCK,
        code: None,
        content_type: None,
        expires: None,
        fields: Default::default(),
        size_hint: None,
        min_shares: None,
        no_clobber: false,
        placement: penstock_store::put::Placement::Listed,
    };
    penstock_store::put::put(&mut &text[..], &put, &penstock_store::Progress::hidden()).unwrap();
    expect(on(&stores, "verify", &[]), 0, &["1 healthy"]);
    stores.remove_store(5);
    let words = ["1 healthy", "1 store is away", "the store is missing"];
    expect(on(&stores, "verify", &[]), 1, &words);
    expect(on(&stores, "verify", &[KEY]), 1, &words);
    fs::create_dir(&stores.paths[5]).unwrap();
    expect(on(&stores, "verify", &[]), 1, &["not a store"]);
}

#[test]
fn strays_in_a_store_are_noted_and_harmless() {
    let stores = Stores::new(6);
    stores.put_bytes(b"content");
    let first = stores
        .share(KEY, 0)
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .to_owned();
    fs::write(first.join(".DS_Store"), "").unwrap();
    fs::create_dir(stores.paths[1].join("objects/lost+found")).unwrap();
    fs::create_dir(first.join("unknown")).unwrap();
    expect(
        on(&stores, "verify", &[]),
        0,
        &[".DS_Store", "lost+found", "unknown", "note: ", "1 healthy"],
    );
    expect(on(&stores, "repair", &[]), 0, &["1 healthy"]);
    expect(on(&stores, "ls", &[]), 0, &[KEY]);
    expect(on(&stores, "df", &[]), 0, &[]);
}

#[test]
fn a_walk_goes_on_where_it_was() {
    let stores = Stores::new(6);
    for i in 0..5 {
        stores.put(&format!("object {i}"), &mut &b"content"[..], 4, BLOCK);
    }
    let cursor = stores.file("cursor");
    let cursor = cursor.to_str().unwrap();
    for command in ["verify", "repair"] {
        // However small the budget, each run gets on by one object.
        for _ in 0..7 {
            let options = ["--cursor", cursor, "--max-bytes", "1", "--rate", "1GiB/s"];
            expect(
                on(&stores, command, &options),
                0,
                &["1 healthy", "left for the next run"],
            );
        }
        let options = ["--cursor", cursor, "--for", "1h"];
        let output = on(&stores, command, &options);
        let (code, text) = said(output);
        assert!(code == Some(0) && text.contains("5 healthy"), "{text}");
        assert!(!text.contains("next run"), "{text}");
    }
    expect(
        on(&stores, "verify", &["--cursor", cursor, "object 1"]),
        2,
        &["cannot be used with"],
    );
    expect(on(&stores, "verify", &["--rate", "fast"]), 2, &["50MiB/s"]);
    // Not a cursor: it stays as it is.
    let file = stores.file("precious");
    fs::write(&file, "precious").unwrap();
    let options = ["--cursor", file.to_str().unwrap()];
    expect(on(&stores, "repair", &options), 1, &["not a cursor"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
}

/// With `ulimit -n 20`, `get` and `verify` warned of dozens of lost shares, and ended with an error of 20 KB.
#[test]
fn shares_that_could_not_be_opened_are_not_lost() {
    let stores = Stores::new(24);
    let content = Noise::new(5).bytes(100_000);
    stores.put(KEY, &mut &content[..], 12, BLOCK);
    let before = fs::read(stores.share(KEY, 23)).unwrap();
    for (command, code) in [
        ("get", 1),
        ("verify", 2),
        ("repair", 1),
        ("ls", 1),
        ("stat", 2),
    ] {
        let mut limited = Command::new("sh");
        limited.args(["-c", "ulimit -n 20; exec \"$0\" \"$@\""]);
        limited.arg(env!("CARGO_BIN_EXE_penstock")).arg(command);
        limited.args(stores.flags());
        if matches!(command, "get" | "stat") {
            limited.arg(KEY);
        }
        let (exit, text) = said(limited.output().unwrap());
        assert_eq!(exit, Some(code), "{command}: {text}");
        assert!(text.contains("too many open files"), "{command}: {text}");
        assert!(text.contains("raise `ulimit -n`"), "{command}: {text}");
        assert!(text.len() < 1000, "{command}: {text}");
    }
    // Repair wrote nothing.
    assert!(fs::read(stores.share(KEY, 23)).unwrap() == before);
    expect(on(&stores, "verify", &[]), 0, &["1 healthy"]);
}

#[test]
fn plan_doctor_and_inspect_speak_json() {
    let stores = Stores::new(6);
    stores.put_bytes(b"content");
    let document = |output: Output| -> Value { serde_json::from_slice(&output.stdout).unwrap() };
    let plan = document(on(&stores, "plan", &["--json"]));
    assert!(plan["plan"]["declared"]["memory_bytes"].as_u64().unwrap() > 0);
    assert!(plan["warnings"].is_array());
    let doctor = document(on(&stores, "doctor", &["--json"]));
    let checks = doctor["checks"].as_array().unwrap();
    let ok = checks.iter().all(|check| check["ok"] == true);
    assert_eq!(doctor["ok"], ok);
    let is_store = |check: &&Value| check["check"] == "store";
    assert_eq!(checks.iter().filter(is_store).count(), 6);
    // What costs most comes first, with the line that fixes it: here that all stores lie in one file system.
    let order = ["stops", "endangers_data", "slows", "note", "good"];
    let level = |check: &Value| {
        order
            .iter()
            .position(|level| check["level"] == *level)
            .unwrap()
    };
    assert!(checks.is_sorted_by_key(level), "{checks:#?}");
    let shared = checks.iter().find(|check| check["check"] == "shared_disk");
    let fix = shared.unwrap()["fix"].as_str().unwrap();
    assert!(fix.contains("penstock init --store"), "{fix}");
    stores.remove_store(4);
    let lines = on(&stores, "doctor", &[]);
    assert_eq!(lines.status.code(), Some(1));
    let lines = String::from_utf8(lines.stdout).unwrap();
    assert!(lines.starts_with("amiss "), "{lines}");
    assert!(lines.contains("the store is missing"), "{lines}");
    assert!(lines.contains("\n        fix: mount "), "{lines}");
    let mut inspect = penstock();
    inspect
        .args(["inspect", "--leaves", "--json"])
        .arg(stores.share(KEY, 2));
    let found = document(inspect.output().unwrap());
    assert_eq!((&found["key"], &found["number"]), (&json!(KEY), &json!(2)));
    assert_eq!(
        (&found["good"], &found["bad_leaves"]),
        (&json!(true), &json!(0))
    );
    assert_eq!(found["sha256"], sha256(b"content"));
}

#[test]
fn help_tells_the_exit_statuses() {
    for command in [
        "demo", "get", "ls", "df", "stat", "verify", "repair", "inspect", "serve", "plan", "doctor",
    ] {
        let output = penstock().args([command, "--help"]).output().unwrap();
        expect(output, 0, &["Exit status: 0 ", "if the command line"]);
    }
}
