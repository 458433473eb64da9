//! The public handle of the embedded store: open, begin, look, resolve, back up, flush, drain,
//! close. Decisions are made in the engine.

pub(crate) mod any;
pub(crate) mod async_store;
mod beside;
pub(crate) mod blocking;
pub(crate) mod claim;
#[cfg(feature = "json")]
pub(crate) mod json;
mod many;
pub(crate) mod migrate;
pub(crate) mod once;
mod owner;
pub(crate) mod sharded;

use crate::{
    backup::{Backup, BackupError, BackupOptions},
    engine::begin::Delivery,
    engine::driver as drive,
    engine::entries::{Entry, Filter},
    engine::open,
    engine::outlived,
    engine::watch::Changed,
    engine::workers as threads,
    engine::{Blocked, Engine, StepResult},
    error::{BeginError, ClaimError, Forked, OpenError, StoreError},
    fingerprint::Fingerprint,
    inspect::{Inspection, Progress, Report},
    key::{KeyRef, OwnedKey, Scope},
    limits::SHARDS,
    observe::Call,
    options::Options,
    spi::{Abandon, ClaimOp, Erased, Found, IdempotencyStore, Request, Terms, Ticket},
    stats::Stats,
    storage::{DiskStorage, SimStorage, Storage},
    store::claim::Begin,
    store::once::Once,
    store::owner::{Owner, Running},
    sync::wait::block,
    token::Token,
};
use std::{
    future::Future,
    io,
    path::Path,
    pin::pin,
    sync::{Arc, Weak},
    time::Duration,
};

/// An idempotency store on this machine's disk. Clones are handles of the same store.
///
/// **These methods block their thread**, some of them until the disk has synced. In an async handler
/// use [`AsyncStore`](crate::AsyncStore), which has the same names with `.await`, or call them on a
/// thread for blocking work.
///
/// The last handle closes the store when it is dropped, as [`Store::close`] does (which syncs, and
/// waits for the store's threads), but can't report errors. A [`Claim`](crate::Claim),
/// [`Pending`](crate::Pending), [`Interrupted`](crate::Interrupted), the iterator of
/// [`entries`](Store::entries) and an HTTP layer are handles too.
///
/// ```
/// use onlyonce::{Begin, Fingerprint, KeyRef, Scope, Store};
///
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path();
/// let store = Store::open(path)?; // once for the process
/// let scope = Scope::of(["tenant-7", "orders"]);
/// let key = KeyRef::new(&scope, "8e03978e")?;
/// if let Begin::Execute(mut claim) = store.begin(key, Fingerprint::of(["book", "1"]))? {
///     claim.complete(b"order 1")?;
/// }
/// store.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Store(Arc<Owner>);

/// See [`Store::downgrade`].
#[derive(Clone, Debug)]
#[cfg_attr(not(any(feature = "metrics", feature = "admin")), allow(dead_code))]
pub(crate) struct WeakStore(Weak<Owner>);

#[cfg_attr(not(any(feature = "metrics", feature = "admin")), allow(dead_code))]
impl WeakStore {
    /// The store, if a handle of it still exists.
    pub fn upgrade(&self) -> Option<Store> {
        self.0.upgrade().map(Store)
    }
}

/// The result of [`Store::close`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    handles_left: u64,
}

impl Closed {
    fn now(engine: &Engine) -> Self {
        Closed { handles_left: outlived::count(engine.id()) }
    }

    /// Returns how many handles of claims of this store still exist in this process, those of
    /// earlier closings included. Their holders may still be working; their calls return `Closed`.
    pub fn handles_left(&self) -> u64 {
        self.handles_left
    }
}

