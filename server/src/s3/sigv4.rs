//! AWS Signature Version 4, as S3 has it: in the query of a link (presigned), or in the `Authorization` field.
//!
//! Written after "Authenticating Requests: Using Query Parameters" and "Using the Authorization Header" of the Amazon S3
//! API Reference. The clock is an argument.
//!
//! ```text
//! canonical request = method \n path \n query \n fields \n \n names of signed fields \n hash of the body
//! string to sign    = AWS4-HMAC-SHA256 \n time \n date/region/s3/aws4_request \n SHA-256(canonical request)
//! signature         = HMAC(HMAC(HMAC(HMAC(HMAC(AWS4 secret, date), region), s3), aws4_request), string to sign)
//! ```

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use hmac::{Hmac, KeyInit as _, Mac as _};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, percent_encode};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::error::{Code, Error};
use crate::memory::limits::HEADER_FIELDS_MAX;

/// The only algorithm.
const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// What the scope of every credential ends with.
const SCOPE_END: &str = "aws4_request";
/// How far a client's clock may be from ours.
pub const SKEW_MAX: Duration = Duration::from_secs(15 * 60);
/// How long a link may be valid, in seconds: a week.
pub const EXPIRES_SECONDS_MAX: u64 = 7 * 24 * 3600;
/// SHA-256 of nothing, in hexadecimal: the hash of the body of every GET and HEAD.
pub const EMPTY_HASH: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
/// Says that the body's hash is not signed.
pub const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";

/// What a signature does not escape (RFC 3986 section 2.3).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
/// The same in a path.
const ESCAPED_IN_PATH: &AsciiSet = &ESCAPED.remove(b'/');

/// A request as it came, for its signature.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// As in the request line.
    pub method: &'a str,
    /// As in the request line, up to the `?`.
    pub path: &'a str,
    /// Behind the `?`.
    pub query: &'a str,
    /// Names and values.
    pub fields: Vec<(&'a str, &'a [u8])>,
}

impl<'a> Request<'a> {
    /// The values of a field.
    pub fn values<'b>(&'b self, name: &'b str) -> impl Iterator<Item = &'a [u8]> + 'b {
        let named = move |(field, _): &&(&str, _)| field.eq_ignore_ascii_case(name);
        self.fields.iter().filter(named).map(|(_, value)| *value)
    }

    /// The value of a field that is there once.
    fn value(&self, name: &str) -> Option<&'a str> {
        let mut values = self.values(name);
        let value = values.next().filter(|_| values.next().is_none())?;
        std::str::from_utf8(value).ok().map(str::trim)
    }

    /// Names and values of the query, decoded.
    pub fn parameters(&self) -> impl Iterator<Item = (Cow<'a, [u8]>, Cow<'a, [u8]>)> + use<'a> {
        let pieces = self.query.split('&').filter(|piece| !piece.is_empty());
        pieces.map(|piece| {
            let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
            (decode(name), decode(value))
        })
    }

    /// Whether its query or its fields claim to be signed in any way of S3's.
    pub fn is_signed(&self) -> bool {
        let mut fields = self.fields.iter();
        claims_signature(self.query) || fields.any(|(name, value)| is_authorization(name, value))
    }
}

