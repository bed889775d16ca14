//! The commands of a Markdown file, and what they are to print.

use std::path::{Path, PathBuf};

use super::read;

/// Programs that a machine may lack. A block with one of these words needs it.
pub(crate) const TOOLS: [&str; 5] = ["curl", "openssl", "aws", "sha256sum", "nginx"];

/// What blocks may be marked with. Only the first two are run.
const MARKS: [&str; 7] = ["sh", "console", "text", "toml", "json", "yaml", "haproxy"];

/// A file of the manual.
#[derive(Debug)]
pub(crate) struct Chapter {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// What is run, in order.
    pub(crate) steps: Vec<Step>,
}

/// Something that the shell is given at once.
#[derive(Debug)]
pub(crate) struct Step {
    /// The line of the file that it begins at.
    pub(crate) line: usize,
    /// What is run.
    pub(crate) command: String,
    /// What it prints; `None` if that does not matter.
    pub(crate) expected: Option<String>,
    /// The status that it ends with; `None` if that depends on the machine.
    pub(crate) status: Option<u8>,
}

impl Step {
    /// The programs that it needs.
    pub(crate) fn tools(&self) -> impl Iterator<Item = &'static str> + '_ {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_' || c == '.';
        let has = move |tool: &str| {
            let mut words = self.command.split(|c| !is_word(c));
            words.any(|word| word == tool)
        };
        TOOLS.into_iter().filter(move |tool| has(tool))
    }
}

/// What the comment before a block says.
struct Directive {
    skip: bool,
    status: Option<u8>,
}

impl Default for Directive {
    fn default() -> Directive {
        Directive {
            skip: false,
            status: Some(0),
        }
    }
}

impl Directive {
    /// Reads `<!-- test: … -->`.
    fn parse(line: &str) -> Option<Result<Directive, String>> {
        let inner = line.trim().strip_prefix("<!-- test:")?;
        let text = inner.trim_end_matches("-->").trim();
        let mut directive = Directive::default();
        let known = match text.split_once(' ') {
            Some(("skip", why)) if !why.trim().is_empty() => {
                directive.skip = true;
                true
            }
            Some(("status", "any")) => {
                directive.status = None;
                true
            }
            Some(("status", number)) => {
                directive.status = number.parse().ok();
                directive.status.is_some()
            }
            _ => false,
        };
        let directive = known
            .then_some(directive)
            .ok_or_else(|| format!("{text:?} is none of `skip WHY`, `status N` and `status any`"));
        Some(directive)
    }
}

impl Chapter {
    /// Reads a file. What is wrong with its blocks fails the test.
    pub(crate) fn read(path: &Path) -> Chapter {
        let mut steps = Vec::new();
        parse(&read(path), &mut steps)
            .unwrap_or_else(|(line, error)| panic!("{}:{line}: {error}", path.display()));
        Chapter {
            path: path.to_owned(),
            steps,
        }
    }

    /// All that is run.
    pub(crate) fn text(&self) -> String {
        let commands = self.steps.iter().map(|step| step.command.as_str());
        commands.collect::<Vec<_>>().join("\n")
    }
}

