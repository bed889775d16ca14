//! Commands on stores: run, with their exit codes and output.

use std::process::Output;

use super::{Stores, penstock};

/// Runs a command on these stores.
pub fn on(stores: &Stores, command: &str, arguments: &[&str]) -> Output {
    let mut penstock = penstock();
    penstock
        .arg(command)
        .args(stores.flags())
        .args(arguments)
        .output()
        .unwrap()
}

/// Its exit code and all of its output.
pub fn said(output: Output) -> (Option<i32>, String) {
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

/// Requires this exit code, and these words in the output.
#[track_caller]
pub fn expect(output: Output, code: i32, words: &[&str]) {
    let (exit, text) = said(output);
    assert_eq!(exit, Some(code), "{text}");
    for word in words {
        assert!(text.contains(word), "no {word:?} in {text}");
    }
}
