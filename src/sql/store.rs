//! A backend on a pool of the caller's. Nothing is noticed but by asking: waiters poll.

use super::{
    connection::{Pool, SqlError, SqlErrorKind},
    counts::{Counting, Counts, counted},
    crowd::{Crowds, LOCK_FIRST, hash},
    keys::{Ask, Keys},
    op::{OwnedOp, judge, next_step},
    options::SqlOptions,
    row::{Owner, RowState, ms},
    schema,
    tries::{Behind, Lent, Tries},
    unsure::Unsure,
};
use crate::{
    error::{BeginError, ClaimError, OpenError},
    key::OwnedKey,
    observe::Timed,
    record::Reason,
    spi::{Abandon, ClaimOp, Found, IdempotencyStore, Request, Running, Terms, Ticket},
    stats::Count,
    token::Token,
};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout, timeout_at},
};

/// The intervals at which a waiter looks, at first and at the end.
const LOOK_FIRST: Duration = Duration::from_millis(25);
const LOOK_LAST: Duration = Duration::from_millis(400);
/// How many ends under way there may be before one that was tried in vain is left to its lease.
const ENDS_MAX: u64 = 10_000;
/// Renewed so many times within a lease.
const TIMES: u32 = 3;

/// An idempotency store on a pool of the caller's: the same table and the same promises as with
/// `postgres::PostgresStore`, or in SQLite, and no connection of its own.
/// Clones are handles of the same store. Wrap it in an [`AsyncStore`](crate::AsyncStore).
///
/// - Only a holder's lease shows that it is alive.
/// - Waiters ask again, at intervals of 25 ms to 0.4 s.
/// - Rows are removed when [`sweep`](Self::sweep) is called: at intervals, by any process.
/// - The ends of dropped claims are sent in the background ([`drain`](Self::drain)); if the process
///   ends before, the lease ends the claim.
pub struct SqlStore<P: Pool>(pub(super) Arc<Inner<P>>);

impl<P: Pool> Clone for SqlStore<P> {
    fn clone(&self) -> Self {
        SqlStore(self.0.clone())
    }
}

impl<P: Pool> fmt::Debug for SqlStore<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SqlStore({})", self.0.table.names().table)
    }
}

pub(super) struct Inner<P: Pool> {
    /// The table, with claims that wait for a lock for a moment only.
    pub table: Keys,
    /// The same for transactions of the caller's own.
    keys: Keys,
    pub crowds: Crowds,
    /// How long a call waits for a key that is locked.
    pub patience: Duration,
    pub pool: P,
    pub deadline: Duration,
    pub execution_limit: Duration,
    pub unsure: Unsure,
    pub behind: Behind,
    pub counting: Counting,
    closed: AtomicBool,
    kept: Mutex<HashMap<(Token, Owner), Kept>>,
    more: Notify,
}

/// A claim whose lease is renewed by itself.
struct Kept {
    ticket: Ticket,
    next: Instant,
    until: Instant,
}

impl<P: Pool> SqlStore<P> {
    pub(super) async fn open(options: &SqlOptions, pool: P) -> Result<Self, OpenError> {
        let keys = options.keys()?;
        let patience = options.patience();
        let table = options.keys_waiting(patience.min(LOCK_FIRST))?;
        let place = table.names().table.clone();
        let until = Instant::now() + options.deadline;
        let mut connection =
            Lent::from(&pool, until).await.map_err(|error| error.opening(&place))?;
        let secret = schema::check(&table, &mut *connection).await?;
        connection.keep();
        let counting = Counting::new();
        counting.hash_under(&secret);
        let inner = Arc::new(Inner {
            table,
            keys,
            crowds: Crowds::default(),
            patience,
            pool,
            deadline: options.deadline,
            execution_limit: options.execution_limit,
            unsure: Unsure::default(),
            behind: Behind::new(),
            counting,
            closed: AtomicBool::new(false),
            kept: Mutex::default(),
            more: Notify::new(),
        });
        let keeping = Arc::downgrade(&inner);
        inner.behind.runtime().spawn(async move {
            // Ends when the store is no more.
            while let Some(inner) = keeping.upgrade() {
                let next = inner.renew_due().await;
                let more = inner.more.notified();
                let next = next.min(Instant::now() + Duration::from_secs(5));
                let _ = timeout_at(next, more).await;
            }
        });
        Ok(SqlStore(inner))
    }

