//! What one check of `penstock doctor` found.

use std::path::Path;

use serde::Serialize;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    /// What was looked at: `io_uring`, `zero_copy`, `kernel`, `memory`, `machine`, `page_cache`, `network`, `huge_pages`,
    /// `disk`, `shared_disk`, `read_only`, `store` or `node`.
    pub(super) check: &'static str,
    /// Whether it is not amiss.
    pub(super) ok: bool,
    /// What it is.
    pub(super) level: Level,
    pub(super) text: String,
    /// The line that fixes it: a command, for root where it is about the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fix: Option<String>,
}

/// How a check came out: first what costs most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Level {
    /// A server with these options doesn't start.
    Stops,
    /// Objects are away, or one failure can take more of them than their code allows.
    EndangersData,
    /// Clients are served slower, or the machine does more for each byte.
    Slows,
    /// Not amiss, but good to know.
    Note,
    /// As it should be.
    Good,
}

impl Level {
    /// How a line of it begins.
    pub(super) fn words(self) -> &'static str {
        match self {
            Level::Stops => "amiss   no server: ",
            Level::EndangersData => "amiss   data: ",
            Level::Slows => "amiss   speed: ",
            Level::Note => "note    ",
            Level::Good => "ok      ",
        }
    }
}

impl Check {
    pub(super) fn new(check: &'static str, level: Level, text: impl Into<String>) -> Check {
        Check {
            check,
            ok: level >= Level::Note,
            level,
            text: text.into(),
            fix: None,
        }
    }

    /// The same with the line that fixes it.
    pub(super) fn fixed_by(mut self, line: impl Into<String>) -> Check {
        self.fix = Some(line.into());
        self
    }
}

/// A path as a shell takes it.
pub(super) fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,=".contains(c);
    match text.chars().all(plain) && !text.is_empty() {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_can_be_pasted() {
        for (path, shown) in [
            ("/srv/disk-0", "/srv/disk-0"),
            ("/srv/my disk", "'/srv/my disk'"),
            ("/srv/it's;", r"'/srv/it'\''s;'"),
        ] {
            assert_eq!(quoted(Path::new(path)), shown);
        }
    }
}
