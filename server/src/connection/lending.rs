//! Lending: a connection's `SO_SNDBUF`, and the claim on the credit that covers it.
//!
//! When a buffer grows and shrinks is decided in [`send_window`].

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::networks::Member;
use super::proof::Proof;
use super::send_window::{self, Verdict};
use crate::body::AckMeter;
use crate::body::ack_meter::{Interval, Reader};
use crate::io::Socket;
use crate::memory::budget::{Allowance, Budget, Claim};
use crate::memory::costs::socket_bytes;
use crate::memory::limits::{
    LOW_LATENCY_RTT, SEND_BUFFER_START_BYTES, UNPROVEN_PART, UNPROVEN_START_PART,
};

/// What the connections of one core borrow from.
pub struct Lender {
    budget: Arc<Budget>,
    /// `SO_SNDBUF` that every connection has, and returns to.
    floor: u32,
    /// The most that it may become: what the kernel lets this process set.
    most: u32,
    /// How many connections are fast.
    fast: Cell<usize>,
    /// Whether a loan was refused since somebody asked.
    refused: Cell<bool>,
}

impl Lender {
    /// A lender that gives send buffers from `floor` to `most` bytes.
    pub fn new(budget: Arc<Budget>, floor: u32, most: u32) -> Rc<Lender> {
        Rc::new(Lender {
            budget,
            floor,
            most,
            fast: Cell::new(0),
            refused: Cell::new(false),
        })
    }

    /// The account of what may be lent.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Whether a loan was refused since this was asked last.
    pub fn was_refused(&self) -> bool {
        self.refused.replace(false)
    }

    /// What is left for all networks where several are sent to, for a connection that may borrow so: of the part of the
    /// unproven, or of all. Somebody who came first may have taken that whole part; then an eighth of it is fair for each
    /// of the others.
    fn left(&self, allowance: Allowance) -> u64 {
        let free = self.budget.free();
        match allowance {
            Allowance::UnprovenPart(part) if part >= UNPROVEN_PART => {
                let limit = self.budget.total() / UNPROVEN_PART;
                let left = limit.saturating_sub(self.budget.unproven());
                left.max(limit / 8).min(free)
            }
            _ => free,
        }
    }

    /// How fast a connection must be to borrow, with the credit that is left.
    fn within(&self) -> Duration {
        send_window::within(self.budget.free(), self.budget.total())
    }
}

/// One connection's send buffer.
pub struct SendBuffer {
    lender: Rc<Lender>,
    member: Rc<Member>,
    /// `SO_SNDBUF` now; set by `note` alone.
    bytes: Cell<u32>,
    /// Whether it has all that a low-latency connection is lent; asked again at the next sample.
    is_low_latency: Cell<bool>,
    /// What its peer has shown.
    proof: Cell<Proof>,
    /// What is borrowed beyond the floor.
    claim: RefCell<Claim>,
}

impl SendBuffer {
    /// That of a connection just accepted, whose socket has the floor.
    pub fn new(lender: &Rc<Lender>, member: &Rc<Member>) -> SendBuffer {
        SendBuffer {
            member: Rc::clone(member),
            bytes: Cell::new(lender.floor),
            is_low_latency: Cell::new(false),
            proof: Cell::default(),
            claim: RefCell::new(Claim::empty(&lender.budget)),
            lender: Rc::clone(lender),
        }
    }

    /// Whether something is borrowed for it.
    pub fn is_lent(&self) -> bool {
        self.claim.borrow().bytes() > 0
    }

    /// `SO_SNDBUF` now.
    pub fn bytes(&self) -> u32 {
        self.bytes.get()
    }

    /// Before the first byte of a response with so many bytes: while start-up loans are to be had a connection may start
    /// with more than the floor, so that a small object leaves at once.
    pub fn start(&self, socket: &Socket, remaining: u64) -> io::Result<()> {
        let wanted = SEND_BUFFER_START_BYTES.min(self.lender.most);
        if remaining > 2 * u64::from(self.bytes()) && self.bytes() < wanted {
            self.borrow(socket, wanted, Allowance::UnprovenPart(UNPROVEN_START_PART))?;
        }
        Ok(())
    }

    /// Notes what the peer has shown since the last window began, and says how much it may borrow now.
    fn prove(&self, meter: &AckMeter, now: Instant) -> Allowance {
        let window = meter.interval(Reader::Proof, now);
        let mut proof = self.proof.get();
        if proof.judge(self.bytes(), window, self.lender.within()) {
            meter.restart(Reader::Proof, now);
            self.proof.set(proof);
            if proof.is_lasting() {
                self.claim.borrow_mut().prove();
            }
        }
        proof.allowance(meter.interval(Reader::Proof, now))
    }

