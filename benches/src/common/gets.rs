//! Checks that a server serves objects unchanged.

use std::time::Duration;

use anyhow::{bail, ensure};
use penstock_load::{Class, Group, Plan, Verify};

use super::launch::Server;

/// Downloads each object once (path without a leading slash, SHA-256) and compares it.
///
/// # Errors
///
/// If an object is not received whole and unchanged.
pub fn verify(server: &Server, objects: &[(String, String)]) -> anyhow::Result<()> {
    let mut plan = Plan::new(&server.url(""));
    plan.duration = Duration::from_secs(120);
    for ((path, sha256), number) in objects.iter().zip(0..) {
        plan.groups.push(Group {
            // A path may have characters that a name may not have.
            name: format!("object-{number}"),
            path: Some(format!("/{path}")),
            requests: Some(1),
            verify: Some(Verify::sha256_hex(sha256)?),
            ..Group::new(Class::Fast, 1)
        });
    }
    for (group, (path, _)) in penstock_load::run(&plan)?.groups.iter().zip(objects) {
        if let Some(fault) = group.faults.first() {
            bail!("{path}: {}", fault.first);
        }
        ensure!(
            group.completed == 1 && group.checked_bytes == group.body_bytes,
            "{path} was not received whole: {} bytes, {} of them compared",
            group.body_bytes,
            group.checked_bytes
        );
    }
    Ok(())
}
