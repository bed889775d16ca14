//! Any bytes before the first request of a proxy's connection: more bytes change no verdict, and none is longer than it
//! may be.
#![no_main]

use penstock::connection::preamble::{PREAMBLE_BYTES_MAX, Said, parse};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let more = [bytes, b"GET / HTTP/1.1\r\n\r\n"].concat();
    match parse(bytes) {
        Said::Client(client, length) => {
            assert!(length <= bytes.len() && length <= PREAMBLE_BYTES_MAX);
            assert_eq!(parse(&more), Said::Client(client, length));
        }
        Said::NeedMore => assert!(bytes.len() < PREAMBLE_BYTES_MAX),
        Said::Malformed => assert_eq!(parse(&more), Said::Malformed),
    }
});
