//! Google Cloud Storage, by its XML interface.

use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};

use super::parts::{Keys, Objects, not_built, once, unusable};
use crate::error::RemoteError;
use crate::transport::{Place, Service};
use crate::url::RemoteUrl;

/// Where the service is.
const ENDPOINT: &str = "https://storage.googleapis.com";

/// Opens a bucket. Who we are says a key file (`GOOGLE_SERVICE_ACCOUNT`, `GOOGLE_APPLICATION_CREDENTIALS`, or what
/// `gcloud auth application-default login` has left), and the metadata server of a machine of Google's otherwise.
pub(super) fn open(
    url: &RemoteUrl,
    service: Service,
    keys: Option<Keys>,
) -> Result<Box<dyn Objects>, RemoteError> {
    let mut builder = match keys {
        None => GoogleCloudStorageBuilder::from_env(),
        Some(Keys::Token(token)) => GoogleCloudStorageBuilder::new().with_bearer_token(token),
        Some(Keys::Pair(..)) => {
            return Err(unusable(
                url,
                "Google takes no key's id and secret here, but a key file; HMAC keys are for \
                 s3://BUCKET?endpoint=https://storage.googleapis.com",
            ));
        }
    };
    let said = |builder: &GoogleCloudStorageBuilder, key| builder.get_config_value(&key);
    // A token is asked for all the same before something is written, where none is to be had.
    if said(&builder, GoogleConfigKey::SkipSignature).is_some_and(|skip| skip == "true")
        && said(&builder, GoogleConfigKey::BearerToken).is_none()
    {
        builder = builder.with_bearer_token("");
    }
    let endpoint = url.endpoint().map(str::to_owned);
    let endpoint = endpoint.or_else(|| said(&builder, GoogleConfigKey::BaseUrl));
    let endpoint = endpoint.unwrap_or_else(|| ENDPOINT.to_owned());
    let place =
        Place::at(&endpoint).ok_or_else(|| unusable(url, "GOOGLE_BASE_URL is no http URL"))?;
    let store = builder
        .with_bucket_name(url.bucket())
        .with_base_url(endpoint.trim_end_matches('/'))
        .with_retry(once())
        .with_http_connector(service.at(place))
        .build()
        .map_err(|error| {
            let failed = not_built(url, &error);
            // What was found in its place may be a secret.
            match failed.reason().contains("invalid type") {
                true => unusable(url, "the key file is not what Google makes"),
                false => failed,
            }
        })?;
    Ok(Box::new(store))
}
