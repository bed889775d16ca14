//! What a service manager is told (sd_notify(3)). Without one, that is nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, never, tick};
use sd_notify::NotifyState;

use crate::stats::CoreStats;

/// Says that the server serves, or serves again after a reload.
pub(super) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Says that the configuration is being read again. [`ready`] says when that is over.
pub(super) fn reloading() {
    let mut states = vec![NotifyState::Reloading];
    states.extend(NotifyState::monotonic_usec_now());
    tell(&states);
}

/// Says that the server stops.
pub(super) fn stopping(status: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// Says that another process serves from now on, and that this one only ends what it has begun.
pub(super) fn handed_over(process: u32) {
    tell(&[NotifyState::MainPid(process)]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager can't be told");
    }
}

/// The watchdog of the service manager: it is told that the server lives as long as every core does.
pub(super) struct Watchdog {
    /// When to look.
    pub(super) ticks: Receiver<Instant>,
    cores: Vec<Arc<CoreStats>>,
    /// How often each core had ticked when it was looked at last.
    beats: Vec<u64>,
}

impl Watchdog {
    /// Looks often enough, if the service manager asks for it. A core ticks several times a second.
    pub(super) fn new(cores: &[Arc<CoreStats>]) -> Watchdog {
        let interval = sd_notify::watchdog_enabled().map(|within| within / 3);
        Watchdog {
            ticks: match interval {
                Some(interval) => tick(interval.max(Duration::from_millis(1))),
                None => never(),
            },
            cores: cores.to_vec(),
            beats: vec![0; cores.len()],
        }
    }

    /// Looks at the cores, and tells that the server lives if all have ticked since.
    pub(super) fn look(&mut self) {
        let beats: Vec<u64> = self.cores.iter().map(|core| core.heartbeat.get()).collect();
        let mut both = beats.iter().zip(&self.beats).enumerate();
        match both.find(|(_, (now, before))| now == before) {
            None => tell(&[NotifyState::Watchdog]),
            Some((core, _)) => tracing::warn!(core, "the core does not tick"),
        }
        self.beats = beats;
    }
}
