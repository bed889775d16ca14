//! The thread on which requests are made.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::error::{RemoteError, RemoteErrorKind};
use crate::transport::Transport;

/// The bounds of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientOptions {
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long an answer may take to begin.
    pub first_byte_timeout: Duration,
    /// How long a body may pause.
    pub idle_timeout: Duration,
    /// What is held of an answer at one time, in bytes; 8192 at least.
    pub h1_buffer_bytes: usize,
    /// `SO_RCVBUF` of connections; `None` leaves it to the kernel.
    pub receive_buffer_bytes: Option<usize>,
    /// Idle connections that are kept to each store.
    pub connections_per_store: usize,
}

impl Default for ClientOptions {
    fn default() -> ClientOptions {
        ClientOptions {
            connect_timeout: Duration::from_secs(5),
            first_byte_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(30),
            h1_buffer_bytes: 256 << 10,
            receive_buffer_bytes: None,
            connections_per_store: 16,
        }
    }
}

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