impl Options {
    /// Opens (or, unless [`create`](Self::create) says otherwise, creates) the store in directory
    /// `path`. Blocks: after a crash it reads and repairs what the last process left.
    ///
    /// # Errors
    /// [`OpenError::Options`] if an option is out of bounds, [`OpenError::InUse`] if the directory
    /// is open already, [`OpenError::NoStore`] if there is nothing and nothing may be created,
    /// [`OpenError::Missing`], [`OpenError::Damaged`], [`OpenError::Foreign`], [`OpenError::Newer`]
    /// or [`OpenError::NotAStore`] if the files are not a whole store of a version known here,
    /// [`OpenError::NoSpace`] and [`OpenError::Io`] from the file system.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Store, OpenError> {
        let path = path.as_ref();
        // Refused options leave no directory behind.
        self.check()?;
        let io = OpenError::io(format!("opening the directory {}", path.display()));
        let storage = match self.create {
            true => DiskStorage::open(path).map_err(io)?,
            false => DiskStorage::open_existing(path).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => OpenError::NoStore { place: path.display().to_string() },
                _ => io(error),
            })?,
        };
        self.open_on(Arc::new(storage))
    }

    /// Makes a new, empty store with these options in the memory of this process; see
    /// [`Store::in_memory`]. To open it again, as after a crash, keep a
    /// [`SimStorage`](crate::storage::SimStorage) and give it to [`open_on`](Self::open_on).
    ///
    /// # Errors
    /// [`OpenError::Options`] if an option is out of bounds, and [`OpenError::Io`] if the store's
    /// threads can't be started.
    pub fn open_in_memory(&self) -> Result<Store, OpenError> {
        self.clone().create(true).open_on(Arc::new(SimStorage::new(0)))
    }

    /// Opens (or, unless [`create`](Self::create) says otherwise, creates) the store in `storage`.
    ///
    /// # Errors
    /// As with [`open`](Self::open).
    pub fn open_on(&self, storage: Arc<dyn Storage>) -> Result<Store, OpenError> {
        let (engine, _lock) = open::open(self, storage)?;
        let threads = match self.background {
            true => {
                threads::spawn(&engine).map_err(OpenError::io("starting the store's threads"))?
            }
            false => Vec::new(),
        };
        Ok(Store(Arc::new(Owner::new(engine, Running { threads, _lock }))))
    }
}