    /// Called while the connection waits for room. Lends it more if the kernel has sent all it was given, the peer
    /// earned more, and there is something to lend.
    ///
    /// Where others came whose networks find too little left, it gives back instead: a sample may be seconds away. Returns
    /// whether the buffer has another size now.
    pub fn grow(&self, socket: &Socket, meter: &AckMeter, now: Instant) -> io::Result<bool> {
        let present = self.bytes();
        if self.member.has_others() && self.is_lent() {
            let allowance = self
                .proof
                .get()
                .allowance(meter.interval(Reader::Proof, now));
            if !self.member.may_borrow(0, self.lender.left(allowance)) {
                let kept = (present / 2).max(self.lender.floor);
                self.is_low_latency.set(false);
                self.give_back(socket, kept, socket.memory()?.total());
                return Ok(self.bytes() != present);
            }
        }
        let has_all = present >= self.lender.most || self.is_low_latency.get();
        if has_all || socket.unsent_bytes()? > 0 {
            return Ok(false);
        }
        meter.update(socket.unacknowledged_bytes()?, now);
        let allowance = self.prove(meter, now);
        let interval = meter.interval(Reader::Growth, now);
        let verdict = send_window::judge(present, interval, self.lender.within());
        if verdict != Verdict::TooEarly {
            meter.restart(Reader::Growth, now);
        }
        if verdict != Verdict::Earned {
            return Ok(false);
        }
        let earned = present.saturating_mul(2).min(self.lender.most);
        if earned > send_window::low_latency_max(self.lender.fast.get())
            && socket.round_trip_time()? < LOW_LATENCY_RTT
        {
            self.is_low_latency.set(true);
            return Ok(false);
        }
        self.borrow(socket, earned, allowance)
    }

    fn borrow(&self, socket: &Socket, bytes: u32, allowance: Allowance) -> io::Result<bool> {
        let extra = socket_bytes(bytes) - socket_bytes(self.lender.floor);
        let mut claim = self.claim.borrow_mut();
        // A claim that still covers bytes queued by a larger buffer is not shrunk here.
        let extra = extra.max(claim.bytes());
        let more = extra - claim.bytes();
        let is_fair = more == 0 || self.member.may_borrow(more, self.lender.left(allowance));
        if !is_fair || !claim.resize(extra, allowance) {
            self.lender.refused.set(true);
            return Ok(false);
        }
        self.member.set_lent(extra);
        socket.set_send_buffer(bytes)?;
        self.note(bytes);
        Ok(true)
    }

    /// Notes the buffer that the socket has now.
    fn note(&self, bytes: u32) {
        let before = self.bytes.replace(bytes);
        let fast = &self.lender.fast;
        let others = fast.get() - usize::from(send_window::is_fast(before));
        fast.set(others + usize::from(send_window::is_fast(bytes)));
    }

    /// At a sample: gives back what the connection's rate does not need, or what a low-latency one may not have beside
    /// so many. What a larger buffer queued stays claimed until the kernel, which holds `held_bytes` for the socket, is
    /// rid of it.
    pub fn shrink(
        &self,
        socket: &Socket,
        meter: &AckMeter,
        sample: Interval,
        held_bytes: u64,
        now: Instant,
    ) {
        let allowance = self.prove(meter, now);
        let present = self.bytes();
        let floor = self.lender.floor;
        let mut kept = send_window::kept(present, floor, sample, self.lender.within());
        if self.is_low_latency.replace(false) {
            // There may be more fast connections than when it got its buffer.
            kept = kept.min(send_window::low_latency_max(self.lender.fast.get()));
        }
        if !self.member.may_borrow(0, self.lender.left(allowance)) {
            // Other networks came: what its own has is more than is left for them.
            kept = kept.min((present / 2).max(floor));
        }
        self.give_back(socket, kept, held_bytes);
    }

    /// Gives back what is above a buffer of `kept` bytes and what the kernel still holds.
    fn give_back(&self, socket: &Socket, kept: u32, held_bytes: u64) {
        if kept < self.bytes() && socket.set_send_buffer(kept).is_ok() {
            self.note(kept);
        }
        let floor = self.lender.floor;
        let needed = socket_bytes(self.bytes()).max(held_bytes);
        let extra = needed.saturating_sub(socket_bytes(floor));
        let mut claim = self.claim.borrow_mut();
        if extra < claim.bytes() {
            let shrunk = claim.resize(extra, Allowance::Eighth);
            debug_assert!(shrunk, "shrinking a claim works always");
            self.member.set_lent(extra);
        }
    }
}

impl Drop for SendBuffer {
    fn drop(&mut self) {
        self.note(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::limits::{SEND_BUFFER_BYTES_MIN, UNPROVEN_READS_PART};

    #[test]
    fn what_is_left_depends_on_what_was_shown() {
        let budget = Budget::new(16_000);
        let lender = Lender::new(Arc::clone(&budget), SEND_BUFFER_BYTES_MIN, 1 << 20);
        let left = [
            Allowance::UnprovenPart(UNPROVEN_START_PART),
            Allowance::UnprovenPart(UNPROVEN_PART),
            Allowance::UnprovenPart(UNPROVEN_READS_PART),
            Allowance::Eighth,
        ];
        let left = || left.map(|allowance| lender.left(allowance));
        assert_eq!(left(), [8_000, 8_000, 16_000, 16_000]);
        let mut claims: Vec<Claim> = (0..100).map(|_| Claim::empty(&budget)).collect();
        for claim in &mut claims {
            let _ = claim.resize(1_000, Allowance::UnprovenPart(UNPROVEN_PART));
        }
        // The part is used up but for what the last steps leave: a newcomer counts with an eighth of it.
        let free = budget.free();
        assert!(free > 8_000);
        let unproven = (8_000 - budget.unproven()).max(1_000);
        assert_eq!(left(), [unproven, unproven, free, free]);
    }
}
