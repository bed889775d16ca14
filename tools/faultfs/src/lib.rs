//! A file system that fails when a test or a benchmark says so: a directory, passed through FUSE, with rules that the test
//! changes while the server under test has it as a store.
//!
//! A call that hangs is kept, and holds up no other: the test's [`FaultFs::heal`] answers it, and so does the end of the
//! mount. The kernel lets no process end while FUSE has a call of it that is not answered, which disks and network file
//! systems do (they wait killably). So a call whose caller is being killed is answered, too. That needs a test process
//! that lives: a test must not itself make a call that hangs.
//!
//! Attributes and names are not cached, so that a rule counts from the next call on. Pages are, as those of a disk, unless
//! [`FaultFs::bypass_page_cache`] says otherwise.

mod passthrough;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::Duration;

pub use fuser::Errno;
use fuser::{BackgroundSession, Config, FileHandle, INodeNo, MountOption};
use passthrough::Passthrough;
use rustix::fs::{Access, CWD, Mode, OFlags};

/// A kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// A name is looked up.
    Lookup,
    /// Attributes are asked for.
    GetAttr,
    /// A file is opened.
    Open,
    /// A directory is opened or read.
    ReadDir,
    /// Bytes of a file are read.
    Read,
    /// Bytes are written, a file is opened for that, or what is written is synced.
    Write,
    /// A file or a directory is made.
    Create,
    /// A name is removed or changed, or attributes are.
    Change,
}

impl Op {
    /// Every call.
    pub const ALL: &[Op] = &[
        Op::Lookup,
        Op::GetAttr,
        Op::Open,
        Op::ReadDir,
        Op::Read,
        Op::Write,
        Op::Create,
        Op::Change,
    ];
    /// The calls that change something.
    pub const WRITES: &[Op] = &[Op::Write, Op::Create, Op::Change];
}

/// What happens to a call.
#[derive(Clone, Debug)]
enum Fault {
    /// It is not answered.
    Hang,
    /// It fails.
    Error(Errno),
    /// It takes this long.
    Delay(Duration),
    /// A bit of every page of what is read from this offset on is flipped. Metadata stay as they are.
    Flip(u64),
    /// Reads end here. Metadata stay as they are.
    Truncate(u64),
}

#[derive(Clone, Debug)]
struct Rule {
    ops: Vec<Op>,
    fault: Fault,
    /// Only of files whose path holds this text.
    path: Option<String>,
}

/// A mounted file system. Dropped, it is gone, whatever hangs.
pub struct FaultFs {
    shared: Arc<Shared>,
    mountpoint: PathBuf,
    backing: PathBuf,
    session: Option<BackgroundSession>,
}

/// Mounts `backing` at `mountpoint`, an empty directory.
///
/// # Errors
/// Why nothing can be mounted here.
pub fn mount(backing: &Path, mountpoint: &Path) -> Result<FaultFs, String> {
    let why = |what: &str, error: &dyn std::fmt::Display| format!("{what}: {error}");
    let root =
        open_path(None, backing.as_os_str()).map_err(|e| why("the backing directory", &e))?;
    let device = Path::new("/dev/fuse");
    if !device.exists() {
        return Err("there is no /dev/fuse".to_owned());
    }
    // Found out beforehand, since fuser says no more than that a file is missing.
    let may_open = rustix::fs::access(device, Access::READ_OK | Access::WRITE_OK).is_ok();
    let helper = Command::new("fusermount3")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !rustix::process::geteuid().is_root() && (!may_open || helper.is_err()) {
        return Err("/dev/fuse can't be opened, or there is no fusermount3".to_owned());
    }
    let shared = Arc::new(Shared::new(root));
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("faultfs".to_owned())];
    // What hangs is put aside, so that few threads do.
    config.n_threads = Some(2);
    let session = fuser::spawn_mount(Passthrough(Arc::clone(&shared)), mountpoint, &config)
        .map_err(|error| why("FUSE can't be mounted", &error))?;
    let watched = Arc::downgrade(&shared);
    thread::spawn(move || answer_the_killed(&watched));
    Ok(FaultFs {
        shared,
        mountpoint: mountpoint.to_owned(),
        backing: backing.to_owned(),
        session: Some(session),
    })
}

