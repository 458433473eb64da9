//! A holder's calls, fenced by token and owner.

use super::{counts::counted, inner::Inner, tries::Backoff, trouble::DbError};
use crate::{
    error::ClaimError,
    record::Reason,
    spi::{Abandon, Ticket},
    sql::{
        op::{OwnedOp, judge, next_step},
        row::Owner,
        terms::millis,
    },
    stats::Count,
};
use std::sync::Arc;

impl Inner {
    /// Does the operation, and repeats it until its outcome is known.
    pub async fn write(self: &Arc<Self>, ticket: &Ticket, op: &OwnedOp) -> Result<(), ClaimError> {
        let answer = self.write_on(ticket, op).await;
        self.counting.wrote(ticket, counted(op), &answer);
        answer
    }

    async fn write_on(self: &Arc<Self>, ticket: &Ticket, op: &OwnedOp) -> Result<(), ClaimError> {
        let mut tries = self.tries();
        let step = next_step();
        loop {
            let trouble = match self.try_write(&tries, ticket, op, step).await {
                Ok(true) => break,
                Ok(false) => match self.look(&tries, ticket.key.as_ref()).await {
                    // A later call of this holder has been there.
                    Ok(Some(row)) if row.step > step && row.is_of(ticket) && op.is_overtaken() => {
                        break;
                    }
                    Ok(row) => match judge(row, ticket, op, tries.unknown) {
                        Some(Ok(())) => break,
                        Some(refused) => return refused,
                        None => DbError::Again("the key changed while it was written".into()),
                    },
                    Err(trouble) => trouble,
                },
                Err(trouble) => trouble,
            };
            tries.again(trouble).await?;
        }
        self.confirm(&mut tries).await?;
        match op {
            OwnedOp::Undo => self.unsure.again(&ticket.key),
            OwnedOp::Fail(_) | OwnedOp::NothingHappened => self.unsure.forget(&ticket.key),
            _ => {}
        }
        if op.ends() {
            self.let_go(ticket);
            self.told(&ticket.key);
        }
        Ok(())
    }

    /// One try; returns whether the caller's row was changed.
    async fn try_write(
        &self,
        tries: &Backoff,
        ticket: &Ticket,
        op: &OwnedOp,
        step: i64,
    ) -> Result<bool, DbError> {
        let (scope, key) = (&ticket.key.scope(), &ticket.key.key());
        let (token, owner) = (&(ticket.token.get() as i64), &Owner::of(ticket).0.to_vec());
        let (sql, step) = (&self.sql, &step);
        let changed = match op {
            OwnedOp::Complete { head, response, retention } => {
                let (replay, remember) =
                    (&millis(retention.replay_for), &millis(retention.remember_for));
                self.execute(
                    tries,
                    &sql.complete,
                    &[scope, key, token, owner, head, response, replay, remember],
                )
                .await?
            }
            OwnedOp::Fail(answer) => {
                let keep = &self.keep_ms(ticket.retention);
                self.execute(tries, &sql.fail, &[scope, key, token, owner, answer, keep, step])
                    .await?
            }
            OwnedOp::Release => {
                self.execute(tries, &sql.release, &[scope, key, token, owner, step]).await?
            }
            OwnedOp::Undo => {
                self.execute(tries, &sql.undo, &[scope, key, token, owner, step]).await?
            }
            OwnedOp::NothingHappened => {
                let lease = &millis(ticket.lease);
                self.execute(tries, &sql.first, &[scope, key, token, owner, lease, step]).await?
            }
            OwnedOp::Checkpoint(bytes) => {
                let lease = &millis(ticket.lease);
                self.execute(tries, &sql.renew, &[scope, key, token, owner, bytes, lease, step])
                    .await?
            }
            OwnedOp::Renew => {
                let (none, lease) = (&None::<Vec<u8>>, &millis(ticket.lease));
                self.execute(tries, &sql.renew, &[scope, key, token, owner, none, lease, step])
                    .await?
            }
            // A granted claim is as durable as anything here, and writes nothing but itself.
            OwnedOp::EnsureDurable | OwnedOp::UndoEffects => 0,
        };
        Ok(changed > 0)
    }

    /// Ends the claim of a handle that is gone. Never waits.
    pub fn abandon(self: &Arc<Self>, ticket: &Ticket, how: Abandon) {
        self.let_go(ticket);
        let ticket = ticket.clone();
        self.end_for_sure(Some(ticket.token), move |inner| {
            let ticket = ticket.clone();
            async move {
                match how {
                    Abandon::Undelivered => inner.undo(&ticket).await,
                    Abandon::Dropped => inner.interrupt(&ticket, Reason::Dropped).await,
                    Abandon::Panicked => inner.interrupt(&ticket, Reason::Panicked).await,
                }
            }
        });
    }

    /// Undoes a claim whose caller never had it; returns whether the outcome is known.
    pub async fn undo(self: &Arc<Self>, ticket: &Ticket) -> bool {
        let undone = self.write_on(ticket, &OwnedOp::Undo).await;
        self.counting.wrote(ticket, Some(Count::Undelivered), &undone);
        !matches!(undone, Err(ClaimError::Unavailable { .. } | ClaimError::StoreFull(_)))
    }

    /// Interrupts a claim whose handle is gone; returns whether the outcome is known.
    async fn interrupt(&self, ticket: &Ticket, reason: Reason) -> bool {
        self.unsure.forget(&ticket.key);
        let mut tries = self.tries();
        let (scope, key) = (&ticket.key.scope(), &ticket.key.key());
        let (token, owner) = (&(ticket.token.get() as i64), &Owner::of(ticket).0.to_vec());
        let (reason, step) = (&i16::from(reason as u8), &next_step());
        loop {
            let abandon = &self.sql.abandon;
            match self.execute(&tries, abandon, &[scope, key, token, owner, reason, step]).await {
                Ok(changed) => {
                    let dropped = (changed > 0).then_some(Count::Abandoned);
                    self.counting.wrote(ticket, dropped, &Ok(()));
                    break;
                }
                Err(trouble) => {
                    if let Err(trouble) = tries.again(trouble).await {
                        return matches!(trouble, DbError::Closed);
                    }
                }
            }
        }
        self.told(&ticket.key);
        true
    }
}
