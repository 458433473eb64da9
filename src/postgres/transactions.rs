//! A backend whose claims are transactions: the effect that a handler writes in its claim's
//! transaction is committed together with the completion, or not at all.

use super::{
    begin::{Ask, first, hidden},
    counts::counted,
    crowd::{LOCK_FIRST, hash},
    here::Here,
    in_order::in_order,
    op::OwnedOp,
    pool::Borrowed,
    row::{Owner, first_grant},
    store::PostgresStore,
    tries::Backoff,
    trouble::DbError,
};
use crate::{
    error::{BeginError, ClaimError, StoreError},
    key::{OwnedKey, Scope},
    spi::{
        Abandon, ClaimOp, Erased, Found, IdempotencyStore, Interruption, Request, Terms, Ticket,
    },
    sql::{Connection, Rows, SqlError, Statement, Transactional, drivers::postgres::unnamed},
    token::Token,
};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    fmt,
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Mutex as AsyncMutex, OwnedMutexGuard},
    task::AbortHandle,
    time::{Instant, sleep, timeout_at},
};

/// A claim whose transaction is open.
pub(super) struct Slot {
    /// `None` once it has ended.
    pub(super) open: Arc<AsyncMutex<Option<Borrowed>>>,
    /// Statements of the caller's may have run in the session.
    pub(super) touched: AtomicBool,
    /// Taken when the transaction has ended, or can't be committed any more.
    pub(super) here: Mutex<Option<Here>>,
    /// Ends the transaction after the execution limit.
    limit: Mutex<Option<AbortHandle>>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(limit) = self.limit.get_mut() {
            limit.abort();
        }
    }
}

/// Before the effects: what they are rolled back to if only the answer is to be kept.
const EFFECTS: &str = "SAVEPOINT onlyonce_effects";
const UNDO_EFFECTS: &str = "ROLLBACK TO SAVEPOINT onlyonce_effects";

/// [`PostgresStore`] with every claim in a transaction of its own, in which the operation writes
/// its effect: for operations whose whole effect is in the same database.
///
/// The effect is written through the claim's [`transaction`](crate::Claim::transaction). `complete`
/// completes the key in it and commits. Everything else that ends a claim (`fail`, `release`, a
/// drop, a panic, the death of the process) rolls it back: the effect has not happened, and the key
/// is as it was before. So this store never interrupts a key, and there is nothing to settle.
///
/// Each claim uses a connection of the store as long as it is held, at most for the store's
/// execution limit: then the connection is closed, and nothing of the attempt stays. What the
/// caller's statements leave in the session (settings, a role, temporary tables, advisory locks) is
/// reset before another claim uses it, and the commit is as durable as the store's others, whatever
/// they set. Other callers of its key wait for its end, for the store's lock timeout, and
/// then get "in flight". A checkpoint is refused, because a rollback would undo it.
///
/// Don't cause effects elsewhere (a call to another service) under such a claim: they are not
/// rolled back.
#[derive(Clone)]
pub struct TransactionStore {
    pub(super) store: PostgresStore,
    open: Arc<Mutex<HashMap<[u64; 2], Arc<Slot>>>>,
}

impl fmt::Debug for TransactionStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TransactionStore({:?})", self.store)
    }
}

/// The open transaction of a claim, for the statements of the effect. Don't send `COMMIT` or
/// `ROLLBACK`: completing the claim commits.
///
/// It is a [`Connection`]. A handler that writes by the driver's own calls asks for the driver's
/// client: `transaction.as_ref()` is a [`tokio_postgres::Client`](super::tokio_postgres::Client).
pub struct OpenTransaction<'a>(OwnedMutexGuard<Option<Borrowed>>, PhantomData<&'a ()>);

impl AsRef<tokio_postgres::Client> for OpenTransaction<'_> {
    fn as_ref(&self) -> &tokio_postgres::Client {
        self.0.as_ref().expect("checked when it was made")
    }
}

impl Connection for OpenTransaction<'_> {
    async fn run(&mut self, statement: Statement<'_>) -> Result<Rows, SqlError> {
        unnamed(self.as_ref(), statement).await
    }
}

