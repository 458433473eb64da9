//! What a backend is: verbs over plain data. Guards, waiting and `once` are written above it,
//! once for all backends.

use crate::{
    error::{BeginError, ClaimError},
    fingerprint::Fingerprint,
    key::OwnedKey,
    record::{Reason, Record, Retention},
    token::Token,
};
use std::{
    future::Future,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

/// How a claim is to be granted; what is `None` is the store's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// How long the holder may be silent: 1 ms to 30 days.
    pub lease: Option<Duration>,
    /// How long the completed record is known, at least the lease and at most ten years; a
    /// completion can say otherwise.
    pub retention: Option<Retention>,
    /// Largest response in bytes, head included, that room is promised for; at most the store's
    /// `max_response`. A larger one is `ResponseTooLarge`.
    pub reserve: Option<u32>,
    /// The store renews the lease by itself while the handle lives, up to its execution limit.
    pub keep_alive: bool,
    /// The scope is one of many, and none may take what the others need: a new key is refused
    /// ([`Full::Scope`](crate::Full)) if its scope has its share of the claims that can be undecided,
    /// of half of them for interrupted ones, or of the space that can be promised. The share is such
    /// a part of what is left as what is left is of the whole: one scope that takes all it can gets
    /// 38 of 100; after ten of them, one after the other, about a tenth is left. A scope that has
    /// nothing may take something as long as there is anything. Counted again after a restart. A
    /// backend without such bounds takes no notice.
    pub shared: bool,
}

/// A request that begins.
#[derive(Clone, Debug)]
pub struct Request {
    /// Who it is.
    pub key: OwnedKey,
    /// What it means.
    pub fingerprint: Fingerprint,
    /// How a claim is to be granted.
    pub terms: Terms,
}

/// What a granted claim is known by. Plain data: whoever has it can act for the holder.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// Whose.
    pub key: OwnedKey,
    /// Of which request.
    pub fingerprint: Fingerprint,
    /// Of which attempt.
    pub token: Token,
    /// Attempts made, this one included.
    pub attempt: u32,
    /// The terms that hold.
    pub retention: Retention,
    /// The terms that hold.
    pub lease: Duration,
    /// Largest response, in bytes.
    pub reserve: u32,
    /// The backend's own.
    pub note: [u64; 2],
}

/// A claim as it is granted.
#[derive(Clone, Debug)]
pub struct Grant {
    /// To act with.
    pub ticket: Ticket,
    /// The last checkpoint that an earlier attempt left.
    pub checkpoint: Option<Arc<[u8]>>,
    /// Why the attempt before this one was interrupted, if there was one.
    pub after: Option<Reason>,
}

/// A key that is being executed by somebody else.
#[derive(Clone, Debug)]
pub struct Running {
    /// The attempt that runs.
    pub token: Token,
    /// For how long it has been running.
    pub running_for: Duration,
}

/// A key of which it isn't known whether its operation took effect.
#[derive(Clone, Debug)]
pub struct Interruption {
    /// The attempt that was interrupted.
    pub token: Token,
    /// Why.
    pub reason: Reason,
    /// Nobody has the claim in hand any more. When false the holder may still be at work.
    pub holder_gone: bool,
    /// Attempts made.
    pub attempts: u32,
    /// The last checkpoint.
    pub checkpoint: Option<Arc<[u8]>>,
    /// The answer that a failed holder left.
    pub answer: Option<Arc<[u8]>>,
    /// What settles by itself had better not take it over before this has passed: the last takeovers
    /// were [undone](ClaimOp::Undo).
    pub settle_after: Duration,
}

/// What a key is found to be.
#[derive(Clone, Debug)]
#[allow(clippy::exhaustive_enums)]
pub enum Found {
    /// Yours to execute.
    Granted(Grant),
    /// Done.
    Replay(Record),
    /// Somebody else's.
    InFlight(Running),
    /// Nobody knows.
    Interrupted(Interruption),
    /// The key is another request's, whose fingerprint was made by this scheme.
    Mismatch {
        /// Number of the scheme.
        scheme: u8,
    },
}