/// Reads a whole request head once more, and gives the request to `then`; `None` if it is none.
pub fn with_head<T>(head: &[u8], then: impl FnOnce(&Request<'_>) -> T) -> Option<T> {
    let mut fields = [httparse::EMPTY_HEADER; HEADER_FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut fields);
    parsed.parse(head).ok().filter(|it| it.is_complete())?;
    let target = parsed.path?;
    // In absolute form the host comes first. It is not signed there, but in its field.
    let target = match target.starts_with('/') {
        true => target,
        false => {
            let rest = target.split_once("://")?.1;
            &rest[rest.find(['/', '?']).unwrap_or(rest.len())..]
        }
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Some(then(&Request {
        method: parsed.method?,
        path: if path.is_empty() { "/" } else { path },
        query,
        fields: parsed
            .headers
            .iter()
            .map(|it| (it.name, it.value))
            .collect(),
    }))
}

/// Whether this is the field of a signature. Other ways to authorize are those of a proxy in front.
pub fn is_authorization(name: &str, value: &[u8]) -> bool {
    name.eq_ignore_ascii_case("authorization") && value.starts_with(b"AWS")
}

/// Whether a query claims to be signed.
pub fn claims_signature(query: &str) -> bool {
    if query.is_empty() {
        return false;
    }
    let names = query.split('&').map(|piece| {
        let name = piece.split_once('=').map_or(piece, |(name, _)| name);
        decode(name)
    });
    let mut names = names.map(|name| name.to_ascii_lowercase());
    names.any(|name| {
        matches!(
            &name[..],
            b"x-amz-algorithm" | b"x-amz-credential" | b"x-amz-signature" | b"awsaccesskeyid"
        )
    })
}

/// `+` is a space, as in forms.
fn decode(text: &str) -> Cow<'_, [u8]> {
    match text.contains('+') {
        true => Cow::Owned(percent_decode(text.replace('+', " ").as_bytes()).collect()),
        false => percent_decode(text.as_bytes()).into(),
    }
}

/// Encodes a path as signatures have it.
pub fn encode_path(path: &str) -> String {
    percent_encode(path.as_bytes(), ESCAPED_IN_PATH).to_string()
}

/// Encodes a text as signatures have it.
pub fn encode(text: &[u8]) -> String {
    percent_encode(text, ESCAPED).to_string()
}

/// A time as signatures have it, such as 20130524T000000Z.
pub fn timestamp(time: SystemTime) -> String {
    let text = humantime::format_rfc3339_seconds(time).to_string();
    text.replace(['-', ':'], "")
}

fn parse_timestamp(text: &str) -> Option<SystemTime> {
    let digits = |from: usize, to: usize| {
        let part = text.get(from..to)?;
        part.bytes()
            .all(|byte| byte.is_ascii_digit())
            .then_some(part)
    };
    if text.len() != 16 || text.as_bytes()[8] != b'T' || text.as_bytes()[15] != b'Z' {
        return None;
    }
    let (year, month, day) = (digits(0, 4)?, digits(4, 6)?, digits(6, 8)?);
    let (hour, minute, second) = (digits(9, 11)?, digits(11, 13)?, digits(13, 15)?);
    let text = format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z");
    humantime::parse_rfc3339(&text).ok()
}

/// The signature of a request, taken apart and not yet compared with anything but the clock's bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Whose it is.
    pub key_id: String,
    /// The day of the credential's scope, such as 20130524.
    pub date: String,
    /// The region of the scope.
    pub region: String,
    /// When it was made, as text,
    timestamp: String,
    /// and as a time.
    pub time: SystemTime,
    /// How long it counts; `None` for one in a field.
    pub expires: Option<Duration>,
    /// Names of the signed fields, in lower case, as they were given.
    signed_fields: String,
    /// What stands for the body.
    payload: &'static str,
    signature: [u8; 32],
    /// What a link allows, beside reading.
    pub rate: Option<u64>,
}

fn malformed(message: &'static str) -> Error {
    Error::new(Code::AuthorizationHeaderMalformed, message)
}

fn wrong_query(message: &'static str) -> Error {
    Error::new(Code::AuthorizationQueryParametersError, message)
}

/// Reads the signature of a request; `None` if it has none.
///
/// # Errors
/// If it has several, or one that can't count whatever the secret is.
pub fn read(request: &Request<'_>) -> Result<Option<Signature>, Error> {
    let in_query = claims_signature(request.query);
    let mut fields = request.values("authorization");
    let field = fields.find(|value| value.starts_with(b"AWS"));
    let signature = match (in_query, field) {
        (false, None) => return Ok(None),
        (true, Some(_)) => {
            return Err(Error::new(
                Code::InvalidArgument,
                "a request is signed either in its query or in its Authorization field, not in both",
            ));
        }
        (true, None) => read_query(request)?,
        (false, Some(field)) if request.values("authorization").count() == 1 => {
            read_field(request, field)?
        }
        (false, Some(_)) => return Err(malformed("there are several Authorization fields")),
    };
    let has_token = request.values("x-amz-security-token").next().is_some()
        || request
            .parameters()
            .any(|(name, _)| name.eq_ignore_ascii_case(b"x-amz-security-token"));
    if has_token {
        return Err(Error::new(
            Code::InvalidToken,
            "temporary credentials with a security token are unknown here: sign with a key pair alone",
        ));
    }
    signature.check_fields(request)?;
    Ok(Some(signature))
}

