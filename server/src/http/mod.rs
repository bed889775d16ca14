//! HTTP/1.1 without I/O: bytes to requests, requests to response heads, and the state of one connection.

pub mod conditions;
pub mod head;
pub mod parse;
pub mod protocol;
pub mod range;
pub mod route;
pub mod status;
