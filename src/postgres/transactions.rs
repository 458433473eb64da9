//! A backend whose claims are transactions: the effect that a handler writes in its claim's
//! transaction is committed together with the completion, or not at all.

use super::{
    begin::{Ask, exhausted, first, hidden},
    in_order::in_order,
    pool::Borrowed,
    row::{Owner, first_grant},
    store::PostgresStore,
    transaction::CompleteParams,
    tries::Backoff,
    trouble::DbError,
    write::OwnedOp,
};
use crate::{
    error::{BeginError, ClaimError},
    spi::{Abandon, ClaimOp, Found, IdempotencyStore, Interruption, Request, Terms, Ticket},
    store::async_store::AsyncStore,
    store::claim::Claim,
    token::Token,
};
use parking_lot::Mutex;
use std::{collections::HashMap, fmt, marker::PhantomData, ops::Deref, sync::Arc, time::Duration};
use tokio::{
    sync::{Mutex as AsyncMutex, OwnedMutexGuard},
    time::{Instant, timeout_at},
};

type Slot = Arc<AsyncMutex<Option<Borrowed>>>;

/// [`PostgresStore`] with every claim in a transaction of its own, in which the operation writes
/// its effect: for operations whose whole effect is in the same database.
///
/// The effect is written through the claim's [`transaction`](Claim::transaction). `complete`
/// completes the key in it and commits. Everything else that ends a claim (`fail`, `release`, a
/// drop, a panic, the death of the process) rolls it back: the effect has not happened, and the key
/// is as it was before. So this store never interrupts a key, and there is nothing to settle.
///
/// Each claim uses a connection of the store as long as it is held, at most for the store's
/// execution limit. Other callers of its key wait for its end, for the store's lock timeout, and
/// then get "in flight". A checkpoint is refused, because a rollback would undo it.
///
/// Don't cause effects elsewhere (a call to another service) under such a claim: they are not
/// rolled back.
#[derive(Clone)]
pub struct TransactionStore {
    store: PostgresStore,
    open: Arc<Mutex<HashMap<[u64; 2], Slot>>>,
}

impl fmt::Debug for TransactionStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TransactionStore({:?})", self.store)
    }
}

/// The open transaction of a claim, for the statements of the effect. Don't send `COMMIT` or
/// `ROLLBACK`: completing the claim commits.
pub struct OpenTransaction<'a>(OwnedMutexGuard<Option<Borrowed>>, PhantomData<&'a ()>);

impl Deref for OpenTransaction<'_> {
    type Target = tokio_postgres::Client;

    fn deref(&self) -> &tokio_postgres::Client {
        self.0.as_deref().expect("checked when it was made")
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

impl Claim<AsyncStore<TransactionStore>> {
    /// Returns the claim's transaction. Waits while another part of the operation uses it.
    ///
    /// # Errors
    /// [`ClaimError::Fenced`] if it has ended.
    pub async fn transaction(&self) -> Result<OpenTransaction<'_>, ClaimError> {
        self.store.get_ref().transaction(self.ticket()).await
    }
}

impl TransactionStore {
    /// Returns the store whose claims are outside of transactions, on the same table.
    pub fn get_ref(&self) -> &PostgresStore {
        &self.store
    }

