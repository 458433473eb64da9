//! The state and the types that the engine's steps share.
//!
//! **Lock order**: a shard, then the tail of an appender, then its extents; a shard, then the free
//! cells; a shard, then a group commit's queue. Draining and the disk's turn are taken with no
//! shard held. No lock of these is held across a sync, and no task is woken under one. A backup
//! takes all shards, in their order, after the lock of maintenance; no other thread takes more than
//! one.
//!
//! **Visibility**: a record is visible to others when it would survive a loss of power (in
//! `Buffered`: when it is written). That is a comparison of its location with the offset up to
//! which its segment is durable, made by each reader, so nothing has to be published.
//!
//! **One time**: a call that judges or changes an undecided key reads the clock under the lock of the
//! key's shard, so that no caller sees a lease running that another has seen pass.
//!
//! **One step**: a completion's fence check, its append and the end of its lease happen under
//! the lock of the key's shard. An append never waits; when a resource is lacking the lock is
//! released, the resource is waited for, and the step is tried again from its fence check.

pub(crate) mod abandon;
mod access;
pub(crate) mod begin;
mod close;
pub(crate) mod complete;
mod decide;
pub(crate) mod driver;
pub(crate) mod entries;
pub(crate) mod erase;
pub(crate) mod expire;
pub(crate) mod lease;
pub(crate) mod maintenance;
pub(crate) mod migrate;
pub(crate) mod open;
pub(crate) mod outlived;
pub(crate) mod replay;
pub(crate) mod resolve;
pub(crate) mod shares;
pub(crate) mod snapshot;
pub(crate) mod stats;
pub(crate) mod tokens;
pub(crate) mod watch;
pub(crate) mod workers;

use crate::{
    broken::{self, Broken},
    claims::Cells,
    clock::StoreTime,
    decisions::Journal,
    engine::tokens::Tokens,
    error::{BeginError, ClaimError, Forked, StoreError},
    group_commit::{Commit, WaiterId},
    index::{Index, Shard},
    key::KeyRef,
    location::Location,
    log::{Full, Log},
    observe::{Timed, Timings, events},
    options::{Durability, Options, Sizes},
    poison::{Poison, Poisoned},
    record::Retention,
    stats::{Count, Counters, Holders},
    storage::Storage,
    superblock::{Superblock, SuperblockFile},
    sync::wait::{Caller, Event, Notifier, WakeList},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
        yield_now,
    },
    token::Token,
    wheel::TimingWheel,
};
use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

/// The group commit of the claims file, beside those of the classes.
pub(crate) const CLAIMS: u8 = u8::MAX;

/// Options as the engine needs them: in milliseconds.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub durability: Durability,
    pub lease_ms: u64,
    pub replay_ms: u64,
    pub remember_ms: u64,
    /// The option itself.
    pub interrupted_ms: Option<u64>,
    pub decisions_ms: u64,
    pub execution_ms: u64,
    pub max_attempts: u32,
    pub max_response: usize,
    pub capacity: u64,
    pub sizes: Sizes,
}

impl Config {
    pub fn new(options: &Options, sizes: Sizes) -> Self {
        let ms = |d: std::time::Duration| d.as_millis() as u64;
        let remember_ms = ms(options.retention.remember_for);
        Config {
            durability: options.durability,
            lease_ms: ms(options.lease),
            replay_ms: ms(options.retention.replay_for),
            remember_ms,
            interrupted_ms: options.interrupted_retention.map(ms),
            decisions_ms: ms(options.decisions_kept),
            execution_ms: ms(options.execution_limit),
            max_attempts: options.max_attempts.min(crate::limits::COUNT_MAX),
            max_response: options.max_response,
            capacity: options.capacity,
            sizes,
        }
    }

    /// The windows of a retention: of replays, and of remembering.
    pub fn windows(&self) -> (u64, u64) {
        (self.replay_ms, self.remember_ms)
    }

    /// The retention of a record whose claim has none of its own.
    pub fn retention(&self) -> Retention {
        Retention {
            replay_for: Duration::from_millis(self.replay_ms),
            remember_for: Duration::from_millis(self.remember_ms),
        }
    }

    /// Whether claims, takeovers and releases wait for the disk.
    pub fn syncs_claims(&self) -> bool {
        self.durability == Durability::Synced
    }

    /// Whether completions and checkpoints wait for the disk.
    pub fn syncs_completions(&self) -> bool {
        !matches!(self.durability, Durability::Buffered { .. })
    }

