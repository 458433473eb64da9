//! Group commit: one sync covers all waiters, and a waiter is released only by a sync that
//! covered its position.
//!
//! A caller that finds no leader leads: it waits a moment for the callers of the last group to
//! come back (bounded, and only while fewer have arrived), makes everything durable that was
//! written by then, and wakes the callers of that group. The others wait for this group or for the
//! next one. If only tasks wait, which must not block, a thread of the store leads.
//!
//! Two group commits whose callers alternate between them (a claim waits in one, its completion in
//! the other) take turns at the disk: side by side their syncs slow each other down, and callers
//! out of step would stay so, each a group of its own. A leader that has waited for its turn waits
//! a moment more for the callers that the other group commit has just released; from then on they
//! are in step.
//!
//! Ground rules. `leading` changes only under the lock; the caller that sets it leads, and no other
//! thread calls [`Commit::commit`]. `durable` only grows, and only after a commit has returned.
//! When leading ends and waiters remain, one that can lead is woken, or the notifier is notified,
//! so no waiter waits for a leader that never comes. A failed commit releases all waiters with the
//! failure.

use crate::{
    poison::Poisoned,
    sync::wait::{Caller, Notifier},
    sync::{
        Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        yield_now,
    },
};
use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

/// The longest time that a leader waits for the callers of the last group: half of what the
/// fastest sync takes on a good disk. Measured: two callers 14.4 k commits/s with it and 8.0 k
/// without, because without it they take turns.
const RENDEZVOUS: Duration = Duration::from_micros(60);

/// A file or log that a group commit makes durable.
pub(crate) trait Commit {
    /// Makes durable everything written before the call; returns the position below which
    /// everything now is. Called by one thread at a time.
    fn commit(&self) -> Result<u64, Poisoned>;

    /// Called after a commit that has covered so many callers, up to `position`, for events.
    fn committed(&self, _callers: usize, _position: u64) {}
}

/// The turn at the disk, for which group commits wait.
#[derive(Debug)]
pub(crate) struct Turn {
    lock: Mutex<()>,
    /// Callers in the last group that had its turn.
    last_group: AtomicUsize,
    /// Leaders that had to wait for it.
    #[cfg(all(test, not(onlyonce_loom)))]
    waited: AtomicUsize,
}

impl Turn {
    pub fn new() -> Self {
        Turn {
            lock: Mutex::new(()),
            last_group: AtomicUsize::new(0),
            #[cfg(all(test, not(onlyonce_loom)))]
            waited: AtomicUsize::new(0),
        }
    }
}

#[derive(Debug)]
pub(crate) struct GroupCommit {
    durable: AtomicU64,
    /// Callers that came since the running (or last) group began.
    arrived: AtomicUsize,
    state: Mutex<State>,
    notifier: Arc<Notifier>,
    turn: Option<Arc<Turn>>,
    /// The longest time that a leader waits for others.
    rendezvous: Duration,
}

#[derive(Debug)]
struct State {
    leading: bool,
    failed: bool,
    /// Callers of the last two groups, those included that came while one ran. The larger is
    /// expected again: a caller that was a moment late makes a small group between large ones.
    last_groups: [usize; 2],
    next_id: u64,
    waiters: Vec<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    position: u64,
    caller: Caller,
    /// `None`: its future was dropped; the write is still to become durable.
    waker: Option<Waker>,
}

/// A waiter's number in a queue. It must be given back (to a group commit by
/// [`GroupCommit::leave`]) when it is not needed.
#[derive(Debug, Default)]
pub(crate) struct WaiterId {
    pub id: Option<u64>,
    arrived: bool,
}

impl GroupCommit {
    pub fn new(notifier: Arc<Notifier>, turn: Option<Arc<Turn>>) -> Self {
        GroupCommit {
            durable: AtomicU64::new(0),
            arrived: AtomicUsize::new(0),
            state: Mutex::new(State {
                leading: false,
                failed: false,
                last_groups: [0; 2],
                next_id: 0,
                waiters: Vec::new(),
            }),
            notifier,
            turn,
            rendezvous: RENDEZVOUS,
        }
    }

