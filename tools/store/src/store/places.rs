//! The stores that may be written, and where the shares of an object belong among them.
//!
//! Each key prefers the stores in an order of its own: rendezvous hashing (Thaler and Ravishankar, "Using Name-Based
//! Mappings to Increase Hit Rates", IEEE/ACM Transactions on Networking 6(1), 1998) of the key and the stores' ids,
//! weighted by capacity. So shares spread over all stores, the order in which stores are given means nothing, and a
//! store that is added or lost moves no more than its part.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;

use decode_kernel::share::Key;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::files::Store;
use super::identity::{
    Presence, StoreError, presence, read_marker, refuse_duplicates, write_marker,
};
use super::marker::{Id, Marker};
use crate::error::{During, FileError};
use crate::json;

/// Room that is left free in a store, in bytes: for the directories, markers and tombstones of the objects that are
/// there.
const ROOM_LEFT: u64 = 16 << 20;
/// How often a bucket's marker is tried to be changed, while others change it too.
const MARKER_TRIES: usize = 5;

/// A store that may be written.
#[derive(Debug)]
pub(crate) struct Place {
    /// Its index in the list of stores.
    pub(crate) index: usize,
    /// The store.
    pub(crate) store: Store,
    /// Its marker.
    pub(crate) marker: Marker,
    /// Bytes that may be written.
    pub(crate) free: u64,
    /// Its part of the file system's bytes: the file system's, divided by the stores on it. A bucket has a fixed one.
    capacity: u64,
}

/// The stores of a command that writes.
#[derive(Debug)]
pub(crate) struct Places {
    /// Those that may be written.
    pub(crate) open: Vec<Place>,
    /// Those that are passed over, and why.
    pub(crate) passed_over: Vec<PassedOver>,
}

/// A store that is not written.
#[derive(Clone, Debug, Serialize)]
pub struct PassedOver {
    /// Its index in the list of stores.
    pub store: usize,
    /// Its directory, or its URL.
    #[serde(serialize_with = "json::path")]
    pub path: PathBuf,
    /// Why, with the path.
    pub reason: String,
}

impl std::fmt::Display for PassedOver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.reason)
    }
}

impl Places {
    /// Looks at the stores. Passes over those that are away, have no marker or can't be written.
    ///
    /// # Errors
    /// If one is given twice, or they are of different sets.
    pub(crate) fn new(stores: &[Store]) -> Result<Places, StoreError> {
        refuse_duplicates(stores)?;
        let mut places = Places {
            open: Vec::with_capacity(stores.len()),
            passed_over: Vec::new(),
        };
        let mut devices: Vec<Option<u64>> = Vec::new();
        for (index, store) in stores.iter().enumerate() {
            match look_at(index, store) {
                Ok((place, device)) => {
                    places.open.push(place);
                    devices.push(device);
                }
                Err(error) => places.passed_over.push(PassedOver {
                    store: index,
                    path: store.path().to_owned(),
                    reason: error.to_string(),
                }),
            }
        }
        if let Some(first) = places.open.first()
            && let Some(other) = places
                .open
                .iter()
                .find(|other| other.marker.set != first.marker.set)
        {
            let (first, other) = (first.store.path(), other.store.path());
            return Err(StoreError::Sets(first.to_owned(), other.to_owned()));
        }
        let mut on_device: HashMap<u64, u64> = HashMap::new();
        for device in devices.iter().flatten() {
            *on_device.entry(*device).or_default() += 1;
        }
        for (place, device) in places.open.iter_mut().zip(&devices) {
            place.capacity /= device.map_or(1, |device| on_device[&device]);
        }
        Ok(places)
    }

    /// Whether the store is being emptied.
    pub(crate) fn is_draining(&self, index: usize) -> bool {
        self.open
            .iter()
            .any(|place| place.index == index && place.marker.drain)
    }

    /// The stores in the order in which `key` prefers them, without those that are being emptied.
    pub(crate) fn ranked(&self, key: &Key) -> Vec<&Place> {
        let key = Sha256::digest(key.as_str().as_bytes());
        let used = self.open.iter().filter(|place| !place.marker.drain);
        let mut scored: Vec<_> = used
            .map(|place| (score(&key, place.marker.store, place.capacity), place))
            .collect();
        scored.sort_by(|(a, first), (b, second)| {
            b.total_cmp(a)
                .then(first.marker.store.cmp(&second.marker.store))
        });
        scored.into_iter().map(|(_, place)| place).collect()
    }

