//! One look at all objects of all stores, for a window of their keys.
//!
//! An object's directory is named by the hash of its key, so the keys come in no order and headers must be read. The
//! stores' own threads make the calls, for a short time each, so that look-ups of downloads come between; a store that
//! hangs is left out, as one that is suspended. All tell their directories in one order, part after part, which are merged
//! ([`Merge`]). Whatever the stores hold, this takes memory for a part and some headers of each, and the window's.
//!
//! Remote stores tell the names of all their files, a thousand with a request: by them an object's newest put is known, and how
//! many shares there are. Of objects that the last window didn't have one header is read, with a request each.

use std::path::Path;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use decode_kernel::share::{Header, object_dir};
use penstock_store::survey::{self, Glance, Named, Sight};
use penstock_store::{BucketStore, Listed, Presence, RejectReason};

use super::ahead::{Merge, Place, Seen, Told};
use super::window::{Entry, Known, Window};
use crate::memory::limits::{
    LISTING_BATCH, LISTING_NAMES_MOST, LISTING_PARTS_MAX, LISTING_REMOTE_BATCH,
    REMOTE_ANSWER_WITHIN, REMOTE_CALL_WITHIN, STORE_PATIENCE, SURVEY_NAMES_MAX,
};
use crate::remote::{Fetcher, Origin};
use crate::stores::{Store, Stores};

/// Why there is no window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WalkError {
    /// The stores are gone: the server ends.
    Over,
    /// So many stores are away that objects may be lacking.
    StoresAway,
    /// Remote stores have more files than are asked for.
    TooMany,
}

/// It rests after some objects for as long as they took, but no longer than this: a disk that works leaves the cores alone.
const REST_MOST: Duration = Duration::from_millis(5);

/// How long a job waits for its turn at a store with a full queue before it is tried again.
const QUEUE_PAUSE: Duration = Duration::from_millis(20);

/// Fills a window. Remote stores are asked for so many names at one time, and for no header that is known.
pub(super) fn fill(
    stores: &Weak<Stores>,
    window: &mut Window,
    known: Known<'_>,
    names_max: usize,
) -> Result<(), WalkError> {
    let mut walk = Walk::begin(stores, known, names_max)?;
    let batch = match walk.buckets.iter().flatten().count() {
        0 => LISTING_BATCH,
        _ => LISTING_REMOTE_BATCH,
    };
    let mut taken = Some(String::new());
    while let Some(from) = taken {
        walk.refill(&from)?;
        let (seen, end) = walk.ahead.take();
        let mut seen = seen.into_iter();
        loop {
            let begun = Instant::now();
            let some: Vec<Seen> = seen.by_ref().take(batch).collect();
            if some.is_empty() {
                break;
            }
            walk.look(some, window)?;
            // In memory all stores answer at once, on as many threads: the cores must have their turn.
            thread::sleep(begun.elapsed().min(REST_MOST));
        }
        taken = end;
    }
    walk.end()?;
    window.took = window.begun.elapsed();
    Ok(())
}

/// A look under way.
struct Walk<'a> {
    calls: Calls<'a>,
    /// The fewest shares of any put, as far as the stores tell.
    least_shares: Option<u16>,
    ahead: Merge,
    /// By store, what it takes to ask it if it is remote.
    buckets: Vec<Option<Bucket>>,
    known: Known<'a>,
    names_max: usize,
    /// Requests for names that may still be made.
    lists_left: u64,
}

/// A remote store.
#[derive(Clone)]
struct Bucket {
    origin: Arc<Origin>,
    fetcher: Arc<Fetcher>,
    store: penstock_store::Store,
}

impl Bucket {
    fn of(store: &Store, stores: &Stores) -> Option<Bucket> {
        let (origin, remote) = (store.origin()?, stores.remote()?);
        let (bucket, client) = (origin.bucket().clone(), origin.client());
        let files = BucketStore::of(bucket, origin.url().to_string(), client);
        Some(Bucket {
            origin: Arc::clone(origin),
            fetcher: Arc::clone(remote.fetcher()),
            store: penstock_store::Store::Bucket(files),
        })
    }

    /// What it has of one object, with the memory of a fetch.
    fn glance(&self, dir: &str) -> Glance {
        let _slot = self.origin.client().run(self.fetcher.slot());
        survey::glance_in(&self.store, dir)
    }

    fn names(&self, after: &str, names_max: usize) -> Result<Told, String> {
        let part = self.origin.part(&self.fetcher, after, names_max);
        let part = part.map_err(|error| error.to_string())?;
        let objects = part.objects.into_iter();
        Ok(Told {
            objects: objects
                .map(|object| (object.dir, Some(Named::of(object.files))))
                .collect(),
            next: part.next.map(|after| {
                let told = after.strip_prefix("objects/").unwrap_or(&after);
                (told.to_owned(), Place::Bucket { after })
            }),
        })
    }
}

