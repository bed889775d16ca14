//! One try to put an object into certain stores: they are chosen, the shares are written, and become the object.

use std::io::{self, Read};
use std::time::{SystemTime, UNIX_EPOCH};

use crc_fast::CrcAlgorithm;
use decode_kernel::share::{
    Digest, DigestAlgorithm, Generation, Header, LeafChecksum, Metadata, object_dir,
};
use sha2::{Digest as _, Sha256};

use super::commit::{self, Ready, Step, remove_older};
use super::encoding::{Encoding, Parity, block};
use super::error::PutError;
use super::options::{Placement, PutOptions};
use super::report::PutReport;
use crate::check;
use crate::date;
use crate::error::FileError;
use crate::progress::Progress;
use crate::store::{self, Kind, Place, Places, Scan, Store, Tally};
use crate::temp::allow_open_files;
use crate::write::NewShares;

/// Short segments are read, encoded and written together, up to this many bytes.
const BATCH_BYTES: u64 = 8 << 20;

/// One try to put an object into certain stores.
pub(super) struct Attempt<'a> {
    options: &'a PutOptions,
    encoding: &'a Encoding,
    /// The store of each share, by number.
    targets: Vec<(usize, Store)>,
    /// The header of an empty object; size, digest and checksum are filled in once they are known.
    empty: Header,
    /// Stores that can't be written.
    passed_over: Vec<String>,
    warnings: Vec<String>,
}

/// Why a try failed.
pub(super) enum Failure {
    /// Too few stores are left; with others it may succeed.
    Stores(Vec<(usize, FileError)>),
    Put(PutError),
}

impl<E: Into<PutError>> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::Put(error.into())
    }
}

impl<'a> Attempt<'a> {
    pub(super) fn new(
        options: &'a PutOptions,
        encoding: &'a Encoding,
        places: &mut Places,
        tally: &mut Tally,
    ) -> Result<Attempt<'a>, PutError> {
        let (geometry, key) = (encoding.geometry, &options.key);
        let (k, n) = (usize::from(geometry.k()), usize::from(geometry.n()));
        let share_bytes = encoding
            .geometry_of(options.size_hint.unwrap_or(0))?
            .share_file_bytes();
        allow_open_files(n * 3);
        places.note_shares(encoding.least);
        let mut warnings = Vec::new();
        let mut chosen: Vec<&Place> = match options.placement {
            Placement::Hashed => {
                let chosen = places.choose(key, n, n - k, share_bytes);
                warnings.extend(chosen.crowded.map(|domain| {
                    format!("domain {domain} gets more shares than may be lost: losing it loses the object")
                }));
                chosen.places
            }
            Placement::Listed => places.open.iter().take(n).collect(),
        };
        if chosen.len() < usize::from(encoding.least) {
            return Err(encoding.too_few(places, chosen.len(), share_bytes));
        }
        if options.placement == Placement::Hashed {
            tally.order(&mut chosen, k);
        }
        let targets: Vec<_> = chosen
            .iter()
            .map(|place| (place.index, place.store.clone()))
            .collect();
        let passed_over = places.out_of_use(share_bytes).into_iter();
        let passed_over = passed_over.map(|reason| format!("a store is passed over: {reason}"));

