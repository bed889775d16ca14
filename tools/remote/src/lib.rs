//! Stores that are buckets of an object store: AWS S3 and what speaks its interface, Google Cloud Storage, Azure Blob Storage.
//!
//! A [`RemoteUrl`] says where a store is, a [`Client`] runs requests on a thread of its own, and a [`Bucket`] makes them.
//! Requests are made by `object_store`, over a transport of ours, which holds no more of an answer than it is told to.

mod bucket;
mod client;
mod counts;
mod credentials;
mod error;
mod options;
mod provider;
mod strays;
mod transport;
mod url;

pub use bucket::{Body, Bucket, Entry, Page, PutMode, Upload, Version};
pub use client::Client;
pub use counts::{Kind, Requests};
pub use error::{RemoteError, RemoteErrorKind};
pub use options::ClientOptions;
pub use provider::Keys;
pub use url::{Provider, RemoteUrl, UrlError};
