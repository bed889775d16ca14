//! The thread on which requests are made.

use std::future::pending;
use std::sync::Arc;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::error::{RemoteError, RemoteErrorKind};
use crate::options::ClientOptions;
use crate::transport::Transport;

/// Makes requests, on a thread of its own that ends with the last of its clones. One is enough for a process.
#[derive(Clone)]
pub struct Client {
    handle: Handle,
    pub(crate) transport: Transport,
    /// Its end is what the thread waits for.
    _life: Arc<oneshot::Sender<()>>,
}

impl Client {
    /// Starts its thread.
    ///
    /// # Errors
    /// If the system gives no thread, or the TLS library can't be set up.
    pub fn new(options: ClientOptions) -> Result<Client, RemoteError> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            RemoteError::new(
                RemoteErrorKind::Other,
                "remote stores",
                what,
                error.to_string(),
            )
        };
        let runtime = Builder::new_current_thread()
            .enable_all()
            // They look names up.
            .max_blocking_threads(4)
            .build()
            .map_err(|error| failed("a runtime", &error))?;
        let handle = runtime.handle().clone();
        let transport = Transport::new(options).map_err(|error| failed("TLS", &error))?;
        let (life, end) = oneshot::channel::<()>();
        std::thread::Builder::new()
            .name("remote".into())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        _ = end => {}
                        () = pending() => {}
                    }
                });
            })
            .map_err(|error| failed("a thread", &error))?;
        Ok(Client {
            handle,
            transport,
            _life: Arc::new(life),
        })
    }

    /// Where tasks that make requests are spawned.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Waits for requests, on a thread that is none of a runtime.
    pub fn run<T>(&self, requests: impl Future<Output = T>) -> T {
        self.handle.block_on(requests)
    }
}