const OLD_SIGNATURE: Error = Error {
    code: Code::InvalidRequest,
    message: Cow::Borrowed(
        "this way to sign is not supported: use AWS Signature Version 4 (AWS4-HMAC-SHA256)",
    ),
    region: None,
};

fn read_query(request: &Request<'_>) -> Result<Signature, Error> {
    const WANTED: &str = "X-Amz-Algorithm, X-Amz-Credential, X-Amz-Date, X-Amz-Expires, X-Amz-SignedHeaders and \
                          X-Amz-Signature must each be in the query, once";
    let one = |wanted: &str| -> Result<Option<String>, Error> {
        let mut found = request
            .parameters()
            .filter(|(name, _)| name.eq_ignore_ascii_case(wanted.as_bytes()));
        match (found.next(), found.next()) {
            (None, _) => Ok(None),
            (Some((name, value)), None) if *name == *wanted.as_bytes() => {
                let value = String::from_utf8(value.into_owned());
                value.map(Some).map_err(|_| wrong_query(WANTED))
            }
            _ => Err(wrong_query(WANTED)),
        }
    };
    let needed = |name| one(name)?.ok_or(wrong_query(WANTED));
    let Some(algorithm) = one("X-Amz-Algorithm")? else {
        // Version 2 has an expiry and a signature, and no algorithm.
        return Err(match one("AWSAccessKeyId")? {
            Some(_) => OLD_SIGNATURE,
            None => wrong_query(WANTED),
        });
    };
    if algorithm != ALGORITHM {
        return Err(OLD_SIGNATURE);
    }
    let (key_id, date, region) = scope(&needed("X-Amz-Credential")?).ok_or(wrong_query(
        "X-Amz-Credential must be key-id/YYYYMMDD/region/s3/aws4_request",
    ))?;
    let timestamp = needed("X-Amz-Date")?;
    let time = parse_timestamp(&timestamp).ok_or(wrong_query(
        "X-Amz-Date must be a time such as 20130524T000000Z",
    ))?;
    let expires = needed("X-Amz-Expires")?;
    let digits = !expires.is_empty() && expires.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = digits.then(|| expires.parse().unwrap_or(u64::MAX));
    let seconds = seconds
        .filter(|seconds| (1..=EXPIRES_SECONDS_MAX).contains(seconds))
        .ok_or(wrong_query(
            "X-Amz-Expires must be a number of seconds from 1 to 604800",
        ))?;
    let payload = match one("X-Amz-Content-Sha256")? {
        Some(payload) => payload_of(&payload)?,
        None => match request.value("x-amz-content-sha256") {
            Some(payload) => payload_of(payload)?,
            None => UNSIGNED_PAYLOAD,
        },
    };
    let rate = match one("x-penstock-rate")? {
        Some(rate) => Some(parse_rate(&rate)?),
        None => None,
    };
    Ok(Signature {
        key_id,
        date,
        region,
        timestamp,
        time,
        expires: Some(Duration::from_secs(seconds)),
        signed_fields: needed("X-Amz-SignedHeaders")?,
        payload,
        signature: hex(&needed("X-Amz-Signature")?)?,
        rate,
    })
}

/// Reads a rate in bytes per second: a number, or a size such as `2MiB`.
fn parse_rate(text: &str) -> Result<u64, Error> {
    let rate: Option<bytesize::ByteSize> = text.parse().ok();
    rate.map(|rate| rate.0).filter(|&rate| rate > 0).ok_or({
        Error::new(
            Code::InvalidArgument,
            "x-penstock-rate must be bytes per second: a number, or a size such as 2MiB",
        )
    })
}

