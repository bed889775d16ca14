//! How much memory the machine, or a cgroup that this process is in, allows.
//!
//! A server that declares more would be ended by the kernel, at the worst time, or start with an allocation that can't
//! succeed. So it doesn't start.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use procfs_core::process::{MountInfo, MountInfos};
use procfs_core::{FromRead, Meminfo, ProcessCGroups};

/// The least of the limits on this process's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryLimit {
    /// Bytes.
    pub bytes: u64,
    /// Who sets it.
    pub source: LimitSource,
}

/// Where a limit on memory comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LimitSource {
    /// The machine has no more.
    Machine,
    /// A cgroup that this process is in.
    Cgroup {
        /// The file with the limit.
        file: PathBuf,
    },
}

/// More memory was declared than there is.
#[derive(Debug, thiserror::Error)]
#[error(
    "--memory {}: {} allows {}MiB; {}", crate::config::values::Exact(*declared_bytes), limit.source, limit.bytes >> 20,
    advice(limit)
)]
pub struct MemoryRefusal {
    /// What was declared.
    pub declared_bytes: u64,
    /// The limit.
    pub limit: MemoryLimit,
}

/// The memory of two servers, of which one takes over from the other, is more than there is.
#[derive(Debug, thiserror::Error)]
#[error(
    "--take-over: --memory {} and the {} of the server that hands over count together until that one has ended, and \
     {} allows {}MiB; declare less, raise that limit, or stop the old server first",
    crate::config::values::Exact(*declared_bytes), crate::config::values::Exact(*other_bytes), limit.source,
    limit.bytes >> 20
)]
pub struct BothMemoryRefusal {
    /// What this server declares.
    pub declared_bytes: u64,
    /// What the other one declares.
    pub other_bytes: u64,
    /// The limit.
    pub limit: MemoryLimit,
}

/// Refuses to take over from a server if both together declare more than there is.
pub fn check_both(declared_bytes: u64, other_bytes: u64) -> Result<(), BothMemoryRefusal> {
    let sum = declared_bytes.saturating_add(other_bytes);
    match memory_limit(Path::new("/")) {
        Some(limit) if limit.bytes < sum => Err(BothMemoryRefusal {
            declared_bytes,
            other_bytes,
            limit,
        }),
        _ => Ok(()),
    }
}

fn advice(limit: &MemoryLimit) -> &'static str {
    match limit.source {
        LimitSource::Machine => "declare less, and leave some for the rest of the machine",
        LimitSource::Cgroup { .. } => {
            "declare less, or raise that limit (MemoryMax= of a systemd unit, --memory of a container)"
        }
    }
}

impl fmt::Display for LimitSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LimitSource::Machine => f.write_str("this machine (MemTotal in /proc/meminfo)"),
            LimitSource::Cgroup { file } => write!(f, "the cgroup ({})", file.display()),
        }
    }
}

/// Refuses more than this machine and the cgroups of this process allow.
pub fn check(declared_bytes: u64) -> Result<(), MemoryRefusal> {
    match memory_limit(Path::new("/")) {
        Some(limit) if limit.bytes < declared_bytes => Err(MemoryRefusal {
            declared_bytes,
            limit,
        }),
        _ => Ok(()),
    }
}

/// The least limit, as the files below `root` have it. `None` if they tell nothing, as where there is no /proc.
pub fn memory_limit(root: &Path) -> Option<MemoryLimit> {
    let machine = read::<Meminfo>(root, "proc/meminfo").map(|memory| MemoryLimit {
        bytes: memory.mem_total,
        source: LimitSource::Machine,
    });
    let cgroups = limit_files(root).into_iter().filter_map(|file| {
        let bytes = read_limit(&below(root, &file))?;
        let source = LimitSource::Cgroup { file };
        Some(MemoryLimit { bytes, source })
    });
    // Of equal limits the first is meant: the machine, then a cgroup before its parents.
    machine
        .into_iter()
        .chain(cgroups)
        .min_by_key(|limit| limit.bytes)
}

