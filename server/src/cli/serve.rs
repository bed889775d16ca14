//! `penstock serve`: the server.

use std::io::Write as _;
use std::path::PathBuf;

use penstock::config::{Options, Settings};
use penstock::serve::{self, Addresses};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    options: Options,
    /// A TOML file with the same options as keys (`_` for `-`); flags override it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let file = match &arguments.config {
        Some(path) => Options::read(path)?,
        None => Options::default(),
    };
    let settings = Settings::new(arguments.options.or(file), cores())?;
    serve::serve(settings, announce)?;
    Ok(())
}

/// Cores that this process may use.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Scripts wait for this line.
pub(super) fn announce(addresses: Addresses) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "listening on http://{}", addresses.objects);
    let _ = writeln!(out, "metrics on http://{}/metrics", addresses.admin);
    let _ = out.flush();
}