impl Store {
    /// Opens (or creates) the store in directory `path`, with the default [`Options`]. After the
    /// first start of a service open with [`Options::create(false)`](Options::create): otherwise a
    /// volume that isn't mounted becomes a new, empty store.
    ///
    /// # Errors
    /// As with [`Options::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        Options::new().open(path)
    }

    /// Makes a new, empty store in the memory of this process, for tests: it needs no directory,
    /// nothing waits for a disk, and nothing of it is left when its last handle is dropped. It
    /// is the whole store over a disk that is simulated, with small sizes (64 MiB of capacity, a
    /// thousand claims); [`Options::open_in_memory`] takes others.
    ///
    /// # Errors
    /// [`OpenError::Io`] if its threads can't be started.
    ///
    /// ```
    /// use onlyonce::{Begin, Fingerprint, KeyRef, Scope, Store};
    ///
    /// let (store, scope) = (Store::in_memory()?, Scope::global());
    /// let begin = store.begin(KeyRef::new(&scope, "k")?, Fingerprint::of(["book"]))?;
    /// assert!(matches!(begin, Begin::Execute(_)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn in_memory() -> Result<Self, OpenError> {
        Options::new().max_claims(1000).capacity(64 << 20).open_in_memory()
    }

    /// A handle that doesn't keep the store open.
    #[cfg_attr(not(any(feature = "metrics", feature = "admin")), allow(dead_code))]
    pub(crate) fn downgrade(&self) -> WeakStore {
        WeakStore(Arc::downgrade(&self.0))
    }

    /// Returns the engine to a call, or refuses the call in a forked child before it touches
    /// anything. Every call goes through this.
    #[inline]
    pub(crate) fn engine(&self) -> Result<&Arc<Engine>, Forked> {
        let engine = &self.0.engine;
        engine.check_process()?;
        Ok(engine)
    }

    /// Returns the engine without that check, to code that takes no lock or has passed the check.
    #[cfg_attr(not(feature = "admin"), allow(dead_code))]
    pub(crate) fn same_engine(&self) -> &Arc<Engine> {
        &self.0.engine
    }

    /// Claims `key`, or returns its state. When this returns, the claim is as durable as the
    /// store's [`Durability`](crate::Durability) says.
    ///
    /// Blocks for a sync if it grants a claim in `Synced`; doesn't wait for other callers of the
    /// key.
    ///
    /// # Errors
    /// Nothing was executed, and no claim is held. [`BeginError::StoreFull`] if the response could
    /// not be stored, [`BeginError::Damaged`] if a record doesn't read back,
    /// [`BeginError::Poisoned`], [`BeginError::Closed`], [`BeginError::Forked`] or
    /// [`BeginError::Unavailable`] if the store can't grant claims now. [`BeginError::retry`] says
    /// whether to try again.
    pub fn begin(&self, key: KeyRef<'_>, fingerprint: Fingerprint) -> Result<Begin, BeginError> {
        self.begin_with(key, fingerprint, Terms::default())
    }

    /// Claims `key` like [`begin`](Self::begin), with other terms than the store's.
    ///
    /// # Errors
    /// As with [`begin`](Self::begin), and [`BeginError::Terms`] if the terms are out of bounds.
    pub fn begin_with(
        &self,
        key: KeyRef<'_>,
        fingerprint: Fingerprint,
        terms: Terms,
    ) -> Result<Begin, BeginError> {
        self.begin_request(Request { key: key.owned(), fingerprint, terms }, None)
    }

    /// Begins, or takes over the attempt that was seen.
    pub(crate) fn begin_request(
        &self,
        request: Request,
        seen: Option<Token>,
    ) -> Result<Begin, BeginError> {
        let engine = self.engine()?;
        let mut begin = engine.prepare(&request)?;
        let call = Call::begin(engine.timings(), begin.hash);
        let found = drive::run_kept(
            engine,
            call,
            |tried| tried.begin(&mut begin, seen),
            |found| Delivery::new(&**engine, found),
            Delivery::arrived,
        )?;
        Ok(Begin::of(self, &request, found))
    }

    pub(crate) fn write_blocking(
        &self,
        ticket: &Ticket,
        op: ClaimOp<'_>,
    ) -> Result<(), ClaimError> {
        let engine = self.engine()?;
        let call = call_of(engine, ticket, &op);
        drive::run(engine, call, |engine| op_step(engine, ticket, &op))
    }

    /// Waits until the attempt `seen` may have ended, or `at_most` has passed.
    pub(crate) fn changed_blocking(
        &self,
        request: &Request,
        seen: Token,
        at_most: Duration,
    ) -> bool {
        let mut changed = pin!(Changed::new(&self.0.engine, request.key.clone(), seen, at_most));
        block(|context| changed.as_mut().poll(context))
    }

    /// Runs a whole request: claims the key, or waits, replays or settles; executes once; stores
    /// the answer; returns it. See [`Once`].
    pub fn once<'a>(&self, key: KeyRef<'a>, fingerprint: Fingerprint) -> Once<'a, Store> {
        Once::new(self.clone(), key, fingerprint)
    }

    /// Returns what is known of a key; `None` if it is absent. Claims and changes nothing. Never
    /// decide by this whether to execute: another caller may claim the key in between.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if the key's record doesn't read back; [`StoreError::Closed`] or
    /// [`StoreError::Forked`] from the store.
    pub fn get(&self, key: KeyRef<'_>) -> Result<Option<Entry>, StoreError> {
        Ok(self.engine()?.get(key)?)
    }

    /// Lists the keys that `filter` wants. A key that exists throughout is listed exactly once; a
    /// key that changes during the listing at most once. It reads the log, which is expensive on a
    /// large store. The iterator keeps the store open.
    ///
    /// # Errors
    /// Of single items: [`StoreError::Damaged`] for a record that doesn't read back, after which
    /// the list continues; [`StoreError::Closed`] or [`StoreError::Forked`] from the store.
    pub fn entries(
        &self,
        filter: Filter,
    ) -> impl Iterator<Item = Result<Entry, StoreError>> + use<> {
        let store = self.clone();
        (0..SHARDS).flat_map(move |shard| match store.engine() {
            Ok(engine) => engine.entries_of_shard(shard, &filter),
            Err(forked) => vec![Err(forked.into())],
        })
    }

    /// Returns the store's figures at this moment. It walks over all undecided keys, so its cost
    /// grows with their number. In a forked child only [`Stats::forked`] has a meaning.
    pub fn stats(&self) -> Stats {
        match self.engine() {
            Ok(engine) => engine.stats(),
            Err(Forked) => Stats { forked: true, ..Stats::default() },
        }
    }

    /// Reads everything that the store has on its disk, by read calls and not through its maps
    /// (so that a bad sector is a message and not a signal), and compares it with its checksums.
    /// The store works undisturbed while this runs. `progress` is called at intervals.
    ///
    /// # Errors
    /// Any [`OpenError`] if the superblock itself doesn't read; [`OpenError::Forked`] in a child.
    /// Everything else that doesn't read is in the [`Report`].
    pub fn verify(&self, progress: impl FnMut(Progress)) -> Result<Report, OpenError> {
        Ok(self.inspect()?.verify(progress))
    }

    /// Copies the store, as it is at one moment, to the directory `dst`, which must be empty or
    /// missing. The store works while this runs. See [`backup`](crate::backup) for what a copy is.
    ///
    /// # Errors
    /// Any [`BackupError`]: the copy is not finished then, and
    /// [`restore`](crate::backup::restore) refuses it.
    pub fn backup(&self, dst: impl AsRef<Path>) -> Result<Backup, BackupError> {
        self.backup_with(dst, &BackupOptions::new())
    }

    /// Copies the store like [`backup`](Self::backup), with options: against an earlier backup, for
    /// instance.
    ///
    /// # Errors
    /// As with [`backup`](Self::backup), and [`BackupError::OtherStore`] if the earlier backup is
    /// of another store.
    pub fn backup_with(
        &self,
        dst: impl AsRef<Path>,
        options: &BackupOptions,
    ) -> Result<Backup, BackupError> {
        let engine = self.engine().map_err(StoreError::from)?;
        let path = dst.as_ref();
        let doing = format!("opening the directory {}", path.display());
        let dst = DiskStorage::open(path).map_err(OpenError::io(doing))?;
        engine.backup(&dst, options)
    }

    /// Copies the store like [`backup`](Self::backup), to any storage.
    #[doc(hidden)]
    pub fn backup_on(&self, dst: &dyn Storage) -> Result<Backup, BackupError> {
        self.engine().map_err(StoreError::from)?.backup(dst, &BackupOptions::new())
    }

    /// Reads the store's directory as an outside reader does.
    fn inspect(&self) -> Result<Inspection, OpenError> {
        let engine = self.engine()?;
        let (hasher, clock) = (engine.hasher(), engine.clock().clone());
        let owner = Some(std::process::id());
        Inspection::of(engine.storage().clone(), Some(hasher), clock, owner, None)
    }

    /// Forgets all keys of a scope, whatever their state, and the decisions about them, and overwrites
    /// what the store's files have of them; their retries execute again. Keys that a holder may be
    /// working on are left and counted, unless `force`: then their holders are fenced. Durable when
    /// this returns; a search for the bytes in the directory, or in a backup that is taken afterwards,
    /// finds nothing but what [`Erased::held`] counts.
    ///
    /// The store works while this runs, and it may be called again: after a crash or an error each key
    /// is still there, or gone. It reads the whole log, and overwrites in place; what a file system
    /// or a disk keeps of overwritten blocks, and backups of before, `docs/operations.md` speaks of.
    ///
    /// # Errors
    /// [`StoreError::StoreFull`] if there is no room for the notes that keys are forgotten (of about
    /// 128 bytes and the key each; the room comes back when the keys would have expired);
    /// [`StoreError::Unavailable`] while a backup is taken, or if something doesn't read;
    /// [`StoreError::Poisoned`], [`StoreError::Closed`] and [`StoreError::Forked`].
    pub fn erase_scope(&self, scope: &Scope, force: bool) -> Result<Erased, StoreError> {
        self.engine()?.erase_scope(scope, force)
    }

    /// Makes everything durable that was written before the call, whatever the store's
    /// [`Durability`](crate::Durability). Blocks for syncs.
    ///
    /// # Errors
    /// [`StoreError::Poisoned`] if a sync failed, now or earlier; [`StoreError::Closed`] and
    /// [`StoreError::Forked`].
    pub fn flush(&self) -> Result<(), StoreError> {
        let engine = self.engine()?;
        engine.check_claim()?;
        Ok(engine.made_durable()?)
    }

    /// Stops granting claims, and waits, for `at_most`, until no handle of a claim exists; returns
    /// how many still do. Completed keys are still replayed. For an orderly shutdown, before
    /// [`close`](Self::close); only opening the store again undoes it. Blocks, timed by the store's
    /// clock. In a forked child it returns at once, with the number of handles at the fork.
    pub fn drain(&self, at_most: Duration) -> u64 {
        let Ok(engine) = self.engine() else {
            return self.0.engine.holders();
        };
        engine.drain(at_most)
    }

    /// Closes the store: makes everything durable, seals the log, and frees the directory. Other
    /// handles of it return `Closed` from then on; undecided claims will be interrupted when the
    /// store is opened again. Blocks for syncs, and for the end of the store's threads.
    ///
    /// Returns when the store is closed, whichever handle began it; but at once, without an error,
    /// in a waker that the closing calls, or that a thread of the store calls while another thread
    /// closes it.
    ///
    /// [`Closed::handles_left`] says how many handles of claims still exist. If this process opens
    /// the store again before they are dropped, their keys are interrupted and
    /// [`holder_gone`](crate::Interrupted::holder_gone) is false until the handle is dropped, so
    /// nothing takes them over by itself and they don't expire. Calls of such a holder return
    /// `Closed`, are counted ([`Stats::late_calls`]), and change nothing.
    ///
    /// # Errors
    /// [`StoreError::Poisoned`] if not everything could be made durable. The directory is free even
    /// then. [`StoreError::Forked`] in a child, which closes nothing.
    pub fn close(self) -> Result<Closed, StoreError> {
        self.0.close()
    }

    /// Does the housekeeping of a store without threads.
    #[doc(hidden)]
    pub fn housekeep(&self) -> Result<(), StoreError> {
        let engine = self.engine()?;
        engine.check_claim()?;
        let kept = engine.housekeep();
        engine.tell_if_poisoned();
        Ok(kept?)
    }
}

