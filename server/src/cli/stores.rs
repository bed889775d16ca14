//! The stores that a command works on.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::builder::{PathBufValueParser, TypedValueParser};
use penstock::config;
use penstock::config::settings::is_remote;
use penstock_remote::{Client, ClientOptions, RemoteUrl};
use penstock_store::{BucketStore, Store};

/// The stores that a command works on.
#[derive(Debug, clap::Args)]
pub(super) struct Stores {
    /// A store: a directory, or the URL of a bucket as in `s3://BUCKET/PREFIX?endpoint=URL&region=NAME`,
    /// `gs://BUCKET/PREFIX` or `az://CONTAINER/PREFIX?account=NAME`; repeat it for each. Keys of buckets come from the
    /// environment or the files of the provider's own tools
    #[arg(
        long = "store",
        value_name = "STORE",
        required_unless_present = "config",
        value_parser = store()
    )]
    stores: Vec<PathBuf>,
    /// Take the stores that a configuration file of `penstock serve` names
    #[arg(long, value_name = "FILE", conflicts_with = "stores")]
    config: Option<PathBuf>,
}

impl Stores {
    /// Opens them. Buckets are asked nothing.
    pub(super) fn open(&self) -> anyhow::Result<Vec<Store>> {
        open(&self.stores, self.config.as_deref())
    }
}

/// Reads a directory's path or a bucket's URL.
pub(super) fn store() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(named)
}

/// The same, of a path that was read.
pub(super) fn named(path: PathBuf) -> Result<PathBuf, String> {
    match url(&path) {
        Some(Err(error)) => Err(error),
        Some(Ok(_)) | None => Ok(path),
    }
}

fn url(path: &Path) -> Option<Result<RemoteUrl, String>> {
    let text = path.to_str().filter(|_| is_remote(path))?;
    Some(text.parse::<RemoteUrl>().map_err(|error| error.to_string()))
}

/// Opens the stores that are named, or that a configuration file names.
pub(super) fn open(named: &[PathBuf], config: Option<&Path>) -> anyhow::Result<Vec<Store>> {
    let Some(path) = config else {
        return open_named(named);
    };
    let stores = config::stores(path)?;
    if stores.is_empty() {
        bail!("{}: it names no store", path.display());
    }
    open_named(&stores).with_context(|| path.display().to_string())
}

/// Opens directories, by their paths, and buckets, by their URLs.
pub(super) fn open_named(stores: &[PathBuf]) -> anyhow::Result<Vec<Store>> {
    let mut client: Option<Client> = None;
    let open = |path: &PathBuf| {
        let url = match url(path) {
            None => return Ok(Store::Directory(path.clone())),
            Some(url) => url.map_err(anyhow::Error::msg)?,
        };
        let client = match &client {
            Some(client) => client,
            None => client.insert(Client::new(ClientOptions::default())?),
        };
        Ok(Store::Bucket(BucketStore::open(&url, client)?))
    };
    stores.iter().map(open).collect()
}
