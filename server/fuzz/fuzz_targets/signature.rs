//! Any query and any Authorization field: no signature, a refusal, or one that no secret of ours made. Lines of the input
//! are the query, the field, and further fields.
#![no_main]

use std::time::SystemTime;

use penstock::s3::sigv4::{self, Request};

libfuzzer_sys::fuzz_target!(|text: &str| {
    let mut lines = text.split('\n');
    let mut next = || lines.next().unwrap_or_default();
    let (path, query, authorization) = (next(), next(), next());
    let mut fields: Vec<(&str, &[u8])> = vec![("host", b"h")];
    if !authorization.is_empty() {
        fields.push(("authorization", authorization.as_bytes()));
    }
    fields.extend(lines.filter_map(|line| line.split_once(':')).map(|(name, value)| (name, value.as_bytes())));
    let request = Request { method: "GET", path, query, fields };
    assert_eq!(request.is_signed(), !matches!(sigv4::read(&request), Ok(None)));
    if let Ok(Some(signature)) = sigv4::read(&request) {
        let _ = signature.check_time(SystemTime::UNIX_EPOCH);
        assert!(signature.verify(&request, "a secret that the input does not know").is_err());
        let seconds = signature.expires.map(|expires| expires.as_secs());
        assert!(seconds.is_none_or(|seconds| (1..=604_800).contains(&seconds)));
    }
});
