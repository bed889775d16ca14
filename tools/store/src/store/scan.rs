//! What the stores have of one object: the looks at them, put together.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use decode_kernel::share::{Generation, Header, Key, object_dir};

use super::files::Store;
use super::listing::{Found, objects};
use super::look::{Look, OpenShare, look_in};
use super::names::{Kind, generation_of};
use super::parts::Listed;
use super::rejected::{RejectReason, Rejected};
use crate::parallel;

/// All shares found of one put.
#[derive(Debug)]
pub(crate) struct Group {
    /// The header that they agree on; the share number is that of the first file found.
    pub(crate) header: Header,
    /// All files found, sorted by number. A number may occur twice; the copy in the store at that position comes first.
    pub(crate) shares: Vec<OpenShare>,
    /// Whether one of them is under its final name, or a mark says so: then all were durable, and the put counts.
    pub(crate) decided: bool,
    /// The files that are still under the name of an undecided put, each with the index of its store.
    pub(crate) pending: Vec<(usize, PathBuf)>,
}

impl Group {
    /// The number of different shares.
    pub(crate) fn distinct(&self) -> usize {
        self.shares
            .iter()
            .map(|share| share.number)
            .collect::<HashSet<_>>()
            .len()
    }

    /// Whether the object can be read from this group, damaged leaves aside.
    pub(crate) fn readable(&self) -> bool {
        self.distinct() >= usize::from(self.header.geometry.k())
    }

    /// Whether every share is there, damaged leaves aside.
    pub(crate) fn complete(&self) -> bool {
        self.distinct() == usize::from(self.header.geometry.n())
    }
}

/// Looks at all stores, put together.
#[derive(Debug, Default)]
pub struct Scan {
    /// Groups of decided puts that no tombstone covers, the newest first.
    pub(crate) groups: Vec<Group>,
    /// Groups of puts that are not decided: they run, or were interrupted.
    pub(crate) undecided: Vec<Group>,
    /// Groups that a tombstone covers: an interrupted removal, or a store that was away then.
    pub(crate) removed: Vec<Group>,
    /// The newest tombstone.
    pub(crate) tombstone: Option<Generation>,
    /// The newest generation in any file's name.
    newest_name: Option<Generation>,
    /// Files and stores that could not be used; not those that a tombstone covers.
    pub(crate) rejected: Vec<Rejected>,
    /// The stores that could not be asked.
    pub(crate) away: Vec<usize>,
    /// The number of all stores.
    pub(crate) stores: usize,
    /// Files and directories that were not opened, since too many were open. What they hold is not known.
    pub(crate) unopened: usize,
    /// The fingerprints of all looks, in order.
    fingerprints: Vec<u64>,
    /// The fewest shares of any put, as far as the stores that have nothing of the object tell.
    least_shares: Option<u16>,
}

impl Scan {
    /// Puts looks together.
    pub fn new(looks: Vec<Look>) -> Scan {
        let mut scan = Scan {
            stores: looks.len(),
            ..Scan::default()
        };
        let mut groups: Vec<Group> = Vec::new();
        let mut decided: Vec<Generation> = Vec::new();
        for look in looks {
            scan.away.extend((!look.here).then_some(look.store));
            scan.fingerprints.push(look.fingerprint);
            scan.tombstone = scan.tombstone.max(look.tombstone);
            scan.newest_name = scan.newest_name.max(look.newest_name);
            decided.extend(look.decided);
            scan.rejected.extend(look.rejected);
            scan.least_shares = match (scan.least_shares, look.least_shares) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            for (header, kind, share) in look.shares {
                let same = |group: &&mut Group| group.header.same_object(&header);
                let group = match groups.iter_mut().find(same) {
                    Some(group) => group,
                    None => {
                        groups.push(Group {
                            header,
                            shares: Vec::new(),
                            decided: false,
                            pending: Vec::new(),
                        });
                        groups.last_mut().expect("one was pushed")
                    }
                };
                match kind {
                    Kind::Pending => group.pending.push((share.store, share.path.clone())),
                    _ => group.decided = true,
                }
                group.shares.push(share);
            }
        }
        for group in &mut groups {
            group.decided |= decided.contains(&group.header.generation);
        }
        if let Some(tombstone) = scan.tombstone {
            let covered =
                |path: &Path| generation_of(path).is_some_and(|generation| generation <= tombstone);
            scan.rejected.retain(|rejected| !covered(&rejected.path));
        }
        let found = scan.rejected.len();
        scan.rejected
            .retain(|rejected| !rejected.reason.is_descriptor_shortage());
        scan.unopened = found - scan.rejected.len();
        scan.rejected.sort_by_key(|rejected| rejected.store);
        for group in &mut groups {
            group
                .shares
                .sort_by_key(|s| (s.number, s.store != usize::from(s.number), s.store));
        }
        // Two groups of one generation differ in another field. The group with more shares is right.
        groups.sort_by_key(|group| {
            std::cmp::Reverse((group.header.generation, group.decided, group.distinct()))
        });
        for group in groups {
            if scan
                .tombstone
                .is_some_and(|tombstone| group.header.generation <= tombstone)
            {
                scan.removed.push(group);
            } else if group.decided {
                scan.groups.push(group);
            } else {
                scan.undecided.push(group);
            }
        }
        scan
    }

    /// What could not be used.
    pub fn problems(&self) -> &[Rejected] {
        &self.rejected
    }

