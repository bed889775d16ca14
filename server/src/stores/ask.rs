//! A question to a store: asked on one of its threads, and waited for until it is late.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::Sleep;

use super::store::Store;

/// A question to a store, on its way.
pub(super) struct Asked<T> {
    /// The answer, and how long it took.
    pub(super) answer: oneshot::Receiver<(T, Duration)>,
    begun: Arc<AtomicBool>,
    /// Jobs that the store's threads had done before.
    done_before: u64,
}

impl Store {
    /// Has one of its threads do something, if it serves; otherwise says why not.
    pub(super) fn ask<T: Send + 'static>(
        self: &Arc<Store>,
        also_slow: bool,
        what: &str,
        job: impl FnOnce(&Store) -> T + Send + 'static,
    ) -> Result<Asked<T>, String> {
        if !self.serves(also_slow) {
            return Err(format!("suspended: {}", self.state().name()));
        }
        self.counts().looks.fetch_add(1, Relaxed);
        let begun = Arc::new(AtomicBool::new(false));
        let (store, begins) = (Arc::clone(self), Arc::clone(&begun));
        let done_before = self.threads().looks.done();
        let asked = self.threads().looks.ask(move || {
            begins.store(true, Relaxed);
            let start = Instant::now();
            let result = job(&store);
            (result, start.elapsed())
        });
        match asked {
            Ok(answer) => Ok(Asked {
                answer,
                begun,
                done_before,
            }),
            Err(refused) => {
                self.suspend_hung(what);
                Err(refused.to_string())
            }
        }
    }

    /// An answer came.
    pub(super) fn answered<T>(&self, (answer, took): (T, Duration)) -> T {
        self.counts().note(took);
        answer
    }

    /// No answer came in time. A store that only has too much to do is not suspended for that.
    pub(super) fn late<T: Send + 'static>(
        self: &Arc<Store>,
        asked: Asked<T>,
        what: &str,
    ) -> String {
        if asked.begun.load(Relaxed) {
            self.suspend_hung(what);
            let (store, hung) = (Arc::clone(self), self.hung());
            tokio::task::spawn_local(async move {
                let answer = asked.answer.await;
                drop(hung);
                // It may have files, and closing them may block. If it can't be dropped there it is dropped here.
                let _ = store.threads().looks.submit(move || drop(answer));
            });
        } else if self.threads().looks.done() == asked.done_before {
            self.suspend_hung(what);
        } else {
            self.counts().timeouts.fetch_add(1, Relaxed);
        }
        format!("no {what} in time")
    }

    /// Others have answered, and this one is not waited for.
    pub(super) fn leave<T: Send + 'static>(self: &Arc<Store>, asked: Asked<T>) -> String {
        let store = Arc::clone(self);
        tokio::task::spawn_local(async move {
            let start = Instant::now();
            let answer = asked.answer.await;
            if let Ok((_, took)) = &answer {
                store
                    .look_pace()
                    .note_first_byte((*took).max(start.elapsed()));
            }
            // It may have files, and closing them may block.
            let _ = store.threads().looks.submit(move || drop(answer));
        });
        "later than usual, and not waited for".to_owned()
    }
}

/// Waits for an answer until the alarm. Gives the question back if none came; `None` if the job failed.
pub(super) async fn wait<T>(
    mut asked: Asked<T>,
    mut alarm: Pin<&mut Sleep>,
) -> Result<Option<(T, Duration)>, Asked<T>> {
    let answer = poll_fn(|context| match Pin::new(&mut asked.answer).poll(context) {
        Poll::Ready(answer) => Poll::Ready(Some(answer.ok())),
        Poll::Pending => alarm.as_mut().poll(context).map(|()| None),
    });
    match answer.await {
        Some(answer) => Ok(answer),
        None => Err(asked),
    }
}
