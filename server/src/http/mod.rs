//! HTTP/1.1 without I/O: from bytes to requests, from requests to response heads, and the state of one connection.
//!
//! It knows neither sockets nor objects.

pub mod cache_control;
pub mod conditions;
pub mod cors;
mod date;
pub mod digest;
pub mod field;
pub mod forwarded;
mod glimpse;
mod head;
pub mod method;
pub mod multipart;
pub mod outgoing;
pub mod parse;
pub mod protocol;
pub mod range;
pub mod record;
pub mod redirect;
pub mod request;
pub mod respond;
pub mod response;
pub mod route;
pub mod site;
pub mod status;
pub mod target;
