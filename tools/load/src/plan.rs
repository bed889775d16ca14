//! A plan: the target, the groups of clients, and the bounds of the run. Settings and their checks are here;
//! [`spec`](crate::spec) parses them from text.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::LoadError;
use crate::tls::Tls;

/// The largest number of clients in one plan. A typing error must not ask for a million sockets.
pub const CLIENTS_MAX: usize = 200_000;
/// The longest duration of one plan, with the settling time.
pub const DURATION_MAX: Duration = Duration::from_secs(24 * 3600);
/// The largest number of threads: the generator shares the machine with the server that it measures.
pub(crate) const THREADS_MAX: usize = 16;
/// The largest number of source addresses, 127.0.0.1 to 127.0.0.250.
pub(crate) const SOURCES_MAX: usize = 250;
/// The largest number of samples in one run, so that a day at a short interval does not fill the memory.
const SAMPLES_MAX: u128 = 200_000;
/// The default SO_RCVBUF of stalled clients: as small as possible, so that bytes queue at the server.
const RECEIVE_BUFFER_STALLED: usize = 4 * 1024;
/// The default SO_RCVBUF of slow clients.
const RECEIVE_BUFFER_SLOW: usize = 32 * 1024;

/// How a client behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Reads as fast as it can.
    Fast,
    /// Reads its bodies at [`Group::rate`].
    Slow,
    /// Reads the head and [`Group::take`] bytes of body, then stops reading and keeps the connection.
    Stalled,
    /// Closes or resets the connection (at random) after [`Group::take`] bytes of body.
    Aborting,
    /// Connects, sends one request with `Connection: close`, reads to the end and closes, again and again.
    Short,
    /// Connects and closes without a request, again and again. There is no TLS handshake either.
    Connect,
    /// Connects, does the TLS handshake if there is one, and sends nothing.
    Idle,
    /// Sends its request head at [`Group::rate`], then reads as fast as it can: a "slow loris".
    Drip,
    /// Connects, does the TLS handshake, says goodbye and closes, again and again.
    Handshake,
    /// Connects, sends [`Group::hello`], and then nothing.
    HalfOpen,
}

impl Class {
    /// All classes, in the order of the documentation.
    pub const ALL: [Class; 10] = [
        Class::Fast,
        Class::Slow,
        Class::Stalled,
        Class::Aborting,
        Class::Short,
        Class::Connect,
        Class::Idle,
        Class::Drip,
        Class::Handshake,
        Class::HalfOpen,
    ];

    /// The class in one word, as in options and reports.
    pub fn name(self) -> &'static str {
        match self {
            Class::Fast => "fast",
            Class::Slow => "slow",
            Class::Stalled => "stalled",
            Class::Aborting => "aborting",
            Class::Short => "short",
            Class::Connect => "connect",
            Class::Idle => "idle",
            Class::Drip => "drip",
            Class::Handshake => "handshake",
            Class::HalfOpen => "half-open",
        }
    }

    /// Whether the class needs a rate.
    pub fn needs_rate(self) -> bool {
        matches!(self, Class::Slow | Class::Drip)
    }

    /// Whether the class makes sense by TLS only.
    pub fn needs_tls(self) -> bool {
        matches!(self, Class::Handshake | Class::HalfOpen)
    }
}

/// A number of bytes, drawn evenly from `min..=max` each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteSpan {
    /// The smallest number.
    pub min: u64,
    /// The largest number.
    pub max: u64,
}

impl ByteSpan {
    /// Always the same number.
    pub fn exactly(bytes: u64) -> ByteSpan {
        ByteSpan {
            min: bytes,
            max: bytes,
        }
    }

    pub(crate) fn draw(&self, random: &mut fastrand::Rng) -> u64 {
        random.u64(self.min..=self.max)
    }
}

/// What half-open clients send of their ClientHello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hello {
    /// Nothing.
    Nothing,
    /// The first half.
    Part,
    /// All of it. The server's answer is not read.
    Whole,
}

/// How body bytes are read from the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// Copied to user space, as ordinary clients do.
    Copy,
    /// Dropped inside the kernel (MSG_TRUNC). Such a client costs almost no CPU time, for measuring a server on the
    /// same machine. Bodies of unknown length are copied all the same, and those that come by TLS are decrypted.
    Discard,
}

/// What bodies are compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verify {
    /// Nothing; lengths and framing are still checked.
    No,
    /// The SHA-256 of the whole object. Ranges and bodies that end early are not compared.
    Sha256([u8; 32]),
    /// A local file with the object's bytes. Every byte received is compared, at its offset.
    File(PathBuf),
}

