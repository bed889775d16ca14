//! What the benchmarks share. Each benchmark is a program of its own under `src/bin`; it verifies
//! its competitors' output first, interleaves them in one run, prints medians and spread, and
//! writes a record with `--csv`.

pub mod common;
