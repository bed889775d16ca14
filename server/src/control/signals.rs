//! Signals, as the control thread hears of them.

use std::io;

use crossbeam_channel::{Receiver, bounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::{Handle, Signals};

/// Signals that may wait for the control thread.
const SIGNALS_MAX: usize = 4;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// SIGTERM, SIGINT: stop, and let bodies finish; the second time, stop now.
    Stop,
    /// SIGHUP: read the configuration again.
    Reload,
    /// SIGUSR1: open log files again, since they were rotated.
    ReopenLogs,
    /// SIGUSR2: start a new process and hand over to it.
    HandOver,
}

/// What is heard from now on. SIGTERM and SIGINT end the process as usual until [`Subscription::stops`] is called, which
/// is when there is something to stop.
pub(super) struct Subscription {
    /// Where signals arrive.
    pub(super) signals: Receiver<Signal>,
    handle: Handle,
}

impl Subscription {
    /// Hears of SIGTERM and SIGINT too.
    pub(super) fn stops(&self) -> io::Result<()> {
        self.handle.add_signal(SIGTERM)?;
        self.handle.add_signal(SIGINT)
    }
}

/// Hears of SIGHUP, SIGUSR1 and SIGUSR2, which end no server, not even one that is starting.
pub(super) fn subscribe() -> io::Result<Subscription> {
    let mut received = Signals::new([SIGHUP, SIGUSR1, SIGUSR2])?;
    let handle = received.handle();
    let (sender, signals) = bounded(SIGNALS_MAX);
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for signal in received.forever() {
                let signal = match signal {
                    SIGHUP => Signal::Reload,
                    SIGUSR1 => Signal::ReopenLogs,
                    SIGUSR2 => Signal::HandOver,
                    _ => Signal::Stop,
                };
                if sender.send(signal).is_err() {
                    return;
                }
            }
        })?;
    Ok(Subscription { signals, handle })
}
