//! The command line: one file per subcommand, each a thin layer over the library that does the work.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use decode_kernel::share::Key;
use tracing_subscriber::EnvFilter;

/// Prints a line on standard output. A reader who went away (`| head`) is no reason to stop: what was asked for may
/// be more than to be told of it.
macro_rules! say {
    ($($argument:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($argument)*);
    }};
}

mod demo;
mod doctor;
mod get;
mod inspect;
mod ls;
mod plan;
mod put;
mod repair;
mod serve;
mod tahoe;
mod verify;

/// Erasure-coded files over HTTP, in memory that does not grow.
#[derive(Debug, Parser)]
#[command(name = "penstock", version, propagate_version = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build a small 4+2 store, lose two of its six directories, and serve what is left
    Demo(demo::Arguments),
    /// Store a file as erasure-coded shares, one in each store
    Put(put::Arguments),
    /// Read an object or a Tahoe-LAFS file back, rebuilding what is missing
    Get(get::Arguments),
    /// List the objects of some stores
    Ls(ls::Arguments),
    /// Read everything and report what is damaged
    Verify(verify::Arguments),
    /// Rebuild missing and damaged shares
    Repair(repair::Arguments),
    /// Show what one share file says of itself
    Inspect(inspect::Arguments),
    /// Serve the objects of some stores over HTTP
    Serve(serve::Arguments),
    /// Show what the declared memory will hold, without serving
    Plan(serve::Arguments),
    /// Check what this machine lets the server use, and say how to fix what it doesn't
    Doctor(serve::Arguments),
}

/// The stores that a command works on.
#[derive(Debug, clap::Args)]
struct Stores {
    /// A store directory; repeat it for each
    #[arg(long = "store", value_name = "DIR", required = true)]
    stores: Vec<PathBuf>,
}

/// Reads a key from the command line.
fn key(text: &str) -> Result<Key, String> {
    Key::new(text).map_err(|error| error.to_string())
}

/// Log lines go to standard error, `info` and above unless RUST_LOG says otherwise.
pub(crate) fn start_logging() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false)
        .init();
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.command {
        Command::Demo(arguments) => demo::run(arguments)?,
        Command::Put(arguments) => put::run(arguments)?,
        Command::Get(arguments) => get::run(arguments)?,
        Command::Ls(arguments) => ls::run(&arguments)?,
        Command::Verify(arguments) => return Ok(verify::run(arguments)),
        Command::Repair(arguments) => return repair::run(arguments),
        Command::Inspect(arguments) => return inspect::run(&arguments),
        Command::Serve(arguments) => serve::run(arguments)?,
        Command::Plan(arguments) => plan::run(arguments)?,
        Command::Doctor(arguments) => return doctor::run(arguments),
    }
    Ok(ExitCode::SUCCESS)
}
