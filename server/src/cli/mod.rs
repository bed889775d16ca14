//! The command line: one file per subcommand, each a thin layer over the library that does the work.

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser, Subcommand};
use penstock::control::logging::{self, LogThread};

use talk::Talk;

pub(crate) use usage::status_of;

/// Prints a line on standard output. A reader that went away (`| head`) doesn't end the command, which may have more to
/// do than print.
macro_rules! say {
    ($($argument:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($argument)*);
    }};
}

mod completions;
mod default_config;
mod demo;
mod df;
mod doctor;
mod get;
mod init;
mod inspect;
mod ls;
mod man;
mod metrics_file;
mod output;
mod plan;
mod put;
mod rebalance;
mod repair;
mod rm;
mod serve;
mod sign;
mod stat;
mod stores;
mod tahoe;
mod talk;
mod usage;
mod verify;
mod walk;

/// Erasure-coded files over HTTP, in memory that does not grow.
#[derive(Debug, Parser)]
#[command(name = "penstock", version, propagate_version = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    talk: Talk,
}

// What `--help` says about exit statuses. With clap's 2 for a wrong command line they are all there are.
const SERVE_STATUS: &str = "Exit status: 0 after SIGTERM or SIGINT, also if bodies were cut off; 1 if the server can't \
     start or go on; 2 if the command line is wrong.";
const INIT_STATUS: &str = "Exit status: 0 if all are stores now; 1 if one can't be made a store; 2 if the command line \
     is wrong.";
const PUT_STATUS: &str = "Exit status: 0 if all files were stored, also if a store is to be repaired afterwards; 1 if \
     one was not: that object is as it was before; 2 if the command line is wrong.";
const RM_STATUS: &str = "Exit status: 0 if all were removed; 1 if one was not, or was not there; 2 if the command line \
     is wrong.";
const REBALANCE_STATUS: &str = "Exit status: 0 if every share is where it belongs; 1 if one could not be moved, or \
     nothing could be done; 2 if the command line is wrong.";
const PLAN_STATUS: &str = "Exit status: 0 if a server with these options would have enough memory; 1 if not, or if a \
     value can't be used; 2 if the command line is wrong.";
const DOCTOR_STATUS: &str = "Exit status: 0 if every check is ok; 1 if something is amiss, or a value can't be used; 2 \
     if the command line is wrong.";
const SIGN_STATUS: &str = "Exit status: 0 if the link was printed; 1 if there is no such key or a value can't be used; 2 \
     if the command line is wrong; 141, without a message, if the reader of standard output went away.";
const COMPLETIONS_STATUS: &str = "Exit status: 0 if the script was printed; 1 if it could not be; 2 if the command line is wrong; 141, without a \
     message, if the reader of standard output went away.";
const DEFAULT_CONFIG_STATUS: &str = "Exit status: 0 if the file was printed; 1 if it could not be; 2 if the command line is wrong; 141, without a \
     message, if the reader of standard output went away.";
const MAN_STATUS: &str = "Exit status: 0 if all pages were written; 1 if one could not be written; 2 if the command line \
     is wrong.";
const INSPECT_STATUS: &str = "Exit status: 0 if all that was read of the share is good; 1 if not, or if it can't be \
     read; 2 if the command line is wrong.";
const GET_STATUS: &str = "Exit status: 0 if all bytes were written, and verified before; 1 if not; 2 if the command \
     line is wrong; 141, without a message, if the reader of standard output went away.";
const LS_STATUS: &str = "Exit status: 0 if all objects were listed, damaged ones included; 1 if something could not be \
     read, or so many stores are away that objects may be lacking; 2 if the command line is wrong; 141, without a \
     message, if the reader of standard output went away.";
const DF_STATUS: &str = "Exit status: 0 if every store can be read and written; 1 if not; 2 if the command line is \
     wrong; 141, without a message, if the reader of standard output went away.";
const STAT_STATUS: &str = "Exit status: 0 if the object has enough shares to be read; 1 if there is no such object; 2 if \
     the command line is wrong, too few shares are left, or that can't be known; 141, without a message, if the reader \
     of standard output went away.";
const VERIFY_STATUS: &str = "Exit status: 0 if all is healthy, in every store; 1 if all that was seen can be read, but \
     something is damaged or missing, a store included; 2 if the command line is wrong, something can't be read, or it \
     could not be checked. It is the same if the reader of standard output went away.";
