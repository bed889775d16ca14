//! The calls of the kernel, and how they are done on the backing directory.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{DirEntryExt, FileExt, MetadataExt};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, Mode, OFlags, SeekFrom, Timespec, Timestamps, fallocate, seek,
};

use super::shared::{Fault, Held, Node, Op, Shared, descriptor, open_path};

/// Nothing is believed for longer than one call.
const TTL: Duration = Duration::ZERO;

/// What FUSE passes on of lseek(2).
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

/// The file system that the kernel calls.
pub(super) struct Passthrough(pub(super) Arc<Shared>);

impl Shared {
    /// Makes a name in a directory known to the kernel.
    fn enter(&self, parent: &File, name: &OsStr) -> io::Result<FileAttr> {
        let file = open_path(Some(parent), name)?;
        let metadata = file.metadata()?;
        let mut nodes = self.nodes.lock().unwrap();
        // The root's own number in the kernel is 1, which no other file has.
        let node = nodes.entry(metadata.ino()).or_insert_with(|| Node {
            file: Arc::new(file),
            lookups: 0,
        });
        node.lookups += 1;
        Ok(attributes(&metadata, metadata.ino()))
    }

    fn keep(&self, file: File) -> FileHandle {
        let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
        self.files.lock().unwrap().insert(handle, Arc::new(file));
        FileHandle(handle)
    }

    fn open_flags(&self) -> FopenFlags {
        match self.bypass.load(Ordering::Relaxed) {
            true => FopenFlags::FOPEN_DIRECT_IO,
            false => FopenFlags::FOPEN_KEEP_CACHE,
        }
    }
}

impl Passthrough {
    /// Performs a call of this kind as the rules say: `job` does it, or answers the error.
    fn call(
        &self,
        request: &Request,
        op: Op,
        file: Option<&File>,
        job: impl FnOnce(&Shared, Result<(), Errno>) + Send + 'static,
    ) {
        let shared = Arc::clone(&self.0);
        shared.calls.fetch_add(1, Ordering::Relaxed);
        let mut delay = Duration::ZERO;
        let mut outcome = Ok(());
        let mut hangs = false;
        for fault in self.0.faults(op, file) {
            match fault {
                Fault::Hang => hangs = true,
                Fault::Error(error) => outcome = Err(error),
                Fault::Delay(time) => delay += time,
                // What is read says more of these.
                Fault::Flip(_) | Fault::Truncate(_) => {}
            }
        }
        if self.0.gone.load(Ordering::Relaxed) {
            (outcome, hangs) = (Err(Errno::EIO), false);
        }
        if hangs {
            // The job keeps no reference to what keeps it.
            let weak = Arc::downgrade(&shared);
            let job = Box::new(move |outcome| match weak.upgrade() {
                Some(shared) => job(&shared, outcome),
                None => drop(job),
            });
            let caller = request.pid();
            self.0.held.lock().unwrap().push(Held { caller, job });
        } else if delay > Duration::ZERO {
            thread::spawn(move || {
                thread::sleep(delay);
                job(&shared, outcome);
            });
        } else {
            job(&shared, outcome);
        }
    }

    /// As [`Passthrough::call`], of a directory.
    fn call_in(
        &self,
        request: &Request,
        op: Op,
        directory: INodeNo,
        job: impl FnOnce(&Shared, io::Result<Arc<File>>) + Send + 'static,
    ) {
        let file = self.0.node(directory);
        let known = file.as_ref().ok().map(Arc::clone);
        self.call(request, op, known.as_deref(), |shared, outcome| {
            job(shared, outcome.map_err(error_of).and(file));
        });
    }
}

fn error_of(errno: Errno) -> io::Error {
    io::Error::from_raw_os_error(errno.into())
}

/// Answers a call that has nothing to tell.
fn answer(reply: ReplyEmpty, result: io::Result<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error.into()),
    }
}

fn answer_entry(reply: ReplyEntry, result: io::Result<FileAttr>) {
    match result {
        Ok(attr) => reply.entry(&TTL, &attr, Generation(0)),
        Err(error) => reply.error(error.into()),
    }
}

