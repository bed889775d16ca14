//! The networks that clients are in: which of them sends next on a core that is busy, and how much credit each holds.
//!
//! A core that sends to one network only, or that has nobody waiting, asks for nothing: a turn is had at once.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use super::totals::Totals;
use super::turns::{EntryId, Table, Waiter};
use crate::io::Io;
use crate::memory::limits::PIECE_BYTES_MAX;

/// The networks of one core's clients. Beyond so many, some share an entry.
pub struct Networks {
    table: RefCell<Table>,
    /// Entries with connections in the middle of a response.
    sending: Cell<usize>,
    /// Wakes the task that gives turns.
    dispatcher: Cell<Option<Waker>>,
    totals: Arc<Totals>,
    /// Whether the other cores know that this one gives turns.
    is_choosing: Cell<bool>,
    /// Whether it gave one since that was asked last.
    gave_turns: Cell<bool>,
}

impl Networks {
    /// None yet, on a core that shares `totals` with the others.
    pub fn new(totals: &Arc<Totals>) -> Rc<Networks> {
        Rc::new(Networks {
            table: RefCell::new(Table::new(Arc::clone(totals))),
            sending: Cell::new(0),
            dispatcher: Cell::new(None),
            totals: Arc::clone(totals),
            is_choosing: Cell::new(false),
            gave_turns: Cell::new(false),
        })
    }

    /// Whether there is a choice at all.
    fn are_several(&self) -> bool {
        self.sending.get() > 1
    }

    /// Waits for the turn to send about so many bytes; `None` if there was nothing to wait for, and nobody who counts.
    pub async fn turn<'a>(&'a self, member: &'a Member, bytes: u64) -> Option<Charge<'a>> {
        let entry = member.entry.get();
        if !self.are_several() {
            if !self.totals.is_one_choosing() {
                return None;
            }
            // Nobody else is sent to here, but where others are that counts.
            self.table.borrow_mut().settle(entry, 0, bytes);
            return Some(Charge {
                networks: self,
                entry,
                bytes,
                sent: 0,
            });
        }
        self.gave_turns.set(true);
        if !self.is_choosing.replace(true) {
            self.totals.note_choosing(true);
        }
        let waiter = &member.waiter;
        waiter.bytes.set(bytes);
        waiter.is_granted.set(false);
        self.table.borrow_mut().enqueue(entry, Rc::clone(waiter));
        if let Some(dispatcher) = self.dispatcher.take() {
            dispatcher.wake();
        }
        poll_fn(|context| match waiter.is_granted.get() {
            true => Poll::Ready(()),
            false => {
                waiter.waker.set(Some(context.waker().clone()));
                Poll::Pending
            }
        })
        .await;
        Some(Charge {
            networks: self,
            entry,
            bytes,
            sent: 0,
        })
    }

    /// Gives turns for as long as the core runs: about a piece's worth, then whoever became ready meanwhile is heard.
    pub async fn give_turns(&self, io: &Io) {
        loop {
            poll_fn(|context| match self.table.borrow().waiting.is_empty() {
                false => Poll::Ready(()),
                true => {
                    self.dispatcher.set(Some(context.waker().clone()));
                    Poll::Pending
                }
            })
            .await;
            let mut given = 0;
            while given < PIECE_BYTES_MAX as u64 {
                let Some(waiter) = self.table.borrow_mut().next() else {
                    break;
                };
                given += waiter.bytes.get();
                waiter.is_granted.set(true);
                if let Some(waker) = waiter.waker.take() {
                    waker.wake();
                }
            }
            io.yield_now().await;
        }
    }

    /// Now and then: tells the others if this core gives no turns any more. Not at once, as the line of memory that says so
    /// would wander between cores with each small response.
    pub fn tick(&self) {
        if !self.gave_turns.replace(false) && self.is_choosing.replace(false) {
            self.totals.note_choosing(false);
        }
    }

    /// Joins a client to its network.
    pub fn join(self: &Rc<Self>, address: IpAddr) -> Member {
        Member {
            entry: Cell::new(self.table.borrow_mut().join(address.into())),
            networks: Rc::clone(self),
            is_sending: Cell::new(false),
            lent: Cell::new(0),
            waiter: Rc::default(),
        }
    }

    fn leave(&self, entry: EntryId) {
        self.table.borrow_mut().leave(entry);
    }

    /// Notes that one of an entry's connections begins or ends a response.
    fn note_sending(&self, entry: EntryId, begins: bool) {
        let mut table = self.table.borrow_mut();
        let sending = &mut table.entry(entry).sending;
        let before = usize::from(*sending > 0);
        *sending = if begins { *sending + 1 } else { *sending - 1 };
        let after = usize::from(*sending > 0);
        self.sending.set(self.sending.get() + after - before);
    }
}