/// The files that may hold a limit, as this process sees them: of each cgroup with memory control that it is in, and of
/// that one's ancestors.
fn limit_files(root: &Path) -> Vec<PathBuf> {
    let mounts = read::<MountInfos>(root, "proc/self/mountinfo").map_or(vec![], |mounts| mounts.0);
    let cgroups = read::<ProcessCGroups>(root, "proc/self/cgroup").map_or(vec![], |all| all.0);
    let mut files = Vec::new();
    for cgroup in cgroups {
        // Version 2 has one hierarchy, without a name. In version 1 each controller may have its own.
        let unified = cgroup.hierarchy == 0;
        let memory = |name: &str| name == "memory";
        let of_this = |mount: &&MountInfo| match unified {
            true => mount.fs_type == "cgroup2",
            false => mount.fs_type == "cgroup" && mount.super_options.contains_key("memory"),
        };
        if !unified && !cgroup.controllers.iter().any(|name| memory(name)) {
            continue;
        }
        let name = match unified {
            true => "memory.max",
            false => "memory.limit_in_bytes",
        };
        let Some(mount) = mounts.iter().find(of_this) else {
            continue;
        };
        // A container may see only a part of the hierarchy, its own, and that at the mount point.
        let inside = Path::new(&cgroup.pathname)
            .strip_prefix(&mount.root)
            .unwrap_or(Path::new(""));
        let ancestors = inside.ancestors();
        files.extend(ancestors.map(|dir| mount.mount_point.join(dir).join(name)));
    }
    files
}

