//! Any text: refused, or a cap whose text reads as the same cap. No error quotes the text.
#![no_main]

use decode_kernel::tahoe::Cap;

libfuzzer_sys::fuzz_target!(|text: &str| {
    for text in [text.to_owned(), format!("URI:CHK:{text}"), format!("URI:LIT:{text}")] {
        match Cap::parse(&text) {
            Ok(Cap::Chk(cap)) => assert_eq!(Cap::parse(&cap.expose()), Ok(Cap::Chk(cap))),
            Ok(Cap::Lit(content)) => assert!(content.len() <= text.len()),
            Err(error) => assert!(error.to_string().len() < 200),
        }
    }
});
