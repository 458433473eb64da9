//! A backend on a pool of the caller's whose claims are transactions.

use super::{
    connection::{Connection, Pool, SqlError, SqlErrorKind, Statement},
    counts::counted,
    crowd::hash,
    here::{Here, OpenHere},
    keys::Ask,
    op::OwnedOp,
    store::{Inner, SqlStore, hidden, silent},
    tries::{Lent, Tries},
};
use crate::{
    error::{BeginError, ClaimError},
    key::OwnedKey,
    spi::{Abandon, ClaimOp, Found, IdempotencyStore, Interruption, Request, Terms, Ticket},
    store::async_store::AsyncStore,
    store::claim::Claim,
    token::Token,
};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    fmt,
    future::Future,
    marker::PhantomData,
    ops::{Deref, DerefMut},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{Mutex as AsyncMutex, OwnedMutexGuard},
    task::AbortHandle,
    time::{sleep, timeout_at},
};

/// Before the effects: what they are rolled back to if only the answer is to be kept.
const EFFECTS: &str = "SAVEPOINT onlyonce_effects";
const UNDO_EFFECTS: &str = "ROLLBACK TO SAVEPOINT onlyonce_effects";

/// A backend whose claims are transactions.
pub trait Transactional: IdempotencyStore {
    /// The open transaction of a claim.
    type Open<'a>;

    #[doc(hidden)]
    fn open_of<'a>(
        &self,
        ticket: &'a Ticket,
    ) -> impl Future<Output = Result<Self::Open<'a>, ClaimError>> + Send;
}

impl<S: Transactional> Claim<AsyncStore<S>> {
    /// Returns the claim's transaction. Waits while another part of the operation uses it.
    ///
    /// # Errors
    /// [`ClaimError::Fenced`] if it has ended.
    pub async fn transaction(&self) -> Result<S::Open<'_>, ClaimError> {
        self.store.get_ref().open_of(self.ticket()).await
    }
}

/// [`SqlStore`] with every claim in a transaction of its own, in which the operation writes its
/// effect: for operations whose whole effect is in the same database.
///
/// The effect is written through the claim's [`transaction`](Claim::transaction) (in the HTTP layer
/// `attempt.transaction(&store)`). `complete` completes the key in it and commits. Everything else
/// that ends a claim (`fail`, `release`, a drop, a panic, the death of the process) rolls it back.
/// So this store never interrupts a key, and there is nothing to settle.
///
/// Each claim uses a connection of the pool while it is held, at most for the store's execution
/// limit: then the connection is ended, as soon as no statement runs in it and the handler doesn't
/// keep what [`transaction`](Claim::transaction) returned. **A statement that hangs is not ended**:
/// give it a `statement_timeout` on the pool's connections. In SQLite one transaction writes at a
/// time, so all other claims wait meanwhile, up to the store's deadline: such a handler must be
/// short.
///
/// What a handler's statements leave in a session is the caller's own affair, as the pool is.
#[derive(Clone)]
pub struct SqlTransactions<P: Pool> {
    store: SqlStore<P>,
    open: Arc<Open<P>>,
}

/// The open claims of this process.
struct Open<P: Pool> {
    claims: Mutex<HashMap<[u64; 2], Arc<Slot<P>>>>,
    here: Arc<OpenHere>,
}

/// A claim whose transaction is open.
struct Slot<P: Pool> {
    /// `None` once it has ended.
    open: Arc<AsyncMutex<Option<Lent<P>>>>,
    /// Ends the transaction after the execution limit.
    limit: Mutex<Option<AbortHandle>>,
    /// `None` once it has ended.
    here: Mutex<Option<Here>>,
}

impl<P: Pool> Drop for Slot<P> {
    fn drop(&mut self) {
        if let Some(limit) = self.limit.get_mut() {
            limit.abort();
        }
    }
}