fn read_field(request: &Request<'_>, field: &[u8]) -> Result<Signature, Error> {
    const WANTED: &str =
        "Authorization must be: AWS4-HMAC-SHA256 Credential=…, SignedHeaders=…, Signature=…";
    let field = std::str::from_utf8(field).map_err(|_| malformed(WANTED))?;
    let (algorithm, rest) = field.split_once([' ', '\t']).unwrap_or((field, ""));
    if algorithm != ALGORITHM {
        return Err(OLD_SIGNATURE);
    }
    let (mut credential, mut signed_fields, mut signature) = (None, None, None);
    for part in rest.split(',') {
        let (name, value) = part.trim().split_once('=').ok_or(malformed(WANTED))?;
        let slot = match name {
            "Credential" => &mut credential,
            "SignedHeaders" => &mut signed_fields,
            "Signature" => &mut signature,
            _ => return Err(malformed(WANTED)),
        };
        if slot.replace(value).is_some() {
            return Err(malformed(WANTED));
        }
    }
    let (Some(credential), Some(signed_fields), Some(signature)) =
        (credential, signed_fields, signature)
    else {
        return Err(malformed(WANTED));
    };
    let (key_id, date, region) = scope(credential).ok_or(malformed(
        "the Credential must be key-id/YYYYMMDD/region/s3/aws4_request",
    ))?;
    const NO_TIME: &str =
        "a signed request needs its time in x-amz-date, such as 20130524T000000Z, or in Date";
    let time = match request.value("x-amz-date") {
        Some(text) => parse_timestamp(text),
        None => request
            .value("date")
            .and_then(|text| parse_timestamp(text).or(httpdate::parse_http_date(text).ok())),
    };
    let time = time.ok_or(Error::new(Code::AccessDenied, NO_TIME))?;
    let payload = match request.value("x-amz-content-sha256") {
        Some(payload) => payload_of(payload)?,
        // There is no body here that it could be the hash of.
        None => EMPTY_HASH,
    };
    Ok(Signature {
        key_id,
        date,
        region,
        timestamp: timestamp(time),
        time,
        expires: None,
        signed_fields: signed_fields.to_owned(),
        payload,
        signature: hex(signature)?,
        rate: None,
    })
}

/// Key id, date and region of `key-id/date/region/s3/aws4_request`.
fn scope(credential: &str) -> Option<(String, String, String)> {
    let mut parts = credential.rsplitn(5, '/');
    let (end, service) = (parts.next()?, parts.next()?);
    let (region, date, key_id) = (parts.next()?, parts.next()?, parts.next()?);
    let digits = date.len() == 8 && date.bytes().all(|byte| byte.is_ascii_digit());
    let right = end == SCOPE_END && service == "s3" && digits && !key_id.is_empty();
    right.then(|| (key_id.to_owned(), date.to_owned(), region.to_owned()))
}

fn payload_of(text: &str) -> Result<&'static str, Error> {
    match text {
        UNSIGNED_PAYLOAD => Ok(UNSIGNED_PAYLOAD),
        EMPTY_HASH => Ok(EMPTY_HASH),
        _ => Err(Error::new(
            Code::XAmzContentSHA256Mismatch,
            "x-amz-content-sha256 is not the hash of an empty body, nor UNSIGNED-PAYLOAD",
        )),
    }
}

/// Reads a signature. One that was cut off or changed is a wrong one, as S3 has it.
fn hex(text: &str) -> Result<[u8; 32], Error> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let bytes = |text: &str| {
        let mut bytes = [0; 32];
        if text.len() != 64 {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(bytes)
    };
    bytes(text).ok_or(Error::new(
        Code::SignatureDoesNotMatch,
        "a signature is 64 hex digits in lower case",
    ))
}

impl Signature {
    /// `Host` and all that is Amazon's must be signed, or anybody could change it.
    fn check_fields(&self, request: &Request<'_>) -> Result<(), Error> {
        let signed = |name: &str| {
            self.signed_fields
                .split(';')
                .any(|signed| signed.eq_ignore_ascii_case(name))
        };
        let amazon = |name: &str| {
            let start = name.get(..6);
            start.is_some_and(|start| start.eq_ignore_ascii_case("x-amz-"))
        };
        let mut names = request.fields.iter().map(|(name, _)| *name);
        if !signed("host") || names.any(|name| amazon(name) && !signed(name)) {
            return Err(Error::new(
                Code::AccessDenied,
                "there are fields in the request that must be signed and are not: Host, and all that begin with x-amz-",
            ));
        }
        Ok(())
    }

