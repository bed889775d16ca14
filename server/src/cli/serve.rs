//! `penstock serve`: runs the server.

use std::io::Write as _;
use std::path::PathBuf;

use penstock::config::{self, ConfigError, Options, Settings};
use penstock::control::{self, Addresses, AdminAt};

use super::talk::Talk;

/// The settings of a server, from flags and a file.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    options: Options,
    /// A TOML file with the same options as keys (`_` for `-`); flags override it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// The settings of a server that is only reported on.
// The group of the arguments that are flattened into others, or are themselves, would have the same name.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Reported {
    #[command(flatten)]
    pub(super) serve: Arguments,
    /// Print a JSON document
    #[arg(long)]
    pub(super) json: bool,
}

impl Arguments {
    /// Reads the file, if there is one, and checks every value.
    pub(super) fn settings(&self) -> Result<Settings, ConfigError> {
        config::load(self.options.clone(), self.config.as_deref(), cores())
    }
}

/// Has `--quiet` and `--verbose` say what is logged, unless `--log` does.
pub(super) fn with_talk(options: &mut Options, talk: Talk) {
    if options.log.is_none() {
        options.log = talk.log().map(str::to_owned);
    }
}

pub(super) fn run(mut arguments: Arguments, talk: Talk) -> anyhow::Result<()> {
    with_talk(&mut arguments.options, talk);
    control::serve(arguments.settings()?, || arguments.settings(), announce)?;
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
    if let Some(address) = addresses.tls {
        let _ = writeln!(out, "listening on https://{address}");
    }
    match addresses.admin {
        AdminAt::Tcp(address) => {
            let scheme = if addresses.admin_tls { "https" } else { "http" };
            let _ = writeln!(out, "metrics on {scheme}://{address}/metrics");
            let _ = writeln!(out, "live page on {scheme}://{address}/");
        }
        AdminAt::Unix(path) => {
            let _ = writeln!(out, "metrics on unix:{}", path.display());
        }
    }
    let _ = out.flush();
}
