//! The declared memory: its bounds, its plan, and the account of what is lent.

pub mod budget;
pub mod costs;
pub mod limits;
pub mod plan;
pub mod refusal;