/// A number of clients that behave alike.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Its name in the reports; letters, digits, `-` and `_`. Unique in the plan.
    pub name: String,
    /// The behaviour of its clients.
    pub class: Class,
    /// The number of clients.
    pub clients: usize,
    /// Bytes a second, for the classes that need it.
    pub rate: Option<u64>,
    /// The start of the first client, from the start of the run.
    pub start: Duration,
    /// The largest number of requests (or connections) of each client, failed ones included; `None`: until the end of
    /// the run.
    pub requests: Option<u64>,
    /// Path and query to ask for instead of the URL's. `{N}` in it stands for a random number below N.
    pub path: Option<String>,
    /// Request random ranges of such lengths instead of the whole object.
    pub range: Option<ByteSpan>,
    /// Whether a connection is reused for the next request.
    pub keep_alive: bool,
    /// SO_RCVBUF (the kernel doubles it); `None`: the kernel sizes the buffer.
    pub receive_buffer: Option<usize>,
    /// The network that its clients are in, one of loopback's: 127.0.N.0/24. `None`: the plan's source addresses.
    pub network: Option<u8>,
    /// Body bytes to read before stalling or aborting. By TLS it may be up to 16 KiB more: records can only be had whole.
    pub take: ByteSpan,
    /// What half-open clients send.
    pub hello: Hello,
    /// How bytes are read.
    pub reading: Reading,
    /// What bodies are compared with; `None`: the plan's [`Plan::verify`], unless the group has its own path.
    pub verify: Option<Verify>,
}

impl Group {
    /// A group with the class's defaults, named after the class.
    pub fn new(class: Class, clients: usize) -> Group {
        let (receive_buffer, take) = match class {
            Class::Stalled | Class::Idle | Class::HalfOpen => {
                (Some(RECEIVE_BUFFER_STALLED), ByteSpan::exactly(0))
            }
            Class::Slow => (Some(RECEIVE_BUFFER_SLOW), ByteSpan::exactly(0)),
            Class::Aborting => (
                None,
                ByteSpan {
                    min: 0,
                    max: 1 << 20,
                },
            ),
            Class::Fast | Class::Short | Class::Connect | Class::Drip | Class::Handshake => {
                (None, ByteSpan::exactly(0))
            }
        };
        Group {
            name: class.name().to_owned(),
            class,
            clients,
            rate: None,
            start: Duration::ZERO,
            requests: None,
            path: None,
            range: None,
            keep_alive: class != Class::Short,
            receive_buffer,
            network: None,
            take,
            hello: Hello::Part,
            reading: Reading::Copy,
            verify: None,
        }
    }

    fn check(&self) -> Result<(), LoadError> {
        let fail = |reason: String| {
            Err(LoadError::Group {
                group: self.name.clone(),
                reason,
            })
        };
        let named = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if self.name.is_empty() || self.name.len() > 64 || !self.name.chars().all(named) {
            return fail("a name is 1 to 64 letters, digits, '-' or '_'".into());
        }
        if self.clients == 0 {
            return fail("no clients; leave the group out instead".into());
        }
        match (self.class.needs_rate(), self.rate) {
            (true, None) => {
                return fail(format!(
                    "{} clients need a rate, such as 100@100KB/s",
                    self.class.name()
                ));
            }
            (true, Some(0)) => return fail("a rate of 0 is a stalled client".into()),
            (true, Some(rate)) if rate > 1 << 40 => {
                return fail(format!("a rate of {rate} bytes a second is beyond 1 TiB/s"));
            }
            (false, Some(_)) => return fail(format!("{} clients have no rate", self.class.name())),
            _ => {}
        }
        if self.take.min > self.take.max {
            return fail(format!(
                "take: {} is more than {}",
                self.take.min, self.take.max
            ));
        }
        if let Some(range) = self.range {
            if range.min == 0 || range.min > range.max {
                return fail(format!(
                    "range: lengths {} to {} make no range",
                    range.min, range.max
                ));
            }
            if matches!(self.verify, Some(Verify::Sha256(_))) {
                return fail(
                    "a sha256 judges whole objects only; compare ranges with a file".into(),
                );
            }
        }
        if self.receive_buffer.is_some_and(|bytes| bytes > 1 << 30) {
            return fail("a receive buffer over 1 GiB".into());
        }
        if self.requests == Some(0) {
            return fail("requests=0 does nothing".into());
        }
        if self.reading == Reading::Discard
            && matches!(self.verify, Some(Verify::Sha256(_) | Verify::File(_)))
        {
            return fail("discarded bytes cannot be compared; use read=copy".into());
        }
        Ok(())
    }
}

/// How the server is measured while the clients run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watch {
    /// The server's processes. Resident memory and CPU time are summed over them; pages that several processes share
    /// are counted in each. Empty: only the server's sockets are measured.
    pub pids: Vec<i32>,
    /// Also measure the descendants of `pids`, looked up again at each sample.
    pub children: bool,
    /// Time between samples. A sample walks all TCP sockets of the network namespace: some 20 ms of one core
    /// with 20,000 of them.
    pub interval: Duration,
    /// How long to go on sampling after the last client is gone, to see memory being freed.
    pub settle: Duration,
}

impl Default for Watch {
    fn default() -> Watch {
        Watch {
            pids: Vec::new(),
            children: false,
            interval: Duration::from_millis(500),
            settle: Duration::ZERO,
        }
    }
}

