//! `penstock plan`: shows how the declared memory would be divided.

use std::process::ExitCode;

use penstock::control::preflight;
use penstock::memory::limits::{REMOTE_AHEAD_BYTES, REMOTE_EXTENT_BYTES};
use penstock::memory::plan::MemoryPlan;
use penstock::objects::servable;
use serde::Serialize;

use super::output::{json_document, write_finding};
use super::serve::Reported;

/// What JSON has of it.
#[derive(Serialize)]
struct Document {
    plan: MemoryPlan,
    /// Where stores are remote.
    #[serde(skip_serializing_if = "Option::is_none")]
    requests_per_gib: Option<RequestsPerGib>,
    /// Objects that can't be served with it, and what would do.
    refused: Vec<String>,
    warnings: Vec<String>,
}

/// Requests to remote stores for a GiB that is not in the cache, whatever the code: fetches hold data, and of each byte k
/// shares have one.
#[derive(Clone, Copy, Serialize)]
struct RequestsPerGib {
    /// For a client that is fetched ahead for.
    fast: u64,
    /// For one that is not.
    slow: u64,
}

impl RequestsPerGib {
    fn of(plan: &MemoryPlan) -> Option<RequestsPerGib> {
        (plan.declared.remote_stores > 0).then_some(RequestsPerGib {
            fast: (1 << 30) / REMOTE_AHEAD_BYTES,
            slow: (1 << 30) / REMOTE_EXTENT_BYTES,
        })
    }
}

pub(super) fn run(arguments: Reported) -> anyhow::Result<ExitCode> {
    let settings = arguments.serve.settings()?;
    let plan = preflight::memory_plan(&settings)?;
    let warnings = preflight::machine_warnings(&settings, &plan);
    let warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    let refused = servable::refused(&plan);
    let refused: Vec<String> = refused.iter().map(ToString::to_string).collect();
    write_finding(0, |out| {
        if arguments.json {
            let document = Document {
                requests_per_gib: RequestsPerGib::of(&plan),
                plan,
                refused,
                warnings,
            };
            return json_document(out, &document);
        }
        writeln!(out, "{plan}")?;
        if let Some(RequestsPerGib { fast, slow }) = RequestsPerGib::of(&plan) {
            writeln!(
                out,
                "requests to remote stores for 1 GiB that is not in the cache: {fast} for a fast client, {slow} for a slow \
                 one, and a listing in each store for an object"
            )?;
        }
        if settings.hand_over.is_some() || settings.take_over.is_some() {
            writeln!(
                out,
                "during a hand-over the memory of both servers counts: {} MiB, if the other declares as much",
                plan.declared.memory_bytes >> 19
            )?;
        }
        for line in refused {
            writeln!(out, "{line}")?;
        }
        for warning in warnings {
            writeln!(out, "warning: {warning}")?;
        }
        Ok(())
    })
}
