//! The data of an answer: a record, its retention, the reason of an interruption.

use crate::sync::pooled_bytes::Copied;
use std::{fmt, time::Duration};

/// How long a completed record is kept.
///
/// The response is replayed for `replay_for`, counted from the completion. The fact that the
/// operation was executed is remembered for `remember_for`, which is at least as long. The
/// resolution is milliseconds, and the maximum ten years.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Retention {
    /// The time for which the response is replayed.
    pub replay_for: Duration,
    /// The time for which the store knows that the operation was executed.
    pub remember_for: Duration,
}

impl Retention {
    /// Returns a retention whose two windows have the same length.
    pub const fn of(window: Duration) -> Self {
        Retention { replay_for: window, remember_for: window }
    }
}

impl From<Duration> for Retention {
    fn from(window: Duration) -> Self {
        Retention::of(window)
    }
}

/// Why an execution was interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Reason {
    /// The claim was dropped undecided.
    Dropped = 1,
    /// The holder panicked.
    Panicked = 2,
    /// The process or the machine died, or closed the store while the claim was held.
    Crashed = 3,
    /// The lease passed: the holder is silent, perhaps alive.
    LeasePassed = 4,
    /// A later attempt (or one that had saved a checkpoint) was released. That says nothing about
    /// what happened before it.
    GivenBack = 5,
    /// The holder reported a failure whose outcome it doesn't know.
    Failed = 6,
}

impl Reason {
    /// All reasons.
    const ALL: [Reason; 6] = {
        use Reason::*;
        [Dropped, Panicked, Crashed, LeasePassed, GivenBack, Failed]
    };

    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|r| *r as u8 == byte)
    }

    /// Returns a word for programs, which stays the same: the command, the admin API and the metrics
    /// use it.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Reason::Dropped => "dropped",
            Reason::Panicked => "panicked",
            Reason::Crashed => "crashed",
            Reason::LeasePassed => "lease-passed",
            Reason::GivenBack => "given-back",
            Reason::Failed => "failed",
        }
    }
}

/// How many keys are interrupted for each reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByReason([u64; Reason::ALL.len()]);

impl ByReason {
    pub(crate) fn add(&mut self, reason: Reason) {
        self.0[reason as usize - 1] += 1;
    }

    /// Returns the number of keys that are interrupted for this reason.
    pub fn of(&self, reason: Reason) -> u64 {
        self.0[reason as usize - 1]
    }

    /// Iterates over all reasons.
    pub fn iter(&self) -> impl Iterator<Item = (Reason, u64)> + '_ {
        Reason::ALL.into_iter().map(|reason| (reason, self.of(reason)))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Dropped => "the claim was dropped undecided",
            Reason::Panicked => "the holder panicked",
            Reason::Crashed => "the process died",
            Reason::LeasePassed => "the lease passed",
            Reason::GivenBack => "a later attempt was given back",
            Reason::Failed => "the holder failed, outcome unknown",
        })
    }
}

/// A completed operation, as it was stored. It is owned, and cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// The bytes that were read; the head starts at `from`, the response at `body`.
    bytes: Copied,
    from: u32,
    body: u32,
    meta: RecordMeta,
}

/// Times and token of a record, for [`Record::new`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordMeta {
    pub retained: bool,
    pub token: u64,
    pub completed_ms: u64,
    pub expires_ms: u64,
    /// The age by the store's time at reading; `AGE_UNKNOWN` if the backend doesn't know it.
    pub age_ms: u64,
}

const AGE_UNKNOWN: u64 = u64::MAX;

impl Record {
    pub(crate) fn new(bytes: Copied, from: usize, body: usize, meta: RecordMeta) -> Self {
        Record { bytes, from: from as u32, body: body as u32, meta }
    }

    /// Makes a record from its parts, for backends.
    pub fn from_parts(
        token: crate::Token,
        head: &[u8],
        response: Option<&[u8]>,
        completed_ms: u64,
        expires_ms: u64,
    ) -> Self {
        let body = response.unwrap_or_default();
        let bytes = Copied::new(head.len() + body.len(), |copy| {
            copy[..head.len()].copy_from_slice(head);
            copy[head.len()..].copy_from_slice(body);
        });
        let retained = response.is_some();
        let (token, age_ms) = (token.get(), AGE_UNKNOWN);
        let meta = RecordMeta { retained, token, completed_ms, expires_ms, age_ms };
        Record::new(bytes, 0, head.len(), meta)
    }

    /// Sets the age of the record by the backend's own time, for backends that know it.
    pub fn with_age(mut self, age: Duration) -> Self {
        self.meta.age_ms = u64::try_from(age.as_millis()).unwrap_or(AGE_UNKNOWN);
        self
    }

    /// Returns the response, byte for byte. `None` means that the operation was executed and its
    /// response is not retained: it was too large, or its replay window has passed.
    pub fn response(&self) -> Option<&[u8]> {
        self.meta.retained.then(|| &self.bytes[self.body as usize..])
    }

    /// The head: up to 4 KiB that stay when the response is not retained. Empty unless set.
    pub fn head(&self) -> &[u8] {
        &self.bytes[self.from as usize..self.body as usize]
    }

    /// Returns when the operation was completed, in milliseconds since 1970.
    pub fn completed_at(&self) -> u64 {
        self.meta.completed_ms
    }

    /// Returns when the record is forgotten, in milliseconds since 1970.
    pub fn expires_at(&self) -> u64 {
        self.meta.expires_ms
    }

    /// Returns the age of the record at the time when it was read, by the store's time and not by
    /// the wall clock. `None` if the backend doesn't know it ([`Record::with_age`]).
    pub fn age(&self) -> Option<Duration> {
        (self.meta.age_ms != AGE_UNKNOWN).then(|| Duration::from_millis(self.meta.age_ms))
    }

    /// Returns the token of the attempt that completed the operation.
    pub fn token(&self) -> crate::Token {
        crate::Token::new(self.meta.token).expect("stored tokens were checked")
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("token", &self.meta.token)
            .field("response_bytes", &self.response().map(<[u8]>::len))
            .field("completed_at", &self.meta.completed_ms)
            .field("expires_at", &self.meta.expires_ms)
            .finish()
    }
}
