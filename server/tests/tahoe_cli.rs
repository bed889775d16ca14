//! `penstock get`, `verify` and `inspect` of Tahoe-LAFS files, as a user runs them.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use penstock_store::tahoe::write::{Upload, content, on_nodes};

struct Grid {
    root: tempfile::TempDir,
    nodes: Vec<PathBuf>,
    cap: String,
    bytes: Vec<u8>,
    shares: Vec<PathBuf>,
}

/// 10,000 bytes, 3 of 5, on three nodes.
fn grid() -> Grid {
    let root = tempfile::tempdir().unwrap();
    let nodes: Vec<PathBuf> = (0..3)
        .map(|node| root.path().join(node.to_string()))
        .collect();
    let bytes: Vec<u8> = (0..10_000u32).map(|i| (i * i / 7) as u8).collect();
    let upload = Upload {
        k: 3,
        n: 5,
        segment_bytes: 3000,
        ..Upload::default()
    };
    let cap = upload
        .write(10_000, &content(&bytes), &on_nodes(&nodes))
        .unwrap();
    let place = on_nodes(&nodes);
    let shares = (0..5)
        .map(|number| place(cap.storage_index(), number).unwrap())
        .collect();
    drop(place);
    Grid {
        root,
        nodes,
        cap: cap.expose(),
        bytes,
        shares,
    }
}

/// Runs `penstock` with `input` as its standard input. Its output must not have the cap.
fn penstock(grid: &Grid, command: &str, arguments: &[&str], input: &str) -> Output {
    let mut run = Command::new(env!("CARGO_BIN_EXE_penstock"));
    run.arg(command);
    if command != "inspect" {
        for node in &grid.nodes {
            run.arg("--tahoe-node").arg(node);
        }
    }
    run.args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = run.spawn().unwrap();
    // A process that doesn't read its input may end before all of it is written.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let key = grid.cap.split(':').nth(2).unwrap();
    for shown in [&output.stdout, &output.stderr] {
        assert!(!String::from_utf8_lossy(shown).contains(key), "{output:?}");
    }
    output
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn get_by_all_ways_to_give_a_cap() {
    let grid = grid();
    let whole = penstock(&grid, "get", &[&grid.cap], "");
    assert!(
        whole.status.success() && whole.stdout == grid.bytes,
        "{}",
        stderr(&whole)
    );
    let piped = penstock(
        &grid,
        "get",
        &["--cap-file", "-"],
        &format!("{}\n", grid.cap),
    );
    assert!(
        piped.status.success() && piped.stdout == grid.bytes,
        "{}",
        stderr(&piped)
    );
    let file = grid.root.path().join("cap");
    std::fs::write(&file, &grid.cap).unwrap();
    let out = grid.root.path().join("out");
    let arguments = [
        "--cap-file",
        file.to_str().unwrap(),
        "-o",
        out.to_str().unwrap(),
    ];
    let filed = penstock(&grid, "get", &arguments, "");
    assert!(filed.status.success(), "{}", stderr(&filed));
    assert_eq!(std::fs::read(out).unwrap(), grid.bytes);
    assert!(stderr(&filed).contains("10000 bytes"), "{}", stderr(&filed));
    let range = penstock(&grid, "get", &[&grid.cap, "--range", "2999-6000"], "");
    assert_eq!(range.stdout, grid.bytes[2999..=6000]);
    let literal = penstock(&grid, "get", &["URI:LIT:mfrgg"], "");
    assert_eq!(literal.stdout, b"abc");
}

#[test]
fn get_reports_errors() {
    let grid = grid();
    for (arguments, message) in [
        (
            &[&*format!("{}0:1", grid.cap)][..],
            "malformed CHK cap: 6 fields",
        ),
        (
            &["URI:DIR2-CHK:x:y:1:1:1"],
            "supported are read-caps of immutable files",
        ),
        (&["a/key"], "not a cap"),
        (&[], "required"),
        (&[&grid.cap, "--cap-file", "-"], "two caps"),
        (
            &[&grid.cap, "--range", "9999-10000"],
            "are not all in a file of 10000 bytes",
        ),
        (&[&grid.cap, "--range", "5-4"], "is not FIRST-LAST"),
        (
            &[&grid.cap, "--tahoe-segment-max", "2KB"],
            "longer than the limit of 2000",
        ),
        (&[&grid.cap, "--store", "x"], "cannot be used with"),
    ] {
        let output = penstock(&grid, "get", arguments, "");
        assert!(!output.status.success() && output.stdout.is_empty());
        assert!(
            stderr(&output).contains(message),
            "{arguments:?}: {}",
            stderr(&output)
        );
    }
    for share in &grid.shares[..3] {
        std::fs::write(share, "junk").unwrap();
    }
    let output = penstock(&grid, "get", &[&grid.cap], "");
    assert!(!output.status.success() && output.stdout.is_empty());
    assert!(
        stderr(&output).contains("2 good shares, 3 are needed"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn verify_exits_with_the_health_of_the_file() {
    let grid = grid();
    let verify = || penstock(&grid, "verify", &[&grid.cap], "");
    assert_eq!(verify().status.code(), Some(0));
    std::fs::remove_file(&grid.shares[0]).unwrap();
    let damaged = verify();
    assert_eq!(damaged.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&damaged.stdout).contains("share 0 is missing"));
    std::fs::remove_file(&grid.shares[1]).unwrap();
    std::fs::remove_file(&grid.shares[2]).unwrap();
    assert_eq!(verify().status.code(), Some(2));
}

#[test]
fn inspect_knows_both_formats() {
    let grid = grid();
    let share = grid.shares[4].to_str().unwrap();
    let output = penstock(&grid, "inspect", &["--leaves", share], "");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("Tahoe-LAFS immutable share"),
        "{text}"
    );
    assert!(text.contains("blocks        all good"), "{text}");
    let junk = grid.root.path().join("junk");
    std::fs::write(&junk, [0; 9000]).unwrap();
    let output = penstock(&grid, "inspect", &[junk.to_str().unwrap()], "");
    assert!(
        stderr(&output).contains("not a Penstock share"),
        "{}",
        stderr(&output)
    );
}
