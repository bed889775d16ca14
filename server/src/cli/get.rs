//! `penstock get`: an object to a file or standard output.

use std::io;
use std::path::PathBuf;

use decode_kernel::share::Key;
use penstock_tools::Progress;
use penstock_tools::get::{self, GetOptions};

use super::Stores;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    stores: Stores,
    /// The object's name
    #[arg(value_parser = super::key)]
    key: Key,
    /// Where to write it; without it or as `-`, standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let options = GetOptions {
        stores: arguments.stores.stores,
        key: arguments.key,
    };
    let progress = Progress::on_terminal("get");
    match arguments.output.filter(|path| path.as_os_str() != "-") {
        Some(path) => {
            let report = get::get_file(&options, &path, &progress)?;
            drop(progress);
            eprintln!("{report}");
        }
        None => {
            get::get(&options, &mut io::stdout().lock(), &progress)?;
        }
    }
    Ok(())
}
