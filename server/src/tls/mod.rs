//! TLS: handshakes by rustls, records of our own.
//!
//! Bytes in, bytes out: this room knows no socket. A connection's handshake ([`handshake`]) is driven by rustls's unbuffered
//! interface. When it is done rustls gives its keys away; from then on a [`session`] seals and opens records itself
//! ([`record`]), and makes the next keys ([`traffic`]). So it costs a connection two keys and no buffer, and a
//! record is made for exactly the bytes that the gate admitted.
//!
//! Everything that names rustls is here and in the admin listener. Records for sending are made in one place,
//! [`Session::write`](session::Session::write): kernel TLS would take its place, from the same secrets.

pub mod acceptor;
pub mod alert;
pub mod certificates;
pub mod handshake;
pub mod record;
pub mod session;
#[cfg(test)]
mod tests;
pub mod traffic;

pub use acceptor::Acceptor;
pub use alert::Alert;
pub use session::{Session, Workspace};
