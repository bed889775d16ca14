//! What share files are asked beyond being read: whether they changed, what of them is in the page cache,
//! and to be sent from there.
//!
//! A piece lies in many runs of several files. One `sendfile` for each would send each by itself, as a packet
//! that the peer is woken for. So the runs are gathered in a pipe, by reference, and go to the socket together.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::{Advice, fadvise};

use super::{Cut, Socket, sys};
use crate::memory::limits::SPLICE_BYTES_AT_ONCE;

pub use sys::FileStamp;

/// What a file is now.
pub fn stamp(file: &File) -> io::Result<FileStamp> {
    sys::file_stamp(file.as_fd())
}

/// Tells the kernel that a file is mostly read from some place on: it reads twice as far ahead then (mm/fadvise.c).
/// Where it refuses, files are read all the same.
pub fn expect_streams(file: &File) {
    if let Err(error) = fadvise(file, 0, None, Advice::Sequential) {
        tracing::debug!(%error, "no advice is taken here");
    }
}

/// Opens a file once more, for direct reads: past the page cache, from the disk to where they are wanted (`O_DIRECT`,
/// open(2)).
///
/// # Errors
/// Where its file system can't do that, or there is no `/proc`.
pub fn open_direct(file: &File) -> io::Result<File> {
    // The same file, whatever its name stands for by now.
    let again = format!("/proc/self/fd/{}", file.as_raw_fd());
    File::options()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(again)
}

/// A way to learn what is in the page cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Way {
    /// `cachestat`, Linux 6.5. Later kernels allow it only for files that one owns or may write.
    #[default]
    Count,
    /// A look at the first and the last byte, by a read that does not wait for the disk.
    Touch,
    /// Neither works here, so nothing counts as there.
    None,
}

/// Asks the kernel what is in the page cache, in the best way that works.
#[derive(Debug, Default)]
pub(super) struct PageCache(Cell<Way>);

impl PageCache {
    /// Whether a range of a file, which is not empty, is in the page cache; `None` if the kernel does not say. To
    /// look for it would have what is missing read in.
    pub(super) fn knows(&self, file: &File, range: &Range<u64>) -> Option<bool> {
        if self.0.get() != Way::Count {
            return None;
        }
        match sys::cached_pages(file.as_fd(), range) {
            Ok((cached, all)) => Some(cached >= all),
            Err(_) => {
                self.0.set(Way::Touch);
                None
            }
        }
    }

    /// Whether a range of a file is in the page cache, as far as can be told without waiting. It may leave
    /// it at any time.
    pub(super) fn holds(&self, file: &File, range: Range<u64>) -> bool {
        if range.is_empty() {
            return true;
        }
        if let Some(holds) = self.knows(file, &range) {
            return holds;
        }
        if self.0.get() == Way::None {
            return false;
        }
        let touch = |at| match sys::read_cached_at(file.as_fd(), &mut [0], at) {
            Ok(count) => count == 1,
            Err(error) => {
                // Files of other file systems may be different, but stores are usually alike.
                if error.raw_os_error() == Some(libc::EOPNOTSUPP) {
                    self.0.set(Way::None);
                }
                false
            }
        };
        touch(range.start) && touch(range.end - 1)
    }
}

/// Gathers runs of files, to be sent together. No byte is copied: what it holds are references to pages of
/// the page cache.
pub struct Gatherer {
    reading: OwnedFd,
    writing: OwnedFd,
    /// Where what a socket did not take goes.
    nowhere: File,
    held: Cell<usize>,
}

impl Gatherer {
    /// One that holds at least `bytes`, if the kernel allows it.
    pub(super) fn new(bytes: usize) -> io::Result<Gatherer> {
        // A page for each 4 KiB, and as many again for runs that begin or end within one.
        let (reading, writing) = sys::pipe(2 * bytes)?;
        Ok(Gatherer {
            reading,
            writing,
            nowhere: File::options().write(true).open("/dev/null")?,
            held: Cell::new(0),
        })
    }

    /// Bytes gathered and not sent.
    pub fn held(&self) -> usize {
        self.held.get()
    }

    /// Adds up to `count` bytes from `offset` of `file`: 0 if it ends before them. A page that isn't in the
    /// page cache is read, and waited for.
    ///
    /// # Errors
    /// The file's; `WouldBlock` if there is no more room.
    pub fn add(&self, file: &File, offset: u64, count: usize) -> io::Result<usize> {
        let added = sys::splice(
            file.as_fd(),
            Some(offset),
            self.writing.as_fd(),
            count,
            false,
        )?;
        self.held.set(self.held.get() + added);
        Ok(added)
    }