/// A part of what a directory has, below one `ab`.
fn names_of_directory(root: &Path, first: u8, after: &str) -> Result<Told, String> {
    let part = survey::names_after(root, first, after, SURVEY_NAMES_MAX);
    let part = part.map_err(|error| error.to_string())?;
    let last = part.names.last().filter(|_| part.is_cut).cloned();
    let next = match last {
        Some(after) => Some((format!("{first:02x}/{after}"), first, after)),
        // Behind all names below it.
        None => first
            .checked_add(1)
            .map(|next| (format!("{first:02x}/~"), next, String::new())),
    };
    let dir = |name: String| (format!("{first:02x}/{name}"), None);
    Ok(Told {
        objects: part.names.into_iter().map(dir).collect(),
        next: next.map(|(told, first, after)| (told, Place::Directory { first, after })),
    })
}

/// What came of reading a header.
type Read = Result<Header, RejectReason>;

/// An object whose header is wanted.
struct Wanted {
    /// Its place among those that are looked at together.
    at: usize,
    sight: Sight,
}

impl<'a> Walk<'a> {
    /// Asks every store whether it is there, and what it knows of the others.
    fn begin(
        stores: &'a Weak<Stores>,
        known: Known<'a>,
        names_max: usize,
    ) -> Result<Walk<'a>, WalkError> {
        let all = stores.upgrade().ok_or(WalkError::Over)?;
        let buckets = all.stores().iter().map(|store| Bucket::of(store, &all));
        let buckets: Vec<Option<Bucket>> = buckets.collect();
        drop(all);
        let begin = |bucket: &Option<Bucket>| match bucket {
            Some(_) => Place::Bucket {
                after: String::new(),
            },
            None => Place::Directory {
                first: 0,
                after: String::new(),
            },
        };
        // With fewer names to each request it takes more of them.
        let parts = (LISTING_NAMES_MOST / names_max.max(1)).max(1) as u64;
        let mut walk = Walk {
            calls: Calls {
                stores,
                away: vec![false; buckets.len()],
            },
            least_shares: None,
            ahead: Merge::new(buckets.iter().map(begin)),
            lists_left: LISTING_PARTS_MAX * parts * buckets.iter().flatten().count() as u64,
            buckets,
            known,
            names_max,
        };
        let found = walk.calls.ask(
            |_| true,
            |index, store| {
                let root = match &walk.buckets[index] {
                    Some(bucket) => bucket.store.clone(),
                    None => store.path().into(),
                };
                move || penstock_store::presence(&root)
            },
        )?;
        for (index, presence) in found {
            match presence {
                Presence::Marked(marker) => {
                    let least = marker.least_shares;
                    walk.least_shares = walk.least_shares.into_iter().chain(least).min();
                }
                Presence::Unmarked(_) => {}
                Presence::Absent(_) => walk.calls.away[index] = true,
            }
        }
        walk.end()?;
        Ok(walk)
    }

    /// Whether no object can be lacking. As for one object: where the stores don't tell how few shares one has, most of
    /// them must be here.
    fn end(&self) -> Result<(), WalkError> {
        let away = self.calls.away();
        let complete = match self.least_shares {
            _ if away == 0 => true,
            Some(least) => away < usize::from(least),
            None => away * 2 < self.calls.away.len(),
        };
        match complete {
            true => Ok(()),
            false => Err(WalkError::StoresAway),
        }
    }

    /// Has those stores tell more without which nothing can be taken, all up to `taken` being so.
    fn refill(&mut self, taken: &str) -> Result<(), WalkError> {
        let stores = 0..self.buckets.len();
        let places: Vec<Option<Place>> = stores
            .map(|index| self.ahead.wanted(index, taken))
            .collect();
        let lists = places
            .iter()
            .flatten()
            .filter(|place| matches!(place, Place::Bucket { .. }));
        self.spend(lists.count() as u64)?;
        let names_max = self.names_max;
        let found = self.calls.ask(
            |index| places[index].is_some(),
            |index, store| {
                let place = places[index].clone();
                let (root, bucket) = (store.path().to_owned(), self.buckets[index].clone());
                move || match (place, bucket) {
                    (Some(Place::Bucket { after }), Some(bucket)) => {
                        bucket.names(&after, names_max)
                    }
                    (Some(Place::Directory { first, after }), _) => {
                        names_of_directory(&root, first, &after)
                    }
                    _ => Err("it has no such place".to_owned()),
                }
            },
        )?;
        for (index, told) in found {
            match told {
                Ok(told) => self.ahead.add(index, told),
                Err(error) => self.calls.leave_out(index, &error),
            }
        }
        for (index, _) in self
            .calls
            .away
            .iter()
            .enumerate()
            .filter(|(_, away)| **away)
        {
            self.ahead.leave_out(index);
        }
        Ok(())
    }

    fn spend(&mut self, lists: u64) -> Result<(), WalkError> {
        let left = self.lists_left.checked_sub(lists);
        self.lists_left = left.ok_or(WalkError::TooMany)?;
        Ok(())
    }

    /// Looks at some objects, and offers them to the window.
    fn look(&mut self, seen: Vec<Seen>, window: &mut Window) -> Result<(), WalkError> {
        let (dirs, named): (Vec<String>, Vec<_>) =
            seen.into_iter().map(|seen| (seen.dir, seen.named)).unzip();
        let dirs: Arc<[String]> = dirs.into();
        let glances = self.glances(&dirs)?;
        let (mut wanted, mut exact) = (Vec::new(), Vec::new());
        for (at, (named, glances)) in named.into_iter().zip(&glances).enumerate() {
            if named.iter().any(|(_, named)| named.is_odd) {
                exact.push(at);
                continue;
            }
            if named.is_empty() {
                if let Some(object) = survey::condition(glances.iter().cloned()) {
                    self.offer(&object.header, object.shares, glances, window);
                }
                continue;
            }
            let Some(sight) = Sight::of(glances.iter().cloned(), named) else {
                continue;
            };
            if let Some(header) = &sight.header {
                let shares = sight.shares(Some(&header.geometry));
                self.offer(header, shares, glances, window);
            } else if let Some((key, entry)) = self.known.find(&dirs[at], sight.generation) {
                self.offer_entry(key, *entry, sight.shares(None), glances, window);
            } else {
                wanted.push(Wanted { at, sight });
            }
        }
        while !wanted.is_empty() {
            for (Wanted { at, sight }, result) in self.headers(&mut wanted)? {
                let is_right = |header: &Header| {
                    header.generation == sight.generation && object_dir(&header.key) == dirs[at]
                };
                match result {
                    Ok(header) if is_right(&header) => {
                        let shares = sight.shares(Some(&header.geometry));
                        self.offer(&header, shares, &glances[at], window);
                    }
                    _ => exact.push(at),
                }
            }
        }
        self.look_exactly(&dirs, &exact, glances, window)
    }

    /// What directories have of some objects, by their headers.
    fn glances(&mut self, dirs: &Arc<[String]>) -> Result<Vec<Vec<Glance>>, WalkError> {
        let mut seen: Vec<Vec<Glance>> = dirs.iter().map(|_| Vec::new()).collect();
        let mut done = vec![0; self.buckets.len()];
        loop {
            let found = self.calls.ask(
                |index| self.buckets[index].is_none() && done[index] < dirs.len(),
                |index, store| {
                    let (root, all, from) =
                        (store.path().to_owned(), Arc::clone(dirs), done[index]);
                    let slice = store.timeout() / 4;
                    move || {
                        let begun = Instant::now();
                        let mut glances = Vec::new();
                        for dir in &all[from..] {
                            glances.push(survey::glance(&root, dir));
                            if begun.elapsed() > slice {
                                break;
                            }
                        }
                        glances
                    }
                },
            )?;
            if found.is_empty() {
                return Ok(seen);
            }
            for (index, glances) in found {
                for glance in glances {
                    seen[done[index]].push(glance);
                    done[index] += 1;
                }
            }
        }
    }

    /// Has remote stores read headers, each object's from one of them. Takes those objects out of which something was learned,
    /// and those whose shares are all in stores that are away by now.
    fn headers(&mut self, wanted: &mut Vec<Wanted>) -> Result<Vec<(Wanted, Read)>, WalkError> {
        let mut files: Vec<Vec<(usize, Listed)>> = vec![Vec::new(); self.buckets.len()];
        wanted.retain(|wanted| {
            let files = wanted.sight.files.iter();
            files.clone().any(|(store, _)| !self.calls.away[*store])
        });
        for (number, wanted) in wanted.iter().enumerate() {
            let here = wanted.sight.files.iter();
            let here = here.filter(|(store, _)| !self.calls.away[*store]);
            if let Some((store, file)) = here.min_by_key(|(store, _)| files[*store].len()) {
                files[*store].push((number, file.clone()));
            }
        }
        let found = self.calls.ask(
            |index| !files[index].is_empty(),
            |index, _| {
                let bucket = self.buckets[index].clone();
                let files: Vec<Listed> =
                    files[index].iter().map(|(_, file)| file.clone()).collect();
                move || match bucket {
                    Some(bucket) => {
                        let within = REMOTE_ANSWER_WITHIN / 4;
                        bucket.origin.headers(&bucket.fetcher, files, within)
                    }
                    None => Vec::new(),
                }
            },
        )?;
        let mut results: Vec<Option<Read>> = wanted.iter().map(|_| None).collect();
        for (index, read) in found {
            if read.is_empty() {
                self.calls.leave_out(index, "it reads no headers");
            }
            for (file, result) in read {
                match result {
                    // Another store is asked.
                    Err(RejectReason::Away(error)) => self.calls.leave_out(index, &error),
                    result => results[files[index][file].0] = Some(result),
                }
            }
        }
        let (mut done, mut left) = (Vec::new(), Vec::new());
        for (wanted, result) in wanted.drain(..).zip(results) {
            match result {
                Some(result) => done.push((wanted, result)),
                None => left.push(wanted),
            }
        }
        *wanted = left;
        Ok(done)
    }

    /// Looks at objects of which names don't tell enough, as if all stores were directories.
    fn look_exactly(
        &mut self,
        dirs: &Arc<[String]>,
        which: &[usize],
        mut glances: Vec<Vec<Glance>>,
        window: &mut Window,
    ) -> Result<(), WalkError> {
        for &at in which {
            let here = self.calls.away.iter().zip(&self.buckets);
            let asked = here.filter(|(away, bucket)| !**away && bucket.is_some());
            self.spend(asked.count() as u64)?;
            let found = self.calls.ask(
                |index| self.buckets[index].is_some(),
                |index, _| {
                    let (bucket, all) = (self.buckets[index].clone(), Arc::clone(dirs));
                    move || bucket.map(|bucket| bucket.glance(&all[at]))
                },
            )?;
            glances[at].extend(found.into_iter().filter_map(|(_, glance)| glance));
            if let Some(object) = survey::condition(glances[at].iter().cloned()) {
                self.offer(&object.header, object.shares, &glances[at], window);
            }
        }
        Ok(())
    }

    fn offer(&self, header: &Header, shares: usize, glances: &[Glance], window: &mut Window) {
        let entry = Entry::of(header);
        self.offer_entry(header.key.as_str(), entry, shares, glances, window);
    }

    /// Offers an object to the window, if it can be read: what a store that is away may have is still there.
    fn offer_entry(
        &self,
        key: &str,
        entry: Entry,
        shares: usize,
        glances: &[Glance],
        window: &mut Window,
    ) {
        let unread = glances.iter().filter(|glance| !glance.is_here).count();
        let may_be_read = shares + self.calls.away() + unread >= usize::from(entry.k);
        if may_be_read && !survey::is_expired(entry.expires) {
            window.offer(key, entry);
        }
    }
}

