//! Where a remote store is.

use std::fmt;
use std::str::FromStr;

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use url::Url;

/// What is escaped in a query's value.
const VALUE: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'&')
    .add(b'+')
    .add(b'<')
    .add(b'>');

/// Whose interface a bucket is spoken to by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Provider {
    /// S3, AWS's and that of all who speak it.
    S3,
    /// Google Cloud Storage.
    Gs,
    /// Azure Blob Storage, whose buckets are called containers.
    Az,
}

impl Provider {
    /// All of them.
    pub const ALL: [Provider; 3] = [Provider::S3, Provider::Gs, Provider::Az];

    /// The scheme of its URLs.
    pub fn scheme(self) -> &'static str {
        match self {
            Provider::S3 => "s3",
            Provider::Gs => "gs",
            Provider::Az => "az",
        }
    }

    /// What its URLs look like.
    fn form(self) -> &'static str {
        match self {
            Provider::S3 => "s3://BUCKET/PREFIX?endpoint=URL&region=NAME",
            Provider::Gs => "gs://BUCKET/PREFIX",
            Provider::Az => "az://CONTAINER/PREFIX?account=NAME",
        }
    }

    /// The keys that the query may have.
    fn keys(self) -> &'static [&'static str] {
        match self {
            Provider::S3 => &["endpoint", "region", "style"],
            Provider::Gs => &["endpoint"],
            Provider::Az => &["account", "endpoint"],
        }
    }

    /// Where its credentials belong.
    fn credentials(self) -> &'static str {
        match self {
            Provider::S3 => "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or in a profile",
            Provider::Gs => "GOOGLE_APPLICATION_CREDENTIALS, the path of a key file",
            Provider::Az => "AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
        }
    }
}

/// The URL of a store. It never holds a secret. One of
/// - `s3://BUCKET[/PREFIX][?endpoint=URL][&region=NAME][&style=virtual]`,
/// - `gs://BUCKET[/PREFIX][?endpoint=URL]`,
/// - `az://CONTAINER[/PREFIX]?account=NAME[&endpoint=URL]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RemoteUrl {
    provider: Provider,
    bucket: String,
    /// Without slashes at its ends; empty for none.
    prefix: String,
    account: Option<String>,
    endpoint: Option<String>,
    region: Option<String>,
    is_virtual_hosted: bool,
}

/// Why a text is no URL of a store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no URL of a store: {reason}")]
pub struct UrlError {
    text: String,
    reason: String,
}

impl RemoteUrl {
    /// Whether a store's name is a URL, and not the path of a directory.
    pub fn is_one(text: &str) -> bool {
        text.split_once("://").is_some_and(|(scheme, _)| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
            scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.chars().all(allowed)
        })
    }

    /// Whose interface it is spoken to by.
    pub fn provider(&self) -> Provider {
        self.provider
    }

    /// The name of the bucket, or the container.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// What the names of all its files begin with, with a slash at its end; empty for nothing.
    pub fn prefix(&self) -> String {
        match self.prefix.as_str() {
            "" => String::new(),
            prefix => format!("{prefix}/"),
        }
    }

    /// The account that a container belongs to. Every URL of Azure's has one, and no other has.
    pub fn account(&self) -> Option<&str> {
        self.account.as_deref()
    }

    /// Where the bucket's service is, if not where the provider's own is.
    pub fn endpoint(&self) -> Option<&str> {
        self.endpoint.as_deref()
    }

    /// The bucket's region, if it is said.
    pub fn region(&self) -> Option<&str> {
        self.region.as_deref()
    }

    /// Whether the bucket is a part of the host's name, and not of the path.
    pub fn is_virtual_hosted(&self) -> bool {
        self.is_virtual_hosted
    }
}

