//! `penstock doctor`: what the server can use on this machine, and the command that fixes what it can't.

use std::process::ExitCode;

use decode_kernel::arch::Kernel;
use penstock::config::values::{BackendChoice, ZeroCopyMode};
use penstock::control::{backend, preflight};
use penstock::io::Backend;

use super::serve::Arguments;

/// Exits with 0 if every check passed.
pub(super) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let settings = arguments.settings()?;
    let mut amiss = 0;
    let mut say = |good: bool, text: String| {
        say!("{} {text}", if good { "ok     " } else { "amiss  " });
        amiss += usize::from(!good);
    };

    let uring = backend::choose_io(BackendChoice::Uring, settings.cores);
    match &uring {
        Ok(_) => say(true, "io_uring can be used".to_owned()),
        Err(error) => say(
            false,
            format!("io_uring can't be used, epoll takes its place: {error}"),
        ),
    }
    match backend::choose_zero_copy(ZeroCopyMode::Always, Backend::Uring) {
        Ok(_) => say(true, "zero-copy sends can be used (SEND_ZC)".to_owned()),
        Err(why) => say(false, format!("no zero-copy sends: {why}")),
    }
    let kernels: Vec<&str> = Kernel::available().map(Kernel::name).collect();
    match Kernel::requested() {
        Ok(kernel) => say(
            true,
            format!(
                "coding kernel {} (available: {})",
                kernel.name(),
                kernels.join(", ")
            ),
        ),
        Err(error) => say(false, error.to_string()),
    }
    match preflight::memory_plan(&settings) {
        Ok(plan) => {
            say(true, plan.summary());
            let locked =
                preflight::locked_memory_advice(&settings, &plan).filter(|_| uring.is_ok());
            for warning in locked
                .into_iter()
                .chain(preflight::machine_warnings(&settings, &plan))
            {
                say(false, warning);
            }
        }
        Err(error) => say(false, error.to_string()),
    }
    let stores = settings.stores.iter().map(|dir| ("store", dir));
    let nodes = settings.tahoe_nodes.iter().map(|dir| ("node", dir));
    for (what, dir) in stores.chain(nodes) {
        match std::fs::read_dir(dir) {
            Ok(_) => say(true, format!("{what} {}", dir.display())),
            Err(error) => say(false, format!("{what} {}: {error}", dir.display())),
        }
    }
    Ok(if amiss == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
