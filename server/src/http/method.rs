//! The methods of requests.

/// The methods that are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// RFC 9110 section 9.3.1.
    Get,
    /// RFC 9110 section 9.3.2.
    Head,
    /// RFC 9110 section 9.3.7. No object is looked up for it.
    Options,
}

/// The methods, for `Allow`.
pub const METHODS: &str = "GET, HEAD, OPTIONS";
