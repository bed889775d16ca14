//! The part of S3 that reading takes: signatures, and the answers that its tools want.
//!
//! Requests are signed by AWS Signature Version 4 ([`sigv4`]) with key pairs of the operator's ([`keys`]): links to any
//! object, so that whoever has one may read it for a while, and requests of S3 clients.

mod ahead;
pub mod buckets;
pub mod error;
pub mod keys;
pub mod lister;
pub mod overrides;
pub mod page;
pub mod sigv4;
mod walk;
pub mod window;
pub mod xml;