    /// Returns the table, for transactions of the caller's own.
    pub fn keys(&self) -> &Keys {
        &self.0.keys
    }

    /// Returns what this process has done and found by this store since it was opened, its claims
    /// that are transactions included. What is done by [`keys`](Self::keys) is not counted: the
    /// transaction is the caller's, and may be rolled back.
    pub fn counts(&self) -> Counts {
        self.0.counting.counts()
    }

    /// Waits, for `at_most`, until claims that were dropped have ended on the server, and calls
    /// whose future was dropped half way. Returns how many of them are left.
    pub async fn drain(&self, at_most: Duration) -> u64 {
        let inner = self.0.clone();
        let draining = async move {
            let _ = timeout(at_most, inner.behind.all_ended()).await;
            inner.behind.count()
        };
        // On the store's runtime, whatever the caller's is.
        self.0.behind.runtime().spawn(draining).await.unwrap_or_else(|_| self.0.behind.count())
    }

    /// Closes the store: calls return `Closed` from now on. The pool stays as it is.
    pub fn close(&self) {
        self.0.closed.store(true, Ordering::SeqCst);
    }
}

/// In flight, in a transaction that can't be read from outside.
pub(super) fn hidden() -> Found {
    Found::InFlight(Running { token: hidden_token(), running_for: Duration::ZERO })
}

fn hidden_token() -> Token {
    Token::new(1).expect("1 is a token")
}

impl<P: Pool> Inner<P> {
    pub fn tries(&self) -> Tries {
        Tries::new(self.deadline)
    }

    pub fn is_open(&self) -> bool {
        !self.closed.load(Ordering::SeqCst)
    }

    pub async fn connection(&self, tries: &Tries) -> Result<Lent<P>, SqlError> {
        Lent::from(&self.pool, tries.until).await
    }

    async fn try_begin(
        &self,
        tries: &Tries,
        ask: &mut Ask<'_>,
        seen: Option<Token>,
    ) -> Result<Found, SqlError> {
        let mut connection = self.connection(tries).await?;
        let asked = self.table.begin_by(&mut *connection, ask, seen);
        let found = timeout_at(tries.until, asked).await.unwrap_or_else(|_| Err(silent()));
        connection.keep_if(&found);
        if let Ok(Found::Granted(grant)) = &found {
            self.counting.replaced(&ask.request.key, ask.replaced, Some(grant.ticket.token));
        }
        found
    }

    async fn begin(
        self: &Arc<Self>,
        request: &Request,
        seen: Option<Token>,
    ) -> Result<Found, BeginError> {
        let found = self.begin_now(request, seen).await;
        self.counting.found(&request.key, found)
    }

    async fn begin_now(
        self: &Arc<Self>,
        request: &Request,
        seen: Option<Token>,
    ) -> Result<Found, BeginError> {
        if !self.is_open() {
            return Err(BeginError::Closed);
        }
        let terms = self.table.bounds().resolve(&request.terms)?;
        let mut ask = Ask::new(request, terms);
        let mut tries = self.tries();
        let mut patience = self.crowds.patience(hash(request.key.as_ref()), self.patience);
        let mut found = loop {
            if !patience.turn().await && !tries.unknown {
                break hidden();
            }
            match self.try_begin(&tries, &mut ask, seen).await {
                Ok(found) => break found,
                Err(error) if error.kind() == SqlErrorKind::Locked && !tries.unknown => {
                    if !patience.locked().await {
                        break hidden();
                    }
                }
                Err(error) => {
                    if let Err(error) = tries.again(error).await {
                        if tries.unknown {
                            self.undo_by(request.clone(), ask.owner, seen);
                        }
                        return Err(error.into());
                    }
                }
            }
        };
        match &mut found {
            Found::Interrupted(stuck)
                if seen == Some(stuck.token)
                    && stuck.attempts >= self.table.bounds().max_attempts =>
            {
                return Err(BeginError::AttemptsExhausted { attempts: stuck.attempts });
            }
            Found::Interrupted(stuck) => stuck.settle_after = self.unsure.rest(&request.key),
            Found::Granted(grant) if request.terms.keep_alive => self.keep_alive(&grant.ticket),
            _ => {}
        }
        Ok(found)
    }