    pub fn max_delay_ms(&self) -> Option<u64> {
        match self.durability {
            Durability::Buffered { max_delay } => Some(max_delay.as_millis() as u64),
            _ => None,
        }
    }
}

/// The notifiers of the store's threads.
#[derive(Debug, Default, Clone)]
pub(crate) struct Notifiers {
    pub commit: Arc<Notifier>,
    pub classes: Arc<Notifier>,
    pub claims: Arc<Notifier>,
    pub drain: Arc<Notifier>,
    pub keep: Arc<Notifier>,
    pub expire: Arc<Notifier>,
}

impl Notifiers {
    /// Whether the calling thread is one of the store's.
    pub fn is_answered_here(&self) -> bool {
        [&self.commit, &self.classes, &self.claims, &self.drain, &self.keep, &self.expire]
            .iter()
            .any(|notifier| notifier.is_answered_here())
    }
}

pub(crate) struct Engine {
    /// The store's number, the same in all its lives.
    id: u64,
    config: Config,
    time: StoreTime,
    index: Index,
    log: Log,
    cells: Cells,
    tokens: Tokens,
    poison: Arc<Poison>,
    counters: Counters,
    timings: Timings,
    storage: Arc<dyn Storage>,
    superblock: Mutex<(SuperblockFile, Superblock)>,
    decisions: Journal,
    notifiers: Notifiers,
    /// Notified when space or tokens came, or could not be had.
    resources: Event,
    /// The last try to prepare a segment failed.
    starved: AtomicBool,
    /// Why it failed.
    lacking: Mutex<Option<maintenance::Lacking>>,
    /// Store time since which the store is known to be full; 0 if it isn't.
    full_since: AtomicU64,
    /// The most bytes that a caller waits for.
    wanted_space: AtomicU64,
    /// Full, durable segments without a footer.
    to_seal: Mutex<Vec<Full>>,
    /// When segments have expired, by slot.
    expiring: Mutex<Expiring>,
    /// Timed waits.
    timeouts: Mutex<TimingWheel<Waker>>,
    /// One round of maintenance at a time.
    keeping: Mutex<()>,
    /// One erasure at a time.
    erasing: Mutex<()>,
    /// Backups under way, during which no segment is recycled. Counted up under `keeping`.
    copying: AtomicU32,
    holders: Holders,
    shares: shares::Shares,
    /// Notified when a handle of a claim is gone.
    handle_gone: Event,
    draining: AtomicBool,
    /// One segment at a time is taken into use, each of them by a write call.
    rolling: Mutex<()>,
    /// Read under a shard's lock by each call that is about to append, and under `rolling` before
    /// a segment is taken into use, so that closing can wait for them by taking each lock once.
    closed: AtomicBool,
    /// The store's threads are to end.
    stop: AtomicBool,
    /// The waiters have been woken because the store is poisoned.
    told: AtomicBool,
    /// When the time was last noted durably.
    time_noted: AtomicU64,
    damaged_places: u64,
    /// Claims that were never promised and that the opening has passed over.
    torn_claims: u64,
    /// The duration of the opening, in milliseconds.
    recovery_ms: AtomicU64,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Engine({})", self.storage.place())
    }
}

/// Segments by the time at which they have expired.
pub(crate) struct Expiring {
    pub wheel: TimingWheel<u32>,
    /// Expired, to be swept.
    pub due: Vec<u32>,
}

/// The reason why a step can't be answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// `group` durable up to `position`.
    Durable { group: u8, position: u64 },
    /// `class` in the kernel's hands up to `position`.
    Drained { class: u8, position: u64 },
    /// Room for `len` bytes in the ring of `class`.
    Room { class: u8, len: u64 },
    /// Another segment for `class`.
    Segment { class: u8, since: u64 },
    /// Space or tokens.
    Resources { since: u64 },
}

/// A step that was taken; it may be answered after `wait`.
#[derive(Debug)]
pub(crate) struct Step<T> {
    pub value: T,
    pub wait: Option<Wait>,
}

impl<T> Step<T> {
    pub fn now(value: T) -> Self {
        Step { value, wait: None }
    }

    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Step<U> {
        Step { value: f(self.value), wait: self.wait }
    }
}

/// A step that was not taken.
#[derive(Debug)]
pub(crate) enum Blocked<E> {
    /// Try again after this.
    Wait(Wait),
    Fail(E),
}

impl<E> From<E> for Blocked<E> {
    fn from(error: E) -> Self {
        Blocked::Fail(error)
    }
}

// What holders' calls and operators' share.
impl From<ClaimError> for Blocked<StoreError> {
    fn from(error: ClaimError) -> Self {
        Blocked::Fail(error.into())
    }
}

