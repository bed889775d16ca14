//! A turn: what a connection offers the sources of its body, once the gate has admitted it.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;

use super::ack_meter::AckMeter;
use crate::io::{Segmentation, Socket, sent_or_zero};
use crate::memory::limits::SEGMENT_BYTES_MAX;
use crate::tls::Workspace;
use crate::tls::session::{Content, Session, Slices, WriteError};
use crate::units::ObjectOffset;

/// How the bytes of a turn leave.
#[derive(Clone, Copy)]
pub enum Way<'a> {
    /// As they are.
    Plain,
    /// In TLS records.
    Sealed(&'a RefCell<Session>),
    /// Not yet: they are part of a TLS record that is made again, and collected here.
    Collected(&'a RefCell<Vec<u8>>),
}

/// One connection's turn to send.
#[derive(Clone)]
pub struct Turn<'a> {
    /// Where to.
    pub socket: &'a Socket,
    /// How.
    pub way: Way<'a>,
    /// What TLS records are made with, if there are any.
    pub workspace: Option<&'a RefCell<Workspace>>,
    /// The peer's address.
    pub peer: SocketAddr,
    /// How fast the peer acknowledges.
    pub meter: &'a AckMeter,
    /// The socket's `SO_SNDBUF`.
    pub send_buffer: u32,
    /// What of the response's head is to be sent now.
    pub head: &'a [u8],
    /// The unsent range of the object.
    pub body: Range<ObjectOffset>,
    /// How many bytes of it the gate admitted; 0 while the head alone is sent.
    pub admitted: u64,
    /// Unsent bytes of the response, head included.
    pub remaining: u64,
}

impl Turn<'_> {
    /// What of the object may be sent now.
    pub fn wanted(&self) -> Range<ObjectOffset> {
        self.body.start..self.body.start + self.admitted
    }

    /// Whether bytes go to the socket as they are, so that the kernel can have them by reference.
    pub fn is_plain(&self) -> bool {
        matches!(self.way, Way::Plain)
    }

    /// Sends parts, one after another, or what the socket takes of them.
    ///
    /// # Errors
    /// The connection's. That nothing was taken is none.
    pub fn send<'b>(&self, parts: impl Iterator<Item = &'b [u8]> + Clone) -> io::Result<usize> {
        match self.way {
            Way::Plain => {
                let bytes = parts.clone().map(<[u8]>::len).sum();
                sent_or_zero(self.socket.send(parts, self.segmentation(bytes)?))
            }
            Way::Sealed(_) | Way::Collected(_) => {
                match self.send_content(&mut Slices::new(parts)) {
                    Ok(sent) => Ok(sent),
                    Err(WriteError::Content(error) | WriteError::Connection(error)) => Err(error),
                }
            }
        }
    }

    /// Sends content that is not to leave as it is.
    ///
    /// # Errors
    /// That the content can't be had, or the connection's.
    pub fn send_content(&self, content: &mut dyn Content) -> Result<usize, WriteError> {
        match self.way {
            Way::Plain => {
                let error = "content is sealed or collected, nothing else";
                Err(WriteError::Connection(io::Error::other(error)))
            }
            Way::Sealed(session) => {
                let workspace = self.workspace.ok_or(io::ErrorKind::Unsupported);
                let workspace = workspace.map_err(|kind| WriteError::Connection(kind.into()))?;
                let mut workspace = workspace.borrow_mut();
                session
                    .borrow_mut()
                    .write(content, &mut workspace, |bytes| {
                        let segmentation = self.segmentation(bytes.len())?;
                        sent_or_zero(self.socket.send([bytes].into_iter(), segmentation))
                    })
            }
            Way::Collected(record) => {
                let mut record = record.borrow_mut();
                let (start, bytes) = (record.len(), content.bytes());
                record.resize(start + bytes, 0);
                match content.fill(&mut record[start..]) {
                    Ok(()) => Ok(bytes),
                    Err(error) => {
                        record.truncate(start);
                        Err(WriteError::Content(error))
                    }
                }
            }
        }
    }

    /// How to cut a send of so many bytes, head included, into segments. The end of a response needs no
    /// acknowledgement for anything to go on.
    pub fn segmentation(&self, offered: usize) -> io::Result<Segmentation> {
        let buffer = self.send_buffer;
        let is_small = (offered as u64) < self.remaining
            && buffer < SEGMENT_BYTES_MAX
            && buffer < self.socket.max_segment_bytes()?;
        Ok(if is_small {
            Segmentation::Decreasing
        } else {
            Segmentation::ByKernel
        })
    }
}
