//! Why a request to a store failed.

use std::error::Error;

use object_store::client::{HttpError, HttpErrorKind};

/// What kind of failure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoteErrorKind {
    /// There is no such file, or no such bucket.
    NotFound,
    /// There is one by that name already.
    AlreadyExists,
    /// The credentials are missing or wrong, or don't suffice.
    Denied,
    /// The store has too much to do.
    SlowDown,
    /// It did not answer in time.
    Timeout,
    /// It can't be connected to.
    Unreachable,
    /// It answered something else than what was asked.
    Protocol,
    /// It does not know how to do that.
    Unsupported,
    /// It failed.
    Other,
}

/// What the reason begins with where it was not the store that failed, but who gives credentials for it.
pub(crate) const FOR_CREDENTIALS: &str = "credentials: ";

/// A request that failed. It tells neither secrets nor signatures.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{store}: {what}: {reason}")]
pub struct RemoteError {
    kind: RemoteErrorKind,
    store: String,
    what: String,
    reason: String,
    /// Whether the same request may do better soon.
    again: bool,
}

impl RemoteError {
    pub(crate) fn new(
        kind: RemoteErrorKind,
        store: &str,
        what: impl Into<String>,
        reason: impl Into<String>,
    ) -> RemoteError {
        let again = matches!(
            kind,
            RemoteErrorKind::SlowDown | RemoteErrorKind::Timeout | RemoteErrorKind::Unreachable
        );
        RemoteError {
            again,
            kind,
            store: store.to_owned(),
            what: what.into(),
            reason: reason.into(),
        }
    }

    /// Of an error of `object_store`.
    pub(crate) fn of(
        store: &str,
        what: impl Into<String>,
        error: &object_store::Error,
    ) -> RemoteError {
        use object_store::Error as Of;
        let kind = match error {
            Of::NotFound { .. } => RemoteErrorKind::NotFound,
            Of::AlreadyExists { .. } | Of::Precondition { .. } => RemoteErrorKind::AlreadyExists,
            Of::PermissionDenied { .. } | Of::Unauthenticated { .. } => RemoteErrorKind::Denied,
            Of::NotImplemented { .. } => RemoteErrorKind::Unsupported,
            _ if status(error) == Some(501) => RemoteErrorKind::Unsupported,
            _ => kind_of_source(error),
        };
        let again = is_broken(error)
            || matches!(status(error), Some(500 | 502 | 504))
            || innermost(error).contains("InternalError");
        let mut reason = innermost(error);
        // An answer's body may be long.
        if reason.len() > REASON_BYTES_MAX {
            let mut end = REASON_BYTES_MAX;
            while !reason.is_char_boundary(end) {
                end -= 1;
            }
            reason.truncate(end);
            reason.push('…');
        }
        let mut made = RemoteError::new(kind, store, what, reason);
        made.again |= again;
        made
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> RemoteErrorKind {
        self.kind
    }

    /// Why, without the store and the request.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Whether the same request may do better soon.
    pub fn is_temporary(&self) -> bool {
        self.again
    }
}

/// More of a reason is not told.
const REASON_BYTES_MAX: usize = 400;

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

fn kind_of_source(error: &object_store::Error) -> RemoteErrorKind {
    for error in chain(error) {
        if let Some(http) = error.downcast_ref::<HttpError>() {
            return match http.kind() {
                HttpErrorKind::Timeout => RemoteErrorKind::Timeout,
                HttpErrorKind::Connect => RemoteErrorKind::Unreachable,
                HttpErrorKind::Decode => RemoteErrorKind::Protocol,
                _ => RemoteErrorKind::Other,
            };
        }
    }
    let text = innermost(error);
    if matches!(status(error), Some(429 | 503)) || text.contains("SlowDown") {
        return RemoteErrorKind::SlowDown;
    }
    // Who gives credentials says 400 too, if it gives none. Not every error that is one of these is told as one.
    match status(error) {
        Some(401 | 403) => return RemoteErrorKind::Denied,
        Some(400..=499) if text.contains(FOR_CREDENTIALS) => return RemoteErrorKind::Denied,
        _ => {}
    }
    let lies = [
        "non-partial",
        "Requested",
        "Wanted range",
        "Content-Range",
        "CONTENT_RANGE",
    ];
    let lies = lies.iter().any(|lie| text.contains(lie));
    // 416: the file ends before the bytes that its own header promises.
    match lies || status(error) == Some(416) {
        true => RemoteErrorKind::Protocol,
        false => RemoteErrorKind::Other,
    }
}

/// The status of an answer that is an error. The crate tells it in words only.
fn status(error: &object_store::Error) -> Option<u16> {
    let text = innermost(error);
    let rest = match text.split_once("status code: ") {
        Some((_, rest)) => rest,
        // One of several files that Azure was to remove.
        None => text.rsplit_once("(code: ")?.1,
    };
    rest.get(..3)?.parse().ok()
}

/// Whether a connection broke under the request or its answer.
fn is_broken(error: &object_store::Error) -> bool {
    chain(error)
        .filter_map(|error| error.downcast_ref::<HttpError>())
        .any(|http| http.kind() == HttpErrorKind::Interrupted)
}

/// The innermost error that says something: those around it repeat it.
fn innermost(error: &object_store::Error) -> String {
    let last = chain(error).last();
    last.map_or_else(|| error.to_string(), ToString::to_string)
}
