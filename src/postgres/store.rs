//! The public handle: connect, a backend's calls, sweep, drain, close.

use super::{
    begin::Delivery,
    counts::Counts,
    inner::Inner,
    op::OwnedOp,
    options::PostgresOptions,
    pool::{Pool, Sessions},
    sweep::Swept,
    trouble::DbError,
};
use crate::{
    error::{BeginError, ClaimError, OpenError, StoreError},
    fingerprint::Fingerprint,
    key::{KeyRef, OwnedKey, Scope},
    observe::Timed,
    spi::{Abandon, ClaimOp, Completion, Erased, Found, IdempotencyStore, Request, Terms, Ticket},
    sql::{BeginIn, ClaimIn, Connection, InterruptedIn},
    token::Token,
};
use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll},
    time::Duration,
};
use tokio::{task::JoinHandle, time::timeout};

/// An idempotency store on a PostgreSQL cluster. Clones are handles of the same store, and the last
/// one closes it. Wrap it in an [`AsyncStore`](crate::AsyncStore) to claim and complete keys.
///
/// ```no_run
/// # async fn open() -> Result<(), Box<dyn std::error::Error>> {
/// use onlyonce::{AsyncStore, Begin, Fingerprint, KeyRef, Scope};
/// use onlyonce::postgres::{PostgresOptions, Replication};
///
/// let options = PostgresOptions::new("host=db1 user=shop dbname=shop", Replication::SingleServer);
/// options.migrate().await?; // creates the tables, or brings them to this version
/// let store = AsyncStore::new(options.connect().await?);
///
/// let scope = Scope::of(["tenant-7", "orders"]);
/// let key = KeyRef::new(&scope, "8e03978e")?;
/// if let Begin::Execute(mut claim) = store.begin(key, Fingerprint::of(["book", "1"])).await? {
///     claim.complete(b"order 1").await?;
/// }
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct PostgresStore(Arc<Owner>);

/// A handle that doesn't keep the store open.
#[cfg_attr(not(any(feature = "metrics", feature = "admin")), allow(dead_code))]
pub(super) struct WeakPostgres(Weak<Owner>);

#[cfg_attr(not(any(feature = "metrics", feature = "admin")), allow(dead_code))]
impl WeakPostgres {
    pub fn upgrade(&self) -> Option<PostgresStore> {
        self.0.upgrade().map(PostgresStore)
    }
}

/// Ends the store's tasks with its last handle.
struct Owner(Arc<Inner>);

impl Drop for Owner {
    fn drop(&mut self) {
        let inner = self.0.clone();
        if inner.ending() == 0 {
            return inner.close();
        }
        // The server still gets the ends of abandoned claims, if it is there.
        self.0.runtime.spawn(async move {
            let _ = timeout(2 * inner.options.deadline, inner.all_ended()).await;
            inner.close();
        });
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresStore({} at {})", self.inner().names.table, self.place())
    }
}

impl PostgresOptions {
    /// Opens the store: connects to a server that accepts writes, checks that it replicates as
    /// declared, and that the tables exist in this version.
    ///
    /// Must be called on a tokio runtime with time and I/O, on which the store's connections run
    /// as long as it is open. Its futures can be polled anywhere.
    ///
    /// # Errors
    /// [`OpenError::Options`] for options out of bounds; [`OpenError::Unreachable`],
    /// [`OpenError::Denied`], [`OpenError::ReadOnly`] or [`OpenError::NotReplicated`] if no server
    /// can be used; [`OpenError::NotMigrated`] or [`OpenError::Newer`] if the tables have another
    /// version. The options' [`migrate`](PostgresOptions::migrate) creates and upgrades them.
    pub async fn connect(&self) -> Result<PostgresStore, OpenError> {
        let sessions = Sessions::new(self)?;
        let place = sessions.place().to_owned();
        let pool = Pool::new(sessions, self.connections);
        let inner = Arc::new(Inner::new(self, pool));
        let session = inner.pool.sessions.connect_unshared().await;
        let session = session.map_err(|trouble| trouble.opening(&place))?;
        let secret = inner.names.check(&session, &place).await?;
        inner.counting.hash_under(&secret);
        let store = PostgresStore(Arc::new(Owner(inner)));
        let stands = store.inner().start_standing().await;
        stands.map_err(|trouble| trouble.opening(&place))?;
        store.inner().start_keeping();
        store.inner().start_sweeping();
        if self.notify {
            store.inner().start_telling();
        }
        Ok(store)
    }
}

