//! What the mount and its test share: the rules, the calls that hang, and what the kernel knows.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::Duration;

use fuser::{Errno, FileHandle, INodeNo};
use rustix::fs::{CWD, Mode, OFlags};

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
pub(crate) enum Fault {
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
pub(crate) struct Rule {
    pub(crate) ops: Vec<Op>,
    pub(crate) fault: Fault,
    /// Only of files whose path holds this text.
    pub(crate) path: Option<String>,
}

/// The rest of a call: what it does and answers, or the error that it answers.
pub(crate) type Job = Box<dyn FnOnce(Result<(), Errno>) + Send>;

/// A call that hangs.
pub(crate) struct Held {
    /// The thread that called.
    pub(crate) caller: u32,
    pub(crate) job: Job,
}

/// A file or directory that the kernel knows.
pub(crate) struct Node {
    /// Open as a place only (O_PATH), so that its inode is not taken by another file.
    pub(crate) file: Arc<File>,
    /// How often the kernel was told of it.
    pub(crate) lookups: u64,
}

pub(crate) struct Shared {
    pub(crate) rules: Mutex<Vec<Rule>>,
    pub(crate) held: Mutex<Vec<Held>>,
    pub(crate) calls: AtomicU64,
    pub(crate) bypass: AtomicBool,
    pub(crate) gone: AtomicBool,
    pub(crate) nodes: Mutex<HashMap<u64, Node>>,
    pub(crate) files: Mutex<HashMap<u64, Arc<File>>>,
    pub(crate) next_handle: AtomicU64,
}

impl Shared {
    pub(crate) fn new(root: File) -> Shared {
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
    pub(crate) fn answer_all(&self, error: Option<Errno>) {
        let held = mem::take(&mut *self.held.lock().unwrap());
        for call in held {
            (call.job)(error.map_or(Ok(()), Err));
        }
    }

    /// The rules for a call, those of the same kind in the order in which they were made.
    pub(crate) fn faults(&self, op: Op, file: Option<&File>) -> Vec<Fault> {
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

    pub(crate) fn node(&self, inode: INodeNo) -> io::Result<Arc<File>> {
        let nodes = self.nodes.lock().unwrap();
        let node = nodes.get(&inode.0);
        node.map(|node| Arc::clone(&node.file))
            .ok_or_else(|| io::ErrorKind::StaleNetworkFileHandle.into())
    }

    pub(crate) fn file(&self, handle: FileHandle) -> io::Result<Arc<File>> {
        let files = self.files.lock().unwrap();
        let file = files.get(&handle.0).map(Arc::clone);
        file.ok_or_else(|| io::Error::from_raw_os_error(rustix::io::Errno::BADF.raw_os_error()))
    }
}

/// Answers the calls that hang for callers that are being killed.
pub(crate) fn answer_the_killed(shared: &Weak<Shared>) {
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

pub(crate) fn descriptor(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()).into()
}

/// Opens a name as a place only, in a directory or absolutely.
pub(crate) fn open_path(parent: Option<&File>, name: &OsStr) -> io::Result<File> {
    let parent = parent.map_or(CWD, |parent| parent.as_fd());
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?.into())
}
