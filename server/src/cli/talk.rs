//! What a command says on standard error. Standard output has its data: what it was asked for. Standard error has its
//! talk: errors and warnings always, what it does unless it is to be quiet, and on a terminal how far it is.

use std::fmt::Display;
use std::io::{self, Write as _};

use penstock::control::logging;
use penstock_store::Progress;

/// How much a command says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::Args)]
#[group(skip)]
pub(super) struct Talk {
    /// Say nothing on standard error but errors and warnings
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Say on standard error what is done in each store and with each object
    #[arg(short, long, global = true)]
    verbose: bool,
}

impl Talk {
    /// What is wrong if both were given. An option may stand before the command and the other behind it, which
    /// `conflicts_with` does not see.
    pub(super) fn conflict(self) -> Option<&'static str> {
        (self.quiet && self.verbose)
            .then_some("the argument '--quiet' cannot be used with '--verbose'")
    }

    /// What is logged, as the option `--log` of a server has it. `None` leaves it to RUST_LOG, or is `info`.
    pub(super) fn log(self) -> Option<&'static str> {
        match self {
            Talk { quiet: true, .. } => Some("warn"),
            // Of what libraries do nobody asked.
            Talk { verbose: true, .. } => {
                Some("info,penstock=debug,penstock_store=debug,penstock_remote=debug")
            }
            Talk { .. } => None,
        }
    }

    /// Starts the log of a command.
    pub(super) fn start_logging(self) {
        logging::start_command();
        if let Some(filter) = self.log() {
            logging::set_filter(Some(filter));
        }
    }

    /// Says a line about what was done.
    pub(super) fn say(self, text: impl Display) {
        if !self.quiet {
            // Nobody may be there to read it.
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    /// A progress bar, unless nobody is to see one: lines say more than it does, and programs that read JSON know what
    /// was done. Without a terminal there is none either.
    pub(super) fn progress(self, verb: &'static str, json: bool) -> Progress {
        match self.quiet || self.verbose || json {
            true => Progress::hidden(),
            false => Progress::on_terminal(verb),
        }
    }
}

/// Says what went wrong, or should be looked at. That is said to the quiet too.
pub(super) fn warn(text: impl Display) {
    // Nobody may be there to read it.
    let _ = writeln!(io::stderr(), "penstock: {text}");
}
