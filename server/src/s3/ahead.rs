//! What stores tell of their objects' directories, each part after part, merged in one order.

use std::collections::{BTreeMap, VecDeque};

use penstock_store::survey::Named;

/// An object's directory that some store has, with what buckets have there, by the store's index.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Seen<N = Named> {
    /// `ab/cdef…`.
    pub(super) dir: String,
    /// What the names of files in buckets tell.
    pub(super) named: Vec<(usize, N)>,
}

/// Where the next part of a store begins.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// Below `objects/ab` of a directory, `first` being `ab`, behind this name.
    Directory { first: u8, after: String },
    /// Behind this file of a bucket.
    Bucket { after: String },
}

/// A part of what a store tells.
pub(super) struct Told<N = Named> {
    /// Directories, in order; with what names tell, if it is a bucket.
    pub(super) objects: Vec<(String, Option<N>)>,
    /// It has told all up to here, and where the next part begins; `None` if there is no more.
    pub(super) next: Option<(String, Place)>,
}

/// What one store has told that was not taken.
struct Ahead<N> {
    objects: VecDeque<(String, Option<N>)>,
    next: Option<(String, Place)>,
}

/// What all stores have told that was not taken.
pub(super) struct Merge<N = Named>(Vec<Ahead<N>>);

impl<N> Merge<N> {
    /// Of stores that have told nothing yet, each of which begins at its place.
    pub(super) fn new(places: impl IntoIterator<Item = Place>) -> Merge<N> {
        let stores = places.into_iter().map(|place| Ahead {
            objects: VecDeque::new(),
            next: Some((String::new(), place)),
        });
        Merge(stores.collect())
    }

    /// Where the next part of a store begins, if nothing can be taken without it: all up to `taken` was.
    pub(super) fn wanted(&self, store: usize, taken: &str) -> Option<Place> {
        let next = self.0[store].next.as_ref();
        next.filter(|(told, _)| told.as_str() <= taken)
            .map(|(_, place)| place.clone())
    }

    /// A store has told a part.
    pub(super) fn add(&mut self, store: usize, part: Told<N>) {
        let ahead = &mut self.0[store];
        ahead.objects.extend(part.objects);
        ahead.next = part.next;
    }

    /// A store tells nothing more, and what it told doesn't count.
    pub(super) fn leave_out(&mut self, store: usize) {
        let ahead = &mut self.0[store];
        ahead.objects.clear();
        ahead.next = None;
    }

    /// Takes the objects of which all stores have told, and says up to where that is; `None` if those were all.
    pub(super) fn take(&mut self) -> (Vec<Seen<N>>, Option<String>) {
        let told = self.0.iter().filter_map(|ahead| ahead.next.as_ref());
        let end = told.map(|(told, _)| told).min().cloned();
        let mut seen: BTreeMap<String, Vec<(usize, N)>> = BTreeMap::new();
        for (store, ahead) in self.0.iter_mut().enumerate() {
            let is_told = |dir: &String| end.as_ref().is_none_or(|end| dir <= end);
            let objects = ahead.objects.iter().take_while(|(dir, _)| is_told(dir));
            let count = objects.count();
            for (dir, named) in ahead.objects.drain(..count) {
                let all = seen.entry(dir).or_default();
                all.extend(named.map(|named| (store, named)));
            }
        }
        let seen = seen.into_iter().map(|(dir, named)| Seen { dir, named });
        (seen.collect(), end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_stores_tell_in_parts_comes_together_in_order(
            stores in prop::collection::vec(prop::collection::btree_set("[ab][0-3]", 0..8), 1..4),
            parts in prop::collection::vec(1usize..4, 1..4),
            away in prop::option::of(0usize..4),
        ) {
            let begin = || Place::Bucket { after: String::new() };
            let mut merge: Merge<u8> = Merge::new(stores.iter().map(|_| begin()));
            let mut found = Vec::new();
            let mut taken = Some(String::new());
            while let Some(from) = taken {
                for (index, store) in stores.iter().enumerate() {
                    let Some(Place::Bucket { after }) = merge.wanted(index, &from) else {
                        continue;
                    };
                    if away == Some(index) {
                        merge.leave_out(index);
                        continue;
                    }
                    let mut rest = store.iter().filter(|name| **name > after);
                    let most = parts[index % parts.len()];
                    let names: Vec<&String> = rest.by_ref().take(most).collect();
                    let last = names.last().map(|name| (*name).clone());
                    merge.add(index, Told {
                        objects: names.into_iter().map(|name| (name.clone(), Some(0))).collect(),
                        next: last.filter(|_| rest.next().is_some()).map(|last| {
                            (last.clone(), Place::Bucket { after: last })
                        }),
                    });
                }
                let (some, end) = merge.take();
                prop_assert!(end.as_ref() > Some(&from) || end.is_none(), "it gets on");
                found.extend(some);
                taken = end;
            }
            let mut right: BTreeMap<String, Vec<(usize, u8)>> = BTreeMap::new();
            for (index, store) in stores.iter().enumerate().filter(|(index, _)| Some(*index) != away) {
                for name in store {
                    right.entry(name.clone()).or_default().push((index, 0));
                }
            }
            let right: Vec<_> = right.into_iter().map(|(dir, named)| Seen { dir, named }).collect();
            prop_assert_eq!(found, right);
        }
    }
}