impl Drop for Networks {
    fn drop(&mut self) {
        if self.is_choosing.get() {
            self.totals.note_choosing(false);
        }
    }
}

/// What a network was charged with for a turn. Dropped, it is what was sent.
pub struct Charge<'a> {
    networks: &'a Networks,
    entry: EntryId,
    bytes: u64,
    sent: u64,
}

impl Charge<'_> {
    /// So many bytes were sent.
    pub fn sent(mut self, bytes: u64) {
        self.sent = bytes;
    }
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        let mut table = self.networks.table.borrow_mut();
        table.settle(self.entry, self.bytes, self.sent);
    }
}

/// A connection's membership in its network.
pub struct Member {
    networks: Rc<Networks>,
    entry: Cell<EntryId>,
    is_sending: Cell<bool>,
    /// Bytes of credit that it has borrowed.
    lent: Cell<u64>,
    waiter: Rc<Waiter>,
}

impl Member {
    /// The client turns out to be at another address. Not to be called while it waits for a turn.
    pub fn move_to(&self, address: IpAddr) {
        let (is_sending, lent) = (self.is_sending.get(), self.lent.get());
        self.set_sending(false);
        self.set_lent(0);
        let before = self.entry.get();
        let entry = self.networks.table.borrow_mut().join(address.into());
        self.entry.set(entry);
        self.networks.leave(before);
        self.set_sending(is_sending);
        self.set_lent(lent);
    }

    /// Notes whether the connection is in the middle of a response.
    pub fn set_sending(&self, is_sending: bool) {
        if self.is_sending.replace(is_sending) != is_sending {
            self.networks.note_sending(self.entry.get(), is_sending);
        }
    }

    /// Notes what the connection has borrowed.
    pub fn set_lent(&self, bytes: u64) {
        let before = self.lent.replace(bytes);
        let mut table = self.networks.table.borrow_mut();
        if let Some(total) = &table.entry(self.entry.get()).total {
            total.note_lent(before, bytes);
        }
    }

    /// Whether other networks are sent to, by this core or by another.
    pub fn has_others(&self) -> bool {
        self.networks.are_several() || self.networks.totals.is_one_choosing()
    }

    /// Whether the network's loans, of all cores, are within what is fair, with so many bytes `more` and so many `free` in
    /// all: where other networks are sent to, none borrows more than it leaves for them.
    pub fn may_borrow(&self, more: u64, free: u64) -> bool {
        if !self.has_others() {
            return true;
        }
        let mut table = self.networks.table.borrow_mut();
        let total = &table.entry(self.entry.get()).total;
        let lent = total.as_ref().map_or(0, |total| total.lent());
        lent.saturating_add(more) <= free.saturating_sub(more)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.set_sending(false);
        self.set_lent(0);
        self.networks.leave(self.entry.get());
    }
}

#[cfg(test)]
mod tests {
    use super::super::turns::{BEHIND_MAX, OWED_MAX, PAID_MAX};
    use super::*;
    use crate::memory::limits::NETWORKS_MAX;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn address(network: u32, host: u32) -> IpAddr {
        Ipv4Addr::from_bits(0x0a00_0000 | network << 8 | host).into()
    }

    /// Sends pieces of these sizes for connections that are always ready, and says what each network got.
    fn served(connections: &[usize], bytes: impl Fn(usize) -> u64, turns: usize) -> Vec<u64> {
        let networks = Networks::new(&Arc::default());
        let mut sent = vec![0; connections.len()];
        let members: Vec<Vec<Member>> = (0..connections.len())
            .map(|network| {
                (0..connections[network])
                    .map(|host| networks.join(address(network as u32, host as u32 % 256)))
                    .collect()
            })
            .collect();
        let ready = |member: &Member, network| {
            member.waiter.bytes.set(bytes(network));
            let mut table = networks.table.borrow_mut();
            table.enqueue(member.entry.get(), Rc::clone(&member.waiter));
        };
        for (network, members) in members.iter().enumerate() {
            members.iter().for_each(|member| ready(member, network));
        }
        for _ in 0..turns {
            let waiter = networks.table.borrow_mut().next().unwrap();
            let network = members
                .iter()
                .position(|all| all.iter().any(|one| Rc::ptr_eq(&one.waiter, &waiter)))
                .unwrap();
            let member = members[network]
                .iter()
                .find(|one| Rc::ptr_eq(&one.waiter, &waiter))
                .unwrap();
            sent[network] += waiter.bytes.get();
            ready(member, network);
        }
        sent
    }