impl PostgresStore {
    pub(super) fn inner(&self) -> &Arc<Inner> {
        &self.0.0
    }

    #[cfg_attr(not(any(feature = "metrics", feature = "admin")), allow(dead_code))]
    pub(super) fn downgrade(&self) -> WeakPostgres {
        WeakPostgres(Arc::downgrade(&self.0))
    }

    /// The hosts, without anything secret.
    pub(super) fn place(&self) -> &str {
        self.inner().pool.sessions.place()
    }

    /// Removes rows that expired at least ten minutes ago; `None` if another store does so at this
    /// moment. The store does this by itself at intervals.
    ///
    /// # Errors
    /// [`BeginError::Unavailable`] if no server answers.
    pub async fn sweep(&self) -> Result<Option<Swept>, BeginError> {
        let inner = self.inner().clone();
        let sweeping = async move { inner.sweep().await };
        let mut task = Attended(self.inner().runtime.spawn(sweeping));
        Ok((&mut task.0).await.unwrap_or(Err(DbError::Closed))?)
    }

    /// Waits, for `at_most`, until the server knows of all claims that were dropped, until calls
    /// whose future was dropped half way have ended, and until the claims are undone that may come
    /// of `begin`s that gave up with an unknown outcome. Returns how many of them are left. For an
    /// orderly shutdown, before the last handle is dropped.
    pub async fn drain(&self, at_most: Duration) -> u64 {
        let inner = self.inner().clone();
        let draining = async move {
            let _ = timeout(at_most, inner.all_ended()).await;
            inner.ending()
        };
        let mut task = Attended(self.inner().runtime.spawn(draining));
        (&mut task.0).await.unwrap_or_else(|_| self.inner().ending())
    }

    /// Returns what this process has done and found by this store since it was opened.
    pub fn counts(&self) -> Counts {
        self.inner().counting.counts()
    }

    /// Returns whether the store's [session](PostgresOptions::holder_session) lasts, as far as this
    /// process knows; `false` without one. An execution that may have outlived its lease can ask
    /// this before an effect that nothing fences: with neither lease nor session, another holder
    /// may be executing.
    pub fn holds_session(&self) -> bool {
        self.inner().standing.as_ref().is_some_and(|standing| standing.is_held())
    }

    /// Closes the store: other handles of it return `Closed` from now on. If the store has a
    /// session, its remaining holders count as gone when their leases pass.
    pub fn close(&self) {
        self.inner().close();
    }

