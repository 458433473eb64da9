//! The end of a store: it grants no more claims, waits for their holders, and closes its files.

use crate::{
    claim::Phase,
    engine::{Engine, watch::Sleep, workers},
    observe::events,
    poison::Poisoned,
    sync::wait::{WakeList, block},
    sync::{atomic::Ordering, thread::JoinHandle},
};
use std::{sync::Arc, task::Poll, time::Duration};

impl Engine {
    /// Stops granting claims, and waits, for `at_most`, until no handle of a claim exists; returns
    /// how many still do.
    pub fn drain(self: &Arc<Self>, at_most: Duration) -> u64 {
        if !self.draining.swap(true, Ordering::SeqCst) {
            // A caller that was about to be granted a claim has it now, and is counted.
            self.index.shards().for_each(drop);
            events::draining(self.holders.count());
        }
        let mut sleep = Sleep::new(self, at_most);
        block(|context| {
            let since = self.handle_gone.count();
            let left = self.holders.count();
            if left == 0 || sleep.poll(context).is_ready() {
                return Poll::Ready(left);
            }
            match self.handle_gone.poll_since(since, context) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(()) => {
                    context.waker().wake_by_ref();
                    Poll::Pending
                }
            }
        })
    }

    /// Closes the store: refuses all further calls, makes durable what was written, and ends the
    /// store's `threads`. Called once.
    pub fn close(&self, threads: Vec<JoinHandle<()>>) -> Result<(), Poisoned> {
        self.closed.store(true, Ordering::SeqCst);
        // A call that was about to write has finished when its lock has been free once.
        self.leave_handles();
        self.decisions.close();
        drop(self.rolling.lock());
        let closed = self.close_files();
        workers::stop(self, threads);
        self.release_waiters();
        events::closed(&self.storage.place(), closed.is_ok());
        closed
    }

    /// Wakes all waiters, so that they find the store closed.
    fn release_waiters(&self) {
        self.fail_groups();
        let mut over = WakeList::default();
        self.timeouts.lock().advance(u64::MAX, &mut |waker| over.add([waker]));
        self.wake_waiters();
    }

    /// Closes everything in good order: open segments are sealed, the reasons of interrupted keys
    /// and the time are stored.
    fn close_files(&self) -> Result<(), Poisoned> {
        self.note_interruptions()?;
        for (_, appender) in self.log.appenders() {
            appender.close_if(&self.log.shared, |_, _| true);
        }
        self.commit_all()?;
        self.commit_closed()?;
        // Claims that the commits completed or replaced are cleared now, and their notes are
        // stored; make that durable too.
        let _ = self.cells.note_time(self.now());
        self.cells.touch();
        self.sync_claims()?;
        let _one = self.keeping.lock();
        self.seal_full()?;
        self.write_superblock(|superblock| superblock.closed = true)
    }

    /// Stores what is only in memory of interrupted keys: reason and time.
    fn note_interruptions(&self) -> Result<(), Poisoned> {
        let now = self.now();
        for mut shard in self.index.shards() {
            let undecided: Vec<u32> = shard.undecided.iter().map(|(at, _)| at).collect();
            for at in undecided {
                let undecided = shard.undecided.get_mut(at).expect("listed under this lock");
                undecided.held.phase = undecided.held.phase_at(now);
                if matches!(undecided.held.phase, Phase::InFlight { .. }) {
                    continue;
                }
                if undecided.next_version()
                    && let Some(chain) = self.write_cells(undecided)?
                {
                    self.cells.replace(&mut undecided.chain, chain);
                }
            }
        }
        Ok(())
    }
}
