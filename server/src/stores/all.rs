//! All stores of the server, and what they share.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use penstock_remote::{RemoteUrl, UrlError};

use super::probe::{Directory, Disk};
use super::remote::Bucket;
use super::store::Store;
use crate::memory::limits::REMOTE_CALL_WITHIN;
use crate::remote::Remote;

/// Why stores can't be served.
#[derive(Debug, thiserror::Error)]
pub enum StoresError {
    /// None of the stores can be read: a mistyped path is more likely than so many lost disks.
    #[error("none of the stores can be read; the first is {0}")]
    None(String),
    /// Two paths are one directory.
    #[error("stores {} and {} are the same directory: losing it would lose two shares", .0.display(), .1.display())]
    Same(PathBuf, PathBuf),
    /// Two directories have one id.
    #[error(
        "stores {} and {} have the same id: both show one disk, or one is a copy of the other; give only one of them",
        .0.display(), .1.display()
    )]
    SameId(PathBuf, PathBuf),
    /// A remote store can't be used as it was given.
    #[error("store {}: {reason}", .path.display())]
    Remote {
        /// Its URL.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The thread that watches them can't be started.
    #[error("starting a thread for the stores: {0}")]
    Thread(io::Error),
}

/// All stores of the server.
pub struct Stores {
    stores: Box<[Arc<Store>]>,
    nodes: Box<[Arc<Store>]>,
    timeout: Duration,
    /// The calls on those that are directories.
    disk: Arc<dyn Disk>,
    /// What those that are remote share.
    remote: Option<Arc<Remote>>,
    returns: Arc<AtomicU64>,
    /// The fewest shares that an object took which was opened; `u16::MAX` before.
    least_k: AtomicU16,
}

/// The URL of a remote store, if a store's path is one; an error if it is a wrong one.
fn remote_url(path: &str) -> Option<Result<RemoteUrl, String>> {
    RemoteUrl::is_one(path).then(|| path.parse().map_err(|error: UrlError| error.to_string()))
}

impl Stores {
    /// Stores in these directories and nodes, all of which serve until they are found not to. Those that are URLs are
    /// remote.
    ///
    /// # Errors
    /// [`StoresError::Remote`].
    pub fn new(
        stores: &[PathBuf],
        nodes: &[PathBuf],
        timeout: Duration,
        remote: Option<Arc<Remote>>,
    ) -> Result<Stores, StoresError> {
        Stores::on(&(Arc::new(Directory) as _), stores, nodes, timeout, remote)
    }

    /// The same with other calls on directories.
    ///
    /// # Errors
    /// As [`Stores::new`].
    pub fn on(
        disk: &Arc<dyn Disk>,
        stores: &[PathBuf],
        nodes: &[PathBuf],
        timeout: Duration,
        remote: Option<Arc<Remote>>,
    ) -> Result<Stores, StoresError> {
        let none = Stores {
            stores: Box::default(),
            nodes: Box::default(),
            timeout,
            disk: Arc::clone(disk),
            remote,
            returns: Arc::default(),
            least_k: AtomicU16::new(u16::MAX),
        };
        none.in_place(stores, nodes)
    }

    /// Stores in other directories and nodes. Those that are here too are the same ones there, with all that is known of
    /// them.
    ///
    /// # Errors
    /// As [`Stores::new`].
    pub(super) fn in_place(
        &self,
        stores: &[PathBuf],
        nodes: &[PathBuf],
    ) -> Result<Stores, StoresError> {
        let make = |(number, path): (usize, &PathBuf)| {
            let is_node = number >= stores.len();
            let known = if is_node { &self.nodes } else { &self.stores };
            let known = known.iter().find(|store| store.path() == *path);
            match known {
                Some(known) => Ok(Arc::clone(known)),
                None => self.make(number, path, is_node),
            }
        };
        let all = stores.iter().chain(nodes).enumerate().map(make);
        let mut all: Vec<Arc<Store>> = all.collect::<Result<_, _>>()?;
        let nodes = all.split_off(stores.len()).into();
        Ok(Stores {
            stores: all.into(),
            nodes,
            timeout: self.timeout,
            disk: Arc::clone(&self.disk),
            remote: self.remote.clone(),
            returns: Arc::clone(&self.returns),
            least_k: AtomicU16::new(self.least_k.load(Relaxed)),
        })
    }

    fn make(&self, number: usize, path: &Path, is_node: bool) -> Result<Arc<Store>, StoresError> {
        let url = path.to_str().filter(|_| !is_node).and_then(remote_url);
        let (disk, timeout) = match url {
            None => (Arc::clone(&self.disk), self.timeout),
            Some(url) => {
                let failed = |reason: String| StoresError::Remote {
                    path: path.to_owned(),
                    reason,
                };
                let url = url.map_err(failed)?;
                let remote = self.remote.as_ref();
                let remote = remote.ok_or_else(|| {
                    failed("the server was started without remote stores: restart it".to_owned())
                })?;
                let origin = remote
                    .origin(&url)
                    .map_err(|error| failed(error.to_string()))?;
                let bucket: Arc<dyn Disk> = Arc::new(Bucket::new(origin, remote));
                (bucket, self.timeout.max(REMOTE_CALL_WITHIN))
            }
        };
        let path = path.to_owned();
        Ok(Store::new(
            number,
            path,
            is_node,
            timeout,
            &disk,
            &self.returns,
        ))
    }

    /// What remote stores share, if there are any.
    pub fn remote(&self) -> Option<&Arc<Remote>> {
        self.remote.as_ref()
    }

    /// Whatever was opened before counts as old, and is looked up again.
    pub(super) fn note_change(&self) {
        self.returns.fetch_add(1, Relaxed);
    }

    /// Whether this is one of them.
    pub(super) fn has(&self, store: &Arc<Store>) -> bool {
        self.all().any(|known| Arc::ptr_eq(known, store))
    }

    /// The stores of objects, in the order in which they were given.
    pub fn stores(&self) -> &[Arc<Store>] {
        &self.stores
    }

    /// The Tahoe-LAFS nodes.
    pub fn nodes(&self) -> &[Arc<Store>] {
        &self.nodes
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Store>> {
        self.stores.iter().chain(&self.nodes)
    }

    /// How long a call may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Whether some are suspended as slow.
    pub fn has_slow(&self) -> bool {
        self.all()
            .any(|store| store.serves(true) && !store.serves(false))
    }

    /// How often a store came back so far. What was opened before one did may find more now.
    pub fn returns(&self) -> u64 {
        self.returns.load(Relaxed)
    }

    /// Notes that an object was opened which takes k shares.
    pub fn note_object(&self, k: u16) {
        if k < self.least_k.load(Relaxed) {
            self.least_k.fetch_min(k, Relaxed);
        }
    }

    /// The fewest shares that an object took which was opened; `None` before.
    pub(super) fn least_k(&self) -> Option<u16> {
        Some(self.least_k.load(Relaxed)).filter(|least| *least < u16::MAX)
    }

    /// Why nothing can be served now, if that is so.
    pub fn outage(&self) -> Option<String> {
        let here = |stores: &[Arc<Store>]| stores.iter().filter(|s| s.serves(true)).count();
        let (stores, nodes) = (here(&self.stores), here(&self.nodes));
        if stores + nodes == 0 {
            return Some("no store can be reached".to_owned());
        }
        let least = usize::from(self.least_k().filter(|_| self.nodes.is_empty())?);
        (stores < least).then(|| {
            format!(
                "{stores} of {} stores can be reached, and every object takes {least}",
                self.stores.len()
            )
        })
    }
}
