//! Sockets in the file system: for their owner alone, and gone with their server.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::memory::limits::ADMIN_BACKLOG;

/// A socket in the file system that is gone with this value, unless another process has put its own there.
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    file: Option<(u64, u64)>,
}

impl SocketFile {
    /// That which is there now.
    pub(super) fn of(path: PathBuf) -> SocketFile {
        let file = file_id(&path);
        SocketFile { path, file }
    }

    /// Its path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves it to another process.
    pub(super) fn leave(mut self) {
        self.file = None;
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.file.is_some() && file_id(&self.path) == self.file {
            // Somebody may have removed it meanwhile.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn file_id(path: &Path) -> Option<(u64, u64)> {
    let file = fs::symlink_metadata(path).ok()?;
    Some((file.dev(), file.ino()))
}

/// Listens at a file that only its owner may open. A socket that nobody listens at any more gives way, and no other file
/// does.
pub(super) fn unix(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    is_free(path)?;
    Beside::new(path)?.place()
}

/// Whether nobody listens at a file, and there is nothing else.
pub(super) fn is_free(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(file) if !file.file_type().is_socket() => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "there is a file that is no socket",
            ));
        }
        Ok(_) => match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
        },
    }
    Ok(())
}

/// A socket that listens beside the file where it will be, so that the name can change its owner in one step. Nobody but
/// the owner can open it, at any time.
pub(super) struct Beside {
    socket: Socket,
    path: PathBuf,
    beside: SocketFile,
}

impl Beside {
    pub(super) fn new(path: &Path) -> io::Result<Beside> {
        let mut name = path
            .file_name()
            .ok_or(io::ErrorKind::InvalidInput)?
            .to_owned();
        name.push(format!(".{}", std::process::id()));
        let beside = path.with_file_name(name);
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // What a process of the same number left.
        let _ = fs::remove_file(&beside);
        socket.bind(&SockAddr::unix(&beside)?)?;
        let beside = SocketFile::of(beside);
        fs::set_permissions(&beside.path, fs::Permissions::from_mode(0o600))?;
        socket.listen(ADMIN_BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(Beside {
            socket,
            path: path.to_owned(),
            beside,
        })
    }

    /// Puts it in its place, whoever listened there before.
    pub(super) fn place(self) -> io::Result<(UnixListener, SocketFile)> {
        fs::rename(&self.beside.path, &self.path)?;
        Ok((self.socket.into(), SocketFile::of(self.path)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_file_is_for_its_owner_and_replaces_stale_ones_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let (listener, file) = unix(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(UnixStream::connect(&path).is_ok());
        assert_eq!(unix(&path).err().unwrap().kind(), io::ErrorKind::AddrInUse);
        // As after a crash: the file is there, and nobody listens.
        drop(listener);
        let (_listener, second) = unix(&path).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
        drop(file);
        assert!(path.exists(), "it is another's by now");
        drop(second);
        assert!(!path.exists());
        fs::write(&path, "mine").unwrap();
        assert!(unix(&path).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "nothing is left"
        );
    }
}
