//! Sending ranges of files from the page cache.
//!
//! A piece lies in many runs of several files. One `sendfile` for each would send each by itself, as a packet
//! that the peer is woken for. So the runs are gathered in a pipe, by reference, and go to the socket together.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::socket::{Cut, Socket};
use super::sys;
use crate::memory::limits::SPLICE_BYTES_AT_ONCE;

pub use super::page_cache::{FileStamp, expect_streams, open_direct, stamp};

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
