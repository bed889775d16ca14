//! A TOML file that shows every option, commented out.

use super::options;

/// Columns of a comment.
const COLUMNS: usize = 116;

const HEADER: &str = "Options of `penstock serve`, as its flags are, with `_` for `-`. Each is shown with a value that it may \
    have; what holds where it stays commented out is said above it. After a change `penstock plan --config FILE` tells \
    whether the file can be used and what memory it takes, and SIGHUP (`systemctl reload penstock`) has the server \
    read it again: the log names what needs a restart.";

/// The file. As it is, it sets nothing.
pub fn commented() -> String {
    let mut file = comment(HEADER);
    for (key, help) in options::keys_and_help() {
        file += "\n";
        file += &comment(&help);
        // Tests require an example of each.
        let value = options::example(&key).unwrap_or_default();
        file += &format!("#{key} = {value}\n");
    }
    file
}

/// A text as comment lines.
fn comment(text: &str) -> String {
    let mut lines = String::new();
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.len() > 1 && line.chars().count() + 1 + word.chars().count() > COLUMNS {
            lines += &line;
            lines += "\n";
            line.truncate(1);
        }
        line += " ";
        line += word;
    }
    lines + &line + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both listeners had one address, a disk that hangs had 30 seconds, and who took less than 1 MiB a second was closed.
    #[test]
    fn a_line_without_its_mark_changes_nothing_or_little() {
        let file = commented();
        for line in [
            "#listen = \"127.0.0.1:8080\"",
            "#admin = \"127.0.0.1:9090\"",
            "#store_timeout = \"500ms\"",
            "#fetches = 32",
            "#min_rate = \"1KiB\"",
            "#drain_delay = \"0s\"",
        ] {
            assert!(file.lines().any(|other| other == line), "no {line}");
        }
    }

    #[test]
    fn long_texts_are_broken_between_words() {
        assert_eq!(comment("a  b\n c"), "# a b c\n");
        let long = "word ".repeat(60);
        let lines: Vec<usize> = comment(&long).lines().map(str::len).collect();
        assert_eq!(lines, [116, 116, 71]);
        let unbroken = "w".repeat(200);
        assert_eq!(comment(&unbroken), format!("# {unbroken}\n"));
    }
}
