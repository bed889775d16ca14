//! The examples of the Amazon S3 API Reference, and what was changed of them.

use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::canonical::{self, EMPTY_HASH};
use super::parts::OLD_SIGNATURE;
use super::signature::SKEW_MAX;
use super::text::parse_timestamp;
use super::*;

const ID: &str = "AKIAIOSFODNN7EXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";

fn example_time() -> SystemTime {
    parse_timestamp("20130524T000000Z").unwrap()
}

const HOST: (&str, &[u8]) = ("Host", b"examplebucket.s3.amazonaws.com");
const DATE: (&str, &[u8]) = ("x-amz-date", b"20130524T000000Z");
const HASH: (&str, &[u8]) = ("x-amz-content-sha256", EMPTY_HASH.as_bytes());

/// An example signed in its Authorization field.
fn example<'a>(
    path: &'a str,
    query: &'a str,
    authorization: &'a str,
    more: &[(&'a str, &'a [u8])],
) -> Request<'a> {
    let mut fields = vec![
        HOST,
        DATE,
        HASH,
        ("Authorization", authorization.as_bytes()),
    ];
    fields.extend_from_slice(more);
    Request {
        method: "GET",
        path,
        query,
        fields,
    }
}

fn verified(request: &Request<'_>, secret: &str) -> Result<Signature, Error> {
    let signature = read(request)?.expect("it is signed");
    signature.check_time(example_time() + Duration::from_secs(60))?;
    signature.verify(request, secret).map(|()| signature)
}

const GET_OBJECT: &str = "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,\
    SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,\
    Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41";

#[test]
fn published_examples_in_the_authorization_field() {
    let range: (&str, &[u8]) = ("Range", b"bytes=0-9");
    let request = example("/test.txt", "", GET_OBJECT, &[range]);
    let signature = verified(&request, SECRET).unwrap();
    assert_eq!((&*signature.key_id, &*signature.region), (ID, "us-east-1"));
    let lifecycle = "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,\
        SignedHeaders=host;x-amz-content-sha256;x-amz-date,\
        Signature=fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543";
    verified(&example("/", "lifecycle", lifecycle, &[]), SECRET).unwrap();
    let list = "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, \
        SignedHeaders=host;x-amz-content-sha256;x-amz-date, \
        Signature=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7";
    verified(&example("/", "max-keys=2&prefix=J", list, &[]), SECRET).unwrap();
    // In another order it is the same query.
    verified(&example("/", "prefix=J&max-keys=2", list, &[]), SECRET).unwrap();
}

#[test]
fn what_the_published_examples_go_through() {
    let range: (&str, &[u8]) = ("Range", b"  bytes=0-9 ");
    let request = example("/test.txt", "", GET_OBJECT, &[range]);
    let signature = read(&request).unwrap().unwrap();
    let canonical = canonical::request(
        &request,
        "/test.txt",
        &signature.signed_fields,
        signature.payload,
    );
    assert_eq!(
        String::from_utf8(canonical.clone()).unwrap(),
        format!(
            "GET\n/test.txt\n\nhost:examplebucket.s3.amazonaws.com\nrange:bytes=0-9\n\
             x-amz-content-sha256:{EMPTY_HASH}\nx-amz-date:20130524T000000Z\n\n\
             host;range;x-amz-content-sha256;x-amz-date\n{EMPTY_HASH}"
        )
    );
    assert_eq!(
        canonical::string_to_sign(
            &signature.timestamp,
            &signature.date,
            &signature.region,
            &canonical
        ),
        "AWS4-HMAC-SHA256\n20130524T000000Z\n20130524/us-east-1/s3/aws4_request\n\
         7344ae5b7ee6c3e7e6b0fe0640412a37625d1fbfff95c48bbb2dc43964946972"
    );
}

const PRESIGNED: &str = "X-Amz-Algorithm=AWS4-HMAC-SHA256\
    &X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request\
    &X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host\
    &X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404";

fn presigned(query: &str) -> Request<'_> {
    Request {
        method: "GET",
        path: "/test.txt",
        query,
        fields: vec![HOST],
    }
}

#[test]
fn the_published_link() {
    verified(&presigned(PRESIGNED), SECRET).unwrap();
    let link = Link {
        method: "GET",
        host: "examplebucket.s3.amazonaws.com",
        path: "/test.txt",
        parameters: &[],
        key_id: ID,
        region: "us-east-1",
        time: example_time(),
        expires: Duration::from_secs(86400),
    };
    assert_eq!(link.sign(SECRET), format!("/test.txt?{PRESIGNED}"));
}

