//! The end of a handle without a decision, while its store is open or after it was closed.

use crate::{
    claim::Phase,
    engine::{Engine, outlived},
    index::{Shard, Undecided},
    log::claim_bytes,
    record::Reason,
    spi::{Abandon, Ticket},
    stats::Count,
    sync::wait::WakeList,
    token::Token,
};
use std::sync::atomic::Ordering;

impl Engine {
    /// Ends the claim of a handle that is gone without a decision. Never waits for the disk.
    pub fn abandon(&self, ticket: &Ticket, how: Abandon) {
        if self.check_process().is_err() {
            // The claim is the parent's, and so may be the locks.
            return;
        }
        self.abandon_here(ticket, how);
        if self.closed.load(Ordering::SeqCst) {
            // Closing has noted it as left, or comes to this shard later and finds it gone.
            outlived::ended(self.id, ticket.token, how);
        }
        // An undone attempt clears its cells, which may fail.
        self.tell_if_poisoned();
    }

    fn abandon_here(&self, ticket: &Ticket, how: Abandon) {
        let [hash, at] = ticket.note;
        let mut wakes = WakeList::default();
        let mut shard = self.index.shard(hash);
        let now = self.now();
        let Some(undecided) = shard.attempt(at as u32, ticket.token) else {
            self.orphan_ended(&mut shard, hash, ticket.token);
            return;
        };
        if !undecided.held.holder_lives {
            return;
        }
        // A closed store's files may belong to another opener by now.
        if how == Abandon::Undelivered && !self.closed.load(Ordering::Acquire) {
            if let Ok(false) = self.undo_takeover(&mut shard, &mut wakes, at as u32) {
                self.count(hash, Count::Undelivered);
                let _ = self.give_back(&mut shard, &mut wakes, at as u32, false);
            }
            return;
        }
        let reason = reason_of(how);
        if matches!(undecided.held.phase_at(now), Phase::InFlight { .. }) {
            self.count(hash, Count::Abandoned);
        }
        undecided.held.abandon(reason, now);
        undecided.handle_gone();
        undecided.attempt_counts();
        wakes.add(undecided.waiters.take());
        let bytes = Self::promise_of(undecided);
        self.log.shared.space.adjust(bytes as i64);
        self.handle_ended(hash);
        self.rearm(&mut shard, at as u32, now);
    }

    /// A handle of an earlier opening of this store is gone: now its key is abandoned.
    pub fn earlier_ended(&self, number: u64, token: Token, how: Abandon) {
        let mut wakes = WakeList::default();
        let mut shard = self.index.shard(number);
        let now = self.now();
        let found = shard.undecided.iter().find(|(_, u)| u.earlier && u.held.token == token);
        let Some((at, hash)) = found.map(|(at, undecided)| (at, undecided.hash)) else {
            self.orphan_ended(&mut shard, number, token);
            return;
        };
        let undecided = shard.undecided.get_mut(at).expect("found under this lock");
        if !std::mem::replace(&mut undecided.held.holder_lives, false) {
            return;
        }
        // "Crashed" was the opening's assumption.
        if let Phase::Interrupted { reason: reason @ Reason::Crashed, .. } =
            &mut undecided.held.phase
        {
            *reason = reason_of(how);
        }
        self.count(hash, Count::Abandoned);
        wakes.add(undecided.waiters.take());
        self.handle_ended(hash);
        self.rearm(&mut shard, at, now);
    }

    /// A handle whose key was decided, or taken over, before it ended.
    fn orphan_ended(&self, shard: &mut Shard, hash: u64, token: Token) {
        if let Some(bytes) = shard.orphans.take(token) {
            self.log.shared.space.adjust(bytes as i64);
            self.handle_ended(hash);
        }
    }

    /// Registers, at closing, the handles of this opening that still exist. Their calls are late
    /// from then on.
    pub fn leave_handles(&self) {
        for (number, shard) in (0..).zip(self.index.shards()) {
            let undecided = shard.undecided.iter().map(|(_, undecided)| undecided);
            let own = undecided.filter(|u| u.held.holder_lives && !u.earlier);
            let own = own.map(|undecided| undecided.held.token);
            outlived::add(self.id, number, own.chain(shard.orphans.own()));
        }
    }

    /// A holder calls after its store has been closed: its effect is not recorded, and another
    /// caller may execute again.
    pub fn late(&self, ticket: &Ticket) {
        outlived::tellers(self, ticket.token, |engine| {
            let (hash, token) = (ticket.note[0], Some(ticket.token));
            engine.alarm(Count::Late, hash, ticket.key.as_ref(), token);
        });
    }

    /// Bytes that are promised to the handle of an undecided key.
    pub fn promise_of(undecided: &Undecided) -> u64 {
        match undecided.earlier {
            true => 0,
            false => claim_bytes(undecided.terms.reserve),
        }
    }

    /// Counts a handle that has ended. The notification may run a waiter's code, which takes no
    /// shard's lock.
    pub fn handle_ended(&self, hash: u64) {
        self.holders.ended(hash);
        if self.draining.load(Ordering::SeqCst) {
            self.handle_gone.notify();
        }
    }
}

fn reason_of(how: Abandon) -> Reason {
    match how {
        Abandon::Panicked => Reason::Panicked,
        Abandon::Dropped | Abandon::Undelivered => Reason::Dropped,
    }
}
