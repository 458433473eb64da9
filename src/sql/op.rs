//! A holder's operation, and what it means that it changed nothing.

use super::row::{Row, RowState};
use crate::{
    error::ClaimError,
    limits::{CHECKPOINT_BYTES_MAX, HEAD_BYTES_MAX},
    options::check_retention,
    record::Retention,
    spi::{ClaimOp, Ticket},
};
use std::sync::atomic::{AtomicI64, Ordering};

/// A holder's operation with its bytes, owned, for a task of its own.
#[derive(Debug)]
pub(crate) enum OwnedOp {
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

    /// Whether a later call of the holder has done all that this one would, when it arrives late.
    pub fn is_overtaken(&self) -> bool {
        matches!(self, OwnedOp::Checkpoint(_) | OwnedOp::Renew)
    }

    /// Whether the holder has nothing more to do afterwards that would need its lease.
    pub fn ends(&self) -> bool {
        matches!(
            self,
            OwnedOp::Complete { .. } | OwnedOp::Fail(_) | OwnedOp::Release | OwnedOp::Undo
        )
    }
}

/// Checks that a response fits the claim's reserve, and a head the bound of heads.
pub(crate) fn check_size(ticket: &Ticket, head: &[u8], body: &[u8]) -> Result<(), ClaimError> {
    check_lengths(head, body, ticket.reserve as usize)
}

pub(crate) fn check_lengths(head: &[u8], body: &[u8], limit: usize) -> Result<(), ClaimError> {
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

/// The meaning of a statement that changed no row, by the present row; `None`: try again.
pub(crate) fn judge(
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

/// The number of a holder's call: later calls have higher ones, in all stores of the process, since
/// a claim can move from one to another.
pub(crate) fn next_step() -> i64 {
    static NEXT: AtomicI64 = AtomicI64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
