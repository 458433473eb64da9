//! Claim, effect and completion in one transaction that the caller has begun.

use super::{
    begin::{Ask, first},
    in_order::in_order,
    inner::{Inner, millis},
    row::{Owner, first_grant},
    store::PostgresStore,
    trouble::DbError,
    write::{OwnedOp, judge},
};
use crate::{
    error::{BeginError, ClaimError},
    fingerprint::Fingerprint,
    key::KeyRef,
    record::{Reason, Record},
    spi::{ClaimOp, Completion, Found, Grant, Interruption, Request, Terms, Ticket},
    store::claim::derive_key,
    token::Token,
};
use std::future::Future;
use tokio_postgres::Statement;

/// A transaction that the caller has begun, by tokio-postgres or by deadpool-postgres, whose
/// prepared statements are kept with its connection.
pub trait InTransaction: Sync {
    #[doc(hidden)]
    fn prepared(
        &self,
        sql: &str,
    ) -> impl Future<Output = Result<Statement, tokio_postgres::Error>> + Send;
    #[doc(hidden)]
    fn plain(&self) -> &tokio_postgres::Transaction<'_>;
}

impl InTransaction for tokio_postgres::Transaction<'_> {
    fn prepared(
        &self,
        sql: &str,
    ) -> impl Future<Output = Result<Statement, tokio_postgres::Error>> + Send {
        self.prepare(sql)
    }

    fn plain(&self) -> &tokio_postgres::Transaction<'_> {
        self
    }
}

impl InTransaction for deadpool_postgres::Transaction<'_> {
    fn prepared(
        &self,
        sql: &str,
    ) -> impl Future<Output = Result<Statement, tokio_postgres::Error>> + Send {
        self.prepare_cached(sql)
    }

    fn plain(&self) -> &tokio_postgres::Transaction<'_> {
        self
    }
}

/// The state of a key that [`PostgresStore::begin_in`] finds.
#[must_use = "unless it is executed, the transaction is to be rolled back"]
#[derive(Debug)]
pub enum BeginIn {
    /// The caller holds the key: write, [`complete_in`](PostgresStore::complete_in), commit.
    Execute(ClaimIn),
    /// The operation was executed before. Answer with the record, and roll the transaction back.
    Replay(Record),
    /// Another caller executes it. Roll the transaction back: it can do nothing more.
    InFlight,
    /// A claim that was made outside of a transaction ended without a decision.
    Interrupted(InterruptedIn),
    /// The key was used for another request, whose fingerprint was made by this scheme.
    Mismatch {
        /// [`Fingerprint::scheme`] of the stored one.
        scheme: u8,
    },
}

/// A claim that exists in its transaction only: a commit together with its completion keeps it, and
/// a rollback (or the loss of the connection) undoes it.
#[derive(Debug)]
pub struct ClaimIn(Grant);

impl ClaimIn {
    /// Returns the fencing token of this attempt.
    pub fn token(&self) -> Token {
        self.0.ticket.token
    }

    /// Returns the number of this attempt, from 1. Those that were rolled back don't count.
    pub fn attempt(&self) -> u32 {
        self.0.ticket.attempt
    }

    /// Returns the last checkpoint that an earlier attempt saved, outside of a transaction.
    pub fn checkpoint(&self) -> Option<&[u8]> {
        self.0.checkpoint.as_deref()
    }

    /// Returns why the attempt before this one was interrupted; `None` at the first attempt.
    pub fn after(&self) -> Option<Reason> {
        self.0.after
    }

    /// Returns an idempotency key for a step of this operation; see
    /// [`Claim::derive_key`](crate::Claim::derive_key).
    pub fn derive_key(&self, step: &str) -> String {
        derive_key(&self.0.ticket, step)
    }
}

/// An interrupted key that was found in a transaction.
#[derive(Debug)]
pub struct InterruptedIn {
    request: Request,
    stuck: Interruption,
}

impl InterruptedIn {
    /// Returns why the key was interrupted.
    pub fn reason(&self) -> Reason {
        self.stuck.reason
    }

    /// Returns whether no holder can be working on it any more.
    pub fn holder_gone(&self) -> bool {
        self.stuck.holder_gone
    }

    /// Returns the number of attempts.
    pub fn attempts(&self) -> u32 {
        self.stuck.attempts
    }

    /// Returns the last checkpoint that a holder saved.
    pub fn checkpoint(&self) -> Option<&[u8]> {
        self.stuck.checkpoint.as_deref()
    }
}

