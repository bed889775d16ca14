//! Work on many files at once: each is in another store, and disks sync side by side.

use std::sync::Mutex;
use std::thread;

/// Threads at most; a wide code has hundreds of shares.
const THREADS_MAX: usize = 16;
/// The stack of each: file operations need little, requests to a bucket some more.
const STACK_BYTES: usize = 512 << 10;

/// Does `work` on every item, on several threads. Returns the results in order.
pub(crate) fn each<T: Send, R: Send>(items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let threads = items.len().min(THREADS_MAX);
    let mut results: Vec<Option<R>> = items.iter().map(|_| None).collect();
    let queue = Mutex::new(items.into_iter().zip(&mut results));
    let run = || {
        loop {
            // The lock is held for no longer than it takes to get an item.
            let next = queue.lock().expect("no holder panics").next();
            let Some((item, result)) = next else {
                break;
            };
            *result = Some(work(item));
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            let thread = thread::Builder::new().stack_size(STACK_BYTES);
            if thread.spawn_scoped(scope, run).is_err() {
                // The threads that there are do it.
                break;
            }
        }
        run();
    });
    drop(queue);
    results.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order() {
        for count in [0, 1, 5, 100] {
            let squares = each((0..count).collect(), |i: u64| i * i);
            assert_eq!(squares, (0..count).map(|i| i * i).collect::<Vec<_>>());
        }
    }
}