impl FaultFs {
    /// Calls of these kinds hang until [`FaultFs::heal`].
    pub fn hang(&self, ops: &[Op]) {
        self.rule(ops, None, Fault::Hang);
    }

    /// As [`FaultFs::hang`], for paths that hold this text.
    pub fn hang_at(&self, ops: &[Op], path: &str) {
        self.rule(ops, Some(path), Fault::Hang);
    }

    /// Calls of these kinds fail.
    pub fn fail(&self, ops: &[Op], error: Errno) {
        self.rule(ops, None, Fault::Error(error));
    }

    /// As [`FaultFs::fail`], for paths that hold this text.
    pub fn fail_at(&self, ops: &[Op], path: &str, error: Errno) {
        self.rule(ops, Some(path), Fault::Error(error));
    }

    /// Nothing can be changed.
    pub fn read_only(&self) {
        self.fail(Op::WRITES, Errno::EROFS);
    }

    /// Calls of these kinds take this long, each.
    pub fn delay(&self, ops: &[Op], time: Duration) {
        self.rule(ops, None, Fault::Delay(time));
    }

    /// A bit of every page is wrong in what is read from `offset` of any file on. Pages in the cache stay right: see
    /// [`FaultFs::evict`].
    pub fn flip_bits_from(&self, offset: u64) {
        self.rule(&[Op::Read], None, Fault::Flip(offset));
    }

    /// Reads give nothing from `offset` on.
    pub fn truncate_reads(&self, offset: u64) {
        self.rule(&[Op::Read], None, Fault::Truncate(offset));
    }

    /// Files opened from now on are read and written past the page cache.
    pub fn bypass_page_cache(&self, bypass: bool) {
        self.shared.bypass.store(bypass, Ordering::Relaxed);
    }

    /// Ends all rules, and answers what hangs.
    pub fn heal(&self) {
        self.shared.rules.lock().unwrap().clear();
        self.shared.answer_all(None);
    }

    /// Calls that hang now.
    pub fn hanging(&self) -> usize {
        self.shared.held.lock().unwrap().len()
    }

    /// Calls so far, answered or not. What the kernel has cached makes none.
    pub fn calls(&self) -> u64 {
        self.shared.calls.load(Ordering::Relaxed)
    }

    /// Takes the pages of all files out of the page cache, but those in use. It opens each file, so no rule may keep it
    /// from that.
    pub fn evict(&self) {
        let mut directories = vec![PathBuf::new()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(self.backing.join(&directory)).unwrap() {
                let entry = entry.unwrap();
                let path = directory.join(entry.file_name());
                if entry.file_type().unwrap().is_dir() {
                    directories.push(path);
                } else {
                    let file = File::open(self.mountpoint.join(path)).unwrap();
                    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
                }
            }
        }
    }

    /// The mount goes away, like a disk that is pulled: what is open fails, and the empty mount point is left.
    pub fn unmount(&mut self) {
        if let Some(session) = self.session.take() {
            self.shared.gone.store(true, Ordering::Relaxed);
            unmount(&self.mountpoint);
            self.shared.rules.lock().unwrap().clear();
            self.shared.answer_all(Some(Errno::EIO));
            // Its threads end when the last open file is closed, which may be after this test.
            drop(session);
        }
    }

    /// Mounts the same again at the same place, without its rules, after [`FaultFs::unmount`].
    ///
    /// # Errors
    /// Why it can't be mounted.
    pub fn mount_again(&self) -> Result<FaultFs, String> {
        mount(&self.backing, &self.mountpoint)
    }

    fn rule(&self, ops: &[Op], path: Option<&str>, fault: Fault) {
        self.shared.rules.lock().unwrap().push(Rule {
            ops: ops.to_vec(),
            path: path.map(str::to_owned),
            fault,
        });
    }
}

impl Drop for FaultFs {
    fn drop(&mut self) {
        self.unmount();
    }
}