/// Reads the blocks of a text. An error has its line.
fn parse(text: &str, steps: &mut Vec<Step>) -> Result<(), (usize, String)> {
    let mut lines = text.lines().enumerate();
    let mut directive = Directive::default();
    while let Some((at, line)) = lines.next() {
        let wrong = |error: String| (at + 1, error);
        if let Some(found) = Directive::parse(line) {
            directive = found.map_err(wrong)?;
            continue;
        }
        let Some(mark) = line.strip_prefix("```") else {
            if !line.trim().is_empty() {
                directive = Directive::default();
            }
            continue;
        };
        if !MARKS.contains(&mark) {
            let error = format!("a block marked {mark:?}: use one of {}", MARKS.join(", "));
            return Err(wrong(error));
        }
        let body: Vec<&str> = lines
            .by_ref()
            .map(|(_, line)| line)
            .take_while(|line| *line != "```")
            .collect();
        let Directive { skip, status } = std::mem::take(&mut directive);
        let first = at + 2;
        match mark {
            _ if skip => {}
            "sh" => steps.push(Step {
                line: first,
                command: body.join("\n"),
                expected: None,
                status,
            }),
            "console" => {
                let before = steps.len();
                commands(&body, first, steps)?;
                if let Some(last) = steps[before..].last_mut() {
                    last.status = status;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Reads the commands of a `console` block.
fn commands(body: &[&str], first: usize, steps: &mut Vec<Step>) -> Result<(), (usize, String)> {
    let mut lines = body.iter().enumerate().peekable();
    while let Some((at, line)) = lines.next() {
        let Some(command) = line.strip_prefix("$ ") else {
            return Err((first + at, "output before the first `$ `".to_owned()));
        };
        let mut command = command.to_owned();
        while let Some((_, more)) = lines.next_if(|(_, line)| line.starts_with("> ")) {
            command.push('\n');
            command.push_str(&more[2..]);
        }
        let mut output = Vec::new();
        while let Some((_, line)) = lines.next_if(|(_, line)| !line.starts_with("$ ")) {
            output.push(*line);
        }
        steps.push(Step {
            line: first + at,
            command,
            expected: Some(output.join("\n")),
            status: Some(0),
        });
    }
    Ok(())
}

/// Whether what was printed is what was expected, where `…` stands for any text.
pub(crate) fn matches(expected: &str, printed: &str) -> bool {
    let lines = |text: &str| -> Vec<String> {
        let lines = text.trim_end().lines();
        lines.map(|line| line.trim_end().to_owned()).collect()
    };
    lines_match(&lines(expected), &lines(printed))
}

fn lines_match(expected: &[String], printed: &[String]) -> bool {
    match expected.split_first() {
        None => printed.is_empty(),
        Some((any, rest)) if any.trim() == "…" => {
            (0..=printed.len()).any(|skipped| lines_match(rest, &printed[skipped..]))
        }
        Some((line, rest)) => printed
            .split_first()
            .is_some_and(|(first, others)| line_matches(line, first) && lines_match(rest, others)),
    }
}

/// Each part between two `…` is found behind the one before it; the first begins the line and the last ends it.
fn line_matches(expected: &str, printed: &str) -> bool {
    let Some((start, rest)) = expected.split_once('…') else {
        return expected == printed;
    };
    let Some(mut left) = printed.strip_prefix(start) else {
        return false;
    };
    let mut parts: Vec<&str> = rest.split('…').collect();
    let end = parts.pop().unwrap_or_default();
    for part in parts {
        match left.split_once(part) {
            Some((_, behind)) => left = behind,
            None => return false,
        }
    }
    left.ends_with(end)
}

#[test]
fn ellipses_stand_for_any_text() {
    for (expected, printed) in [
        ("", ""),
        ("a\n", "a"),
        ("a … c", "a b c"),
        ("…", "a\nb"),
        ("a\n…\nd", "a\nb\nc\nd"),
        ("a\n…\nd", "a\nd"),
        ("1…2…3", "1 x 2 y 3"),
    ] {
        assert!(matches(expected, printed), "{expected:?} {printed:?}");
    }
    for (expected, printed) in [
        ("", "a"),
        ("a", ""),
        ("a … c", "a b d"),
        ("a … c", "a\nc"),
        ("a\n…", "b"),
        ("1…2…3", "1 3 2"),
        ("aa…aa", "aaa"),
    ] {
        assert!(!matches(expected, printed), "{expected:?} {printed:?}");
    }
}

#[test]
fn blocks_are_read() {
    let text = "<!-- test: skip it is only shown -->\n\n```sh\nrm -r /\n```\n\n```toml\nx = 1\n```\n\n\
        <!-- test: status 3 -->\n```console\n$ true\n$ exit \\\n> 3\nbye …\n```\n\n```sh\ncurl x\nopenssl y\n```\n";
    let mut steps = Vec::new();
    parse(text, &mut steps).unwrap();
    let seen: Vec<_> = steps
        .iter()
        .map(|step| (step.command.as_str(), step.expected.as_deref(), step.status))
        .collect();
    assert_eq!(
        seen,
        [
            ("true", Some(""), Some(0)),
            ("exit \\\n3", Some("bye …"), Some(3)),
            ("curl x\nopenssl y", None, Some(0)),
        ]
    );
    assert_eq!(steps[2].tools().collect::<Vec<_>>(), ["curl", "openssl"]);
    for wrong in [
        "```\nx\n```",
        "```console\nx\n```",
        "<!-- test: nothing -->",
    ] {
        assert!(parse(wrong, &mut Vec::new()).is_err(), "{wrong}");
    }
}
