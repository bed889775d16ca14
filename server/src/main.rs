//! The `penstock` command.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser;

mod cli;

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    let logging = arguments.start_logging();
    let result = cli::run(arguments);
    // What is still to be logged comes before the error that ended it.
    drop(logging);
    match result {
        Ok(code) => code,
        Err(error) => {
            // Nobody may be there to read it.
            let _ = writeln!(std::io::stderr(), "penstock: {error:#}");
            cli::status_of(&error)
        }
    }
}
