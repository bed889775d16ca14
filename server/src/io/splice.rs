//! Sending file ranges from the page cache without copying them.
//!
//! A piece lies in many ranges of several files. One `sendfile` for each would send each as a packet of its own, and
//! wake the peer for it. So references to the pages are collected in a pipe and spliced to the socket together.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::socket::{Segmentation, Socket};
use super::sys;
use crate::memory::limits::SPLICE_BYTES_AT_ONCE;
use crate::units::FileOffset;

/// A pipe from files to sockets. It holds references to pages of the page cache, and no bytes of its own.
pub struct SplicePipe {
    reading: OwnedFd,
    writing: OwnedFd,
    /// `/dev/null`, where bytes go that a socket did not take.
    null: File,
    held_bytes: Cell<usize>,
}

impl SplicePipe {
    /// Makes a pipe for at least `bytes`, if the kernel allows one so large.
    pub(super) fn new(bytes: usize) -> io::Result<SplicePipe> {
        // A page for each 4 KiB, and as many again for ranges that begin or end within one.
        let (reading, writing) = sys::pipe(2 * bytes)?;
        Ok(SplicePipe {
            reading,
            writing,
            null: File::options().write(true).open("/dev/null")?,
            held_bytes: Cell::new(0),
        })
    }

    /// Bytes in the pipe.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes.get()
    }

    /// Splices up to `count` bytes from `offset` of `file` into the pipe. Returns how many, 0 at the end of the file. A
    /// page that is not in the page cache is read, which blocks.
    ///
    /// # Errors
    /// The file's; `WouldBlock` if the pipe is full.
    pub fn splice_from(&self, file: &File, offset: FileOffset, count: usize) -> io::Result<usize> {
        let writing = self.writing.as_fd();
        let added = sys::splice(file.as_fd(), Some(offset.0), writing, count, false)?;
        self.held_bytes.set(self.held_bytes.get() + added);
        Ok(added)
    }

    /// Splices as much of the pipe to a socket as it takes now, and discards the rest.
    ///
    /// # Errors
    /// The connection's; `WouldBlock` if the socket takes nothing.
    pub fn splice_to(&self, socket: &Socket, segmentation: Segmentation) -> io::Result<usize> {
        let result = segmentation.send(self.held_bytes.get(), |range| {
            let mut sent = 0;
            while sent < range.len() {
                let count = (range.len() - sent).min(SPLICE_BYTES_AT_ONCE as usize);
                let more = sent + count < range.len();
                let reading = self.reading.as_fd();
                let taken = match sys::splice(reading, None, socket.as_fd(), count, more) {
                    Err(_) if sent > 0 => break,
                    taken => taken?,
                };
                self.held_bytes.set(self.held_bytes.get() - taken);
                sent += taken;
                if taken < count {
                    break;
                }
            }
            Ok(sent)
        });
        self.discard()?;
        result
    }

    /// Empties the pipe.
    ///
    /// # Errors
    /// If the kernel does not give back what it holds, which it has no reason for.
    pub fn discard(&self) -> io::Result<()> {
        while self.held_bytes.get() > 0 {
            let (reading, held) = (self.reading.as_fd(), self.held_bytes.get());
            match sys::splice(reading, None, self.null.as_fd(), held, false)? {
                0 => return Err(io::Error::other("a pipe holds less than was put into it")),
                gone => self.held_bytes.set(held.saturating_sub(gone)),
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
    fn ranges_are_sent_together_and_bytes_that_the_socket_does_not_take_are_discarded() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        accepted.set_nonblocking(true).unwrap();
        let socket = Socket::from(socket2::Socket::from(accepted));
        let (file, bytes) = file();
        let pipe = SplicePipe::new(bytes.len()).unwrap();

        let mut wanted = Vec::new();
        for (offset, count) in [(1000, 20_000), (50_000, 3), (99_000, 1000)] {
            assert_eq!(
                pipe.splice_from(&file, FileOffset(offset as u64), count)
                    .unwrap(),
                count
            );
            wanted.extend_from_slice(&bytes[offset..offset + count]);
        }
        assert_eq!(
            pipe.splice_from(&file, FileOffset(99_990), 100).unwrap(),
            10,
            "up to the end"
        );
        wanted.extend_from_slice(&bytes[99_990..]);
        assert_eq!(
            pipe.splice_from(&file, FileOffset(100_000), 1).unwrap(),
            0,
            "past the end"
        );
        assert_eq!(pipe.held_bytes(), wanted.len());
        assert_eq!(
            pipe.splice_to(&socket, Segmentation::ByKernel).unwrap(),
            wanted.len()
        );
        let mut got = vec![0; wanted.len()];
        peer.read_exact(&mut got).unwrap();
        assert!(got == wanted && pipe.held_bytes() == 0);

        // The peer does not read.
        let mut taken = 0;
        loop {
            assert!(pipe.splice_from(&file, FileOffset(0), 60_000).unwrap() > 0);
            let sent = pipe.splice_to(&socket, Segmentation::ByKernel);
            assert_eq!(pipe.held_bytes(), 0);
            match sent {
                Ok(count) => taken += count,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    break;
                }
            }
        }
        // Discarded bytes do not come with the next ones.
        assert!(taken > 0);
        let mut got = vec![0; taken];
        peer.read_exact(&mut got).unwrap();
        assert_eq!(pipe.splice_from(&file, FileOffset(7), 5).unwrap(), 5);
        assert_eq!(pipe.splice_to(&socket, Segmentation::ByKernel).unwrap(), 5);
        let mut got = [0; 5];
        peer.read_exact(&mut got).unwrap();
        assert_eq!(got, bytes[7..12]);

        // It never holds more than the pipe does.
        let added: usize =
            std::iter::from_fn(|| pipe.splice_from(&file, FileOffset(0), bytes.len()).ok()).sum();
        assert_eq!((added >= bytes.len(), added), (true, pipe.held_bytes()));
        drop(peer);
        let directory = tempfile::tempdir().unwrap();
        let not_a_file = File::open(directory.path()).unwrap();
        pipe.discard().unwrap();
        assert!(pipe.splice_from(&not_a_file, FileOffset(0), 10).is_err());
    }
}
