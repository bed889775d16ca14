//! The results of a run, as values, text, JSON and CSV.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use bytesize::ByteSize;
use hdrhistogram::Histogram;

use crate::error::LoadError;
use crate::picture;
use crate::plan::{Class, Plan};
use crate::tally::{FaultKind, Tally};
use crate::watch::Sample;

/// The results of a whole run.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Report {
    /// The URL requested.
    pub url: String,
    /// The plan's seed.
    pub seed: u64,
    /// How long the clients ran, in seconds.
    pub seconds: f64,
    /// One entry per group, in the plan's order.
    pub groups: Vec<GroupReport>,
    /// The server's measured resources, if it was watched.
    pub server: Option<ServerReport>,
}

/// The results of one group.
#[derive(Debug, Clone, serde::Serialize)]
pub struct GroupReport {
    /// The group's name.
    pub name: String,
    /// The class of its clients.
    pub class: Class,
    /// The number of clients.
    pub clients: u64,
    /// Seconds from the first client's start to the group's last event.
    pub seconds: f64,
    /// Connections made.
    pub connects: u64,
    /// TLS handshakes completed.
    pub handshakes: u64,
    /// Those of them that resumed a session.
    pub resumed: u64,
    /// Requests sent, including those repeated after a stale connection.
    pub requests: u64,
    /// Response heads received.
    pub responses: u64,
    /// Responses received to the end whose bytes were right.
    pub completed: u64,
    /// Responses left in the middle, as aborting clients do.
    pub aborted: u64,
    /// How often a client began to hold its connection without reading (stalled and idle clients).
    pub stalls: u64,
    /// Clients that still held a connection at the end of the run.
    pub held: u64,
    /// Held connections that the server ended.
    pub closed_by_server: u64,
    /// Kept connections that were found closed when used again; the request was repeated on a new one.
    pub stale: u64,
    /// Connections that the server ended without TLS's close_notify, seen by clients that waited for the end.
    pub cut_off: u64,
    /// Requests in progress at the end of the run.
    pub unfinished: u64,
    /// Responses with status 503.
    pub refused: u64,
    /// How many of them had a Retry-After field.
    pub retry_after: u64,
    /// The longest Retry-After in seconds.
    pub retry_after_most: u64,
    /// Body bytes received.
    pub body_bytes: u64,
    /// Body bytes that were compared with the object.
    pub checked_bytes: u64,
    /// Body bytes a second, over `seconds`.
    pub bytes_per_second: f64,
    /// Completed responses a second, over `seconds`.
    pub completed_per_second: f64,
    /// Connections a second, over `seconds`.
    pub connects_per_second: f64,
    /// TLS handshakes a second, over `seconds`.
    pub handshakes_per_second: f64,
    /// TLS handshakes by what was agreed on: version, cipher suite and key exchange.
    pub negotiated: BTreeMap<String, u64>,
    /// Responses by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Faults, by kind.
    pub faults: Vec<Fault>,
    /// Time to connect.
    pub connect_time: Quantiles,
    /// From the connection to the end of the TLS handshake.
    pub handshake_time: Quantiles,
    /// From the request to the first byte of the response. It includes connecting, and TLS's handshake, if the request
    /// needed a new connection.
    pub first_byte_time: Quantiles,
    /// From the request to the last byte, of completed responses.
    pub total_time: Quantiles,
}

/// Faults of one kind.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Fault {
    /// The kind.
    pub kind: FaultKind,
    /// The number of faults.
    pub count: u64,
    /// The details of the first one.
    pub first: String,
}

/// Times in microseconds; all 0 when there were none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Quantiles {
    /// The number of times measured.
    pub count: u64,
    /// Half of the times are at most this.
    pub p50: u64,
    /// 90% of the times are at most this.
    pub p90: u64,
    /// 99% of the times are at most this.
    pub p99: u64,
    /// 99.9% of the times are at most this.
    pub p999: u64,
    /// The longest time.
    pub max: u64,
}

/// The server's measured resources.
#[derive(Debug, Clone, serde::Serialize)]
pub struct ServerReport {
    /// Largest values of all samples.
    pub peaks: Peaks,
    /// CPU time spent during the run.
    pub cpu: Cpu,
    /// Why sampling ended before the run, if it did.
    pub problem: Option<String>,
    /// All samples, in order.
    pub samples: Vec<Sample>,
}