    /// Undoes the claim that tries of a call that has given up may have made, or may yet make: the
    /// call is repeated until it has an answer.
    fn undo_by(self: &Arc<Self>, request: Request, owner: Owner, seen: Option<Token>) {
        let inner = self.clone();
        self.behind.run(async move {
            let Ok(terms) = inner.table.bounds().resolve(&request.terms) else { return };
            while inner.is_open() && inner.behind.count() <= ENDS_MAX {
                let mut ask = Ask { owner, ..Ask::new(&request, terms) };
                match inner.try_begin(&inner.tries(), &mut ask, seen).await {
                    Ok(Found::Granted(grant)) => return inner.abandoned(&grant.ticket, None).await,
                    Ok(_) => return,
                    Err(error) if !error.is_transient() => return,
                    Err(_) => sleep(LOOK_LAST).await,
                }
            }
        });
    }

    async fn try_write(
        &self,
        tries: &Tries,
        ticket: &Ticket,
        op: &OwnedOp,
        step: i64,
    ) -> Result<Option<Result<(), ClaimError>>, SqlError> {
        let mut connection = self.connection(tries).await?;
        let written = async {
            if self.table.write_by(&mut *connection, ticket, op, step).await? {
                return Ok(Some(Ok(())));
            }
            let row = self.table.row_by(&mut *connection, ticket.key.as_ref()).await?;
            // A later call of this holder has been there.
            if let Some(row) = &row
                && row.step > step
                && row.is_of(ticket)
                && op.is_overtaken()
            {
                return Ok(Some(Ok(())));
            }
            Ok(judge(row, ticket, op, tries.unknown))
        };
        let written = timeout_at(tries.until, written).await.unwrap_or_else(|_| Err(silent()));
        connection.keep_if(&written);
        written
    }

    /// Does a holder's operation, and repeats it until its outcome is known.
    pub async fn write(&self, ticket: &Ticket, op: &OwnedOp) -> Result<(), ClaimError> {
        let answer = self.write_on(ticket, op).await;
        self.counting.wrote(ticket, counted(op), &answer);
        answer
    }

    async fn write_on(&self, ticket: &Ticket, op: &OwnedOp) -> Result<(), ClaimError> {
        if !self.is_open() {
            return Err(ClaimError::Closed);
        }
        let (mut tries, step) = (self.tries(), next_step());
        loop {
            let error = match self.try_write(&tries, ticket, op, step).await {
                Ok(Some(Ok(()))) => break,
                Ok(Some(refused)) => return refused,
                Ok(None) => {
                    SqlError::new(SqlErrorKind::Again, "the key changed while it was written")
                }
                Err(error) => error,
            };
            tries.again(error).await?;
        }
        match op {
            OwnedOp::Undo => self.unsure.again(&ticket.key),
            OwnedOp::Fail(_) | OwnedOp::NothingHappened => self.unsure.forget(&ticket.key),
            _ => {}
        }
        if op.ends() {
            self.let_go(ticket);
        }
        Ok(())
    }

    fn let_go(&self, ticket: &Ticket) {
        self.kept.lock().remove(&(ticket.token, Owner::of(ticket)));
    }