#[test]
fn a_whole_head_is_read_once_more() {
    let host = "Host: examplebucket.s3.amazonaws.com";
    for start in ["/test.txt?", "http://other/test.txt?"] {
        let head = format!("GET {start}{PRESIGNED} HTTP/1.1\r\n{host}\r\n\r\n");
        let verified = with_head(head.as_bytes(), |request| {
            assert!(request.is_signed());
            verified(request, SECRET).map(drop)
        });
        assert_eq!(verified, Some(Ok(())));
        assert_eq!(with_head(&head.as_bytes()[..head.len() - 1], |_| ()), None);
    }
}

#[test]
fn any_change_of_what_was_signed_is_seen() {
    let changed = |change: &dyn Fn(&mut Request<'_>)| {
        let mut request = presigned(PRESIGNED);
        change(&mut request);
        verified(&request, SECRET).unwrap_err().code
    };
    let wrong = Code::SignatureDoesNotMatch;
    assert_eq!(changed(&|r| r.method = "HEAD"), wrong);
    assert_eq!(changed(&|r| r.path = "/test.tx"), wrong);
    assert_eq!(changed(&|r| r.fields[0].1 = b"other"), wrong);
    assert_eq!(changed(&|r| r.fields.push(HOST)), wrong);
    assert_eq!(changed(&|r| r.fields.clear()), wrong);
    // The same path in other letters is still the same path.
    let mut request = presigned(PRESIGNED);
    request.path = "/%74est.txt";
    verified(&request, SECRET).unwrap();
    assert_eq!(
        verified(&presigned(PRESIGNED), "other").unwrap_err().code,
        wrong
    );
    for (old, new) in [
        ("86400", "86401"),
        ("us-east-1", "us-east-2"),
        ("aeeed9", "aeeed8"),
        ("&X-Amz-Date", "&a=b&X-Amz-Date"),
        ("20130524T000000Z", "20130524T000001Z"),
    ] {
        let query = PRESIGNED.replace(old, new);
        let error = verified(&presigned(&query), SECRET).unwrap_err();
        assert_eq!(error.code, wrong, "{query}");
    }
}

#[test]
fn malformed_links_are_told_so() {
    let query_error = Code::AuthorizationQueryParametersError;
    for (old, new, code) in [
        ("X-Amz-Date=20130524T000000Z&", "", query_error),
        ("20130524T000000Z", "20130524", query_error),
        ("20130524T000000Z", "20131324T000000Z", query_error),
        ("20130524T000000Z", "2013é524T00000Z", query_error),
        ("=86400", "=604801", query_error),
        ("=86400", "=0", query_error),
        ("=86400", "=%2B86400", query_error),
        ("=86400", "=", query_error),
        ("=86400", "=86400&X-Amz-Expires=86400", query_error),
        ("=86400", "=86400&x-amz-expires=86400", query_error),
        ("%2Fs3%2F", "%2Fec2%2F", query_error),
        ("d404", "D404", Code::SignatureDoesNotMatch),
        ("d404", "d40", Code::SignatureDoesNotMatch),
        ("%2F20130524%2F", "%2F20130523%2F", query_error),
        (
            "AWS4-HMAC-SHA256",
            "AWS4-ECDSA-P256-SHA256",
            Code::InvalidRequest,
        ),
        ("=host", "=range", Code::AccessDenied),
        (
            "=86400",
            "=86400&X-Amz-Security-Token=x",
            Code::InvalidToken,
        ),
        (
            "=86400",
            "=86400&x-penstock-rate=fast",
            Code::InvalidArgument,
        ),
        ("=86400", "=86400&x-penstock-rate=0", Code::InvalidArgument),
    ] {
        let query = PRESIGNED.replace(old, new);
        assert_eq!(
            verified(&presigned(&query), SECRET).unwrap_err().code,
            code,
            "{query}"
        );
    }
    let old = "AWSAccessKeyId=A&Expires=1&Signature=x";
    assert_eq!(read(&presigned(old)).unwrap_err(), OLD_SIGNATURE);
    let mut unsigned = presigned(PRESIGNED);
    unsigned.fields.push(("X-Amz-Meta", b"x"));
    assert_eq!(read(&unsigned).unwrap_err().code, Code::AccessDenied);
    assert_eq!(read(&presigned("x=y")), Ok(None));
}

