//! Claim, effect and completion in one transaction that the caller has begun.

use super::{
    connection::{Connection, Kind, Rows, SqlError, SqlErrorKind, Statement, Value},
    dialect::Dialect,
    op::{OwnedOp, judge},
    row::{Owner, Row, first_grant, stored},
    schema::{self, Names},
    statements::{Statements, row_kinds},
    terms::{Bounds, GrantTerms, millis},
};
use crate::{
    error::{BeginError, ClaimError, OpenError},
    fingerprint::Fingerprint,
    key::KeyRef,
    record::{Reason, Record},
    spi::{ClaimOp, Completion, Found, Grant, Interruption, Request, Terms, Ticket},
    store::claim::derive_key,
    store::sharded::slot_of,
    token::Token,
};
use std::sync::Arc;

/// The state of a key that [`Keys::begin_in`] finds.
#[must_use = "unless it is executed, the transaction is to be rolled back"]
#[derive(Debug)]
pub enum BeginIn {
    /// The caller holds the key: write, [`complete_in`](Keys::complete_in), commit.
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

/// A table of keys, for transactions of the caller's own. Clones are the same.
///
/// Has no connection, no task and no memory of its own.
#[derive(Clone, Debug)]
pub struct Keys(Arc<Table>);

#[derive(Debug)]
struct Table {
    names: Names,
    sql: Statements,
    bounds: Bounds,
    dialect: Dialect,
    kinds: Vec<Kind>,
}

impl Keys {
    pub(crate) fn of(names: Names, bounds: Bounds, dialect: Dialect) -> Self {
        let sql = Statements::new(&names.table, &dialect);
        Keys(Arc::new(Table { names, sql, bounds, dialect, kinds: row_kinds() }))
    }

    pub(crate) fn names(&self) -> &Names {
        &self.0.names
    }

    pub(crate) fn sql(&self) -> &Statements {
        &self.0.sql
    }

    pub(crate) fn bounds(&self) -> &Bounds {
        &self.0.bounds
    }

    pub(crate) fn dialect(&self) -> &Dialect {
        &self.0.dialect
    }

    /// Creates the tables, if they are not there; any number of processes may call it.
    ///
    /// For PostgreSQL they are those of
    /// `postgres::PostgresOptions::migrate`, which also brings
    /// older ones to the present version, and sets the table's autovacuum.
    ///
    /// # Errors
    /// [`OpenError::Denied`] if the role may not; [`OpenError::Newer`] or
    /// [`OpenError::NotMigrated`] if the tables have another version.
    pub async fn create_in(&self, connection: &mut impl Connection) -> Result<(), OpenError> {
        schema::create(self, connection).await
    }

    /// Checks that the tables exist, in a version that this code knows.
    ///
    /// # Errors
    /// [`OpenError::NotMigrated`] or [`OpenError::Newer`] if not; [`OpenError::Options`] if SQLite
    /// doesn't sync the connection's commits
    /// ([`unsynced_commits`](super::SqlOptions::unsynced_commits)).
    pub async fn check_in(&self, connection: &mut impl Connection) -> Result<(), OpenError> {
        schema::check(self, connection).await.map(drop)
    }

    /// Claims `key` in a transaction that the caller has begun, on the database that has the
    /// store's table.
    ///
    /// Then write what the operation writes, call [`complete_in`](Self::complete_in), and commit:
    /// key, effect and answer exist together or not at all, and nothing is ever interrupted. If the
    /// outcome of the commit is unknown, do everything again with the same key: it replays, or
    /// executes.
    ///
    /// A second transaction that begins the same key waits for the end of the first one, for
    /// [`lock_timeout`](super::SqlOptions::lock_timeout) (with SQLite, where any two writing
    /// transactions wait for each other, for the connection's busy time-out), and then gets
    /// [`InFlight`](BeginIn::InFlight). On PostgreSQL transactions must be `READ COMMITTED`, its
    /// default; at a higher level a second one gets a serialization failure. On SQLite begin them
    /// with `BEGIN IMMEDIATE`: one that reads first and writes later can fail at its first write.
    ///
    /// # Errors
    /// [`BeginError::Unavailable`] if the connection or the server fails, or the transaction can't
    /// continue: nothing was executed, and the transaction must be rolled back.
    pub async fn begin_in(
        &self,
        connection: &mut impl Connection,
        key: KeyRef<'_>,
        fingerprint: Fingerprint,
        terms: Terms,
    ) -> Result<BeginIn, BeginError> {
        let request = Request { key: key.owned(), fingerprint, terms };
        self.begin_or_take_over_in(connection, request, None).await
    }