    /// Ends the claim of a handle that is gone, until the outcome is known. `None`: its caller
    /// never had it.
    pub async fn abandoned(&self, ticket: &Ticket, reason: Option<Reason>) {
        self.let_go(ticket);
        while self.is_open() && self.behind.count() <= ENDS_MAX {
            let known = match reason {
                None => {
                    let undone = self.write_on(ticket, &OwnedOp::Undo).await;
                    self.counting.wrote(ticket, Some(Count::Undelivered), &undone);
                    !matches!(
                        undone,
                        Err(ClaimError::Unavailable { .. } | ClaimError::StoreFull(_))
                    )
                }
                Some(reason) => self.interrupt(ticket, reason).await.is_ok(),
            };
            if known {
                return;
            }
            sleep(LOOK_LAST).await;
        }
    }

    async fn interrupt(&self, ticket: &Ticket, reason: Reason) -> Result<(), SqlError> {
        self.unsure.forget(&ticket.key);
        let (mut tries, step) = (self.tries(), next_step());
        let owner = Owner::of(ticket).0;
        let params = [
            ticket.key.scope().into(),
            ticket.key.key().into(),
            (ticket.token.get() as i64).into(),
            owner[..].into(),
            i64::from(reason as u8).into(),
            step.into(),
        ];
        loop {
            let ended = async {
                let mut connection = self.connection(&tries).await?;
                let ended =
                    self.table.change_by(&mut *connection, &self.table.sql().abandon, &params);
                let ended = timeout_at(tries.until, ended).await.unwrap_or_else(|_| Err(silent()));
                connection.keep_if(&ended);
                ended
            };
            match ended.await {
                Ok(changed) => {
                    self.counting.wrote(ticket, changed.then_some(Count::Abandoned), &Ok(()));
                    return Ok(());
                }
                Err(error) => tries.again(error).await?,
            }
        }
    }

    /// The row of a key, now.
    pub async fn look(&self, key: &OwnedKey) -> Result<Option<super::row::Row>, SqlError> {
        let mut tries = self.tries();
        loop {
            let looked = async {
                let mut connection = self.connection(&tries).await?;
                let looked = self.table.row_by(&mut *connection, key.as_ref());
                let row = timeout_at(tries.until, looked).await.unwrap_or_else(|_| Err(silent()));
                connection.keep_if(&row);
                row
            };
            match looked.await {
                Ok(row) => return Ok(row),
                Err(error) => tries.again(error).await?,
            }
        }
    }

    async fn changed(&self, request: &Request, seen: Token, at_most: Duration) -> bool {
        let until = Instant::now() + at_most.min(Duration::from_secs(30 * 24 * 3600));
        if seen == hidden_token() {
            // The holder is a transaction: asking again waits for its lock.
            sleep(at_most.min(LOOK_FIRST)).await;
            return !at_most.is_zero();
        }
        let mut pause = LOOK_FIRST;
        loop {
            if !self.is_open() {
                return true;
            }
            let mut next = pause;
            match self.look(&request.key).await {
                Ok(Some(row)) => match row.says() {
                    RowState::Held if row.token == seen.get() as i64 => {
                        let left = ms(row.lease_until - row.now);
                        next = next.min(left.max(Duration::from_millis(1)));
                    }
                    _ => return true,
                },
                Ok(None) => return true,
                Err(_) => {}
            }
            let now = Instant::now();
            if now >= until {
                return false;
            }
            sleep(next.min(until - now)).await;
            pause = (pause * 2).min(LOOK_LAST);
        }
    }

    fn keep_alive(&self, ticket: &Ticket) {
        let (now, ticket) = (Instant::now(), ticket.clone());
        let key = (ticket.token, Owner::of(&ticket));
        let next = now + ticket.lease / TIMES;
        let kept = Kept { ticket, next, until: now + self.execution_limit };
        self.kept.lock().insert(key, kept);
        self.more.notify_one();
    }