#[test]
fn malformed_fields_are_told_so() {
    let range: (&str, &[u8]) = ("Range", b"bytes=0-9");
    let malformed = Code::AuthorizationHeaderMalformed;
    for (old, new, code) in [
        (",SignedHeaders", ",Signedheaders", malformed),
        ("Credential=", "Credential:", malformed),
        ("/s3/", "/sqs/", malformed),
        ("bdb41", "bdb4", Code::SignatureDoesNotMatch),
        (",Signature", ",Signature=x,Signature", malformed),
        ("AWS4-HMAC-SHA256", "AWS", Code::InvalidRequest),
        (";x-amz-date", "", Code::AccessDenied),
        ("=host;", "=", Code::AccessDenied),
        ("/20130524/", "/20130523/", malformed),
    ] {
        let field = GET_OBJECT.replace(old, new);
        let request = example("/test.txt", "", &field, &[range]);
        assert_eq!(
            verified(&request, SECRET).unwrap_err().code,
            code,
            "{field}"
        );
    }
    let mut request = example("/test.txt", "", GET_OBJECT, &[range]);
    request.fields[2].1 = b"STREAMING-AWS4-HMAC-SHA256-PAYLOAD";
    assert_eq!(
        read(&request).unwrap_err().code,
        Code::XAmzContentSHA256Mismatch
    );
    let mut request = example("/test.txt", "", GET_OBJECT, &[range]);
    request.fields.remove(1);
    assert_eq!(read(&request).unwrap_err().code, Code::AccessDenied);
    let mut request = example("/test.txt", PRESIGNED, GET_OBJECT, &[range]);
    assert_eq!(read(&request).unwrap_err().code, Code::InvalidArgument);
    // Other ways to authorize are not ours: a proxy's.
    request = example("/test.txt", "", "Basic QTpC", &[range]);
    assert_eq!(read(&request), Ok(None));
}

#[test]
fn links_count_from_their_time_to_their_expiry() {
    let link = read(&presigned(PRESIGNED)).unwrap().unwrap();
    let range: (&str, &[u8]) = ("Range", b"bytes=0-9");
    let field = read(&example("/test.txt", "", GET_OBJECT, &[range]));
    let field = field.unwrap().unwrap();
    let (made, skew) = (example_time(), SKEW_MAX.as_secs());
    let second = Duration::from_secs(1);
    let after = |seconds: u64| made + Duration::from_secs(seconds);
    for good in [made - SKEW_MAX, made, after(86400)] {
        link.check_time(good).unwrap();
    }
    for bad in [made - SKEW_MAX - second, after(86401)] {
        assert_eq!(link.check_time(bad).unwrap_err().code, Code::AccessDenied);
    }
    for good in [made - SKEW_MAX, made, after(skew)] {
        field.check_time(good).unwrap();
    }
    for bad in [made - SKEW_MAX - second, after(skew + 1)] {
        let code = field.check_time(bad).unwrap_err().code;
        assert_eq!(code, Code::RequestTimeTooSkewed);
    }
}

fn link<'a>(path: &'a str, parameters: &'a [(String, String)]) -> Link<'a> {
    Link {
        method: "GET",
        host: "127.0.0.1:8080",
        path,
        parameters,
        key_id: ID,
        region: "r",
        time: example_time(),
        expires: Duration::from_secs(3600),
    }
}

fn verify_link(target: &str) -> Result<Signature, Error> {
    let (path, query) = target.split_once('?').unwrap();
    let request = Request {
        method: "GET",
        path,
        query,
        fields: vec![("Host", b"127.0.0.1:8080")],
    };
    verified(&request, SECRET)
}

#[test]
fn a_rate_is_signed_with_the_link() {
    let parameters = [("x-penstock-rate".to_owned(), "2MiB".to_owned())];
    let target = link("/a b+c/é", &parameters).sign(SECRET);
    assert!(target.starts_with("/a%20b%2Bc/%C3%A9?"), "{target}");
    assert_eq!(verify_link(&target).unwrap().rate, Some(2 << 20));
    let faster = target.replace("2MiB", "3MiB");
    assert!(verify_link(&faster).is_err());
}

proptest! {
    #[test]
    fn what_is_signed_verifies(path in "/.*", name in "[a-z]+.*", value in ".*") {
        let parameters = [(name, value)];
        let target = link(&path, &parameters).sign(SECRET);
        prop_assert!(verify_link(&target).is_ok(), "{}", target);
    }

    #[test]
    fn anything_is_read_or_refused(query in "(X-Amz-[A-Za-z]*=[^&]*&?)*", field in "AWS4-HMAC-SHA256 .*") {
        let mut request = presigned(&query);
        let _ = read(&request);
        request.fields.push(("Authorization", field.as_bytes()));
        let _ = read(&request);
    }
}
