//! A progress bar on standard error when that is a terminal, and nothing otherwise.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How far an operation has come, in bytes.
pub struct Progress(ProgressBar);

impl Progress {
    /// Shows nothing, anywhere.
    pub fn hidden() -> Progress {
        Progress(ProgressBar::hidden())
    }

    /// A bar headed by `verb` on standard error, if that is a terminal. The operation sets the
    /// length when it knows it; until then bytes and speed are shown.
    pub fn on_terminal(verb: &'static str) -> Progress {
        // indicatif draws nothing when standard error is not a terminal.
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr())
            .with_style(style("{prefix} {spinner} {bytes} {binary_bytes_per_sec}"))
            .with_prefix(verb);
        bar.enable_steady_tick(Duration::from_millis(200));
        Progress(bar)
    }

    /// Tells how many bytes more are to be done; adds up over several objects.
    pub fn add_len(&self, bytes: u64) {
        if self.0.length().is_none() {
            self.0.set_style(style(
                "{prefix} {wide_bar} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}",
            ));
            self.0.set_length(0);
        }
        self.0.inc_length(bytes);
    }

    /// Tells that `bytes` more are done.
    pub fn add(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    /// Runs `print` (which writes lines to the terminal) with the bar out of the way. Holds the
    /// bar: anything that touches it in `print` would wait for itself, so only this crate calls it.
    pub(crate) fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        self.0.suspend(print)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("a template of ours")
}
