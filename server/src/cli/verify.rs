//! `penstock verify`: checks every byte and reports damage.

use std::path::PathBuf;
use std::process::ExitCode;

use decode_kernel::share::Key;
use penstock_store::Progress;
use penstock_store::tahoe::verify as tahoe;
use penstock_store::verify::{self, Health, VerifyOptions};

use super::tahoe::{Source, Sources};

/// Exits with 0 if all is healthy, 1 if something is damaged but readable, 2 if something is unreadable or could
/// not be checked.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    sources: Sources,
    /// The object [default: all of them]; with --tahoe-node, the file's read-cap
    #[arg(value_name = "KEY|CAP")]
    name: Option<String>,
}

pub(super) fn run(arguments: Arguments) -> ExitCode {
    // Other commands exit with 1 after an error. Here 1 says that all can be read.
    let health = verify(arguments).unwrap_or_else(|error| {
        eprintln!("penstock: {error:#}");
        Health::Unreadable
    });
    ExitCode::from(health.exit_code())
}

fn verify(arguments: Arguments) -> anyhow::Result<Health> {
    match arguments.sources.source(arguments.name)? {
        Source::Stores(stores, key) => verify_objects(stores, key),
        Source::Tahoe { nodes, cap, limits } => {
            verify_file(&tahoe::VerifyOptions { nodes, cap, limits })
        }
    }
}

fn verify_objects(stores: Vec<PathBuf>, key: Option<Key>) -> anyhow::Result<Health> {
    let options = VerifyOptions {
        stores,
        key,
        digest: true,
    };
    let progress = Progress::on_terminal("verify");
    let result = verify::verify(&options, &progress, &mut |name, finding| {
        // Called with the progress bar out of the way.
        match name {
            "" => say!("{finding}"),
            name => say!("{name}: {finding}"),
        }
    });
    drop(progress);
    let report = result?;
    say!("{report}");
    Ok(report.health())
}

fn verify_file(options: &tahoe::VerifyOptions) -> anyhow::Result<Health> {
    let progress = Progress::on_terminal("verify");
    let result = tahoe::verify(options, &progress, &mut |finding| say!("{finding}"));
    drop(progress);
    let report = result?;
    say!("{report}");
    Ok(report.health)
}
