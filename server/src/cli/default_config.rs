//! `penstock default-config`: a file of all options, for an operator to edit.

use std::process::ExitCode;

use super::output::write_all;

pub(super) fn run() -> anyhow::Result<ExitCode> {
    write_all(0, |out| {
        out.write_all(penstock::config::commented().as_bytes())
    })
}
