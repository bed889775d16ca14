//! The tables of the reference, made from what the program says of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use penstock::config::{Options, Settings};
use penstock_faultproxy::DirectoryBuckets;

use super::common::{self, Noise, Server, Stores, get, penstock, wait_until};
use super::{guide, read};

/// Compares a file with what it must be, or rewrites it.
#[track_caller]
fn compare(path: &Path, wanted: &str) {
    if std::env::var_os("PENSTOCK_BLESS").is_some() {
        fs::write(path, wanted).unwrap();
        return;
    }
    let found = fs::read_to_string(path).unwrap_or_default();
    assert!(
        found == wanted,
        "{} is not what the program says: PENSTOCK_BLESS=1 cargo test -p penstock --test guide reference",
        path.display()
    );
}

/// A cell of a table: a bar would end it.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

/// What `--help` of a command says.
fn help(command: &[&str]) -> String {
    common::run(penstock().args(command).arg("--help"))
}

/// The options in a help text.
fn options(help: &str) -> BTreeSet<String> {
    let lines = help.lines().map(str::trim_start);
    let names = lines.filter_map(|line| {
        let at = line.strip_prefix("-").and_then(|_| line.find("--"))?;
        // The option itself stands first, or behind its short form.
        (at <= 4).then(|| line[at..].split([' ', '[', '=']).next())?
    });
    names.map(str::to_owned).collect()
}

/// The subcommands, in the order of `--help`.
fn subcommands() -> Vec<String> {
    let help = help(&[]);
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let lines = lines.take_while(|line| !line.is_empty());
    let names = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = names.filter_map(|line| line.split_whitespace().next());
    names
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

/// All options of all commands.
pub(crate) fn all_options() -> &'static BTreeSet<String> {
    static ALL: OnceLock<BTreeSet<String>> = OnceLock::new();
    ALL.get_or_init(|| {
        let commands = subcommands();
        commands
            .iter()
            .flat_map(|command| options(&help(&[command])))
            .collect()
    })
}

const MADE: &str = "<!-- Made by server/tests/guide: PENSTOCK_BLESS=1 cargo test -p penstock --test guide reference -->\n";