/// Largest values, in bytes unless noted.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub struct Peaks {
    /// Resident memory, as sampled.
    pub resident: u64,
    /// Resident memory by the kernel's own maximum (VmHWM). It misses nothing between two samples, and it includes the
    /// time before the run.
    pub resident_most: u64,
    /// Kernel memory of the server's sockets, as sampled.
    pub kernel: u64,
    /// The largest sum of resident and kernel memory in one sample.
    pub together: u64,
    /// `resident_most + kernel`: an upper bound, if kernel memory did not jump between samples.
    pub bound: u64,
    /// The server's sockets (a number).
    pub sockets: u64,
}

/// CPU time between the first and the last sample, in seconds.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub struct Cpu {
    /// CPU time of the watched processes.
    pub server: f64,
    /// CPU time of the whole machine: the server, the clients, interrupts.
    pub machine: f64,
    /// `server` per GB (10^9 bytes) of bodies that the clients received; 0 without any.
    pub server_per_gb: f64,
}

impl Report {
    pub(crate) fn new(
        plan: &Plan,
        elapsed: Duration,
        tallies: Vec<Tally>,
        server: Option<ServerReport>,
    ) -> Report {
        let groups = plan.groups.iter().zip(tallies).map(|(group, tally)| {
            let seconds = tally
                .span
                .map_or(0.0, |(first, last)| (last - first).as_secs_f64());
            let rate = |count: u64| {
                if seconds > 0.0 {
                    count as f64 / seconds
                } else {
                    0.0
                }
            };
            GroupReport {
                name: group.name.clone(),
                class: group.class,
                clients: group.clients as u64,
                seconds,
                connects: tally.connects,
                handshakes: tally.handshakes,
                resumed: tally.resumed,
                requests: tally.requests,
                responses: tally.responses,
                completed: tally.completed,
                aborted: tally.aborted,
                stalls: tally.stalls,
                held: tally.held,
                closed_by_server: tally.closed_by_server,
                stale: tally.stale,
                cut_off: tally.cut_off,
                unfinished: tally.unfinished,
                refused: tally.refused,
                retry_after: tally.retry_after,
                retry_after_most: tally.retry_after_most.as_secs(),
                body_bytes: tally.body_bytes,
                checked_bytes: tally.checked_bytes,
                bytes_per_second: rate(tally.body_bytes),
                completed_per_second: rate(tally.completed),
                connects_per_second: rate(tally.connects),
                handshakes_per_second: rate(tally.handshakes),
                negotiated: tally.negotiated,
                statuses: tally.statuses,
                faults: tally
                    .faults
                    .into_iter()
                    .map(|(kind, (count, first))| Fault { kind, count, first })
                    .collect(),
                connect_time: Quantiles::of(&tally.connect_time),
                handshake_time: Quantiles::of(&tally.handshake_time),
                first_byte_time: Quantiles::of(&tally.first_byte_time),
                total_time: Quantiles::of(&tally.total_time),
            }
        });
        Report {
            url: plan.url.clone(),
            seed: plan.seed,
            seconds: elapsed.as_secs_f64(),
            groups: groups.collect(),
            server,
        }
    }

    /// The results of the group of this name.
    pub fn group(&self, name: &str) -> Option<&GroupReport> {
        self.groups.iter().find(|group| group.name == name)
    }

    /// Whether any client received bytes that are not the object's.
    pub fn has_wrong_bytes(&self) -> bool {
        self.groups
            .iter()
            .any(|group| group.faults(FaultKind::WrongBytes) > 0)
    }

    /// Whether any client did what its class does.
    pub fn has_successes(&self) -> bool {
        self.groups.iter().any(GroupReport::has_successes)
    }

    /// The whole report, samples included, as JSON.
    pub fn to_json(&self) -> String {
        // Serialising could only fail with map keys that are not text, or in a failing Serialize; there are none.
        serde_json::to_string_pretty(self).expect("a report is plain data")
    }

    /// One line per group, with a heading. Times in microseconds.
    pub fn groups_csv(&self) -> String {
        let mut text = String::from(
            "name,class,clients,seconds,connects,requests,responses,completed,aborted,stalls,held,closed_by_server,stale,\
             unfinished,refused,retry_after,body_bytes,checked_bytes,bytes_per_second,completed_per_second,connects_per_second,\
             faults,first_byte_p50,first_byte_p90,first_byte_p99,first_byte_p999,first_byte_max,\
             total_p50,total_p90,total_p99,total_p999,total_max,\
             handshakes,resumed,cut_off,handshakes_per_second,\
             handshake_p50,handshake_p90,handshake_p99,handshake_p999,handshake_max\n",
        );
        for g in &self.groups {
            let faults: u64 = g.faults.iter().map(|fault| fault.count).sum();
            let (first, total, handshake) = (g.first_byte_time, g.total_time, g.handshake_time);
            let _ = writeln!(
                text,
                "{},{},{},{:.3},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{:.0},{:.1},{:.1},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{:.1},{},{},{},{},{}",
                g.name,
                g.class.name(),
                g.clients,
                g.seconds,
                g.connects,
                g.requests,
                g.responses,
                g.completed,
                g.aborted,
                g.stalls,
                g.held,
                g.closed_by_server,
                g.stale,
                g.unfinished,
                g.refused,
                g.retry_after,
                g.body_bytes,
                g.checked_bytes,
                g.bytes_per_second,
                g.completed_per_second,
                g.connects_per_second,
                faults,
                first.p50,
                first.p90,
                first.p99,
                first.p999,
                first.max,
                total.p50,
                total.p90,
                total.p99,
                total.p999,
                total.max,
                g.handshakes,
                g.resumed,
                g.cut_off,
                g.handshakes_per_second,
                handshake.p50,
                handshake.p90,
                handshake.p99,
                handshake.p999,
                handshake.max
            );
        }
        text
    }
}

