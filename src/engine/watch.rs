//! Waiting for a key to change, with a bound. Timed by the store's clock.

use crate::{
    claim::Phase,
    engine::Engine,
    engine::replay::Lookup,
    key::{KeyRef, OwnedKey},
    location::Location,
    token::Token,
    wheel::TimerId,
};
use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, Waker},
    time::Duration,
};

/// A point in the store's time.
pub(crate) struct Sleep {
    engine: Arc<Engine>,
    deadline: u64,
    timer: Option<TimerId>,
}

impl Sleep {
    pub fn new(engine: &Arc<Engine>, at_most: Duration) -> Self {
        let ms = u64::try_from(at_most.as_millis()).unwrap_or(u64::MAX);
        // A clock may have a lock, too.
        let deadline = match engine.check_process() {
            Ok(()) => engine.now().saturating_add(ms),
            Err(_) => 0,
        };
        Sleep { engine: engine.clone(), deadline, timer: None }
    }

    pub fn is_over(&self) -> bool {
        self.engine.now() >= self.deadline
    }

    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let waker = context.waker().clone();
        {
            let mut timeouts = self.engine.timeouts.lock();
            // Without a thread that watches the time this would never be woken. Closing sets `stop`
            // before it takes this lock to wake all.
            let watched = self.engine.notifiers.expire.has_listener()
                && !self.engine.stop.load(Ordering::SeqCst);
            if self.is_over() || !watched {
                return Poll::Ready(());
            }
            if let Some(timer) = self.timer.take() {
                timeouts.cancel(timer);
            }
            self.timer = Some(timeouts.insert(self.deadline, waker));
        }
        if self.engine.index.deadline_set(self.deadline) {
            self.engine.notifiers.expire.notify();
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = self.timer.take()
            && self.engine.check_process().is_ok()
        {
            self.engine.timeouts.lock().cancel(timer);
        }
    }
}

/// Resolves when the attempt that was seen may no longer be in flight, or when the time is over.
pub(crate) struct Changed {
    engine: Arc<Engine>,
    key: OwnedKey,
    seen: Token,
    watch: Watch,
    sleep: Sleep,
}

impl Changed {
    pub fn new(engine: &Arc<Engine>, key: OwnedKey, seen: Token, at_most: Duration) -> Self {
        let sleep = Sleep::new(engine, at_most);
        Changed { engine: engine.clone(), key, seen, watch: Watch::default(), sleep }
    }
}

impl Future for Changed {
    /// Whether it may have changed.
    type Output = bool;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<bool> {
        let this = &mut *self;
        if this.engine.check_process().is_err() {
            // A look now shows it.
            return Poll::Ready(true);
        }
        if this.engine.watch(this.key.as_ref(), this.seen, &mut this.watch, context.waker()) {
            return Poll::Ready(true);
        }
        // After registering, so that a failure is either seen here or notifies.
        if this.engine.poison.check().is_err() {
            return Poll::Ready(false);
        }
        this.sleep.poll(context).map(|()| false)
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        self.engine.unwatch(self.key.as_ref(), self.seen, &mut self.watch);
    }
}

/// Where a waiter for a key is registered.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// With the undecided key.
    id: Option<u64>,
    /// With the group commit that makes a record of it durable: of which class, at which position.
    /// The group commit drops the waker with that record, and the next one needs it again.
    in_lane: Option<(u8, u64, Waker)>,
}

impl Engine {
    /// Registers for a change of the attempt `seen`. `true`: it may have changed already.
    pub fn watch(&self, key: KeyRef<'_>, seen: Token, watch: &mut Watch, waker: &Waker) -> bool {
        let hash = self.index.hash(key);
        // Dropped after the lock.
        let _replaced;
        let mut shard = self.index.shard(hash);
        let now = self.now();
        if self.closed.load(Ordering::SeqCst) {
            return true;
        }
        if let Some(at) = shard.find(hash, key) {
            let undecided = shard.undecided.get_mut(at).expect("found under this lock");
            if undecided.held.token != seen {
                return true;
            }
            if let Some(location) = self.settling(undecided) {
                return self.watch_location(location, watch, waker);
            }
            let runs = matches!(undecided.held.phase_at(now), Phase::InFlight { .. });
            if runs {
                _replaced = undecided.waiters.register(&mut watch.id, waker);
            }
            return !runs;
        }
        self.end_replacing(&mut shard, Some(hash));
        for location in shard.candidates(hash) {
            if self.is_visible(location) {
                continue;
            }
            if let Lookup::Here(frame) = self.look_locked(location, key, now)
                && frame.header.token == seen.get()
            {
                return self.watch_location(location, watch, waker);
            }
        }
        true
    }

    /// Registers with the group commit that makes a record durable; in `Buffered` too, where being
    /// drained is enough: a commit that is waited for begins at once, and drains.
    fn watch_location(&self, location: Location, watch: &mut Watch, waker: &Waker) -> bool {
        let (class, position) = self.log.position_of(location);
        let known = |(known, at, with): &(u8, u64, Waker)| {
            (*known, *at) == (class, position) && with.will_wake(waker)
        };
        if watch.in_lane.as_ref().is_some_and(known) {
            return self.is_visible(location);
        }
        let appender = self.log.appender(class);
        if !self.config.syncs_completions() && !appender.is_served() {
            // No thread drains it for this waiter.
            return appender.drain(&self.log.shared).is_err() || self.is_visible(location);
        }
        watch.in_lane = Some((class, position, waker.clone()));
        // A byte of it is durable when all of it is.
        appender.group.wake_at(position + 1, waker.clone()).is_some()
    }

    /// Ends a registration of [`Engine::watch`].
    pub fn unwatch(&self, key: KeyRef<'_>, seen: Token, watch: &mut Watch) {
        let Some(id) = watch.id.take() else { return };
        if self.check_process().is_err() {
            return;
        }
        let hash = self.index.hash(key);
        // Dropped after the lock: a waker's own code runs under none.
        let _gone;
        let mut shard = self.index.shard(hash);
        // Another attempt's waiters have numbers of their own.
        if let Some(at) = shard.find(hash, key)
            && let Some(undecided) = shard.attempt(at, seen)
        {
            _gone = undecided.waiters.remove(id);
        }
    }
}
