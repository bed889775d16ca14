//! What a client is answered when a look-up or a body fails. Nowhere else does an error become an HTTP status.
//!
//! Each error has three hearers. The client is told what it can act on, in one line; paths, stores and sizes stay in
//! the log. The operator finds there what to change. A mistake of this program is logged as one, and is 500 to the
//! client.

use super::core::Core;
use super::seats::Full;
use crate::body::resource::CapError;
use crate::engine::PieceError;
use crate::http::request::Refusal;
use crate::http::respond;
use crate::http::response::Response;
use crate::http::status::Status;
use crate::objects::LookupError;

/// A status and one line for the answer's body.
pub type Answer = (Status, &'static str);

const BUFFER_TOO_SMALL: Answer = (
    Status::InternalError,
    "this object needs larger pool buffers than this server has",
);

const STORES_AWAY: Answer = (
    Status::Unavailable,
    "stores that this takes can't be reached now",
);

/// A key that can't be served.
pub fn for_lookup(error: &LookupError) -> Answer {
    match error {
        LookupError::NotFound => (Status::NotFound, "no such object"),
        LookupError::TooFewShares => (
            Status::InternalError,
            "too few good shares of this object are left",
        ),
        LookupError::StoresAway => STORES_AWAY,
        LookupError::EncodingRefused => (
            Status::NotImplemented,
            "the uploader encoded this file in a way that is not accepted here",
        ),
        LookupError::BufferTooSmall { .. } => BUFFER_TOO_SMALL,
        LookupError::CodeUnusable => (
            Status::InternalError,
            "this object's code can't be used here",
        ),
        LookupError::TooWideForMemory | LookupError::TooManyFiles { .. } => (
            Status::NotImplemented,
            "this object takes more memory than this server has for one",
        ),
        LookupError::NoMemoryForCode => (
            Status::Unavailable,
            "no memory is left for this object's code",
        ),
        LookupError::NoOpenFiles => (
            Status::Unavailable,
            "too many different objects are being served",
        ),
        LookupError::Replaced => (
            Status::Unavailable,
            "this object was replaced while it was sent",
        ),
        LookupError::Interrupted => (Status::Unavailable, "the look-up was interrupted"),
    }
}

/// A connection for which there is no place.
pub fn no_seat(core: &Core, full: Full) -> Response {
    let refusal = Refusal {
        status: Status::Unavailable,
        reason: match full {
            Full::Server => "this server holds as many connections as it may",
            Full::Address => "this client holds as many connections as one may",
        },
        // Nobody knows what the client would have asked.
        head_only: false,
        path: None,
        signed: false,
    };
    respond::refuse(&refusal, &core.context())
}

/// A cap that can't be served.
pub fn for_cap(error: &CapError) -> Answer {
    match error {
        CapError::Malformed => (
            Status::BadRequest,
            "this is not a read-cap: URI:CHK:key:hash:k:n:size or URI:LIT:content",
        ),
        CapError::Unsupported => (
            Status::NotImplemented,
            "only immutable files are served here: URI:CHK and URI:LIT read-caps",
        ),
        CapError::Lookup(LookupError::NotFound) => {
            (Status::NotFound, "no share of this file is here")
        }
        CapError::Lookup(LookupError::TooFewShares) => TOO_FEW_OF_A_FILE,
        CapError::Lookup(error) => for_lookup(error),
    }
}

const TOO_FEW_OF_A_FILE: Answer = (
    Status::Gone,
    "fewer good shares of this file are here than it takes",
);

/// A name for a cap's file that is too long to be announced.
pub const NAME_TOO_LONG: Answer = (Status::BadRequest, "a file name has at most 255 bytes");

/// A body that can't be produced, if nothing of it was sent yet.
pub fn for_piece(error: &PieceError) -> Answer {
    match error {
        PieceError::TooFewShares { .. } | PieceError::TooManyAttempts { .. } => (
            Status::InternalError,
            "too few good shares of this object are left",
        ),
        PieceError::StoresAway { .. } | PieceError::NoBuffers => STORES_AWAY,
        PieceError::NotFetched { cause } => for_piece(cause),
        PieceError::TooFewBlocks { .. } | PieceError::WrongCiphertext { .. } => TOO_FEW_OF_A_FILE,
        PieceError::BufferTooSmall { .. } => BUFFER_TOO_SMALL,
        PieceError::Code(_) | PieceError::Bug(_) => (
            Status::InternalError,
            "this server made a mistake; its log says more",
        ),
        PieceError::Interrupted => (Status::Unavailable, "this server is stopping"),
    }
}
