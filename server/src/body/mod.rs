//! Bodies: where a piece comes from, and how it leaves.
//!
//! [`source`] is the way in: one ladder of sources over one [`Engine`](crate::engine::Engine). What makes and sends a
//! body knows a socket and how fast its peer acknowledges, but no connection.

pub mod ack_meter;
pub mod batch;
mod fetch;
pub mod hot;
pub mod produce;
pub mod readahead;
pub mod rebuilt;
pub mod resource;
pub mod ring;
pub mod source;
pub mod splice;
pub mod turn;
pub mod zero_copy;

pub use ack_meter::AckMeter;
pub use resource::{Resource, Resources};
pub use source::{Body, Sources};
pub use turn::Turn;
