//! Hand-over: a new server gets the listeners of the one that runs, and no client notices.
//!
//! The old one listens at a file (`--hand-over`), the new one connects to it (`--take-over`) and binds nothing. Both check
//! that the other runs as the same user. Then:
//!
//! ```text
//! old  ->  new   length (4 bytes, little-endian), a greeting in JSON
//! old  ->  new   the listeners (SCM_RIGHTS), some with every byte 'L': those for objects, by TLS, for admin
//!          new   starts: memory, rings, pools. Until it is ready the old one serves as ever
//! new  ->  old   'R': ready
//! old  ->  new   'K': the old one accepts no more, and ends what it has begun
//! ```
//!
//! Whoever goes away before its turn changes nothing for the other. No listener is ever closed by both, so no connection
//! that a listener holds is lost: both accept from the same ones for a moment.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use socket2::Socket;

use super::given::Activated;
use crate::remote::Cache;

/// Listeners sent with one byte. The kernel takes up to 253 (SCM_MAX_FD).
const LISTENERS_AT_ONCE: usize = 64;
/// Listeners in all: twice as many as there may be cores, and that for admin.
const LISTENERS_MAX: usize = 2049;
/// Bytes of a greeting.
const GREETING_BYTES_MAX: usize = 8192;
/// How long the other side may take for what it has at hand.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a new server may take to become ready: it looks for its stores and touches all of its memory.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// What the old server says of itself.
#[derive(Debug, Serialize, Deserialize)]
struct Greeting {
    /// The version of this protocol.
    protocol: u32,
    /// Listeners for objects.
    objects: usize,
    /// Listeners for objects by TLS, which come next.
    tls: usize,
    /// What its memory is, which counts until it has ended.
    memory_bytes: u64,
    /// The file of its admin listener, if it has one.
    admin_file: Option<PathBuf>,
    /// Which listeners a service manager made, and keeps.
    activated: Activated,
}

const PROTOCOL: u32 = 2;

/// What is handed over.
pub(super) struct Offer {
    /// The listeners for objects, each once.
    pub(super) objects: Vec<Socket>,
    /// Those for objects by TLS.
    pub(super) tls: Vec<Socket>,
    /// That for admin.
    pub(super) admin: Socket,
    /// Its file, if it has one.
    pub(super) admin_file: Option<PathBuf>,
    /// What this server declares.
    pub(super) memory_bytes: u64,
    /// Which of them a service manager made.
    pub(super) activated: Activated,
    /// What the new server has together with this one from then on.
    pub(super) cache: Option<Arc<Cache>>,
}

/// A new server is ready. It is told to go on when `stopped` is used.
pub(super) struct Successor {
    /// Its process.
    pub(super) process: u32,
    /// To be told once this server accepts no more.
    pub(super) stopped: Sender<()>,
}

/// Offers the listeners to whoever connects. A thread does it, and tells of a new server that is ready.
pub(super) fn offer(listener: UnixListener, offer: Offer) -> io::Result<Receiver<Successor>> {
    listener.set_nonblocking(false)?;
    let (tell, successors) = bounded(0);
    std::thread::Builder::new()
        .name("hand-over".into())
        .spawn(move || {
            for stream in listener.incoming() {
                let given = stream.and_then(|stream| give(&stream, &offer, &tell));
                match given {
                    Ok(()) => return,
                    Err(error) => {
                        tracing::warn!("no hand-over, this server goes on: {error}");
                        // Should accepting fail, not at full speed.
                        std::thread::sleep(Duration::from_millis(20));
                    }
                }
            }
        })?;
    Ok(successors)
}

