//! Azure Blob Storage.

use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};

use super::parts::{Keys, Objects, not_built, once, unusable};
use crate::error::RemoteError;
use crate::transport::{Place, Service};
use crate::url::RemoteUrl;

/// Opens a container. Who we are says the environment (`AZURE_STORAGE_ACCOUNT_KEY`, `AZURE_STORAGE_SAS_TOKEN`,
/// `AZURE_CLIENT_ID` with a secret or a federated token), and the machine's managed identity otherwise. Where the account
/// is says the URL alone.
pub(super) fn open(
    url: &RemoteUrl,
    service: Service,
    keys: Option<Keys>,
) -> Result<Box<dyn Objects>, RemoteError> {
    // The URL has one always.
    let account = url.account().unwrap_or_default();
    let builder = match keys {
        None => MicrosoftAzureBuilder::from_env(),
        Some(Keys::Token(token)) => {
            MicrosoftAzureBuilder::new().with_bearer_token_authorization(token)
        }
        Some(Keys::Pair(of, key)) => MicrosoftAzureBuilder::new()
            .with_account(of)
            .with_access_key(key),
    };
    let said = |key| builder.get_config_value(&key);
    let of = said(AzureConfigKey::AccountName).filter(|of| of != account);
    if let Some(of) = of.filter(|_| said(AzureConfigKey::AccessKey).is_some()) {
        return Err(unusable(url, format!("the key is of account {of:?}")));
    }
    let endpoint = match url.endpoint() {
        Some(endpoint) => endpoint.to_owned(),
        None => format!("https://{account}.blob.core.windows.net"),
    };
    let place = Place::at(&endpoint).ok_or_else(|| unusable(url, "its endpoint is no http URL"))?;
    let store = builder
        .with_account(account)
        .with_container_name(url.bucket())
        .with_use_emulator(false)
        // http only if the operator has written it.
        .with_allow_http(endpoint.starts_with("http://"))
        .with_endpoint(endpoint)
        .with_retry(once())
        .with_http_connector(service.at(place))
        .build()
        .map_err(|error| not_built(url, &error))?;
    Ok(Box::new(store))
}
