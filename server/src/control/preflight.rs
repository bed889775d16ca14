//! What is checked before the server starts: its directories, its memory plan, and the limits of the machine.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use super::error::ServeError;
use super::memory_limit;
use crate::config::Settings;
use crate::config::values::ZeroCopyMode;
use crate::io::{self as kernel, Resource};
use crate::memory::costs;
use crate::memory::limits;
use crate::memory::plan::{Declared, MemoryPlan};
use crate::memory::refusal::PlanRefusal;
use crate::remote::{Remote, RemoteOptions};
use crate::stores::Stores;

/// Tries the stores and nodes. Some must answer; those that don't are suspended, and looked for from now on.
pub(super) fn start_stores(settings: &Settings) -> Result<Arc<Stores>, ServeError> {
    let (stores, nodes) = (&settings.stores, &settings.tahoe_nodes);
    if stores.is_empty() && nodes.is_empty() {
        return Err(ServeError::NoStores);
    }
    let remote = match settings.remote_stores() {
        0 => None,
        _ => Some(start_remote(settings)?),
    };
    Ok(Stores::new(stores, nodes, settings.store_timeout, remote)?.start()?)
}

/// Opens the cache of remote stores.
fn start_remote(settings: &Settings) -> Result<Arc<Remote>, ServeError> {
    let wanted = &settings.remote;
    let dir = match &wanted.cache {
        Some(dir) => dir.clone(),
        None => usual_cache().ok_or(ServeError::NoCache)?,
    };
    let options = RemoteOptions {
        fetches: wanted.fetches,
        ttl: wanted.ttl,
        hedges: wanted.hedges,
        takes_over: settings.take_over.is_some(),
    };
    Ok(Remote::start(&dir, wanted.cache_size, options)?)
}

/// Where programs keep what they can get again: what systemd gives a service, or what the XDG base directory specification
/// says.
fn usual_cache() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let base = set("CACHE_DIRECTORY")
        .or_else(|| set("XDG_CACHE_HOME"))
        .map(PathBuf::from);
    let base = base.or_else(|| Some(PathBuf::from(set("HOME")?).join(".cache")))?;
    Some(base.join("penstock"))
}

/// Divides the declared memory, which must be there, within this machine's limit on descriptors, which is raised as far
/// as it may be.
pub fn memory_plan(settings: &Settings) -> Result<MemoryPlan, ServeError> {
    memory_limit::check(settings.memory_bytes)?;
    let descriptors = kernel::raise_resource_limit(Resource::Descriptors)
        .map_err(ServeError::system("RLIMIT_NOFILE"))?;
    let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
    Ok(plan_within(settings, descriptors)?)
}

/// The same with so many descriptors, whatever the machine allows.
fn plan_within(settings: &Settings, descriptors: usize) -> Result<MemoryPlan, PlanRefusal> {
    let gateway = !settings.tahoe_nodes.is_empty();
    let share_files = settings
        .share_files
        .unwrap_or_else(|| limits::share_files(settings.cores, descriptors));
    let own = limits::descriptors_own(settings.cores, share_files);
    MemoryPlan::new(Declared {
        memory_bytes: settings.memory_bytes,
        cores: settings.cores,
        stores: settings.stores.len() + settings.tahoe_nodes.len(),
        remote_stores: settings.remote_stores(),
        fetches: settings.remote.fetches,
        pool_buffers: settings.pool_buffers,
        pool_buffer_bytes: settings.pool_buffer_bytes,
        hot_bytes: settings.hot_bytes,
        readahead_bytes: settings.readahead_bytes,
        rebuilt_bytes: settings.rebuilt_bytes,
        share_files,
        gateway,
        access_log: settings.access_log.is_some(),
        tls: settings.tls_listen.is_some(),
        admin_tls: settings.admin_client_ca.is_some(),
        connections: settings.connections_max,
        descriptors_allow: descriptors.saturating_sub(own),
        descriptors_own: own,
    })
}

/// Something that the operator may want to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    /// What it is.
    pub text: String,
    /// The line that changes it, if one does.
    pub fix: Option<String>,
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        match &self.fix {
            Some(fix) => write!(f, ": `{fix}`"),
            None => Ok(()),
        }
    }
}