impl Filesystem for Passthrough {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for wanted in [
            // What hangs in a directory holds up nothing else in it.
            InitFlags::FUSE_PARALLEL_DIROPS,
            // Pages of a file that was changed below are given up.
            InitFlags::FUSE_AUTO_INVAL_DATA,
        ] {
            let _ = config.add_capabilities(wanted);
        }
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.to_owned();
        self.call_in(request, Op::Lookup, parent, move |shared, directory| {
            answer_entry(reply, directory.and_then(|dir| shared.enter(&dir, &name)));
        });
    }

    fn forget(&self, _: &Request, inode: INodeNo, count: u64) {
        let mut nodes = self.0.nodes.lock().unwrap();
        if let Some(node) = nodes.get_mut(&inode.0) {
            node.lookups = node.lookups.saturating_sub(count);
            if node.lookups == 0 && inode != INodeNo::ROOT {
                nodes.remove(&inode.0);
            }
        }
    }

    fn getattr(&self, request: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.call_in(request, Op::GetAttr, inode, move |_, file| {
            match file.and_then(|file| file.metadata()) {
                Ok(metadata) => reply.attr(&TTL, &attributes(&metadata, inode.0)),
                Err(error) => reply.error(error.into()),
            }
        });
    }

    fn setattr(
        &self,
        request: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.call_in(request, Op::Change, inode, move |_, file| {
            let change = |file: &File| {
                let path = descriptor(file);
                if let Some(mode) = mode {
                    rustix::fs::chmod(&path, Mode::from_raw_mode(mode))?;
                }
                if uid.is_some() || gid.is_some() {
                    std::os::unix::fs::chown(&path, uid, gid)?;
                }
                if let Some(size) = size {
                    File::options().write(true).open(&path)?.set_len(size)?;
                }
                if atime.is_some() || mtime.is_some() {
                    let times = Timestamps {
                        last_access: timespec(atime),
                        last_modification: timespec(mtime),
                    };
                    rustix::fs::utimensat(CWD, &path, &times, AtFlags::empty())?;
                }
                file.metadata()
            };
            match file.and_then(|file| change(&file)) {
                Ok(metadata) => reply.attr(&TTL, &attributes(&metadata, inode.0)),
                Err(error) => reply.error(error.into()),
            }
        });
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let name = name.to_owned();
        self.call_in(request, Op::Create, parent, move |shared, directory| {
            let make = |dir: &File| {
                rustix::fs::mkdirat(dir, &name, Mode::from_raw_mode(mode & !umask))?;
                shared.enter(dir, &name)
            };
            answer_entry(reply, directory.and_then(|dir| make(&dir)));
        });
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(request, parent, name.to_owned(), AtFlags::empty(), reply);
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(request, parent, name.to_owned(), AtFlags::REMOVEDIR, reply);
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let target = self.0.node(new_parent);
        let (name, new_name) = (name.to_owned(), new_name.to_owned());
        self.call_in(request, Op::Change, parent, move |_, directory| {
            let flags = rustix::fs::RenameFlags::from_bits_retain(flags.bits());
            let rename = |from: &File, to: &File| {
                Ok(rustix::fs::renameat_with(
                    from, &name, to, &new_name, flags,
                )?)
            };
            let both = directory.and_then(|from| Ok((from, target?)));
            answer(reply, both.and_then(|(from, to)| rename(&from, &to)));
        });
    }

    fn open(&self, request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let op = match flags.acc_mode() {
            OpenAccMode::O_RDONLY => Op::Open,
            _ => Op::Write,
        };
        self.call_in(request, op, inode, move |shared, file| {
            match file.and_then(|file| reopen(&file, flags.0)) {
                Ok(file) => reply.opened(shared.keep(file), shared.open_flags()),
                Err(error) => reply.error(error.into()),
            }
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let name = name.to_owned();
        self.call_in(request, Op::Create, parent, move |shared, directory| {
            let create = |dir: &File| {
                let flags = passed_flags(flags) | OFlags::CREATE;
                let mode = Mode::from_raw_mode(mode & !umask);
                let file = File::from(rustix::fs::openat(dir, &name, flags, mode)?);
                Ok((shared.enter(dir, &name)?, file))
            };
            match directory.and_then(|dir| create(&dir)) {
                Ok((attr, file)) => {
                    let (handle, flags) = (shared.keep(file), shared.open_flags());
                    reply.created(&TTL, &attr, Generation(0), handle, flags);
                }
                Err(error) => reply.error(error.into()),
            }
        });
    }

    fn read(
        &self,
        request: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let file = self.0.file(handle);
        let known = file.as_ref().ok().map(Arc::clone);
        let faults = self.0.faults(Op::Read, known.as_deref());
        self.call(request, Op::Read, known.as_deref(), move |_, outcome| {
            let bytes = outcome.map_err(error_of).and_then(|()| {
                let mut bytes = read_at(&*file?, offset, size as usize)?;
                spoil(&mut bytes, offset, &faults);
                Ok(bytes)
            });
            match bytes {
                Ok(bytes) => reply.data(&bytes),
                Err(error) => reply.error(error.into()),
            }
        });
    }

    fn write(
        &self,
        request: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let file = self.0.file(handle);
        let known = file.as_ref().ok().map(Arc::clone);
        let data = data.to_vec();
        self.call(request, Op::Write, known.as_deref(), move |_, outcome| {
            let result = outcome
                .map_err(error_of)
                .and_then(|()| file?.write_all_at(&data, offset));
            match result {
                Ok(()) => reply.written(data.len() as u32),
                Err(error) => reply.error(error.into()),
            }
        });
    }

    // Where data and holes are; the kernel knows the other offsets itself.
    fn lseek(
        &self,
        request: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let file = self.0.file(handle);
        let known = file.as_ref().ok().map(Arc::clone);
        self.call(request, Op::Read, known.as_deref(), move |_, outcome| {
            let found = outcome.map_err(error_of).and_then(|()| {
                let from = u64::try_from(offset).map_err(|_| Errno::EINVAL);
                let to = match (from.map_err(error_of)?, whence) {
                    (from, SEEK_DATA) => SeekFrom::Data(from),
                    (from, SEEK_HOLE) => SeekFrom::Hole(from),
                    _ => return Err(error_of(Errno::EINVAL)),
                };
                Ok(seek(&*file?, to)?)
            });
            match found {
                Ok(found) => reply.offset(found as i64),
                Err(error) => reply.error(error.into()),
            }
        });
    }

    fn fallocate(
        &self,
        request: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let file = self.0.file(handle);
        let known = file.as_ref().ok().map(Arc::clone);
        self.call(request, Op::Write, known.as_deref(), move |_, outcome| {
            let mode = FallocateFlags::from_bits_retain(mode as u32);
            let done = outcome
                .map_err(error_of)
                .and_then(|()| Ok(fallocate(&*file?, mode, offset, length)?));
            answer(reply, done);
        });
    }

    fn fsync(&self, request: &Request, _: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        let file = self.0.file(handle);
        let known = file.as_ref().ok().map(Arc::clone);
        self.call(request, Op::Write, known.as_deref(), move |_, outcome| {
            let synced = outcome.map_err(error_of).and_then(|()| file?.sync_all());
            answer(reply, synced);
        });
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        // The kernel waits for no answer to this one.
        self.0.files.lock().unwrap().remove(&handle.0);
        reply.ok();
    }

    fn opendir(&self, request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.call_in(request, Op::ReadDir, inode, move |shared, file| match file
            .and_then(|file| reopen(&file, flags.0))
        {
            Ok(file) => reply.opened(shared.keep(file), FopenFlags::empty()),
            Err(error) => reply.error(error.into()),
        });
    }

    fn readdir(
        &self,
        request: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        self.call_in(
            request,
            Op::ReadDir,
            inode,
            move |_, directory| match directory.and_then(|directory| entries(&directory, inode)) {
                Ok(all) => {
                    for (at, (inode, kind, name)) in
                        all.into_iter().enumerate().skip(offset as usize)
                    {
                        if reply.add(inode, at as u64 + 1, kind, name) {
                            break;
                        }
                    }
                    reply.ok();
                }
                Err(error) => reply.error(error.into()),
            },
        );
    }

    fn releasedir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.0.files.lock().unwrap().remove(&handle.0);
        reply.ok();
    }

    fn fsyncdir(
        &self,
        request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.fsync(request, inode, handle, datasync, reply);
    }

    fn statfs(&self, request: &Request, inode: INodeNo, reply: ReplyStatfs) {
        self.call_in(request, Op::GetAttr, inode, move |_, file| {
            match file.and_then(|file| Ok(rustix::fs::statvfs(descriptor(&file))?)) {
                Ok(all) => reply.statfs(
                    all.f_blocks,
                    all.f_bfree,
                    all.f_bavail,
                    all.f_files,
                    all.f_ffree,
                    all.f_bsize as u32,
                    all.f_namemax as u32,
                    all.f_frsize as u32,
                ),
                Err(error) => reply.error(error.into()),
            }
        });
    }
}