impl PostgresStore {
    /// Claims `key` in a transaction that the caller has begun, on the database that has the
    /// store's table.
    ///
    /// Then write what the operation writes, call [`complete_in`](Self::complete_in), and commit:
    /// key, effect and answer exist together or not at all, and nothing is ever interrupted. If the
    /// outcome of the commit is unknown, do everything again with the same key: it replays, or
    /// executes.
    ///
    /// A second transaction that begins the same key waits for the end of the first one, for
    /// [`lock_timeout`](super::PostgresOptions::lock_timeout), and then gets
    /// [`InFlight`](BeginIn::InFlight). Transactions must be `READ COMMITTED`, PostgreSQL's
    /// default.
    ///
    /// # Errors
    /// [`BeginError::Unavailable`] if the connection or the server fails: nothing was executed, and
    /// the transaction must be rolled back.
    pub async fn begin_in(
        &self,
        transaction: &impl InTransaction,
        key: KeyRef<'_>,
        fingerprint: Fingerprint,
        terms: Terms,
    ) -> Result<BeginIn, BeginError> {
        let request = Request { key: key.owned(), fingerprint, terms };
        self.begin_or_take_over_in(transaction, request, None).await
    }

    /// Takes over an interrupted key in the transaction in which it was found. If the key has
    /// changed, returns its present state.
    ///
    /// # Errors
    /// As with [`begin_in`](Self::begin_in), and [`BeginError::AttemptsExhausted`].
    pub async fn take_over_in(
        &self,
        transaction: &impl InTransaction,
        interrupted: InterruptedIn,
    ) -> Result<BeginIn, BeginError> {
        let InterruptedIn { request, stuck } = interrupted;
        self.begin_or_take_over_in(transaction, request, Some(stuck.token)).await
    }

    async fn begin_or_take_over_in(
        &self,
        transaction: &impl InTransaction,
        request: Request,
        seen: Option<Token>,
    ) -> Result<BeginIn, BeginError> {
        let inner = self.inner();
        inner.check_open()?;
        let terms = inner.resolve(&request.terms)?;
        let of = |error: tokio_postgres::Error| DbError::of(&error);
        let owner = Owner::new();
        let mut taking = seen;
        let mut limited = false;
        if taking.is_none() {
            let ask = Ask::new(&request, &terms, owner, None, 0);
            let statement = transaction.prepared(&inner.sql.claim_in).await.map_err(of)?;
            match transaction.plain().query(&statement, &ask.to_begin()).await.map_err(of) {
                Err(DbError::Locked) => return Ok(BeginIn::InFlight),
                Err(trouble) => return Err(trouble.into()),
                Ok(rows) => {
                    if let Some(row) = rows.first() {
                        let token = row.try_get(0).map_err(of)?;
                        let grant = first_grant(token, &request, owner, &terms);
                        let grant = grant.ok_or_else(|| DbError::Refused("no token".into()))?;
                        return Ok(BeginIn::Execute(ClaimIn(grant)));
                    }
                    limited = true;
                }
            }
        }
        // A takeover that comes too late begins, and a key that changed while it was asked for is
        // asked for again.
        for _ in 0..3 {
            let ask = Ask::new(&request, &terms, owner, taking, inner.options.max_attempts);
            let sql = if taking.is_some() { &inner.sql.take_over } else { &inner.sql.begin };
            let statement = transaction.prepared(sql).await.map_err(of)?;
            let plain = transaction.plain();
            let limit = match limited {
                true => String::new(),
                false => format!(
                    "SELECT set_config('onlyonce.was', current_setting('lock_timeout'), true), \
                     set_config('lock_timeout', '{}', true)",
                    inner.options.lock_timeout.as_millis()
                ),
            };
            limited = false;
            let restore =
                "SELECT set_config('lock_timeout', current_setting('onlyonce.was'), true)";
            let (begin, take_over) = (ask.to_begin(), ask.to_take_over());
            let params = if taking.is_some() { &take_over[..] } else { &begin[..] };
            let answered = in_order(
                plain.batch_execute(&limit),
                plain.query(&statement, params),
                plain.batch_execute(restore),
            )
            .await;
            let rows = match answered {
                (Ok(()), Ok(rows), Ok(())) => rows,
                (Ok(()), Err(error), _) => match of(error) {
                    DbError::Locked => return Ok(BeginIn::InFlight),
                    trouble => return Err(trouble.into()),
                },
                (Err(error), ..) | (.., Err(error)) => return Err(of(error).into()),
            };
            let row = first(&rows)?;
            if let Some(found) = row.and_then(|row| row.found(&request, owner)) {
                return inner.found_in(request, found, seen);
            }
            taking = None;
        }
        let what = "the key changed while it was asked for".into();
        Err(BeginError::Unavailable { what })
    }

