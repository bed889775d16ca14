//! The commands on stores, as a user runs them: their output and exit codes.

mod common;

use std::fs;
use std::io::Write;
use std::process::{Command, Output, Stdio};

use common::stores::flip;
use common::{BLOCK, KEY, Noise, Stores, penstock, sha256};
use decode_kernel::share::BLOCKS_OFFSET;

/// Runs a command on these stores.
fn on(stores: &Stores, command: &str, arguments: &[&str]) -> Output {
    let mut penstock = penstock();
    penstock
        .arg(command)
        .args(stores.flags())
        .args(arguments)
        .output()
        .unwrap()
}

/// Its exit code and all of its output.
fn said(output: Output) -> (Option<i32>, String) {
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[track_caller]
fn expect(output: Output, code: i32, words: &[&str]) {
    let (exit, text) = said(output);
    assert_eq!(exit, Some(code), "{text}");
    for word in words {
        assert!(text.contains(word), "no {word:?} in {text}");
    }
}

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
        &["photo.jpg", "rs8, 4 of 6", "share         3", &digest],
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
        &["7 shares need 7 stores", "6 given"],
    );
}

#[test]
fn options_for_grids_are_refused_beside_stores() {
    let stores = Stores::new(6);
    let words = &["cannot be used with", "--store <DIR>"];
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

    // The repair is in place: the same file is whole again, and nothing else changed.
    let before = fs::read(stores.share(KEY, 0)).unwrap();
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
    // The status of these is a finding.
    assert_eq!(unread(&["verify"], &flags), Some(0));
    assert_eq!(unread(&["inspect", &share], &[]), Some(0));
    assert_eq!(unread(&["plan"], &flags), Some(0));
}

#[test]
fn help_tells_the_exit_statuses() {
    for command in ["demo", "get", "ls", "inspect", "serve", "plan", "doctor"] {
        let output = penstock().args([command, "--help"]).output().unwrap();
        expect(output, 0, &["Exit status: 0 ", "; 2 if the command line"]);
    }
}