impl From<Blocked<ClaimError>> for Blocked<StoreError> {
    fn from(blocked: Blocked<ClaimError>) -> Self {
        match blocked {
            Blocked::Fail(error) => Blocked::Fail(error.into()),
            Blocked::Wait(wait) => Blocked::Wait(wait),
        }
    }
}

pub(crate) type StepResult<T, E> = Result<Step<T>, Blocked<E>>;

impl Engine {
    pub fn now(&self) -> u64 {
        self.time.now()
    }

    pub fn count(&self, hash: u64, count: Count) {
        self.counters.add(hash, count);
        events::counted(hash, count);
    }

    /// Counts an alarm, and reports it by an event and to the admin service.
    pub fn alarm(&self, count: Count, hash: u64, key: KeyRef<'_>, token: Option<Token>) {
        self.counters.add(hash, count);
        events::alarm(count, hash, token);
        self.timings.alarm(count, hash, key, token, || self.now());
    }

    /// Refuses a forked child. Asked before anything else: any lock may have been held when the
    /// process forked and stays so here, and files and maps are the parent's.
    #[inline]
    pub fn check_process(&self) -> Result<(), Forked> {
        self.poison.fork.check()
    }

    /// Refuses a closed store.
    pub fn check_open(&self) -> Result<(), BeginError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(BeginError::Closed);
        }
        Ok(())
    }

    /// Refuses new claims on a draining or poisoned store.
    pub fn check_begin(&self) -> Result<(), BeginError> {
        self.check_open()?;
        if self.draining.load(Ordering::Acquire) {
            return Err(BeginError::Closed);
        }
        Ok(self.poison.check()?)
    }

    /// Refuses a holder's call on a closed or poisoned store.
    pub fn check_claim(&self) -> Result<(), ClaimError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(ClaimError::Closed);
        }
        Ok(self.poison.check()?)
    }

    /// How long a key is kept interrupted, given how long its record would be kept.
    pub fn interrupted_ms(&self, remember_ms: u64) -> u64 {
        const WEEK_MS: u64 = 7 * 24 * 3_600_000;
        self.config.interrupted_ms.unwrap_or(remember_ms.max(WEEK_MS))
    }

    /// Whether others may see the record at `location`.
    pub fn is_visible(&self, location: Location) -> bool {
        if broken::is(Broken::VisibleBeforeDurable) {
            return self.log.is_written(location);
        }
        match self.config.syncs_completions() {
            true => self.log.is_durable(location),
            false => self.log.is_written(location),
        }
    }

    /// Nothing further becomes durable: wakes the waiters with the failure.
    pub fn fail_groups(&self) {
        self.log.appenders().for_each(|(_, appender)| {
            appender.group.fail();
            appender.release_waiters();
        });
        self.cells.group.fail();
        self.resources.notify();
        self.handle_gone.notify();
    }

    /// Makes every waiter for a key look at it again.
    pub fn wake_waiters(&self) {
        for mut shard in self.index.shards() {
            let mut wakes = WakeList::default();
            let undecided: Vec<u32> = shard.undecided.iter().map(|(at, _)| at).collect();
            for at in undecided {
                let undecided = shard.undecided.get_mut(at).expect("listed under this lock");
                wakes.add(undecided.waiters.take());
            }
            drop(shard);
        }
    }

    /// After a failure: wakes those who wait in vain, once. With no lock held.
    pub fn tell_if_poisoned(&self) {
        if self.poison.check().is_err() && !self.told.swap(true, Ordering::AcqRel) {
            self.fail_groups();
            self.wake_waiters();
        }
    }

    /// Sets the timer of an undecided key by what it waits for now.
    pub fn rearm(&self, shard: &mut Shard, at: u32, now: u64) {
        let Some(undecided) = shard.undecided.get(at) else {
            return;
        };
        let deadline = match undecided.held.phase_at(now) {
            crate::claim::Phase::InFlight { lease_until } => Some(lease_until),
            crate::claim::Phase::Interrupted { .. } => {
                undecided.held.expires_at(now, self.interrupted_ms(undecided.terms.remember_ms))
            }
        };
        shard.set_timer(at, deadline);
        if let Some(deadline) = deadline
            && self.index.deadline_set(deadline)
        {
            self.notifiers.expire.notify();
        }
    }

    /// Makes `class` durable: drain, sync, and what follows from it.
    pub fn appender_commit(&self, class: u8) -> AppenderCommit<'_> {
        AppenderCommit { engine: self, class }
    }

    /// Takes a segment into use for `class` if a record has found no room, and returns whether it
    /// did.
    pub fn roll(&self, class: u8) -> Result<bool, Poisoned> {
        let appender = self.log.appender(class);
        let rolled = {
            let _rolls = self.rolling.lock();
            match self.closed.load(Ordering::SeqCst) {
                true => Ok(false),
                false => appender.roll(&self.log.shared),
            }
        };
        if rolled != Ok(false) {
            appender.moved.notify();
        }
        rolled
    }

    /// Ready when `wait` is over. Must be given up with [`Engine::leave`].
    pub fn poll_wait(
        &self,
        wait: Wait,
        caller: Caller,
        place: &mut WaiterId,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Poisoned>> {
        match wait {
            Wait::Durable { group: CLAIMS, position } => {
                self.cells.group.poll(&self.cells, position, caller, place, context)
            }
            Wait::Durable { group, position } => {
                let target = self.appender_commit(group);
                self.log.appender(group).group.poll(&target, position, caller, place, context)
            }
            Wait::Drained { class, position } => {
                let appender = self.log.appender(class);
                let leaves_it = caller == Caller::Task && appender.is_served();
                loop {
                    let since = appender.moved.count();
                    if appender.drained() >= position {
                        break;
                    }
                    if !leaves_it {
                        if appender.drain(&self.log.shared)? < position {
                            // An appender is in the middle of copying a frame before this one.
                            yield_now();
                        }
                    } else if appender.moved.poll_since(since, context).is_pending() {
                        self.poison.check()?;
                        appender.call();
                        return Poll::Pending;
                    }
                }
                Poll::Ready(self.cells.class_drained(class, appender.drained()))
            }
            Wait::Room { class, len } => {
                let appender = self.log.appender(class);
                let polled = if caller == Caller::Task && appender.is_served() {
                    appender.poll_space(len, place, context).map(Ok)
                } else {
                    appender.poll_thread_space(&self.log.shared, len, context)
                };
                self.poison.check()?;
                if self.closed.load(Ordering::SeqCst) {
                    // The next try says so.
                    return Poll::Ready(Ok(()));
                }
                polled
            }
            Wait::Segment { class, since } => {
                let appender = self.log.appender(class);
                if appender.moved.poll_since(since, context).is_ready() {
                    return Poll::Ready(Ok(()));
                }
                self.poison.check()?;
                if self.closed.load(Ordering::SeqCst) {
                    // The next try says so.
                    return Poll::Ready(Ok(()));
                }
                if caller == Caller::Task && appender.is_served() {
                    appender.call();
                    return Poll::Pending;
                }
                match self.roll(class)? {
                    true => Poll::Ready(Ok(())),
                    // Another caller does so, and notifies.
                    false => Poll::Pending,
                }
            }
            Wait::Resources { since } => {
                self.poison.check()?;
                if self.closed.load(Ordering::SeqCst) {
                    // The next try says so.
                    return Poll::Ready(Ok(()));
                }
                match self.notifiers.keep.has_listener() {
                    true => self.notifiers.keep.notify(),
                    false => self.provide_now(),
                }
                self.resources.poll_since(since, context).map(Ok)
            }
        }
    }

    /// Ends a wait that is not polled any more.
    pub fn leave(&self, wait: Wait, place: &mut WaiterId) {
        match wait {
            Wait::Durable { group: CLAIMS, .. } => self.cells.group.leave(place),
            Wait::Durable { group, .. } => self.log.appender(group).group.leave(place),
            Wait::Room { class, len, .. } => self.log.appender(class).leave_space(len, place),
            _ => {}
        }
    }
}

/// How a class becomes durable.
pub(crate) struct AppenderCommit<'a> {
    engine: &'a Engine,
    class: u8,
}

impl Commit for AppenderCommit<'_> {
    fn commit(&self) -> Result<u64, Poisoned> {
        let AppenderCommit { engine, class } = *self;
        let log = &engine.log;
        let (position, full) = log.appender(class).commit(&log.shared)?;
        engine.cells.note_durable(class, log.shared.life, position)?;
        engine.cells.class_durable(class, position)?;
        if !full.is_empty() {
            engine.to_seal.lock().extend(full);
            engine.notifiers.keep.notify();
        }
        Ok(position)
    }

    fn committed(&self, callers: usize, position: u64) {
        if callers > 0 {
            self.engine.timings.size(Timed::GroupSize, callers);
        }
        events::committed(self.class, callers, position);
    }

    fn broke_off(&self) {
        let error = std::io::Error::other("it panicked");
        self.engine.poison.trip("making the log durable", &error);
    }
}
