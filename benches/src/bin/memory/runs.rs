//! The cases, and the verdicts on them.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::resource::{Resource, getrlimit};
use penstock::memory::costs;
use penstock_benches::common::certificate::Certificate;
use penstock_benches::common::launch::{self, Server};
use penstock_benches::common::stats::Summary;
use penstock_load::{ByteSpan, Class, Group, Plan, Report, Trust, Watch};

use crate::picture::{self, Fast};
use crate::{KEY, OTHER_KEY, OTHERS, SMALL_KEY};

/// One run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Case {
    /// 256 MiB: 10,000 stalled, 100 slow, 4 fast.
    Large,
    /// 96 MiB: 2,000 stalled, 100 slow, 4 fast.
    Small,
    /// 1 GiB: as many stalled as the plan and the descriptors allow, 100 slow, 4 fast.
    Huge,
    /// 256 MiB: 10,000 with default receive buffers stall first, then 4 fast ones come: healthy and degraded, the server
    /// on one core and on all.
    StalledFirst,
    /// One network with 500 fast connections beside ten with one each: healthy and degraded, the server on one core and
    /// on all.
    Networks,
    /// 50,000 attempts against 1,000 places.
    Attempts,
}

impl Case {
    pub(super) const ALL: [Case; 6] = [
        Case::Large,
        Case::Small,
        Case::Huge,
        Case::StalledFirst,
        Case::Networks,
        Case::Attempts,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Case::Large => "256",
            Case::Small => "96",
            Case::Huge => "1024",
            Case::StalledFirst => "stalled-first",
            Case::Networks => "networks",
            Case::Attempts => "attempts",
        }
    }
}

/// One condition, and whether it held.
pub(super) struct Verdict {
    pub(super) what: String,
    pub(super) seen: String,
    pub(super) held: bool,
}

fn verdict(what: &str, seen: String, held: bool) -> Verdict {
    Verdict {
        what: what.to_owned(),
        seen,
        held,
    }
}

/// The object and the server's program, and the size of a run.
pub(super) struct Subject<'a> {
    pub(super) penstock: &'a Path,
    /// All stores of the object.
    pub(super) healthy: &'a [PathBuf],
    /// As many as are needed, of which some hold parity shares.
    pub(super) stores: &'a [PathBuf],
    pub(super) io: &'a str,
    pub(super) seed: u64,
    /// The numbers of clients are divided by this.
    pub(super) scale: usize,
    /// The number of measurements of the fast clients, and the length of each.
    pub(super) rounds: usize,
    pub(super) stretch: Duration,
    /// The server's, if all clients speak TLS.
    pub(super) certificate: Option<&'a Certificate>,
    /// Further options of the server.
    pub(super) options: &'a [String],
    pub(super) record: Option<&'a Path>,
    pub(super) log: &'a Path,
}

/// Kernel structures of a connection, which no socket statistics include.
const STRUCTURES_BYTES: u64 = 3700;
/// The largest step of the allocator.
const ALLOCATOR_SLACK_BYTES: u64 = 1 << 20;
/// Measurements of the fast clients, alone and beside the others in turns.
pub(super) const ROUNDS: usize = 3;
pub(super) const STRETCH: Duration = Duration::from_secs(4);
const FAST: usize = 4;
const SLOW: usize = 100;

