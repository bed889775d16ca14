//! The order of imports: the rooms of `server/src` each import only rooms below them, so that data flows one way; and no
//! files of a crate form a circle.

mod circles;
mod source;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// From top to bottom. `cli` belongs to the program, the others to the library.
const ROOMS: [&str; 17] = [
    "cli",
    "control",
    "connection",
    "http",
    "s3",
    "body",
    "tahoe",
    "engine",
    "objects",
    "stores",
    "remote",
    "config",
    "io",
    "tls",
    "memory",
    "stats",
    "units",
];

fn rank(room: &str) -> usize {
    ROOMS
        .iter()
        .position(|&other| other == room)
        .unwrap_or_else(|| panic!("`{room}` is no room: give it a place in ROOMS"))
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The rooms that a file's code names: what follows `crate::` (in the program `penstock::`), comments left out.
fn named(text: &str) -> BTreeSet<String> {
    let code = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let mut rooms = BTreeSet::new();
    for line in code {
        for prefix in ["crate::", "penstock::"] {
            for (at, _) in line.match_indices(prefix) {
                // Not the end of another name, as in `tracing_crate::`.
                if line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
                    continue;
                }
                let rest = &line[at + prefix.len()..];
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
                let room = &rest[..end.unwrap_or(rest.len())];
                assert!(
                    !room.is_empty(),
                    "one room in a `use`, so that this test sees it: {line}"
                );
                rooms.insert(room.to_owned());
            }
        }
    }
    rooms
}

#[test]
fn a_room_imports_only_rooms_below_it() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    assert!(files.len() > 60, "only {} files", files.len());
    let mut wrong = Vec::new();
    let mut arrows = 0;
    for file in files {
        let inside = file.strip_prefix(&src).unwrap();
        let first = inside.iter().next().unwrap().to_str().unwrap();
        let room = match first.trim_end_matches(".rs") {
            // The roots name everything.
            "lib" | "main" => continue,
            room => room,
        };
        for other in named(&fs::read_to_string(&file).unwrap()) {
            arrows += usize::from(other != room);
            if rank(&other) < rank(room) {
                wrong.push(format!(
                    "{} imports {other}, which is above it",
                    inside.display()
                ));
            }
        }
    }
    assert!(arrows > 50, "only {arrows} imports between rooms were seen");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// It lacked three of them, which came later than the list.
#[test]
fn contributors_are_told_of_all_rooms() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = fs::read_to_string(root.join("CONTRIBUTING.md")).unwrap();
    let words: Vec<&str> = text.split_whitespace().collect();
    let list = ROOMS.map(|room| format!("`{room}`")).join(", ");
    assert!(
        words.join(" ").contains(&list),
        "CONTRIBUTING.md does not have this list: {list}"
    );
}

#[test]
fn what_a_file_names_is_seen() {
    let text =
        "use crate::io::Io;\n// crate::control\nlet x = crate::body::turn(y, crate::stats::Cell);";
    let rooms = named(text);
    assert_eq!(Vec::from_iter(rooms), ["body", "io", "stats"]);
}
