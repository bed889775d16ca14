//! SIGTERM and SIGINT.

use std::io;

use crossbeam_channel::{Receiver, bounded};
use signal_hook::consts::{SIGINT, SIGTERM};

/// Signals that may wait for the control thread.
const SIGNALS_MAX: usize = 4;

/// SIGTERM and SIGINT as messages, from now on.
pub(super) fn subscribe() -> io::Result<Receiver<i32>> {
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT])?;
    let (sender, receiver) = bounded(SIGNALS_MAX);
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for signal in signals.forever() {
                if sender.send(signal).is_err() {
                    return;
                }
            }
        })?;
    Ok(receiver)
}