#[test]
fn reference_options() {
    let args = <Options as clap::Args>::augment_args(clap::Command::new("serve"));
    let settings = Settings::new(Options::default(), 1).unwrap();
    let fixed: BTreeSet<String> = (settings.fixed().into_iter())
        .flat_map(|(names, _)| {
            let names = names.replace(" and ", ", ");
            names.split(", ").map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    let mut page = format!(
        "# Options of `serve`\n\n{MADE}\n\
         Each is also a key of the TOML file that `--config FILE` names, with `_` for `-`: `--store-timeout 2s` is\n\
         `store_timeout = \"2s\"`. An option that can be repeated is a list there. What the command line says goes before\n\
         what the file says. `plan` and `doctor` take the same options.\n\n\
         A dot in the column *reload* says that SIGHUP changes it while the server runs; the others need a restart or a\n\
         [hand-over](upgrade.md).\n\n\
         | option | default | reload | |\n|---|---|---|---|\n"
    );
    let of_all = ["--config", "--help", "--version", "--quiet", "--verbose"];
    let mut documented = BTreeSet::from(of_all.map(str::to_owned));
    for arg in args.get_arguments() {
        let Some(long) = arg.get_long() else { continue };
        documented.insert(format!("--{long}"));
        let value = arg.get_value_names().unwrap_or_default();
        let value: String = value.iter().map(|name| format!(" {name}")).collect();
        let value = if arg.get_action().takes_values() {
            value
        } else {
            String::new()
        };
        let text = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let (text, default) = match text.rsplit_once(" [default: ") {
            Some((text, default)) => (text, default.trim_end_matches(']')),
            None => (text.as_str(), ""),
        };
        let possible: Vec<String> = (arg.get_possible_values().iter())
            .filter_map(|value| {
                let help = value.get_help()?;
                Some(format!("`{}`: {help}", value.get_name()))
            })
            .collect();
        let mut text = text.to_owned();
        if !possible.is_empty() {
            text = format!("{text}. {}", possible.join("; "));
        }
        let live = if fixed.contains(long) { "" } else { "•" };
        page.push_str(&format!(
            "| `--{long}{}` | {} | {live} | {} |\n",
            cell(&value),
            cell(default),
            cell(&text)
        ));
    }
    assert_eq!(options(&help(&["serve"])), documented, "options of serve");
    compare(&guide().join("reference-options.md"), &page);
}

#[test]
fn reference_commands() {
    let mut page = format!(
        "# Commands\n\n{MADE}\n\
         What `penstock COMMAND --help` says. The options of `serve`, `plan` and `doctor` have [a page of their\n\
         own](reference-options.md), exit statuses too: [a table](reference-statuses.md).\n"
    );
    for command in subcommands() {
        let text = help(&[&command]);
        let text = match text.contains("--store-timeout") {
            // Its options have a page of their own.
            true => text.split("\nOptions:").next().unwrap_or_default(),
            false => &text,
        };
        let text: String = text
            .lines()
            .take_while(|line| !line.starts_with("Exit status:"))
            .flat_map(|line| [line.trim_end(), "\n"])
            .collect();
        page.push_str(&format!(
            "\n## {command}\n\n```text\n{}\n```\n",
            text.trim_end()
        ));
    }
    compare(&guide().join("reference-commands.md"), &page);
}

#[test]
fn reference_statuses() {
    let mut page = format!(
        "# Exit statuses\n\n{MADE}\n\
         Scripts can rely on these. For all commands:\n\n\
         - `--help` and `--version` end with 0; no command, an unknown one or an unknown option with 2.\n\
         - 141 says that the reader of standard output went away, as in `penstock ls | head`, and that nothing else\n  \
         failed. Commands without it have more to do than print: they go on, and their status says what they did.\n\
         - Where standard output can't be written for another reason, such as a full disk, the status is 1, that of\n  \
         `stat` and `verify` 2.\n\
         - Of a command that a signal ended a shell says 128 and the signal's number: 130 after Ctrl-C. What was\n  \
         interrupted left every object as it was, or as it was to be.\n\n\
         | command | status | |\n|---|---|---|\n"
    );
    for command in subcommands() {
        let text = help(&[&command]);
        let (_, status) = text
            .split_once("Exit status: ")
            .unwrap_or_else(|| panic!("{command} --help tells no exit statuses"));
        let words = status.split_whitespace().collect::<Vec<_>>().join(" ");
        let statuses = words.split("; ");
        let mut name = format!("`{command}`");
        for status in statuses {
            let split = status.split_once([' ', ',']);
            let (number, text) = split.unwrap_or_else(|| panic!("{command}: {status}"));
            assert!(number.parse::<u8>().is_ok(), "{command}: {status}");
            let text = text.trim_start().trim_end_matches('.');
            page.push_str(&format!(
                "| {} | {number} | {} |\n",
                std::mem::take(&mut name),
                cell(text)
            ));
        }
    }
    compare(&guide().join("reference-statuses.md"), &page);
}

/// A family of metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Family {
    kind: String,
    help: String,
    labels: BTreeSet<String>,
    /// Names of its samples.
    samples: BTreeSet<String>,
}

/// Reads the families of a text in the format of OpenMetrics, by the name under which they are described.
fn families(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a help text");
            let help = help.trim_end_matches('.').to_owned();
            families.entry(name.to_owned()).or_default().help = help;
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            families.entry(name.to_owned()).or_default().kind = kind.to_owned();
        } else if !line.starts_with('#') {
            let end = line.find(['{', ' ']).expect("a sample");
            let name = &line[..end];
            let bare = ["_total", "_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| name.strip_suffix(suffix))
                .filter(|bare| families.contains_key(*bare));
            let family = families.get_mut(bare.unwrap_or(name));
            let family = family.unwrap_or_else(|| panic!("a sample of no family: {line}"));
            family.samples.insert(name.to_owned());
            // No label's value has this in it.
            let labels = line[end..].split_once('}').map_or("", |(labels, _)| labels);
            for (before, _) in labels.match_indices("=\"") {
                let label = labels[..before].rsplit(['{', ',']).next();
                family.labels.insert(label.unwrap_or_default().to_owned());
            }
        }
    }
    families
}

