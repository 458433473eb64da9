//! Draining: moving bytes from a ring into its segments, by the calling thread or by the draining
//! thread, which tasks call, and threads when another one drains.

use super::{Appender, DRAIN_BYTES, Draining, MAIN_CLASS, Shared};
use crate::{
    group_commit::WaiterId,
    log::slot::Slot,
    poison::Poisoned,
    storage::page_bytes,
    sync::{atomic::Ordering, unlock_fair, yield_now},
};
use std::{
    sync::Arc,
    task::{Context, Poll},
};

impl Appender {
    /// Moves what is written without a gap into the segments.
    pub fn drain(&self, shared: &Shared) -> Result<u64, Poisoned> {
        let mut draining = self.draining.lock();
        while self.drain_piece(shared, &mut draining)? {}
        Ok(self.drained())
    }

    /// Ready when a thread that found no room for `len` bytes is to look again. One of those that
    /// wait moves a piece at a time. The others sleep until a part of the ring is free: to queue for
    /// the lock, which would be handed to each in turn, keeps the draining thread from it; to be
    /// woken for each record costs more than the record.
    pub fn poll_thread_space(
        &self,
        shared: &Shared,
        len: u64,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Poisoned>> {
        loop {
            let since = self.roomy.count();
            if self.is_roomy(len) {
                return Poll::Ready(Ok(()));
            }
            let draining = match self.is_served() {
                true => self.draining.try_lock(),
                false => Some(self.draining.lock()),
            };
            let Some(mut draining) = draining else {
                let polled = self.roomy.poll_since(since, context);
                self.call();
                return polled.map(Ok);
            };
            let moved = self.drain_piece(shared, &mut draining)?;
            drop(draining);
            self.grant();
            if !moved {
                // An appender is in the middle of copying the oldest frame: not for long.
                yield_now();
            }
        }
    }

    /// Whether threads that wait are to look again: a quarter of the ring is free, so that each
    /// finds room for several records.
    fn is_roomy(&self, len: u64) -> bool {
        let undrained = self.reserved().saturating_sub(self.drained());
        let free = self.ring.bytes().saturating_sub(undrained + self.room.granted());
        undrained == 0 || free >= len.max(self.ring.bytes() / 4)
    }

    /// Grants the free room to the tasks that wait for it, the first ones first, and wakes threads
    /// if there is enough for them. Returns whether callers are left, and whether something is left
    /// to drain.
    fn grant(&self) -> (bool, bool) {
        let undrained = self.reserved().saturating_sub(self.drained());
        let free = self.ring.bytes().saturating_sub(undrained);
        let tasks_wait = self.room.grant(free, undrained == 0);
        if self.is_roomy(0) {
            self.roomy.notify();
        }
        (tasks_wait || self.roomy.is_waited_for(), undrained > 0)
    }

    /// Moves a piece, within one segment. Returns whether there was something to do.
    pub(super) fn drain_piece(
        &self,
        shared: &Shared,
        draining: &mut Draining,
    ) -> Result<bool, Poisoned> {
        shared.poison.check_writer()?;
        let position = self.drained();
        let piece = DRAIN_BYTES.min(self.ring.bytes() / 2);
        let written = self.ring.written_within(position, position + piece);
        let Some((slot, footer_at, full)) = self.next_extent() else {
            return Ok(false);
        };
        let upto = full.unwrap_or(u64::MAX).min(written);
        if upto > position {
            let (offset, reached) = (position - slot.base(), upto - slot.base());
            // To the end of the page: a page of which only a part is written, and which is in no
            // cache, would have to be read from the disk first. What follows in the ring is
            // written over by the next piece, or the footer. Records themselves end before the next
            // footer, which is longer than the one that may be there.
            let end = reached.next_multiple_of(page_bytes()).min(footer_at);
            let len = (end - offset).min(self.ring.bytes());
            self.ring
                .drain_to(position, len, &*slot.file, offset)
                .map_err(|error| shared.poison.trip("writing a segment", &error))?;
            match draining.touched.last_mut() {
                Some((last, at)) if last.number == slot.number => *at = reached,
                _ => draining.touched.push((slot.clone(), reached)),
            }
            slot.set_drained(reached);
            self.drained.store(upto, Ordering::Release);
        } else if full != Some(position) {
            return Ok(false);
        }
        if full == Some(upto) {
            let extent = self.extents.lock().pop_front().expect("seen above");
            draining.full.extend(extent.full);
        }
        Ok(true)
    }

    /// Whether there is a thread that drains when it is called.
    pub fn is_served(&self) -> bool {
        self.drain_notifier.has_listener()
    }

    /// Has the draining thread look at what callers wait for.
    pub fn call(&self) {
        self.called.store(true, Ordering::SeqCst);
        self.drain_notifier.notify();
    }

    /// Ready when there is room for `len` bytes, for a task. Must be given up with
    /// [`Appender::leave_space`].
    pub fn poll_space(
        &self,
        len: u64,
        place: &mut WaiterId,
        context: &mut Context<'_>,
    ) -> Poll<()> {
        let queues = place.id.is_none();
        let polled = self.room.poll(len, place, context);
        if queues {
            self.call();
        }
        polled
    }

    /// Ends a wait for room.
    pub fn leave_space(&self, len: u64, place: &mut WaiterId) {
        if self.room.leave(len, place) {
            self.call();
        }
    }

    /// Returns whether the draining thread was signalled since the last call of this.
    pub fn take_call(&self) -> bool {
        self.called.swap(false, Ordering::SeqCst)
    }

    /// For the draining thread: moves a piece, and wakes callers for whom there is room now. Returns
    /// whether it is to come again at once, after the other classes have had a piece too: because
    /// more may have been written or, if it was `called`, because callers wait for room, or an
    /// appender is in the middle of copying the oldest frame.
    pub fn serve(&self, shared: &Shared, called: bool) -> Result<bool, Poisoned> {
        let mut draining = self.draining.lock();
        let moved = self.drain_piece(shared, &mut draining)?;
        unlock_fair(draining);
        let (callers_wait, undrained) = self.grant();
        let copying = undrained && !moved;
        // A record of the main class need not be drained to be in the kernel's hands. A task that
        // waits for more than this piece calls again.
        if called && self.class != MAIN_CLASS && !copying {
            self.moved.notify();
        }
        let again = called && (copying || callers_wait && undrained);
        if again {
            self.called.store(true, Ordering::SeqCst);
        }
        if again && copying {
            yield_now();
        }
        Ok(moved || again)
    }

    /// Nothing is drained any more: waiters look for the reason.
    pub fn release_waiters(&self) {
        self.room.release();
        self.roomy.notify();
        self.moved.notify();
    }

    /// The oldest segment with bytes to receive, the offset of the footer that it has, and the
    /// position at which it is full.
    fn next_extent(&self) -> Option<(Arc<Slot>, u64, Option<u64>)> {
        let extents = self.extents.lock();
        let extent = extents.front()?;
        let end = extent.full.as_ref().map(|f| extent.slot.base() + f.summary.data_end);
        Some((extent.slot.clone(), extent.footer_at, end))
    }
}
