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
//! failure. Leading ends by a panic too: as if there had been none, if an event's subscriber
//! panicked; as by a failed commit, if the commit did. A group commit that has failed takes no
//! waiters any more.

use crate::{
    poison::Poisoned,
    sync::wait::{Caller, Notifier, Queue, WakeList, block, wake_all},
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        yield_now,
    },
};
use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
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

    /// A commit has panicked: nothing is known of what it did.
    fn broke_off(&self) {}
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
    waiters: Queue<Waiter>,
    /// The waiters that can lead, in their order, and some that have gone.
    leaders: VecDeque<u64>,
    /// Must become durable though none waits for it; by a commit even if it seems to be so already.
    requested: Option<u64>,
}

#[derive(Debug)]
struct Waiter {
    position: u64,
    waker: Waker,
}

/// A waiter's number in a queue. It must be given back (to a group commit by
/// [`GroupCommit::leave`]) when it is not needed.
#[derive(Debug, Default)]
pub(crate) struct WaiterId {
    pub id: Option<u64>,
    arrived: bool,
}

impl WaiterId {
    /// Its caller waits in another place, too.
    pub fn counts_as_no_caller(&mut self) {
        self.arrived = true;
    }
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
                waiters: Queue::default(),
                leaders: VecDeque::new(),
                requested: None,
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
            let replaced = state.enqueue(position, leads, place, context);
            drop(state);
            // A waker's own code runs under no lock.
            drop(replaced);
            if idle {
                self.notifier.notify();
            }
            return Poll::Pending;
        }
    }

    /// Waits on this thread until everything below `position` is durable. Counts as no caller.
    pub fn wait(&self, target: &impl Commit, position: u64) -> Result<(), Poisoned> {
        let mut place = WaiterId { id: None, arrived: true };
        let waited =
            block(|context| self.poll(target, position, Caller::Thread, &mut place, context));
        self.leave(&mut place);
        waited
    }

    /// Leads on this thread, after waiting for another that does, if there is one.
    pub fn lead_next(&self, target: &impl Commit) -> Result<(), Poisoned> {
        let mut place = WaiterId::default();
        block(|context| {
            let mut state = self.state.lock();
            if state.failed {
                return Poll::Ready(());
            }
            if !state.leading {
                state.leading = true;
                drop(state);
                self.lead(target);
                return Poll::Ready(());
            }
            // At position 0: released when the one that leads now has finished.
            let replaced = state.enqueue(0, true, &mut place, context);
            drop(state);
            drop(replaced);
            Poll::Pending
        });
        self.leave(&mut place);
        if self.state.lock().failed { Err(Poisoned) } else { Ok(()) }
    }

    /// The future of this waiter is dropped. Its write still becomes durable.
    pub fn leave(&self, place: &mut WaiterId) {
        let Some(id) = place.id.take() else { return };
        let mut state = self.state.lock();
        let gone = state.waiters.remove(id);
        if let Some(waiter) = &gone {
            state.request(waiter.position);
        } else if !state.leading && state.is_wanted() {
            // It may have been woken to lead.
            self.hand_on(state);
        }
        drop(gone);
    }

    /// Lets another lead: one of the waiters, or the store's thread.
    fn hand_on(&self, mut state: MutexGuard<'_, State>) {
        let next = state.next_leader();
        drop(state);
        if next.is_none() {
            self.notifier.notify();
        }
        wake_all(next);
    }

    /// For the store's thread: leads if there are waiters and no leader.
    pub fn lead_if_needed(&self, target: &impl Commit) {
        // Once: if waiters are left, the notifier has been notified again, and other group commits
        // come first.
        let mut state = self.state.lock();
        if state.leading || state.failed || !state.is_wanted() {
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
        state.waiters.push(Waiter { position, waker });
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
        drop(released);
    }

    /// Notifies the store's thread to look for work.
    pub fn wake_worker(&self) {
        self.notifier.notify();
    }

    /// `position` is to become durable, although no caller waits for it.
    pub fn request(&self, position: u64) {
        let mut state = self.state.lock();
        if state.failed {
            return;
        }
        state.request(position);
        if !state.leading {
            drop(state);
            self.notifier.notify();
        }
    }

    /// The caller has set `leading`.
    fn lead(&self, target: &impl Commit) {
        let mut leading = Leading { of: self, target, callers: 0, succeeded: None };
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
        leading.callers = group;
        let result = target.commit();
        if let Some((turn, held)) = turn {
            turn.last_group.store(group, Ordering::Relaxed);
            drop(held);
        }
        leading.succeeded = Some(result.is_ok());
        if let Ok(position) = result {
            self.durable.fetch_max(position, Ordering::AcqRel);
            target.committed(group, position);
        }
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

/// Leads; ends it when dropped, also by a panic.
struct Leading<'a, C: Commit> {
    of: &'a GroupCommit,
    target: &'a C,
    /// Callers in the group.
    callers: usize,
    /// How the commit has ended; `None` while it has not.
    succeeded: Option<bool>,
}

impl<C: Commit> Drop for Leading<'_, C> {
    fn drop(&mut self) {
        let Leading { of, target, callers, succeeded } = *self;
        if succeeded.is_none() {
            // An observer may panic again, in the middle of a panic.
            let _ = catch_unwind(AssertUnwindSafe(|| target.broke_off()));
            // The store's thread informs the rest of the store.
            of.notifier.notify();
        }
        let mut wakes = WakeList::default();
        let mut state = of.state.lock();
        state.leading = false;
        state.failed |= succeeded != Some(true);
        let came = callers + of.arrived.load(Ordering::Acquire);
        state.last_groups = [came, state.last_groups[0]];
        let released = state.release(of.durable());
        let next = state.next_leader();
        let notifies = next.is_none() && state.is_wanted();
        drop(state);
        if notifies {
            of.notifier.notify();
        }
        wakes.add(next);
        drop(wakes);
        drop(released);
    }
}

