//! A turn: what a connection offers the sources of its body, once the gate has admitted it.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;

use bytes::Bytes;

use super::ack_meter::AckMeter;
use crate::io::{Segmentation, Socket};
use crate::memory::limits::SEGMENT_BYTES_MAX;
use crate::units::ObjectOffset;

/// One connection's turn to send.
pub struct Turn<'a> {
    /// Where to.
    pub socket: &'a Socket,
    /// The peer's address.
    pub peer: SocketAddr,
    /// How fast the peer acknowledges.
    pub meter: &'a AckMeter,
    /// The socket's `SO_SNDBUF`.
    pub send_buffer: u32,
    /// What of the response's head is to be sent now.
    pub head: Bytes,
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