impl GroupReport {
    /// The number of faults of this kind.
    pub fn faults(&self, kind: FaultKind) -> u64 {
        self.faults
            .iter()
            .find(|fault| fault.kind == kind)
            .map_or(0, |fault| fault.count)
    }

    /// Whether any client did what its class does. A body that the end of the run cut off counts: it was coming.
    pub fn has_successes(&self) -> bool {
        match self.class {
            Class::Connect | Class::Idle | Class::Drip | Class::HalfOpen => self.connects > 0,
            Class::Handshake => self.handshakes > 0,
            Class::Stalled => self.stalls + self.completed > 0,
            Class::Aborting => self.aborted + self.completed > 0,
            Class::Fast | Class::Slow | Class::Short => {
                self.completed > 0 || (self.unfinished > 0 && self.body_bytes > 0)
            }
        }
    }
}

impl Quantiles {
    fn of(times: &Histogram<u64>) -> Quantiles {
        Quantiles {
            count: times.len(),
            p50: times.value_at_quantile(0.5),
            p90: times.value_at_quantile(0.9),
            p99: times.value_at_quantile(0.99),
            p999: times.value_at_quantile(0.999),
            max: times.max(),
        }
    }
}

impl ServerReport {
    pub(crate) fn new(samples: Vec<Sample>, problem: Option<String>) -> ServerReport {
        let most = |value: fn(&Sample) -> u64| samples.iter().map(value).max().unwrap_or(0);
        let (resident_most, kernel) = (
            most(|sample| sample.resident_most),
            most(|sample| sample.sockets.total()),
        );
        let peaks = Peaks {
            resident: most(|sample| sample.resident),
            resident_most,
            kernel,
            together: most(Sample::together),
            bound: resident_most + kernel,
            sockets: most(|sample| sample.sockets.sockets),
        };
        let cpu = match (samples.first(), samples.last()) {
            (Some(first), Some(last)) => {
                let gigabytes = (last.client_bytes - first.client_bytes) as f64 / 1e9;
                // A watched process that ended is missing from the last sample.
                let server = (last.cpu - first.cpu).max(0.0);
                let server_per_gb = if gigabytes > 0.0 {
                    server / gigabytes
                } else {
                    0.0
                };
                Cpu {
                    server,
                    machine: last.machine_cpu - first.machine_cpu,
                    server_per_gb,
                }
            }
            _ => Cpu::default(),
        };
        ServerReport {
            peaks,
            cpu,
            problem,
            samples,
        }
    }

    /// The samples, one a line, with a heading. Bytes and seconds.
    pub fn samples_csv(&self) -> String {
        let mut text = String::from(
            "at,resident,resident_most,kernel,together,cpu,machine_cpu,sockets,established,receive,send,transmit,forward,\
             option,backlog,machine_tcp,client_open,client_bytes\n",
        );
        for s in &self.samples {
            let k = &s.sockets;
            let _ = writeln!(
                text,
                "{:.3},{},{},{},{},{:.2},{:.2},{},{},{},{},{},{},{},{},{},{},{}",
                s.at,
                s.resident,
                s.resident_most,
                k.total(),
                s.together(),
                s.cpu,
                s.machine_cpu,
                k.sockets,
                k.established,
                k.receive,
                k.send,
                k.transmit,
                k.forward,
                k.option,
                k.backlog,
                s.machine_tcp,
                s.client_open,
                s.client_bytes
            );
        }
        text
    }

    /// Draws process and kernel memory over time, and below it the clients' throughput, as SVG. `budget` draws a line
    /// at this number of bytes.
    ///
    /// # Errors
    /// If there are too few samples to draw, or the file cannot be written.
    pub fn draw(&self, path: &Path, title: &str, budget: Option<u64>) -> Result<(), LoadError> {
        picture::draw(path, title, &self.samples, budget)
    }
}

