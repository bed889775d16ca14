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
        let progress = Progress::on(ProgressDrawTarget::stderr(), verb);
        progress.0.enable_steady_tick(Duration::from_millis(200));
        progress
    }

    fn on(target: ProgressDrawTarget, verb: &'static str) -> Progress {
        let bar = ProgressBar::with_draw_target(None, target)
            .with_style(style("{prefix} {spinner} {bytes} {binary_bytes_per_sec}"))
            .with_prefix(verb);
        Progress(bar)
    }

    /// Adds to the number of bytes to do. The numbers of several objects add up.
    pub fn add_len(&self, bytes: u64) {
        if self.0.length().is_none() {
            self.0.set_style(style(
                "{prefix} {wide_bar} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta} left",
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

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use indicatif::TermLike;

    use super::*;

    /// A terminal that keeps all that was written to it.
    #[derive(Clone, Debug, Default)]
    struct Screen(Arc<Mutex<String>>);

    impl TermLike for Screen {
        fn width(&self) -> u16 {
            100
        }

        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)
        }

        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap().push_str(text);
            Ok(())
        }

        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }

        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_bar_shows_rate_and_time_left() {
        let screen = Screen::default();
        let target = ProgressDrawTarget::term_like(Box::new(screen.clone()));
        let progress = Progress::on(target, "put");
        progress.add(1 << 20);
        progress.0.force_draw();
        let text = screen.0.lock().unwrap().split_off(0);
        assert!(text.contains("put") && text.contains("1.00 MiB"), "{text}");
        assert!(text.contains("/s") && !text.contains("left"), "{text}");
        progress.add_len(4 << 20);
        progress.0.force_draw();
        let text = screen.0.lock().unwrap().split_off(0);
        assert!(text.contains("1.00 MiB/4.00 MiB"), "{text}");
        assert!(text.contains("/s") && text.contains("left"), "{text}");
    }
}
