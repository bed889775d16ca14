//! Links lead somewhere, and what the text names exists.

use std::path::{Path, PathBuf};

use super::monitoring::metrics_in;
use super::reference::{all_options, all_samples};
use super::{chapters, guide, read, root};

/// Options of other programs that the text names.
const OF_OTHERS: [&str; 13] = [
    "--release",
    "--path",
    "--workspace",
    "--test",
    "--locked",
    "--bin",
    "--only",
    "--shape",
    "--aws-sigv4",
    "--endpoint-url",
    "--delete",
    "--kill-whom",
    "--version",
];

/// The Markdown files that a reader comes by.
fn documents() -> Vec<PathBuf> {
    let mut documents = chapters();
    for name in [
        "README.md",
        "SECURITY.md",
        "CONTRIBUTING.md",
        "docs/monitoring/README.md",
    ] {
        documents.push(root().join(name));
    }
    documents
}

/// A text without its fenced blocks.
fn prose(text: &str) -> String {
    let mut inside = false;
    let lines = text.lines().filter(|line| {
        let fence = line.starts_with("```");
        inside ^= fence;
        !inside && !fence
    });
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// The anchor of a heading, as GitHub and mdBook make it.
fn anchor(heading: &str) -> String {
    let heading = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = heading
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// The targets of a text's links.
fn targets(text: &str) -> impl Iterator<Item = &str> {
    let starts = text.match_indices("](").map(|(at, _)| at + 2);
    starts.filter_map(|at| text[at..].split([')', ' ', '\n']).next())
}

#[test]
fn links_lead_somewhere() {
    for document in documents() {
        let text = prose(&read(&document));
        let dir = document.parent().unwrap();
        for target in targets(&text) {
            if target.starts_with("http://") || target.starts_with("https://") {
                continue;
            }
            let (path, part) = target.split_once('#').unwrap_or((target, ""));
            let file = if path.is_empty() {
                document.clone()
            } else {
                dir.join(path)
            };
            let name = document.display();
            assert!(
                file.exists(),
                "{name} links to {target}, which is not there"
            );
            if !part.is_empty() {
                let text = read(&file);
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                assert!(
                    headings.any(|line| anchor(line) == part),
                    "{name} links to {target}"
                );
            }
        }
    }
}

#[test]
fn the_summary_has_every_chapter() {
    let summary = read(&guide().join("SUMMARY.md"));
    let listed: Vec<&str> = targets(&summary).collect();
    let names = chapters();
    let names = names.iter().filter_map(|path| path.file_name()?.to_str());
    for name in names.filter(|name| *name != "SUMMARY.md") {
        assert!(listed.contains(&name), "{name} is not in SUMMARY.md");
    }
}

/// The pieces of a text between backticks.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn options_and_metrics_in_the_text_exist() {
    let is_ours = |document: &&PathBuf| !document.ends_with("CONTRIBUTING.md");
    for document in documents().iter().filter(is_ours) {
        let text = prose(&read(document));
        for piece in code(&text) {
            for word in piece.split([' ', '=', '|', '[', ',']) {
                let is_option = word.starts_with("--") && word.len() > 2;
                let known = all_options().contains(word) || OF_OTHERS.contains(&word);
                assert!(
                    known || !is_option,
                    "{}: no command has {word}",
                    document.display()
                );
            }
        }
        for name in metrics_in(&text) {
            // A counter may be named without its suffix where a table says that it is one.
            let known =
                all_samples().contains(name) || all_samples().contains(&format!("{name}_bucket"));
            assert!(known, "{}: there is no metric {name}", document.display());
        }
    }
}

/// The sources' text, with strings that go over lines put together.
fn sources() -> String {
    let mut text = String::new();
    for dir in [
        "server/src",
        "tools/store/src",
        "tools/remote/src",
        "decode-kernel/src",
    ] {
        for entry in walkdir::WalkDir::new(root().join(dir)) {
            let entry = entry.unwrap();
            if entry.path().extension().is_some_and(|ext| ext == "rs") {
                text.push_str(&read(entry.path()));
            }
        }
    }
    let mut lines = text.split("\\\n");
    let mut joined = lines.next().unwrap_or_default().to_owned();
    lines.for_each(|line| joined.push_str(line.trim_start()));
    joined
}

/// Each message in the tables of the chapter on messages is one of the program: what stands between two `…` is in the
/// sources.
#[test]
fn messages_are_those_of_the_program() {
    let chapter = read(&guide().join("troubleshooting.md"));
    let sources = sources();
    let (mut found, mut unknown) = (0, Vec::new());
    for row in chapter.lines().filter(|line| line.starts_with("| ")) {
        let first = row[1..].split('|').next().unwrap_or_default();
        for message in code(first).filter(|piece| piece.contains(' ')) {
            let parts = message.split('…').map(str::trim);
            // Shorter ones are everywhere.
            for part in parts.filter(|part| part.len() >= 8) {
                found += 1;
                if !sources.contains(part) {
                    unknown.push(part);
                }
            }
        }
    }
    assert!(unknown.is_empty(), "no message has {unknown:#?}");
    assert!(found > 40, "{found} parts of messages");
}

/// A directory that is said to be there is there: mdBook would fail otherwise.
#[test]
fn the_book_is_where_its_configuration_says() {
    let book: toml::Table = toml::from_str(&read(&guide().join("book.toml"))).unwrap();
    let source = book["book"]["src"].as_str().unwrap();
    assert!(
        Path::new(&guide())
            .join(source)
            .join("SUMMARY.md")
            .is_file()
    );
}