fn time(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} us"),
        1_000..1_000_000 => format!("{:.2} ms", micros as f64 / 1e3),
        _ => format!("{:.2} s", micros as f64 / 1e6),
    }
}

fn size(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

impl fmt::Display for Quantiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Quantiles {
            p50,
            p90,
            p99,
            p999,
            max,
            ..
        } = *self;
        write!(
            f,
            "p50 {}, p90 {}, p99 {}, p99.9 {}, max {}",
            time(p50),
            time(p90),
            time(p99),
            time(p999),
            time(max)
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} for {:.1} s, seed {}",
            self.url, self.seconds, self.seed
        )?;
        for group in &self.groups {
            write!(f, "{group}")?;
        }
        if let Some(server) = &self.server {
            write!(f, "{server}")?;
        }
        Ok(())
    }
}

impl fmt::Display for GroupReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let class = if self.name == self.class.name() {
            String::new()
        } else {
            format!(" ({})", self.class.name())
        };
        writeln!(
            f,
            "{}{class}: {} clients for {:.1} s",
            self.name, self.clients, self.seconds
        )?;
        writeln!(
            f,
            "  {:.2} MB/s, {} of body, {:.1} completed/s, {:.1} connections/s",
            self.bytes_per_second / 1e6,
            size(self.body_bytes),
            self.completed_per_second,
            self.connects_per_second
        )?;
        let counts = [
            ("connections", self.connects),
            ("handshakes", self.handshakes),
            ("resumed", self.resumed),
            ("requests", self.requests),
            ("completed", self.completed),
            ("aborted", self.aborted),
            ("stalls", self.stalls),
            ("held at the end", self.held),
            ("closed by the server", self.closed_by_server),
            ("ended without close_notify", self.cut_off),
            ("stale", self.stale),
            ("unfinished", self.unfinished),
        ];
        let counts = counts.iter().filter(|(_, count)| *count > 0);
        let counts: Vec<String> = counts
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        writeln!(
            f,
            "  {}",
            if counts.is_empty() {
                "nothing happened".into()
            } else {
                counts.join(", ")
            }
        )?;
        for (name, count) in &self.negotiated {
            writeln!(f, "  {name}: {count}")?;
        }
        let others = self.statuses.iter().filter(|(status, _)| **status != 503);
        let others: Vec<String> = others
            .map(|(status, count)| format!("{status}: {count}"))
            .collect();
        if !others.is_empty() {
            writeln!(f, "  statuses {}", others.join(", "))?;
        }
        if self.refused > 0 {
            let (refused, seen, most) = (self.refused, self.retry_after, self.retry_after_most);
            writeln!(
                f,
                "  refused (503) {refused}, {seen} with Retry-After, at most {most} s"
            )?;
        }
        if self.checked_bytes > 0 {
            writeln!(f, "  compared {}", size(self.checked_bytes))?;
        }
        if self.connect_time.count > 0 {
            writeln!(f, "  connect    {}", self.connect_time)?;
        }
        if self.handshake_time.count > 0 {
            let rate = self.handshakes_per_second;
            writeln!(f, "  handshake  {} ({rate:.1}/s)", self.handshake_time)?;
        }
        if self.first_byte_time.count > 0 {
            writeln!(f, "  first byte {}", self.first_byte_time)?;
        }
        if self.total_time.count > 0 {
            writeln!(f, "  total      {}", self.total_time)?;
        }
        for fault in &self.faults {
            writeln!(
                f,
                "  FAULT {} {} times; the first: {}",
                fault.kind.name(),
                fault.count,
                fault.first
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for ServerReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Peaks {
            resident,
            resident_most,
            kernel,
            together,
            bound,
            sockets,
        } = self.peaks;
        writeln!(f, "server: {} samples", self.samples.len())?;
        writeln!(
            f,
            "  peak of process + kernel memory {} ({together} bytes)",
            size(together)
        )?;
        writeln!(
            f,
            "  peaks: resident {}, VmHWM {}, kernel {} over {sockets} sockets; VmHWM + kernel {}",
            size(resident),
            size(resident_most),
            size(kernel),
            size(bound)
        )?;
        let Cpu {
            server,
            machine,
            server_per_gb,
        } = self.cpu;
        writeln!(
            f,
            "  CPU {server:.2} s, {server_per_gb:.3} s per GB received; whole machine {machine:.2} s"
        )?;
        if let Some(problem) = &self.problem {
            writeln!(f, "  PROBLEM sampling ended early: {problem}")?;
        }
        Ok(())
    }
}