    /// Whether it counts at this time.
    ///
    /// # Errors
    /// If it does not.
    pub fn check_time(&self, now: SystemTime) -> Result<(), Error> {
        if !self.timestamp.starts_with(&self.date) {
            const OTHER_DATE: &str = "the date in the credential is not that of the request";
            return Err(match self.expires {
                Some(_) => wrong_query(OTHER_DATE),
                None => malformed(OTHER_DATE),
            });
        }
        let early = self.time > now + SKEW_MAX;
        let end = self.time + self.expires.unwrap_or(SKEW_MAX);
        match self.expires {
            Some(_) if early => Err(Error::new(
                Code::AccessDenied,
                "Request is not valid yet: the link was made by a clock that is ahead",
            )),
            Some(_) if now > end => Err(Error::new(Code::AccessDenied, "Request has expired")),
            None if early || now > end => Err(Error::new(
                Code::RequestTimeTooSkewed,
                "the difference between the request's time and this server's is too large",
            )),
            _ => Ok(()),
        }
    }

    /// Compares it, in constant time, with what this secret makes of the request. Paths are signed as S3 has them:
    /// decoded and encoded once. Some clients sign them as they send them, which is the same path.
    ///
    /// # Errors
    /// If it is another one.
    pub fn verify(&self, request: &Request<'_>, secret: &str) -> Result<(), Error> {
        let key = signing_key(secret, &self.date, &self.region);
        let decoded: Cow<'_, [u8]> = percent_decode(request.path.as_bytes()).into();
        let encoded = percent_encode(&decoded, ESCAPED_IN_PATH).to_string();
        for path in [&encoded, request.path] {
            let text = self.string_to_sign(&self.canonical_request(request, path));
            let mut mac = new_mac(&key[..]);
            mac.update(text.as_bytes());
            if mac.verify_slice(&self.signature).is_ok() {
                return Ok(());
            }
            if path == request.path {
                break;
            }
        }
        Err(Error::new(
            Code::SignatureDoesNotMatch,
            "the signature is not the one that the secret of this key makes of the request; check the secret, and that \
             method, path, query and Host arrive as they were signed",
        ))
    }

    fn canonical_request(&self, request: &Request<'_>, path: &str) -> Vec<u8> {
        let mut text = Vec::with_capacity(512);
        let mut put = |part: &[u8]| text.extend_from_slice(part);
        put(request.method.as_bytes());
        put(b"\n");
        put(path.as_bytes());
        put(b"\n");
        put(canonical_query(request).as_bytes());
        put(b"\n");
        for name in self.signed_fields.split(';') {
            put(name.as_bytes());
            put(b":");
            for (at, value) in request.values(name).enumerate() {
                if at > 0 {
                    put(b",");
                }
                // Blanks are trimmed, and several become one.
                let words = value.split(|&byte| byte == b' ' || byte == b'\t');
                let words = words.filter(|word| !word.is_empty());
                for (at, word) in words.enumerate() {
                    if at > 0 {
                        put(b" ");
                    }
                    put(word);
                }
            }
            put(b"\n");
        }
        put(b"\n");
        put(self.signed_fields.as_bytes());
        put(b"\n");
        put(self.payload.as_bytes());
        text
    }

    fn string_to_sign(&self, canonical_request: &[u8]) -> String {
        let Signature {
            timestamp,
            date,
            region,
            ..
        } = self;
        let hash = hex_text(&Sha256::digest(canonical_request));
        format!("{ALGORITHM}\n{timestamp}\n{date}/{region}/s3/{SCOPE_END}\n{hash}")
    }
}