/// The number in a file, if it is a limit. `max` is none.
fn read_limit(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

fn read<T: FromRead>(root: &Path, file: &str) -> Option<T> {
    T::from_file(root.join(file)).ok()
}

/// An absolute path, below another root.
fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree of files below a root of their own.
    struct Tree(tempfile::TempDir);

    const MEMINFO: &str = "MemTotal: 1048576 kB\nMemFree: 1 kB\nBuffers: 1 kB\nCached: 1 kB\nSwapCached: 0 kB\n\
         Active: 1 kB\nInactive: 1 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\nDirty: 0 kB\nWriteback: 0 kB\nMapped: 1 kB\n\
         Slab: 1 kB\nCommitted_AS: 1 kB\nVmallocTotal: 1 kB\nVmallocUsed: 1 kB\nVmallocChunk: 0 kB\n";
    const V2: &str =
        "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    fn tree(files: &[(&str, &str)]) -> Tree {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Tree(dir)
    }

    impl Tree {
        /// Bytes, and the file of a cgroup.
        fn limit(&self) -> Option<(u64, Option<String>)> {
            memory_limit(self.0.path()).map(|limit| match limit.source {
                LimitSource::Machine => (limit.bytes, None),
                LimitSource::Cgroup { file } => (limit.bytes, Some(file.display().to_string())),
            })
        }
    }

    #[test]
    fn without_cgroups_the_machine_is_the_limit() {
        assert_eq!(tree(&[]).limit(), None);
        let machine = tree(&[("proc/meminfo", MEMINFO)]);
        assert_eq!(machine.limit(), Some((1 << 30, None)));
        let unlimited = tree(&[
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "0::/a.slice\n"),
            ("proc/self/mountinfo", V2),
            ("sys/fs/cgroup/a.slice/memory.max", "max\n"),
        ]);
        assert_eq!(unlimited.limit(), Some((1 << 30, None)));
    }

    #[test]
    fn the_least_of_a_cgroup_and_its_ancestors_counts() {
        let limits = |own: &str, parent: &str| {
            tree(&[
                ("proc/meminfo", MEMINFO),
                ("proc/self/cgroup", "0::/a.slice/b.service\n"),
                ("proc/self/mountinfo", V2),
                ("sys/fs/cgroup/a.slice/memory.max", parent),
                ("sys/fs/cgroup/a.slice/b.service/memory.max", own),
            ])
            .limit()
            .unwrap()
        };
        let parent = "/sys/fs/cgroup/a.slice/memory.max".to_owned();
        let own = "/sys/fs/cgroup/a.slice/b.service/memory.max".to_owned();
        assert_eq!(limits("1000\n", "max\n"), (1000, Some(own.clone())));
        assert_eq!(limits("max\n", "2000\n"), (2000, Some(parent.clone())));
        assert_eq!(limits("3000\n", "2000\n"), (2000, Some(parent)));
        assert_eq!(limits("2000\n", "2000\n"), (2000, Some(own)));
        assert_eq!(limits("9999999999999\n", "max\n"), (1 << 30, None));
    }

    #[test]
    fn a_container_sees_its_own_cgroup_at_the_mount_point() {
        // In a namespace of its own, and without one, where the path is the host's.
        for (cgroup, root) in [
            ("/", "/"),
            ("/docker/c0", "/docker/c0"),
            ("/docker/c0", "/elsewhere"),
        ] {
            let container = tree(&[
                ("proc/meminfo", MEMINFO),
                ("proc/self/cgroup", &format!("0::{cgroup}\n")),
                (
                    "proc/self/mountinfo",
                    &V2.replace(" / /sys", &format!(" {root} /sys")),
                ),
                ("sys/fs/cgroup/memory.max", "5000\n"),
            ]);
            let file = "/sys/fs/cgroup/memory.max".to_owned();
            assert_eq!(
                container.limit(),
                Some((5000, Some(file))),
                "{cgroup} {root}"
            );
        }
    }

    #[test]
    fn version_1_has_a_hierarchy_for_memory() {
        let limit = |own: &str| {
            tree(&[
                ("proc/meminfo", MEMINFO),
                (
                    "proc/self/cgroup",
                    "12:cpuset:/x\n4:memory:/user/a\n1:name=systemd:/user\n0::/user\n",
                ),
                (
                    "proc/self/mountinfo",
                    "31 23 0:27 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n\
                     32 23 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                     33 23 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
                ),
                (
                    "sys/fs/cgroup/memory/memory.limit_in_bytes",
                    "9223372036854771712\n",
                ),
                ("sys/fs/cgroup/memory/user/a/memory.limit_in_bytes", own),
            ])
            .limit()
            .unwrap()
        };
        let file = "/sys/fs/cgroup/memory/user/a/memory.limit_in_bytes".to_owned();
        assert_eq!(limit("7000\n"), (7000, Some(file)));
        assert_eq!(limit("9223372036854771712\n"), (1 << 30, None));
    }

    #[test]
    fn a_refusal_names_both_numbers_and_the_way_out() {
        let refusal = |source| {
            let limit = MemoryLimit {
                bytes: (24 << 30) - 1,
                source,
            };
            MemoryRefusal {
                declared_bytes: 40 << 30,
                limit,
            }
            .to_string()
        };
        assert_eq!(
            refusal(LimitSource::Machine),
            "--memory 40GiB: this machine (MemTotal in /proc/meminfo) allows 24575MiB; declare less, and leave some \
             for the rest of the machine"
        );
        let file = PathBuf::from("/sys/fs/cgroup/a/memory.max");
        assert_eq!(
            refusal(LimitSource::Cgroup { file }),
            "--memory 40GiB: the cgroup (/sys/fs/cgroup/a/memory.max) allows 24575MiB; declare less, or raise that \
             limit (MemoryMax= of a systemd unit, --memory of a container)"
        );
    }

    #[test]
    fn this_machine_has_a_limit() {
        let limit = memory_limit(Path::new("/")).expect("Linux tells");
        assert!(limit.bytes > 16 << 20, "{limit:?}");
        assert!(check(limit.bytes).is_ok());
        assert!(check_both(limit.bytes / 2, limit.bytes / 2).is_ok());
        let error = check_both(limit.bytes / 2 + 1, limit.bytes / 2 + 1);
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("count together until that one has ended"),
            "{error}"
        );
        let error = check(10 << 40).unwrap_err().to_string();
        assert!(error.starts_with("--memory 10TiB: "), "{error}");
    }
}