    /// Takes over an interrupted key in the transaction in which it was found. If the key has
    /// changed, returns its present state.
    ///
    /// # Errors
    /// As with [`begin_in`](Self::begin_in), and [`BeginError::AttemptsExhausted`].
    pub async fn take_over_in(
        &self,
        connection: &mut impl Connection,
        interrupted: InterruptedIn,
    ) -> Result<BeginIn, BeginError> {
        let InterruptedIn { request, stuck } = interrupted;
        self.begin_or_take_over_in(connection, request, Some(stuck.token)).await
    }

    async fn begin_or_take_over_in(
        &self,
        connection: &mut impl Connection,
        request: Request,
        seen: Option<Token>,
    ) -> Result<BeginIn, BeginError> {
        let mut ask = Ask::new(&request, self.0.bounds.resolve(&request.terms)?);
        let found = match self.begin_by(connection, &mut ask, seen).await {
            Err(error) if error.kind() == SqlErrorKind::Locked => return Ok(BeginIn::InFlight),
            found => found?,
        };
        Ok(match found {
            Found::Granted(grant) => {
                // Told here, because there is no later moment at which the store is asked.
                if matches!(ask.replaced, 1 | 2) {
                    crate::observe::events::interrupted_expired(1);
                }
                BeginIn::Execute(ClaimIn(grant))
            }
            Found::Replay(record) => BeginIn::Replay(record),
            Found::InFlight(_) => BeginIn::InFlight,
            Found::Mismatch { scheme } => BeginIn::Mismatch { scheme },
            Found::Interrupted(stuck) => {
                if seen == Some(stuck.token) && stuck.attempts >= self.0.bounds.max_attempts {
                    return Err(BeginError::AttemptsExhausted { attempts: stuck.attempts });
                }
                BeginIn::Interrupted(InterruptedIn { request, stuck })
            }
        })
    }

    /// Completes a claim of [`begin_in`](Self::begin_in) in its transaction. The commit keeps it.
    /// On PostgreSQL a lowered `synchronous_commit` is raised.
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
        connection: &mut impl Connection,
        claim: &ClaimIn,
        completion: Completion<'_>,
    ) -> Result<(), ClaimError> {
        let ticket = &claim.0.ticket;
        let op = OwnedOp::of(ticket, ClaimOp::Complete(completion))?;
        if self.write_by(connection, ticket, &op, 0).await? {
            return Ok(());
        }
        let row = self.row_by(connection, ticket.key.as_ref()).await?;
        judge(row, ticket, &op, false).unwrap_or(Err(ClaimError::Fenced))
    }
}

/// What one call asks for.
pub(crate) struct Ask<'a> {
    pub request: &'a Request,
    pub terms: GrantTerms,
    /// Changes when an operator has freed the claim that an earlier try was granted.
    pub owner: Owner,
    /// The state of the expired row whose place the granted claim has taken; 0: there was none.
    pub replaced: i32,
}

impl<'a> Ask<'a> {
    pub fn new(request: &'a Request, terms: GrantTerms) -> Self {
        Ask { request, terms, owner: Owner::new(), replaced: 0 }
    }
}

/// How often a key that changes while it is asked for is asked for again at once.
const AGAIN: usize = 4;

