//! `penstock init`: makes directories and buckets stores.

use std::path::PathBuf;
use std::process::ExitCode;

use penstock_store::{Id, Marker, NewStore, init};
use serde::Serialize;

use super::output::Lines;
use super::stores;
use super::talk::Talk;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// An empty directory on a disk of its own, a store of an older release, or the URL of a bucket, as in
    /// `s3://BUCKET/PREFIX?endpoint=URL&region=NAME`, `gs://BUCKET/PREFIX` or `az://CONTAINER/PREFIX?account=NAME`;
    /// repeat it for each. `,domain=NAME` after it says what it fails together with (a host, a provider): of no object does a domain get more shares than may be lost
    #[arg(long = "store", value_name = "STORE[,domain=NAME]", required = true, value_parser = new_store)]
    stores: Vec<Named>,
    /// Join stores of different sets to the set of the first
    #[arg(long)]
    join: bool,
    /// Print a JSON object per line, one for each store
    #[arg(long)]
    json: bool,
}

/// A store by its name, and what it fails together with.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    path: PathBuf,
    domain: Option<String>,
}

/// What JSON has of a store, by the names that `df` gives it.
#[derive(Serialize)]
struct Document {
    path: String,
    id: Id,
    set: Id,
    domain: Option<String>,
    created: String,
}

pub(super) fn run(arguments: &Arguments, talk: Talk) -> anyhow::Result<ExitCode> {
    let paths: Vec<PathBuf> = arguments.stores.iter().map(|of| of.path.clone()).collect();
    let new = stores::open_named(&paths)?
        .into_iter()
        .zip(&arguments.stores);
    let new = new.map(|(store, Named { domain, .. })| NewStore {
        store,
        domain: domain.clone(),
    });
    let markers = init(&new.collect::<Vec<_>>(), arguments.join)?;
    let mut lines = Lines::default();
    for (store, marker) in arguments.stores.iter().zip(markers) {
        let Marker {
            store: id,
            set,
            created,
            domain,
            ..
        } = marker;
        let path = store.path.display().to_string();
        if arguments.json {
            lines.json(&Document {
                path,
                id,
                set,
                domain,
                created,
            });
            continue;
        }
        let domain = domain.map_or(String::new(), |domain| format!(", domain {domain}"));
        talk.say(format_args!("{path}: store {id} of set {set}{domain}"));
    }
    lines.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// Reads `STORE` or `STORE,domain=NAME`.
fn new_store(text: &str) -> Result<Named, String> {
    let (path, domain) = match text.rsplit_once(",domain=") {
        None => (text, None),
        Some((path, domain)) => (path, Some(domain)),
    };
    let plain = |name: &str| {
        let good = |c: char| c.is_alphanumeric() || "-_.:".contains(c);
        !name.is_empty() && name.chars().all(good)
    };
    match domain {
        Some(domain) if !plain(domain) => Err(format!(
            "{domain:?} is no name of a domain: letters, digits and -_.: make one"
        )),
        _ if path.is_empty() => Err("the directory is missing".to_owned()),
        domain => Ok(Named {
            path: stores::named(path.into())?,
            domain: domain.map(str::to_owned),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_may_have_a_domain() {
        let parse = |text: &str| new_store(text).map(|store| (store.path, store.domain));
        assert_eq!(parse("/a,b"), Ok(("/a,b".into(), None)));
        assert_eq!(
            parse("/a,domain=host1"),
            Ok(("/a".into(), Some("host1".into())))
        );
        for bad in ["", ",domain=x", "/a,domain=", "/a,domain=a b"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
