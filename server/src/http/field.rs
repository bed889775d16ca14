//! The grammar that header fields share (RFC 9110 section 5.6). Only SP and HTAB are white space, and only ASCII digits
//! are digits: what a proxy reads otherwise than we do is a way to smuggle a request past it.

/// Without the optional white space at both ends (RFC 9110 section 5.6.3).
pub fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

/// The elements of a list, without empty ones (RFC 9110 section 5.6.1.2). Not for lists of quoted strings.
pub fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(trim)
        .filter(|element| !element.is_empty())
}

/// Whether this is digits only, and some. `u64::from_str` would also take a sign.
pub fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// Whether a byte and the one behind it are such a pair. It looks at all of them, so that the compiler compares many at a
/// time.
pub fn has_pair(bytes: &[u8], is_pair: impl Fn(u8, u8) -> bool) -> bool {
    let pairs = bytes.iter().zip(bytes.get(1..).unwrap_or_default());
    pairs.fold(false, |found, (&one, &next)| found | is_pair(one, next))
}

/// Whether this is a token (RFC 9110 section 5.6.2): a method, the name of a field.
pub fn is_token(text: &str) -> bool {
    let is_tchar = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(is_tchar)
}
