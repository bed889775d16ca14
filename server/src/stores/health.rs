//! Whether a store serves. A state machine without a clock: time is an argument.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use crate::memory::limits::{
    STORE_ERRORS_MAX, STORE_ERRORS_WITHIN, STORE_PAUSE_LEAST, STORE_PAUSE_MOST, STORE_RELAPSE,
};

/// Why a store is suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Its directory is not there, or not a store: a disk that is not mounted.
    Missing,
    /// It did not answer in time.
    Hung,
    /// It answers with errors.
    Failing,
    /// It takes many times as long as the others.
    Slow,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cause::Missing => "missing",
            Cause::Hung => "hung",
            Cause::Failing => "failing",
            Cause::Slow => "slow",
        })
    }
}

/// What a store does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is asked and read.
    Serving,
    /// It is left alone.
    Suspended(Cause),
}

impl State {
    /// Its name in metrics and in the status.
    pub fn name(self) -> &'static str {
        match self {
            State::Serving => "serving",
            State::Suspended(Cause::Missing) => "missing",
            State::Suspended(Cause::Hung) => "hung",
            State::Suspended(Cause::Failing) => "failing",
            State::Suspended(Cause::Slow) => "slow",
        }
    }
}

/// What changed, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is suspended from now on, and tried again after this pause.
    Suspended(Cause, Duration),
    /// It serves again, after so long.
    Returned(Duration),
}

/// The health of one store.
#[derive(Debug)]
pub struct Health {
    state: State,
    /// Since when.
    since: Instant,
    /// The pause before the next try, doubled with every failure.
    pause: Duration,
    /// When it is tried next.
    next_try: Instant,
    /// When it came back last.
    returned: Option<Instant>,
    /// Reads that failed: when, and of which object.
    errors: VecDeque<(Instant, u64)>,
}

impl Health {
    /// A store that serves.
    pub fn new(now: Instant) -> Health {
        Health {
            state: State::Serving,
            since: now,
            pause: Duration::ZERO,
            next_try: now,
            returned: None,
            errors: VecDeque::with_capacity(STORE_ERRORS_MAX),
        }
    }

    /// What it does now.
    pub fn state(&self) -> State {
        self.state
    }

    /// Since when.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Suspends it. `None` if it is suspended already.
    pub fn suspend(&mut self, cause: Cause, now: Instant) -> Option<Change> {
        if self.state != State::Serving {
            return None;
        }
        let relapse = self
            .returned
            .is_some_and(|at| now.saturating_duration_since(at) < STORE_RELAPSE);
        self.pause = match relapse {
            true => (2 * self.pause).clamp(STORE_PAUSE_LEAST, STORE_PAUSE_MOST),
            false => STORE_PAUSE_LEAST,
        };
        self.state = State::Suspended(cause);
        self.since = now;
        self.next_try = now + self.pause;
        self.errors.clear();
        Some(Change::Suspended(cause, self.pause))
    }

    /// Reading an object failed. One object's shares may lie on a bad sector; several objects in a short time are the
    /// store's fault, and so are errors that no sector gives.
    pub fn failed(&mut self, error: &io::Error, object: u64, now: Instant) -> Option<Change> {
        if is_of_the_store(error) {
            return self.suspend(Cause::Failing, now);
        }
        if !is_of_the_disk(error) {
            return None;
        }
        self.errors.retain(|&(at, other)| {
            other != object && now.saturating_duration_since(at) < STORE_ERRORS_WITHIN
        });
        self.errors.push_back((now, object));
        match self.errors.len() >= STORE_ERRORS_MAX {
            true => self.suspend(Cause::Failing, now),
            false => None,
        }
    }

    /// Whether it is to be tried now.
    pub fn is_due(&self, now: Instant) -> bool {
        self.state != State::Serving && now >= self.next_try
    }

    /// What it had been asked when it hung has ended: it is tried at once.
    pub fn stirred(&mut self, now: Instant) {
        self.next_try = self.next_try.min(now);
    }

    /// A try failed: the next one comes later. The cause may be another by now.
    pub fn try_failed(&mut self, cause: Cause, now: Instant) {
        if self.state == State::Serving {
            return;
        }
        // One that is slow because it hardly answers at all stays what it was found to be.
        self.state = State::Suspended(cause);
        self.pause = (2 * self.pause).min(STORE_PAUSE_MOST);
        self.next_try = now + self.pause;
    }

