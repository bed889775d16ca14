//! penstock-tools
