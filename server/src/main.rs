//! The `penstock` command.

use std::process::ExitCode;

use clap::Parser;

mod cli;

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    cli::start_logging();
    match cli::run(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("penstock: {error:#}");
            ExitCode::FAILURE
        }
    }
}
