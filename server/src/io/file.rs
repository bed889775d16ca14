//! What share files are asked beyond being read: whether they changed, what of them is in the page cache,
//! and to be sent from there.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;

use super::{Socket, sys};

pub use sys::FileStamp;

/// What a file is now.
pub fn stamp(file: &File) -> io::Result<FileStamp> {
    sys::file_stamp(file.as_fd())
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
    /// Whether a range of a file is in the page cache, as far as can be told without waiting. It may leave
    /// it at any time.
    pub(super) fn holds(&self, file: &File, range: Range<u64>) -> bool {
        if range.is_empty() {
            return true;
        }
        if self.0.get() == Way::Count {
            match sys::is_cached(file.as_fd(), &range) {
                Ok(all) => return all,
                Err(_) => self.0.set(Way::Touch),
            }
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

/// What came of sending from a file.
#[derive(Debug)]
pub enum FromFile {
    /// The socket took so many bytes; 0 if the file ends before them.
    Sent(usize),
    /// The socket takes nothing now.
    Full,
    /// The file can't be sent from, or not here.
    Refused(io::Error),
}

/// Sends up to `count` bytes from `offset` of `file` (sendfile(2)) without waiting for the socket.
///
/// # Errors
/// The connection's.
pub fn send(socket: &Socket, file: &File, offset: u64, count: usize) -> io::Result<FromFile> {
    match sys::send_file(socket.as_fd(), file.as_fd(), offset, count) {
        Ok(count) => Ok(FromFile::Sent(count)),
        Err(error) => match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EINTR) => Ok(FromFile::Full),
            Some(
                libc::EIO
                | libc::EINVAL
                | libc::ENOMEM
                | libc::EOVERFLOW
                | libc::ENOSYS
                | libc::ESTALE,
            ) => Ok(FromFile::Refused(error)),
            _ => Err(error),
        },
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
    fn a_file_goes_into_a_socket_until_one_of_them_ends() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        accepted.set_nonblocking(true).unwrap();
        let socket = Socket::from(socket2::Socket::from(accepted));
        let (file, bytes) = file();

        let sent = match send(&socket, &file, 1000, 2000).unwrap() {
            FromFile::Sent(count) => count,
            other => panic!("{other:?}"),
        };
        let mut got = vec![0; sent];
        peer.read_exact(&mut got).unwrap();
        assert!(sent > 0 && got == bytes[1000..1000 + sent]);
        let end = send(&socket, &file, bytes.len() as u64, 10).unwrap();
        assert!(matches!(end, FromFile::Sent(0)), "{end:?}");

        // Nobody reads.
        let mut taken = 0;
        loop {
            match send(&socket, &file, 0, bytes.len()).unwrap() {
                FromFile::Sent(count) => taken += count,
                FromFile::Full => break,
                other => panic!("{other:?}"),
            }
        }
        assert!(taken > 0);
        let directory = tempfile::tempdir().unwrap();
        let not_a_file = File::open(directory.path()).unwrap();
        let refused = send(&socket, &not_a_file, 0, 10).unwrap();
        assert!(!matches!(refused, FromFile::Sent(1..)), "{refused:?}");
    }
}
