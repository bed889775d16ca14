//! One client: it sends requests, reads responses as its class does, and counts. A client does not decide when the run
//! ends: the event loop drops its clients at the deadline, and guards count the unfinished requests.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::check::Check;
use crate::connect::{Connection, Dial, source, source_in};
use crate::plan::{ByteSpan, Class};
use crate::rate_limit::RateLimit;
use crate::reading::{Ended, wait_for};
use crate::response::{Body, Framing, Head};
use crate::session::is_tls_error;
use crate::shared::{Local, Member};
use crate::stream::Stream;
use crate::tally::{Counters, Failure, FaultKind, Tally, record};
use crate::tls::TlsClient;

/// How long a client waits for the server's close after `Connection: close`.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// The client's place in the plan.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// Index of its group in the plan.
    pub(crate) group: usize,
    /// Its number in the plan.
    pub(crate) ordinal: u64,
}

/// Plays one client, from `start` until it has made its requests.
pub(crate) async fn client(local: Rc<Local>, place: Place, start: Instant) {
    let _note = PanicNote(&local);
    sleep_until(start).await;
    let member = Member {
        local: &local,
        prepared: &local.shared.groups[place.group],
        group: place.group,
    };
    // Each client has its own random sequence; the multiplier keeps the seeds of neighbours apart.
    let seed = local.shared.plan.seed ^ (place.ordinal + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut client = Client {
        member,
        ordinal: place.ordinal,
        random: fastrand::Rng::with_seed(seed),
        connection: None,
    };
    for _ in 0..member.prepared.group.requests.unwrap_or(u64::MAX) {
        client.member.tally(|tally| tally.touch(Instant::now()));
        let pause = match client.run_once().await {
            Ok(pause) => pause,
            Err(failure) => {
                client.connection = None;
                client.member.tally(|tally| tally.fault(failure));
                Counters::add(&local.shared.counters.faults, 1);
                Some(local.shared.plan.backoff)
            }
        };
        client.member.tally(|tally| tally.touch(Instant::now()));
        if let Some(pause) = pause {
            sleep(pause).await;
        }
    }
    if let Some(mut connection) = client.connection {
        connection.stream.close_notify();
    }
}

struct PanicNote<'a>(&'a Local);

impl Drop for PanicNote<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.panics.set(self.0.panics.get() + 1);
        }
    }
}

/// A running client.
struct Client<'a> {
    member: Member<'a>,
    ordinal: u64,
    random: fastrand::Rng,
    connection: Option<Connection>,
}

/// On drop, counts a request that was begun and not settled, since the deadline came first.
struct UnderWay<'a> {
    member: Member<'a>,
    count: fn(&mut Tally),
    settled: bool,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if !self.settled {
            self.member.tally(|tally| {
                tally.touch(Instant::now());
                (self.count)(tally);
            });
        }
    }
}

