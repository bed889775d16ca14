//! A temporary directory for objects to serve. It is removed even when the benchmark is interrupted, since gigabytes
//! must not stay behind.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tempfile::{Builder, TempDir};

/// All directories created so far: one thread removes them.
static MADE: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Creates a directory in `parent`, or where temporary files go. It is removed when dropped. When the process is told
/// to end (SIGINT, SIGTERM), it is removed too, and the process ends.
///
/// # Errors
///
/// If it cannot be created.
pub fn directory(name: &str, parent: Option<&Path>) -> anyhow::Result<TempDir> {
    let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
    let directory = Builder::new()
        .prefix(&format!("{name}-"))
        .tempdir_in(&parent)
        .with_context(|| format!("can't make a directory in {}", parent.display()))?;
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    made.push(directory.path().to_owned());
    if made.len() > 1 {
        return Ok(directory);
    }
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            // The kernel signals the servers once this process is gone.
            let made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
            for path in made.iter().filter(|path| path.exists()) {
                if let Err(error) = std::fs::remove_dir_all(path) {
                    eprintln!("{} stays behind: {error}", path.display());
                }
            }
            std::process::exit(128 + signal);
        }
    });
    Ok(directory)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_directory_is_removed_when_dropped() {
        let directory = super::directory("test", None).unwrap();
        let path = directory.path().to_owned();
        std::fs::write(path.join("x"), "x").unwrap();
        drop(directory);
        assert!(!path.exists());
    }
}