impl fmt::Debug for OpenTransaction<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpenTransaction")
    }
}

impl PostgresStore {
    /// Returns a backend over the same store whose claims are transactions.
    pub fn in_transactions(&self) -> TransactionStore {
        TransactionStore { store: self.clone(), open: Arc::default() }
    }
}

impl TransactionStore {
    /// Returns the store whose claims are outside of transactions, on the same table.
    pub fn get_ref(&self) -> &PostgresStore {
        &self.store
    }

    pub(super) fn slot(&self, ticket: &Ticket) -> Result<Arc<Slot>, ClaimError> {
        self.open.lock().get(&ticket.note).cloned().ok_or(ClaimError::Fenced)
    }

    /// The claim's transaction has ended.
    pub(super) fn forget(&self, ticket: &Ticket) {
        self.open.lock().remove(&ticket.note);
    }

    /// A claim that was granted on this session.
    fn opened(&self, ticket: &Ticket, session: Borrowed) {
        let inner = self.store.inner();
        let (connection, limit) = (session.cut(), inner.options.execution_limit);
        let slot = Arc::new(Slot {
            open: Arc::new(AsyncMutex::new(Some(session))),
            touched: AtomicBool::new(false),
            here: Mutex::new(Some(inner.here.opened(&ticket.key, ticket.token))),
            limit: Mutex::new(None),
        });
        let (hung, token) = (Arc::downgrade(&slot), ticket.token.get());
        let limiting = inner.runtime.spawn(async move {
            sleep(limit).await;
            if let Some(slot) = hung.upgrade() {
                tracing::warn!(token, "a transaction reached the execution limit: it is ended");
                // Whatever runs on it: without a connection there is no commit.
                connection.abort();
                slot.here.lock().take();
            }
        });
        *slot.limit.lock() = Some(limiting.abort_handle());
        self.open.lock().insert(ticket.note, slot);
    }

    /// Undoes the claim and all that was written in its transaction.
    async fn undo(&self, ticket: &Ticket) -> Result<(), ClaimError> {
        let slot = self.slot(ticket)?;
        let session = slot.open.lock().await.take().ok_or(ClaimError::Fenced)?;
        self.forget(ticket);
        let until = self.store.inner().tries().this_one();
        let touched = slot.touched.load(Ordering::SeqCst);
        // If that fails the connection is closed, which undoes it as well.
        if let Err(trouble) = self.end(session, until, "ROLLBACK", touched).await {
            tracing::debug!(why = trouble.what(), "a transaction was ended by its connection");
        }
        Ok(())
    }

    /// Undoes what was written in the claim's transaction, but not the claim.
    async fn undo_effects(&self, ticket: &Ticket) -> Result<(), ClaimError> {
        let slot = self.slot(ticket)?;
        let open = slot.open.lock().await;
        let session = open.as_ref().ok_or(ClaimError::Fenced)?;
        let until = self.store.inner().tries().this_one();
        match timeout_at(until, session.batch_execute(UNDO_EFFECTS)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(DbError::of(&error).into()),
            Err(_) => Err(DbError::Unreachable("no answer in time".into()).into()),
        }
    }

