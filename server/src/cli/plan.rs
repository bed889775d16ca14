//! `penstock plan`: shows how the declared memory would be divided.

use penstock::control::preflight;

use super::serve::Arguments;

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let settings = arguments.settings()?;
    let plan = preflight::memory_plan(&settings)?;
    say!("{plan}");
    for warning in preflight::machine_warnings(&settings, &plan) {
        say!("warning: {warning}");
    }
    Ok(())
}
