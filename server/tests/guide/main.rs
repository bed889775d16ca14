//! The manual is true: every command of README.md and docs/guide is run, the tables of its reference are what the program
//! says, and every link leads somewhere.
//!
//! # How a chapter is run
//!
//! The blocks of a file run in order, in one shell (bash) and one empty directory, with the built `penstock` first on PATH:
//!
//! - A block marked `sh` is run as it is. It fails at the first command that does.
//! - A block marked `console` has commands after `$ ` (continued after `> `), and what they print. `…` stands for any text
//!   in a line; a line of `…` alone for any lines. Each must end with status 0.
//! - Other blocks are not run.
//!
//! A comment just before a block changes that: `<!-- test: skip WHY -->` doesn't run it, `<!-- test: status N -->` wants its
//! last command to end with N, `status any` with whatever the machine makes of it. What runs in the background is killed at the end. Ports are replaced by free ones, the same
//! for the same number in all of a file, so that files can run side by side. Where a program of [`blocks::TOOLS`] is not
//! installed, the file is run up to the first block that needs it.
//!
//! The tables are rewritten with `PENSTOCK_BLESS=1`. `PENSTOCK_PROGRAM=/usr/bin/penstock` has the commands run by another
//! program than the one that was built, such as that of a package.

#[path = "../common/mod.rs"]
mod common;

mod blocks;
mod links;
mod monitoring;
mod reference;
mod shell;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use blocks::Chapter;

/// The root of the repository.
fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().expect("a workspace").to_owned()
}

/// The directory of the manual.
fn guide() -> PathBuf {
    root().join("docs/guide")
}

/// The Markdown files of the manual, by name.
fn chapters() -> Vec<PathBuf> {
    let entries = fs::read_dir(guide()).expect("docs/guide");
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|ext| ext == "md"))
        .collect();
    files.sort();
    files
}

/// The text of a file.
#[track_caller]
fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The files whose commands are run, the end-to-end chapter apart.
fn files() -> Vec<PathBuf> {
    let mut files = chapters();
    files.retain(|path| !path.ends_with(WALKTHROUGH));
    files.push(root().join("README.md"));
    files
}

/// The chapter that goes from an empty directory to an edge.
const WALKTHROUGH: &str = "first-edge.md";

#[test]
fn every_command_works_as_printed() {
    let chapters: Vec<Chapter> = files().iter().map(|path| Chapter::read(path)).collect();
    let mut wrong = Vec::new();
    // A few at a time: each has servers of its own.
    for group in chapters.chunks(3) {
        std::thread::scope(|scope| {
            let start = |chapter| scope.spawn(move || shell::run(chapter));
            let runs: Vec<_> = group.iter().map(start).collect();
            let results = runs.into_iter().map(|run| run.join().expect("it ends"));
            wrong.extend(results.filter_map(Result::err));
        });
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// From an empty directory to an edge with six stores, TLS, a signed link, a scrub run and metrics, by the chapter's
/// commands in order.
#[test]
fn from_nothing_to_an_edge() {
    let chapter = Chapter::read(&guide().join(WALKTHROUGH));
    let commands = chapter.text();
    for what in [
        "penstock init",
        "penstock put",
        "tls_listen",
        "penstock sign",
        "penstock verify",
        "penstock repair",
        "/metrics",
    ] {
        assert!(commands.contains(what), "the chapter has no {what}");
    }
    let started = Instant::now();
    shell::run(&chapter).unwrap_or_else(|wrong| panic!("{wrong}"));
    println!("took {:.1} s", started.elapsed().as_secs_f64());
}