    /// Ends a transaction whose claim is over, by `COMMIT` or `ROLLBACK`, and gives the session back
    /// as it was when it was new; an error if it may not have ended so.
    pub(super) async fn end(
        &self,
        session: Borrowed,
        until: Instant,
        how: &'static str,
        touched: bool,
    ) -> Result<(), DbError> {
        let inner = self.store.inner();
        let resetting = async {
            match touched {
                true => inner.pool.sessions.reset(&session).await,
                false => Ok(()),
            }
        };
        // The reset travels with the end.
        let ending = in_order(session.batch_execute(how), resetting, async {});
        match timeout_at(until, ending).await {
            Ok((Ok(()), reset, ())) => {
                if session.take_unsynced() {
                    inner.synced(&session, until).await?;
                }
                match reset {
                    Ok(()) => session.give_back(),
                    Err(trouble) => tracing::debug!(why = trouble.what(), "a session is closed"),
                }
                Ok(())
            }
            Ok((Err(error), ..)) => Err(DbError::of(&error)),
            Err(_) => {
                inner.pool.ask_again();
                Err(DbError::Lost("the server did not answer in time".into()))
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
            let found = store.store.inner().counting.found(&request.key, found)?;
            Ok(Undelivered { store, found: Some(found) })
        };
        self.store.spawn(call).await.map(Undelivered::arrived)
    }

    async fn begin_now(&self, request: &Request, seen: Option<Token>) -> Result<Found, BeginError> {
        let inner = self.store.inner();
        if let Some(running) = inner.here.running(&request.key) {
            inner.check_open()?;
            return Ok(Found::InFlight(running));
        }
        let mut tries = inner.tries();
        let hash = hash(request.key.as_ref());
        let mut patience = inner.crowds.patience(hash, inner.options.lock_timeout);
        let mut taking = seen;
        loop {
            if !patience.turn().await {
                return Ok(hidden());
            }
            let trouble = match self.try_begin(&tries, request, taking).await {
                Ok(Some(Found::Interrupted(stuck)))
                    if seen == Some(stuck.token)
                        && stuck.attempts >= inner.options.max_attempts =>
                {
                    return Err(BeginError::AttemptsExhausted { attempts: stuck.attempts });
                }
                Ok(Some(Found::Interrupted(stuck))) => {
                    let settle_after = inner.unsure.rest(&request.key);
                    return Ok(Found::Interrupted(Interruption { settle_after, ..stuck }));
                }
                Ok(Some(found)) => return Ok(found),
                Ok(None) if taking.take().is_some() => continue,
                Ok(None) => DbError::Again("the key changed while it was asked for".into()),
                Err(Attempt::Terms(error)) => return Err(error),
                // A transaction that is lost is rolled back, so nothing of it stays.
                Err(Attempt::DbError(DbError::Lost(what))) => DbError::Again(what),
                Err(Attempt::DbError(DbError::Locked)) => match patience.locked().await {
                    true => continue,
                    false => return Ok(hidden()),
                },
                Err(Attempt::DbError(trouble)) => trouble,
            };
            tries.again(trouble).await?;
        }
    }

    async fn try_begin(
        &self,
        tries: &Backoff,
        request: &Request,
        seen: Option<Token>,
    ) -> Result<Option<Found>, Attempt> {
        let inner = self.store.inner();
        let terms = inner.resolve(&request.terms).map_err(Attempt::Terms)?;
        let owner = Owner::new();
        let ask = Ask::new(request, &terms, owner, seen, inner.options.max_attempts);
        let sql = if seen.is_some() { &inner.sql.take_over } else { &inner.sql.claim };
        let session = inner.session(tries.until()).await?;
        let until = tries.this_one();
        // A holder that hangs is ended by the server, too. What the effect waits for is its own
        // affair.
        let limit = inner.options.execution_limit.as_millis().min(LONGEST_TIMEOUT_MS);
        let after = format!(
            "SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = {limit}; \
             SET LOCAL idle_in_transaction_session_timeout = {limit}; {EFFECTS}",
        );
        let (begin, take_over) = (ask.to_begin(), ask.to_take_over());
        let params = if seen.is_some() { &take_over[..] } else { &begin[..] };
        let asked = async {
            let statement = session.prepare_cached(sql).await?;
            let (began, rows, set) = in_order(
                session.batch_execute("BEGIN"),
                session.query(&statement, params),
                session.batch_execute(&after),
            )
            .await;
            began?;
            let rows = rows?;
            set?;
            if seen.is_some() {
                return Ok((None, rows));
            }
            if let Some(row) = rows.first() {
                return Ok((Some(row.try_get(0)?), rows));
            }
            // It has a row: what is it, or is it absent?
            let statement = session.prepare_cached(&inner.sql.begin).await?;
            let limit = inner.options.lock_timeout.min(LOCK_FIRST).as_millis();
            let limit =
                format!("SET LOCAL lock_timeout = {limit}; SET LOCAL statement_timeout = 0");
            let (limited, rows, set) = in_order(
                session.batch_execute(&limit),
                session.query(&statement, &begin),
                session.batch_execute(&after),
            )
            .await;
            limited?;
            let rows = rows?;
            set?;
            Ok((None, rows))
        };
        let (token, rows) = match timeout_at(until, asked).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(failed(session, &error, until).await),
            Err(_) => {
                inner.pool.ask_again();
                return Err(DbError::Lost("the server did not answer in time".into()).into());
            }
        };
        let found = match token {
            Some(token) => first_grant(token, request, owner, &terms).map(Found::Granted),
            None => first(&rows)?.and_then(|row| {
                if row.granted {
                    inner.counting.replaced(&request.key, row.replaced, row.token());
                }
                row.found(request, owner)
            }),
        };
        match &found {
            Some(Found::Granted(grant)) => self.opened(&grant.ticket, session),
            _ => roll_back(session, until).await,
        }
        Ok(found)
    }
}

