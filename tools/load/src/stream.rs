//! A client's connection: TCP as it is, or TLS on it.

use std::cell::RefCell;
use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{MsgFlags, recv};
use tokio::io::{Interest, Ready};
use tokio::net::TcpStream;

use crate::plan::Hello;
use crate::scratch::Scratch;
use crate::session::{Negotiated, Session};
use crate::tls::TlsClient;

pub(crate) struct Stream {
    tcp: TcpStream,
    /// Boxed, since a client of plain HTTP should not pay for it.
    session: Option<Box<Session>>,
}

impl Stream {
    pub(crate) fn new(tcp: TcpStream) -> Stream {
        Stream { tcp, session: None }
    }

    /// Does the TLS handshake.
    pub(crate) async fn handshake(
        &mut self,
        client: &TlsClient,
        scratch: &RefCell<Scratch>,
    ) -> io::Result<Negotiated> {
        let mut session = Box::new(Session::new(client)?);
        let negotiated = session.handshake(&self.tcp, scratch).await?;
        self.session = Some(session);
        Ok(negotiated)
    }

    /// Begins a TLS handshake that will not be continued.
    pub(crate) async fn half_open(&mut self, client: &TlsClient, hello: Hello) -> io::Result<()> {
        let part = |whole: usize| match hello {
            Hello::Nothing => 0,
            Hello::Part => whole / 2,
            Hello::Whole => whole,
        };
        // The session ends here, so that such a client costs no more than its socket.
        let session = Box::new(Session::new(client)?);
        session.half_open(&self.tcp, part).await
    }

    /// Reads once, to the front of `scratch.read`: at most `wish` bytes of TCP; of TLS, whose records can only be had
    /// whole, less than one record more. 0: the end.
    pub(crate) fn try_read(&mut self, wish: usize, scratch: &mut Scratch) -> io::Result<usize> {
        match &mut self.session {
            None => self.tcp.try_read(&mut scratch.read[..wish]),
            Some(session) => session.read(&self.tcp, wish, scratch),
        }
    }

    /// Whether [`discard`](Self::discard) is possible: what is encrypted can't be dropped unseen.
    pub(crate) fn can_discard(&self) -> bool {
        self.session.is_none()
    }

    /// Reads at most `wish` bytes once, which the kernel drops: TCP's MSG_TRUNC.
    pub(crate) fn discard(&self, wish: usize, scratch: &mut Scratch) -> io::Result<usize> {
        self.tcp.try_io(Interest::READABLE, || {
            Ok(recv(
                self.tcp.as_raw_fd(),
                &mut scratch.read[..wish],
                MsgFlags::MSG_TRUNC,
            )?)
        })
    }

    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.tcp.readable().await
    }

    pub(crate) async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        if let Some(session) = &mut self.session {
            return session.write_all(&self.tcp, bytes).await;
        }
        while !bytes.is_empty() {
            match self.tcp.try_write(bytes) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.tcp.writable().await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits until the other end closes or resets the connection, without reading.
    pub(crate) async fn ended(&self) {
        // Data makes the socket readable too. Clearing the readiness waits for the next event, which is more data
        // (rare, since the buffer is small) or the end of the connection.
        let over = |ready: Ready| ready.is_read_closed() || ready.is_error();
        while let Ok(ready) = self.tcp.ready(Interest::READABLE).await {
            if over(ready) {
                break;
            }
            let _ = self.tcp.try_io(Interest::READABLE, || {
                Err::<(), _>(io::ErrorKind::WouldBlock.into())
            });
        }
    }

    /// Says goodbye, if the connection has a word for that.
    pub(crate) fn close_notify(&mut self) {
        if let Some(session) = &mut self.session {
            session.close_notify(&self.tcp);
        }
    }

    /// Makes the coming close a reset.
    pub(crate) fn reset_on_close(&self) {
        let _ = self.tcp.set_zero_linger();
    }

    /// Whether the connection has ended without TLS's close_notify.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.session
            .as_ref()
            .is_some_and(|session| session.is_cut_off())
    }
}
