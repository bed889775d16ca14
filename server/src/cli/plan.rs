//! `penstock plan`: what the declared memory will hold.

use penstock::serve;

use super::serve::Arguments;

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let settings = arguments.settings()?;
    let plan = serve::plan(&settings)?;
    say!("{plan}");
    for warning in serve::machine_warnings(&settings, &plan) {
        say!("warning: {warning}");
    }
    Ok(())
}