/// A response to store.
#[derive(Clone, Copy, Debug, Default)]
pub struct Completion<'a> {
    /// Up to 4 KiB that stay when the response is not retained.
    pub head: &'a [u8],
    /// The response; `None`: done, not retained.
    pub response: Option<&'a [u8]>,
    /// How long it is known, 1 ms to ten years; `None`: as the claim's terms say.
    pub retention: Option<Retention>,
}

/// What a holder does.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum ClaimOp<'a> {
    /// The operation took effect, and this is the answer.
    Complete(Completion<'a>),
    /// The outcome is unknown; this answer is kept.
    Fail(&'a [u8]),
    /// The attempt did nothing.
    Release,
    /// It couldn't be told what became of the attempts before this one, and this one did nothing
    /// else: the takeover is undone. The key is interrupted as it was, with the same number of
    /// attempts, reason, answer and checkpoint, under this token, its holder gone. What was no
    /// takeover is released.
    Undo,
    /// No attempt before this one had an effect, and none can have one any more: this is the first
    /// attempt, without a checkpoint, and its release makes the key absent.
    NothingHappened,
    /// This far it got.
    Checkpoint(&'a [u8]),
    /// The holder lives.
    Renew,
    /// The claim itself must survive a loss of power.
    EnsureDurable,
}

impl ClaimOp<'_> {
    /// The name of the call, in spans.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            ClaimOp::Complete(_) => "complete",
            ClaimOp::Fail(_) => "fail",
            ClaimOp::Release => "release",
            ClaimOp::Undo => "undo",
            ClaimOp::NothingHappened => "nothing_happened",
            ClaimOp::Checkpoint(_) => "checkpoint",
            ClaimOp::Renew => "renew",
            ClaimOp::EnsureDurable => "ensure_durable",
        }
    }
}

/// How a handle ends without a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abandon {
    /// Dropped.
    Dropped,
    /// Dropped while panicking.
    Panicked,
    /// It never reached the caller, or what it was to find out about earlier attempts did not: the
    /// attempt did nothing, and ends as by [`ClaimOp::Undo`].
    Undelivered,
}

/// A store of idempotency keys.
///
/// [`Store`](crate::Store) is one, and so can be whatever keeps its promises: exactly one claim is
/// granted among any number of concurrent `begin`s; a key is never silently granted again while
/// it isn't known whether its operation took effect; what a holder whose token is not the last
/// one writes is refused. Users call [`AsyncStore`](crate::AsyncStore) (or the blocking
/// `Store` itself), not this trait.
pub trait IdempotencyStore: Clone + Send + Sync + 'static {
    /// Claims the key, or says what it is. Dropping the future leaves the key as if it had
    /// never been asked.
    fn begin(&self, request: &Request) -> impl Future<Output = Result<Found, BeginError>> + Send;

    /// Takes over a key that was seen interrupted under `seen`; if that is no longer so, does
    /// what [`begin`](Self::begin) does.
    fn take_over(
        &self,
        request: &Request,
        seen: Token,
    ) -> impl Future<Output = Result<Found, BeginError>> + Send;

    /// A holder's call, fenced by its token. Dropping the future abandons the notification,
    /// never the write.
    fn write(
        &self,
        ticket: &Ticket,
        op: ClaimOp<'_>,
    ) -> impl Future<Output = Result<(), ClaimError>> + Send;

    /// Resolves with `true` when the attempt `seen` may no longer be in flight, with `false` after
    /// `at_most`.
    fn changed(
        &self,
        request: &Request,
        seen: Token,
        at_most: Duration,
    ) -> impl Future<Output = bool> + Send;

    /// The time by which [`changed`](Self::changed) waits, counted from any fixed moment: what is
    /// left of a wait that consists of several is known by it.
    fn now(&self) -> Duration {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        START.elapsed()
    }

    /// The handle is gone. Never waits; may be lost (then the lease ends it).
    fn abandon(&self, ticket: &Ticket, how: Abandon);
}
