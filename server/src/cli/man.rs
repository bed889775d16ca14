//! `penstock man`: the manual pages, made from the same definition as `--help`.

use std::fs;
use std::io;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

/// What `after_help` of every command begins with. In a manual page that is a section.
const EXIT_STATUS: &str = "Exit status: ";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Where the pages go, as in /usr/local/share/man/man1; it is made if it is not there
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// Writes the pages of the whole command.
pub(super) fn run(arguments: &Arguments, whole: Command) -> anyhow::Result<()> {
    let directory = &arguments.directory;
    fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    let mut whole = whole.disable_help_subcommand(true);
    // Gives subcommands their whole names, and what they have from the command above them.
    whole.build();
    let subcommands: Vec<&Command> = whole.get_subcommands().collect();
    for command in subcommands.iter().copied().chain([&whole]) {
        let page = directory.join(format!("{}.1", page_name(command)));
        let text = page_of(command, &subcommands)?;
        fs::write(&page, text).with_context(|| page.display().to_string())?;
    }
    Ok(())
}

/// As in `penstock-serve`.
fn page_name(command: &Command) -> &str {
    command.get_display_name().unwrap_or(command.get_name())
}

/// One page, without a date, so that the same release has the same pages.
fn page_of(command: &Command, subcommands: &[&Command]) -> io::Result<Vec<u8>> {
    let is_whole = command.has_subcommands();
    let page = Man::new(command.clone())
        .manual("Penstock manual")
        .source(concat!("penstock ", env!("CARGO_PKG_VERSION")));
    let mut text = Vec::new();
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    page.render_description_section(&mut text)?;
    page.render_options_section(&mut text)?;
    if is_whole {
        page.render_subcommands_section(&mut text)?;
    }
    let mut rest = Roff::default();
    if let Some(status) = command.get_after_help() {
        let status = status.to_string();
        let status = status.strip_prefix(EXIT_STATUS).unwrap_or(&status);
        rest.control("SH", ["EXIT STATUS"]);
        rest.text([roman(status)]);
    }
    rest.control("SH", ["SEE ALSO"]);
    let others: Vec<&str> = match is_whole {
        true => subcommands.iter().copied().map(page_name).collect(),
        false => vec!["penstock"],
    };
    for (place, other) in others.iter().enumerate() {
        let comma = if place + 1 < others.len() { "," } else { "" };
        rest.text([bold(*other), roman(format!("(1){comma}"))]);
    }
    rest.to_writer(&mut text)?;
    Ok(text)
}
