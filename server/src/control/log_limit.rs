//! Keeps the log of a server small, whatever fails and however often it is asked for.
//!
//! An event that names what failed (a file, an object, a store, a peer) is logged once a minute for the same thing, and
//! no call in the source makes more than [`LOG_LINES_A_MINUTE`] lines a minute, of however many things. What is left out
//! is counted, and the next line says how much it was: [`Passed`]. Events that name nothing, such as start and stop, pass
//! up to a bound that only a flood reaches. Debug lines, which somebody asked for, always pass.

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::hash::{BuildHasher as _, Hash, Hasher, RandomState};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::memory::limits::{LOG_LINES_A_MINUTE, LOG_LINES_MAX, LOG_THINGS_MAX};

const MINUTE: Duration = Duration::from_secs(60);

/// Lines that were left out since the start. The log is the process's, and so is this.
static LEFT_OUT: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// What the event that this thread logs now stands for: the limit sets it, and what writes the event takes it.
    static PASSED: Cell<Passed> = const { Cell::new(Passed { left_out: 0, of_others: 0 }) };
}

/// Lines that were left out since the start.
pub fn left_out_lines() -> u64 {
    LEFT_OUT.load(Ordering::Relaxed)
}

/// What the event stands for that passed last on this thread.
pub(super) fn take_passed() -> Passed {
    PASSED.take()
}

/// A line that is written, and the lines before it that were not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Passed {
    /// Of the same thing, from the same call.
    pub(super) left_out: u64,
    /// Of other things, from the same call.
    pub(super) of_others: u64,
}

/// What one event names, as a hash: with its random key nobody can choose two things that are taken for one.
type Thing = u64;

/// When a thing was logged.
struct Logged<Site> {
    site: Site,
    at: Instant,
    left_out: u64,
}

/// The lines of one call in the source.
struct Lines {
    since: Instant,
    count: u32,
    left_out: u64,
}

/// Decides what is logged. It reads no clock.
struct Limit<Site> {
    things: LruCache<Thing, Logged<Site>>,
    /// As many as the source has calls.
    sites: HashMap<Site, Lines>,
}

impl<Site: Clone + Eq + Hash> Limit<Site> {
    fn new() -> Self {
        let most = const { NonZeroUsize::new(LOG_THINGS_MAX).unwrap() };
        Limit {
            things: LruCache::sparse(most),
            sites: HashMap::new(),
        }
    }

    /// Whether a call's event about a thing is logged now.
    fn decide(&mut self, site: Site, thing: Option<Thing>, now: Instant) -> Option<Passed> {
        let is_recent = |at: Instant| now.saturating_duration_since(at) < MINUTE;
        if let Some(logged) = thing.and_then(|thing| self.things.get_mut(&thing))
            && is_recent(logged.at)
        {
            logged.left_out += 1;
            return None;
        }
        let lines = self.sites.entry(site.clone()).or_insert(Lines {
            since: now,
            count: 0,
            left_out: 0,
        });
        if !is_recent(lines.since) {
            (lines.since, lines.count) = (now, 0);
        }
        let most = match thing {
            Some(_) => LOG_LINES_A_MINUTE,
            // As many as may wait to be written: a start with very many stores says something of each.
            None => LOG_LINES_MAX as u32,
        };
        if lines.count >= most {
            lines.left_out += 1;
            return None;
        }
        lines.count += 1;
        let mut passed = Passed {
            left_out: 0,
            of_others: std::mem::take(&mut lines.left_out),
        };
        if let Some(thing) = thing {
            let logged = Logged {
                site,
                at: now,
                left_out: 0,
            };
            match self.things.push(thing, logged) {
                Some((same, before)) if same == thing => passed.left_out = before.left_out,
                // What was left out of a thing that is forgotten is told by the next line of its call.
                Some((_, forgotten)) => {
                    if let Some(lines) = self.sites.get_mut(&forgotten.site) {
                        lines.left_out += forgotten.left_out;
                    }
                }
                None => {}
            }
        }
        Some(passed)
    }
}

/// Leaves lines out of a server's log.
pub(super) struct LogLimit<Clock> {
    clock: Clock,
    hashes: RandomState,
    limit: Mutex<Limit<Identifier>>,
}