    pub(crate) async fn transaction<'a>(
        &self,
        ticket: &'a Ticket,
    ) -> Result<OpenTransaction<'a>, ClaimError> {
        let slot = self.open.lock().get(&ticket.note).cloned().ok_or(ClaimError::Fenced)?;
        let guard = slot.lock_owned().await;
        match guard.is_some() {
            true => Ok(OpenTransaction(guard, PhantomData)),
            false => Err(ClaimError::Fenced),
        }
    }

    /// Takes the transaction from the claim, because it is about to end.
    async fn end(&self, ticket: &Ticket) -> Result<Borrowed, ClaimError> {
        let slot = self.open.lock().remove(&ticket.note).ok_or(ClaimError::Fenced)?;
        slot.lock().await.take().ok_or(ClaimError::Fenced)
    }

    async fn begin_or_take_over(
        &self,
        request: &Request,
        seen: Option<Token>,
    ) -> Result<Found, BeginError> {
        let (store, request) = (self.clone(), request.clone());
        let call = async move {
            let found = store.begin_now(&request, seen).await?;
            Ok(Undelivered { store, found: Some(found) })
        };
        self.store.spawn(call).await.map(Undelivered::arrived)
    }

    async fn begin_now(&self, request: &Request, seen: Option<Token>) -> Result<Found, BeginError> {
        let inner = self.store.inner();
        let mut tries = inner.tries();
        let mut taking = seen;
        loop {
            let trouble = match self.try_begin(&tries, request, taking).await {
                Ok(Some(Found::Interrupted(stuck)))
                    if seen == Some(stuck.token)
                        && stuck.attempts >= inner.options.max_attempts =>
                {
                    exhausted(&stuck);
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
                Err(Attempt::DbError(DbError::Locked)) => return Ok(hidden()),
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
        let until = tries.this_one();
        let session = inner.session(until).await?;
        // A holder that hangs is ended by the server. What the effect waits for is its own affair.
        let after = format!(
            "SET LOCAL lock_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = {}",
            inner.options.execution_limit.as_millis()
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
            let limit = inner.options.lock_timeout.as_millis();
            let limit = format!("SET LOCAL lock_timeout = {limit}");
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
                inner.pool.forget();
                return Err(DbError::Lost("the server did not answer in time".into()).into());
            }
        };
        let found = match token {
            Some(token) => first_grant(token, request, owner, &terms).map(Found::Granted),
            None => first(&rows)?.and_then(|row| row.found(request, owner)),
        };
        match &found {
            Some(Found::Granted(grant)) => {
                let slot = Arc::new(AsyncMutex::new(Some(session)));
                self.open.lock().insert(grant.ticket.note, slot);
            }
            _ => roll_back(session, until).await,
        }
        Ok(found)
    }

    async fn complete(&self, ticket: &Ticket, op: &OwnedOp) -> Result<(), ClaimError> {
        let OwnedOp::Complete { head, response, retention } = op else {
            unreachable!("only completions come here")
        };
        let inner = self.store.inner();
        let mut tries = inner.tries();
        let until = tries.this_one();
        let session = match self.end(ticket).await {
            Ok(session) => session,
            // A second completion: the first one is there, or else nothing is.
            Err(_) => return inner.write(ticket, op).await,
        };
        let params = CompleteParams::new(ticket, head, response, retention);
        let completing = async {
            let statement = session.prepare_cached(&inner.sql.complete).await?;
            if session.execute(&statement, &params.all()).await? == 0 {
                return Ok(false);
            }
            session.batch_execute("COMMIT").await?;
            Ok::<_, tokio_postgres::Error>(true)
        };
        let trouble = match timeout_at(until, completing).await {
            Ok(Ok(true)) => {
                session.give_back();
                inner.told(&ticket.key);
                return Ok(());
            }
            Ok(Ok(false)) => {
                roll_back(session, until).await;
                return Err(rolled_back());
            }
            Ok(Err(error)) => match DbError::of(&error) {
                DbError::Lost(what) => DbError::Lost(what),
                // The server refused, and rolls back.
                _ => return Err(ended_by(failed(session, &error, until).await)),
            },
            Err(_) => DbError::Lost("the server did not answer in time".into()),
        };
        drop(session);
        // The key's lock ends with the session: the next caller waits for that.
        loop {
            tries.again(trouble.clone()).await?;
            let asked = Request {
                key: ticket.key.clone(),
                fingerprint: ticket.fingerprint,
                terms: Terms::default(),
            };
            match inner.begin(&asked, None).await {
                Ok(Found::Replay(record)) if record.token() == ticket.token => return Ok(()),
                Ok(Found::InFlight(_)) => {}
                Ok(Found::Granted(grant)) => {
                    inner.write(&grant.ticket, &OwnedOp::Release).await?;
                    return Err(rolled_back());
                }
                Ok(_) => return Err(rolled_back()),
                Err(error) => return Err(ClaimError::Unavailable { what: error.to_string() }),
            }
        }
    }
}

fn rolled_back() -> ClaimError {
    let what = "the transaction was rolled back: it has had no effect".into();
    ClaimError::Unavailable { what }
}

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

fn ended_by(attempt: Attempt) -> ClaimError {
    match attempt {
        Attempt::DbError(trouble) => trouble.into(),
        Attempt::Terms(error) => ClaimError::Unavailable { what: error.to_string() },
    }
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
                    let until = store.store.inner().tries().this_one();
                    roll_back(store.end(&ticket).await?, until).await;
                    Ok(())
                }
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

    fn abandon(&self, ticket: &Ticket, _: Abandon) {
        let (store, ticket) = (self.clone(), ticket.clone());
        let inner = self.store.inner();
        let until = inner.tries().this_one();
        inner.end_behind(async move {
            if let Ok(session) = store.end(&ticket).await {
                roll_back(session, until).await;
            }
        });
    }
}
