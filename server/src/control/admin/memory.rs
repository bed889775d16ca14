//! Memory as declared, planned, lent and measured.

use serde::Serialize;

use crate::control::state::ServerState;
use crate::memory::limits::READAHEAD_BUFFER_BYTES;
use crate::stats::CoreStats;

/// A part of the declared memory, in `/status`.
#[derive(Debug, Serialize)]
pub(super) struct Part {
    part: &'static str,
    planned_bytes: u64,
    /// What it takes now. Of some parts only what the whole process takes is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    used_bytes: Option<u64>,
}

/// The parts of the declared memory, which add up to it.
pub(super) fn parts(server: &ServerState) -> Vec<Part> {
    let plan = &server.plan;
    let cores = plan.declared.cores as u64;
    let sum = |of: fn(&CoreStats) -> u64| -> u64 { server.cores.iter().map(|core| of(core)).sum() };
    let pool = sum(|core| (core.pool_buffers.get()).saturating_sub(core.pool_buffers_free.get()))
        * plan.declared.pool_buffer_bytes as u64;
    let readahead = sum(|core| {
        (core.readahead_buffers.get()).saturating_sub(core.readahead_buffers_free.get())
    }) * READAHEAD_BUFFER_BYTES as u64;
    let process = plan.fixed_bytes
        + plan.admin_bytes
        + plan.stores_bytes
        + plan.remote_bytes
        + plan.access_log_bytes;
    let rest = plan.ring_bytes + plan.networks_bytes + plan.waiting_bytes + plan.tls_bytes;
    let connections = plan.connections as u64 * plan.connection_bytes + plan.credit_bytes;
    let part = |part, planned_bytes, used_bytes| Part {
        part,
        planned_bytes,
        used_bytes,
    };
    vec![
        part("process, admin listener, stores", process, None),
        part("pool buffers", cores * plan.pool_bytes, Some(pool)),
        part("readahead", cores * plan.readahead_bytes, Some(readahead)),
        part(
            "hot objects",
            cores * plan.hot_bytes,
            Some(sum(|core| core.hot_memory_bytes.get())),
        ),
        part(
            "rebuilt blocks",
            cores * plan.rebuilt_bytes,
            Some(sum(|core| core.rebuilt_memory_bytes.get())),
        ),
        part(
            "verified leaves",
            cores * plan.verified_bytes,
            Some(sum(|core| core.verified_memory_bytes.get())),
        ),
        part(
            "decoder",
            cores * plan.decoder_bytes,
            Some(sum(|core| core.decoder_bytes.get())),
        ),
        part("checksums and open objects", cores * plan.cache_bytes, None),
        part("rings, backlog, networks, TLS", cores * rest, None),
        part(
            "connections, with credit",
            connections,
            Some(sum(|core| {
                core.socket_bytes.get() + core.connection_bytes.get()
            })),
        ),
    ]
}

/// Credit that is lent now.
pub(super) fn credit_lent_bytes(server: &ServerState) -> u64 {
    let budget = &server.budget;
    budget.total().saturating_sub(budget.free())
}

/// Resident memory of the process.
pub(super) fn resident_bytes() -> u64 {
    process().resident
}

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
            credit_lent_bytes(server),
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
