//! The completion of a claim that is a transaction: what is committed, and what becomes of the answer
//! when that can't be.

use super::{
    counts::counted, in_order::in_order, op::OwnedOp, pool::Borrowed, row::Owner, terms::millis,
    transactions::TransactionStore, trouble::DbError,
};
use crate::{
    error::ClaimError,
    spi::{Found, Request, Terms, Ticket},
};
use std::sync::atomic::Ordering;
use tokio::time::timeout_at;
use tokio_postgres::types::Type;

/// What a completion can do with a claim's transaction.
enum Completed {
    /// It is committed.
    Yes,
    /// The claim does not exist in it.
    NoClaim,
    /// It can't be committed as it is: a statement in it has failed, or a constraint does not hold.
    Fails(tokio_postgres::Error),
}

impl TransactionStore {
    /// Completes the key in its transaction, and commits.
    pub(super) async fn complete(&self, ticket: &Ticket, op: &OwnedOp) -> Result<(), ClaimError> {
        let OwnedOp::Complete { head, response, retention } = op else {
            unreachable!("only completions come here")
        };
        let inner = self.store.inner();
        let mut tries = inner.tries();
        let until = tries.this_one();
        let Ok(slot) = self.slot(ticket) else {
            // A second completion: the first one is there, or else nothing is.
            return inner.write(ticket, op).await;
        };
        let mut open = slot.open.lock().await;
        let Some(session) = open.take() else { return inner.write(ticket, op).await };
        if session.is_closed() {
            self.forget(ticket);
            return Err(rolled_back());
        }
        let touched = slot.touched.load(Ordering::SeqCst);
        let params = CompleteParams::new(ticket, head, response, retention);
        let completing = async {
            if touched {
                return self.complete_after(&session, &params).await;
            }
            let statement = session.prepare_cached(&inner.sql.complete).await?;
            match session.execute(&statement, &params.all()).await? {
                0 => Ok(Completed::NoClaim),
                _ => Ok(Completed::Yes),
            }
        };
        let completed = timeout_at(until, completing).await;
        if let Ok(Ok(Completed::Fails(error))) = completed {
            *open = Some(session);
            let what = DbError::of(&error).what();
            tracing::warn!(
                token = ticket.token.get(),
                why = what,
                "the effects of an attempt can't be committed"
            );
            return Err(ClaimError::EffectsFailed { what });
        }
        self.forget(ticket);
        let trouble = match completed {
            Ok(Ok(Completed::Yes)) => match self.end(session, until, "COMMIT", touched).await {
                Ok(()) => {
                    slot.here.lock().take();
                    inner.told(&ticket.key);
                    inner.counting.wrote(ticket, counted(op), &Ok(()));
                    return Ok(());
                }
                Err(DbError::Lost(what)) => DbError::Lost(what),
                // The server refused, and has rolled back.
                Err(trouble) => {
                    let what = format!("the transaction was rolled back: {}", trouble.what());
                    tracing::warn!(token = ticket.token.get(), why = what, "not committed");
                    return Err(ClaimError::Unavailable { what });
                }
            },
            Ok(Ok(_)) => {
                let _ = self.end(session, until, "ROLLBACK", touched).await;
                return Err(rolled_back());
            }
            // Nothing is committed before the last statement.
            Ok(Err(error)) => {
                let what = DbError::of(&error).what();
                let what = format!("the transaction is rolled back: {what}");
                return Err(ClaimError::Unavailable { what });
            }
            Err(_) => return Err(rolled_back()),
        };
        drop(open);
        slot.here.lock().take();
        // The key's lock ends with the session: the next caller waits for that.
        loop {
            tries.again(trouble.clone()).await?;
            let asked = Request {
                key: ticket.key.clone(),
                fingerprint: ticket.fingerprint,
                terms: Terms::default(),
            };
            match inner.begin(&asked, None).await {
                Ok(Found::Replay(record)) if record.token() == ticket.token => {
                    inner.confirm(&mut tries).await?;
                    inner.counting.wrote(ticket, counted(op), &Ok(()));
                    return Ok(());
                }
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

    /// Completes in a session in which the caller's statements have run. What they have left to the
    /// end of the transaction is done under their own settings; then the transaction gets what the
    /// store's promises need. Not by a prepared statement, because they may have ended those.
    async fn complete_after(
        &self,
        session: &Borrowed,
        params: &CompleteParams<'_>,
    ) -> Result<Completed, tokio_postgres::Error> {
        let inner = self.store.inner();
        let prepare = format!(
            "SET LOCAL SESSION AUTHORIZATION DEFAULT; SET LOCAL ROLE NONE; \
             SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0; {}",
            inner.options.replication.raise_commit()
        );
        let types = [Type::BYTEA, Type::BYTEA, Type::INT8, Type::BYTEA, Type::BYTEA, Type::BYTEA]
            .into_iter()
            .chain([Type::INT8, Type::INT8]);
        let typed: Vec<_> = params.all().into_iter().zip(types).collect();
        let (due, prepared, done) = in_order(
            session.batch_execute("SET CONSTRAINTS ALL IMMEDIATE"),
            session.batch_execute(&prepare),
            session.execute_typed(&inner.sql.complete, &typed),
        )
        .await;
        match due {
            Err(error) if !DbError::of(&error).is_unknown() => {
                return Ok(Completed::Fails(error));
            }
            due => due?,
        }
        prepared?;
        match done? {
            0 => Ok(Completed::NoClaim),
            _ => Ok(Completed::Yes),
        }
    }
}

fn rolled_back() -> ClaimError {
    let what = "the transaction was rolled back: it has had no effect".into();
    ClaimError::Unavailable { what }
}

/// The parameters of a completion.
struct CompleteParams<'a> {
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
    fn new(
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

    fn all(&self) -> [&(dyn tokio_postgres::types::ToSql + Sync); 8] {
        let CompleteParams { scope, key, token, owner, head, response, replay, remember } = self;
        [scope, key, token, owner, *head, *response, replay, remember]
    }
}
