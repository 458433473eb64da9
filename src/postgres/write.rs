//! A holder's calls, fenced by token and owner.

use super::{
    inner::{Inner, millis, next_step},
    row::{Owner, Row, RowState},
    tries::Backoff,
    trouble::DbError,
};
use crate::{
    error::ClaimError,
    limits::{CHECKPOINT_BYTES_MAX, HEAD_BYTES_MAX},
    options::check_retention,
    record::{Reason, Retention},
    spi::{Abandon, ClaimOp, Ticket},
    stats::Count,
};
use std::sync::Arc;

/// A holder's operation with its bytes, owned, for a task of its own.
#[derive(Debug)]
pub(super) enum OwnedOp {
    Complete { head: Vec<u8>, response: Option<Vec<u8>>, retention: Retention },
    Fail(Vec<u8>),
    Release,
    Undo,
    NothingHappened,
    Checkpoint(Vec<u8>),
    Renew,
    EnsureDurable,
    UndoEffects,
}

impl OwnedOp {
    /// Makes the operation, if its sizes and terms are within bounds.
    pub fn of(ticket: &Ticket, op: ClaimOp<'_>) -> Result<OwnedOp, ClaimError> {
        Ok(match op {
            ClaimOp::Complete(completion) => {
                let retention = completion.retention.unwrap_or(ticket.retention);
                check_retention(retention, 1).map_err(|what| ClaimError::Terms { what })?;
                let response = completion.response;
                check_size(ticket, completion.head, response.unwrap_or_default())?;
                let head = completion.head.to_vec();
                OwnedOp::Complete { head, response: response.map(<[u8]>::to_vec), retention }
            }
            ClaimOp::Fail(answer) => {
                check_size(ticket, &[], answer)?;
                OwnedOp::Fail(answer.to_vec())
            }
            ClaimOp::Release => OwnedOp::Release,
            ClaimOp::Undo => OwnedOp::Undo,
            ClaimOp::NothingHappened => OwnedOp::NothingHappened,
            ClaimOp::Checkpoint(bytes) if bytes.len() > CHECKPOINT_BYTES_MAX => {
                let (what, limit) = ("the checkpoint", CHECKPOINT_BYTES_MAX);
                return Err(ClaimError::TooLong { what, len: bytes.len(), limit });
            }
            ClaimOp::Checkpoint(bytes) => OwnedOp::Checkpoint(bytes.to_vec()),
            ClaimOp::Renew => OwnedOp::Renew,
            ClaimOp::EnsureDurable => OwnedOp::EnsureDurable,
            ClaimOp::UndoEffects => OwnedOp::UndoEffects,
        })
    }

    /// What is counted when it is done.
    pub fn counted(&self) -> Option<Count> {
        match self {
            OwnedOp::Complete { .. } => Some(Count::Completed),
            OwnedOp::Fail(_) => Some(Count::Failed),
            OwnedOp::Release => Some(Count::Released),
            OwnedOp::Undo => Some(Count::Undone),
            _ => None,
        }
    }

    /// Whether a later call of the holder has done all that this one would, when it arrives late.
    fn is_overtaken(&self) -> bool {
        matches!(self, OwnedOp::Checkpoint(_) | OwnedOp::Renew)
    }

    /// Whether the holder has nothing more to do afterwards that would need its lease.
    fn ends(&self) -> bool {
        matches!(
            self,
            OwnedOp::Complete { .. } | OwnedOp::Fail(_) | OwnedOp::Release | OwnedOp::Undo
        )
    }
}

/// Checks that a response fits the claim's reserve, and a head the bound of heads.
pub(super) fn check_size(ticket: &Ticket, head: &[u8], body: &[u8]) -> Result<(), ClaimError> {
    check_lengths(head, body, ticket.reserve as usize)
}

pub(super) fn check_lengths(head: &[u8], body: &[u8], limit: usize) -> Result<(), ClaimError> {
    if head.len() > HEAD_BYTES_MAX {
        let what = "the head";
        return Err(ClaimError::TooLong { what, len: head.len(), limit: HEAD_BYTES_MAX });
    }
    let len = head.len() + body.len();
    match len > limit && !body.is_empty() {
        true => Err(ClaimError::ResponseTooLarge { len, limit }),
        false => Ok(()),
    }
}

impl Inner {
    /// Does the operation, and repeats it until its outcome is known.
    pub async fn write(self: &Arc<Self>, ticket: &Ticket, op: &OwnedOp) -> Result<(), ClaimError> {
        let answer = self.write_on(ticket, op).await;
        self.counting.wrote(ticket, op.counted(), &answer);
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

/// The meaning of a statement that changed no row, by the present row; `None`: try again.
pub(super) fn judge(
    row: Option<Row>,
    ticket: &Ticket,
    op: &OwnedOp,
    unknown: bool,
) -> Option<Result<(), ClaimError>> {
    let ours = row.filter(|row| row.is_of(ticket));
    let Some(row) = ours else {
        return Some(Err(ClaimError::Fenced));
    };
    match (row.state, op) {
        // An earlier try of this call may have released it.
        (0, OwnedOp::Release | OwnedOp::Undo) if unknown => Some(Ok(())),
        // So it was before, or an earlier try of this call has made it so.
        (2, OwnedOp::Undo) if !row.holder => Some(Ok(())),
        (3, _) if matches!(row.says(), RowState::Absent) => Some(Err(ClaimError::Fenced)),
        (3, OwnedOp::Complete { head, response, .. }) => {
            let same = row.head.as_ref() == Some(head) && row.response == *response;
            Some(same.then_some(()).ok_or(ClaimError::DifferentResponse))
        }
        (3, _) => Some(Err(ClaimError::AlreadyCompleted)),
        (1 | 2, OwnedOp::EnsureDurable | OwnedOp::UndoEffects) => Some(Ok(())),
        (2, OwnedOp::Fail(answer)) => {
            let kept = row.response?;
            Some((kept == *answer).then_some(()).ok_or(ClaimError::DifferentResponse))
        }
        (1 | 2, _) => None,
        _ => Some(Err(ClaimError::Fenced)),
    }
}