/// All metrics of a server with stores of both kinds that has served a request.
pub(crate) fn served() -> &'static BTreeMap<String, Family> {
    static SERVED: OnceLock<BTreeMap<String, Family>> = OnceLock::new();
    SERVED.get_or_init(|| {
        let stores = Stores::new(6);
        stores.put_bytes(&Noise::new(1).bytes(1 << 20));
        let root = stores.file("buckets");
        fs::create_dir(&root).unwrap();
        let mut command = penstock();
        command
            .arg("serve")
            .arg("--cache")
            .arg(stores.file("cache"));
        command.args([
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
            "--cores",
            "1",
        ]);
        command.env("AWS_ACCESS_KEY_ID", "key");
        command.env("AWS_SECRET_ACCESS_KEY", "secret");
        let buckets = DirectoryBuckets::start(&root).unwrap();
        // Three directories are too few for 4 of 6.
        for (number, path) in stores.paths.iter().enumerate() {
            if number < 3 {
                command.arg("--store").arg(path);
                continue;
            }
            std::os::unix::fs::symlink(path, root.join(format!("store-{number}"))).unwrap();
            let endpoint = buckets.address();
            let url = format!("s3://store-{number}?endpoint=http://{endpoint}&region=us-east-1");
            command.args(["--store", &url]);
        }
        let server = Server::launch(command).expect("it starts");
        wait_until(|| {
            let response = get(server.plain, common::PATH, &[]);
            assert_eq!(response.status(), 200);
            let text = get(server.admin, "/metrics", &[]).body;
            let families = families(&String::from_utf8(text).unwrap());
            let empty = families
                .iter()
                .find(|(_, family)| family.samples.is_empty());
            match empty {
                Some((name, _)) => Err(format!("{name} has no sample")),
                None => Ok(families),
            }
        })
    })
}

/// What `verify` or `repair` writes for node_exporter.
fn written(command: &str) -> BTreeMap<String, Family> {
    let stores = Stores::new(6);
    stores.put_bytes(b"x");
    let file = stores.file("metrics.prom");
    let mut run: Command = penstock();
    run.arg(command).args(stores.flags());
    common::run(run.arg("--metrics-file").arg(&file));
    families(&read(&file))
}

/// The names of all samples: of a server's, and of the files of scrub runs.
pub(crate) fn all_samples() -> &'static BTreeSet<String> {
    static ALL: OnceLock<BTreeSet<String>> = OnceLock::new();
    ALL.get_or_init(|| {
        let runs = [written("verify"), written("repair")];
        let families = runs.iter().flat_map(BTreeMap::values);
        let families = families.chain(served().values());
        families.flat_map(|family| family.samples.clone()).collect()
    })
}

/// Rows of a table of metrics.
fn rows(families: &BTreeMap<String, Family>) -> String {
    let mut rows = String::from("| metric | kind | labels | |\n|---|---|---|---|\n");
    for (name, family) in families {
        let name = match family.kind.as_str() {
            "counter" => format!("{name}_total"),
            _ => name.clone(),
        };
        let mut labels = family.labels.clone();
        // That of every histogram's buckets.
        labels.remove("le");
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        rows.push_str(&format!(
            "| `{name}` | {} | {} | {} |\n",
            family.kind,
            labels.join(", "),
            cell(&family.help)
        ));
    }
    rows
}

#[test]
fn reference_metrics() {
    let page = format!(
        "# Metrics\n\n{MADE}\n\
         What `/metrics` of the admin address has, in the text format of OpenMetrics. How to use them is in\n\
         [Monitoring and alerts](monitoring.md). Metrics of remote stores are there if there are some. Gauges of sockets\n\
         and connections are as of their last sample, some ticks of 250 ms ago.\n\n{}\n\
         ## Files of scrub runs\n\n\
         What `verify --metrics-file FILE` and `repair --metrics-file FILE` write for node_exporter's textfile\n\
         collector. All are of the last run.\n\n### verify\n\n{}\n### repair\n\n{}",
        rows(served()),
        rows(&written("verify")),
        rows(&written("repair")),
    );
    compare(&guide().join("reference-metrics.md"), &page);
}
