//! Any text as a file of options: settings, or one error that names the file.
#![no_main]

use std::path::Path;

use penstock::config::{Options, file};

libfuzzer_sys::fuzz_target!(|text: &str| {
    // It names a file, which is read: not any that a fuzzer thinks of.
    if text.contains("_file") || text.contains("\\") {
        return;
    }
    if let Err(error) = file::parse(Options::default(), Path::new("FILE"), text, 2) {
        let shown = error.to_string();
        assert!(shown.starts_with("FILE") || shown.starts_with("--"), "{shown}");
    }
});
