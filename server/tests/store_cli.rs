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

#[test]
fn a_tree_is_put_and_removed() {
    let stores = Stores::new(4);
    let tree = stores.file("tree");
    fs::create_dir_all(tree.join("sub")).unwrap();
    fs::write(tree.join("a.txt"), "a").unwrap();
    fs::write(tree.join("sub/b.txt"), "b").unwrap();
    let tree = tree.to_str().unwrap();
    let code = ["--data", "2", "--parity", "1"];
    let put = |options: &[&str]| on(&stores, "put", &[&code[..], options].concat());
    expect(put(&[tree]), 1, &["is a directory: -r"]);
    expect(put(&["-r", tree]), 0, &["tree/a.txt", "tree/sub/b.txt"]);
    let twice = put(&["-r", "--prefix", "x/", "--no-clobber", tree]);
    expect(twice, 0, &["x/tree/a.txt"]);
    // What is there already is told, and the others are put.
    fs::write(stores.file("tree/c.txt"), "c").unwrap();
    let options = ["-r", "--no-clobber", tree];
    expect(put(&options), 1, &["put tree/c.txt", "is there already"]);
    expect(put(&["--key", "k", "-r", tree]), 1, &["--prefix"]);

    let rm = |options: &[&str]| on(&stores, "rm", options);
    let dry = rm(&["--prefix", "tree/", "--dry-run"]);
    expect(dry, 0, &["would remove tree/c.txt"]);
    expect(
        rm(&["--prefix", "tree/", "x/tree/a.txt"]),
        0,
        &["removed tree/c.txt", "removed x/tree/a.txt"],
    );
    expect(rm(&["tree/a.txt"]), 1, &["no object"]);
    expect(rm(&[]), 2, &["--prefix"]);
    let listed = said(on(&stores, "ls", &[]));
    assert_eq!(listed.1.lines().count(), 1, "{listed:?}");
    let server = common::Server::start(&stores, common::Backend::Epoll, &[]);
    assert_eq!(
        common::get(server.objects, "/tree/a.txt", &[]).head.status,
        404
    );
    assert_eq!(
        common::get(server.objects, "/x/tree/sub/b.txt", &[]).body,
        b"b"
    );
}

#[test]
fn stores_are_made_and_not_taken_for_others() {
    let stores = Stores::new(2);
    let disk = stores.file("disk");
    let put = |stores: &[&str]| {
        let stores = stores.iter().flat_map(|store| ["--store", store]);
        let options = [
            "put",
            "--data",
            "1",
            "--parity",
            "1",
            "--key",
            "k",
            "/dev/null",
        ];
        penstock().args(options).args(stores).output().unwrap()
    };
    let (a, disk) = (stores.paths[0].to_str().unwrap(), disk.to_str().unwrap());
    expect(put(&[a, disk]), 1, &["missing"]);
    fs::create_dir(disk).unwrap();
    let advice = format!("not mounted: `penstock init --store {disk}`");
    expect(put(&[a, disk]), 1, &[&advice]);
    assert_eq!(fs::read_dir(disk).unwrap().count(), 0);
    let init = |stores: &[&str], join: bool| {
        let stores = stores.iter().flat_map(|store| ["--store", store]);
        let join = join.then_some("--join");
        penstock()
            .arg("init")
            .args(stores)
            .args(join)
            .output()
            .unwrap()
    };
    // Alone it is of a set of its own.
    expect(init(&[disk], false), 0, &["of set"]);
    expect(put(&[a, disk]), 1, &["different sets", "--join"]);
    expect(init(&[a, disk], false), 1, &["different sets"]);
    expect(
        init(&[a, &format!("{disk},domain=shelf2")], true),
        0,
        &["domain shelf2"],
    );
    expect(put(&[a, disk]), 0, &["put k"]);
    for twice in [a, &format!("{a}/."), disk] {
        let copied = disk == twice;
        if copied {
            let marker = "penstock-store.toml";
            fs::copy(stores.paths[0].join(marker), format!("{disk}/{marker}")).unwrap();
        }
        let words = if copied {
            "have the same id"
        } else {
            "the same directory"
        };
        expect(put(&[a, twice]), 1, &[words]);
        let of_both = |command: &str| {
            let mut penstock = penstock();
            penstock.args([command, "--store", a, "--store", twice]);
            penstock.output().unwrap()
        };
        for command in ["ls", "verify", "repair", "rebalance", "serve"] {
            let (code, text) = said(of_both(command));
            assert!(code != Some(0) && text.contains(words), "{command}: {text}");
        }
    }
    expect(init(&["/"], false), 1, &["empty directory"]);
}

#[test]
fn shares_are_moved_to_a_new_store() {
    let stores = Stores::new(5);
    for object in 0..20 {
        let key = format!("{object}");
        let options = ["--data", "1", "--parity", "1", "--key", &key, "/dev/null"];
        expect(on(&stores, "put", &options), 0, &["put"]);
    }
    let four = stores.paths[4].to_str().unwrap();
    expect(
        on(&stores, "rebalance", &["--drain", four, "--dry-run"]),
        0,
        &["a run would"],
    );
    expect(
        on(&stores, "rebalance", &["--drain", four, "--rate", "100MiB"]),
        0,
        &["20 objects", "0 not moved"],
    );
    expect(on(&stores, "verify", &[]), 0, &["20 healthy"]);
    expect(
        on(&stores, "rebalance", &["--drain", "/"]),
        1,
        &["not one of the stores"],
    );
}
