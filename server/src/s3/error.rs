//! The errors of S3: a code that clients know, and a text for people (Amazon S3 API Reference, "Error responses").

use std::borrow::Cow;
use std::fmt;

/// Defines [`Code`] from lines of a name and the status that it is answered with.
macro_rules! codes {
    ($($name:ident = $status:literal,)*) => {
        /// What went wrong, by the name that S3 has for it.
        #[allow(missing_docs)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Code {
            $($name,)*
        }

        impl Code {
            /// The name, as it stands in the answer.
            pub fn name(self) -> &'static str {
                match self {
                    $(Code::$name => stringify!($name),)*
                }
            }

            /// The HTTP status of the answer.
            pub fn status(self) -> u16 {
                match self {
                    $(Code::$name => $status,)*
                }
            }
        }
    };
}

codes! {
    AccessDenied = 403,
    AuthorizationHeaderMalformed = 400,
    AuthorizationQueryParametersError = 400,
    InternalError = 500,
    InvalidAccessKeyId = 403,
    InvalidArgument = 400,
    InvalidPartNumber = 416,
    InvalidRange = 416,
    InvalidRequest = 400,
    InvalidToken = 400,
    InvalidURI = 400,
    KeyTooLongError = 400,
    MethodNotAllowed = 405,
    MissingSecurityHeader = 400,
    NoSuchBucket = 404,
    NoSuchKey = 404,
    NotImplemented = 501,
    PreconditionFailed = 412,
    RequestTimeTooSkewed = 403,
    RequestTimeout = 408,
    ServiceUnavailable = 503,
    SignatureDoesNotMatch = 403,
    SlowDown = 503,
    XAmzContentSHA256Mismatch = 400,
}

impl Code {
    /// The code for an answer that is known by its status only.
    pub fn of_status(status: u16) -> Code {
        match status {
            403 => Code::AccessDenied,
            404 | 410 => Code::NoSuchKey,
            405 => Code::MethodNotAllowed,
            408 => Code::RequestTimeout,
            412 => Code::PreconditionFailed,
            414 => Code::InvalidURI,
            416 => Code::InvalidRange,
            501 | 505 => Code::NotImplemented,
            503 => Code::ServiceUnavailable,
            400..=499 => Code::InvalidRequest,
            _ => Code::InternalError,
        }
    }
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What S3 calls it.
    pub code: Code,
    /// What was wrong and what to do, in one line.
    pub message: Cow<'static, str>,
    /// The region that the request should have been signed for, where that was wrong.
    pub region: Option<String>,
}

impl Error {
    /// An error with a fixed text.
    pub fn new(code: Code, message: &'static str) -> Error {
        Error {
            code,
            message: Cow::Borrowed(message),
            region: None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.name(), self.message)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_their_names_and_statuses() {
        assert_eq!(Code::NoSuchKey.name(), "NoSuchKey");
        assert_eq!(Code::SignatureDoesNotMatch.status(), 403);
        for status in [400, 403, 404, 405, 408, 412, 416, 500, 501, 503] {
            assert_eq!(Code::of_status(status).status(), status);
        }
        let error = Error::new(Code::AccessDenied, "no");
        assert_eq!(error.to_string(), "AccessDenied: no");
    }
}