impl<P: Pool> fmt::Debug for SqlTransactions<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SqlTransactions({:?})", self.store)
    }
}

/// The open transaction of a claim, for the statements of the effect. Don't send `COMMIT` or
/// `ROLLBACK`: completing the claim commits.
pub struct InTransaction<'a, P: Pool>(OwnedMutexGuard<Option<Lent<P>>>, PhantomData<&'a ()>);

impl<P: Pool> Deref for InTransaction<'_, P> {
    type Target = P::Connection;

    fn deref(&self) -> &P::Connection {
        self.0.as_deref().expect("checked when it was made")
    }
}

impl<P: Pool> DerefMut for InTransaction<'_, P> {
    fn deref_mut(&mut self) -> &mut P::Connection {
        self.0.as_deref_mut().expect("checked when it was made")
    }
}

impl<P: Pool> fmt::Debug for InTransaction<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InTransaction")
    }
}

impl<P: Pool> SqlStore<P> {
    /// Returns a backend over the same table whose claims are transactions.
    pub fn in_transactions(&self) -> SqlTransactions<P> {
        let open = Open { claims: Mutex::default(), here: Arc::default() };
        SqlTransactions { store: self.clone(), open: Arc::new(open) }
    }
}

/// A statement without parameters and answer.
async fn plain(connection: &mut impl Connection, text: &str) -> Result<(), SqlError> {
    connection.run(Statement::new(text, &[], &[])).await.map(drop)
}

fn rolled_back(why: impl fmt::Display) -> ClaimError {
    let what = format!("the transaction was rolled back: it has had no effect ({why})");
    ClaimError::Unavailable { what }
}

impl<P: Pool> SqlTransactions<P> {
    /// Returns the store whose claims are outside of transactions, on the same table.
    pub fn get_ref(&self) -> &SqlStore<P> {
        &self.store
    }

    fn inner(&self) -> &Arc<Inner<P>> {
        &self.store.0
    }

    fn slot(&self, ticket: &Ticket) -> Result<Arc<Slot<P>>, ClaimError> {
        self.open.claims.lock().get(&ticket.note).cloned().ok_or(ClaimError::Fenced)
    }

    /// The claim's transaction has ended.
    fn forget(&self, ticket: &Ticket) {
        let slot = self.open.claims.lock().remove(&ticket.note);
        if let Some(slot) = slot {
            slot.here.lock().take();
        }
    }

    fn opened(&self, ticket: &Ticket, connection: Lent<P>) {
        let slot = Arc::new(Slot {
            open: Arc::new(AsyncMutex::new(Some(connection))),
            limit: Mutex::new(None),
            here: Mutex::new(Some(self.open.here.opened(&ticket.key, ticket.token))),
        });
        let (hung, store, ticket) = (Arc::downgrade(&slot), self.clone(), ticket.clone());
        let (note, limit) = (ticket.note, self.inner().execution_limit);
        let limiting = self.inner().behind.runtime().spawn(async move {
            sleep(limit).await;
            if let Some(slot) = hung.upgrade() {
                store.forget(&ticket);
                // Not while a statement of the handler's runs on it: that ends by itself.
                drop(slot.open.lock().await.take());
            }
        });
        *slot.limit.lock() = Some(limiting.abort_handle());
        self.open.claims.lock().insert(note, slot);
    }