/// The query, decoded, encoded and sorted, without the signature itself.
fn canonical_query(request: &Request<'_>) -> String {
    let mut pairs: Vec<(String, String)> = request
        .parameters()
        .filter(|(name, _)| **name != *b"X-Amz-Signature")
        .map(|(name, value)| (encode(&name), encode(&value)))
        .collect();
    pairs.sort_unstable();
    let mut text = String::with_capacity(request.query.len() + 16);
    for (name, value) in &pairs {
        if !text.is_empty() {
            text.push('&');
        }
        text.push_str(name);
        text.push('=');
        text.push_str(value);
    }
    text
}

fn new_mac(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("a key of any length will do")
}

fn signing_key(secret: &str, date: &str, region: &str) -> Zeroizing<[u8; 32]> {
    let first = Zeroizing::new(format!("AWS4{secret}"));
    let step = |key: &[u8], part: &str| {
        let mut mac = new_mac(key);
        mac.update(part.as_bytes());
        Zeroizing::new(<[u8; 32]>::from(mac.finalize().into_bytes()))
    };
    let mut key = step(first.as_bytes(), date);
    for part in [region, "s3", SCOPE_END] {
        key = step(&key[..], part);
    }
    key
}

fn hex_text(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    let pairs = bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]);
    pairs.collect()
}

/// A link to be signed.
#[derive(Clone, Copy, Debug)]
pub struct Link<'a> {
    /// GET or HEAD.
    pub method: &'a str,
    /// Host and port, as in the `Host` field.
    pub host: &'a str,
    /// The path, not encoded, with its slash.
    pub path: &'a str,
    /// Names and values of further parameters, not encoded.
    pub parameters: &'a [(String, String)],
    /// Whose it is.
    pub key_id: &'a str,
    /// Which region it names.
    pub region: &'a str,
    /// When it begins to count.
    pub time: SystemTime,
    /// How long.
    pub expires: Duration,
}

impl Link<'_> {
    /// Path and query of the link, signed with this secret.
    pub fn sign(&self, secret: &str) -> String {
        let timestamp = timestamp(self.time);
        let date = &timestamp[..8];
        let (key_id, region) = (self.key_id, self.region);
        let mut query: Vec<String> = [
            ("X-Amz-Algorithm", ALGORITHM),
            (
                "X-Amz-Credential",
                &format!("{key_id}/{date}/{region}/s3/{SCOPE_END}"),
            ),
            ("X-Amz-Date", &timestamp),
            ("X-Amz-Expires", &self.expires.as_secs().to_string()),
            ("X-Amz-SignedHeaders", "host"),
        ]
        .into_iter()
        .map(|(name, value)| format!("{name}={}", encode(value.as_bytes())))
        .collect();
        for (name, value) in self.parameters {
            query.push(format!(
                "{}={}",
                encode(name.as_bytes()),
                encode(value.as_bytes())
            ));
        }
        let (path, query) = (encode_path(self.path), query.join("&"));
        let request = Request {
            method: self.method,
            path: &path,
            query: &query,
            fields: vec![("host", self.host.as_bytes())],
        };
        let signature = Signature {
            key_id: key_id.to_owned(),
            date: date.to_owned(),
            region: region.to_owned(),
            timestamp: timestamp.clone(),
            time: self.time,
            expires: Some(self.expires),
            signed_fields: "host".to_owned(),
            payload: UNSIGNED_PAYLOAD,
            signature: [0; 32],
            rate: None,
        };
        let text = signature.string_to_sign(&signature.canonical_request(&request, &path));
        let mut mac = new_mac(&signing_key(secret, date, region)[..]);
        mac.update(text.as_bytes());
        let signature = hex_text(&mac.finalize().into_bytes());
        format!("{path}?{query}&X-Amz-Signature={signature}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // The examples of the Amazon S3 API Reference.
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
        let canonical = signature.canonical_request(&request, "/test.txt");
        assert_eq!(
            String::from_utf8(canonical.clone()).unwrap(),
            format!(
                "GET\n/test.txt\n\nhost:examplebucket.s3.amazonaws.com\nrange:bytes=0-9\n\
                 x-amz-content-sha256:{EMPTY_HASH}\nx-amz-date:20130524T000000Z\n\n\
                 host;range;x-amz-content-sha256;x-amz-date\n{EMPTY_HASH}"
            )
        );
        assert_eq!(
            signature.string_to_sign(&canonical),
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
}