const REPAIR_STATUS: &str = "Exit status: 0 if every object that was seen is whole now; 1 if not, or if the stores can't \
     be used; 2 if the command line is wrong. It is the same if the reader of standard output went away.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Build a small 4+2 store, delete two of its six directories, and serve the rest
    #[command(after_help = SERVE_STATUS)]
    Demo(demo::Arguments),
    /// Make directories or buckets stores
    #[command(after_help = INIT_STATUS)]
    Init(init::Arguments),
    /// Store files as erasure-coded shares, one per store
    #[command(after_help = PUT_STATUS)]
    Put(put::Arguments),
    /// Read an object or a Tahoe-LAFS file, rebuilding what is missing
    #[command(after_help = GET_STATUS)]
    Get(get::Arguments),
    /// Remove objects, so that they stay away
    #[command(after_help = RM_STATUS)]
    Rm(rm::Arguments),
    /// List the objects in stores
    #[command(after_help = LS_STATUS)]
    Ls(ls::Arguments),
    /// Show everything about one object that the headers of its shares tell
    #[command(after_help = STAT_STATUS)]
    Stat(stat::Arguments),
    /// Show how full the stores are, and how evenly the shares lie on them
    #[command(after_help = DF_STATUS)]
    Df(df::Arguments),
    /// Check every byte of objects or of a Tahoe-LAFS file, and report damage
    #[command(after_help = VERIFY_STATUS)]
    Verify(verify::Arguments),
    /// Rebuild missing and damaged shares
    #[command(after_help = REPAIR_STATUS)]
    Repair(repair::Arguments),
    /// Move shares to the stores where they belong now: after a store was added, or to empty one
    #[command(after_help = REBALANCE_STATUS)]
    Rebalance(rebalance::Arguments),
    /// Show what one share file contains
    #[command(after_help = INSPECT_STATUS)]
    Inspect(inspect::Arguments),
    /// Serve the objects in stores over HTTP
    #[command(after_help = SERVE_STATUS)]
    Serve(serve::Arguments),
    /// Make a link that opens one object for a while
    #[command(after_help = SIGN_STATUS)]
    Sign(sign::Arguments),
    /// Show how --memory would be divided among buffers, caches and connections; takes the options of `serve`
    #[command(after_help = PLAN_STATUS)]
    Plan(serve::Reported),
    /// Check what the server can use on this machine, and print how to fix what it can't; takes the options of `serve`
    #[command(after_help = DOCTOR_STATUS)]
    Doctor(serve::Reported),
    /// Print a configuration file that shows every option of `serve`, commented out
    #[command(after_help = DEFAULT_CONFIG_STATUS)]
    DefaultConfig,
    /// Print the script by which a shell completes commands and options
    #[command(after_help = COMPLETIONS_STATUS)]
    Completions(completions::Arguments),
    /// Write the manual pages, one for each command, into a directory
    #[command(after_help = MAN_STATUS)]
    Man(man::Arguments),
}

impl Arguments {
    /// Writes log lines to standard error: `info` and above, unless `--quiet`, `--verbose` or RUST_LOG say otherwise. A
    /// server's lines are written by a thread, which the returned guard ends.
    pub(crate) fn start_logging(&self) -> Option<LogThread> {
        if let Some(text) = self.talk.conflict() {
            let mut command = Arguments::command();
            command.error(ErrorKind::ArgumentConflict, text).exit();
        }
        match self.command {
            Command::Serve(_) | Command::Demo(_) => Some(logging::start_server()),
            _ => {
                self.talk.start_logging();
                None
            }
        }
    }
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { command, talk } = arguments;
    match command {
        Command::Demo(arguments) => demo::run(arguments, talk)?,
        Command::Init(arguments) => return init::run(&arguments, talk),
        Command::Put(arguments) => return put::run(arguments, talk),
        Command::Rm(arguments) => return rm::run(arguments, talk),
        Command::Get(arguments) => return get::run(arguments, talk),
        Command::Ls(arguments) => return ls::run(arguments),
        Command::Stat(arguments) => return Ok(stat::run(&arguments)),
        Command::Df(arguments) => return df::run(&arguments),
        Command::Verify(arguments) => return Ok(verify::run(arguments, talk)),
        Command::Repair(arguments) => return repair::run(arguments, talk),
        Command::Rebalance(arguments) => return rebalance::run(arguments, talk),
        Command::Inspect(arguments) => return inspect::run(&arguments, talk),
        Command::Serve(arguments) => serve::run(arguments, talk)?,
        Command::Sign(arguments) => return sign::run(&arguments),
        Command::Plan(arguments) => return plan::run(arguments),
        Command::Doctor(arguments) => return doctor::run(arguments),
        Command::DefaultConfig => return default_config::run(),
        Command::Completions(arguments) => {
            return completions::run(&arguments, Arguments::command());
        }
        Command::Man(arguments) => man::run(&arguments, Arguments::command())?,
    }
    Ok(ExitCode::SUCCESS)
}
