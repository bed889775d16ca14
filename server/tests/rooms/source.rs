//! What one file of Rust says about others: its modules, its imports and the paths in its code. Tests are left out.
//!
//! A plain reader of tokens, no parser of the language: it knows comments, literals, `mod`, `use` and paths.

use std::collections::BTreeSet;

/// One name that a `use` brings.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Import {
    /// What it stands for.
    pub(super) path: Vec<String>,
    /// Its name in the file.
    pub(super) name: String,
    /// Whether others get it from this file: `pub use`, of whatever reach.
    pub(super) is_passed_on: bool,
}

/// What a file says.
#[derive(Debug, Default)]
pub(super) struct Source {
    /// The modules that it declares, each in a file of its own.
    pub(super) modules: Vec<String>,
    pub(super) imports: Vec<Import>,
    /// Paths in its code, of two names or more.
    pub(super) paths: Vec<Vec<String>>,
    /// Names in its code, beside those in a `use` and those behind a dot.
    pub(super) names: BTreeSet<String>,
}

impl Source {
    /// Reads a file. Macros are read as they stand.
    pub(super) fn read(text: &str) -> Source {
        let tokens = without_tests(&tokens(text));
        let mut source = Source::default();
        let mut at = 0;
        while at < tokens.len() {
            let before = at.checked_sub(1).map_or("", |before| &tokens[before]);
            match &*tokens[at] {
                "mod" if is_name(token(&tokens, at + 1)) => {
                    let end = token(&tokens, at + 2);
                    assert_eq!(end, ";", "`mod {}` is no file", tokens[at + 1]);
                    source.modules.push(tokens[at + 1].clone());
                    at += 3;
                }
                // Not the one of `impl Trait + use<'a>`.
                "use" if token(&tokens, at + 1) != "<" => {
                    let is_passed_on = is_public(&tokens[..at]);
                    let mut found = Vec::new();
                    at = import(&tokens, at + 1, &[], &mut found);
                    let imports = found.into_iter().map(|(path, name)| Import {
                        path,
                        name,
                        is_passed_on,
                    });
                    source.imports.extend(imports);
                }
                name if is_name(name) && before != "." => {
                    let mut path = vec![name.to_owned()];
                    at += 1;
                    while token(&tokens, at) == "::" && is_name(token(&tokens, at + 1)) {
                        path.push(tokens[at + 1].clone());
                        at += 2;
                    }
                    // What follows `::` goes on from a type, as in `<T as Trait>::NAME`.
                    if before != "::" {
                        source.names.insert(path[0].clone());
                        if path.len() > 1 {
                            source.paths.push(path);
                        }
                    }
                }
                _ => at += 1,
            }
        }
        source
    }
}

fn token(tokens: &[String], at: usize) -> &str {
    tokens.get(at).map_or("", String::as_str)
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Whether what stands before an item ends with `pub` or `pub(…)`.
fn is_public(before: &[String]) -> bool {
    match before.last().map(String::as_str) {
        Some("pub") => true,
        Some(")") => {
            let open = before.iter().rposition(|token| token == "(");
            open.is_some_and(|open| open > 0 && before[open - 1] == "pub")
        }
        _ => false,
    }
}

/// Reads one tree of a `use`, and gives paths with their names. Returns where it ends.
fn import(
    tokens: &[String],
    mut at: usize,
    before: &[String],
    found: &mut Vec<(Vec<String>, String)>,
) -> usize {
    let mut path = before.to_vec();
    loop {
        match token(tokens, at) {
            "{" => {
                at += 1;
                while !matches!(token(tokens, at), "}" | "") {
                    at = import(tokens, at, &path, found);
                    at += usize::from(token(tokens, at) == ",");
                }
                return at + 1;
            }
            "::" => at += 1,
            "as" => {
                found.push((path, token(tokens, at + 1).to_owned()));
                return at + 2;
            }
            // In a group it is what the group is of.
            "self" if !path.is_empty() => at += 1,
            name if is_name(name) || name == "*" => {
                path.push(name.to_owned());
                at += 1;
            }
            _ => {
                let name = path.last().cloned().unwrap_or_default();
                found.push((path, name));
                return at;
            }
        }
    }
}

/// Names, numbers, `::`, and single signs. Comments, lifetimes and what literals hold are left out.
fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let char_at = |at: usize| chars.get(at).copied().unwrap_or('\0');
    let is_of_word = |c: char| c.is_alphanumeric() || c == '_';
    let word_end = |mut at: usize| {
        while is_of_word(char_at(at)) {
            at += 1;
        }
        at
    };
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        match (chars[at], char_at(at + 1)) {
            ('/', '/') => {
                while !matches!(char_at(at), '\n' | '\0') {
                    at += 1;
                }
            }
            ('/', '*') => {
                let mut depth = 0;
                loop {
                    match (char_at(at), char_at(at + 1)) {
                        ('/', '*') => depth += 1,
                        ('*', '/') => depth -= 1,
                        ('\0', _) => break,
                        _ => {
                            at += 1;
                            continue;
                        }
                    }
                    at += 2;
                    if depth == 0 {
                        break;
                    }
                }
            }
            ('"', _) => at = literal_end(&chars, at + 1, '"'),
            ('\'', '\\') => at = literal_end(&chars, at + 1, '\''),
            ('\'', _) if char_at(at + 2) == '\'' => at += 3,
            ('\'', _) => at = word_end(at + 1),
            (':', ':') => {
                tokens.push("::".to_owned());
                at += 2;
            }
            (c, _) if is_of_word(c) => {
                let end = word_end(at);
                let word: String = chars[at..end].iter().collect();
                let hashes = (end..).take_while(|&at| char_at(at) == '#').count();
                if matches!(&*word, "r" | "br" | "cr") && char_at(end + hashes) == '"' {
                    at = end + hashes + 1;
                    let is_end = |at: usize| {
                        char_at(at) == '"' && (1..=hashes).all(|i| char_at(at + i) == '#')
                    };
                    while at < chars.len() && !is_end(at) {
                        at += 1;
                    }
                    at += 1 + hashes;
                } else {
                    tokens.push(word);
                    at = end;
                }
            }
            (c, _) => {
                if !c.is_whitespace() {
                    tokens.push(c.to_string());
                }
                at += 1;
            }
        }
    }
    tokens
}

