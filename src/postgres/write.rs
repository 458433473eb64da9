//! A holder's calls, fenced by token and owner.

use super::{
    inner::{Inner, millis},
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
        })
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
        let mut tries = self.tries();
        loop {
            let trouble = match self.try_write(&tries, ticket, op).await {
                Ok(true) => break,
                Ok(false) => match self.look(&tries, ticket.key.as_ref()).await {
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
    ) -> Result<bool, DbError> {
        let (scope, key) = (&ticket.key.scope(), &ticket.key.key());
        let (token, owner) = (&(ticket.token.get() as i64), &Owner::of(ticket).0.to_vec());
        let sql = &self.sql;
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
                self.execute(tries, &sql.fail, &[scope, key, token, owner, answer, keep]).await?
            }
            OwnedOp::Release => {
                self.execute(tries, &sql.release, &[scope, key, token, owner]).await?
            }
            OwnedOp::Undo => self.execute(tries, &sql.undo, &[scope, key, token, owner]).await?,
            OwnedOp::NothingHappened => {
                let lease = &millis(ticket.lease);
                self.execute(tries, &sql.first, &[scope, key, token, owner, lease]).await?
            }
            OwnedOp::Checkpoint(bytes) => {
                let lease = &millis(ticket.lease);
                self.execute(tries, &sql.renew, &[scope, key, token, owner, bytes, lease]).await?
            }
            OwnedOp::Renew => {
                let (none, lease) = (&None::<Vec<u8>>, &millis(ticket.lease));
                self.execute(tries, &sql.renew, &[scope, key, token, owner, none, lease]).await?
            }
            // A granted claim is as durable as anything here.
            OwnedOp::EnsureDurable => 0,
        };
        Ok(changed > 0)
    }

    /// Ends the claim of a handle that is gone. Never waits; may be lost.
    pub fn abandon(self: &Arc<Self>, ticket: &Ticket, how: Abandon) {
        self.let_go(ticket);
        let (inner, ticket) = (self.clone(), ticket.clone());
        self.end_behind(async move {
            let ended = match how {
                Abandon::Undelivered => {
                    inner.write(&ticket, &OwnedOp::Undo).await.map_err(|error| error.to_string())
                }
                Abandon::Dropped => inner.interrupt(&ticket, Reason::Dropped).await,
                Abandon::Panicked => inner.interrupt(&ticket, Reason::Panicked).await,
            };
            if let Err(why) = ended {
                tracing::debug!(token = ticket.token.get(), why, "left to its lease");
            }
        });
    }

    async fn interrupt(&self, ticket: &Ticket, reason: Reason) -> Result<(), String> {
        self.unsure.forget(&ticket.key);
        let mut tries = self.tries();
        let (scope, key) = (&ticket.key.scope(), &ticket.key.key());
        let (token, owner) = (&(ticket.token.get() as i64), &Owner::of(ticket).0.to_vec());
        let reason = &i16::from(reason as u8);
        loop {
            let abandon = &self.sql.abandon;
            match self.execute(&tries, abandon, &[scope, key, token, owner, reason]).await {
                Ok(_) => break,
                Err(trouble) => tries.again(trouble).await.map_err(|trouble| trouble.what())?,
            }
        }
        self.told(&ticket.key);
        Ok(())
    }
}

/// The meaning of a statement that changed no row, by the present row; `None`: try again.
pub(super) fn judge(
    row: Option<Row>,
    ticket: &Ticket,
    op: &OwnedOp,
    unknown: bool,
) -> Option<Result<(), ClaimError>> {
    let ours =
        row.filter(|row| row.token == ticket.token.get() as i64 && row.is_by(Owner::of(ticket)));
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
        (1 | 2, OwnedOp::EnsureDurable) => Some(Ok(())),
        (2, OwnedOp::Fail(answer)) => {
            let kept = row.response?;
            Some((kept == *answer).then_some(()).ok_or(ClaimError::DifferentResponse))
        }
        (1 | 2, _) => None,
        _ => Some(Err(ClaimError::Fenced)),
    }
}