/// The longest time-out that a server takes, in milliseconds: 24.8 days.
const LONGEST_TIMEOUT_MS: u128 = i32::MAX as u128;

/// Why one try failed.
enum Attempt {
    Terms(BeginError),
    DbError(DbError),
}

impl From<DbError> for Attempt {
    fn from(trouble: DbError) -> Self {
        Attempt::DbError(trouble)
    }
}

/// A statement failed. The transaction is over.
async fn failed(session: Borrowed, error: &tokio_postgres::Error, until: Instant) -> Attempt {
    let trouble = DbError::of(error);
    if trouble.leaves_connection() {
        roll_back(session, until).await;
    }
    trouble.into()
}

async fn roll_back(session: Borrowed, until: Instant) {
    if let Ok(Ok(())) = timeout_at(until, session.batch_execute("ROLLBACK")).await {
        session.give_back();
    }
}

/// A found key on its way to the caller.
struct Undelivered {
    store: TransactionStore,
    found: Option<Found>,
}

impl Undelivered {
    fn arrived(mut self) -> Found {
        self.found.take().expect("taken once, here")
    }
}

impl Drop for Undelivered {
    fn drop(&mut self) {
        if let Some(Found::Granted(grant)) = self.found.take() {
            self.store.abandon(&grant.ticket, Abandon::Undelivered);
        }
    }
}

impl Transactional for TransactionStore {
    type Open<'a> = OpenTransaction<'a>;

    async fn open_of<'a>(&self, ticket: &'a Ticket) -> Result<OpenTransaction<'a>, ClaimError> {
        let slot = self.slot(ticket)?;
        let guard = slot.open.clone().lock_owned().await;
        slot.touched.store(true, Ordering::SeqCst);
        match guard.is_some() {
            true => Ok(OpenTransaction(guard, PhantomData)),
            false => Err(ClaimError::Fenced),
        }
    }
}

impl IdempotencyStore for TransactionStore {
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
                        store.store.inner().unsure.again(&ticket.key);
                    }
                    let undone = store.undo(&ticket).await;
                    store.store.inner().counting.wrote(&ticket, counted(&op), &undone);
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
                OwnedOp::Renew | OwnedOp::EnsureDurable => {
                    match store.open.lock().get(&ticket.note) {
                        Some(_) => Ok(()),
                        None => Err(ClaimError::Fenced),
                    }
                }
            }
        };
        self.store.spawn(call).await
    }

    async fn changed(&self, request: &Request, seen: Token, at_most: Duration) -> bool {
        self.store.changed(request, seen, at_most).await
    }

    async fn look(&self, key: &OwnedKey) -> Result<Option<Found>, BeginError> {
        self.store.look(key).await
    }

    fn terms_in_force(&self, terms: Terms) -> Result<Terms, BeginError> {
        self.store.terms_in_force(terms)
    }

    async fn erase_scope(&self, scope: &Scope, force: bool) -> Result<Erased, StoreError> {
        self.store.erase_scope(scope, force).await
    }

    fn abandon(&self, ticket: &Ticket, how: Abandon) {
        let (store, ticket) = (self.clone(), ticket.clone());
        self.store.inner().end_behind(async move {
            if store.undo(&ticket).await.is_ok() {
                store.store.inner().counting.rolled_back(&ticket, how);
            }
        });
    }
}