/// Gives everything to a new server, and returns once it has taken over.
fn give(stream: &UnixStream, offer: &Offer, tell: &Sender<Successor>) -> io::Result<()> {
    let process = check_peer(stream)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(READY_WITHIN))?;
    tracing::info!(process, "a new server gets the listeners");
    if let Some(cache) = &offer.cache {
        cache.share_with_successor()?;
    }
    let greeting = serde_json::to_vec(&Greeting {
        protocol: PROTOCOL,
        objects: offer.objects.len(),
        tls: offer.tls.len(),
        memory_bytes: offer.memory_bytes,
        admin_file: offer.admin_file.clone(),
        activated: offer.activated,
    })?;
    let mut writer = stream;
    writer.write_all(&(greeting.len() as u32).to_le_bytes())?;
    writer.write_all(&greeting)?;
    let all = offer.objects.iter().chain(&offer.tls);
    let all: Vec<BorrowedFd<'_>> = all.map(Socket::as_fd).collect();
    for some in all
        .chunks(LISTENERS_AT_ONCE)
        .chain([&[offer.admin.as_fd()][..]])
    {
        send_listeners(stream, some)?;
    }
    expect(stream, b'R').map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("process {process} did not become ready: {error}"),
        )
    })?;
    let (stopped, has_stopped) = bounded(1);
    let successor = Successor { process, stopped };
    tell.send(successor)
        .map_err(|_| io::Error::other("this server stops"))?;
    // The control thread drops its end if it stops for another reason.
    let _ = has_stopped.recv();
    // The new one is ready, and serves whether it hears this or not.
    let _ = writer.write_all(b"K");
    Ok(())
}

/// The process at the other end, which must run as the same user, or as root.
fn check_peer(stream: &UnixStream) -> io::Result<u32> {
    let peer = socket_peercred(stream)?;
    let user = rustix::process::geteuid();
    match peer.uid == user || peer.uid.is_root() {
        true => Ok(peer.pid.as_raw_nonzero().get() as u32),
        false => Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "the other server runs as user {}, this one as {}",
                peer.uid.as_raw(),
                user.as_raw()
            ),
        )),
    }
}

fn send_listeners(stream: &UnixStream, listeners: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(LISTENERS_AT_ONCE))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(listeners)) {
        return Err(io::Error::other("too many listeners at once"));
    }
    sendmsg(
        stream,
        &[IoSlice::new(b"L")],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// Receives some listeners.
fn receive_listeners(stream: &UnixStream, into: &mut Vec<OwnedFd>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(LISTENERS_AT_ONCE))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut slices = [IoSliceMut::new(&mut byte)];
    let received = recvmsg(stream, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let before = into.len();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(listeners) = message {
            into.extend(listeners);
        }
    }
    match received.bytes {
        1 if byte == *b"L" && into.len() > before => Ok(()),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "no listeners arrived",
        )),
    }
}

