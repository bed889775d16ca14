//! The statuses that this server sends (RFC 9110 section 15).

use std::fmt;

/// Defines [`Status`] from lines of a name, a code and a reason phrase.
macro_rules! statuses {
    ($($name:ident = $code:literal $reason:literal,)*) => {
        /// A status that this server sends.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u16)]
        pub enum Status {
            $(#[doc = $reason] $name = $code,)*
        }

        impl Status {
            const ALL: &[Status] = &[$(Status::$name,)*];

            /// The reason phrase of the status line.
            fn reason(self) -> &'static str {
                match self {
                    $(Status::$name => $reason,)*
                }
            }
        }
    };
}

statuses! {
    Ok = 200 "OK",
    NoContent = 204 "No Content",
    PartialContent = 206 "Partial Content",
    NotModified = 304 "Not Modified",
    PermanentRedirect = 308 "Permanent Redirect",
    BadRequest = 400 "Bad Request",
    Forbidden = 403 "Forbidden",
    NotFound = 404 "Not Found",
    MethodNotAllowed = 405 "Method Not Allowed",
    RequestTimeout = 408 "Request Timeout",
    Gone = 410 "Gone",
    PreconditionFailed = 412 "Precondition Failed",
    TargetTooLong = 414 "URI Too Long",
    RangeNotSatisfiable = 416 "Range Not Satisfiable",
    HeadersTooLarge = 431 "Request Header Fields Too Large",
    InternalError = 500 "Internal Server Error",
    NotImplemented = 501 "Not Implemented",
    Unavailable = 503 "Service Unavailable",
    VersionNotSupported = 505 "HTTP Version Not Supported",
}

impl Status {
    /// The three-digit code.
    pub fn code(self) -> u16 {
        self as u16
    }

    /// The status with this code; a mistake of this server if there is none.
    pub fn of(code: u16) -> Status {
        let known = Status::ALL.iter().find(|status| status.code() == code);
        *known.unwrap_or(&Status::InternalError)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code(), self.reason())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::STATUS_CODES;

    #[test]
    fn every_status_has_a_counter() {
        let codes: Vec<u16> = Status::ALL.iter().map(|status| status.code()).collect();
        assert_eq!(codes, STATUS_CODES);
        assert_eq!(Status::NotFound.to_string(), "404 Not Found");
        for code in codes {
            assert_eq!(Status::of(code).code(), code);
        }
    }
}
