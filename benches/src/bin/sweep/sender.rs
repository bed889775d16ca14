//! The sender: one readiness-driven thread that streams an object from its k data shares to many connections, by
//! `sendfile` or by read, verify and `sendmsg`. It does to a socket what the server does, and nothing else: no HTTP, no
//! catalogue, no claims.

use std::fs::File;
use std::io::IoSlice;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, ensure};
use core_affinity::CoreId;
use decode_kernel::share::{BLOCKS_OFFSET, Key, LeafChecksum, PAGE_BYTES, TablePage};
use penstock::connection::gate::{Admission, Gate};
use penstock::io::{SendSpace, socket_memory};
use penstock_benches::common::cpu::thread_time;
use penstock_benches::common::sink::PATIENCE;
use penstock_store::{Store, open_object};
use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::fs::sendfile;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};

use super::cells::Way;

/// Events taken at once.
const EVENTS: usize = 512;

/// The data shares of a healthy object, with the checksums of their leaves.
pub(super) struct Source {
    files: Vec<File>,
    leaf_checksum: LeafChecksum,
    /// Bytes of the object.
    bytes: u64,
    k: u64,
    block: u64,
    leaf: u64,
    /// By share, then leaf.
    checksums: Vec<Vec<u64>>,
}

/// The place of some of the object's bytes.
struct Place {
    share: usize,
    /// In the share's space of blocks.
    offset: u64,
    /// Bytes until the block ends.
    run: u64,
}

impl Source {
    /// Opens the object and reads its tables of checksums.
    pub(super) fn open(stores: &[PathBuf], key: &str) -> anyhow::Result<Source> {
        let object = open_object(&Store::directories(stores), &Key::new(key)?, false)?;
        let header = object.header;
        let geometry = header.geometry;
        let k = usize::from(geometry.k());
        let numbers = object.shares.iter().map(|share| usize::from(share.number));
        ensure!(
            numbers.take(k).eq(0..k) && geometry.size() % geometry.segment_bytes() == 0,
            "the sweep wants all data shares and whole segments"
        );
        let mut checksums = Vec::new();
        let mut files = Vec::new();
        for share in object.shares.into_iter().take(k) {
            let (file, _) = share.file.into_local().context("a file of a directory")?;
            let mut pages = vec![0; geometry.table_pages() as usize * PAGE_BYTES];
            file.read_exact_at(&mut pages, geometry.table_offset())?;
            let pages: Vec<TablePage<'_>> = (0..)
                .zip(pages.chunks_exact(PAGE_BYTES))
                .map(|(index, page)| {
                    TablePage::decode(&header.generation, share.number, index, page)
                })
                .collect::<Result<_, _>>()?;
            let of = |leaf| {
                let (page, entry) = geometry.table_page_of(leaf);
                pages[page as usize].entry(entry)
            };
            checksums.push((0..geometry.leaves()).map(of).collect());
            files.push(file);
        }
        Ok(Source {
            k: k as u64,
            block: u64::from(geometry.block_bytes()),
            leaf: u64::from(geometry.leaf_bytes()),
            checksums,
            bytes: geometry.size(),
            leaf_checksum: header.leaf_checksum,
            files,
        })
    }

    /// Bytes of the object.
    pub(super) fn size(&self) -> u64 {
        self.bytes
    }

    fn place(&self, position: u64) -> Place {
        let block = position / self.block;
        let inside = position % self.block;
        Place {
            share: (block % self.k) as usize,
            offset: block / self.k * self.block + inside,
            run: self.block - inside,
        }
    }

    /// The start position of connection `number` of `count`: spread over the object, like clients that came at
    /// different times.
    pub(super) fn start(&self, number: usize, count: usize) -> u64 {
        self.size() / count as u64 * number as u64
    }

