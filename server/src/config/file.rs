//! The TOML file of options. What is wrong with it is told by file, line and key, with an example of what is right.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize as _;
use toml::de::{DeTable, Deserializer};

use super::bounds::SettingsError;
use super::options::{self, Options};
use super::settings::Settings;

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("{path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file is not TOML.
    #[error("{path}: {error}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        error: Box<toml::de::Error>,
    },
    /// The file has a key that is no option.
    #[error("{place}: there is no key `{key}`{}", suggestion(nearest.as_deref()))]
    UnknownKey {
        /// Where.
        place: Place,
        /// The key.
        key: String,
        /// The most similar option's key, if there is a similar one.
        nearest: Option<String>,
    },
    /// The file has a value that can't be used.
    #[error("{place}: {key} = {value}: {reason}{}", example_of(key))]
    Value {
        /// Where.
        place: Place,
        /// The key.
        key: String,
        /// The value as it stands in the file, or its beginning.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A value of the command line can't be used.
    #[error(transparent)]
    Option(SettingsError),
}

/// A line of a file.
#[derive(Debug)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// The line, counted from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, line {}", self.path.display(), self.line)
    }
}

fn suggestion(nearest: Option<&str>) -> String {
    match nearest {
        Some(key) => format!("; did you mean `{key}`?"),
        None => "; keys are the options of `penstock serve`, with `_` for `-`, without a [table]"
            .to_owned(),
    }
}

fn example_of(key: &str) -> String {
    options::example(key).map_or(String::new(), |value| {
        format!("; for example: {key} = {value}")
    })
}

/// The settings of the options of the command line and, where those say nothing, of a file. `cores` is what the machine
/// has.
pub fn load(flags: Options, path: Option<&Path>, cores: usize) -> Result<Settings, ConfigError> {
    let Some(path) = path else {
        return Settings::new(flags, cores).map_err(ConfigError::Option);
    };
    let text = read(path)?;
    parse(flags, path, &text, cores)
}

/// The settings of these flags and the text of a file at `path`, as for [`load`].
pub fn parse(
    flags: Options,
    path: &Path,
    text: &str,
    cores: usize,
) -> Result<Settings, ConfigError> {
    let file = File { path, text };
    let options = file.options()?;
    Settings::new(flags.clone().or(options), cores).map_err(|error| {
        // Values are checked in one order. So if the flags alone fail at the same option, its value is theirs.
        match Settings::new(flags, cores) {
            Err(same) if same.option == error.option => ConfigError::Option(error),
            _ => file.value_error(error),
        }
    })
}

/// The stores that a file names, for commands that work on those of a server. Its other options are read and not used.
pub fn stores(path: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let text = read(path)?;
    let file = File { path, text: &text };
    Ok(file.options()?.store)
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|error| ConfigError::Read {
        path: path.to_owned(),
        error,
    })
}

struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

/// A key and the places of key and value.
type Entry = (String, Range<usize>, Range<usize>);

impl File<'_> {
    fn options(&self) -> Result<Options, ConfigError> {
        let table = DeTable::parse(self.text).map_err(|error| self.syntax(error))?;
        let entries = entries(&table);
        let keys = options::keys();
        if let Some((key, place, _)) = entries.iter().find(|(key, ..)| !keys.contains(key)) {
            return Err(ConfigError::UnknownKey {
                place: self.place(place),
                key: key.escape_debug().to_string(),
                nearest: nearest(key, &keys),
            });
        }
        Options::deserialize(Deserializer::from(table)).map_err(|error| {
            let at = error.span().unwrap_or_default().start;
            let entry = entries.iter().find(|(_, _, value)| value.contains(&at));
            match entry {
                Some(entry) => match options::words(&entry.0) {
                    Some(words) => {
                        self.value(entry, &format!("not one of `{}`", words.join("`, `")))
                    }
                    None => self.value(entry, error.message()),
                },
                None => self.syntax(error),
            }
        })
    }

    /// The error of a value that has the right type and is out of bounds.
    fn value_error(&self, error: SettingsError) -> ConfigError {
        let key = error.option.replace('-', "_");
        let table = DeTable::parse(self.text).ok();
        let mut entries = table.iter().flat_map(entries);
        match entries.find(|(name, ..)| *name == key) {
            Some(entry) => self.value(&entry, &error.reason),
            None => ConfigError::Option(error),
        }
    }

    fn value(&self, (key, place, value): &Entry, reason: &str) -> ConfigError {
        let first = self.text[value.clone()].lines().next().unwrap_or_default();
        ConfigError::Value {
            place: self.place(place),
            key: key.clone(),
            value: first.chars().take(VALUE_CHARS_MAX).collect(),
            reason: reason.to_owned(),
        }
    }

    fn syntax(&self, mut error: toml::de::Error) -> ConfigError {
        error.set_input(Some(self.text));
        ConfigError::Syntax {
            path: self.path.to_owned(),
            error: Box::new(error),
        }
    }

    fn place(&self, at: &Range<usize>) -> Place {
        Place {
            path: self.path.to_owned(),
            line: 1 + self.text[..at.start].matches('\n').count(),
        }
    }
}

/// Characters of a value that an error shows.
const VALUE_CHARS_MAX: usize = 60;

/// The keys of a file, in its order.
fn entries(table: &toml::Spanned<DeTable<'_>>) -> Vec<Entry> {
    let mut entries: Vec<Entry> = table
        .get_ref()
        .iter()
        .map(|(key, value)| (key.get_ref().to_string(), key.span(), value.span()))
        .collect();
    entries.sort_by_key(|(_, place, _)| place.start);
    entries
}