    /// Completes a claim of [`begin_in`](Self::begin_in) in its transaction. The commit keeps it,
    /// and is made as durable as the store's own: a lowered `synchronous_commit` is raised.
    ///
    /// On a replicated cluster the server reports a commit as a success, with a warning beside it,
    /// if its wait for the standbys is cancelled (by an administrator, by a job that ends long
    /// statements). The caller's driver gets that warning, and the store does not.
    ///
    /// # Errors
    /// As with [`Claim::complete`](crate::Claim::complete). The transaction must be rolled back
    /// then, and the attempt did nothing.
    pub async fn complete_in(
        &self,
        transaction: &impl InTransaction,
        claim: &ClaimIn,
        completion: Completion<'_>,
    ) -> Result<(), ClaimError> {
        let ticket = &claim.0.ticket;
        let op = OwnedOp::of(ticket, ClaimOp::Complete(completion))?;
        let OwnedOp::Complete { head, response, retention } = &op else {
            unreachable!("a completion was asked for")
        };
        let of = |error: tokio_postgres::Error| DbError::of(&error);
        let inner = self.inner();
        let sql = &inner.sql;
        let statement = transaction.prepared(&sql.complete).await.map_err(of)?;
        let params = CompleteParams::new(ticket, head, response, retention);
        let (plain, all) = (transaction.plain(), params.all());
        let (raised, done, ()) = in_order(
            plain.batch_execute(inner.options.replication.raise_commit()),
            plain.execute(&statement, &all),
            async {},
        )
        .await;
        raised.map_err(of)?;
        if done.map_err(of)? > 0 {
            return Ok(());
        }
        let statement = transaction.prepared(&sql.look).await.map_err(of)?;
        let key: [&(dyn tokio_postgres::types::ToSql + Sync); 2] =
            [&ticket.key.scope(), &ticket.key.key()];
        let rows = transaction.plain().query(&statement, &key).await.map_err(of)?;
        judge(first(&rows)?, ticket, &op, false).unwrap_or(Err(ClaimError::Fenced))
    }
}

impl Inner {
    fn found_in(
        &self,
        request: Request,
        found: Found,
        seen: Option<Token>,
    ) -> Result<BeginIn, BeginError> {
        Ok(match found {
            Found::Granted(grant) => BeginIn::Execute(ClaimIn(grant)),
            Found::Replay(record) => BeginIn::Replay(record),
            Found::InFlight(_) => BeginIn::InFlight,
            Found::Mismatch { scheme } => BeginIn::Mismatch { scheme },
            Found::Interrupted(stuck) => {
                if seen == Some(stuck.token) && stuck.attempts >= self.options.max_attempts {
                    return Err(BeginError::AttemptsExhausted { attempts: stuck.attempts });
                }
                BeginIn::Interrupted(InterruptedIn { request, stuck })
            }
        })
    }
}

/// The parameters of a completion.
pub(super) struct CompleteParams<'a> {
    scope: &'a [u8],
    key: &'a [u8],
    token: i64,
    owner: Vec<u8>,
    head: &'a Vec<u8>,
    response: &'a Option<Vec<u8>>,
    replay: i64,
    remember: i64,
}

impl<'a> CompleteParams<'a> {
    pub fn new(
        ticket: &'a Ticket,
        head: &'a Vec<u8>,
        response: &'a Option<Vec<u8>>,
        retention: &crate::Retention,
    ) -> Self {
        CompleteParams {
            scope: ticket.key.scope(),
            key: ticket.key.key(),
            token: ticket.token.get() as i64,
            owner: Owner::of(ticket).0.to_vec(),
            head,
            response,
            replay: millis(retention.replay_for),
            remember: millis(retention.remember_for),
        }
    }

    pub fn all(&self) -> [&(dyn tokio_postgres::types::ToSql + Sync); 8] {
        let CompleteParams { scope, key, token, owner, head, response, replay, remember } = self;
        [scope, key, token, owner, *head, *response, replay, remember]
    }
}