    /// One turn by `sendfile`. Returns the new position.
    fn turn_sendfile(&self, socket: &TcpStream, from: u64, most: u64) -> Result<u64, Errno> {
        let mut position = from;
        let end = self.size().min(from + most);
        while position < end {
            let place = self.place(position);
            let wish = place.run.min(end - position);
            let mut offset = BLOCKS_OFFSET + place.offset;
            let file = &self.files[place.share];
            match sendfile(socket, file, Some(&mut offset), wish as usize) {
                Ok(count) => {
                    position += count as u64;
                    if (count as u64) < wish {
                        break;
                    }
                }
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(position % self.size())
    }

    /// One turn by copy: as much as the socket takes, up to `most`. Bytes that it does not take are produced again by a
    /// later turn. Returns the new position.
    fn turn_copy(
        &self,
        socket: &TcpStream,
        from: u64,
        most: u64,
        buffer: &mut Vec<u8>,
    ) -> anyhow::Result<u64> {
        let memory = socket_memory(socket.as_fd())?;
        let space = SendSpace {
            queued_bytes: memory.send_queue,
            buffer_bytes: memory.send_buffer,
        };
        let gate = Gate {
            piece_bytes_max: u32::try_from(most)?,
            credit_bytes_min: 0,
        };
        let Admission::Bytes(room) = gate.admit(space, self.size() - from, true) else {
            return Ok(from);
        };
        let end = from + u64::from(room);
        let windows = self.windows(from, end);
        let bytes: u64 = windows.iter().map(|(start, end)| end - start).sum();
        if buffer.len() < bytes as usize {
            buffer.resize(bytes as usize, 0);
        }
        let mut rest = &mut buffer[..];
        let mut read = Vec::with_capacity(windows.len());
        for (share, &(start, end)) in windows.iter().enumerate() {
            let (window, others) = rest.split_at_mut((end - start) as usize);
            rest = others;
            self.read(share, start, window)?;
            read.push(&*window);
        }
        let mut slices = Vec::new();
        let mut position = from;
        while position < end {
            let place = self.place(position);
            let run = place.run.min(end - position);
            let start = (place.offset - windows[place.share].0) as usize;
            slices.push(IoSlice::new(
                &read[place.share][start..start + run as usize],
            ));
            position += run;
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match sendmsg(socket, &slices, &mut SendAncillaryBuffer::default(), flags) {
            Ok(count) => Ok((from + count as u64) % self.size()),
            Err(Errno::AGAIN) => Ok(from),
            Err(error) => Err(error.into()),
        }
    }

    /// The ranges to read from each data share for the object's bytes from `from` to `end`, in whole leaves. They are
    /// contiguous, since blocks of neighbouring segments are neighbours in a share.
    fn windows(&self, from: u64, end: u64) -> Vec<(u64, u64)> {
        let (first, last) = (self.place(from), self.place(end - 1));
        let row = |place: &Place| place.offset / self.block * self.block;
        (0..self.k as usize)
            .map(|share| {
                let start = match share.cmp(&first.share) {
                    std::cmp::Ordering::Less => row(&first) + self.block,
                    std::cmp::Ordering::Equal => first.offset / self.leaf * self.leaf,
                    std::cmp::Ordering::Greater => row(&first),
                };
                let end = match share.cmp(&last.share) {
                    std::cmp::Ordering::Less => row(&last) + self.block,
                    std::cmp::Ordering::Equal => (last.offset + 1).next_multiple_of(self.leaf),
                    std::cmp::Ordering::Greater => row(&last),
                };
                (start, end.max(start))
            })
            .collect()
    }

    /// Reads whole leaves and verifies them.
    fn read(&self, share: usize, start: u64, window: &mut [u8]) -> anyhow::Result<()> {
        let file = &self.files[share];
        file.read_exact_at(window, BLOCKS_OFFSET + start)?;
        let checksum = self.leaf_checksum;
        let expected = &self.checksums[share][(start / self.leaf) as usize..];
        for (leaf, &expected) in window.chunks(self.leaf as usize).zip(expected) {
            ensure!(
                checksum.compute(leaf) == expected,
                "share {share} is damaged"
            );
        }
        Ok(())
    }
}

/// A thread that sends until told to stop.
pub(super) struct Sender {
    stop: Arc<AtomicBool>,
    turns: Arc<AtomicU64>,
    /// In nanoseconds.
    cpu: Arc<AtomicU64>,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Sender {
    /// Streams the object over and over to each of `sockets`, from the position beside it, on `core`.
    pub(super) fn start(
        source: Arc<Source>,
        way: Way,
        turn: u32,
        mut sockets: Vec<(TcpStream, u64)>,
        core: usize,
    ) -> anyhow::Result<Sender> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for ((socket, _), number) in sockets.iter().zip(0..) {
            socket.set_nonblocking(true)?;
            let data = epoll::EventData::new_u64(number);
            epoll::add(&epoll, socket, data, epoll::EventFlags::OUT)?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let (turns, cpu) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let shared = (Arc::clone(&stop), Arc::clone(&turns), Arc::clone(&cpu));
        let thread = std::thread::spawn(move || {
            let (stop, turns, cpu) = shared;
            ensure!(
                core_affinity::set_for_current(CoreId { id: core }),
                "can't pin the sender to core {core}"
            );
            let mut events = Vec::with_capacity(EVENTS);
            let mut buffer = Vec::new();
            while !stop.load(Relaxed) {
                events.clear();
                match epoll::wait(&epoll, spare_capacity(&mut events), Some(&PATIENCE)) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
                for event in &events {
                    let (socket, position) = &mut sockets[event.data.u64() as usize];
                    let most = u64::from(turn);
                    let sent = match way {
                        Way::Sendfile => source
                            .turn_sendfile(socket, *position, most)
                            .map_err(Into::into),
                        Way::Copy => source.turn_copy(socket, *position, most, &mut buffer),
                    };
                    match sent {
                        Ok(new) => *position = new,
                        // The clients close once they have measured enough.
                        Err(_) if stop.load(Relaxed) => return Ok(()),
                        Err(error) => return Err(error).context("sending"),
                    }
                }
                turns.fetch_add(events.len() as u64, Relaxed);
                cpu.store(thread_time().as_nanos() as u64, Relaxed);
            }
            Ok(())
        });
        Ok(Sender {
            stop,
            turns,
            cpu,
            thread,
        })
    }

    /// Turns taken and CPU time used so far.
    pub(super) fn progress(&self) -> (u64, Duration) {
        let cpu = Duration::from_nanos(self.cpu.load(Relaxed));
        (self.turns.load(Relaxed), cpu)
    }

    /// Tells the sender to stop; to be called before the clients close.
    pub(super) fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    /// Waits until it has stopped.
    pub(super) fn finish(self) -> anyhow::Result<()> {
        self.stop();
        self.thread
            .join()
            .map_err(|_| anyhow::anyhow!("the sender panicked"))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_benches::common::{object, sink};
    use std::net::TcpListener;

    #[test]
    fn both_ways_send_the_object_from_any_position() {
        let directory = tempfile::tempdir().unwrap();
        let plain = directory.path().join("plain");
        let size = 4 * 4 * (16 << 10);
        object::write_plain(&plain, size, 5).unwrap();
        let coded = object::put(&plain, "x", [4, 2], 16 << 10, directory.path()).unwrap();
        let source = Arc::new(Source::open(&coded.stores, "x").unwrap());
        let expected = std::fs::read(&plain).unwrap();
        let core = core_affinity::get_core_ids().unwrap()[0].id;
        for way in Way::ALL {
            for (start, turn) in [(0, 64 << 10), (1, 5_000), (70_001, 200_000), (size - 1, 1)] {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                let socket = listener.accept().unwrap().0;
                let sender =
                    Sender::start(Arc::clone(&source), way, turn, vec![(socket, start)], core)
                        .unwrap();
                let cycle = [&expected[start as usize..], &expected[..start as usize]].concat();
                sink::compare(&mut client, &cycle)
                    .unwrap_or_else(|e| panic!("{way:?} from {start} by {turn}: {e}"));
                sender.stop();
                drop(client);
                sender.finish().unwrap();
            }
        }
    }

    #[test]
    fn a_damaged_share_is_noticed_by_copy() {
        let directory = tempfile::tempdir().unwrap();
        let plain = directory.path().join("plain");
        object::write_plain(&plain, 4 * (16 << 10), 5).unwrap();
        let coded = object::put(&plain, "x", [4, 2], 16 << 10, directory.path()).unwrap();
        let stores = Store::directories(&coded.stores);
        let object = open_object(&stores, &Key::new("x").unwrap(), false).unwrap();
        let source = Source::open(&coded.stores, "x").unwrap();
        let mut leaf = vec![0; 4096];
        source.read(1, 4096, &mut leaf).unwrap();
        let file = File::options()
            .write(true)
            .open(&object.shares[1].path)
            .unwrap();
        file.write_all_at(b"damage", BLOCKS_OFFSET + 5000).unwrap();
        assert!(source.read(1, 4096, &mut leaf).is_err());
        source.read(1, 8192, &mut leaf).unwrap();
    }
}