impl FromStr for RemoteUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<RemoteUrl, UrlError> {
        // A key that somebody put into the query is not told.
        let shown = text.split_once('?').map_or(text, |(before, _)| before);
        let shown = match shown.split_once('@') {
            // What stands before it may be a secret.
            Some((_, rest)) => format!("…@{rest}"),
            None => shown.to_owned(),
        };
        let wrong = |reason: &str| UrlError {
            text: shown.clone(),
            reason: reason.to_owned(),
        };
        let url = Url::parse(text).map_err(|error| wrong(&error.to_string()))?;
        let mut providers = Provider::ALL.into_iter();
        let provider = providers.find(|provider| provider.scheme() == url.scheme());
        let provider = provider.ok_or_else(|| wrong("the scheme must be s3, gs or az"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong(&format!(
                "keys don't belong there: give them as {}; it must be {}",
                provider.credentials(),
                provider.form()
            )));
        }
        if url.port().is_some() || url.fragment().is_some() {
            return Err(wrong(&format!("it must be {}", provider.form())));
        }
        let bucket = url.host_str().unwrap_or_default();
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if bucket.is_empty() || bucket.len() > 255 || !bucket.chars().all(allowed) {
            return Err(wrong(
                "a bucket's name has letters, digits, dots and hyphens",
            ));
        }
        // The parser takes dots away, and what was meant is not known.
        let written = text.split_once('?').map_or(text, |(before, _)| before);
        if written.split('/').any(|part| part == "." || part == "..") {
            return Err(wrong("a prefix has no . and .."));
        }
        let prefix = url.path().trim_matches('/');
        let prefix = percent_encoding::percent_decode_str(prefix)
            .decode_utf8()
            .map_err(|_| wrong("its prefix is no UTF-8"))?;
        let is_bad = |part: &str| part.is_empty() || part == "." || part == "..";
        let safe = |c: char| c.is_ascii_alphanumeric() || "-._/!()'".contains(c);
        if !prefix.is_empty() && (prefix.split('/').any(is_bad) || !prefix.chars().all(safe)) {
            return Err(wrong(
                "a prefix has letters, digits, -._!()' and single slashes",
            ));
        }
        let (mut account, mut endpoint, mut region, mut style) = (None, None, None, None);
        for (key, value) in url.query_pairs() {
            let allowed = provider.keys().contains(&&*key);
            let place = match &*key {
                "account" if allowed => &mut account,
                "endpoint" if allowed => &mut endpoint,
                "region" if allowed => &mut region,
                "style" if allowed => &mut style,
                other => {
                    let (scheme, keys) = (provider.scheme(), provider.keys().join(", "));
                    let reason = format!("{other:?} is no key of {scheme}://, which are: {keys}");
                    return Err(wrong(&reason));
                }
            };
            if place.replace(value.into_owned()).is_some() {
                return Err(wrong(&format!("{key} is given twice")));
            }
        }
        if let Some(endpoint) = &endpoint {
            let parsed = Url::parse(endpoint);
            let parsed = parsed.map_err(|error| wrong(&format!("its endpoint: {error}")))?;
            if !matches!(parsed.scheme(), "http" | "https")
                || !parsed.has_host()
                || !parsed.username().is_empty()
                || parsed.password().is_some()
                || parsed.query().is_some()
                || parsed.fragment().is_some()
            {
                return Err(wrong(
                    "its endpoint must be http://HOST:PORT or https://HOST",
                ));
            }
        }
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let is_account = |name: &String| !name.is_empty() && name.chars().all(plain);
        if provider == Provider::Az && !account.as_ref().is_some_and(is_account) {
            return Err(wrong(
                "it must say ?account=NAME, in lowercase letters and digits",
            ));
        }
        let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if region
            .as_ref()
            .is_some_and(|region| region.is_empty() || !region.chars().all(named))
        {
            return Err(wrong("its region must be a name such as eu-central-1"));
        }
        let is_virtual_hosted = match style.as_deref() {
            None | Some("path") => false,
            Some("virtual") => true,
            Some(_) => return Err(wrong("its style must be path or virtual")),
        };
        Ok(RemoteUrl {
            provider,
            account,
            bucket: bucket.to_owned(),
            prefix: prefix.into_owned(),
            endpoint: endpoint.map(|endpoint| endpoint.trim_end_matches('/').to_owned()),
            region,
            is_virtual_hosted,
        })
    }
}

