//! penstock-benches