/// A whole run.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// `http://host[:port]/path`, or `https:`.
    pub url: String,
    /// The clients, started in this order.
    pub groups: Vec<Group>,
    /// The length of the run, at whose end everything still open is dropped.
    pub duration: Duration,
    /// Clients started per second, over all groups.
    pub ramp: u32,
    /// The seed of all random choices.
    pub seed: u64,
    /// The number of event loops, each on its own thread.
    pub threads: usize,
    /// The number of source addresses, 127.0.0.1 and up; `None`: as many as the clients need.
    pub sources: Option<usize>,
    /// Longest wait for a connection, and again for a response head.
    pub timeout: Duration,
    /// Longest wait for the next bytes of a body.
    pub idle_timeout: Duration,
    /// Pause of a client after a failure or a refusal, unless Retry-After asks for more.
    pub backoff: Duration,
    /// The longest Retry-After that is obeyed; longer ones are cut to this.
    pub retry_after_max: Duration,
    /// Extra header lines of every request.
    pub headers: Vec<(String, String)>,
    /// What bodies of the URL's object are compared with.
    pub verify: Verify,
    /// How to measure the server; `None`: not at all.
    pub watch: Option<Watch>,
    /// How TLS is spoken, if the URL is of `https`.
    pub tls: Tls,
    /// Allow a target on another machine.
    pub allow_remote: bool,
}

impl Plan {
    /// A plan for `url` with no groups yet: 10 s, 4,000 new clients a second, one thread.
    pub fn new(url: &str) -> Plan {
        Plan {
            url: url.to_owned(),
            groups: Vec::new(),
            duration: Duration::from_secs(10),
            ramp: 4000,
            seed: 1,
            threads: 1,
            sources: None,
            timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(60),
            backoff: Duration::from_secs(1),
            retry_after_max: Duration::from_secs(10),
            headers: Vec::new(),
            verify: Verify::No,
            watch: None,
            tls: Tls::default(),
            allow_remote: false,
        }
    }

    /// The number of clients in all groups.
    pub fn clients(&self) -> u64 {
        self.groups.iter().map(|group| group.clients as u64).sum()
    }

    pub(crate) fn check(&self) -> Result<(), LoadError> {
        let fail = |setting, reason: String| Err(LoadError::Setting { setting, reason });
        if self.groups.is_empty() {
            return fail("clients", "none asked for; use for example --fast 4".into());
        }
        for (index, group) in self.groups.iter().enumerate() {
            group.check()?;
            if self.groups[..index]
                .iter()
                .any(|other| other.name == group.name)
            {
                let reason = "two groups have this name; set name=... in one".into();
                return Err(LoadError::Group {
                    group: group.name.clone(),
                    reason,
                });
            }
        }
        if self.clients() > CLIENTS_MAX as u64 {
            return fail(
                "clients",
                format!("{} are more than {CLIENTS_MAX}", self.clients()),
            );
        }
        let settle = self
            .watch
            .as_ref()
            .map_or(Duration::ZERO, |watch| watch.settle);
        if self.duration.is_zero() || self.duration > DURATION_MAX || settle > DURATION_MAX {
            return fail(
                "duration",
                format!("not more than 0 s and at most {} s", DURATION_MAX.as_secs()),
            );
        }
        if self.ramp == 0 {
            return fail("ramp", "0 clients a second never start".into());
        }
        if self.threads == 0 || self.threads > THREADS_MAX {
            return fail(
                "threads",
                format!("{} is not in 1..={THREADS_MAX}", self.threads),
            );
        }
        if self
            .sources
            .is_some_and(|sources| sources == 0 || sources > SOURCES_MAX)
        {
            return fail("sources", format!("not in 1..={SOURCES_MAX}"));
        }
        for (setting, value) in [
            ("timeout", self.timeout),
            ("idle timeout", self.idle_timeout),
            ("backoff", self.backoff),
        ] {
            if value < Duration::from_millis(1) || value > DURATION_MAX {
                return fail(
                    setting,
                    format!(
                        "{value:?} is not between 1 ms and {} s",
                        DURATION_MAX.as_secs()
                    ),
                );
            }
        }
        if let Some(watch) = &self.watch {
            if watch.interval < Duration::from_millis(10) {
                return fail("interval", format!("{:?} is under 10 ms", watch.interval));
            }
            let samples = (self.duration + watch.settle).as_nanos() / watch.interval.as_nanos();
            if samples > SAMPLES_MAX {
                return fail(
                    "interval",
                    format!("{samples} samples are more than {SAMPLES_MAX}; use a longer interval"),
                );
            }
        }
        for (name, value) in &self.headers {
            let sound = http::HeaderName::try_from(name.as_str()).is_ok()
                && http::HeaderValue::try_from(value.as_str()).is_ok();
            if !sound {
                return fail("header", format!("{name:?}: {value:?} is no header line"));
            }
        }
        Ok(())
    }
}