impl Passthrough {
    fn remove(
        &self,
        request: &Request,
        parent: INodeNo,
        name: OsString,
        flags: AtFlags,
        reply: ReplyEmpty,
    ) {
        self.call_in(request, Op::Change, parent, move |_, directory| {
            let unlink = |dir: &File| Ok(rustix::fs::unlinkat(dir, &name, flags)?);
            answer(reply, directory.and_then(|dir| unlink(&dir)));
        });
    }
}

/// The flags of an open call that concern the file below.
fn passed_flags(flags: i32) -> OFlags {
    let own = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::DIRECT | OFlags::NOATIME;
    OFlags::from_bits_retain(flags as u32).difference(own) | OFlags::CLOEXEC
}

/// Opens what is open as a place only.
fn reopen(file: &File, flags: i32) -> io::Result<File> {
    let flags = passed_flags(flags);
    Ok(rustix::fs::open(descriptor(file), flags, Mode::empty())?.into())
}

fn timespec(time: Option<TimeOrNow>) -> Timespec {
    let special = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
    match time {
        None => special(rustix::fs::UTIME_OMIT),
        Some(TimeOrNow::Now) => special(rustix::fs::UTIME_NOW),
        Some(TimeOrNow::SpecificTime(time)) => {
            let since = time
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default();
            Timespec {
                tv_sec: since.as_secs() as i64,
                tv_nsec: i64::from(since.subsec_nanos()),
            }
        }
    }
}

