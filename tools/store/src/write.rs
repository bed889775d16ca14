//! Writes share files: blocks first, then the table, the header last, then a sync. The caller
//! renames them. Put uses this for all n shares, and repair for those it rebuilds.
//!
//! The table follows the blocks, so its offset is unknown until all blocks are written, and its
//! size has no bound. Finished pages therefore wait in a spool, an unlinked file of this machine. A
//! share with fewer than 512 leaves needs no spool.
//!
//! A store that fails costs its own share: the first error of a share is kept, and the others go on.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use decode_kernel::share::{
    BLOCKS_OFFSET, Generation, Header, LeafChecksum, PAGE_BYTES, TABLE_PAGE_ENTRIES, TablePage,
};

use crate::error::{During, FileError};
use crate::new_file::{NewFile, spool};
use crate::parallel;
use crate::store::Store;

/// Pages copied from the spool by one write.
const TABLE_BATCH_PAGES: u64 = 64;

/// Several shares of one put while they are written.
pub(crate) struct NewShares {
    shares: Vec<NewShare>,
    generation: Generation,
    leaf_checksum: LeafChecksum,
    leaf_bytes: usize,
}

struct NewShare {
    number: u16,
    file: NewFile,
    /// What its store failed with; nothing is written from then on.
    failed: Option<FileError>,
    spool: Spool,
    /// Checksums for the page of the table that is being filled.
    entries: Vec<u64>,
    /// Pages of the table in the spool.
    pages: u64,
    /// Bytes of blocks written.
    written: u64,
}

struct Spool {
    store: Store,
    file: Option<File>,
}

impl NewShares {
    /// Starts with no shares.
    pub(crate) fn new(
        generation: Generation,
        leaf_checksum: LeafChecksum,
        leaf_bytes: u32,
    ) -> NewShares {
        NewShares {
            shares: Vec::new(),
            generation,
            leaf_checksum,
            leaf_bytes: leaf_bytes as usize,
        }
    }

    /// Starts share `number`, a file of `store` that will be `path` and have about so many bytes.
    pub(crate) fn add(
        &mut self,
        store: &Store,
        number: u16,
        path: PathBuf,
        bytes: u64,
    ) -> Result<(), FileError> {
        self.shares.push(NewShare {
            number,
            file: NewFile::create(store, path, bytes)?,
            failed: None,
            spool: Spool {
                store: store.clone(),
                file: None,
            },
            entries: Vec::with_capacity(TABLE_PAGE_ENTRIES),
            pages: 0,
            written: 0,
        });
        Ok(())
    }

    /// Their numbers, in the order in which they were added.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u16> {
        self.shares.iter().map(|share| share.number)
    }

    /// The number of shares that go on.
    pub(crate) fn live(&self) -> usize {
        self.shares
            .iter()
            .filter(|share| share.failed.is_none())
            .count()
    }

    /// Appends blocks or ranges of blocks to the `index`-th share. Each part begins at the start of
    /// a leaf, and every part but the share's last ends at the end of one.
    pub(crate) fn append(&mut self, index: usize, parts: &[&[u8]]) {
        let share = &mut self.shares[index];
        if share.failed.is_none() {
            let appended =
                share.append(parts, &self.generation, self.leaf_checksum, self.leaf_bytes);
            share.failed = appended.err();
        }
    }

    /// Finishes all shares: padding, table, header (`header` with the share's own number), sync.
    ///
    /// # Panics
    /// If the number of bytes appended is not what `header` says.
    pub(crate) fn finish(&mut self, header: &Header) {
        let live = self.shares.iter_mut();
        let live = live.filter(|share| share.failed.is_none()).collect();
        parallel::each(live, |share: &mut NewShare| {
            share.failed = share.finish(header).err();
        });
    }

    /// The files with their share numbers, in the order in which they were added; an error for each that failed.
    pub(crate) fn into_files(self) -> impl Iterator<Item = (u16, Result<NewFile, FileError>)> {
        self.shares.into_iter().map(|share| {
            let file = match share.failed {
                None => Ok(share.file),
                Some(error) => Err(error),
            };
            (share.number, file)
        })
    }
}

impl NewShare {
    fn append(
        &mut self,
        parts: &[&[u8]],
        generation: &Generation,
        leaf_checksum: LeafChecksum,
        leaf_bytes: usize,
    ) -> Result<(), FileError> {
        self.file.append(parts)?;
        for part in parts {
            debug_assert_eq!(
                self.written % leaf_bytes as u64,
                0,
                "only the last leaf is short"
            );
            self.written += part.len() as u64;
            for leaf in part.chunks(leaf_bytes) {
                self.entries.push(leaf_checksum.compute(leaf));
                if self.entries.len() == TABLE_PAGE_ENTRIES {
                    let page =
                        TablePage::encode(generation, self.number, self.pages, &self.entries);
                    self.spool.put(self.pages, &page)?;
                    self.pages += 1;
                    self.entries.clear();
                }
            }
        }
        Ok(())
    }

    fn finish(&mut self, header: &Header) -> Result<(), FileError> {
        assert_eq!(
            self.written,
            header.geometry.share_bytes(),
            "share {}",
            self.number
        );
        self.write_table(header)?;
        let page = Header {
            number: self.number,
            ..header.clone()
        }
        .encode();
        self.file.finish(&page)
    }

    fn write_table(&mut self, header: &Header) -> Result<(), FileError> {
        let padding = header.geometry.table_offset() - BLOCKS_OFFSET - self.written;
        self.file.append(&[&[0; PAGE_BYTES][..padding as usize]])?;
        let mut batch =
            Vec::with_capacity((TABLE_BATCH_PAGES.min(self.pages) + 1) as usize * PAGE_BYTES);
        for page in 0..self.pages {
            self.spool.get(page, &mut batch)?;
            if (page + 1) % TABLE_BATCH_PAGES == 0 {
                self.file.append(&[&batch])?;
                batch.clear();
            }
        }
        if !self.entries.is_empty() {
            batch.extend(TablePage::encode(
                &header.generation,
                self.number,
                self.pages,
                &self.entries,
            ));
        }
        self.file.append(&[&batch])
    }
}

impl Spool {
    fn put(&mut self, page: u64, bytes: &[u8; PAGE_BYTES]) -> Result<(), FileError> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(spool(&self.store)?),
        };
        file.write_all_at(bytes, page * PAGE_BYTES as u64)
            .during("write a spool of", self.store.path())
    }

    fn get(&self, page: u64, batch: &mut Vec<u8>) -> Result<(), FileError> {
        let at = batch.len();
        batch.resize(at + PAGE_BYTES, 0);
        let read = match &self.file {
            Some(file) => file.read_exact_at(&mut batch[at..], page * PAGE_BYTES as u64),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        read.during("read a spool of", self.store.path())
    }
}
