//! The gate: how many bytes may be produced for a socket now.
//!
//! Pure arithmetic on what the kernel reports; it knows no descriptor. The rule it keeps: a send is
//! never larger than the credit, so nothing is read or decoded that the socket will not take, and
//! what a connection has queued never passes its buffer's bound by more than an skb's overhead.

use crate::io::SendSpace;

/// How much is admitted at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    /// The most that one turn admits.
    pub piece_bytes_max: u32,
    /// Below this a turn is not worth its cost; wait for POLLOUT instead. Half of a small buffer counts
    /// as enough.
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
    /// `TCP_NOTSENT_LOWAT` is set to the buffer's bound, so that POLLOUT means room in both. An skb's
    /// overhead is charged to the buffer too; the kernel admits an skb while the charge is below the
    /// bound, so a send of the whole free space is taken whole or nearly so, and what is not is produced
    /// again later.
    pub fn credit(&self, space: SendSpace) -> u32 {
        let buffer_room = space.buffer_bytes.saturating_sub(space.queued_bytes);
        buffer_room.min(self.piece_bytes_max)
    }

    /// Decides for a connection with `remaining` bytes left. After POLLOUT (`polled`) any credit is
    /// used, so that a wait which ended is never repeated with nothing changed.
    pub fn admit(&self, space: SendSpace, remaining: u64, polled: bool) -> Admission {
        let credit = self.credit(space);
        let wanted = u32::try_from(remaining).unwrap_or(u32::MAX);
        let worth = self.credit_bytes_min.min(space.buffer_bytes / 2);
        let least = if polled { 1 } else { wanted.min(worth) };
        if credit == 0 || credit < least {
            return Admission::Wait;
        }
        Admission::Bytes(credit.min(wanted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATE: Gate = Gate {
        piece_bytes_max: 100 << 10,
        credit_bytes_min: 32 << 10,
    };

    fn space(queued_bytes: u32, buffer_bytes: u32) -> SendSpace {
        SendSpace {
            queued_bytes,
            buffer_bytes,
        }
    }

    #[test]
    fn an_empty_socket_takes_one_piece() {
        assert_eq!(
            GATE.admit(space(0, 256 << 10), u64::MAX, false),
            Admission::Bytes(100 << 10)
        );
        assert_eq!(
            GATE.admit(space(0, 8 << 10), u64::MAX, false),
            Admission::Bytes(8 << 10)
        );
    }

    #[test]
    fn no_send_is_larger_than_the_room() {
        for queued in (0..300 << 10).step_by(997) {
            for polled in [false, true] {
                let admitted = GATE.admit(space(queued, 256 << 10), u64::MAX, polled);
                if let Admission::Bytes(n) = admitted {
                    assert!(queued + n <= 256 << 10, "{queued} + {n}");
                }
            }
        }
    }

    #[test]
    fn a_full_buffer_waits_even_after_pollout() {
        assert_eq!(
            GATE.admit(space(300 << 10, 256 << 10), 1, true),
            Admission::Wait
        );
        assert_eq!(
            GATE.admit(space(256 << 10, 256 << 10), 1, true),
            Admission::Wait
        );
    }

    #[test]
    fn a_small_gap_waits_unless_it_is_all_that_is_left() {
        let gap = space((256 << 10) - 1000, 256 << 10);
        assert_eq!(GATE.admit(gap, u64::MAX, false), Admission::Wait);
        assert_eq!(GATE.admit(gap, u64::MAX, true), Admission::Bytes(1000));
        assert_eq!(GATE.admit(gap, 1000, false), Admission::Bytes(1000));
        assert_eq!(GATE.admit(gap, 1001, false), Admission::Wait);
    }
}