    async fn try_begin(
        &self,
        tries: &Tries,
        ask: &mut Ask<'_>,
        seen: Option<Token>,
    ) -> Result<Found, SqlError> {
        let inner = self.inner();
        let mut connection = inner.connection(tries).await?;
        // It may have been granted here while a connection was waited for.
        if let Some(running) = self.open.here.running(&ask.request.key) {
            connection.keep();
            return Ok(Found::InFlight(running));
        }
        let sqlite = inner.table.dialect().sqlite;
        let begin = plain(&mut *connection, if sqlite { "BEGIN IMMEDIATE" } else { "BEGIN" });
        let begun = timeout_at(tries.until, begin).await.unwrap_or_else(|_| Err(silent()));
        if let Err(error) = begun {
            // A busy database: nothing has begun.
            if error.kind() == SqlErrorKind::Again {
                connection.keep();
            }
            return Err(error);
        }
        let begun = async {
            let found = inner.table.begin_by(&mut *connection, ask, seen).await?;
            let next = match found {
                Found::Granted(_) => EFFECTS,
                _ => "ROLLBACK",
            };
            plain(&mut *connection, next).await?;
            Ok(found)
        };
        let found = match timeout_at(tries.until, begun).await.unwrap_or_else(|_| Err(silent())) {
            Ok(found) => found,
            Err(error) => {
                // What can't be rolled back ends with its connection.
                if error.kind() != SqlErrorKind::Lost
                    && let Ok(Ok(())) =
                        timeout_at(tries.until, plain(&mut *connection, "ROLLBACK")).await
                {
                    connection.keep();
                }
                return Err(error);
            }
        };
        match &found {
            Found::Granted(grant) => {
                let token = Some(grant.ticket.token);
                inner.counting.replaced(&ask.request.key, ask.replaced, token);
                self.opened(&grant.ticket, connection);
            }
            _ => connection.keep(),
        }
        Ok(found)
    }

    async fn begin_now(&self, request: &Request, seen: Option<Token>) -> Result<Found, BeginError> {
        let inner = self.inner();
        if !inner.is_open() {
            return Err(BeginError::Closed);
        }
        let terms = inner.table.bounds().resolve(&request.terms)?;
        let mut tries = inner.tries();
        let mut patience = inner.crowds.patience(hash(request.key.as_ref()), inner.patience);
        loop {
            if let Some(running) = self.open.here.running(&request.key) {
                return Ok(Found::InFlight(running));
            }
            if !patience.turn().await {
                return Ok(hidden());
            }
            let mut ask = Ask::new(request, terms);
            let error = match self.try_begin(&tries, &mut ask, seen).await {
                Ok(Found::Interrupted(stuck)) => {
                    if seen == Some(stuck.token)
                        && stuck.attempts >= inner.table.bounds().max_attempts
                    {
                        return Err(BeginError::AttemptsExhausted { attempts: stuck.attempts });
                    }
                    let settle_after = inner.unsure.rest(&request.key);
                    return Ok(Found::Interrupted(Interruption { settle_after, ..stuck }));
                }
                Ok(found) => return Ok(found),
                Err(error) => error,
            };
            match error.kind() {
                SqlErrorKind::Locked => {
                    if !patience.locked().await {
                        return Ok(hidden());
                    }
                }
                // What is lost is rolled back, so nothing of it stays.
                SqlErrorKind::Lost => {
                    tries.again(SqlError::new(SqlErrorKind::Again, error)).await?;
                }
                _ => tries.again(error).await?,
            }
        }
    }

    async fn begin_or_take_over(
        &self,
        request: &Request,
        seen: Option<Token>,
    ) -> Result<Found, BeginError> {
        let (store, request) = (self.clone(), request.clone());
        let call = async move {
            let found = store.begin_now(&request, seen).await;
            let found = store.inner().counting.found(&request.key, found)?;
            Ok(Undelivered { store, found: Some(found) })
        };
        let begun: Result<Undelivered<P>, BeginError> = self.inner().behind.call(call).await;
        Ok(begun?.found.take().expect("taken once, here"))
    }

    /// Undoes the claim and all that was written in its transaction.
    async fn undo(&self, ticket: &Ticket) -> Result<(), ClaimError> {
        let slot = self.slot(ticket)?;
        let mut connection = slot.open.lock().await.take().ok_or(ClaimError::Fenced)?;
        let until = self.inner().tries().until;
        // If that fails the connection is ended, which undoes it as well.
        if let Ok(Ok(())) = timeout_at(until, plain(&mut *connection, "ROLLBACK")).await {
            connection.keep();
        }
        self.forget(ticket);
        Ok(())
    }