        let scan = store::scan(&options.stores, key);
        refuse_clobber(options, &scan)?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let empty = Header {
            key: key.clone(),
            content_type: encoding.content_type.clone(),
            geometry,
            code: encoding.code.kind(),
            number: 0,
            leaf_checksum: LeafChecksum::Crc64Nvme,
            digest: Digest {
                algorithm: DigestAlgorithm::Sha256,
                bytes: Sha256::digest([]).into(),
            },
            generation: new_generation(&scan, now.as_nanos() as u64)?,
            created: new_created(&scan, now.as_secs()),
            metadata: Metadata {
                crc64nvme: None,
                expires: options.expires,
                fields: options.fields.clone(),
            },
        };
        Ok(Attempt {
            options,
            encoding,
            targets,
            empty,
            passed_over: passed_over.collect(),
            warnings,
        })
    }

    pub(super) fn run(
        self,
        source: &mut dyn Read,
        progress: &Progress,
        after: &mut dyn FnMut(Step) -> io::Result<()>,
    ) -> Result<PutReport, Failure> {
        let (header, ready) = self.write(source, progress)?;
        if self.options.no_clobber {
            // Another put may have come first meanwhile.
            let scan = store::scan(&self.options.stores, &self.options.key);
            refuse_clobber(self.options, &scan)?;
        }
        let least = usize::from(self.encoding.least);
        let committed = commit::commit(&header, ready, least, after)?;
        let mut warnings = self.warnings;
        let failed = committed.failed.iter().map(|(_, _, error)| error);
        warnings.extend(failed.chain(&committed.unsettled).map(ToString::to_string));
        if !committed.unsettled.is_empty() {
            warnings.push(
                "the object is stored; `penstock repair` finishes what a store failed to do"
                    .to_owned(),
            );
        }
        let missing = check::missing(committed.shares.iter().map(|(number, ..)| *number), &header);
        let replaced = remove_older(&self.options.stores, &header.key, &header.generation);
        let paths = committed.shares.into_iter().map(|(.., path)| path);
        Ok(PutReport {
            header,
            paths: paths.collect(),
            missing,
            replaced,
            passed_over: self.passed_over,
            warnings,
        })
    }

    /// Reads `source` to its end and writes all shares, under temporary names. Returns the object's header and the
    /// shares, without those whose stores failed.
    pub(super) fn write(
        &self,
        source: &mut dyn Read,
        progress: &Progress,
    ) -> Result<(Header, Vec<Ready>), Failure> {
        let Header {
            geometry,
            generation,
            leaf_checksum,
            ..
        } = self.empty;
        let encoding = self.encoding;
        let (k, least) = (usize::from(geometry.k()), usize::from(encoding.least));
        let mut shares = NewShares::new(generation, leaf_checksum, geometry.leaf_bytes());
        let mut failed = Vec::new();
        let mut targets = Vec::with_capacity(self.targets.len());
        let dir = object_dir(&self.empty.key);
        let size = self.options.size_hint.unwrap_or(0);
        let share_bytes = encoding.geometry_of(size)?.share_file_bytes();
        for (number, (index, store)) in self.targets.iter().enumerate() {
            let path = store.object_file(&dir, Kind::Pending, &generation);
            match shares.add(store, number as u16, path, share_bytes) {
                Ok(()) => targets.push(*index),
                Err(error) => failed.push((*index, error)),
            }
        }
        // Share i is not the i-th file once a store failed.
        let mut slots: Vec<Option<usize>> = vec![None; usize::from(geometry.n())];
        for (slot, number) in shares.numbers().enumerate() {
            slots[usize::from(number)] = Some(slot);
        }
        let segment_bytes = geometry.segment_bytes() as usize; // at most SEGMENT_BYTES_MAX
        let batch_segments = (BATCH_BYTES / geometry.segment_bytes()).max(1) as usize;
        let mut batch = vec![0; batch_segments * segment_bytes];
        let mut parity = Parity::new(&encoding.code, &geometry, batch_segments);
        let mut digest = Sha256::new();
        let mut crc = crc_fast::Digest::new(CrcAlgorithm::Crc64Nvme);
        let mut size = 0;
        loop {
            if shares.live() < least {
                break;
            }
            let len = read_full(source, &mut batch).map_err(PutError::Source)?;
            size += len as u64;
            let whole = len - len % segment_bytes;
            // The last segment is cut into k shorter blocks, padded with zeros.
            let tail_block = encoding
                .geometry_of((len - whole) as u64)?
                .tail_block_bytes() as usize;
            let padded = whole + k * tail_block;
            batch[len..padded.max(len)].fill(0);
            let mut segments: Vec<&[u8]> = batch[..whole].chunks_exact(segment_bytes).collect();
            segments.extend((tail_block > 0).then(|| &batch[whole..padded]));
            // SHA-256 takes longer than everything else together, so it gets a thread of its own.
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    digest.update(&batch[..len]);
                    crc.update(&batch[..len]);
                });
                for (share, slot) in slots[..k].iter().enumerate() {
                    let blocks = segments.iter().map(|segment| block(segment, k, share));
                    if let Some(slot) = slot {
                        shares.append(*slot, &blocks.collect::<Vec<_>>());
                    }
                }
                parity.append(&segments, &slots, &mut shares)
            })?;
            progress.add(len as u64);
            if len < batch.len() {
                break;
            }
        }
        let header = Header {
            geometry: encoding.geometry_of(size)?,
            digest: Digest {
                algorithm: DigestAlgorithm::Sha256,
                bytes: digest.finalize().into(),
            },
            metadata: Metadata {
                crc64nvme: Some(crc.finalize()),
                ..self.empty.metadata.clone()
            },
            ..self.empty.clone()
        };
        let enough = |shares: &NewShares| shares.live() >= least;
        if enough(&shares) {
            shares.finish(&header);
        }
        let enough = enough(&shares);
        let mut ready = Vec::new();
        for ((number, file), store) in shares.into_files().zip(targets) {
            match file {
                Ok(file) => ready.push(Ready {
                    number,
                    store,
                    file,
                }),
                Err(error) => failed.push((store, error)),
            }
        }
        if !enough {
            return Err(Failure::Stores(failed));
        }
        for (_, error) in &failed {
            tracing::warn!("a share is not written: {error}");
        }
        Ok((header, ready))
    }
}

pub(super) fn refuse_clobber(options: &PutOptions, scan: &Scan) -> Result<(), PutError> {
    let key = &options.key;
    if !options.no_clobber {
        return Ok(());
    }
    let chosen = scan.chosen(false).map(|chosen| &scan.groups[chosen]);
    if chosen.is_some_and(|group| group.header.metadata.is_expired(date::now())) {
        return Ok(());
    }
    if !scan.groups.is_empty() {
        return Err(PutError::Exists { key: key.clone() });
    }
    match store::choose(&options.stores, key, false) {
        Err(store::OpenError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Err(PutError::Exists { key: key.clone() }),
    }
}

/// A generation newer than every one there is, even if the clock was set back.
pub(crate) fn new_generation(scan: &Scan, now: u64) -> Result<Generation, PutError> {
    let nanos = match scan.newest_generation() {
        Some(newest) => now.max(
            newest
                .unix_nanos()
                .checked_add(1)
                .ok_or(PutError::Generation(newest))?,
        ),
        None => now,
    };
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(PutError::Random)?;
    Ok(Generation::new(nanos, random))
}

/// A time of creation, in seconds since 1970, later than that of every earlier put: `Last-Modified` is made of it, and
/// tells two puts of one second apart.
pub(super) fn new_created(scan: &Scan, now: u64) -> u64 {
    let seconds = |generation: Generation| generation.unix_nanos() / 1_000_000_000;
    let named = scan.newest_generation().map(seconds);
    let latest = scan.latest_created().max(named);
    latest.map_or(now, |latest| now.max(latest.saturating_add(1)))
}

/// Fills `buffer` from `source`. Reads fewer bytes only at the end of `source`.
fn read_full(source: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(len) => filled += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
