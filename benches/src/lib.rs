//! Code that the benchmarks share. Each benchmark is a program of its own under `src/bin`. It first
//! verifies its competitors' output, then measures them in turns within one run, prints medians and
//! spread, and writes a record with `--csv`.

pub mod common;
