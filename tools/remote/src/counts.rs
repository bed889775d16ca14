//! Requests are counted where they are made, since they cost money.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use http::Method;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A page of a listing.
    List,
    /// A file or a part of it.
    Get,
    /// What is known of a file.
    Head,
    /// To write a file, or a part of one.
    Put,
    /// To remove a file, or an upload that was not completed.
    Delete,
    /// To begin or to complete an upload.
    Upload,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 6] = [
        Kind::List,
        Kind::Get,
        Kind::Head,
        Kind::Put,
        Kind::Delete,
        Kind::Upload,
    ];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Kind::List => "list",
            Kind::Get => "get",
            Kind::Head => "head",
            Kind::Put => "put",
            Kind::Delete => "delete",
            Kind::Upload => "upload",
        }
    }

    /// The kind of a request.
    pub(crate) fn of<B>(request: &http::Request<B>) -> Kind {
        let query = request.uri().query().unwrap_or_default();
        match *request.method() {
            Method::GET if query.contains("list-type=") => Kind::List,
            Method::GET => Kind::Get,
            Method::HEAD => Kind::Head,
            Method::PUT => Kind::Put,
            Method::DELETE => Kind::Delete,
            Method::POST if query.starts_with("delete") => Kind::Delete,
            _ => Kind::Upload,
        }
    }
}

/// Requests to one store, by kind.
#[derive(Debug, Default)]
pub struct Requests([AtomicU64; Kind::ALL.len()]);

impl Requests {
    pub(crate) fn note(&self, kind: Kind) {
        self.0[kind as usize].fetch_add(1, Relaxed);
    }

    /// How many of a kind were made.
    pub fn of(&self, kind: Kind) -> u64 {
        self.0[kind as usize].load(Relaxed)
    }
}