/// Behind the sign that ends a literal.
fn literal_end(chars: &[char], mut at: usize, end: char) -> usize {
    while at < chars.len() && chars[at] != end {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// Without the items that only tests have.
fn without_tests(tokens: &[String]) -> Vec<String> {
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if !is_test_only(&tokens[at..]) {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        // The item and what else is said of it: up to its `;`, or to the end of its block.
        let mut depth = 0;
        while at < tokens.len() {
            let sign = &*tokens[at];
            at += 1;
            match sign {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth -= 1,
                _ => {}
            }
            if depth == 0 && matches!(sign, ";" | "}") {
                break;
            }
        }
    }
    kept
}

/// Whether an attribute begins here that only tests fulfil.
fn is_test_only(tokens: &[String]) -> bool {
    const WAYS: [&[&str]; 2] = [
        &["#", "[", "cfg", "(", "test", ")"],
        &["#", "[", "cfg", "(", "all", "(", "test", ","],
    ];
    WAYS.iter()
        .any(|way| tokens.len() >= way.len() && way.iter().zip(tokens).all(|(a, b)| a == b))
}

#[test]
fn imports_and_paths_are_read() {
    let source = Source::read(
        "use std::{fmt, io::{self as files, *}};\n\
         pub(in crate::io) use sys::{pipe, splice as join};\n\
         mod sys; // mod other;\n\
         fn f<'a>(x: &'a crate::a::B) -> impl Sized + use<'a> { x.self_made.y; super::c::d(r#\"use e::f;\"#, 'x', \"\\\"g::h\") }\n\
         /* k::l /* m::n */ o::p */ type Q = <R as fmt::S>::T;\n\
         #[cfg(test)]\n#[allow(unused)]\nmod tests { use u::v; }\n\
         #[cfg(all(test, loom))] use w::x;\n\
         fn g() { y::z() }",
    );
    let imports = source.imports.iter();
    let imports: Vec<_> = imports
        .map(|import| (import.path.join("::"), &*import.name, import.is_passed_on))
        .collect();
    let import = |path: &str, name, is_passed_on| (path.to_owned(), name, is_passed_on);
    assert_eq!(
        imports,
        [
            import("std::fmt", "fmt", false),
            import("std::io", "files", false),
            import("std::io::*", "*", false),
            import("sys::pipe", "pipe", true),
            import("sys::splice", "join", true),
        ]
    );
    assert_eq!(source.modules, ["sys"]);
    let paths: Vec<_> = source.paths.iter().map(|path| path.join("::")).collect();
    assert_eq!(
        paths,
        ["crate::io", "crate::a::B", "super::c::d", "fmt::S", "y::z"]
    );
    assert!(source.names.contains("x") && source.names.contains("R"));
    assert!(!source.names.contains("self_made") && !source.names.contains("T"));
}