impl fmt::Display for RemoteUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.provider.scheme(), self.bucket)?;
        if !self.prefix.is_empty() {
            write!(f, "/{}", self.prefix)?;
        }
        let style = self.is_virtual_hosted.then_some("virtual");
        let pairs = [
            ("account", self.account()),
            ("endpoint", self.endpoint()),
            ("region", self.region()),
            ("style", style),
        ];
        let given = pairs
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)));
        for (at, (key, value)) in given.enumerate() {
            let mark = if at == 0 { '?' } else { '&' };
            write!(f, "{mark}{key}={}", utf8_percent_encode(value, VALUE))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_written_as_they_are_read() {
        for text in [
            "s3://bucket",
            "s3://bucket/some/prefix",
            "s3://bucket?endpoint=http://127.0.0.1:8333",
            "s3://bucket/p?endpoint=https://s3.example.org&region=eu-central-1",
            "s3://bucket?region=us-east-1&style=virtual",
            "gs://bucket",
            "gs://some.bucket_of/p/q",
            "gs://bucket?endpoint=http://127.0.0.1:4443",
            "az://container?account=name",
            "az://container/p?account=name0&endpoint=http://127.0.0.1:10000/name0",
        ] {
            let url: RemoteUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), text);
            assert_eq!(url.to_string().parse::<RemoteUrl>().unwrap(), url);
            assert!(RemoteUrl::is_one(text));
        }
        let url: RemoteUrl = "s3://bucket//p/q/?endpoint=http://h:1/".parse().unwrap();
        assert_eq!(url.prefix(), "p/q/");
        assert_eq!(url.endpoint(), Some("http://h:1"));
        assert_eq!("s3://b".parse::<RemoteUrl>().unwrap().prefix(), "");
        let url: RemoteUrl = "az://c/p?endpoint=http://h:1/a/&account=a".parse().unwrap();
        assert_eq!((url.provider(), url.account()), (Provider::Az, Some("a")));
        assert_eq!(url.to_string(), "az://c/p?account=a&endpoint=http://h:1/a");
    }

    #[test]
    fn what_is_none_is_refused_and_no_secret_is_told() {
        for text in [
            "s3://",
            "s3:///prefix",
            "http://bucket/prefix",
            "s3://bucket:80/",
            "s3://bucket/a/../b",
            "s3://bucket/a//b",
            "s3://bucket/a b",
            "s3://bucket?endpoint=ftp://h",
            "s3://bucket?endpoint=http://u:p@h",
            "s3://bucket?region=",
            "s3://bucket?region=a&region=b",
            "s3://bucket?secret=x",
            "s3://bucket?style=round",
            "s3://bucket?account=name",
            "gs://",
            "gs://bucket?region=us-east-1",
            "gs://bucket?style=virtual",
            "gs://bucket?account=name",
            "gcs://bucket",
            "az://container",
            "az://container?account=",
            "az://container?account=Name",
            "az://container?account=a.b",
            "az://container?account=name&region=west",
            "az://container@name.blob.core.windows.net/p",
        ] {
            assert!(text.parse::<RemoteUrl>().is_err(), "{text}");
        }
        for text in [
            "s3://AKIA:topsecret@bucket",
            "s3://bucket?secret_access_key=topsecret",
            "s3://bucket?region=a&token=topsecret",
            "s3://bucket?endpoint=http://AKIA:topsecret@host",
            "gs://bucket?access_token=topsecret",
            "az://container?account=name&sv=2023-11-03&sig=topsecret",
            "az://name:topsecret@container",
        ] {
            let error = text.parse::<RemoteUrl>().unwrap_err();
            assert!(!error.to_string().contains("topsecret"), "{error}");
        }
        for path in ["/srv/disk0", "disk0", "./s3:/x", "a b://c"] {
            assert!(!RemoteUrl::is_one(path), "{path}");
        }
    }
}