impl<Clock> LogLimit<Clock> {
    /// One that has logged nothing yet.
    pub(super) fn new(clock: Clock) -> Self {
        LogLimit {
            clock,
            hashes: RandomState::new(),
            limit: Mutex::new(Limit::new()),
        }
    }

    /// What an event names, with the call that made it.
    fn thing(&self, event: &Event<'_>) -> Option<Thing> {
        let fields = event.metadata().fields().iter();
        let rank = fields.filter_map(|field| rank(field.name())).max()?;
        let mut hasher = self.hashes.build_hasher();
        event.metadata().callsite().hash(&mut hasher);
        event.record(&mut Names {
            rank,
            hasher: &mut hasher,
        });
        Some(hasher.finish())
    }
}

// Not a filter of one layer: those keep state of their own, which is wrong after an event that is left out.
impl<S: Subscriber, Clock: Fn() -> Instant + 'static> Layer<S> for LogLimit<Clock> {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let passed = match *event.metadata().level() {
            Level::DEBUG | Level::TRACE => Some(Passed::default()),
            _ => {
                let (site, thing) = (event.metadata().callsite(), self.thing(event));
                let mut limit = self.limit.lock().unwrap_or_else(PoisonError::into_inner);
                limit.decide(site, thing, (self.clock)())
            }
        };
        PASSED.set(passed.unwrap_or_default());
        if passed.is_none() {
            LEFT_OUT.fetch_add(1, Ordering::Relaxed);
        }
        passed.is_some()
    }
}

/// How closely a field names what failed, if it does. Of an event's fields the closest count, several together if they
/// are as close: a share file is one thing, an object in a store is another.
fn rank(field: &str) -> Option<u8> {
    match field {
        "path" => Some(3),
        "key" | "name" | "object" | "storage_index" | "store" | "node" => Some(2),
        "peer" | "network" => Some(1),
        _ => None,
    }
}

/// Hashes the fields of one rank. Nothing is allocated.
struct Names<'a, H> {
    rank: u8,
    hasher: &'a mut H,
}

impl<H: Hasher> Visit for Names<'_, H> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if rank(field.name()) == Some(self.rank) {
            field.name().hash(self.hasher);
            // It can't fail.
            let _ = write!(Hashed(self.hasher), "{value:?}");
            self.hasher.write_u8(0xff);
        }
    }
}

struct Hashed<'a, H>(&'a mut H);