    /// Sends what was gathered, as much of it as the socket takes now, in segments cut as `cut` says; the
    /// rest is forgotten.
    ///
    /// # Errors
    /// The connection's; `WouldBlock` if the socket takes nothing.
    pub fn send(&self, socket: &Socket, cut: Cut) -> io::Result<usize> {
        let result = cut.send(self.held.get(), |range| {
            let mut sent = 0;
            while sent < range.len() {
                let count = (range.len() - sent).min(SPLICE_BYTES_AT_ONCE as usize);
                let more = sent + count < range.len();
                let taken =
                    match sys::splice(self.reading.as_fd(), None, socket.as_fd(), count, more) {
                        Err(_) if sent > 0 => break,
                        taken => taken?,
                    };
                self.held.set(self.held.get() - taken);
                sent += taken;
                if taken < count {
                    break;
                }
            }
            Ok(sent)
        });
        self.clear()?;
        result
    }

    /// Forgets what was gathered.
    ///
    /// # Errors
    /// If the kernel does not give it back, which has no reason.
    pub fn clear(&self) -> io::Result<()> {
        while self.held.get() > 0 {
            let reading = self.reading.as_fd();
            match sys::splice(reading, None, self.nowhere.as_fd(), self.held.get(), false)? {
                0 => return Err(io::Error::other("a pipe holds less than was put into it")),
                gone => self.held.set(self.held.get().saturating_sub(gone)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    /// 100,000 bytes that were just written, and so are in the page cache.
    fn file() -> (File, Vec<u8>) {
        let bytes: Vec<u8> = (0..100_000u32).map(|i| (i * 7 / 3) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        (file, bytes)
    }

    #[test]
    fn what_was_just_written_is_in_the_page_cache_and_what_is_past_the_end_is_not() {
        let (file, bytes) = file();
        for way in [Way::Count, Way::Touch] {
            let cache = PageCache(Cell::new(way));
            assert!(cache.holds(&file, 0..bytes.len() as u64), "{way:?}");
            assert!(cache.holds(&file, 5000..5001), "{way:?}");
            assert!(cache.holds(&file, 5000..5000), "{way:?}");
            assert!(!cache.holds(&file, 90_000..200_000), "{way:?}");
        }
        assert!(!PageCache(Cell::new(Way::None)).holds(&file, 0..1));
    }

    #[test]
    fn a_stamp_shows_changes() {
        let (mut file, _) = file();
        let before = stamp(&file).unwrap();
        assert_eq!(before, stamp(&file).unwrap());
        assert_eq!(before.size, 100_000);
        file.set_len(5).unwrap();
        let cut = stamp(&file).unwrap();
        assert_eq!(cut.size, 5);
        // Another length each time, whatever the clock does.
        file.write_all(b"more").unwrap();
        assert_ne!(stamp(&file).unwrap(), cut);
    }

    #[test]
    fn runs_are_gathered_and_what_the_socket_does_not_take_is_forgotten() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        accepted.set_nonblocking(true).unwrap();
        let socket = Socket::from(socket2::Socket::from(accepted));
        let (file, bytes) = file();
        let gatherer = Gatherer::new(bytes.len()).unwrap();

        let mut wanted = Vec::new();
        for (offset, count) in [(1000, 20_000), (50_000, 3), (99_000, 1000)] {
            assert_eq!(gatherer.add(&file, offset as u64, count).unwrap(), count);
            wanted.extend_from_slice(&bytes[offset..offset + count]);
        }
        assert_eq!(
            gatherer.add(&file, 99_990, 100).unwrap(),
            10,
            "up to the end"
        );
        wanted.extend_from_slice(&bytes[99_990..]);
        assert_eq!(
            gatherer.add(&file, 100_000, 1).unwrap(),
            0,
            "behind the end"
        );
        assert_eq!(gatherer.held(), wanted.len());
        assert_eq!(gatherer.send(&socket, Cut::Whole).unwrap(), wanted.len());
        let mut got = vec![0; wanted.len()];
        peer.read_exact(&mut got).unwrap();
        assert!(got == wanted && gatherer.held() == 0);

        // Nobody reads.
        let mut taken = 0;
        loop {
            assert!(gatherer.add(&file, 0, 60_000).unwrap() > 0);
            let sent = gatherer.send(&socket, Cut::Whole);
            assert_eq!(gatherer.held(), 0);
            match sent {
                Ok(count) => taken += count,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    break;
                }
            }
        }
        // What was forgotten does not come with what is sent next.
        assert!(taken > 0);
        let mut got = vec![0; taken];
        peer.read_exact(&mut got).unwrap();
        assert_eq!(gatherer.add(&file, 7, 5).unwrap(), 5);
        assert_eq!(gatherer.send(&socket, Cut::Whole).unwrap(), 5);
        let mut got = [0; 5];
        peer.read_exact(&mut got).unwrap();
        assert_eq!(got, bytes[7..12]);

        // It never holds more than the kernel gives it.
        let added: usize = std::iter::from_fn(|| gatherer.add(&file, 0, bytes.len()).ok()).sum();
        assert_eq!((added >= bytes.len(), added), (true, gatherer.held()));
        drop(peer);
        let directory = tempfile::tempdir().unwrap();
        let not_a_file = File::open(directory.path()).unwrap();
        gatherer.clear().unwrap();
        assert!(gatherer.add(&not_a_file, 0, 10).is_err());
    }
}