impl Subject<'_> {
    /// Starts the server on all cores, as operators run it.
    fn serve(&self, options: &[&str]) -> anyhow::Result<Server> {
        self.serve_on(None, self.stores, options, &[])
    }

    /// Starts the server on one core, or on all, by a command that stands in front of it.
    fn serve_on(
        &self,
        core: Option<usize>,
        stores: &[PathBuf],
        options: &[&str],
        by: &[&str],
    ) -> anyhow::Result<Server> {
        let mut command: Vec<String> = by.iter().map(|&word| word.to_owned()).collect();
        command.extend([
            self.penstock.display().to_string(),
            "serve".to_owned(),
            "--listen=127.0.0.1:0".to_owned(),
            "--admin=127.0.0.1:0".to_owned(),
            format!("--io={}", self.io),
            "--send-timeout=10m".to_owned(),
            "--idle-timeout=10m".to_owned(),
        ]);
        command.extend(
            stores
                .iter()
                .map(|store| format!("--store={}", store.display())),
        );
        command.extend(core.map(|_| "--cores=1".to_owned()));
        command.extend(options.iter().map(|&option| option.to_owned()));
        command.extend(self.options.iter().cloned());
        let tls = match self.certificate {
            Some(certificate) => Some((certificate, launch::free_address()?)),
            None => None,
        };
        command.extend(
            tls.iter()
                .flat_map(|(certificate, address)| certificate.options(*address)),
        );
        let server = Server::start(core, &command, &self.log.join("server.log"))?.killed();
        Ok(match tls {
            Some((_, address)) => server.secured(address),
            None => server,
        })
    }

    fn plan(&self, server: &Server, groups: Vec<Group>) -> Plan {
        let mut plan = Plan::new(&server.url(KEY));
        plan.groups = groups;
        plan.seed = self.seed;
        plan.tls.trust = Trust::All;
        plan.backoff = Duration::from_millis(100);
        plan.retry_after_max = Duration::from_secs(1);
        plan.timeout = Duration::from_secs(60);
        plan.watch = Some(Watch {
            pids: vec![server.pid()],
            interval: Duration::from_millis(250),
            ..Watch::default()
        });
        plan
    }

    /// Runs the fast clients for one measurement. Returns their bytes per second.
    fn fast(&self, server: &Server) -> anyhow::Result<f64> {
        Ok(self.fast_course(server)?.rate())
    }

    /// Runs the fast clients for one measurement.
    fn fast_course(&self, server: &Server) -> anyhow::Result<Fast> {
        let mut group = Group::new(Class::Fast, FAST);
        group.reading = penstock_load::Reading::Discard;
        let mut plan = self.plan(server, vec![group]);
        plan.watch = None;
        plan.duration = self.stretch;
        let mut received = vec![(0.0, 0)];
        let report = penstock_load::run_with(&plan, |now| {
            received.push((now.elapsed.as_secs_f64(), now.body_bytes));
            ControlFlow::Continue(())
        })?;
        let end = received.last().map_or(0.0, |(at, _)| *at);
        let end = end.max(self.stretch.as_secs_f64());
        received.push((end, report.groups[0].body_bytes));
        Ok(Fast {
            received,
            stretch: self.stretch,
        })
    }

    /// New small requests, sent one after another by four clients, each on a new connection.
    fn small(&self) -> Group {
        let mut group = Group::new(Class::Short, 4);
        group.name = "small".to_owned();
        group.path = Some(format!("/{SMALL_KEY}"));
        group
    }

    /// Records a run, and draws it. `fast` are those beside its clients, with their bytes per second alone.
    fn note(
        &self,
        (case, title, crowd): (&str, &str, &str),
        report: &Report,
        budget: u64,
        fast: Option<(&Fast, f64)>,
    ) -> anyhow::Result<()> {
        let (Some(directory), Some(server)) = (self.record, &report.server) else {
            return Ok(());
        };
        std::fs::create_dir_all(directory)?;
        let file = |end| directory.join(format!("memory-{case}-{}.{end}", self.io));
        std::fs::write(file("csv"), server.samples_csv())?;
        std::fs::write(file("groups.csv"), report.groups_csv())?;
        if let Some((fast, _)) = fast {
            std::fs::write(file("fast.csv"), fast.csv())?;
        }
        let drawn = picture::Case {
            title: &format!("{} MiB declared, {}: {title}", budget >> 20, self.io),
            budget,
            samples: &server.samples,
            crowd,
            fast: fast.map(|(fast, alone)| (fast, FAST, alone)),
        };
        drawn.draw(&file("svg"))
    }

    pub(super) fn run(&self, case: Case) -> anyhow::Result<Vec<Verdict>> {
        match case {
            Case::Large => self.crowd(case.name(), 256, 10_000, &[]),
            Case::Small => self.crowd(case.name(), 96, 2_000, &["--max-connections", "2400"]),
            Case::Huge => {
                let stalled = self.most_stalled("1GiB")?;
                self.crowd(case.name(), 1024, stalled, &[])
            }
            Case::StalledFirst => self.stalled_first(),
            Case::Networks => self.networks(),
            Case::Attempts => self.attempts(case.name()),
        }
    }

    /// The most stalled clients that fit beside the others, both in the server's plan for this memory (which counts its
    /// descriptors) and in this process's own descriptors.
    fn most_stalled(&self, memory: &str) -> anyhow::Result<usize> {
        /// Clients that come and go. Their places become free some time after they left.
        const OTHERS: usize = SLOW + 4 * FAST;
        /// Descriptors that this process has open beside those of its clients.
        const OWN: u64 = 100;
        let mut plan = Command::new(self.penstock);
        let output = plan.args(["plan", "--memory", memory]).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let planned = text
            .split_once("declared: ")
            .and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
        let planned: usize = planned.with_context(|| format!("no connections in {text}"))?;
        let (_, descriptors) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let ours = descriptors.saturating_sub(OWN).try_into()?;
        Ok(planned.min(ours).saturating_sub(OTHERS))
    }

    /// Stalled and slow clients stay, while fast ones come and go.
    fn crowd(
        &self,
        name: &str,
        mib: u64,
        stalled: usize,
        options: &[&str],
    ) -> anyhow::Result<Vec<Verdict>> {
        let stalled = stalled / self.scale;
        let memory = format!("{mib}MiB");
        let server = self.serve(&[&["--memory", &memory][..], options].concat())?;
        let mut alone = vec![self.fast(&server)?];
        let idle = resident(&server)?;
        let mut slow = Group::new(Class::Slow, SLOW / self.scale);
        slow.rate = Some(100_000);
        let mut plan = self.plan(&server, vec![Group::new(Class::Stalled, stalled), slow]);
        let mut beside = Vec::new();
        let mut drawn = None;
        let mut first_byte = 0;
        let mut stalled_bytes = 0;
        // In turns: the fast clients beside the crowd, then, with the crowd gone, the fast clients alone.
        let mut reports = Vec::new();
        for round in 0..self.rounds {
            plan.duration = Duration::from_secs(180);
            let began = Instant::now();
            let report = while_stalled(&plan, stalled, || {
                if round == 0 {
                    stalled_bytes = resident(&server)?.saturating_sub(idle);
                }
                let earlier = began.elapsed();
                let fast = self.fast_course(&server)?.since(earlier);
                beside.push(fast.rate());
                // The picture is of the first round.
                drawn.get_or_insert(fast);
                // Without the fast clients, which use a whole core.
                let mut small = self.plan(&server, vec![self.small()]);
                small.watch = None;
                small.backoff = Duration::from_millis(20);
                small.duration = Duration::from_secs(2);
                first_byte =
                    first_byte.max(penstock_load::run(&small)?.groups[0].first_byte_time.p99);
                Ok(())
            })?;
            reports.push(report);
            alone.push(self.fast(&server)?);
        }
        let mut most = 0;
        let mut with_structures = 0;
        let (mut held, mut faults) = (u64::MAX, 0);
        for report in &reports {
            let peaks = report.server.as_ref().context("it was watched")?.peaks;
            most = most.max(peaks.bound);
            with_structures = with_structures.max(peaks.bound + peaks.sockets * STRUCTURES_BYTES);
            held = held.min(report.groups[0].held);
            faults += report
                .groups
                .iter()
                .flat_map(|g| &g.faults)
                .map(|f| f.count)
                .sum::<u64>();
        }
        let (alone, beside) = (Summary::of(&alone), Summary::of(&beside));
        let slow = SLOW / self.scale;
        self.note(
            (
                name,
                &format!("{stalled} stalled clients, {slow} slow, {FAST} fast"),
                &format!("the stalled clients' first bytes, and {slow} slow ones of 100 kB/s"),
            ),
            &reports[0],
            mib << 20,
            drawn.as_ref().map(|fast| (fast, alone.median)),
        )?;
        let part = beside.median / alone.median;
        let each = stalled_bytes / stalled.max(1) as u64;
        let (each_most, of_cores) = self.user_bytes()?;
        Ok(vec![
            verdict(
                &format!("VmHWM and sockets never over {mib} MiB"),
                format!("{:.1} MiB", most as f64 / f64::from(1 << 20)),
                most <= mib << 20,
            ),
            verdict(
                "with the kernel's structures, too",
                format!("{:.1} MiB", with_structures as f64 / f64::from(1 << 20)),
                with_structures <= mib << 20,
            ),
            verdict(
                &format!("all {stalled} stalled clients are held, nobody is let down"),
                format!("{held} held, {faults} faults"),
                held == stalled as u64 && faults == 0,
            ),
            verdict(
                "4 fast clients get 80% of what they get alone",
                format!(
                    "{:.0}%: {:.0} of {:.0} MB/s (spread {:.0}%)",
                    part * 100.0,
                    beside.median / 1e6,
                    alone.median / 1e6,
                    alone.spread() * 100.0
                ),
                part >= 0.8,
            ),
            verdict(
                "p99 of time to first byte of a small request under 50 ms",
                format!("{:.1} ms", first_byte as f64 / 1000.0),
                first_byte < 50_000,
            ),
            verdict(
                &format!(
                    "user memory per stalled client at most {} bytes{}",
                    each_most,
                    if of_cores > 0 {
                        ", and what TLS takes of the cores"
                    } else {
                        ""
                    },
                ),
                format!("{each} bytes"),
                // With few clients, only the allocator's steps are visible.
                stalled_bytes <= stalled as u64 * each_most + of_cores + ALLOCATOR_SLACK_BYTES,
            ),
        ])
    }

    /// User memory that a stalled client may take, and what all of them together may take of the cores. With TLS both are what
    /// the plan has for it: sessions, and the memory of handshakes and ready keys, which is first touched when clients come.
    fn user_bytes(&self) -> anyhow::Result<(u64, u64)> {
        let cores = std::thread::available_parallelism()?.get() as u64;
        Ok(match self.certificate {
            None => (2048, 0),
            Some(_) => (
                costs::CONNECTION_USER_BYTES + costs::TLS_CONNECTION_BYTES,
                cores * costs::TLS_CORE_BYTES,
            ),
        })
    }

    /// Clients that stall come first, with the receive buffers that the kernel gives everybody: it takes the beginning
    /// of each body as fast as that comes. Then fast ones come.
    fn stalled_first(&self) -> anyhow::Result<Vec<Verdict>> {
        /// The kernels have taken by then what they take.
        const SETTLE: Duration = Duration::from_secs(2);
        /// A sample walks all sockets of the machine in the kernel: four in a second took a tenth of what is measured.
        const SAMPLE_EVERY: Duration = Duration::from_secs(2);
        const MIB: u64 = 256;
        let clients = 10_000 / self.scale;
        let mut verdicts = Vec::new();
        let subjects = [("healthy", self.healthy), ("degraded", self.stores)];
        for ((state, stores), core) in subjects
            .into_iter()
            .flat_map(|subject| [Some(0), None].map(|core| (subject, core)))
        {
            let server = self.serve_on(core, stores, &["--memory", "256MiB"], &[])?;
            let mut stalled = Group::new(Class::Stalled, clients);
            stalled.receive_buffer = None;
            let mut plan = self.plan(&server, vec![stalled]);
            plan.watch = plan.watch.map(|watch| Watch {
                interval: SAMPLE_EVERY,
                ..watch
            });
            plan.duration = Duration::from_secs(180);
            // The first one warms the page cache.
            self.fast(&server)?;
            let (mut alone, mut beside) = (Vec::new(), Vec::new());
            let (mut most, mut held) = (0, u64::MAX);
            for _ in 0..self.rounds {
                alone.push(self.fast(&server)?);
                let report = while_stalled(&plan, clients, || {
                    std::thread::sleep(SETTLE);
                    beside.push(self.fast(&server)?);
                    Ok(())
                })?;
                let peaks = report.server.as_ref().context("it was watched")?.peaks;
                most = most.max(peaks.bound + peaks.sockets * STRUCTURES_BYTES);
                held = held.min(report.groups[0].held);
            }
            let cores = if core.is_some() {
                "one core"
            } else {
                "all cores"
            };
            let (alone, beside) = (Summary::of(&alone), Summary::of(&beside));
            let part = beside.median / alone.median;
            verdicts.push(verdict(
                &format!("{state}, {cores}: 4 fast clients after {clients} stalled get 80%"),
                format!(
                    "{:.0}%: {:.0} of {:.0} MB/s (spread {:.0}%)",
                    part * 100.0,
                    beside.median / 1e6,
                    alone.median / 1e6,
                    alone.spread() * 100.0
                ),
                part >= 0.8,
            ));
            verdicts.push(verdict(
                &format!("{state}, {cores}: within {MIB} MiB, all are held"),
                format!("{:.1} MiB, {held} held", most as f64 / f64::from(1 << 20)),
                most <= MIB << 20 && held == clients as u64,
            ));
        }
        Ok(verdicts)
    }

    /// One network with very many fast connections, and ten with one each.
    fn networks(&self) -> anyhow::Result<Vec<Verdict>> {
        const MANY: usize = 500;
        const OTHERS: u8 = 10;
        let mut verdicts = Vec::new();
        let subjects = [("healthy", self.healthy), ("degraded", self.stores)];
        for ((state, stores), core) in subjects
            .into_iter()
            .flat_map(|subject| [Some(0), None].map(|core| (subject, core)))
        {
            // Clients are other machines. Where they have the server's cores, they go first, or what is divided is their time.
            let by: &[&str] = if core.is_none() {
                &["nice", "-n", "10"]
            } else {
                &[]
            };
            let server = self.serve_on(core, stores, &["--memory", "256MiB"], by)?;
            self.fast(&server)?;
            let group = |network: u8, clients| {
                let mut group = Group::new(Class::Fast, clients);
                group.name = format!("network-{network}");
                group.network = Some(network);
                group.reading = penstock_load::Reading::Discard;
                group
            };
            let mut groups = vec![group(1, MANY / self.scale)];
            groups.extend((0..OTHERS).map(|other| group(2 + other, 1)));
            let mut plan = self.plan(&server, groups);
            plan.watch = None;
            plan.duration = self.stretch;
            if core.is_none() {
                // One would have to keep up with all cores, and take a part of one of them alone.
                plan.threads = std::thread::available_parallelism()?.get();
            }
            // Of each round the least of the ten, as a part of an eleventh.
            let (mut least, mut median, mut all) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..self.rounds {
                let report = penstock_load::run(&plan)?;
                let bytes: Vec<f64> = report
                    .groups
                    .iter()
                    .map(|group| group.body_bytes as f64)
                    .collect();
                let sum: f64 = bytes.iter().sum();
                let parts: Vec<f64> = bytes[1..]
                    .iter()
                    .map(|bytes| bytes / sum * f64::from(OTHERS + 1))
                    .collect();
                let parts = Summary::of(&parts);
                least.push(parts.min);
                median.push(parts.median);
                all.push(sum / self.stretch.as_secs_f64());
            }
            let cores = if core.is_some() {
                "one core"
            } else {
                "all cores"
            };
            let [least, median, all] =
                [least, median, all].map(|values| Summary::of(&values).median);
            verdicts.push(verdict(
                &format!(
                    "{state}, {cores}: beside {} connections of one network each of ten others gets 80% of an eleventh",
                    MANY / self.scale
                ),
                format!(
                    "{:.0}% the least, {:.0}% half of them, of {:.0} MB/s in all",
                    least * 100.0,
                    median * 100.0,
                    all / 1e6
                ),
                least >= 0.8,
            ));
        }
        Ok(verdicts)
    }

    /// Many more attempts than places.
    fn attempts(&self, name: &str) -> anyhow::Result<Vec<Verdict>> {
        const MIB: u64 = 64;
        let (places, attempts) = (1000 / self.scale, (50_000 / self.scale) as u64);
        let most = places.to_string();
        let server = self.serve(&["--memory", "64MiB", "--max-connections", &most])?;
        // Slow clients occupy all places before the crowd comes.
        let mut admitted = Group::new(Class::Slow, places);
        (admitted.name, admitted.rate) = ("admitted".to_owned(), Some(10_000));
        let mut crowd = Group::new(Class::Short, 2000 / self.scale);
        (crowd.name, crowd.start) = ("crowd".to_owned(), Duration::from_secs(3));
        let mut plan = self.plan(&server, vec![admitted, crowd]);
        plan.duration = Duration::from_secs(90);
        plan.backoff = Duration::from_millis(1);
        plan.retry_after_max = Duration::from_millis(1);
        let report = penstock_load::run_with(&plan, |now| match now.refused >= attempts {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        })?;
        self.note(
            (
                name,
                &format!("{attempts} attempts, {places} places"),
                &format!("{places} slow clients that were admitted"),
            ),
            &report,
            MIB << 20,
            None,
        )?;
        let peaks = report.server.as_ref().context("it was watched")?.peaks;
        let of = |name| report.group(name).context("a group of the plan");
        let (admitted, crowd) = (of("admitted")?, of("crowd")?);
        let bound = peaks.bound + peaks.sockets * STRUCTURES_BYTES;
        let faults =
            |group: &penstock_load::GroupReport| group.faults.iter().map(|f| f.count).sum::<u64>();
        let first = crowd.faults.first();
        let first = first.map_or_else(String::new, |fault| format!(": {}", fault.first));
        Ok(vec![
            verdict(
                &format!("memory within {MIB} MiB"),
                format!("{:.1} MiB", bound as f64 / f64::from(1 << 20)),
                bound <= MIB << 20,
            ),
            verdict(
                &format!("{attempts} attempts are answered 503 with Retry-After"),
                format!(
                    "{} refused, {} of them with it, {} faults{first}",
                    crowd.refused,
                    crowd.retry_after,
                    faults(crowd)
                ),
                crowd.refused >= attempts
                    && crowd.retry_after == crowd.refused
                    && faults(crowd) == 0
                    && crowd.completed == 0,
            ),
            verdict(
                "those admitted go on",
                format!(
                    "{} of {places} under way, {} refused, {} faults, {:.0} bytes/s each",
                    admitted.unfinished,
                    admitted.refused,
                    faults(admitted),
                    admitted.bytes_per_second / places as f64
                ),
                admitted.unfinished == places as u64
                    && admitted.refused == 0
                    && faults(admitted) == 0,
            ),
        ])
    }

    /// Runs clients of all kinds at random. Compares memory at the end with memory after the warm-up, each without any
    /// connection.
    ///
    /// Memory that the allocator took for connections stays with the process for the next ones. So it reflects the
    /// largest crowd that each core had, and small differences between crowds would look like growth. The warm-up
    /// therefore has twice the clients of later rounds: it fills everything that is bounded.
    pub(super) fn soak(&self, time: Duration) -> anyhow::Result<Vec<Verdict>> {
        const MIB: u64 = 128;
        const WARM_UP: [usize; 3] = [2, 2, 1];
        let server = self.serve(&["--memory", "128MiB", "--head-timeout", "5s"])?;
        let mixed = |duration: Duration, seed, times: usize| -> anyhow::Result<Report> {
            let group = |class, clients: usize, rate| {
                let mut group = Group::new(class, times * (clients / self.scale).max(1));
                group.rate = rate;
                group.keep_alive = seed % 2 == 0;
                if class != Class::Stalled {
                    group.range = Some(ByteSpan {
                        min: 1,
                        max: 4 << 20,
                    });
                }
                group
            };
            // More objects than a core keeps open.
            let mut others = group(Class::Short, 10, None);
            others.name = "others".to_owned();
            others.range = None;
            others.path = Some(format!("/{OTHER_KEY}{{{OTHERS}}}"));
            let mut plan = self.plan(
                &server,
                vec![
                    group(Class::Stalled, 500, None),
                    group(Class::Slow, 200, Some(50_000)),
                    group(Class::Fast, 8, None),
                    group(Class::Aborting, 50, None),
                    group(Class::Short, 20, None),
                    others,
                    group(Class::Connect, 5, None),
                    group(Class::Idle, 50, None),
                    group(Class::Drip, 50, Some(20)),
                ],
            );
            (plan.duration, plan.seed) = (duration, seed);
            Ok(penstock_load::run(&plan)?)
        };
        // A round ends when all clients are gone.
        let round = Duration::from_secs(20).min(time / 8);
        let started = Instant::now();
        let (mut seed, mut most, mut wrong, mut connections) = (self.seed, 0, 0, 0);
        let mut rest = Vec::new();
        while rest.len() <= WARM_UP.len() || started.elapsed() < time {
            let times = WARM_UP.get(rest.len()).copied().unwrap_or(1);
            let report = mixed(round, seed, times)?;
            let peaks = report.server.as_ref().context("it was watched")?.peaks;
            most = most.max(peaks.bound + peaks.sockets * STRUCTURES_BYTES);
            wrong += u64::from(report.has_wrong_bytes());
            connections += report.groups.iter().map(|g| g.connects).sum::<u64>();
            if rest.is_empty() {
                let names = ("soak", "the first round of a soak", "clients of all kinds");
                self.note(names, &report, MIB << 20, None)?;
            }
            std::thread::sleep(Duration::from_secs(1));
            rest.push(resident(&server)?);
            println!(
                "round {}: {} KiB with nobody there",
                rest.len(),
                rest[rest.len() - 1] >> 10
            );
            seed += 1;
        }
        let (warm_up, later) = rest.split_at(WARM_UP.len());
        let kib = |bytes: &u64| bytes >> 10;
        let warm = warm_up[WARM_UP.len() - 1];
        let end = later[later.len() - 1];
        let (first_half, second_half) = later.split_at(later.len().div_ceil(2));
        let highest = |rounds: &[u64]| rounds.iter().max().copied().unwrap_or(end);
        Ok(vec![
            verdict(
                &format!("memory within {MIB} MiB"),
                format!("{:.1} MiB", most as f64 / f64::from(1 << 20)),
                most <= MIB << 20,
            ),
            verdict(
                "resident memory at the end equals that after warm-up (to 2%)",
                format!(
                    "{} KiB after warm-up, {} KiB after {} rounds of {} s with {connections} connections",
                    kib(&warm),
                    kib(&end),
                    rest.len(),
                    round.as_secs()
                ),
                end <= warm + warm / 50,
            ),
            verdict(
                "it does not grow from the first half after warm-up to the second (to 0.5%)",
                format!(
                    "at most {} KiB, then at most {} KiB",
                    kib(&highest(first_half)),
                    kib(&highest(second_half))
                ),
                highest(second_half) <= highest(first_half) + highest(first_half) / 200,
            ),
            verdict(
                "no wrong byte",
                format!("{wrong} rounds with wrong bytes"),
                wrong == 0,
            ),
        ])
    }
}

/// Runs the clients of a plan, and does something once so many of them stall. Then they leave.
fn while_stalled(
    plan: &Plan,
    stalled: usize,
    act: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Report> {
    let (ready, is_ready) = std::sync::mpsc::channel();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| -> anyhow::Result<Report> {
        let crowd = scope.spawn(|| {
            penstock_load::run_with(plan, |now| {
                if now.holding == stalled as u64 {
                    let _ = ready.send(());
                }
                match stop.load(std::sync::atomic::Ordering::Relaxed) {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            })
        });
        let acted = is_ready
            .recv_timeout(Duration::from_secs(60))
            .context("the stalled clients did not all get their heads")
            .and_then(|()| act());
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let report = crowd
            .join()
            .map_err(|_| anyhow::anyhow!("the clients panicked"))??;
        acted.map(|()| report)
    })
}

/// VmRSS of the server.
fn resident(server: &Server) -> anyhow::Result<u64> {
    let process = procfs::process::Process::new(server.pid())?;
    Ok(process.status()?.vmrss.unwrap_or(0) * 1024)
}
