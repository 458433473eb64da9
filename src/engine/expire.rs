//! The effects of time: leases end, interrupted keys and segments expire, timed waits end. No
//! answer to a caller is decided here; every call compares the deadlines itself.

use crate::{
    claim::Phase,
    engine::Engine,
    log::Appender,
    record::Reason,
    stats::Count,
    sync::wait::{WakeList, wake_all},
};
use std::sync::atomic::Ordering;

impl Engine {
    /// Does what is due at `now`; returns when something is due next.
    pub fn expire(&self, now: u64) -> Option<u64> {
        self.index.take_next_due();
        let mut next = self.expire_keys(now);
        next = next.min(self.expire_segments(now));
        next = next.min(self.expire_waits(now));
        self.index.deadline_set(next);
        self.note_time(now);
        match self.index.next_due() {
            u64::MAX => None,
            due => Some(due),
        }
    }

    /// Notes the time, and makes the note durable at intervals, so that a clock that is set back
    /// doesn't bring back a record that was seen expired.
    fn note_time(&self, now: u64) {
        const DURABLE_EVERY_MS: u64 = 60_000;
        if self.closed.load(Ordering::SeqCst) {
            return;
        }
        let _ = self.cells.note_time(now);
        let last = self.time_noted.load(Ordering::Relaxed);
        if now >= last + DURABLE_EVERY_MS {
            self.time_noted.store(now, Ordering::Relaxed);
            self.cells.group.request(self.cells.touch());
        }
    }

    fn expire_keys(&self, now: u64) -> u64 {
        let mut next = u64::MAX;
        for mut shard in self.index.shards() {
            let mut wakes = WakeList::default();
            if shard.next_due().is_some_and(|due| due <= now) {
                if self.closed.load(Ordering::SeqCst) {
                    // A waker has closed it, perhaps; its files may be another's by now.
                    return u64::MAX;
                }
                for (at, token) in shard.due(now) {
                    let Some(undecided) = shard.attempt(at, token) else {
                        continue;
                    };
                    if undecided.held.expired(now, self.interrupted_ms(undecided.terms.remember_ms))
                    {
                        if let Some(position) = self.unsettled(undecided) {
                            self.cells.group.request(position);
                            shard.set_timer(at, Some(now + 1));
                            continue;
                        }
                        self.forget_undecided(&mut shard, &mut wakes, at);
                        continue;
                    }
                    let before = undecided.held.phase;
                    undecided.held.phase = undecided.held.phase_at(now);
                    let lapsed = matches!(
                        undecided.held.phase,
                        Phase::Interrupted { reason: Reason::LeasePassed, .. }
                    );
                    let hash = undecided.hash;
                    if lapsed && before != undecided.held.phase {
                        self.count(hash, Count::LeasePassed);
                        wakes.add(undecided.waiters.take());
                    }
                    self.rearm(&mut shard, at, now);
                }
            }
            next = next.min(shard.next_due().unwrap_or(u64::MAX));
            drop(shard);
        }
        next
    }

    fn expire_segments(&self, now: u64) -> u64 {
        let mut next = u64::MAX;
        for (_, appender) in self.log.appenders() {
            match self.close_expired(appender, now) {
                Some(due) => next = next.min(due),
                None => self.notifiers.keep.notify(),
            }
        }
        let mut expiring = self.expiring.lock();
        let crate::engine::Expiring { wheel, due } = &mut *expiring;
        wheel.advance(now, &mut |slot| due.push(slot));
        if !due.is_empty() {
            self.notifiers.keep.notify();
        }
        next.min(wheel.next_wakeup().unwrap_or(u64::MAX))
    }

    /// Closes the open segment of an appender if all its records have expired. `Some`: when they
    /// will have; `None`: it was closed.
    fn close_expired(&self, appender: &Appender, now: u64) -> Option<u64> {
        let mut due = Some(u64::MAX);
        let space = &self.log.shared.space;
        let frame_max = self.log.shared.frame_max;
        let mut lent = 0;
        appender.close_if(&self.log.shared, |slot, used| {
            if used == 0 {
                return false;
            }
            if slot.drop_ms() > now {
                due = Some(slot.drop_ms());
                return false;
            }
            // Its remaining room leaves the account until the segment is back; none of it may be
            // reserved.
            lent = (slot.usable(frame_max) - used).max(0);
            let closes = space.reserve(lent as u64);
            if closes {
                due = None;
            } else {
                due = Some(now + 1000);
            }
            closes
        });
        if due.is_none() {
            space.adjust(lent);
        }
        due
    }

    fn expire_waits(&self, now: u64) -> u64 {
        let mut over = Vec::new();
        let next = {
            let mut timeouts = self.timeouts.lock();
            timeouts.advance(now, &mut |waker| over.push(waker));
            timeouts.next_wakeup().unwrap_or(u64::MAX)
        };
        wake_all(over);
        next
    }

    /// The claims file has changed: in `Buffered` it becomes durable in time.
    pub fn claims_written(&self) {
        if self.config.max_delay_ms().is_some() && self.cells.became_dirty(self.now()) {
            self.notifiers.claims.notify();
        }
    }

    /// Everything that a store without threads has to do by itself.
    pub fn housekeep(&self) -> Result<(), crate::poison::Poisoned> {
        self.expire(self.now());
        if self.config.max_delay_ms().is_some() && !self.closed.load(Ordering::Acquire) {
            self.commit_all()?;
        }
        for (class, appender) in self.log.appenders() {
            appender.group.lead_if_needed(&self.appender_commit(class));
        }
        self.cells.group.lead_if_needed(&self.cells);
        self.keep()
    }
}
