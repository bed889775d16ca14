//! `penstock init`: makes directories stores.

use std::path::{Path, PathBuf};

use penstock::config::settings::is_remote;
use penstock_store::{NewStore, init};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// An empty directory on a disk of its own, or a store of an older release; repeat it for each. `,domain=NAME` after
    /// it says what it fails together with (a host, a shelf): of no object does a domain get more shares than may be lost
    #[arg(long = "store", value_name = "DIR[,domain=NAME]", required = true, value_parser = new_store)]
    stores: Vec<NewStore>,
    /// Join stores of different sets to the set of the first
    #[arg(long)]
    join: bool,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let markers = init(&arguments.stores, arguments.join)?;
    for (store, marker) in arguments.stores.iter().zip(markers) {
        let domain = marker
            .domain
            .map_or(String::new(), |domain| format!(", domain {domain}"));
        say!(
            "{}: store {} of set {}{domain}",
            store.path.display(),
            marker.store,
            marker.set
        );
    }
    Ok(())
}

/// Reads `DIR` or `DIR,domain=NAME`.
fn new_store(text: &str) -> Result<NewStore, String> {
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
        _ if is_remote(Path::new(path)) => Err(super::NO_BUCKETS.to_owned()),
        domain => Ok(NewStore {
            path: PathBuf::from(path),
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
