//! `penstock plan`: what the declared memory will hold.

use penstock::control;

use super::serve::Arguments;

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let settings = arguments.settings()?;
    let plan = control::plan(&settings)?;
    say!("{plan}");
    for warning in control::machine_warnings(&settings, &plan) {
        say!("warning: {warning}");
    }
    Ok(())
}
