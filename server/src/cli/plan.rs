//! `penstock plan`: shows how the declared memory would be divided.

use penstock::control::preflight;
use penstock::memory::plan::MemoryPlan;
use penstock::objects::servable;
use serde::Serialize;

use super::output::json_document;
use super::serve::Reported;

/// What JSON has of it.
#[derive(Serialize)]
struct Document {
    plan: MemoryPlan,
    /// Objects that can't be served with it, and what would do.
    refused: Vec<String>,
    warnings: Vec<String>,
}

pub(super) fn run(arguments: Reported) -> anyhow::Result<()> {
    let settings = arguments.serve.settings()?;
    let plan = preflight::memory_plan(&settings)?;
    let warnings = preflight::machine_warnings(&settings, &plan);
    let warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    let refused = servable::refused(&plan);
    let refused: Vec<String> = refused.iter().map(ToString::to_string).collect();
    if arguments.json {
        // The status is a finding, also if nobody reads the rest.
        let _ = json_document(
            &mut std::io::stdout().lock(),
            &Document {
                plan,
                refused,
                warnings,
            },
        );
        return Ok(());
    }
    say!("{plan}");
    if settings.hand_over.is_some() || settings.take_over.is_some() {
        say!(
            "during a hand-over the memory of both servers counts: {} MiB, if the other declares as much",
            plan.declared.memory_bytes >> 19
        );
    }
    for line in refused {
        say!("{line}");
    }
    for warning in warnings {
        say!("warning: {warning}");
    }
    Ok(())
}