    #[test]
    fn five_hundred_connections_get_what_one_gets() {
        let mut connections = [1; 11];
        connections[0] = 500;
        let sent = served(&connections, |_| 100_000, 11_000);
        let fair = sent.iter().sum::<u64>() / 11;
        assert!(
            sent.iter().all(|&got| got.abs_diff(fair) <= 200_000),
            "{sent:?}"
        );
        // With a small send buffer a network takes more turns.
        let sent = served(
            &connections,
            |network| if network == 3 { 8_000 } else { 200_000 },
            50_000,
        );
        let fair = sent.iter().sum::<u64>() / 11;
        assert!(
            sent.iter().all(|&got| got.abs_diff(fair) <= 400_000),
            "{sent:?}"
        );
    }

    #[test]
    fn nobody_saves_up_turns() {
        let networks = Networks::new(&Arc::default());
        let [busy, late] = [1, 2].map(|network| networks.join(address(network, 1)));
        let ready = |member: &Member, bytes| {
            member.waiter.bytes.set(bytes);
            let mut table = networks.table.borrow_mut();
            table.enqueue(member.entry.get(), Rc::clone(&member.waiter));
        };
        let next = || networks.table.borrow_mut().next().unwrap();
        for _ in 0..1000 {
            ready(&busy, BEHIND_MAX);
            next();
        }
        // The late one comes first, for about one piece, and then in turn.
        let mut turns = Vec::new();
        ready(&busy, BEHIND_MAX);
        ready(&late, BEHIND_MAX);
        for _ in 0..20 {
            let is_late = Rc::ptr_eq(&next(), &late.waiter);
            turns.push(is_late);
            ready(if is_late { &late } else { &busy }, BEHIND_MAX);
        }
        assert!(turns[0]);
        let count = turns.iter().filter(|late| **late).count();
        assert!((10..=12).contains(&count), "{turns:?}");
    }

    #[test]
    fn what_was_not_sent_is_not_charged() {
        let networks = Networks::new(&Arc::default());
        let member = networks.join(address(1, 1));
        let mut table = networks.table.borrow_mut();
        member.waiter.bytes.set(1000);
        table.enqueue(0, Rc::clone(&member.waiter));
        table.next().unwrap();
        assert_eq!(table.entries[0].served, 1000);
        table.enqueue(0, Rc::clone(&member.waiter));
        table.settle(0, 1000, 300);
        assert_eq!(table.entries[0].served, 300);
        assert_eq!(table.waiting.first(), Some(&(300, 0)));
    }

    /// A core whose connections, one for each of these networks, are always ready, in pieces of so many bytes.
    struct AlwaysReady {
        networks: Rc<Networks>,
        members: Vec<Member>,
        got: Vec<u64>,
    }

    impl AlwaysReady {
        fn new(totals: &Arc<Totals>, clients: &[u32], bytes: u64) -> AlwaysReady {
            let networks = Networks::new(totals);
            let join = |&network: &u32| networks.join(address(network, 1));
            let core = AlwaysReady {
                members: clients.iter().map(join).collect(),
                got: vec![0; clients.len()],
                networks,
            };
            for member in &core.members {
                member.waiter.bytes.set(bytes);
                core.ready(member);
            }
            core
        }

        fn ready(&self, member: &Member) {
            let mut table = self.networks.table.borrow_mut();
            table.enqueue(member.entry.get(), Rc::clone(&member.waiter));
        }

        fn send(&mut self, turns: usize) {
            for _ in 0..turns {
                let waiter = self.networks.table.borrow_mut().next().unwrap();
                let at = |member: &Member| Rc::ptr_eq(&member.waiter, &waiter);
                let at = self.members.iter().position(at).unwrap();
                self.got[at] += waiter.bytes.get();
                self.ready(&self.members[at]);
            }
        }
    }

    #[test]
    fn what_another_core_sends_counts_here() {
        const BYTES: u64 = 8_000;
        // Turn by turn, and in bursts, as cores that share their processors with others send.
        for burst in [1, 7, 500] {
            let totals = Arc::default();
            let mut here = AlwaysReady::new(&totals, &[1, 2, 3], BYTES);
            let mut there = AlwaysReady::new(&totals, &[1, 4, 5], BYTES);
            for _ in 0..10_000 / burst {
                here.send(burst);
                there.send(burst);
            }
            let crowd = here.got[0] + there.got[0];
            let others = here.got[1..].iter().chain(&there.got[1..]);
            for &got in others {
                let most = crowd.max(got) * 9 / 10;
                assert!(crowd.min(got) >= most, "{burst}: {crowd} and {got}");
            }
        }
    }

    #[test]
    fn who_is_served_fast_elsewhere_still_has_turns_here() {
        let totals = Arc::default();
        let mut fast = AlwaysReady::new(&totals, &[1], 250_000);
        let mut here = AlwaysReady::new(&totals, &[1, 2], 8_000);
        for _ in 0..2_000 {
            fast.send(5);
            here.send(1);
        }
        let [crowd, other] = here.got[..] else {
            panic!("two")
        };
        assert!(crowd * (PAID_MAX + 2) >= other, "{crowd} of {other}");
        assert!(crowd * (PAID_MAX - 2) <= other, "{crowd} of {other}");
        // Once the other core has none of it there is no debt but the bounded one.
        drop(fast);
        here.got.fill(0);
        here.send(10_000);
        assert!(here.got[0].abs_diff(here.got[1]) <= OWED_MAX + 1_000_000);
    }

