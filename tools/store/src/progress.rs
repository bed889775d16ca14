//! A progress bar on standard error when that is a terminal, and nothing otherwise.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The progress of an operation, in bytes.
pub struct Progress(ProgressBar);

impl Progress {
    /// A bar that is never drawn.
    pub fn hidden() -> Progress {
        Progress(ProgressBar::hidden())
    }

    /// A bar on standard error, headed by `verb`, if standard error is a terminal. It shows bytes
    /// and speed until the operation sets the length.
    pub fn on_terminal(verb: &'static str) -> Progress {
        // indicatif draws nothing when standard error is not a terminal.
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr())
            .with_style(style("{prefix} {spinner} {bytes} {binary_bytes_per_sec}"))
            .with_prefix(verb);
        bar.enable_steady_tick(Duration::from_millis(200));
        Progress(bar)
    }

    /// Adds to the number of bytes to do. The numbers of several objects add up.
    pub fn add_len(&self, bytes: u64) {
        if self.0.length().is_none() {
            self.0.set_style(style(
                "{prefix} {wide_bar} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}",
            ));
            self.0.set_length(0);
        }
        self.0.inc_length(bytes);
    }

    /// Adds to the number of bytes done.
    pub fn add(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    /// Clears the bar, runs `print` (which writes lines to the terminal), and draws the bar again.
    /// The bar is locked meanwhile: a `print` that used it would deadlock.
    pub fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
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
