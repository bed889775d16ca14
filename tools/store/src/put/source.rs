//! A source file of put that must not change while it is read.

use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::time::SystemTime;

/// Reads a regular file to its end, and fails there if the file was changed meanwhile. The bytes read are then neither
/// the old content nor the new one, and a truncated file would look whole.
#[derive(Debug)]
pub struct SourceFile {
    file: File,
    opened: Stamp,
    read: u64,
}

/// The metadata that change when a file is changed.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    modified: Option<SystemTime>,
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Stamp {
        Stamp {
            bytes: metadata.len(),
            // On a file system without such a time, only the length is compared.
            modified: metadata.modified().ok(),
        }
    }
}

impl SourceFile {
    /// Starts with a file of which no byte was read yet.
    ///
    /// # Errors
    /// If its metadata can't be read.
    pub fn new(file: File) -> io::Result<SourceFile> {
        let opened = Stamp::from(&file.metadata()?);
        Ok(SourceFile {
            file,
            opened,
            read: 0,
        })
    }

    /// Its length in bytes when it was opened.
    pub fn len(&self) -> u64 {
        self.opened.bytes
    }

    /// Whether it was empty when it was opened.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Starts again at its beginning.
    ///
    /// # Errors
    /// If it can't be read from there.
    pub fn rewind(&mut self) -> io::Result<()> {
        self.read = 0;
        self.file.seek(SeekFrom::Start(0)).map(drop)
    }

    fn check(&self) -> io::Result<()> {
        let now = Stamp::from(&self.file.metadata()?);
        if self.read == self.opened.bytes && now == self.opened {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "it was changed while it was read: {} bytes were read, it had {} and has {} now; put it again when nothing \
             writes to it",
            self.read, self.opened.bytes, now.bytes
        )))
    }
}

impl Read for SourceFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.read += count as u64;
        if count == 0 && !buffer.is_empty() {
            self.check()?;
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use super::*;

    const BYTES: usize = 100_000;

    /// Reads half of a file, lets `change` happen, and reads the rest.
    fn read_around(change: impl FnOnce(&mut File)) -> io::Result<usize> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[7; BYTES]).unwrap();
        let old = SystemTime::now() - Duration::from_secs(60);
        file.as_file().set_modified(old).unwrap();
        let mut source = SourceFile::new(file.reopen().unwrap()).unwrap();
        assert_eq!(source.len(), BYTES as u64);
        let mut half = vec![0; BYTES / 2];
        source.read_exact(&mut half).unwrap();
        change(file.as_file_mut());
        source.read_to_end(&mut Vec::new())
    }

    #[test]
    fn an_unchanged_file_is_read_to_its_end() {
        assert_eq!(read_around(|_| ()).unwrap(), BYTES / 2);
    }

    #[test]
    fn a_file_that_changes_is_an_error() {
        let truncate = |file: &mut File| file.set_len(BYTES as u64 / 2 + 1).unwrap();
        let grow = |file: &mut File| file.set_len(BYTES as u64 + 1).unwrap();
        let empty = |file: &mut File| file.set_len(0).unwrap();
        let rewrite = |file: &mut File| file.write_all(b"more").unwrap();
        let changes: [&dyn Fn(&mut File); 4] = [&truncate, &grow, &empty, &rewrite];
        for (number, change) in changes.into_iter().enumerate() {
            let error = read_around(|file| change(file)).unwrap_err();
            assert!(
                error.to_string().contains("changed while"),
                "{number}: {error}"
            );
        }
    }
}