/// Detaches a mount, even if it is busy or hangs.
fn unmount(mountpoint: &Path) {
    let succeeds = |program: &str, flags: &[&str]| {
        let mut command = Command::new(program);
        let command = command.args(flags).arg(mountpoint);
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    if !succeeds("fusermount3", &["-u", "-z"]) && !succeeds("umount", &["-l"]) {
        println!("{} stays mounted", mountpoint.display());
    }
}

/// The rest of a call: what it does and answers, or the error that it answers.
type Job = Box<dyn FnOnce(Result<(), Errno>) + Send>;

/// A call that hangs.
struct Held {
    /// The thread that called.
    caller: u32,
    job: Job,
}

/// A file or directory that the kernel knows.
struct Node {
    /// Open as a place only (O_PATH), so that its inode is not taken by another file.
    file: Arc<File>,
    /// How often the kernel was told of it.
    lookups: u64,
}

struct Shared {
    rules: Mutex<Vec<Rule>>,
    held: Mutex<Vec<Held>>,
    calls: AtomicU64,
    bypass: AtomicBool,
    gone: AtomicBool,
    nodes: Mutex<HashMap<u64, Node>>,
    files: Mutex<HashMap<u64, Arc<File>>>,
    next_handle: AtomicU64,
}

impl Shared {
    fn new(root: File) -> Shared {
        let root = Node {
            file: Arc::new(root),
            lookups: 1,
        };
        Shared {
            rules: Mutex::default(),
            held: Mutex::default(),
            calls: AtomicU64::new(0),
            bypass: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            nodes: Mutex::new(HashMap::from([(INodeNo::ROOT.0, root)])),
            files: Mutex::default(),
            next_handle: AtomicU64::new(1),
        }
    }

    /// Answers everything that hangs: with this error, or as if it had not hung.
    fn answer_all(&self, error: Option<Errno>) {
        let held = mem::take(&mut *self.held.lock().unwrap());
        for call in held {
            (call.job)(error.map_or(Ok(()), Err));
        }
    }

    /// The rules for a call, those of the same kind in the order in which they were made.
    fn faults(&self, op: Op, file: Option<&File>) -> Vec<Fault> {
        let rules = self.rules.lock().unwrap();
        let fits = |rule: &&Rule| {
            let here = rule.path.as_ref().is_none_or(|text| {
                file.and_then(|file| fs::read_link(descriptor(file)).ok())
                    .is_some_and(|path| path.to_string_lossy().contains(text))
            });
            rule.ops.contains(&op) && here
        };
        rules
            .iter()
            .filter(fits)
            .map(|rule| rule.fault.clone())
            .collect()
    }

    fn node(&self, inode: INodeNo) -> io::Result<Arc<File>> {
        let nodes = self.nodes.lock().unwrap();
        let node = nodes.get(&inode.0);
        node.map(|node| Arc::clone(&node.file))
            .ok_or_else(|| io::ErrorKind::StaleNetworkFileHandle.into())
    }

    fn file(&self, handle: FileHandle) -> io::Result<Arc<File>> {
        let files = self.files.lock().unwrap();
        let file = files.get(&handle.0).map(Arc::clone);
        file.ok_or_else(|| io::Error::from_raw_os_error(rustix::io::Errno::BADF.raw_os_error()))
    }
}

/// Answers the calls that hang for callers that are being killed.
fn answer_the_killed(shared: &Weak<Shared>) {
    while let Some(shared) = shared.upgrade() {
        let killed: Vec<Held> = {
            let mut held = shared.held.lock().unwrap();
            held.extract_if(.., |call| is_killed(call.caller)).collect()
        };
        for call in killed {
            (call.job)(Err(Errno::EINTR));
        }
        drop(shared);
        thread::sleep(Duration::from_millis(20));
    }
}

/// Whether SIGKILL waits for a thread, which the end of its process is, too.
fn is_killed(thread: u32) -> bool {
    const SIGKILL_BIT: u64 = 1 << 8;
    let Ok(status) = fs::read_to_string(format!("/proc/{thread}/status")) else {
        // The kernel's own, or over.
        return false;
    };
    let pending = |line: &str| {
        let mask = ["SigPnd:", "ShdPnd:"]
            .iter()
            .find_map(|name| line.strip_prefix(name));
        mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .is_some_and(|mask| mask & SIGKILL_BIT != 0)
    };
    status.lines().any(pending)
}

fn descriptor(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()).into()
}

/// Opens a name as a place only, in a directory or absolutely.
fn open_path(parent: Option<&File>, name: &OsStr) -> io::Result<File> {
    let parent = parent.map_or(CWD, |parent| parent.as_fd());
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?.into())
}
