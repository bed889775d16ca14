//! HTTP/1.1 without I/O: bytes to requests, requests to response heads.

pub mod parse;
pub mod range;
pub mod respond;
pub mod route;