    /// Undoes what was written in the claim's transaction, but not the claim.
    async fn undo_effects(&self, ticket: &Ticket) -> Result<(), ClaimError> {
        let slot = self.slot(ticket)?;
        let mut open = slot.open.lock().await;
        let connection = open.as_mut().ok_or(ClaimError::Fenced)?;
        let until = self.inner().tries().until;
        let undone = timeout_at(until, plain(&mut **connection, UNDO_EFFECTS)).await;
        Ok(undone.unwrap_or_else(|_| Err(silent()))?)
    }

    /// Completes the key in its transaction, and commits.
    async fn complete(&self, ticket: &Ticket, op: &OwnedOp) -> Result<(), ClaimError> {
        let inner = self.inner();
        let Ok(slot) = self.slot(ticket) else {
            // A second completion: the first one is there, or else nothing is.
            return inner.write(ticket, op).await;
        };
        let mut open = slot.open.lock().await;
        let Some(mut connection) = open.take() else { return inner.write(ticket, op).await };
        let tries = inner.tries();
        let completing = async {
            // What the effects have left to the end is checked while the claim can be kept.
            if !inner.table.dialect().sqlite && !inner.table.dialect().one_key {
                plain(&mut *connection, "SET CONSTRAINTS ALL IMMEDIATE").await?;
            }
            inner.table.write_by(&mut *connection, ticket, op, 0).await
        };
        let done = timeout_at(tries.until, completing).await.unwrap_or_else(|_| Err(silent()));
        let done = match done {
            Ok(true) => {
                let commit = timeout_at(tries.until, plain(&mut *connection, "COMMIT")).await;
                commit.unwrap_or_else(|_| Err(silent()))
            }
            Ok(false) => {
                self.forget(ticket);
                return Err(rolled_back("the claim does not exist in it"));
            }
            Err(error) => match error.kind() {
                SqlErrorKind::Lost | SqlErrorKind::Again => {
                    self.forget(ticket);
                    return Err(rolled_back(error));
                }
                _ => {
                    // A statement has failed, or a constraint does not hold.
                    *open = Some(connection);
                    return Err(ClaimError::EffectsFailed { what: error.to_string() });
                }
            },
        };
        let error = match done {
            Ok(()) => {
                connection.keep();
                self.forget(ticket);
                inner.counting.wrote(ticket, counted(op), &Ok(()));
                return Ok(());
            }
            Err(error) => error,
        };
        if inner.table.dialect().sqlite && error.kind() == SqlErrorKind::Refused {
            // A deferred constraint does not hold: the transaction is still open.
            *open = Some(connection);
            return Err(ClaimError::EffectsFailed { what: error.to_string() });
        }
        drop(connection);
        self.forget(ticket);
        // Whether it is committed shows when its session has ended.
        let mut tries = inner.tries();
        let mut last = error;
        loop {
            tries.again(last).await?;
            let asked = Request {
                key: ticket.key.clone(),
                fingerprint: ticket.fingerprint,
                terms: Terms::default(),
            };
            last = match IdempotencyStore::begin(&self.store, &asked).await {
                Ok(Found::Replay(record)) if record.token() == ticket.token => {
                    inner.counting.wrote(ticket, counted(op), &Ok(()));
                    return Ok(());
                }
                Ok(Found::InFlight(_)) => SqlError::lost("its session has not ended yet"),
                Ok(Found::Granted(grant)) => {
                    inner.write(&grant.ticket, &OwnedOp::Release).await?;
                    return Err(rolled_back("the commit failed"));
                }
                Ok(_) => return Err(rolled_back("the commit failed")),
                Err(error) => return Err(ClaimError::Unavailable { what: error.to_string() }),
            };
        }
    }
}