    #[test]
    fn a_core_without_a_choice_charges_where_another_has_one() {
        fn at_once<T>(future: impl Future<Output = T>) -> Poll<T> {
            let mut context = std::task::Context::from_waker(Waker::noop());
            std::pin::pin!(future).poll(&mut context)
        }
        let totals: Arc<Totals> = Arc::default();
        let [here, there] = [(); 2].map(|()| Networks::new(&totals));
        let [one, same, other] = [(&here, 1), (&there, 1), (&there, 2)].map(|(core, network)| {
            let member = core.join(address(network, 1));
            member.set_sending(true);
            member
        });
        assert!(matches!(at_once(here.turn(&one, 100)), Poll::Ready(None)));
        assert!(at_once(there.turn(&other, 100)).is_pending());
        let Poll::Ready(Some(charge)) = at_once(here.turn(&one, 100)) else {
            panic!("it waits for nobody")
        };
        charge.sent(70);
        let sent = |member: &Member| {
            let table = member.networks.table.borrow();
            let total = table.entries[member.entry.get() as usize].total.clone();
            total.unwrap().sent()
        };
        assert_eq!((sent(&one), sent(&same)), (70, 70));
        // Without turns for a whole tick it has no choice any more.
        there.tick();
        assert!(totals.is_one_choosing());
        there.tick();
        assert!(!totals.is_one_choosing());
        assert!(matches!(at_once(here.turn(&one, 100)), Poll::Ready(None)));
        drop((one, same, other));
        assert_eq!(totals.count(), 0);
    }

    #[test]
    fn loans_of_all_cores_count() {
        let totals = Arc::default();
        let [here, there] = [(); 2].map(|()| Networks::new(&totals));
        let [one, same] = [&here, &there].map(|core| core.join(address(1, 1)));
        let other = here.join(address(2, 1));
        for member in [&one, &same, &other] {
            member.set_sending(true);
        }
        one.set_lent(400);
        same.set_lent(300);
        assert!(one.may_borrow(0, 700) && !one.may_borrow(0, 699));
        assert!(other.may_borrow(200, 400));
        same.set_lent(0);
        assert!(one.may_borrow(0, 400));
    }

    #[test]
    fn a_network_borrows_no_more_than_it_leaves_for_others() {
        let networks = Networks::new(&Arc::default());
        let [one, other] = [1, 2].map(|network| networks.join(address(network, 1)));
        one.set_sending(true);
        one.set_lent(600);
        assert!(one.may_borrow(1000, 1000), "alone it has all");
        other.set_sending(true);
        assert!(!one.may_borrow(0, 500) && one.may_borrow(0, 600));
        assert!(other.may_borrow(200, 400) && !other.may_borrow(201, 400));
        other.move_to(address(1, 7));
        assert!(one.may_borrow(1000, 1000), "the same network now");
        other.move_to(address(3, 7));
        assert!(!one.may_borrow(1000, 1000));
        drop(other);
        assert!(one.may_borrow(1000, 1000));
    }

    proptest! {
        /// Whoever comes and goes: the table is bounded and its counts are right, and in the end nothing is left.
        #[test]
        fn members_come_and_go(
            steps in prop::collection::vec((0u32..3 * NETWORKS_MAX as u32, 0usize..2000, any::<bool>()), 1..3000),
        ) {
            let totals = Arc::default();
            let networks = Networks::new(&totals);
            let mut members = Vec::new();
            for (network, leaves, sends) in steps {
                if leaves < members.len() {
                    drop(members.swap_remove(leaves));
                }
                let member = networks.join(address(network, 1));
                member.set_sending(sends);
                member.set_lent(u64::from(network));
                members.push(member);
            }
            {
                let table = networks.table.borrow();
                prop_assert!(table.entries.len() <= NETWORKS_MAX);
                let count: u32 = table.entries.iter().map(|entry| entry.members).sum();
                prop_assert_eq!(count as usize, members.len());
                let used = table.entries.len() - table.unused.len();
                prop_assert_eq!(totals.count(), used);
                let sending = table.entries.iter().filter(|entry| entry.sending > 0);
                prop_assert_eq!(sending.count(), networks.sending.get());
            }
            drop(members);
            prop_assert_eq!(totals.count(), 0);
            let table = networks.table.borrow();
            prop_assert!(table.of.is_empty() && networks.sending.get() == 0);
            prop_assert_eq!(table.unused.len(), table.entries.len());
        }
    }
}