fn expect(mut stream: &UnixStream, expected: u8) -> io::Result<()> {
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    match byte[0] == expected {
        true => Ok(()),
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// What a new server got from the old one.
pub(super) struct Taken {
    /// The connection to the old server. When it ends before this one is [`ready`], the old one goes on.
    pub(super) stream: UnixStream,
    /// The listeners for objects.
    pub(super) objects: Vec<OwnedFd>,
    /// Those for objects by TLS.
    pub(super) tls: Vec<OwnedFd>,
    /// That for admin.
    pub(super) admin: OwnedFd,
    /// Its file, if it has one.
    pub(super) admin_file: Option<PathBuf>,
    /// What the old server declares.
    pub(super) memory_bytes: u64,
    /// Which of them a service manager made.
    pub(super) activated: Activated,
}

/// Takes the listeners of the server that offers them at `path`. `None` if there is no server.
pub(super) fn take(path: &Path) -> io::Result<Option<Taken>> {
    let stream = match UnixStream::connect(path) {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    check_peer(&stream)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = &stream;
    let mut length = [0; 4];
    reader.read_exact(&mut length)?;
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let length = u32::from_le_bytes(length) as usize;
    if length > GREETING_BYTES_MAX {
        return Err(invalid("the greeting is too long"));
    }
    let mut greeting = vec![0; length];
    reader.read_exact(&mut greeting)?;
    let greeting: Greeting = serde_json::from_slice(&greeting)?;
    if greeting.protocol != PROTOCOL {
        return Err(invalid(
            "the other server is of a version that hands over in another way",
        ));
    }
    let count = greeting.objects.saturating_add(greeting.tls);
    if greeting.objects == 0 || count >= LISTENERS_MAX {
        return Err(invalid("the number of listeners is not plausible"));
    }
    let mut listeners = Vec::new();
    while listeners.len() < count + 1 {
        receive_listeners(&stream, &mut listeners)?;
    }
    let admin = listeners.pop().filter(|_| listeners.len() == count);
    let tls = listeners.split_off(greeting.objects.min(listeners.len()));
    Ok(Some(Taken {
        stream,
        objects: listeners,
        tls,
        admin: admin.ok_or_else(|| invalid("more listeners than were announced"))?,
        admin_file: greeting.admin_file,
        memory_bytes: greeting.memory_bytes,
        activated: greeting.activated,
    }))
}

/// Tells the old server that this one is ready, and waits until it accepts no more.
///
/// # Errors
/// If the old server does not say so. It may have ended, or go on.
pub(super) fn ready(mut stream: UnixStream) -> io::Result<()> {
    stream.write_all(b"R")?;
    expect(&stream, b'K')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn an_offer(objects: usize) -> Offer {
        let listener = || TcpListener::bind("127.0.0.1:0").unwrap().into();
        Offer {
            objects: (0..objects).map(|_| listener()).collect(),
            tls: (0..objects / 2).map(|_| listener()).collect(),
            admin: listener(),
            admin_file: Some("/run/admin.sock".into()),
            memory_bytes: 1 << 30,
            activated: Activated::default(),
            cache: None,
        }
    }

    fn addresses<'a>(sockets: impl IntoIterator<Item = &'a OwnedFd>) -> Vec<u16> {
        let port = |socket: &OwnedFd| {
            let socket = socket2::SockRef::from(socket);
            socket.local_addr().unwrap().as_socket().unwrap().port()
        };
        sockets.into_iter().map(port).collect()
    }

    #[test]
    fn listeners_change_hands_once_the_new_server_is_ready() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hand-over");
        assert!(take(&path).unwrap().is_none(), "nobody is there");
        // More than are sent at once.
        let old = an_offer(130);
        let port = |socket: &Socket| socket.local_addr().unwrap().as_socket().unwrap().port();
        let ports: Vec<u16> = old.objects.iter().map(port).collect();
        let admin = port(&old.admin);
        let successors = offer(UnixListener::bind(&path).unwrap(), old).unwrap();
        // Two that end before they are ready change nothing.
        drop(UnixStream::connect(&path).unwrap());
        drop(take(&path).unwrap().unwrap());
        let taken = take(&path).unwrap().unwrap();
        assert_eq!(addresses(&taken.objects), ports);
        assert_eq!(addresses([&taken.admin]), [admin]);
        assert_eq!(taken.memory_bytes, 1 << 30);
        assert_eq!(
            taken.admin_file.as_deref(),
            Some(Path::new("/run/admin.sock"))
        );
        assert!(successors.is_empty());
        let stream = taken.stream;
        let new = std::thread::spawn(move || ready(stream));
        let successor = successors.recv().unwrap();
        assert_eq!(successor.process, std::process::id());
        successor.stopped.send(()).unwrap();
        new.join().unwrap().unwrap();
        assert!(successors.recv().is_err(), "it is handed over once");
    }

    #[test]
    fn what_is_no_server_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for (number, said) in [
            &b"\xff\xff\xff\xff"[..],
            b"\x02\0\0\0{}",
            b"\x04\0\0\0none",
            b"\x03\0",
        ]
        .into_iter()
        .enumerate()
        {
            let path = dir.path().join(number.to_string());
            let listener = UnixListener::bind(&path).unwrap();
            let other = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                stream.write_all(said).unwrap();
            });
            assert!(take(&path).is_err(), "{number}");
            other.join().unwrap();
        }
    }
}