impl State {
    /// Queues, or keeps its place with another waker. The one that it replaces is given back.
    fn enqueue(
        &mut self,
        position: u64,
        leads: bool,
        place: &mut WaiterId,
        context: &mut Context<'_>,
    ) -> Option<Waker> {
        let waker = context.waker().clone();
        if let Some(waiter) = place.id.and_then(|id| self.waiters.get_mut(id)) {
            return Some(std::mem::replace(&mut waiter.waker, waker));
        }
        let id = self.waiters.push(Waiter { position, waker });
        place.id = Some(id);
        if leads {
            self.leaders.push_back(id);
        }
        None
    }

    fn request(&mut self, position: u64) {
        self.requested = self.requested.max(Some(position));
    }

    /// Whether a commit is waited for.
    fn is_wanted(&self) -> bool {
        !self.waiters.is_empty() || self.requested.is_some()
    }

    /// Takes out the waiters that `durable` covers (all of them after a failure).
    fn release(&mut self, durable: u64) -> WakeList {
        let all = self.failed;
        let mut released = WakeList::with_room_for(self.waiters.len());
        let covered = |position: u64| all || position <= durable;
        let State { waiters, leaders, .. } = self;
        waiters.drain_if(|waiter| covered(waiter.position), |waiter| released.add([waiter.waker]));
        leaders.retain(|id| !waiters.is_empty() && waiters.get_mut(*id).is_some());
        self.requested = self.requested.filter(|position| !covered(*position));
        released
    }

    /// Takes out one waiter that will lead.
    fn next_leader(&mut self) -> Option<Waker> {
        while let Some(id) = self.leaders.pop_front() {
            if let Some(waiter) = self.waiters.remove(id) {
                return Some(waiter.waker);
            }
        }
        None
    }
}

#[cfg(all(test, onlyonce_loom))]
mod loom_tests;
#[cfg(all(test, not(onlyonce_loom)))]
mod tests;