impl Keys {
    /// Begins, or takes over what was seen, by statements of which each can be repeated by the same
    /// owner. In a transaction, or each in its own.
    pub(crate) async fn begin_by(
        &self,
        connection: &mut impl Connection,
        ask: &mut Ask<'_>,
        seen: Option<Token>,
    ) -> Result<Found, SqlError> {
        let request = ask.request;
        let (scope, key) = (request.key.scope(), request.key.key());
        let print = stored(&request.fingerprint);
        let slot = i64::from(slot_of(request.key.as_ref()));
        if let Some(seen) = seen {
            let params = [
                scope.into(),
                key.into(),
                ask.owner.0[..].into(),
                print[..].into(),
                (seen.get() as i64).into(),
                i64::from(self.0.bounds.max_attempts).into(),
            ];
            let took = self.rows_by(connection, &self.0.sql.take_over, &params).await?;
            if let Some(found) = took.and_then(|row| row.found(request, ask.owner)) {
                return Ok(found);
            }
            // The key is no longer as it was seen: its present state is read, or it is begun.
            if let Some(row) = self.row_by(connection, request.key.as_ref()).await?
                && let Some(found) = row.found(request, ask.owner)
            {
                return Ok(found);
            }
        }
        for _ in 0..AGAIN {
            let GrantTerms { lease, replay, remember, keep, reserve } = ask.terms;
            let owner = ask.owner.0;
            let mut params = vec![
                scope.into(),
                key.into(),
                owner[..].into(),
                print[..].into(),
                lease.into(),
                replay.into(),
                remember.into(),
                keep.into(),
                i64::from(reserve).into(),
                slot.into(),
            ];
            let claim = Statement::new(&self.0.sql.claim, &params, &[Kind::Int, Kind::Text]);
            if let Some(row) = connection.run(claim).await?.into_iter().next() {
                let Some(Value::Int(Some(token))) = row.into_iter().next() else {
                    return Err(no_row());
                };
                let grant = first_grant(token, request, ask.owner, &ask.terms);
                return grant.map(Found::Granted).ok_or_else(no_row);
            }
            // The key has a row: its state is read, and if it is absent it is begun.
            let Some(row) = self.row_by(connection, request.key.as_ref()).await? else { continue };
            let (token, state, ours) = (row.token, row.state, row.is_by(ask.owner));
            // One that was released, or freed by an operator, is not there to be replaced.
            let replaced = if row.expires_at > 0 { i32::from(state) } else { 0 };
            if let Some(found) = row.found(request, ask.owner) {
                return Ok(found);
            }
            if ours {
                ask.owner = Owner::new();
                continue;
            }
            params.extend([token.into(), i64::from(state).into()]);
            let began = self.rows_by(connection, &self.0.sql.again, &params).await?;
            if let Some(found) = began.and_then(|row| row.found(request, ask.owner)) {
                ask.replaced = replaced;
                return Ok(found);
            }
        }
        Err(SqlError::new(SqlErrorKind::Again, "the key changed while it was asked for"))
    }

    /// The row of a key.
    pub(crate) async fn row_by(
        &self,
        connection: &mut impl Connection,
        key: KeyRef<'_>,
    ) -> Result<Option<Row>, SqlError> {
        let params = [key.scope().into(), key.key().into()];
        self.rows_by(connection, &self.0.sql.look, &params).await
    }

    /// The first row that a statement returns.
    async fn rows_by(
        &self,
        connection: &mut impl Connection,
        sql: &str,
        params: &[Value<'_>],
    ) -> Result<Option<Row>, SqlError> {
        let rows = connection.run(Statement::new(sql, params, &self.0.kinds)).await?;
        rows.into_iter().next().map(|row| Row::of(row).ok_or_else(no_row)).transpose()
    }

    /// A statement that changes a row, and says so; returns whether it did.
    pub(crate) async fn change_by(
        &self,
        connection: &mut impl Connection,
        sql: &str,
        params: &[Value<'_>],
    ) -> Result<bool, SqlError> {
        let rows: Rows = connection.run(Statement::new(sql, params, &[Kind::Int])).await?;
        Ok(!rows.is_empty())
    }

    /// A holder's operation; returns whether its row was changed.
    pub(crate) async fn write_by(
        &self,
        connection: &mut impl Connection,
        ticket: &Ticket,
        op: &OwnedOp,
        step: i64,
    ) -> Result<bool, SqlError> {
        let owner = Owner::of(ticket).0;
        let mut params: Vec<Value<'_>> = vec![
            ticket.key.scope().into(),
            ticket.key.key().into(),
            (ticket.token.get() as i64).into(),
            owner[..].into(),
        ];
        let (sql, lease) = (&self.0.sql, millis(ticket.lease));
        let sql = match op {
            OwnedOp::Complete { head, response, retention } => {
                params.push(head[..].into());
                params.push(response.as_deref().into());
                params.push(millis(retention.replay_for).into());
                params.push(millis(retention.remember_for).into());
                return self.change_by(connection, &sql.complete, &params).await;
            }
            OwnedOp::Fail(answer) => {
                params.push(answer[..].into());
                params.push(self.0.bounds.keep_ms(ticket.retention).into());
                &sql.fail
            }
            OwnedOp::Release => &sql.release,
            OwnedOp::Undo => &sql.undo,
            OwnedOp::NothingHappened => {
                params.push(lease.into());
                &sql.first
            }
            OwnedOp::Checkpoint(bytes) => {
                params.extend([bytes[..].into(), lease.into()]);
                &sql.renew
            }
            OwnedOp::Renew => {
                params.extend([None.into(), lease.into()]);
                &sql.renew
            }
            OwnedOp::EnsureDurable | OwnedOp::UndoEffects => return Ok(false),
        };
        params.push(step.into());
        self.change_by(connection, sql, &params).await
    }
}

fn no_row() -> SqlError {
    SqlError::new(SqlErrorKind::Refused, "the answer is not a row of the table of keys")
}
