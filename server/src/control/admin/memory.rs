//! Memory as declared, planned, lent and measured.

use super::state::ServerState;

/// Name, help and value of each gauge of the whole process.
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
            "Memory planned for the process itself",
            plan.fixed_bytes,
        ),
        (
            "memory_planned_admin_bytes",
            "Memory planned for the admin listener",
            plan.admin_bytes,
        ),
        (
            "memory_planned_cores_bytes",
            "Memory planned for all cores",
            cores * plan.core_bytes(),
        ),
        (
            "memory_planned_connections_bytes",
            "Memory planned for all connections, without lent credit",
            plan.connections as u64 * plan.connection_bytes,
        ),
        (
            "memory_credit_bytes",
            "Memory that can be lent to connections as credit",
            server.budget.total(),
        ),
        (
            "memory_credit_lent_bytes",
            "Credit lent to connections now",
            server.budget.total().saturating_sub(server.budget.free()),
        ),
        (
            "memory_resident_bytes",
            "Resident memory of the process (VmRSS)",
            process.resident,
        ),
        (
            "memory_resident_peak_bytes",
            "The most resident memory the process ever had (VmHWM)",
            process.resident_most,
        ),
        (
            "connections_max",
            "Connections that the memory is planned for",
            plan.connections as u64,
        ),
        (
            "connections_open",
            "Connections that have a seat",
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
