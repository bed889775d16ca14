//! What the kernel tells of the machine: memory that is left for the page cache, settings of TCP, network interfaces,
//! huge pages.

use std::fs;
use std::path::{Path, PathBuf};

use penstock::config::Settings;
use penstock::control::memory_limit::{LimitSource, memory_limit};
use penstock::memory::limits::LISTEN_BACKLOG;

use super::check::{Check, Level};

/// What is to be left beside the declared memory, so that what clients ask for again is still in the page cache: this much
/// at least,
const PAGE_CACHE_LEAST: u64 = 256 << 20;
/// and at least one part in so many of all.
const PAGE_CACHE_PART: u64 = 8;
/// Per cent of the last minute that some task waited for memory, above which it is short.
const PRESSURE_MOST: f64 = 5.0;

/// A machine, as the files below a directory have it.
pub(super) struct Machine {
    root: PathBuf,
}

impl Machine {
    /// This one.
    pub(super) fn here() -> Machine {
        Machine::below("/")
    }

    /// One whose `/proc` and `/sys` are below a directory.
    pub(super) fn below(root: impl Into<PathBuf>) -> Machine {
        Machine { root: root.into() }
    }

    /// Where a file of it is.
    pub(super) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(path)
    }

    /// A file's text, without white space around it.
    pub(super) fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        let text = fs::read_to_string(self.path(path)).ok()?;
        Some(text.trim().to_owned())
    }

    /// A file's first number.
    pub(super) fn number(&self, path: impl AsRef<Path>) -> Option<u64> {
        self.text(path)?.split_whitespace().next()?.parse().ok()
    }

    /// The names in a directory, in order.
    pub(super) fn names(&self, path: impl AsRef<Path>) -> Vec<String> {
        let Ok(entries) = self.path(path).read_dir() else {
            return Vec::new();
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    /// All that is amiss or worth a note, what costs most first.
    pub(super) fn checks(&self, settings: &Settings) -> Vec<Check> {
        let parts = [
            self.page_cache(settings.memory_bytes),
            self.pressure(),
            self.tcp(),
            self.network(settings.cores),
            self.huge_pages(),
        ];
        parts.into_iter().flatten().collect()
    }

    /// What the least limit on memory leaves for the page cache, which is charged to a cgroup, too.
    fn page_cache(&self, declared: u64) -> Vec<Check> {
        let Some(limit) = memory_limit(&self.root) else {
            return Vec::new();
        };
        let wanted = PAGE_CACHE_LEAST.max(limit.bytes / PAGE_CACHE_PART);
        // More than the limit is refused elsewhere.
        let Some(left) = limit
            .bytes
            .checked_sub(declared)
            .filter(|left| *left < wanted)
        else {
            return Vec::new();
        };
        let text = format!(
            "{} leaves {} MiB beside --memory for the page cache: what was verified is not there when it is asked for \
             again, and is read and verified anew",
            limit.source,
            left >> 20
        );
        let check = Check::new("page_cache", Level::Slows, text);
        vec![check.fixed_by(match limit.source {
            LimitSource::Machine => {
                format!(
                    "penstock serve --memory {}MiB",
                    limit.bytes.saturating_sub(wanted) >> 20
                )
            }
            LimitSource::Cgroup { .. } => format!(
                "MemoryMax={}M in the unit, or so much as --memory of the container",
                (declared + wanted) >> 20
            ),
        })]
    }

    /// Whether tasks wait for memory now.
    fn pressure(&self) -> Vec<Check> {
        let text = self.text("proc/pressure/memory").unwrap_or_default();
        let some = text.lines().find_map(|line| line.strip_prefix("some "));
        let words = some.into_iter().flat_map(str::split_whitespace);
        let lately = words.filter_map(|word| word.strip_prefix("avg60=")?.parse::<f64>().ok());
        let short = lately.filter(|percent| *percent > PRESSURE_MOST);
        let check = short.map(|percent| {
            let text = format!(
                "memory is short: in {percent}% of the last minute a task waited for it (/proc/pressure/memory), as for \
                 pages that had left the page cache"
            );
            Check::new("page_cache", Level::Slows, text)
                .fixed_by("ps -eo pid,rss,comm --sort=-rss | head, and stop or move what takes it")
        });
        check.collect()
    }

    /// Settings of TCP that make every connection slow, or have new ones dropped.
    fn tcp(&self) -> Vec<Check> {
        let mut checks = Vec::new();
        for (name, what) in [
            (
                "tcp_window_scaling",
                "no connection has more than 64 KiB under way",
            ),
            ("tcp_sack", "one lost packet has all after it sent again"),
        ] {
            let key = format!("net.ipv4.{name}");
            if self.number(format!("proc/sys/net/ipv4/{name}")) == Some(0) {
                let check = Check::new("network", Level::Slows, format!("{key} is off: {what}"));
                checks.push(check.fixed_by(format!("sysctl -w {key}=1")));
            }
        }
        let backlog = LISTEN_BACKLOG as u64;
        for (path, key) in [
            ("proc/sys/net/core/somaxconn", "net.core.somaxconn"),
            (
                "proc/sys/net/ipv4/tcp_max_syn_backlog",
                "net.ipv4.tcp_max_syn_backlog",
            ),
        ] {
            if let Some(most) = self.number(path).filter(|most| *most < backlog) {
                let text = format!(
                    "{key} is {most}: of many clients that come at once some wait a second or longer, as the listeners' \
                     backlog is {backlog}"
                );
                let check = Check::new("network", Level::Slows, text);
                checks.push(check.fixed_by(format!("sysctl -w {key}={backlog}")));
            }
        }
        checks
    }

    /// Interfaces of which few cores take the packets.
    fn network(&self, cores: usize) -> Vec<Check> {
        let all = self.names("sys/class/net").into_iter();
        all.filter_map(|name| {
            let dir = format!("sys/class/net/{name}");
            let up = self.text(format!("{dir}/operstate")).as_deref() == Some("up");
            // Others have no hardware of their own.
            if !up || !self.path(format!("{dir}/device")).exists() {
                return None;
            }
            let queues = self.names(format!("{dir}/queues"));
            let receive: Vec<&String> = queues.iter().filter(|q| q.starts_with("rx-")).collect();
            let spread = receive.iter().any(|queue| {
                let mask = self.text(format!("{dir}/queues/{queue}/rps_cpus"));
                mask.is_some_and(|mask| mask.chars().any(|c| c != '0' && c != ','))
            });
            if receive.is_empty() || receive.len() >= cores || spread {
                return None;
            }
            let queues = match receive.len() {
                1 => "one receive queue".to_owned(),
                several => format!("{several} receive queues"),
            };
            let text = format!(
                "{name} has {queues} for {cores} cores: the others wait for those that take its packets"
            );
            let check = Check::new("network", Level::Slows, text);
            Some(check.fixed_by(format!(
                "ethtool -L {name} combined {cores} || echo {:x} | tee /sys/class/net/{name}/queues/rx-*/rps_cpus",
                cpu_mask(cores)
            )))
        })
        .collect()
    }

    /// Whether any memory becomes huge pages, which hold more than what was asked for.
    fn huge_pages(&self) -> Vec<Check> {
        let path = "sys/kernel/mm/transparent_hugepage/enabled";
        let always = self
            .text(path)
            .is_some_and(|text| text.contains("[always]"));
        let note = always.then(|| {
            let text = "transparent huge pages are always on: resident memory comes in steps of 2 MiB. Penstock asks for \
                        them where they pay (madvise)";
            Check::new("huge_pages", Level::Note, text).fixed_by(format!("echo madvise > /{path}"))
        });
        note.into_iter().collect()
    }
}

/// A mask of the first CPUs, as many as one word of `rps_cpus` holds.
fn cpu_mask(cores: usize) -> u64 {
    let cores = cores.clamp(1, 32) as u32;
    (1 << cores) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine with these files.
    fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Machine) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let machine = Machine::below(dir.path());
        (dir, machine)
    }

    #[test]
    fn a_machine_that_tells_nothing_has_nothing_amiss() {
        let (_dir, machine) = machine(&[]);
        let settings = Settings::new(penstock::config::Options::default(), 4).unwrap();
        assert_eq!(machine.checks(&settings), []);
    }

    #[test]
    fn a_limit_that_leaves_no_page_cache_is_amiss() {
        const MEMINFO: &str = "MemTotal: 1048576 kB\nMemFree: 1 kB\nBuffers: 1 kB\nCached: 1 kB\nSwapCached: 0 kB\n\
             Active: 1 kB\nInactive: 1 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\nDirty: 0 kB\nWriteback: 0 kB\nMapped: 1 kB\n\
             Slab: 1 kB\nCommitted_AS: 1 kB\nVmallocTotal: 1 kB\nVmallocUsed: 1 kB\nVmallocChunk: 0 kB\n";
        let (_dir, whole) = machine(&[("proc/meminfo", MEMINFO)]);
        let found = |machine: &Machine, mib: u64| {
            let checks = machine.page_cache(mib << 20);
            checks
                .into_iter()
                .filter_map(|check| check.fix)
                .collect::<Vec<_>>()
        };
        assert!(found(&whole, 768).is_empty());
        assert_eq!(found(&whole, 800), ["penstock serve --memory 768MiB"]);
        assert!(found(&whole, 2048).is_empty(), "the plan refuses that");
        let (_dir, cgroup) = machine(&[
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "0::/a\n"),
            (
                "proc/self/mountinfo",
                "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
            ),
            ("sys/fs/cgroup/a/memory.max", "536870912\n"),
        ]);
        let fixes = found(&cgroup, 400);
        assert_eq!(fixes.len(), 1);
        assert!(
            fixes[0].starts_with("MemoryMax=656M in the unit"),
            "{fixes:?}"
        );
    }

    #[test]
    fn memory_pressure_is_read_from_the_last_minute() {
        let with = |avg60: &str| {
            let text = format!(
                "some avg10=0.00 avg60={avg60} avg300=0.00 total=1\nfull avg10=90.00 avg60=90.00 avg300=0.00 total=1\n"
            );
            let (_dir, machine) = machine(&[("proc/pressure/memory", &text)]);
            machine.pressure().len()
        };
        assert_eq!((with("0.00"), with("4.99"), with("12.50")), (0, 0, 1));
    }

    #[test]
    fn each_setting_of_tcp_has_its_line() {
        let (_dir, good) = machine(&[
            ("proc/sys/net/ipv4/tcp_window_scaling", "1\n"),
            ("proc/sys/net/ipv4/tcp_sack", "1\n"),
            ("proc/sys/net/core/somaxconn", "4096\n"),
            ("proc/sys/net/ipv4/tcp_max_syn_backlog", "512\n"),
        ]);
        assert_eq!(good.tcp(), []);
        let (_dir, bad) = machine(&[
            ("proc/sys/net/ipv4/tcp_window_scaling", "0\n"),
            ("proc/sys/net/ipv4/tcp_sack", "0\n"),
            ("proc/sys/net/core/somaxconn", "128\n"),
            ("proc/sys/net/ipv4/tcp_max_syn_backlog", "128\n"),
        ]);
        let fixes: Vec<String> = bad
            .tcp()
            .into_iter()
            .filter_map(|check| check.fix)
            .collect();
        assert_eq!(
            fixes,
            [
                "sysctl -w net.ipv4.tcp_window_scaling=1",
                "sysctl -w net.ipv4.tcp_sack=1",
                "sysctl -w net.core.somaxconn=256",
                "sysctl -w net.ipv4.tcp_max_syn_backlog=256",
            ]
        );
    }

    #[test]
    fn one_receive_queue_for_many_cores_is_amiss_unless_packets_are_spread() {
        let files = |mask| {
            [
                ("sys/class/net/eth0/operstate", "up\n"),
                ("sys/class/net/eth0/device/vendor", "0x1af4\n"),
                ("sys/class/net/eth0/queues/rx-0/rps_cpus", mask),
                ("sys/class/net/eth0/queues/tx-0/xps_cpus", "0\n"),
                // One without hardware, and one that is down.
                ("sys/class/net/lo/operstate", "up\n"),
                ("sys/class/net/lo/queues/rx-0/rps_cpus", "0\n"),
                ("sys/class/net/eth1/operstate", "down\n"),
                ("sys/class/net/eth1/device/vendor", "0x1af4\n"),
                ("sys/class/net/eth1/queues/rx-0/rps_cpus", "0\n"),
            ]
        };
        let (_dir, alone) = machine(&files("00000000,00000000\n"));
        let found = alone.network(4);
        assert_eq!(found.len(), 1);
        assert!(
            found[0].text.starts_with("eth0 has one receive queue "),
            "{}",
            found[0].text
        );
        let fix = found[0].fix.as_deref().unwrap();
        assert!(
            fix.starts_with("ethtool -L eth0 combined 4 || echo f | tee "),
            "{fix}"
        );
        assert_eq!(alone.network(1), []);
        let (_dir, spread) = machine(&files("00000000,0000000f\n"));
        assert_eq!(spread.network(4), []);
    }

    #[test]
    fn huge_pages_are_a_note() {
        let path = "sys/kernel/mm/transparent_hugepage/enabled";
        let level = |text| {
            let (_dir, machine) = machine(&[(path, text)]);
            machine.huge_pages().first().map(|check| check.level)
        };
        assert_eq!(level("[always] madvise never\n"), Some(Level::Note));
        assert_eq!(level("always [madvise] never\n"), None);
    }
}
