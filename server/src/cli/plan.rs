//! `penstock plan`: what the declared memory will hold.

use std::path::PathBuf;

use penstock::config::{Options, Settings};
use penstock::serve;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    options: Options,
    /// A TOML file with the same options as keys; flags override it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let file = match &arguments.config {
        Some(path) => Options::read(path)?,
        None => Options::default(),
    };
    let settings = Settings::new(arguments.options.or(file), super::serve::cores())?;
    let plan = serve::plan(&settings)?;
    println!("{plan}");
    for warning in serve::machine_warnings(&settings, &plan) {
        println!("warning: {warning}");
    }
    Ok(())
}
