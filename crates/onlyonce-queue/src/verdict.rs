//! What becomes of a delivery.

use std::time::Duration;

/// What to tell the queue about a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "the queue must be told"]
#[non_exhaustive]
pub enum Verdict {
    /// The message has taken effect, and that is recorded: the queue may forget it.
    Ack {
        /// Now; otherwise it had before.
        now: bool,
    },
    /// Deliver it again, not before this time has passed.
    Nack {
        /// The least time.
        after: Duration,
        /// Why.
        why: NackReason,
    },
    /// Put it where a person looks, and acknowledge it: another delivery would not help.
    Park {
        /// Why.
        why: ParkReason,
    },
}

/// Why a message is to be delivered again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NackReason {
    /// Another consumer has it, or one that is silent but may be alive.
    #[error("another consumer has the message")]
    InFlight,
    /// The work failed, and says that it did nothing.
    #[error("nothing was done: {0}")]
    NothingDone(String),
    /// The work failed half way, or its record could not be written: the next delivery finds out
    /// what happened.
    #[error("it isn't known what was done: {0}")]
    Unknown(String),
    /// What became of an earlier attempt can't be found out now.
    #[error("it can't be found out now what an earlier attempt did")]
    AskLater,
    /// The store takes no claims now. Nothing was executed.
    #[error("the store: {0}")]
    Store(String),
}

/// Why a message is put aside.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParkReason {
    /// An earlier attempt was interrupted, and it can't be found out what it did.
    #[error("it can't be found out whether an earlier attempt took effect")]
    Unknowable,
    /// The message's id is that of another message.
    #[error("the id is that of another message")]
    OtherMessage,
    /// It was tried as often as the store or the consumer allows.
    #[error("tried too often: {0}")]
    TooOften(String),
    /// The id can't be a key, or the store refuses the message for good.
    #[error("refused: {0}")]
    Refused(String),
}

/// What became of an earlier attempt, as the application finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)]
pub enum Fate {
    /// It took effect.
    Happened,
    /// It had no effect, and can have none any more: the work runs again.
    NothingHappened,
    /// That can be found out, but not now: the message is delivered again later.
    AskLater,
    /// That can't be found out: the message is parked.
    Unknowable,
}
