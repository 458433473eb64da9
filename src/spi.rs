//! The interface of a backend: calls over plain data. Claims as guards, waiting and `once` are
//! written above it, once for all backends.

use crate::{
    error::{BeginError, ClaimError, StoreError},
    fingerprint::Fingerprint,
    key::{OwnedKey, Scope},
    record::{Reason, Record, Retention},
    token::Token,
};
use std::{
    future::Future,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

/// The terms of a claim. The store's options fill in what is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// How long the holder may be silent: 1 ms to 30 days. With `keep_alive` it has no effect below
    /// the store's execution limit.
    pub lease: Option<Duration>,
    /// How long the completed record is kept, at least the lease and at most ten years; a
    /// completion can set another one.
    pub retention: Option<Retention>,
    /// Size in bytes of the largest response, head included, for which room is reserved; at most
    /// the store's `max_response`. A larger response is `ResponseTooLarge`.
    pub reserve: Option<u32>,
    /// The store keeps the claim by itself while the handle exists, up to its execution limit.
    pub keep_alive: bool,
    /// The scope is one of many, and must not use up what the others need: a new key is refused
    /// ([`Full::Scope`](crate::Full)) if its scope has its share of the keys that can be undecided,
    /// of half of these for interrupted ones, or of the space that can be reserved. The share's
    /// part of the remainder is the remainder's part of the whole: one scope that takes all it can
    /// gets 38 of 100; after ten of them, one after the other, about a tenth is left. A scope that
    /// has nothing may take something as long as there is anything. Shares are counted again after
    /// a restart. A backend without such bounds ignores this.
    pub shared: bool,
}

/// A request for a key.
#[derive(Clone, Debug)]
pub struct Request {
    /// The request's identity.
    pub key: OwnedKey,
    /// The fingerprint of its meaning.
    pub fingerprint: Fingerprint,
    /// The terms of a claim.
    pub terms: Terms,
}

/// The data by which a granted claim is known. Code that has it can act for the holder.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// The claimed key.
    pub key: OwnedKey,
    /// The fingerprint of the request that claimed it first.
    pub fingerprint: Fingerprint,
    /// The token of this attempt.
    pub token: Token,
    /// The number of this attempt, from 1.
    pub attempt: u32,
    /// The retention of a completion that sets none.
    pub retention: Retention,
    /// The lease.
    pub lease: Duration,
    /// Size of the largest response, in bytes.
    pub reserve: u32,
    /// Data of the backend.
    pub note: [u64; 2],
}

/// A claim as it is granted.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The data of the claim.
    pub ticket: Ticket,
    /// The last checkpoint that an earlier attempt left.
    pub checkpoint: Option<Arc<[u8]>>,
    /// Why the attempt before this one was interrupted, if there was one.
    pub after: Option<Reason>,
}

/// A key in flight.
#[derive(Clone, Debug)]
pub struct Running {
    /// The token of the attempt that runs.
    pub token: Token,
    /// How long it has been running.
    pub running_for: Duration,
}

/// A key of which it isn't known whether its operation took effect.
#[derive(Clone, Debug)]
pub struct Interruption {
    /// The token of the attempt that was interrupted.
    pub token: Token,
    /// Why it was interrupted.
    pub reason: Reason,
    /// No handle of the claim exists any more. If false, the holder may still be working.
    pub holder_gone: bool,
    /// The number of attempts.
    pub attempts: u32,
    /// The last checkpoint.
    pub checkpoint: Option<Arc<[u8]>>,
    /// The answer that a failed holder left.
    pub answer: Option<Arc<[u8]>>,
    /// The time that should pass before the key is taken over to settle it by itself, because the
    /// last takeovers were [undone](ClaimOp::Undo).
    pub settle_after: Duration,
    /// How long the key has been interrupted.
    pub interrupted_for: Duration,
}