impl<H: Hasher> fmt::Write for Hashed<'_, H> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::super::log_fields::LogFields;
    use super::*;

    const SITE: &str = "a call";

    fn passed(left_out: u64, of_others: u64) -> Option<Passed> {
        Some(Passed {
            left_out,
            of_others,
        })
    }

    #[test]
    fn a_thing_is_logged_once_a_minute_with_the_count_of_what_was_left_out() {
        let (mut limit, start) = (Limit::new(), Instant::now());
        assert_eq!(limit.decide(SITE, Some(1), start), passed(0, 0));
        for millis in 1..2000 {
            let now = start + Duration::from_millis(millis);
            assert_eq!(limit.decide(SITE, Some(1), now), None);
        }
        // Another thing, and the same from another call.
        assert_eq!(limit.decide(SITE, Some(2), start), passed(0, 0));
        assert_eq!(limit.decide("another", Some(3), start), passed(0, 0));
        let almost = start + MINUTE - Duration::from_nanos(1);
        assert_eq!(limit.decide(SITE, Some(1), almost), None);
        assert_eq!(limit.decide(SITE, Some(1), start + MINUTE), passed(2000, 0));
        assert_eq!(limit.decide(SITE, Some(1), start + MINUTE), None);
        assert_eq!(
            limit.decide(SITE, Some(1), start + 2 * MINUTE),
            passed(1, 0)
        );
        assert_eq!(
            limit.decide(SITE, Some(1), start + 3 * MINUTE),
            passed(0, 0)
        );
    }

    #[test]
    fn a_call_is_bounded_however_many_things_fail() {
        let (mut limit, start) = (Limit::new(), Instant::now());
        let most = u64::from(LOG_LINES_A_MINUTE);
        let mut in_a_minute = |start: Instant| {
            let things = 0..100_000u64;
            let decided = things.map(|thing| limit.decide(SITE, Some(thing), start));
            decided.flatten().collect::<Vec<_>>()
        };
        assert_eq!(in_a_minute(start).len() as u64, most);
        let second = in_a_minute(start + MINUTE);
        assert_eq!(second.len() as u64, most);
        assert_eq!(second[0].of_others, 100_000 - most);
        // Another call is not concerned.
        let another = limit.decide("another", Some(100_000), start);
        assert_eq!(another, passed(0, 0));
        assert!(limit.things.len() <= LOG_THINGS_MAX);
    }

    #[test]
    fn what_names_nothing_passes_up_to_a_flood() {
        let (mut limit, start) = (Limit::new(), Instant::now());
        for _ in 0..LOG_LINES_MAX {
            assert_eq!(limit.decide(SITE, None, start), passed(0, 0));
        }
        assert_eq!(limit.decide(SITE, None, start), None);
        assert_eq!(limit.decide(SITE, None, start + MINUTE), passed(0, 1));
    }

    /// The lines that these events make, without times; the clock shows the minutes that they set.
    fn logged(events: impl FnOnce(&AtomicU64)) -> Vec<String> {
        let (start, minutes) = (Instant::now(), Arc::new(AtomicU64::new(0)));
        let shown = Arc::clone(&minutes);
        let clock = move || start + MINUTE * shown.load(Ordering::Relaxed) as u32;
        let text = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&text);
        let lines = tracing_subscriber::fmt::layer()
            .fmt_fields(LogFields)
            .with_target(false)
            .with_ansi(false)
            .without_time()
            .with_writer(move || Buffer(Arc::clone(&written)));
        let subscriber = tracing_subscriber::registry()
            .with(LogLimit::new(clock))
            .with(lines);
        tracing::subscriber::with_default(subscriber, || events(&minutes));
        let text = String::from_utf8(text.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| line.trim().to_owned()).collect()
    }

    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_closest_fields_of_an_event_say_what_failed() {
        let lines = logged(|_| {
            for offset in 0..10 {
                for key in ["a", "b"] {
                    tracing::warn!(key, path = "x", offset, "one file");
                    tracing::warn!(key, offset, "two objects");
                }
                for store in 0..2 {
                    tracing::warn!(key = "a", store, "an object in two stores");
                    tracing::info!(peer = %store, "two peers");
                }
                tracing::error!(core = 1, "names nothing");
            }
        });
        let count = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
        assert_eq!(count("one file"), 1);
        assert_eq!(count("two objects"), 2);
        assert_eq!(count("an object in two stores"), 2);
        assert_eq!(count("two peers"), 2);
        assert_eq!(count("names nothing"), 10);
        assert_eq!(lines[0], r#"WARN one file key=a path=x offset=0"#);
    }

    #[test]
    fn a_line_says_what_was_left_out_before_it() {
        let lines = logged(|minutes| {
            for (minute, times) in [(0, 1), (1, 6), (2, 11), (3, 1)] {
                minutes.store(minute, Ordering::Relaxed);
                for _ in 0..times {
                    tracing::warn!(key = "a", "broken");
                }
            }
        });
        let broken = ["", "", " left_out=5", " left_out=10"];
        assert_eq!(lines, broken.map(|end| format!("WARN broken key=a{end}")));
    }

    #[test]
    fn no_line_is_left_out_uncounted() {
        // More things than are remembered, each often: what is forgotten keeps its count.
        let (mut limit, start) = (Limit::new(), Instant::now());
        let (mut events, mut lines, mut told) = (0, 0, 0);
        for turn in 0..200u64 {
            let now = start + Duration::from_secs(turn);
            for event in 0..50 {
                events += 1;
                if let Some(passed) = limit.decide(SITE, Some(turn * 10 + event % 10), now) {
                    lines += 1;
                    told += passed.left_out + passed.of_others;
                }
            }
        }
        let untold: u64 = limit.sites[SITE].left_out
            + limit
                .things
                .iter()
                .map(|(_, logged)| logged.left_out)
                .sum::<u64>();
        assert_eq!(lines + told + untold, events);
        assert!(told > 0);
    }
}