/// The events and times of a holder's call.
fn call_of(engine: &Engine, ticket: &Ticket, op: &ClaimOp<'_>) -> Call {
    let hash = ticket.note[0];
    match op {
        ClaimOp::Complete(_) => Call::complete(engine.timings(), hash),
        other => Call::plain(engine.timings(), other.name(), hash),
    }
}

/// One try of a holder's call.
fn op_step(engine: &Engine, ticket: &Ticket, op: &ClaimOp<'_>) -> StepResult<(), ClaimError> {
    let step = match op {
        ClaimOp::Complete(completion) => engine.complete(ticket, completion),
        ClaimOp::Fail(answer) => engine.fail(ticket, answer),
        ClaimOp::Release => engine.release(ticket),
        ClaimOp::Undo => engine.undo(ticket),
        ClaimOp::NothingHappened => engine.nothing_happened(ticket),
        ClaimOp::Checkpoint(bytes) => engine.checkpoint(ticket, bytes),
        ClaimOp::Renew => engine.renew(ticket),
        ClaimOp::EnsureDurable => engine.ensure_durable(ticket),
        // Claims are no transactions here.
        ClaimOp::UndoEffects => Ok(crate::engine::Step { value: (), wait: None }),
    };
    if matches!(step, Err(Blocked::Fail(ClaimError::Closed))) {
        engine.late(ticket);
    }
    step
}

