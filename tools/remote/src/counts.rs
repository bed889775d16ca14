//! Requests are counted where they are made, since they cost money. Those for credentials cost none, and are not counted.

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

    /// The kind of a request to a store.
    pub(crate) fn of<B>(request: &http::Request<B>) -> Kind {
        let query = request.uri().query().unwrap_or_default();
        // Azure's requests have their kind in the query.
        let has = |pair: &str| query.split('&').any(|one| one == pair);
        match *request.method() {
            Method::GET if has("list-type=2") || has("comp=list") => Kind::List,
            Method::GET => Kind::Get,
            Method::HEAD => Kind::Head,
            Method::PUT if has("comp=blocklist") => Kind::Upload,
            Method::PUT => Kind::Put,
            Method::DELETE => Kind::Delete,
            Method::POST if query.starts_with("delete") || has("comp=batch") => Kind::Delete,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_interface_says_what_it_asks_for_in_its_own_way() {
        for (method, target, kind) in [
            ("GET", "/b?list-type=2&prefix=objects%2F", Kind::List),
            ("GET", "/b/objects/ab", Kind::Get),
            ("HEAD", "/b/objects/ab", Kind::Head),
            ("PUT", "/b/o?partNumber=1&uploadId=x", Kind::Put),
            ("POST", "/b/o?uploads=", Kind::Upload),
            ("POST", "/b/o?uploadId=x", Kind::Upload),
            ("DELETE", "/b/o?uploadId=x", Kind::Delete),
            ("POST", "/b?delete", Kind::Delete),
            ("GET", "/c?restype=container&comp=list&prefix=o", Kind::List),
            ("PUT", "/c/o", Kind::Put),
            ("PUT", "/c/o?comp=block&blockid=x", Kind::Put),
            ("PUT", "/c/o?comp=blocklist", Kind::Upload),
            ("POST", "/c/?restype=container&comp=batch", Kind::Delete),
        ] {
            let request = http::Request::builder().method(method).uri(target);
            assert_eq!(
                Kind::of(&request.body(()).unwrap()),
                kind,
                "{method} {target}"
            );
        }
    }
}
