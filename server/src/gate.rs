//! The gate: how many bytes may be produced for a socket now.
//!
//! Pure arithmetic on what the kernel reports; it knows no descriptor. The rule it keeps: a send is
//! never larger than the credit, so nothing is read or decoded that the socket will not take, and
//! the unsent bytes of a connection never pass its LOWAT.

/// What the kernel says about one socket's send side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendSpace {
    /// Bytes queued and never sent yet (`SIOCOUTQNSD`).
    pub unsent_bytes: u32,
    /// Memory charged to the send queue, skb overhead included (`SK_MEMINFO_WMEM_QUEUED`).
    pub queued_bytes: u32,
    /// The bound on `queued_bytes`: twice what was set with `SO_SNDBUF` (`SK_MEMINFO_SNDBUF`).
    pub buffer_bytes: u32,
}

/// The send settings of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    /// No send brings the unsent bytes over this: the connection's `TCP_NOTSENT_LOWAT`.
    pub lowat_bytes: u32,
    /// The most that one turn admits.
    pub piece_bytes_max: u32,
    /// Below this a turn is not worth its cost; wait for POLLOUT instead.
    pub credit_bytes_min: u32,
}

/// What to do with a body of which `remaining` bytes are left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Produce and send at most this many bytes now.
    Bytes(u32),
    /// Wait until the kernel reports room.
    Wait,
}

impl Gate {
    /// Bytes the socket will take now, up to one piece.
    ///
    /// An skb's overhead is charged to the buffer too; the kernel admits an skb while the charge is
    /// below the bound, so a send of the whole free space is taken whole or nearly so, and what is
    /// not is produced again later.
    pub fn credit(&self, space: SendSpace) -> u32 {
        let unsent_room = self.lowat_bytes.saturating_sub(space.unsent_bytes);
        let buffer_room = space.buffer_bytes.saturating_sub(space.queued_bytes);
        unsent_room.min(buffer_room).min(self.piece_bytes_max)
    }

    /// Decides for a connection with `remaining` bytes left. After POLLOUT (`polled`) any credit is
    /// used, so that a wait which ended is never repeated with nothing changed.
    pub fn admit(&self, space: SendSpace, remaining: u64, polled: bool) -> Admission {
        let credit = self.credit(space);
        let wanted = u32::try_from(remaining).unwrap_or(u32::MAX);
        let least = if polled { 1 } else { wanted.min(self.credit_bytes_min) };
        if credit == 0 || credit < least {
            return Admission::Wait;
        }
        Admission::Bytes(credit.min(wanted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATE: Gate =
        Gate { lowat_bytes: 128 << 10, piece_bytes_max: 100 << 10, credit_bytes_min: 32 << 10 };

    fn space(unsent_bytes: u32, queued_bytes: u32) -> SendSpace {
        SendSpace { unsent_bytes, queued_bytes, buffer_bytes: 256 << 10 }
    }

    #[test]
    fn an_empty_socket_takes_one_piece() {
        assert_eq!(GATE.admit(space(0, 0), u64::MAX, false), Admission::Bytes(100 << 10));
    }

    #[test]
    fn no_send_brings_the_unsent_bytes_over_the_lowat() {
        for unsent in (0..200 << 10).step_by(997) {
            for polled in [false, true] {
                if let Admission::Bytes(n) = GATE.admit(space(unsent, unsent), u64::MAX, polled) {
                    assert!(unsent + n <= GATE.lowat_bytes, "{unsent} + {n}");
                }
            }
        }
    }

    #[test]
    fn a_full_buffer_waits_even_after_pollout() {
        assert_eq!(GATE.admit(space(0, 300 << 10), 1, true), Admission::Wait);
        assert_eq!(GATE.admit(space(128 << 10, 0), 1, true), Admission::Wait);
    }

    #[test]
    fn a_small_gap_waits_unless_it_is_all_that_is_left() {
        let gap = space((128 << 10) - 1000, 128 << 10);
        assert_eq!(GATE.admit(gap, u64::MAX, false), Admission::Wait);
        assert_eq!(GATE.admit(gap, u64::MAX, true), Admission::Bytes(1000));
        assert_eq!(GATE.admit(gap, 1000, false), Admission::Bytes(1000));
        assert_eq!(GATE.admit(gap, 1001, false), Admission::Wait);
    }
}