/// Advice if the limit on locked memory is too low for every core to register its pool with io_uring: once for
/// reads, and once for zero-copy sends. A running server tries anyway, and logs the result.
pub fn locked_memory_advice(settings: &Settings, plan: &MemoryPlan) -> Option<Advice> {
    let (times, sends) = match settings.zero_copy {
        ZeroCopyMode::Off => (1, ""),
        _ => (2, " and send by copy"),
    };
    let wanted = (costs::RING_LOCKED_BYTES + times * plan.pool_bytes) * plan.declared.cores as u64;
    let (_, locked) = kernel::resource_limit(Resource::LockedMemory);
    (locked < wanted && !kernel::may_lock_memory()).then(|| {
        let kib = wanted.div_ceil(1024);
        Advice {
            text: format!(
                "RLIMIT_MEMLOCK is {} KiB, rings and registered pool buffers take {kib} KiB: some cores use theirs \
                 unregistered{sends}",
                locked >> 10,
            ),
            fix: Some(format!("ulimit -l {kib}, or LimitMEMLOCK={wanted} in the unit")),
        }
    })
}

/// Limits of the machine that are lower than the plan needs, each with the command that raises it.
pub fn machine_warnings(settings: &Settings, plan: &MemoryPlan) -> Vec<Advice> {
    let mut warnings = Vec::new();
    let setting = |path: &str| -> Option<Vec<u64>> {
        let text = std::fs::read_to_string(path).ok()?;
        text.split_whitespace()
            .map(|number| number.parse().ok())
            .collect()
    };
    // tcp_mem holds three limits in pages for all sockets of the machine: low, pressure, maximum.
    let sockets =
        plan.connections as u64 * costs::socket_bytes(plan.send_buffer_floor) + plan.credit_bytes;
    if let Some([_, pressure, _]) = setting("/proc/sys/net/ipv4/tcp_mem").as_deref()
        && pressure * 4096 < sockets
    {
        warnings.push(Advice {
            text: format!(
                "net.ipv4.tcp_mem puts TCP under pressure at {} MiB, this plan's sockets may take {} MiB",
                (pressure * 4096) >> 20,
                sockets >> 20,
            ),
            fix: Some(format!(
                "sysctl -w net.ipv4.tcp_mem=\"{} {} {}\"",
                sockets / 4096,
                sockets / 4096 * 3 / 2,
                sockets / 4096 * 2,
            )),
        });
    }
    if settings.hand_over.is_some()
        && let Err(refusal) =
            memory_limit::check_both(plan.declared.memory_bytes, plan.declared.memory_bytes)
    {
        warnings.push(Advice {
            text: format!("no hand-over to a server like this one is possible: {refusal}"),
            fix: None,
        });
    }
    let wanted = settings.send_buffer_max;
    if send_buffer_max(wanted) < wanted {
        warnings.push(Advice {
            text: format!(
                "net.core.wmem_max caps a connection's send buffer at {} KiB",
                send_buffer_max(wanted) >> 10,
            ),
            fix: Some(format!("sysctl -w net.core.wmem_max={wanted}")),
        });
    }
    warnings
}

/// Logs what the operator may want to change.
pub(super) fn log_advice(settings: &Settings, plan: &MemoryPlan) {
    for warning in machine_warnings(settings, plan) {
        tracing::info!("{warning}");
    }
    if settings.send_timeout < limits::SEND_TIMEOUT_ADVISED {
        tracing::warn!(
            "--send-timeout {}: clients that read slowly acknowledge in steps some seconds apart, and may be \
             closed; {} or more spares them",
            humantime::format_duration(settings.send_timeout),
            humantime::format_duration(limits::SEND_TIMEOUT_ADVISED),
        );
    }
}

/// The largest `SO_SNDBUF` that the kernel lets this process set, up to `wanted`. It silently reduces larger ones
/// (socket(7)).
pub(super) fn send_buffer_max(wanted: u32) -> u32 {
    std::fs::read_to_string("/proc/sys/net/core/wmem_max")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .map_or(wanted, |most: u32| most.min(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Options;

    /// A server with 64 cores did not start by `penstock serve --store DIR`: 512 MiB were too little.
    #[test]
    fn a_machine_of_any_size_starts_by_default() {
        for cores in [1, 2, 16, 17, 64, 192, 1024] {
            let mut settings = Settings::new(Options::default(), cores).unwrap();
            for tls in [false, true] {
                settings.tls_listen = tls.then(|| settings.listen.clone());
                let plan = plan_within(&settings, 1 << 20);
                let plan = plan.unwrap_or_else(|refusal| panic!("{cores} cores: {refusal}"));
                assert!(plan.connections >= 100 * cores, "{}", plan.connections);
            }
        }
    }
}
