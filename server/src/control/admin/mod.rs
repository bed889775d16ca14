//! The admin listener: `/metrics`, `/healthz`, `/readyz`, `/status`, and at `/` a page that shows it live, on a thread
//! of its own.
//!
//! It reads the cores' counters, and asks each core for a list of connections. Nothing here can slow a core.

use std::net::TcpListener;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use axum::{Json, Router};

mod memory;
mod metrics;
mod state;
mod status;
mod stores;

pub use state::ServerState;

/// Starts the thread. It ends with the process.
pub fn start(listener: TcpListener, server: Arc<ServerState>) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("admin".into())
        .spawn(move || {
            let served = runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                axum::serve(listener, routes(server)).await
            });
            if let Err(error) = served {
                tracing::error!(%error, "the admin listener stopped");
            }
        })?;
    Ok(())
}

fn routes(server: Arc<ServerState>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .with_state(server)
}

/// A page that asks for `/status` once a second. Its policy lets it load nothing else.
async fn page() -> impl IntoResponse {
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                  connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let headers = [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, Html(include_str!("page.html")))
}

/// Ready unless it is starting or stopping, or so many stores are away that nothing can be served.
async fn ready(State(server): State<Arc<ServerState>>) -> impl IntoResponse {
    let reason = match server.is_ready() {
        true => server.stores.outage(),
        false => Some("starting or stopping".to_owned()),
    };
    match reason {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(reason) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("not ready: {reason}\n"),
        ),
    }
}

async fn metrics(State(server): State<Arc<ServerState>>) -> impl IntoResponse {
    match metrics::encode(server) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn status(State(server): State<Arc<ServerState>>) -> impl IntoResponse {
    let listed = status::ask_cores(&server).await;
    Json(status::status(&server, listed))
}
