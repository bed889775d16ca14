//! `penstock completions`: what a shell completes, made from the same definition as `--help`.

use std::process::ExitCode;

use clap_complete::Shell;

use super::output::write_all;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The shell, as in `penstock completions bash > /etc/bash_completion.d/penstock`
    shell: Shell,
}

/// Prints the script for the whole `command`.
pub(super) fn run(arguments: &Arguments, mut command: clap::Command) -> anyhow::Result<ExitCode> {
    // Made as a whole first: the generator panics where it can't write.
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, "penstock", &mut script);
    write_all(0, |out| out.write_all(&script))
}