    /// Renews what is due; returns when the next one is.
    async fn renew_due(&self) -> Instant {
        let now = Instant::now();
        let due: Vec<Ticket> = {
            let mut kept = self.kept.lock();
            kept.retain(|_, kept| kept.until > now);
            let due = kept.values_mut().filter(|kept| kept.next <= now);
            due.map(|kept| {
                kept.next = now + kept.ticket.lease / TIMES;
                kept.ticket.clone()
            })
            .collect()
        };
        for ticket in due {
            let limit = ticket.lease / TIMES;
            let _ = timeout(limit, self.write(&ticket, &OwnedOp::Renew)).await;
        }
        let later = now + Duration::from_secs(3600);
        self.kept.lock().values().map(|kept| kept.next).min().unwrap_or(later)
    }
}

pub(super) fn silent() -> SqlError {
    SqlError::lost("the database did not answer in time")
}

/// A found key on its way to the caller. If the caller is gone, a granted claim is undone.
struct Delivery<P: Pool> {
    inner: Arc<Inner<P>>,
    found: Option<Found>,
}

impl<P: Pool> Drop for Delivery<P> {
    fn drop(&mut self) {
        if let Some(Found::Granted(grant)) = self.found.take() {
            let inner = self.inner.clone();
            self.inner.behind.run(async move { inner.abandoned(&grant.ticket, None).await });
        }
    }
}

impl<P: Pool> SqlStore<P> {
    async fn begin_or_take_over(
        &self,
        request: &Request,
        seen: Option<Token>,
    ) -> Result<Found, BeginError> {
        let (inner, request) = (self.0.clone(), request.clone());
        let call = async move {
            let found = inner.begin(&request, seen).await?;
            Ok(Delivery { inner, found: Some(found) })
        };
        let started = self.0.counting.timings.start();
        let delivered: Result<Delivery<P>, BeginError> = self.0.behind.call(call).await;
        self.0.counting.timings.end(Timed::Begin, started);
        Ok(delivered?.found.take().expect("taken once, here"))
    }
}

impl<P: Pool> IdempotencyStore for SqlStore<P> {
    async fn begin(&self, request: &Request) -> Result<Found, BeginError> {
        self.begin_or_take_over(request, None).await
    }

    async fn take_over(&self, request: &Request, seen: Token) -> Result<Found, BeginError> {
        self.begin_or_take_over(request, Some(seen)).await
    }

    async fn write(&self, ticket: &Ticket, op: ClaimOp<'_>) -> Result<(), ClaimError> {
        let op = OwnedOp::of(ticket, op)?;
        let (inner, ticket) = (self.0.clone(), ticket.clone());
        let completes = matches!(op, OwnedOp::Complete { .. });
        let started = self.0.counting.timings.start();
        let written = self.0.behind.call(async move { inner.write(&ticket, &op).await }).await;
        if completes {
            self.0.counting.timings.end(Timed::Complete, started);
        }
        written
    }

    fn changed(
        &self,
        request: &Request,
        seen: Token,
        at_most: Duration,
    ) -> impl Future<Output = bool> + Send {
        let (inner, request) = (self.0.clone(), request.clone());
        let watching = Watched(
            self.0
                .behind
                .runtime()
                .spawn(async move { inner.changed(&request, seen, at_most).await }),
        );
        async move {
            let mut watching = watching;
            (&mut watching.0).await.unwrap_or(false)
        }
    }

    async fn look(&self, key: &OwnedKey) -> Result<Option<Found>, BeginError> {
        let (inner, key) = (self.0.clone(), key.clone());
        self.0.behind.call(async move { inner.find(key).await }).await
    }

    fn terms_in_force(&self, terms: Terms) -> Result<Terms, BeginError> {
        self.0.table.bounds().terms_in_force(terms)
    }

    fn abandon(&self, ticket: &Ticket, how: Abandon) {
        let (inner, ticket) = (self.0.clone(), ticket.clone());
        let reason = match how {
            Abandon::Undelivered => None,
            Abandon::Dropped => Some(Reason::Dropped),
            Abandon::Panicked => Some(Reason::Panicked),
        };
        self.0.behind.run(async move { inner.abandoned(&ticket, reason).await });
    }
}

/// A task that ends when its caller stops waiting for it.
struct Watched(tokio::task::JoinHandle<bool>);

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.abort();
    }
}
