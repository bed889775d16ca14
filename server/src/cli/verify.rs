//! `penstock verify`: reads everything and reports what is damaged.

use std::process::ExitCode;

use decode_kernel::share::Key;
use penstock_tools::Progress;
use penstock_tools::verify::{self, Health, VerifyError, VerifyOptions};

use super::Stores;

/// Exits with 0 if all is healthy, 1 if something is damaged but readable, 2 if something is unreadable.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    stores: Stores,
    /// The object; all of them without it
    #[arg(value_parser = super::key)]
    key: Option<Key>,
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let options = VerifyOptions {
        stores: arguments.stores.stores,
        key: arguments.key,
        digest: true,
    };
    let progress = Progress::on_terminal("verify");
    let result = verify::verify(&options, &progress, &mut |name, finding| {
        // Called with the progress bar out of the way.
        match name {
            "" => println!("{finding}"),
            name => println!("{name}: {finding}"),
        }
    });
    drop(progress);
    let health = match result {
        Ok(report) => {
            println!("{report}");
            report.health()
        }
        // An object of which too little is left is what the exit code is for.
        Err(VerifyError::Open(error)) => {
            eprintln!("penstock: {error}");
            Health::Unreadable
        }
        Err(error) => return Err(error.into()),
    };
    Ok(ExitCode::from(health.exit_code()))
}
