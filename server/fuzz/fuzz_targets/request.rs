//! Any bytes from a peer: a request that its head alone makes too and nothing less does, a refusal
//! that more bytes don't take back, or a head that isn't complete.
#![no_main]

use penstock::http::parse::{Parsed, parse};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    match parse(bytes) {
        Parsed::Request(request, len) => {
            assert_eq!(parse(&bytes[..len]), Parsed::Request(request, len));
            assert_eq!(parse(&bytes[..len - 1]), Parsed::NeedMore);
        }
        refused @ Parsed::Refused(_) => {
            let more = [bytes, b"\r\n\r\n"].concat();
            assert!(matches!(parse(&more), Parsed::Refused(_)), "{refused:?}");
        }
        Parsed::NeedMore => {}
    }
});
