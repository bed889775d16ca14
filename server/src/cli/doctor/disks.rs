//! The disks below the stores: which stores fail together, which can't be written, which are slow.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use penstock::config::Settings;
use penstock::config::settings::is_remote;
use penstock_store::{Presence, presence};
use rustix::fs::{StatVfsMountFlags, major, minor, statvfs};

use super::check::{Check, Level, quoted};
use super::machine::Machine;

/// A store that is there.
pub(super) struct StoreAt {
    dir: PathBuf,
    /// Its file system's device.
    device: (u32, u32),
    /// What it fails together with, as `penstock init` was told.
    domain: Option<String>,
    read_only: bool,
}

/// The stores that are there. Whether one is away is said elsewhere.
pub(super) fn found(settings: &Settings) -> Vec<StoreAt> {
    let dirs = settings.stores.iter().filter(|dir| !is_remote(dir));
    dirs.filter_map(|dir| {
        let device = dir.metadata().ok()?.dev();
        let domain = match presence(&dir.as_path().into()) {
            Presence::Marked(marker) => marker.domain,
            Presence::Unmarked(_) => None,
            Presence::Absent(_) => return None,
        };
        let read_only =
            statvfs(dir).is_ok_and(|found| found.f_flag.contains(StatVfsMountFlags::RDONLY));
        Some(StoreAt {
            dir: dir.clone(),
            device: (major(device), minor(device)),
            domain,
            read_only,
        })
    })
    .collect()
}

/// All that is amiss or worth a note, what costs most first.
pub(super) fn checks(machine: &Machine, stores: &[StoreAt]) -> Vec<Check> {
    let mut checks = shared(machine, stores);
    let read_only = stores.iter().filter(|store| store.read_only);
    checks.extend(read_only.map(|store| {
        let dir = store.dir.display();
        let text = format!(
            "store {dir} is on a file system that is read-only: nothing is put or repaired there. The kernel makes it so \
             after errors of the disk: look with dmesg first"
        );
        let mount = format!("$(findmnt -n -o TARGET -T {})", quoted(&store.dir));
        Check::new("read_only", Level::EndangersData, text)
            .fixed_by(format!("mount -o remount,rw \"{mount}\""))
    }));
    let below = stores.iter().flat_map(|store| disks(machine, store.device));
    for disk in below.collect::<BTreeSet<String>>() {
        checks.extend(kind(machine, &disk));
    }
    checks
}

/// Stores that one failure takes together, though placement was not told so.
fn shared(machine: &Machine, stores: &[StoreAt]) -> Vec<Check> {
    // By what they lie on, and how it is called.
    let mut together: BTreeMap<(&str, String), Vec<&StoreAt>> = BTreeMap::new();
    for store in stores {
        let (major, minor) = store.device;
        let mut on: Vec<(&str, String)> = disks(machine, store.device)
            .into_iter()
            .map(|disk| ("the disk", disk))
            .collect();
        // A file system without a disk of its own: in memory, of several disks, or over the network.
        if on.is_empty() {
            on.push(("the file system", format!("{major}-{minor}")));
        }
        for one in on {
            together.entry(one).or_default().push(store);
        }
    }
    let mut checks = Vec::new();
    for ((what, name), stores) in together {
        let domains: BTreeSet<_> = stores.iter().map(|store| &store.domain).collect();
        let told = domains.len() == 1 && stores[0].domain.is_some();
        if stores.len() < 2 || told {
            continue;
        }
        let dirs: Vec<String> = stores
            .iter()
            .map(|store| store.dir.display().to_string())
            .collect();
        let text = format!(
            "{} stores lie on {what} {name}: when it fails, objects lose up to as many shares at once: {}",
            stores.len(),
            dirs.join(", ")
        );
        let check = Check::new("shared_disk", Level::EndangersData, text);
        let line: Vec<String> = stores
            .iter()
            .map(|store| format!("--store {},domain={name}", quoted(&store.dir)))
            .collect();
        checks.push(check.fixed_by(format!(
            "give each a disk of its own, or say that they fail together: penstock init {}",
            line.join(" ")
        )));
    }
    checks
}

