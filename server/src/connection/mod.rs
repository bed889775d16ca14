//! Connections: accepted, seated, driven, held to deadlines, and lent what they earn.

pub mod accept;
pub mod core;
pub mod deadlines;
pub mod driver;
pub mod gate;
pub mod seats;
pub mod send_window;
