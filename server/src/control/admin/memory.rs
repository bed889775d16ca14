//! The account of memory: declared, planned, lent and measured.

use super::state::ServerState;

/// Name, help and value of each gauge that concerns the whole process.
pub(super) fn gauges(server: &ServerState) -> Vec<(&'static str, &'static str, u64)> {
    let plan = &server.plan;
    let cores = plan.declared.cores as u64;
    let process = process();
    vec![
        (
            "memory_declared_bytes",
            "Memory that may be used",
            plan.declared.memory_bytes,
        ),
        (
            "memory_planned_fixed_bytes",
            "Planned for the process itself",
            plan.fixed_bytes,
        ),
        (
            "memory_planned_cores_bytes",
            "Planned for all cores",
            cores * plan.core_bytes(),
        ),
        (
            "memory_planned_connections_bytes",
            "Planned for all connections at their floor",
            plan.connections as u64 * plan.connection_bytes,
        ),
        (
            "memory_credit_bytes",
            "Credit to lend",
            server.budget.total(),
        ),
        (
            "memory_credit_lent_bytes",
            "Credit lent now",
            server.budget.total().saturating_sub(server.budget.free()),
        ),
        (
            "memory_resident_bytes",
            "Resident memory of the process (VmRSS)",
            process.resident,
        ),
        (
            "memory_resident_most_bytes",
            "The most it ever was (VmHWM)",
            process.resident_most,
        ),
        (
            "connections_max",
            "Connections that are planned for",
            plan.connections as u64,
        ),
        (
            "connections_open",
            "Connections that have a place",
            server.seats.taken() as u64,
        ),
    ]
}

/// What the kernel says about this process.
#[derive(Default)]
struct Process {
    resident: u64,
    resident_most: u64,
}

fn process() -> Process {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bytes = |name: &str| -> u64 {
        text.lines()
            .find_map(|line| {
                line.strip_prefix(name)?
                    .trim()
                    .strip_suffix(" kB")?
                    .parse::<u64>()
                    .ok()
            })
            .unwrap_or_default()
            * 1024
    };
    Process {
        resident: bytes("VmRSS:"),
        resident_most: bytes("VmHWM:"),
    }
}