    /// A call that runs to its end even if its caller drops it; then the store's last handle and
    /// [`drain`](Self::drain) wait for it.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        call: impl Future<Output = T> + Send + 'static,
    ) -> Call<T> {
        Call { call: Some(Box::pin(call)), begun: false, inner: self.inner().clone() }
    }

    /// Claims `key` in a transaction that the caller has begun, by any library, on the database that
    /// has the store's table: see [`Keys::begin_in`](crate::sql::Keys::begin_in).
    ///
    /// # Errors
    /// As there, and [`BeginError::Closed`].
    pub async fn begin_in(
        &self,
        transaction: &mut impl Connection,
        key: KeyRef<'_>,
        fingerprint: Fingerprint,
        terms: Terms,
    ) -> Result<BeginIn, BeginError> {
        self.inner().check_open()?;
        self.inner().keys.begin_in(transaction, key, fingerprint, terms).await
    }

    /// Takes over an interrupted key in the transaction in which it was found: see
    /// [`Keys::take_over_in`](crate::sql::Keys::take_over_in).
    ///
    /// # Errors
    /// As there, and [`BeginError::Closed`].
    pub async fn take_over_in(
        &self,
        transaction: &mut impl Connection,
        interrupted: InterruptedIn,
    ) -> Result<BeginIn, BeginError> {
        self.inner().check_open()?;
        self.inner().keys.take_over_in(transaction, interrupted).await
    }

    /// Completes a claim of [`begin_in`](Self::begin_in) in its transaction: see
    /// [`Keys::complete_in`](crate::sql::Keys::complete_in). The commit keeps it, and is made as
    /// durable as the store's own.
    ///
    /// # Errors
    /// As there.
    pub async fn complete_in(
        &self,
        transaction: &mut impl Connection,
        claim: &ClaimIn,
        completion: Completion<'_>,
    ) -> Result<(), ClaimError> {
        self.inner().keys.complete_in(transaction, claim, completion).await
    }

    async fn begin_or_take_over(
        &self,
        request: &Request,
        seen: Option<Token>,
    ) -> Result<Found, BeginError> {
        let (inner, request) = (self.inner().clone(), request.clone());
        let call = async move {
            let found = inner.begin(&request, seen).await?;
            Ok(Delivery::new(&inner, found))
        };
        let started = self.inner().counting.timings.start();
        let found = self.spawn(call).await.map(Delivery::arrived);
        self.inner().counting.timings.end(Timed::Begin, started);
        found
    }
}

/// A call under way: in its caller's task, and, if that drops it half way, in one of its own.
pub(super) struct Call<T: Send + 'static> {
    call: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
    begun: bool,
    inner: Arc<Inner>,
}

impl<T: Send + 'static> Future for Call<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let this = &mut *self;
        this.begun = true;
        // The caller may be on another runtime, or on none.
        let _entered = this.inner.runtime.enter();
        let call = this.call.as_mut().expect("polled after its end");
        let value = std::task::ready!(call.as_mut().poll(context));
        this.call = None;
        Poll::Ready(value)
    }
}

impl<T: Send + 'static> Drop for Call<T> {
    fn drop(&mut self) {
        if self.begun
            && let Some(call) = self.call.take()
        {
            self.inner.end_behind(async move { drop(call.await) });
        }
    }
}

/// A task that ends when its caller stops waiting for it.
struct Attended<T>(JoinHandle<T>);

impl<T> Drop for Attended<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl IdempotencyStore for PostgresStore {
    async fn begin(&self, request: &Request) -> Result<Found, BeginError> {
        self.begin_or_take_over(request, None).await
    }

    async fn take_over(&self, request: &Request, seen: Token) -> Result<Found, BeginError> {
        self.begin_or_take_over(request, Some(seen)).await
    }

    async fn write(&self, ticket: &Ticket, op: ClaimOp<'_>) -> Result<(), ClaimError> {
        let op = OwnedOp::of(ticket, op)?;
        let (inner, ticket) = (self.inner().clone(), ticket.clone());
        let completes = matches!(op, OwnedOp::Complete { .. });
        let started = self.inner().counting.timings.start();
        let written = self.spawn(async move { inner.write(&ticket, &op).await }).await;
        if completes {
            self.inner().counting.timings.end(Timed::Complete, started);
        }
        written
    }

    async fn changed(&self, request: &Request, seen: Token, at_most: Duration) -> bool {
        let (inner, request) = (self.inner().clone(), request.clone());
        let watching = async move { inner.changed(&request, seen, at_most).await };
        let mut task = Attended(self.inner().runtime.spawn(watching));
        (&mut task.0).await.unwrap_or(false)
    }

    async fn look(&self, key: &OwnedKey) -> Result<Option<Found>, BeginError> {
        let (inner, key) = (self.inner().clone(), key.clone());
        self.spawn(async move { inner.find(key).await }).await
    }

    fn terms_in_force(&self, terms: Terms) -> Result<Terms, BeginError> {
        self.inner().terms_in_force(terms)
    }

    async fn erase_scope(&self, scope: &Scope, force: bool) -> Result<Erased, StoreError> {
        PostgresStore::erase_scope(self, scope, force).await
    }

    fn abandon(&self, ticket: &Ticket, how: Abandon) {
        self.inner().abandon(ticket, how);
    }
}
