//! A directory for what is served, gone with the benchmark: gigabytes must not stay behind when it is
//! interrupted.

use std::path::Path;

use anyhow::Context;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tempfile::{Builder, TempDir};

/// A new directory in `parent`, or where temporary files go. It is removed when dropped; when the
/// process is told to end (SIGINT, SIGTERM), it is removed too, and the process ends.
///
/// # Errors
///
/// When it can't be made.
pub fn directory(name: &str, parent: Option<&Path>) -> anyhow::Result<TempDir> {
    let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
    let directory = Builder::new()
        .prefix(&format!("{name}-"))
        .tempdir_in(&parent)
        .with_context(|| format!("can't make a directory in {}", parent.display()))?;
    let path = directory.path().to_owned();
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            // The servers are told by the kernel, once this process is gone.
            let removed = std::fs::remove_dir_all(&path);
            if let Err(error) = removed {
                eprintln!("{} stays behind: {error}", path.display());
            }
            std::process::exit(128 + signal);
        }
    });
    Ok(directory)
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_is_removed_when_dropped() {
        let directory = super::directory("test", None).unwrap();
        let path = directory.path().to_owned();
        std::fs::write(path.join("x"), "x").unwrap();
        drop(directory);
        assert!(!path.exists());
    }
}
