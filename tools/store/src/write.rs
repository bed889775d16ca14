//! Writes share files: blocks first, then the table, the header last, then a sync. The caller
//! renames them. Put uses this for all n shares, and repair for those it rebuilds.
//!
//! The table follows the blocks, so its offset is unknown until all blocks are written, and its
//! size has no bound. Finished pages therefore wait in a spool, an unlinked file that all shares
//! use: page p of the i-th share is at (p*shares + i)*4096. An object with fewer than 512 leaves
//! per share needs no spool.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use decode_kernel::share::{
    BLOCKS_OFFSET, Generation, Header, LeafChecksum, PAGE_BYTES, TABLE_PAGE_ENTRIES, TablePage,
};

use crate::error::{During, FileError};
use crate::temp::{TempFile, create_dir, tmp_dir, write_all_parts};

/// Pages copied from the spool by one write.
const TABLE_BATCH_PAGES: u64 = 64;

/// Several shares of one put while they are written.
pub(crate) struct NewShares {
    shares: Vec<NewShare>,
    spool: Spool,
    generation: Generation,
    leaf_checksum: LeafChecksum,
    leaf_bytes: usize,
}

struct NewShare {
    number: u16,
    temp: TempFile,
    /// Checksums for the page of the table that is being filled.
    entries: Vec<u64>,
    /// Pages of the table in the spool.
    pages: u64,
    /// Bytes of blocks written.
    written: u64,
}

struct Spool {
    dir: PathBuf,
    file: Option<File>,
    shares: u64,
}

impl NewShares {
    /// Starts with no shares. At most `shares` may be added. Finished table pages wait in an
    /// unlinked file of `spool_store`.
    pub(crate) fn new(
        spool_store: &Path,
        shares: usize,
        generation: Generation,
        leaf_checksum: LeafChecksum,
        leaf_bytes: u32,
    ) -> NewShares {
        NewShares {
            shares: Vec::with_capacity(shares),
            spool: Spool {
                dir: tmp_dir(spool_store),
                file: None,
                shares: shares as u64,
            },
            generation,
            leaf_checksum,
            leaf_bytes: leaf_bytes as usize,
        }
    }

    /// Starts share `number` in a temporary file of `store`.
    pub(crate) fn add(&mut self, store: &Path, number: u16) -> Result<(), FileError> {
        assert!(
            (self.shares.len() as u64) < self.spool.shares,
            "room for this share was not asked for"
        );
        let temp = TempFile::create(store)?;
        temp.file()
            .seek(SeekFrom::Start(BLOCKS_OFFSET))
            .during("seek in", temp.path())?;
        self.shares.push(NewShare {
            number,
            temp,
            entries: Vec::with_capacity(TABLE_PAGE_ENTRIES),
            pages: 0,
            written: 0,
        });
        Ok(())
    }

    /// Appends blocks or ranges of blocks to the `index`-th share. Each part begins at the start of
    /// a leaf, and every part but the share's last ends at the end of one.
    pub(crate) fn append(&mut self, index: usize, parts: &[&[u8]]) -> Result<(), FileError> {
        let share = &mut self.shares[index];
        write_all_parts(&mut share.temp.file(), parts).during("write", share.temp.path())?;
        for part in parts {
            debug_assert_eq!(
                share.written % self.leaf_bytes as u64,
                0,
                "only the last leaf is short"
            );
            share.written += part.len() as u64;
            for leaf in part.chunks(self.leaf_bytes) {
                share.entries.push(self.leaf_checksum.compute(leaf));
                if share.entries.len() == TABLE_PAGE_ENTRIES {
                    let page = TablePage::encode(
                        &self.generation,
                        share.number,
                        share.pages,
                        &share.entries,
                    );
                    self.spool.put(index, share.pages, &page)?;
                    share.pages += 1;
                    share.entries.clear();
                }
            }
        }
        Ok(())
    }

    /// Finishes the `index`-th share: padding, table, header (`header` with the share's own
    /// number), sync.
    ///
    /// # Panics
    /// If the number of bytes appended is not what `header` says.
    pub(crate) fn finish(&mut self, index: usize, header: &Header) -> Result<(), FileError> {
        let share = &self.shares[index];
        assert_eq!(
            share.written,
            header.geometry.share_bytes(),
            "share {}",
            share.number
        );
        share.write_table(index, header, &self.spool, &self.generation)?;
        let page = Header {
            number: share.number,
            ..header.clone()
        }
        .encode();
        let path = share.temp.path();
        share
            .temp
            .file()
            .write_all_at(&page[..], 0)
            .during("write", path)?;
        share.temp.file().sync_all().during("sync", path)
    }

    /// The finished files with their share numbers, in the order in which they were added.
    pub(crate) fn into_files(self) -> impl Iterator<Item = (u16, TempFile)> {
        self.shares
            .into_iter()
            .map(|share| (share.number, share.temp))
    }
}

impl NewShare {
    fn write_table(
        &self,
        index: usize,
        header: &Header,
        spool: &Spool,
        generation: &Generation,
    ) -> Result<(), FileError> {
        let (mut file, path) = (self.temp.file(), self.temp.path());
        let padding = header.geometry.table_offset() - BLOCKS_OFFSET - self.written;
        file.write_all(&[0; PAGE_BYTES][..padding as usize])
            .during("write", path)?;
        let mut batch =
            Vec::with_capacity((TABLE_BATCH_PAGES.min(self.pages) + 1) as usize * PAGE_BYTES);
        for page in 0..self.pages {
            spool.get(index, page, &mut batch)?;
            if (page + 1) % TABLE_BATCH_PAGES == 0 {
                file.write_all(&batch).during("write", path)?;
                batch.clear();
            }
        }
        if !self.entries.is_empty() {
            batch.extend(TablePage::encode(
                generation,
                self.number,
                self.pages,
                &self.entries,
            ));
        }
        file.write_all(&batch).during("write", path)
    }
}

impl Spool {
    fn put(&mut self, index: usize, page: u64, bytes: &[u8; PAGE_BYTES]) -> Result<(), FileError> {
        let offset = self.offset(index, page);
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                create_dir(&self.dir)?;
                let file =
                    tempfile::tempfile_in(&self.dir).during("create a spool in", &self.dir)?;
                self.file.insert(file)
            }
        };
        file.write_all_at(bytes, offset)
            .during("write a spool in", &self.dir)
    }

    fn get(&self, index: usize, page: u64, batch: &mut Vec<u8>) -> Result<(), FileError> {
        let at = batch.len();
        batch.resize(at + PAGE_BYTES, 0);
        let read = match &self.file {
            Some(file) => file.read_exact_at(&mut batch[at..], self.offset(index, page)),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        read.during("read a spool in", &self.dir)
    }

    fn offset(&self, index: usize, page: u64) -> u64 {
        (page * self.shares + index as u64) * PAGE_BYTES as u64
    }
}