/// A found key on its way to the caller.
struct Undelivered<P: Pool> {
    store: SqlTransactions<P>,
    found: Option<Found>,
}

impl<P: Pool> Drop for Undelivered<P> {
    fn drop(&mut self) {
        if let Some(Found::Granted(grant)) = self.found.take() {
            self.store.abandon(&grant.ticket, Abandon::Undelivered);
        }
    }
}

impl<P: Pool> Transactional for SqlTransactions<P> {
    type Open<'a> = InTransaction<'a, P>;

    async fn open_of<'a>(&self, ticket: &'a Ticket) -> Result<InTransaction<'a, P>, ClaimError> {
        let slot = self.slot(ticket)?;
        let guard = slot.open.clone().lock_owned().await;
        match guard.is_some() {
            true => Ok(InTransaction(guard, PhantomData)),
            false => Err(ClaimError::Fenced),
        }
    }
}

impl<P: Pool> IdempotencyStore for SqlTransactions<P> {
    async fn begin(&self, request: &Request) -> Result<Found, BeginError> {
        self.begin_or_take_over(request, None).await
    }

    async fn take_over(&self, request: &Request, seen: Token) -> Result<Found, BeginError> {
        self.begin_or_take_over(request, Some(seen)).await
    }

    async fn write(&self, ticket: &Ticket, op: ClaimOp<'_>) -> Result<(), ClaimError> {
        let op = OwnedOp::of(ticket, op)?;
        let (store, ticket) = (self.clone(), ticket.clone());
        let call = async move {
            match &op {
                OwnedOp::Complete { .. } => store.complete(&ticket, &op).await,
                OwnedOp::Fail(_) | OwnedOp::Release | OwnedOp::Undo => {
                    if matches!(op, OwnedOp::Undo) {
                        store.inner().unsure.again(&ticket.key);
                    }
                    let undone = store.undo(&ticket).await;
                    store.inner().counting.wrote(&ticket, counted(&op), &undone);
                    undone
                }
                OwnedOp::UndoEffects => store.undo_effects(&ticket).await,
                OwnedOp::NothingHappened => {
                    let state = "claimed in a transaction, whose end undoes what is said in it";
                    Err(ClaimError::NotApplicable { state })
                }
                OwnedOp::Checkpoint(_) => {
                    let state = "claimed in a transaction, which a checkpoint does not outlive";
                    Err(ClaimError::NotApplicable { state })
                }
                // The transaction is its lease.
                OwnedOp::Renew | OwnedOp::EnsureDurable => store.slot(&ticket).map(drop),
            }
        };
        self.inner().behind.call(call).await
    }

    async fn changed(&self, request: &Request, seen: Token, at_most: Duration) -> bool {
        let until = std::time::Instant::now() + at_most.min(Duration::from_secs(30 * 24 * 3600));
        let mut pause = Duration::from_millis(5);
        let running = || self.open.here.running(&request.key).is_some();
        if !running() {
            return IdempotencyStore::changed(&self.store, request, seen, at_most).await;
        }
        while running() {
            let left = until.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                return false;
            }
            let (behind, nap) = (self.inner().behind.clone(), pause.min(left));
            let _ = behind.runtime().spawn(async move { sleep(nap).await }).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
        true
    }

    async fn look(&self, key: &OwnedKey) -> Result<Option<Found>, BeginError> {
        IdempotencyStore::look(&self.store, key).await
    }

    fn terms_in_force(&self, terms: Terms) -> Result<Terms, BeginError> {
        IdempotencyStore::terms_in_force(&self.store, terms)
    }

    fn abandon(&self, ticket: &Ticket, how: Abandon) {
        let (store, ticket) = (self.clone(), ticket.clone());
        self.inner().behind.run(async move {
            if store.undo(&ticket).await.is_ok() {
                store.inner().counting.rolled_back(&ticket, how);
            }
        });
    }
}