/// The state of a key, as a backend finds it.
#[derive(Clone, Debug)]
#[allow(clippy::exhaustive_enums)]
pub enum Found {
    /// The caller holds the key now.
    Granted(Grant),
    /// The operation was executed before.
    Replay(Record),
    /// Another caller executes the operation.
    InFlight(Running),
    /// It isn't known whether the operation took effect.
    Interrupted(Interruption),
    /// The key was used for another request, whose fingerprint was made by this scheme.
    Mismatch {
        /// Number of the scheme.
        scheme: u8,
    },
}

/// The content of a completion.
#[derive(Clone, Copy, Debug, Default)]
pub struct Completion<'a> {
    /// Up to 4 KiB that are kept when the response is not retained.
    pub head: &'a [u8],
    /// The response; `None`: the operation was executed, and its response is not retained.
    pub response: Option<&'a [u8]>,
    /// How long the record is kept, 1 ms to ten years; `None`: as the claim's terms say.
    pub retention: Option<Retention>,
}

/// An operation of a holder.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum ClaimOp<'a> {
    /// The operation took effect, and this is the answer.
    Complete(Completion<'a>),
    /// The outcome is unknown; this answer is kept.
    Fail(&'a [u8]),
    /// The attempt did nothing.
    Release,
    /// It couldn't be found out what became of the attempts before this one, and this one did
    /// nothing else: the takeover is undone. The key is interrupted as it was, with the same number
    /// of attempts, reason, answer and checkpoint, under this token, its holder gone. What was no
    /// takeover is released.
    Undo,
    /// No attempt before this one had an effect, and none can have one any more: this is the first
    /// attempt, without a checkpoint, and its release makes the key absent.
    NothingHappened,
    /// Stores how far the operation has got.
    Checkpoint(&'a [u8]),
    /// Starts the lease again.
    Renew,
    /// Makes the claim itself survive a loss of power.
    EnsureDurable,
    /// Undoes what the holder has written in the claim's own transaction, where claims are
    /// transactions; the claim is still held. Elsewhere there is nothing to undo, and this does
    /// nothing.
    UndoEffects,
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
            ClaimOp::UndoEffects => "undo_effects",
        }
    }
}

/// How a handle ended without a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abandon {
    /// Dropped.
    Dropped,
    /// Dropped while panicking.
    Panicked,
    /// The grant never reached its caller, or the caller was dropped while it settled earlier
    /// attempts: the attempt did nothing, and ends as by [`ClaimOp::Undo`].
    Undelivered,
}

/// Answers that haven't reached their caller: the claims among them are undone when this is dropped.
struct Undelivered<'a, S: IdempotencyStore> {
    store: &'a S,
    found: Vec<Result<Found, BeginError>>,
}

impl<S: IdempotencyStore> Drop for Undelivered<'_, S> {
    fn drop(&mut self) {
        for found in self.found.drain(..) {
            if let Ok(Found::Granted(grant)) = found {
                self.store.abandon(&grant.ticket, Abandon::Undelivered);
            }
        }
    }
}

/// What an erasure has removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Erased {
    /// Keys.
    pub keys: u64,
    /// Decisions of operators.
    pub decisions: u64,
    /// Keys of the scope that are left, or were while this ran: those whose holders may live, because
    /// it wasn't forced, and those that were used again since. If it is 0, nothing of the scope is.
    pub held: u64,
}

