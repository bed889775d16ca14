//! Connections: accepted, seated, driven, held to deadlines, and lent what they earn.
//!
//! [`driver`] is the way in. It performs what the protocol wants and asks the [`gate`] before it lets a body's sources
//! produce anything.

pub mod accept;
pub mod access;
pub mod access_log;
pub mod answers;

pub mod core;
pub mod deadlines;
pub mod driver;
pub mod gate;
pub mod idle;
pub mod lending;
pub mod list;
pub mod lookup;
pub mod network;
pub mod networks;
pub mod places;
pub mod preamble;
pub mod proof;
pub mod rates;
pub mod request_log;
pub mod seats;
pub mod secured;
pub mod send_window;
pub mod stalled;
pub mod state;
pub mod tick;
pub mod timing;
pub mod totals;
mod turns;
