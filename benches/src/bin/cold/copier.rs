//! A core that copies memory all the time. It shows how much that slows a disk, which may itself be
//! the memory of a host.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

use anyhow::{Context, ensure};
use core_affinity::CoreId;

/// Bytes of each of its two buffers: more than caches hold.
const BUFFER_BYTES: usize = 64 << 20;

/// A thread that copies one buffer to another and back until this is dropped.
pub(crate) struct Copier {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Copier {
    /// Starts the thread on a core. When this returns, its memory is allocated and was written
    /// once.
    pub(crate) fn start(core: usize) -> anyhow::Result<Copier> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let (sender, receiver) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let pinned = core_affinity::set_for_current(CoreId { id: core });
            let (mut here, mut there) = (vec![1_u8; BUFFER_BYTES], vec![2_u8; BUFFER_BYTES]);
            // The receiver is gone if the benchmark is over.
            let _ = sender.send(pinned);
            while pinned && !stopped.load(Ordering::Relaxed) {
                black_box(&mut there[..]).copy_from_slice(black_box(&here));
                black_box(&mut here[..]).copy_from_slice(black_box(&there));
            }
        });
        let copier = Copier {
            stop,
            thread: Some(thread),
        };
        let pinned = receiver.recv().context("the copying thread is gone")?;
        ensure!(pinned, "can't pin a copying thread to core {core}");
        Ok(copier)
    }
}

impl Drop for Copier {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It cannot have panicked, since both buffers have the same length.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copier_ends_when_dropped_and_needs_a_core_that_exists() {
        let cores = core_affinity::get_core_ids().unwrap();
        drop(Copier::start(cores[0].id).unwrap());
        let error = Copier::start(1023).err().unwrap().to_string();
        assert!(error.contains("core 1023"), "{error}");
    }
}