/// A store of idempotency keys.
///
/// [`Store`](crate::Store) is one. Another one must keep the same promises: exactly one claim is
/// granted among any number of concurrent `begin`s; a key is never silently granted again while it
/// isn't known whether its operation took effect; writes of a holder whose token is not the last
/// one are refused. Users call [`AsyncStore`](crate::AsyncStore) (or the blocking `Store` itself),
/// not this trait.
pub trait IdempotencyStore: Clone + Send + Sync + 'static {
    /// Claims the key, or returns its state. Dropping the future leaves the key as if it had never
    /// been called.
    fn begin(&self, request: &Request) -> impl Future<Output = Result<Found, BeginError>> + Send;

    /// Takes over a key that was seen interrupted under `seen`. If that is no longer its state,
    /// does what [`begin`](Self::begin) does.
    fn take_over(
        &self,
        request: &Request,
        seen: Token,
    ) -> impl Future<Output = Result<Found, BeginError>> + Send;

    /// Does a holder's operation, fenced by its token. Dropping the future abandons the
    /// notification, never the write.
    fn write(
        &self,
        ticket: &Ticket,
        op: ClaimOp<'_>,
    ) -> impl Future<Output = Result<(), ClaimError>> + Send;

    /// Claims several keys, in their order: each with the outcome that [`begin`](Self::begin) would
    /// have, and in one group where the backend has groups. Without that they are begun one after
    /// the other. Dropping the future leaves all keys as if it had never been called.
    fn begin_many(
        &self,
        requests: &[Request],
    ) -> impl Future<Output = Vec<Result<Found, BeginError>>> + Send {
        async move {
            let mut begun = Undelivered { store: self, found: Vec::with_capacity(requests.len()) };
            for request in requests {
                let found = self.begin(request).await;
                begun.found.push(found);
            }
            std::mem::take(&mut begun.found)
        }
    }

    /// Does several operations of holders, in their order: each with the outcome that
    /// [`write`](Self::write) would have, and in one group where the backend has groups. Dropping
    /// the future abandons the notifications, and what it hasn't come to yet.
    fn write_many(
        &self,
        writes: &[(&Ticket, ClaimOp<'_>)],
    ) -> impl Future<Output = Vec<Result<(), ClaimError>>> + Send {
        async move {
            let mut written = Vec::with_capacity(writes.len());
            for (ticket, op) in writes {
                written.push(self.write(ticket, *op).await);
            }
            written
        }
    }

    /// Returns whether both are handles of the same store, so that a ticket of one may be written
    /// with others of the other. `false` is always right.
    fn is_same(&self, other: &Self) -> bool {
        let _ = other;
        false
    }

    /// Resolves with `true` when the attempt `seen` may no longer be in flight, with `false` after
    /// `at_most`.
    fn changed(
        &self,
        request: &Request,
        seen: Token,
        at_most: Duration,
    ) -> impl Future<Output = bool> + Send;

    /// Returns what a `begin` would find at a key, whatever its fingerprint, and claims nothing:
    /// neither `Granted` nor `Mismatch`, and `None` for an absent key. A backend without this is
    /// unavailable for it.
    fn look(
        &self,
        key: &OwnedKey,
    ) -> impl Future<Output = Result<Option<Found>, BeginError>> + Send {
        let _ = key;
        let what = "this backend doesn't say what has become of a key".to_owned();
        std::future::ready(Err(BeginError::Unavailable { what }))
    }

    /// Forgets all keys of a scope, and what the backend keeps about them; keys that a holder may be
    /// working on only if `force`. See [`Store::erase_scope`](crate::Store::erase_scope). It may be
    /// called again, after an error too. Dropping the future abandons the notification, not what has
    /// begun. A backend without this is unavailable for it.
    fn erase_scope(
        &self,
        scope: &Scope,
        force: bool,
    ) -> impl Future<Output = Result<Erased, StoreError>> + Send {
        let _ = (scope, force);
        let what = "this backend doesn't erase a scope".to_owned();
        std::future::ready(Err(StoreError::Unavailable { what }))
    }

    /// Returns `terms` with the store's own where they are `None`, or the error that a `begin` with
    /// them would get: for a caller that wants to know at its start. A backend without this returns
    /// them as they are.
    fn terms_in_force(&self, terms: Terms) -> Result<Terms, BeginError> {
        Ok(terms)
    }

    /// Returns the time by which [`changed`](Self::changed) waits, counted from any fixed moment. A
    /// wait that consists of several parts computes its remainder by it.
    fn now(&self) -> Duration {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        START.elapsed()
    }

    /// Ends the claim of a handle that is gone. Never waits; may be lost (then the lease ends it).
    fn abandon(&self, ticket: &Ticket, how: Abandon);
}