/// The disks that a device lies on: itself, that of a partition, those below a mapping or an array.
fn disks(machine: &Machine, (major, minor): (u32, u32)) -> Vec<String> {
    let Ok(path) = machine
        .path(format!("sys/dev/block/{major}:{minor}"))
        .canonicalize()
    else {
        return Vec::new();
    };
    // A partition's directory is in that of its disk.
    let is_partition = path.join("partition").exists();
    let disk = if is_partition {
        path.parent()
    } else {
        Some(path.as_path())
    };
    let name = disk.and_then(|disk| disk.file_name()?.to_str());
    let mut found = BTreeSet::new();
    if let Some(name) = name {
        gather(machine, name, 0, &mut found);
    }
    found.into_iter().collect()
}

/// Mappings on mappings deeper than this are not looked through.
const DEPTH_MAX: usize = 8;

fn gather(machine: &Machine, name: &str, depth: usize, found: &mut BTreeSet<String>) {
    let below = machine.names(format!("sys/class/block/{name}/slaves"));
    if below.is_empty() || depth == DEPTH_MAX {
        let path = machine.path(format!("sys/class/block/{name}"));
        let real = path.canonicalize().unwrap_or(path);
        let parent = real
            .join("partition")
            .exists()
            .then(|| real.parent()?.file_name()?.to_str());
        found.insert(parent.flatten().unwrap_or(name).to_owned());
        return;
    }
    for below in below {
        gather(machine, &below, depth + 1, found);
    }
}