    /// The stores for the shares of `key`: up to `n` that have room for `bytes` each, the preferred ones first. No
    /// failure domain gets more than `m` of them, as far as there are enough stores.
    pub(crate) fn choose(&self, key: &Key, n: usize, m: usize, bytes: u64) -> Chosen<'_> {
        self.choose_with(key, n, m, |place| place.has_room(bytes))
    }

    /// As [`Places::choose`], among the stores that are `fit`.
    pub(crate) fn choose_with(
        &self,
        key: &Key,
        n: usize,
        m: usize,
        fit: impl Fn(&Place) -> bool,
    ) -> Chosen<'_> {
        let mut ranked = self.ranked(key);
        ranked.retain(|place| fit(place));
        choose(ranked, n, m)
    }

    /// Says in the markers that there are objects of so few shares. A store in which that can't be written is passed over.
    pub(crate) fn note_shares(&mut self, shares: u16) {
        let mut failed = Vec::new();
        for place in &mut self.open {
            let more = |marker: &Marker| marker.least_shares.is_none_or(|least| least > shares);
            if more(&place.marker) {
                let noted = place.change_marker(|marker| {
                    if more(marker) {
                        marker.least_shares = Some(shares);
                    }
                });
                failed.extend(noted.err().map(|error| (place.index, error)));
            }
        }
        for (index, error) in failed {
            self.pass_over(index, error.to_string());
        }
    }

    /// Asks again how much room there is.
    pub(crate) fn refresh(&mut self) {
        for place in &mut self.open {
            if let Ok(now) = place.store.room() {
                place.free = now.free;
            }
        }
    }

    /// Why stores can't take a share of so many bytes, each with its path.
    pub(crate) fn out_of_use(&self, bytes: u64) -> Vec<String> {
        let passed = self.passed_over.iter().map(ToString::to_string);
        let full = self.open.iter().filter(|place| !place.has_room(bytes));
        let full = full.map(|place| format!("{}: no room", place.store.path().display()));
        passed.chain(full).collect()
    }

    /// Takes a store out that failed.
    pub(crate) fn pass_over(&mut self, index: usize, reason: String) {
        if let Some(at) = self.open.iter().position(|place| place.index == index) {
            let place = self.open.remove(at);
            self.passed_over.push(PassedOver {
                store: index,
                path: place.store.path().to_owned(),
                reason,
            });
        }
    }
}

impl Place {
    /// Says in the marker whether the store is being emptied.
    pub(crate) fn set_drain(&mut self, drain: bool) -> Result<(), FileError> {
        self.change_marker(|marker| marker.drain = drain)
    }

    fn change_marker(&mut self, change: impl Fn(&mut Marker)) -> Result<(), FileError> {
        match &self.store {
            Store::Directory(path) => {
                // Another process may be changing it too.
                let directory = File::open(path).during("open", path)?;
                directory.lock().during("lock", path)?;
                self.change_marker_once(&change)
            }
            Store::Bucket(bucket) => {
                // It is written only if it is as it was read; otherwise another process came first.
                let bucket = bucket.clone();
                for _ in 1..MARKER_TRIES {
                    bucket.forget_marker();
                    match self.change_marker_once(&change) {
                        Err(error) if error.cause.kind() == io::ErrorKind::AlreadyExists => {}
                        changed => return changed,
                    }
                }
                bucket.forget_marker();
                self.change_marker_once(&change)
            }
        }
    }

    fn change_marker_once(&mut self, change: &impl Fn(&mut Marker)) -> Result<(), FileError> {
        if let Ok(Some(now)) = read_marker(&self.store) {
            self.marker = now;
        }
        let before = self.marker.clone();
        change(&mut self.marker);
        if self.marker == before {
            return Ok(());
        }
        write_marker(&self.store, &self.marker)
    }

    /// Whether `bytes` fit, with some to spare.
    pub(crate) fn has_room(&self, bytes: u64) -> bool {
        self.free > bytes.saturating_add(ROOM_LEFT.min(self.capacity / 64))
    }
}