    /// What changes when the object's files change, in any store.
    pub(crate) fn fingerprint(&self) -> &[u64] {
        &self.fingerprints
    }

    /// Whether there is nothing of the object: no file, and no problem of one.
    pub(crate) fn is_empty(&self) -> bool {
        self.groups.is_empty()
            && self.undecided.is_empty()
            && self.removed.is_empty()
            && self.tombstone.is_none()
            && self.rejected.is_empty()
            && self.unopened == 0
    }

    /// Index in [`Scan::groups`] of the group that a reader uses: the newest, if it has k shares. An older one never
    /// takes the place of a put that is decided, unless `stale` is allowed.
    pub(crate) fn chosen(&self, stale: bool) -> Option<usize> {
        let candidates = if stale {
            self.groups.len()
        } else {
            self.newest()
        };
        self.groups[..candidates].iter().position(Group::readable)
    }

    /// The number of groups of the newest generation: more than one if headers of it differ.
    fn newest(&self) -> usize {
        let Some(newest) = self.groups.first() else {
            return 0;
        };
        let same = |group: &&Group| group.header.generation == newest.header.generation;
        self.groups.iter().take_while(same).count()
    }

    /// Whether the looks may have been taken while a put replaced another: nothing can be read, and there are several.
    pub fn torn(&self) -> bool {
        self.chosen(false).is_none()
            && self.groups.len() + self.undecided.len() + self.removed.len() > 1
    }

    /// Whether an object without any file is known not to exist. It has shares in at least as many stores as the
    /// narrowest put, so one would show unless so many are away. Where the stores don't tell how many that is, most of
    /// them must be here.
    pub(crate) fn certain(&self) -> bool {
        match self.least_shares {
            _ if self.away.is_empty() => true,
            Some(least) => self.away.len() < usize::from(least),
            None => self.away.len() * 2 < self.stores,
        }
    }

    /// The object's name, if a header tells it.
    pub(crate) fn key(&self) -> Option<&Key> {
        let groups = [&self.groups, &self.undecided, &self.removed];
        groups
            .into_iter()
            .flatten()
            .next()
            .map(|group| &group.header.key)
    }

    /// The newest generation there is of the object, of any kind.
    pub(crate) fn newest_generation(&self) -> Option<Generation> {
        let groups = [&self.groups, &self.undecided, &self.removed];
        let headers = groups.into_iter().flatten();
        headers
            .map(|group| group.header.generation)
            .chain(self.newest_name)
            .max()
    }

    /// The latest time of creation in any header, in seconds since 1970.
    pub(crate) fn latest_created(&self) -> Option<u64> {
        let groups = [&self.groups, &self.undecided, &self.removed];
        let headers = groups.into_iter().flatten();
        headers.map(|group| group.header.created).max()
    }

    /// Drops the problems of stores that are away, which are told once and not for each object.
    pub(crate) fn forget_stores_away(&mut self) {
        self.rejected
            .retain(|rejected| !matches!(rejected.reason, RejectReason::Away(_)));
    }
}

/// Looks for all shares of `key` in all `stores`. Reads headers only.
pub(crate) fn scan(stores: &[Store], key: &Key) -> Scan {
    scan_dir(stores, &object_dir(key), Some(key))
}

/// As [`scan`], for one object's directory (`ab/cdef…`) whose key need not be known. Shares whose key does not belong
/// in `dir` are rejected, so all groups have the same key.
pub(crate) fn scan_dir(stores: &[Store], dir: &str, key: Option<&Key>) -> Scan {
    scan_with(stores, dir, key, |_| None)
}

/// As [`scan_dir`], of an object that was found by listing: what is known of buckets is not asked again.
pub(crate) fn scan_found(stores: &[Store], found: &Found) -> Scan {
    let known: Vec<_> = (0..stores.len())
        .map(|store| found.files_in(store))
        .collect();
    scan_with(stores, &found.dir, None, |store| known[store])
}

fn scan_with<'a>(
    stores: &[Store],
    dir: &str,
    key: Option<&Key>,
    known: impl Fn(usize) -> Option<&'a [Listed]> + Sync,
) -> Scan {
    let looks = |afresh: bool| {
        let stores_by_index = stores.iter().enumerate();
        let look = |(index, store)| {
            let known = known(index).filter(|_| !afresh);
            look_in(index, store, dir, key, known)
        };
        // Buckets are asked side by side: each takes its time to answer.
        Scan::new(match stores.iter().any(Store::is_bucket) {
            true => parallel::each(stores_by_index.collect(), look),
            false => stores_by_index.map(look).collect(),
        })
    };
    let mut scan = looks(false);
    for _ in 0..3 {
        if !scan.torn() {
            break;
        }
        scan = looks(true);
    }
    tracing::debug!(
        object = key.or(scan.key()).map_or(dir, Key::as_str),
        shares = scan
            .groups
            .iter()
            .map(|group| group.shares.len())
            .sum::<usize>(),
        stores_away = scan.away.len(),
        "looked at the headers in {} stores",
        stores.len()
    );
    scan
}

/// The names of all objects in any of `stores` that are not removed, in the order of their hashes. Those of which no
/// header can be read are left out.
pub(crate) fn keys(stores: &[Store]) -> impl Iterator<Item = Key> + '_ {
    objects(stores).filter_map(move |found| {
        let scan = scan_found(stores, &found);
        let there = !scan.groups.is_empty() || !scan.undecided.is_empty();
        scan.key().filter(|_| there).cloned()
    })
}