    /// The same with positions that begin here. (Made so, and not stored: an appender is made in
    /// the initialisation of a cell that knows nothing of a checker's threads, and where one of
    /// these could be switched to, the others would wait for it for ever.)
    pub fn beginning_at(self, position: u64) -> Self {
        GroupCommit { durable: AtomicU64::new(position), ..self }
    }

    /// Everything below this position is durable.
    pub fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// Ready when everything below `position` is durable. A thread leads by itself when no other
    /// caller does; a task leaves that to the store's thread, if it has one.
    pub fn poll(
        &self,
        target: &impl Commit,
        position: u64,
        caller: Caller,
        place: &mut WaiterId,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Poisoned>> {
        let leads = caller == Caller::Thread || !self.notifier.has_listener();
        if !std::mem::replace(&mut place.arrived, true) {
            self.arrived.fetch_add(1, Ordering::AcqRel);
        }
        loop {
            if self.durable() >= position {
                return Poll::Ready(Ok(()));
            }
            let mut state = self.state.lock();
            if state.failed {
                return Poll::Ready(Err(Poisoned));
            }
            if self.durable() >= position {
                return Poll::Ready(Ok(()));
            }
            if leads && !state.leading {
                state.leading = true;
                drop(state);
                // Its own outcome is read at the top: the group may not have covered it.
                self.lead(target);
                continue;
            }
            let idle = !state.leading;
            let caller = if leads { Caller::Thread } else { caller };
            state.enqueue(position, caller, place, context);
            drop(state);
            if idle {
                self.notifier.notify();
            }
            return Poll::Pending;
        }
    }

    /// The future of this waiter is dropped. Its write still becomes durable.
    pub fn leave(&self, place: &mut WaiterId) {
        let Some(id) = place.id.take() else { return };
        let mut state = self.state.lock();
        if let Some(waiter) = state.waiters.iter_mut().find(|w| w.id == id) {
            waiter.waker = None;
        } else if !state.leading && !state.waiters.is_empty() {
            // It may have been woken to lead.
            let next = state.next_leader();
            drop(state);
            match next {
                Some(waker) => waker.wake(),
                None => self.notifier.notify(),
            }
        }
    }

    /// For the store's thread: leads if there are waiters and no leader.
    pub fn lead_if_needed(&self, target: &impl Commit) {
        // Once: if waiters are left, the notifier has been notified again, and other group commits
        // come first.
        let mut state = self.state.lock();
        if state.leading || state.failed || state.waiters.is_empty() {
            return;
        }
        state.leading = true;
        drop(state);
        self.lead(target);
    }

    /// Makes durable everything written before the call, unless another caller leads.
    pub fn lead_once(&self, target: &impl Commit) {
        let mut state = self.state.lock();
        if state.leading || state.failed {
            return;
        }
        state.leading = true;
        drop(state);
        self.lead(target);
    }

    /// Wakes `waker` when everything below `position` is durable, or never will be; gives it back
    /// if that is so already.
    pub fn wake_at(&self, position: u64, waker: Waker) -> Option<Waker> {
        let mut state = self.state.lock();
        if state.failed || self.durable() >= position {
            return Some(waker);
        }
        state.enqueue_task(position, Some(waker));
        if !state.leading {
            drop(state);
            self.notifier.notify();
        }
        None
    }

    /// Nothing further becomes durable: the store is poisoned, or closed.
    pub fn fail(&self) {
        let mut state = self.state.lock();
        state.failed = true;
        let released = state.release(self.durable());
        drop(state);
        released.into_iter().for_each(Waker::wake);
    }

    /// Notifies the store's thread to look for work.
    pub fn wake_worker(&self) {
        self.notifier.notify();
    }

    /// `position` is to become durable, although no caller waits for it.
    pub fn request(&self, position: u64) {
        let mut state = self.state.lock();
        state.enqueue_task(position, None);
        if !state.leading {
            drop(state);
            self.notifier.notify();
        }
    }

    fn lead(&self, target: &impl Commit) {
        let mut expected = self.state.lock().last_groups.into_iter().max().unwrap_or(0);
        let turn = self.turn.as_deref().map(|turn| {
            let held = turn.lock.try_lock().unwrap_or_else(|| {
                #[cfg(all(test, not(onlyonce_loom)))]
                turn.waited.fetch_add(1, Ordering::SeqCst);
                let held = turn.lock.lock();
                let released = turn.last_group.load(Ordering::Relaxed);
                expected = expected.max(self.arrived.load(Ordering::Acquire) + released);
                held
            });
            (turn, held)
        });
        self.rendezvous(expected);
        let group = self.arrived.swap(0, Ordering::AcqRel);
        let result = target.commit();
        if let Some((turn, held)) = turn {
            turn.last_group.store(group, Ordering::Relaxed);
            drop(held);
        }
        if let Ok(position) = result {
            self.durable.fetch_max(position, Ordering::AcqRel);
            target.committed(group, position);
        }
        let mut state = self.state.lock();
        state.leading = false;
        state.failed |= result.is_err();
        let came = group + self.arrived.load(Ordering::Acquire);
        state.last_groups = [came, state.last_groups[0]];
        let released = state.release(self.durable());
        let next = state.next_leader();
        let waiters_left = !state.waiters.is_empty();
        drop(state);
        match next {
            Some(waker) => waker.wake(),
            None if waiters_left => self.notifier.notify(),
            None => {}
        }
        released.into_iter().for_each(Waker::wake);
    }

    fn rendezvous(&self, expected: usize) {
        if self.arrived.load(Ordering::Acquire) >= expected {
            return;
        }
        if cfg!(any(onlyonce_loom, onlyonce_shuttle)) {
            // Every length of this wait is a schedule that is tried anyhow.
            return yield_now();
        }
        let start = Instant::now();
        while self.arrived.load(Ordering::Acquire) < expected && start.elapsed() < self.rendezvous {
            yield_now();
        }
    }
}

impl State {
    fn enqueue(
        &mut self,
        position: u64,
        caller: Caller,
        place: &mut WaiterId,
        context: &mut Context<'_>,
    ) {
        let waker = Some(context.waker().clone());
        let known = place.id.and_then(|id| self.waiters.iter_mut().find(|w| w.id == id));
        match known {
            Some(waiter) => waiter.waker = waker,
            None => {
                self.next_id += 1;
                place.id = Some(self.next_id);
                self.waiters.push(Waiter { id: self.next_id, position, caller, waker });
            }
        }
    }

    fn enqueue_task(&mut self, position: u64, waker: Option<Waker>) {
        self.next_id += 1;
        let id = self.next_id;
        self.waiters.push(Waiter { id, position, caller: Caller::Task, waker });
    }

    /// Takes out the waiters that `durable` covers (all of them after a failure).
    fn release(&mut self, durable: u64) -> Vec<Waker> {
        let all = self.failed;
        let mut released = Vec::with_capacity(self.waiters.len());
        self.waiters.retain_mut(|waiter| {
            let stays = !all && waiter.position > durable;
            if !stays {
                released.extend(waiter.waker.take());
            }
            stays
        });
        released
    }

    /// Takes out one waiter that will lead.
    fn next_leader(&mut self) -> Option<Waker> {
        let leads = |w: &Waiter| w.caller == Caller::Thread && w.waker.is_some();
        let at = self.waiters.iter().position(leads)?;
        self.waiters.remove(at).waker
    }
}

#[cfg(all(test, onlyonce_loom))]
mod loom_tests;
#[cfg(all(test, not(onlyonce_loom)))]
mod tests;