    /// A try succeeded. `None` if it was serving.
    pub fn try_succeeded(&mut self, now: Instant) -> Option<Change> {
        if self.state == State::Serving {
            return None;
        }
        let after = now.saturating_duration_since(self.since);
        self.state = State::Serving;
        self.since = now;
        self.returned = Some(now);
        Some(Change::Returned(after))
    }
}

/// Whether an error is one of the whole store: its device or its server is gone.
fn is_of_the_store(error: &io::Error) -> bool {
    let gone = [
        libc::ENODEV,
        libc::ENXIO,
        libc::ESTALE,
        libc::ENOTCONN,
        libc::ESHUTDOWN,
        libc::EREMOTEIO,
        libc::EHOSTDOWN,
        libc::EHOSTUNREACH,
        libc::ENETDOWN,
        libc::ENETUNREACH,
        libc::ECONNABORTED,
        libc::ECONNREFUSED,
        libc::ECONNRESET,
        libc::ETIMEDOUT,
        libc::ENOMEDIUM,
        libc::EROFS,
    ];
    error
        .raw_os_error()
        .is_some_and(|code| gone.contains(&code))
}

/// Whether an error may be one of the disk: not what a file is too short for, or what the machine has too little of.
fn is_of_the_disk(error: &io::Error) -> bool {
    let damaged = [
        libc::EIO,
        libc::EUCLEAN,
        libc::ENODATA,
        libc::EBADMSG,
        libc::EILSEQ,
    ];
    error
        .raw_os_error()
        .is_some_and(|code| damaged.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: i32) -> io::Error {
        io::Error::from_raw_os_error(code)
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_double_up_to_a_minute_and_start_anew_after_a_good_while() {
        let mut now = Instant::now();
        let mut health = Health::new(now);
        assert!(!health.is_due(now));
        let suspended = health.suspend(Cause::Hung, now);
        assert_eq!(suspended, Some(Change::Suspended(Cause::Hung, SECOND)));
        assert_eq!(health.suspend(Cause::Slow, now), None, "it is already");
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let start = now;
            while !health.is_due(now) {
                now += SECOND / 2;
            }
            pauses.push((now - start).as_secs());
            health.try_failed(Cause::Missing, now);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(health.state(), State::Suspended(Cause::Missing));
        let returned = health.try_succeeded(now);
        assert!(matches!(returned, Some(Change::Returned(after)) if after.as_secs() >= 183));
        assert_eq!(health.state(), State::Serving);
        assert_eq!(health.try_succeeded(now), None);
        // It fails again soon.
        now += 10 * SECOND;
        let suspended = health.suspend(Cause::Hung, now);
        assert_eq!(suspended, Some(Change::Suspended(Cause::Hung, 60 * SECOND)));
        health.stirred(now);
        assert!(health.is_due(now));
        health.try_succeeded(now);
        // And after a good while.
        now += 61 * SECOND;
        let suspended = health.suspend(Cause::Slow, now);
        assert_eq!(suspended, Some(Change::Suspended(Cause::Slow, SECOND)));
    }

    #[test]
    fn one_bad_sector_costs_no_store_and_several_objects_do() {
        let now = Instant::now();
        let mut health = Health::new(now);
        for _ in 0..10 {
            assert_eq!(health.failed(&error(libc::EIO), 7, now), None);
        }
        assert_eq!(health.failed(&error(libc::EIO), 8, now), None);
        let short = io::Error::other("the file ends early");
        for object in 10..20 {
            assert_eq!(health.failed(&short, object, now), None);
        }
        // Those of long ago don't count.
        let later = now + STORE_ERRORS_WITHIN;
        assert_eq!(health.failed(&error(libc::EIO), 9, later), None);
        assert_eq!(health.failed(&error(libc::EIO), 8, later), None);
        let third = health.failed(&error(libc::EIO), 7, later);
        assert_eq!(third, Some(Change::Suspended(Cause::Failing, SECOND)));
    }

    #[test]
    fn a_device_or_server_that_is_gone_costs_the_store_at_once() {
        for code in [libc::ENODEV, libc::ESTALE, libc::ENOTCONN, libc::ENXIO] {
            let now = Instant::now();
            let mut health = Health::new(now);
            assert!(health.failed(&error(code), 1, now).is_some());
            assert_eq!(health.state(), State::Suspended(Cause::Failing));
        }
    }
}