impl IdempotencyStore for Store {
    fn begin(&self, request: &Request) -> impl Future<Output = Result<Found, BeginError>> + Send {
        self.begin_future(request, None)
    }

    fn take_over(
        &self,
        request: &Request,
        seen: Token,
    ) -> impl Future<Output = Result<Found, BeginError>> + Send {
        self.begin_future(request, Some(seen))
    }

    async fn write(&self, ticket: &Ticket, op: ClaimOp<'_>) -> Result<(), ClaimError> {
        let engine = self.engine()?;
        let call = call_of(engine, ticket, &op);
        drive::future(engine, call, move |engine| op_step(engine, ticket, &op)).await
    }

    fn begin_many(
        &self,
        requests: &[Request],
    ) -> impl Future<Output = Vec<Result<Found, BeginError>>> + Send {
        self.begin_all(requests)
    }

    fn write_many(
        &self,
        writes: &[(&Ticket, ClaimOp<'_>)],
    ) -> impl Future<Output = Vec<Result<(), ClaimError>>> + Send {
        self.write_all(writes)
    }

    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn changed(
        &self,
        request: &Request,
        seen: Token,
        at_most: Duration,
    ) -> impl Future<Output = bool> + Send {
        Changed::new(&self.0.engine, request.key.clone(), seen, at_most)
    }

    async fn look(&self, key: &OwnedKey) -> Result<Option<Found>, BeginError> {
        let engine = self.engine()?;
        let entry = engine.get(key.as_ref())?;
        Ok(entry.map(|entry| entry.found(engine.shown(engine.now()))))
    }

    async fn erase_scope(&self, scope: &Scope, force: bool) -> Result<Erased, StoreError> {
        let (store, scope) = (self.clone(), scope.clone());
        beside::call(move || Store::erase_scope(&store, &scope, force)).await
    }

    fn terms_in_force(&self, terms: Terms) -> Result<Terms, BeginError> {
        self.engine()?.terms_in_force(terms)
    }

    fn now(&self) -> Duration {
        // A clock may have a lock, too.
        self.engine().map_or(Duration::ZERO, |engine| Duration::from_millis(engine.now()))
    }

    fn abandon(&self, ticket: &Ticket, how: Abandon) {
        self.0.engine.abandon(ticket, how);
    }
}

impl Store {
    async fn begin_future(
        &self,
        request: &Request,
        seen: Option<Token>,
    ) -> Result<Found, BeginError> {
        let engine = self.engine()?;
        let mut begin = engine.prepare(request)?;
        let call = Call::begin(engine.timings(), begin.hash);
        let delivery = drive::future(engine, call, |tried| {
            let step = tried.begin(&mut begin, seen);
            step.map(|step| step.map(|found| Delivery::new(engine.clone(), found)))
        })
        .await?;
        Ok(delivery.arrived())
    }
}

impl Engine {
    /// As [`Engine::commit_all`]. After a failure those that wait for a key are woken, and the error
    /// says whether the store was poisoned or closed.
    pub(crate) fn made_durable(&self) -> Result<(), ClaimError> {
        let committed = self.commit_all();
        self.tell_if_poisoned();
        if committed.is_err() {
            // Closed meanwhile, perhaps.
            self.check_claim()?;
        }
        Ok(committed?)
    }
}