/// Calls on all stores, but those that are left out.
struct Calls<'a> {
    stores: &'a Weak<Stores>,
    /// By store, whether it is left out from now on.
    away: Vec<bool>,
}

impl Calls<'_> {
    /// The number of stores that are left out.
    fn away(&self) -> usize {
        self.away.iter().filter(|&&away| away).count()
    }

    /// Leaves a store out, and says so once.
    fn leave_out(&mut self, index: usize, why: &str) {
        if !std::mem::replace(&mut self.away[index], true) {
            tracing::warn!(store = index, "left out of a listing: {why}");
        }
    }

    /// Has the threads of the stores that are wanted do something, all at one time. Those that don't answer are left out
    /// from now on.
    fn ask<T: Send + 'static, J: FnOnce() -> T + Send + 'static>(
        &mut self,
        wanted: impl Fn(usize) -> bool,
        job: impl Fn(usize, &Store) -> J,
    ) -> Result<Vec<(usize, T)>, WalkError> {
        let stores = self.stores.upgrade().ok_or(WalkError::Over)?;
        let begun = Instant::now();
        let mut asked = Vec::with_capacity(self.away.len());
        for (index, store) in stores.stores().iter().enumerate() {
            if self.away[index] || !wanted(index) {
                continue;
            }
            if !store.serves(true) {
                self.away[index] = true;
                continue;
            }
            let mut within = STORE_PATIENCE * stores.timeout();
            if store.origin().is_some() {
                within = within.max(REMOTE_CALL_WITHIN);
            }
            let deadline = begun + within;
            let (reply, answer) = bounded(1);
            loop {
                let (job, reply) = (job(index, store), reply.clone());
                let submitted = store.threads().looks.submit(move || {
                    // Who asked may have given up.
                    let _ = reply.send(job());
                });
                match submitted {
                    Ok(()) => break asked.push((index, answer, deadline)),
                    Err(_) if Instant::now() < deadline => thread::sleep(QUEUE_PAUSE),
                    Err(_) => break self.away[index] = true,
                }
            }
        }
        // Nothing keeps the server while this waits.
        drop(stores);
        let mut answers = Vec::with_capacity(asked.len());
        for (index, answer, deadline) in asked {
            match answer.recv_deadline(deadline) {
                Ok(answer) => answers.push((index, answer)),
                Err(_) => self.away[index] = true,
            }
        }
        Ok(answers)
    }
}