/// What a disk is: one that turns, or that is written in zones.
fn kind(machine: &Machine, disk: &str) -> Vec<Check> {
    let queue = format!("sys/class/block/{disk}/queue");
    let mut checks = Vec::new();
    let zoned = machine.text(format!("{queue}/zoned")).unwrap_or_default();
    if ["host-managed", "host-aware"].contains(&zoned.as_str()) {
        let text = format!(
            "{disk} is written in zones (SMR, {zoned}): put, repair and rebalance are many times slower there"
        );
        let check = Check::new("disk", Level::Slows, text);
        checks.push(check.fixed_by(
            "put a disk that is written conventionally (CMR) in its place, and penstock repair",
        ));
    }
    if machine.number(format!("{queue}/rotational")) == Some(1) {
        let scheduler = machine
            .text(format!("{queue}/scheduler"))
            .unwrap_or_default();
        let other = ["mq-deadline", "bfq"]
            .into_iter()
            .find(|name| scheduler.contains(name));
        if let (true, Some(other)) = (scheduler.contains("[none]"), other) {
            let text = format!(
                "{disk} is rotational and has no scheduler: reads of several clients are not brought into an order that seeks little"
            );
            let check = Check::new("disk", Level::Slows, text);
            checks
                .push(check.fixed_by(format!("echo {other} > /sys/block/{disk}/queue/scheduler")));
        }
        let text = format!(
            "{disk} is rotational, as the kernel has it: the first byte of what is not cached takes a seek on each of k disks. \
             Some disks with shingled tracks (SMR) don't say so: their data sheets do"
        );
        checks.push(Check::new("disk", Level::Note, text));
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    /// A machine with the disks `sda` (two partitions) and `sdb`, and the mapping `dm-0` on `sdb`.
    fn machine() -> (tempfile::TempDir, Machine) {
        let dir = tempfile::tempdir().unwrap();
        let sys = dir.path().join("sys");
        let devices = sys.join("devices/virtual/block");
        for (path, number) in [
            ("sda", "8:0"),
            ("sda/sda1", "8:1"),
            ("sda/sda2", "8:2"),
            ("sdb", "8:16"),
            ("dm-0", "253:0"),
        ] {
            let device = devices.join(path);
            fs::create_dir_all(&device).unwrap();
            for links in [
                sys.join("dev/block").join(number),
                sys.join("class/block").join(device.file_name().unwrap()),
            ] {
                fs::create_dir_all(links.parent().unwrap()).unwrap();
                symlink(&device, links).unwrap();
            }
            if path.contains('/') {
                fs::write(device.join("partition"), "1\n").unwrap();
            } else {
                fs::create_dir_all(device.join("queue")).unwrap();
            }
        }
        fs::create_dir_all(devices.join("dm-0/slaves")).unwrap();
        symlink(devices.join("sdb"), devices.join("dm-0/slaves/sdb")).unwrap();
        let machine = Machine::below(dir.path());
        (dir, machine)
    }

    fn store(dir: &str, device: (u32, u32)) -> StoreAt {
        StoreAt {
            dir: dir.into(),
            device,
            domain: None,
            read_only: false,
        }
    }

    #[test]
    fn a_device_is_traced_to_its_disks() {
        let (_dir, machine) = machine();
        for (device, disk) in [
            ((8, 0), "sda"),
            ((8, 1), "sda"),
            ((8, 2), "sda"),
            ((253, 0), "sdb"),
        ] {
            assert_eq!(disks(&machine, device), [disk], "{device:?}");
        }
        assert!(disks(&machine, (0, 42)).is_empty());
    }

    #[test]
    fn stores_on_one_disk_are_found_across_partitions_and_mappings() {
        let (_dir, machine) = machine();
        let apart = [store("/a", (8, 1)), store("/b", (8, 16))];
        assert_eq!(shared(&machine, &apart), []);
        let stores = [
            store("/a", (8, 1)),
            store("/b", (8, 2)),
            store("/c", (8, 16)),
            store("/d", (253, 0)),
            store("/e", (0, 42)),
        ];
        let found = shared(&machine, &stores);
        let texts: Vec<&str> = found.iter().map(|check| check.text.as_str()).collect();
        assert_eq!(texts.len(), 2, "{texts:?}");
        assert!(
            texts[0].contains("the disk sda") && texts[0].ends_with("/a, /b"),
            "{texts:?}"
        );
        assert!(
            texts[1].contains("the disk sdb") && texts[1].ends_with("/c, /d"),
            "{texts:?}"
        );
        let fix = found[0].fix.as_deref().unwrap();
        assert!(
            fix.ends_with("penstock init --store /a,domain=sda --store /b,domain=sda"),
            "{fix}"
        );
    }

    #[test]
    fn stores_that_were_said_to_fail_together_are_not_amiss() {
        let (_dir, machine) = machine();
        let mut stores = [store("/a", (0, 42)), store("/b", (0, 42))];
        assert_eq!(shared(&machine, &stores).len(), 1);
        stores[0].domain = Some("shelf".to_owned());
        assert_eq!(shared(&machine, &stores).len(), 1);
        stores[1].domain = Some("shelf".to_owned());
        assert_eq!(shared(&machine, &stores), []);
    }

    #[test]
    fn read_only_comes_with_its_line() {
        let (_dir, machine) = machine();
        let mut one = store("/a", (8, 16));
        one.read_only = true;
        let found = checks(&machine, &[one]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].check, found[0].ok), ("read_only", false));
        assert!(
            found[0]
                .fix
                .as_deref()
                .unwrap()
                .starts_with("mount -o remount,rw ")
        );
    }

    #[test]
    fn disks_that_turn_or_have_zones_are_told() {
        let (dir, machine) = machine();
        let queue = dir.path().join("sys/class/block/sda/queue");
        let levels = || {
            let found = kind(&machine, "sda");
            found.iter().map(|check| check.level).collect::<Vec<_>>()
        };
        assert!(levels().is_empty());
        fs::write(queue.join("rotational"), "1\n").unwrap();
        fs::write(queue.join("zoned"), "none\n").unwrap();
        fs::write(queue.join("scheduler"), "[mq-deadline] none\n").unwrap();
        assert_eq!(levels(), [Level::Note]);
        fs::write(queue.join("scheduler"), "[none] mq-deadline bfq\n").unwrap();
        assert_eq!(levels(), [Level::Slows, Level::Note]);
        let fix = kind(&machine, "sda")[0].fix.clone();
        assert_eq!(
            fix.as_deref(),
            Some("echo mq-deadline > /sys/block/sda/queue/scheduler")
        );
        fs::write(queue.join("zoned"), "host-managed\n").unwrap();
        assert_eq!(levels(), [Level::Slows, Level::Slows, Level::Note]);
    }
}
