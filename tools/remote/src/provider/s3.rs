//! S3, AWS's and that of all who speak it.

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};

use super::parts::{Keys, Objects, not_built, once, unusable};
use crate::credentials;
use crate::error::RemoteError;
use crate::transport::{Place, Service};
use crate::url::RemoteUrl;

/// Opens a bucket. Keys come from the environment of the AWS tools or from their profile files, and from the machine's
/// role otherwise.
pub(super) fn open(
    url: &RemoteUrl,
    service: Service,
    keys: Option<Keys>,
) -> Result<Box<dyn Objects>, RemoteError> {
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(url.bucket())
        .with_virtual_hosted_style_request(url.is_virtual_hosted())
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        // One by one: not every store knows the call that removes several.
        .with_disable_bulk_delete(true)
        .with_retry(once());
    let profile = match keys {
        Some(Keys::Pair(id, secret)) => credentials::Profile {
            key: Some((id, secret)),
            ..credentials::Profile::default()
        },
        Some(Keys::Token(_)) => return Err(unusable(url, "S3 takes a key's id and secret")),
        None if credentials::in_environment() => credentials::Profile::default(),
        None => credentials::profile().map_err(|reason| unusable(url, reason))?,
    };
    let has_key = profile.key.is_some();
    if let Some((id, secret)) = profile.key {
        builder = builder
            .with_access_key_id(id)
            .with_secret_access_key(secret);
    }
    if let Some(token) = profile.token {
        builder = builder.with_token(token);
    }
    let endpoint = url.endpoint().map(str::to_owned).or(profile.endpoint);
    if let Some(endpoint) = endpoint {
        // Elsewhere there are no roles: who was asked for one would give an answer that says nothing of keys.
        if !has_key && !credentials::in_environment() && !endpoint.contains(".amazonaws.com") {
            return Err(unusable(url, credentials::NONE));
        }
        // http only if the operator has written it.
        builder = builder
            .with_allow_http(endpoint.starts_with("http://"))
            .with_endpoint(endpoint);
    }
    if let Some(region) = url.region().map(str::to_owned).or(profile.region) {
        builder = builder.with_region(region);
    }
    let endpoint = builder.get_config_value(&AmazonS3ConfigKey::Endpoint);
    let place = endpoint.as_deref().and_then(Place::at);
    let store = builder
        .with_http_connector(service.at(place.unwrap_or(Place::Aws)))
        .build()
        .map_err(|error| not_built(url, &error))?;
    Ok(Box::new(store))
}