/// The key that was probably meant.
fn nearest(key: &str, keys: &[String]) -> Option<String> {
    /// As alike as clap wants options to be.
    const ALIKE: f64 = 0.8;
    keys.iter()
        .map(|known| (strsim::jaro_winkler(known, key), known))
        .filter(|(alike, _)| *alike > ALIKE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, known)| known.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Settings, String> {
        read_with(Options::default(), text)
    }

    fn read_with(flags: Options, text: &str) -> Result<Settings, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("penstock.toml");
        std::fs::write(&path, text).unwrap();
        load(flags, Some(&path), 2).map_err(|error| {
            let name = path.display().to_string();
            error.to_string().replace(&name, "FILE")
        })
    }

    #[test]
    fn an_unknown_key_is_named_with_the_nearest_one() {
        let error = |text| read(text).unwrap_err();
        assert_eq!(
            error("cores = 1\n\nstroe = []\n"),
            "FILE, line 3: there is no key `stroe`; did you mean `store`?"
        );
        assert_eq!(
            error("pool-buffers = 1"),
            "FILE, line 1: there is no key `pool-buffers`; did you mean `pool_buffers`?"
        );
        for far in ["[server]\ncores = 1\n", "colour = 1"] {
            let error = error(far);
            assert!(error.contains("line 1: there is no key `"), "{error}");
            assert!(error.contains("options of `penstock serve`"), "{error}");
        }
    }

    #[test]
    fn a_wrong_value_is_shown_with_a_right_one() {
        for (text, expected) in [
            (
                "# a\ncores = \"two\" # b\n",
                "FILE, line 2: cores = \"two\": not a whole number; for example: cores = 4",
            ),
            (
                "memory = 5",
                "FILE, line 1: memory = 5: it must be between 1MiB and 64TiB; for example: memory = \"512MiB\"",
            ),
            (
                "memory = 0.5",
                "FILE, line 1: memory = 0.5: not a size; for example: memory = \"512MiB\"",
            ),
            (
                "memory = \"5 parsecs\"",
                "FILE, line 1: memory = \"5 parsecs\": not a size; for example: memory = \"512MiB\"",
            ),
            (
                "head_timeout = 5",
                "FILE, line 1: head_timeout = 5: not a time; for example: head_timeout = \"10s\"",
            ),
            (
                "store = [1]",
                "FILE, line 1: store = [1]: not a directory, nor a list of directories; for example: store = \
                 [\"/srv/disk0\", \"/srv/disk1\"]",
            ),
            (
                "verify = \"never\"",
                "FILE, line 1: verify = \"never\": not one of `once`, `always`; for example: verify = \"once\"",
            ),
        ] {
            assert_eq!(read(text).unwrap_err(), expected);
        }
        for (text, words) in [
            ("listen = \"here\"", "the forms are"),
            ("listen = true", "the forms are"),
            (
                "io = 5",
                "io = 5: not one of `auto`, `uring`, `epoll`; for example: io = \"auto\"",
            ),
            ("pool_buffers = -1", "pool_buffers = -1: not a whole number"),
            ("cores = ", "line 1"),
            ("cores = 1\ncores = 2", "line 2"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn what_comes_from_the_command_line_is_not_blamed_on_the_file() {
        let flags = Options {
            pool_buffers: Some(0),
            ..Options::default()
        };
        let text = "pool_buffers = 5000\nidle_timeout = \"1ms\"\n";
        let error = read_with(flags, text).unwrap_err();
        assert_eq!(error, "--pool-buffers 0: it must be between 1 and 1024");
        let flags = Options {
            pool_buffers: Some(1),
            drain_timeout: Some(std::time::Duration::ZERO.into()),
            ..Options::default()
        };
        let error = read_with(flags, text).unwrap_err();
        assert!(
            error.starts_with("FILE, line 2: idle_timeout = "),
            "{error}"
        );
    }

    #[test]
    fn one_directory_needs_no_list_and_a_port_no_quotes() {
        let settings = read("store = \"/a\"\ntahoe_node = [\"/b\", \"/c\"]\nlisten = 80").unwrap();
        assert_eq!(settings.stores, [PathBuf::from("/a")]);
        assert_eq!(settings.tahoe_nodes.len(), 2);
        assert_eq!(settings.listen.to_string(), ":80");
    }

    #[test]
    fn every_key_has_an_example_that_can_be_used() {
        for key in options::keys() {
            let value = options::example(&key).unwrap_or_else(|| panic!("none of {key}"));
            let needed = match key.as_str() {
                "proxy_protocol" => "trusted_proxy = [\"127.0.0.1\"]\n",
                "admin_client_ca" => "tls_cert = [\"/a\"]\ntls_key = [\"/a\"]\n",
                "tls_listen" => "tls_cert = [\"/a\"]\ntls_key = [\"/a\"]\n",
                "tls_cert" => "tls_listen = 443\ntls_key = [\"/a\"]\n",
                "tls_key" => "tls_listen = 443\ntls_cert = [\"/a\"]\n",
                "tls_ocsp" => "tls_listen = 443\ntls_cert = [\"/a\"]\ntls_key = [\"/a\"]\n",
                "redirect_http" => "tls_listen = 443\ntls_cert = [\"/a\"]\ntls_key = [\"/a\"]\n",
                _ => "",
            };
            let settings = read(&format!("{needed}{key} = {value}"));
            // A file that is read at once need not be here.
            let is_missing =
                matches!(&settings, Err(error) if error.contains("No such file or directory"));
            let can_be_used = settings.is_ok() || key.ends_with("_file") && is_missing;
            assert!(can_be_used, "{key} = {value}: {settings:?}");
        }
    }
}