fn look_at(index: usize, store: &Store) -> Result<(Place, Option<u64>), StoreError> {
    let marker = match presence(store) {
        Presence::Marked(marker) => marker,
        Presence::Unmarked(error) | Presence::Absent(error) => return Err(error),
    };
    let room = store.room().during("read the metadata of", store.path())?;
    if room.is_read_only {
        return Err(StoreError::ReadOnly(store.path().to_owned()));
    }
    let place = Place {
        index,
        store: store.clone(),
        marker,
        free: room.free,
        capacity: room.capacity,
    };
    Ok((place, room.device))
}

/// A store's score for a key: the store with the highest comes first. Scores of this form give each store a part of the
/// keys in proportion to its weight (Schindelhauer and Schomaker, "Weighted Distributed Hash Tables", SPAA 2005).
fn score(key: &[u8], store: Id, weight: u64) -> f64 {
    let digest = Sha256::new()
        .chain_update(key)
        .chain_update(store.0.to_be_bytes())
        .finalize();
    let bits = u64::from_be_bytes(digest[..8].try_into().expect("eight of 32 bytes"));
    // Between 0 and 1, and neither.
    let unit = ((bits >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    weight.max(1) as f64 / -unit.ln()
}

/// Stores for the shares of one object.
#[derive(Debug)]
pub(crate) struct Chosen<'a> {
    /// The preferred ones first; fewer than asked for if there are no more.
    pub(crate) places: Vec<&'a Place>,
    /// A domain that has more than m of them, since there are too few others.
    pub(crate) crowded: Option<String>,
}

fn choose(ranked: Vec<&Place>, n: usize, m: usize) -> Chosen<'_> {
    let mut in_domain: HashMap<&str, usize> = HashMap::new();
    let mut places = Vec::with_capacity(n);
    let mut skipped = Vec::new();
    for place in ranked {
        if places.len() == n {
            break;
        }
        match place.marker.domain.as_deref() {
            // An object without parity doesn't survive any store; it is spread over the domains all the same.
            Some(domain) if in_domain.get(domain).is_some_and(|have| *have >= m.max(1)) => {
                skipped.push(place);
            }
            domain => {
                if let Some(domain) = domain {
                    *in_domain.entry(domain).or_default() += 1;
                }
                places.push(place);
            }
        }
    }
    let mut crowded = None;
    while places.len() < n && !skipped.is_empty() {
        // The domain with the fewest shares first.
        let have = |place: &Place| {
            place
                .marker
                .domain
                .as_deref()
                .map_or(0, |domain| in_domain[domain])
        };
        let (at, _) = skipped
            .iter()
            .enumerate()
            .min_by_key(|(_, place)| have(place))
            .expect("there is one");
        let place = skipped.remove(at);
        if let Some(domain) = place.marker.domain.as_deref() {
            *in_domain.entry(domain).or_default() += 1;
            crowded.get_or_insert_with(|| domain.to_owned());
        }
        places.push(place);
    }
    Chosen { places, crowded }
}

/// How many data and parity shares each store got from one process: what a put gives parity to next.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Parity shares and all shares, by store id.
    given: HashMap<Id, (u64, u64)>,
}

