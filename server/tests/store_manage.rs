//! Trees are put and removed, stores are made, and shares move among them: the commands, as a user runs them.

mod common;

use std::fs;

use common::cli::{expect, on, said};
use common::{Stores, penstock};

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
    expect(put(&["--key", "k", "-r", tree]), 2, &["--prefix"]);

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
    expect(on(&stores, "df", &[]), 0, &["draining"]);
    expect(
        on(&stores, "rebalance", &["--drain", "/"]),
        1,
        &["not one of the stores"],
    );
}

/// Nothing was said where enough others were there, as if a disk that is not mounted were in use.
#[test]
fn a_put_says_once_which_stores_it_passes_over() {
    let stores = Stores::new(4);
    let gone = &stores.paths[3];
    fs::remove_dir_all(gone).unwrap();
    let files = ["one", "two"].map(|name| {
        let file = stores.file(name);
        fs::write(&file, name).unwrap();
        file.to_str().unwrap().to_owned()
    });
    let options = ["--data", "2", "--parity", "1", &files[0], &files[1]];
    let (status, text) = said(on(&stores, "put", &options));
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("2 objects stored"), "{text}");
    let told = text.matches("a store is passed over").count();
    assert_eq!(told, 1, "{text}");
}
