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
mod shared;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

pub use fuser::Errno;
use fuser::{BackgroundSession, Config, MountOption};
use passthrough::Passthrough;
use rustix::fs::Access;
pub use shared::Op;
use shared::{Fault, Rule, Shared, answer_the_killed, open_path};

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