impl Tally {
    /// Orders stores so that the first k get data: the last m are those that had the smallest part of parity.
    pub(crate) fn order(&mut self, places: &mut [&Place], k: usize) {
        let part = |place: &&Place| match self.given.get(&place.marker.store) {
            Some((parity, all)) => *parity as f64 / (*all).max(1) as f64,
            None => 0.0,
        };
        // Stable: without history, the key's own order decides.
        places.sort_by(|a, b| part(b).total_cmp(&part(a)));
        for (number, place) in places.iter().enumerate() {
            let (parity, all) = self.given.entry(place.marker.store).or_default();
            *parity += u64::from(number >= k);
            *all += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(index: usize, domain: Option<&str>, capacity: u64) -> Place {
        Place {
            index,
            store: PathBuf::new().into(),
            marker: Marker {
                format: 1,
                store: Id(
                    0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C834_u128.wrapping_mul(index as u128 + 1)
                ),
                set: Id(1),
                created: String::new(),
                domain: domain.map(str::to_owned),
                least_shares: None,
                drain: false,
            },
            free: capacity,
            capacity,
        }
    }

    fn places(count: usize) -> Places {
        Places {
            open: (0..count).map(|i| place(i, None, 1 << 40)).collect(),
            passed_over: Vec::new(),
        }
    }

    fn keys(count: usize) -> impl Iterator<Item = Key> {
        (0..count).map(|i| Key::new(&format!("object {i}")).unwrap())
    }

    fn within(counts: &[f64], part: f64) {
        let mean = counts.iter().sum::<f64>() / counts.len() as f64;
        for count in counts {
            assert!((count / mean - 1.0).abs() < part, "{counts:?}");
        }
    }

    #[test]
    fn shares_spread_over_all_stores_data_and_parity_alike() {
        let (places, mut tally) = (places(12), Tally::default());
        let (mut all, mut parity) = (vec![0.0; 12], vec![0.0; 12]);
        for key in keys(1000) {
            let mut chosen = places.choose(&key, 6, 2, 1 << 20).places;
            assert_eq!(chosen.len(), 6);
            tally.order(&mut chosen, 4);
            for (number, place) in chosen.iter().enumerate() {
                all[place.index] += 1.0;
                parity[place.index] += f64::from(u8::from(number >= 4));
            }
        }
        let data: Vec<f64> = all
            .iter()
            .zip(&parity)
            .map(|(all, parity)| all - parity)
            .collect();
        within(&all, 0.1);
        within(&parity, 0.1);
        within(&data, 0.1);
    }

    #[test]
    fn a_thirteenth_store_moves_a_thirteenth() {
        let (before, after) = (places(12), places(13));
        let mut moved = 0;
        for key in keys(1000) {
            let indices = |places: &Places| -> Vec<usize> {
                places
                    .choose(&key, 6, 2, 0)
                    .places
                    .iter()
                    .map(|place| place.index)
                    .collect()
            };
            let old = indices(&before);
            moved += indices(&after)
                .iter()
                .filter(|index| !old.contains(index))
                .count();
        }
        let ideal = 6000.0 / 13.0;
        assert!(
            (moved as f64 / ideal - 1.0).abs() < 0.15,
            "{moved} of {ideal}"
        );
    }

    #[test]
    fn larger_stores_get_more_and_full_ones_nothing() {
        let mut places = places(4);
        places.open[3].capacity *= 3;
        places.open[0].free = 1 << 20;
        let mut counts = [0; 4];
        for key in keys(2000) {
            for place in places.choose(&key, 1, 0, 1 << 20).places {
                counts[place.index] += 1;
            }
        }
        assert_eq!(counts[0], 0);
        let ratio = f64::from(counts[3]) / f64::from(counts[1] + counts[2]);
        assert!((1.3..1.7).contains(&ratio), "{counts:?}");
    }

    #[test]
    fn no_domain_gets_more_than_m_shares_if_there_are_enough() {
        let domains = ["a", "a", "a", "b", "b", "b", "c", "c", "c"];
        let stores = |domains: &[&str]| Places {
            open: domains
                .iter()
                .enumerate()
                .map(|(i, domain)| place(i, Some(domain), 1 << 40))
                .collect(),
            passed_over: Vec::new(),
        };
        let most = |chosen: &Chosen<'_>| {
            let domain = |place: &&&Place| place.marker.domain.clone();
            let of = |wanted: &str| {
                chosen
                    .places
                    .iter()
                    .filter(|place| domain(place).as_deref() == Some(wanted))
                    .count()
            };
            ["a", "b", "c"].into_iter().map(of).max()
        };
        let three = stores(&domains);
        let two = stores(&domains[..6]);
        for key in keys(100) {
            let chosen = three.choose(&key, 6, 2, 0);
            assert_eq!(
                (chosen.places.len(), most(&chosen), &chosen.crowded),
                (6, Some(2), &None)
            );
            let chosen = two.choose(&key, 6, 2, 0);
            assert_eq!((chosen.places.len(), most(&chosen)), (6, Some(3)));
            assert!(chosen.crowded.is_some());
        }
    }

    #[test]
    fn the_order_of_the_list_means_nothing() {
        let mut turned = places(7);
        turned.open.reverse();
        let places = places(7);
        for key in keys(50) {
            let ids = |places: &Places| -> Vec<Id> {
                places
                    .ranked(&key)
                    .iter()
                    .map(|place| place.marker.store)
                    .collect()
            };
            assert_eq!(ids(&places), ids(&turned));
        }
    }
}