/// What a directory holds, itself included.
fn entries(directory: &File, inode: INodeNo) -> io::Result<Vec<(INodeNo, FileType, OsString)>> {
    let mut all: Vec<_> = [".", ".."]
        .map(|name| (inode, FileType::Directory, name.into()))
        .into();
    for entry in fs::read_dir(descriptor(directory))? {
        let entry = entry?;
        let kind = FileType::from_std(entry.file_type()?).unwrap_or(FileType::RegularFile);
        all.push((INodeNo(entry.ino()), kind, entry.file_name()));
    }
    Ok(all)
}

fn read_at(file: &File, offset: u64, size: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; size];
    let mut done = 0;
    while done < size {
        match file.read_at(&mut bytes[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

/// Does to bytes that were read at `offset` what the rules say.
fn spoil(bytes: &mut Vec<u8>, offset: u64, faults: &[Fault]) {
    const PAGE: u64 = 4096;
    for fault in faults {
        match *fault {
            Fault::Flip(from) => {
                let first = offset.max(from).next_multiple_of(PAGE);
                for place in (first..offset + bytes.len() as u64).step_by(PAGE as usize) {
                    bytes[(place - offset) as usize] ^= 0x10;
                }
            }
            Fault::Truncate(end) => bytes.truncate(end.saturating_sub(offset) as usize),
            Fault::Hang | Fault::Error(_) | Fault::Delay(_) => {}
        }
    }
}

fn attributes(metadata: &Metadata, inode: u64) -> FileAttr {
    let time = |seconds: i64, nanos: i64| {
        SystemTime::UNIX_EPOCH + Duration::new(seconds.max(0) as u64, nanos as u32)
    };
    FileAttr {
        ino: INodeNo(inode),
        size: metadata.len(),
        blocks: metadata.blocks(),
        atime: time(metadata.atime(), metadata.atime_nsec()),
        mtime: time(metadata.mtime(), metadata.mtime_nsec()),
        ctime: time(metadata.ctime(), metadata.ctime_nsec()),
        crtime: SystemTime::UNIX_EPOCH,
        kind: FileType::from_std(metadata.file_type()).unwrap_or(FileType::RegularFile),
        perm: (metadata.mode() & 0o7777) as u16,
        nlink: metadata.nlink() as u32,
        uid: metadata.uid(),
        gid: metadata.gid(),
        rdev: metadata.rdev() as u32,
        blksize: 4096,
        flags: 0,
    }
}