impl<'a> Client<'a> {
    fn under_way(&self, count: fn(&mut Tally)) -> UnderWay<'a> {
        UnderWay {
            member: self.member,
            count,
            settled: false,
        }
    }

    /// Makes one request and handles its response. Returns the pause before the next request.
    async fn run_once(&mut self) -> Result<Option<Duration>, Failure> {
        let mut under_way = self.under_way(|tally| tally.unfinished += 1);
        let result = self.attempt(&mut under_way).await;
        under_way.settled = true;
        result
    }

    async fn attempt(&mut self, under_way: &mut UnderWay<'_>) -> Result<Option<Duration>, Failure> {
        // A server may close an idle connection at the moment it is used again. That is no fault: the client asks
        // again, once.
        if let Some(mut connection) = self.connection.take() {
            let asked = Instant::now();
            let stream = &mut connection.stream;
            match self.exchange(stream, asked, under_way).await {
                Err(failure) if matches!(failure.kind, FaultKind::HeadClosed | FaultKind::Send) => {
                    self.member.tally(|tally| tally.stale += 1);
                }
                other => return self.finish_response(connection, other?).await,
            }
        }
        let asked = Instant::now();
        let mut connection = self.connect().await?;
        match self.member.prepared.group.class {
            Class::Connect => {
                // Closes with a reset: tens of thousands of orderly closes a second would use up the ports in
                // TIME_WAIT.
                connection.stream.reset_on_close();
                Ok(None)
            }
            Class::Idle | Class::HalfOpen => {
                Ok(Some(self.hold(&connection.stream, under_way).await))
            }
            Class::Handshake => {
                connection.stream.close_notify();
                self.wait_for_close(&mut connection.stream).await?;
                // The server has closed or never will, and a reset leaves no port in TIME_WAIT.
                connection.stream.reset_on_close();
                Ok(None)
            }
            _ => {
                let stream = &mut connection.stream;
                let next = self.exchange(stream, asked, under_way).await?;
                self.finish_response(connection, next).await
            }
        }
    }

    async fn connect(&mut self) -> Result<Connection, Failure> {
        let shared = &self.member.local.shared;
        let begun = Instant::now();
        let dial = Dial {
            address: shared.target.address,
            source: match self.member.prepared.group.network {
                Some(network) => Some(source_in(network, self.ordinal)),
                None => source(self.ordinal, shared.sources),
            },
            receive_buffer: self.member.prepared.group.receive_buffer,
            timeout: shared.plan.timeout,
        };
        let mut connection = dial.connect(&shared.counters).await?;
        self.member.tally(|tally| {
            tally.connects += 1;
            record(&mut tally.connect_time, begun.elapsed());
        });
        if let Some(tls) = &shared.tls {
            self.secure(tls, &mut connection.stream).await?;
        }
        Ok(connection)
    }

    /// Begins TLS as the class does.
    async fn secure(&self, tls: &TlsClient, stream: &mut Stream) -> Result<(), Failure> {
        let group = &self.member.prepared.group;
        match group.class {
            Class::Connect => return Ok(()),
            Class::HalfOpen => {
                let sent = stream.half_open(tls, group.hello).await;
                return sent.map_err(|error| Failure::new(FaultKind::Send, error));
            }
            _ => {}
        }
        let begun = Instant::now();
        let patience = self.member.plan().timeout;
        let awaited = timeout(patience, stream.handshake(tls, &self.member.local.scratch)).await;
        let negotiated = awaited
            .map_err(|_| {
                let detail = format!("no end of the TLS handshake within {patience:?}");
                Failure::new(FaultKind::HandshakeTimeout, detail)
            })?
            .map_err(|error| Failure::new(FaultKind::Handshake, error))?;
        self.member
            .tally(|tally| tally.handshake(negotiated, begun.elapsed()));
        Ok(())
    }

    /// Keeps the connection for the next request, or closes it in an orderly way.
    async fn finish_response(
        &mut self,
        mut connection: Connection,
        next: Next,
    ) -> Result<Option<Duration>, Failure> {
        match next {
            Next::Keep => self.connection = Some(connection),
            Next::Drop => {}
            Next::Pause(pause) => return Ok(Some(pause)),
            Next::AwaitClose => {
                // What is wrong after a whole response is the server's affair.
                let _ = self.wait_for_close(&mut connection.stream).await;
            }
        }
        Ok(None)
    }

    /// Lets the server close first, so that TIME_WAIT and its port are the server's. Fails if TLS does; a server that goes
    /// away in another way, or stays, is no fault.
    async fn wait_for_close(&self, stream: &mut Stream) -> Result<(), Failure> {
        let awaited = timeout(CLOSE_WAIT, self.read_to_end(stream)).await;
        if stream.is_cut_off() {
            self.member.tally(|tally| tally.cut_off += 1);
        }
        match awaited {
            Ok(Err(error)) if is_tls_error(&error) => Err(Failure::new(FaultKind::Tls, error)),
            _ => Ok(()),
        }
    }

    /// Reads what still comes, to the connection's end.
    async fn read_to_end(&self, stream: &mut Stream) -> io::Result<()> {
        loop {
            let read = stream.try_read(1024, &mut self.member.local.scratch.borrow_mut());
            match read {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    stream.readable().await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends one request and reads its response as the class does. Times count from `begun`.
    async fn exchange(
        &mut self,
        stream: &mut Stream,
        begun: Instant,
        under_way: &mut UnderWay<'_>,
    ) -> Result<Next, Failure> {
        let group = &self.member.prepared.group;
        let plan = self.member.plan();
        let range = group.range.map(|lengths| self.draw_range(lengths));
        let request = self.request(range);
        self.send(stream, &request).await?;
        drop(request);
        self.member.tally(|tally| tally.requests += 1);

        let awaited = timeout(plan.timeout, self.member.read_head(stream, begun)).await;
        let (head, rest) = awaited.map_err(|_| {
            Failure::new(
                FaultKind::HeadTimeout,
                format!("no response head within {:?}", plan.timeout),
            )
        })??;
        self.member.tally(|tally| {
            tally.responses += 1;
            *tally.statuses.entry(head.status).or_default() += 1;
        });
        Counters::add(&self.member.local.shared.counters.responses, 1);

        let mut body = Body::new(head.framing);
        if !matches!(head.status, 200 | 206) {
            return self.handle_refusal(stream, head, &mut body, &rest).await;
        }
        let mut check = self.check_head(&head, range)?;
        let class = group.class;
        let stop_at = match class {
            Class::Stalled | Class::Aborting => Some(group.take.draw(&mut self.random)),
            _ => None,
        };
        let mut limit = match (class, group.rate) {
            (Class::Slow, Some(rate)) => Some(RateLimit::new(rate, Instant::now())),
            _ => None,
        };
        let ended = self
            .member
            .read_body(
                stream,
                &mut body,
                &mut check,
                &rest,
                stop_at,
                limit.as_mut(),
            )
            .await?;
        drop(rest);
        if class == Class::Stalled {
            drop(check);
            let pause = self.hold(stream, under_way).await;
            return Ok(Next::Pause(pause));
        }
        if ended == Ended::Enough {
            self.member.tally(|tally| tally.aborted += 1);
            if self.random.bool() {
                stream.reset_on_close();
            }
            return Ok(Next::Drop);
        }
        check
            .finish()
            .map_err(|detail| Failure::new(FaultKind::WrongBytes, detail))?;
        self.member.tally(|tally| {
            tally.completed += 1;
            record(&mut tally.total_time, begun.elapsed());
        });
        Counters::add(&self.member.local.shared.counters.completed, 1);
        Ok(match (head.close, group.keep_alive) {
            (false, true) => Next::Keep,
            _ => Next::AwaitClose,
        })
    }

    /// Draws a random range of the object, as long as `lengths` or the object allow. Returns its first and last byte.
    fn draw_range(&mut self, lengths: ByteSpan) -> (u64, u64) {
        let length = lengths
            .draw(&mut self.random)
            .min(self.member.prepared.size);
        let first = self.random.u64(0..=self.member.prepared.size - length);
        (first, first + length - 1)
    }

    fn request(&mut self, range: Option<(u64, u64)>) -> Vec<u8> {
        use std::fmt::Write;
        let shared = &self.member.local.shared;
        let group = &self.member.prepared.group;
        let mut text = String::with_capacity(256);
        text.push_str("GET ");
        push_path(
            &mut text,
            group.path.as_deref().unwrap_or(&shared.target.path),
            &mut self.random,
        );
        let _ = write!(
            text,
            " HTTP/1.1\r\nHost: {}\r\nUser-Agent: penstock-load\r\nAccept: */*\r\n",
            shared.target.host
        );
        if !group.keep_alive {
            text.push_str("Connection: close\r\n");
        }
        for (name, value) in &shared.plan.headers {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        if let Some((first, last)) = range {
            let _ = write!(text, "Range: bytes={first}-{last}\r\n");
        }
        text.push_str("\r\n");
        text.into_bytes()
    }

    async fn send(&mut self, stream: &mut Stream, mut request: &[u8]) -> Result<(), Failure> {
        let group = &self.member.prepared.group;
        let mut limit = match (group.class, group.rate) {
            (Class::Drip, Some(rate)) => Some(RateLimit::new(rate, Instant::now())),
            _ => None,
        };
        while !request.is_empty() {
            let mut most = request.len();
            if let Some(limit) = limit.as_mut() {
                let allowed = wait_for(limit).await;
                most = most.min(usize::try_from(allowed).unwrap_or(usize::MAX));
            }
            let patience = self.member.plan().timeout;
            let sent = timeout(patience, stream.write_all(&request[..most])).await;
            sent.map_err(|_| Failure::new(FaultKind::Send, "the request is not taken"))?
                .map_err(|error| Failure::new(FaultKind::Send, error))?;
            request = &request[most..];
            if let Some(limit) = limit.as_mut() {
                limit.record(most as u64);
            }
        }
        Ok(())
    }

    /// Handles a response that is not the object, and decides what the client does next.
    async fn handle_refusal(
        &mut self,
        stream: &mut Stream,
        head: Head,
        body: &mut Body,
        rest: &[u8],
    ) -> Result<Next, Failure> {
        let plan = self.member.plan();
        self.member
            .read_body(stream, body, &mut Check::Nothing, rest, None, None)
            .await?;
        if head.status != 503 {
            return Err(Failure::new(
                FaultKind::Status,
                format!("status {}", head.status),
            ));
        }
        Counters::add(&self.member.local.shared.counters.refused, 1);
        let asked = head.retry_after.flatten().unwrap_or_default();
        self.member.tally(|tally| {
            tally.refused += 1;
            tally.retry_after += u64::from(head.retry_after.is_some());
            tally.retry_after_most = tally.retry_after_most.max(asked);
        });
        Ok(Next::Pause(
            plan.backoff.max(asked.min(plan.retry_after_max)),
        ))
    }

    /// Checks that the head promises what was requested, and returns the check for its body.
    fn check_head(&self, head: &Head, range: Option<(u64, u64)>) -> Result<Check<'a>, Failure> {
        let expected = &self.member.prepared.expected;
        let length = match head.framing {
            Framing::Length(length) => Some(length),
            _ => None,
        };
        let Some((first, last)) = range else {
            if head.status != 200 {
                return Err(Failure::new(
                    FaultKind::Range,
                    "206 although no range was asked for",
                ));
            }
            if let (Some(size), Some(length)) = (expected.size(), length)
                && size != length
            {
                return Err(Failure::new(
                    FaultKind::Body,
                    format!("{length} bytes of an object of {size}"),
                ));
            }
            return Ok(Check::new(expected, 0, true));
        };
        let sent = head.content_range.filter(|_| head.status == 206);
        let fits = sent.is_some_and(|sent| (sent.first, sent.last) == (first, last));
        if !fits || length.is_some_and(|length| length != last - first + 1) {
            let detail = format!(
                "asked for bytes {first}-{last}, got status {} and {:?}",
                head.status, head.content_range
            );
            return Err(Failure::new(FaultKind::Range, detail));
        }
        Ok(Check::new(expected, first, false))
    }

    /// Keeps the connection without reading until the server ends it. Returns the pause after that.
    async fn hold(&self, stream: &Stream, under_way: &mut UnderWay<'_>) -> Duration {
        self.member.tally(|tally| tally.stalls += 1);
        under_way.settled = true;
        let mut held = self.under_way(|tally| tally.held += 1);
        let holding = &self.member.local.shared.counters.holding;
        Counters::add(holding, 1);
        stream.ended().await;
        held.settled = true;
        Counters::subtract(holding, 1);
        self.member.tally(|tally| tally.closed_by_server += 1);
        self.member.plan().backoff
    }
}

/// What the client does with the connection after a response.
enum Next {
    Keep,
    Drop,
    AwaitClose,
    /// Drop the connection, and wait.
    Pause(Duration),
}

/// Appends `path`, with a random number below N in place of `{N}`.
fn push_path(text: &mut String, path: &str, random: &mut fastrand::Rng) {
    use std::fmt::Write;
    match path.split_once('{').and_then(|(before, rest)| {
        rest.split_once('}')
            .map(|(count, after)| (before, count, after))
    }) {
        Some((before, count, after)) if count.parse().is_ok_and(|count: u64| count > 0) => {
            let count: u64 = count.parse().unwrap_or(1);
            let _ = write!(text, "{before}{}{after}", random.u64(0..count));
        }
        _ => text.push_str(path),
    }
}
