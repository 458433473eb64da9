//! The results of a `begin`: a claim, a record, or a handle of another's attempt.
//! Written once for all backends; the blocking methods are in `blocking`, the async ones in
//! `async_store`.

use crate::{
    error::{BeginError, ClaimError},
    record::{Reason, Record},
    spi::{Abandon, Found, Grant, IdempotencyStore, Interruption, Request, Running, Ticket},
    store::Store,
    token::Token,
};
use std::{fmt, sync::Arc, time::Duration};

/// The state of a key, as `begin` finds it. Exhaustive on purpose: a caller must handle each arm.
///
/// A trap: after `begin`, a `validate()?` that fails drops the claim and leaves the key
/// interrupted. Validate first, or release the claim.
#[must_use = "the claim in it, dropped undecided, leaves the key interrupted"]
#[derive(Debug)]
pub enum Begin<S: IdempotencyStore = Store> {
    /// The caller holds the key: execute, then complete the claim, then answer.
    Execute(Claim<S>),
    /// The operation was executed before. Answer with the record.
    Replay(Record),
    /// Another caller executes the operation now.
    InFlight(Pending<S>),
    /// It isn't known whether the operation took effect.
    Interrupted(Interrupted<S>),
    /// The key was used for another request. Nothing of that one is revealed, except by which
    /// scheme its fingerprint was made.
    Mismatch {
        /// [`Fingerprint::scheme`](crate::Fingerprint::scheme) of the stored fingerprint: if it
        /// is an older one, compute that and begin again.
        scheme: u8,
    },
}

impl<S: IdempotencyStore> Begin<S> {
    pub(crate) fn of(store: &S, request: &Request, found: Found) -> Self {
        let store = || store.clone();
        let request = || Box::new(request.clone());
        match found {
            Found::Granted(grant) => Begin::Execute(Claim::new(store(), grant)),
            Found::Replay(record) => Begin::Replay(record),
            Found::InFlight(running) => {
                Begin::InFlight(Pending { store: store(), request: request(), running })
            }
            Found::Interrupted(stuck) => {
                Begin::Interrupted(Interrupted { store: store(), request: request(), stuck })
            }
            Found::Mismatch { scheme } => Begin::Mismatch { scheme },
        }
    }
}

/// The right to execute an operation, and the duty to say how it ended.
///
/// End it with `complete` (the operation took effect, and this is its answer), `fail` (the outcome
/// is unknown; an answer may be kept), or `release` (the operation did nothing). A claim that is
/// dropped undecided, also by a panic, leaves the key interrupted. A claim can move between
/// threads, and borrows nothing. It keeps its store open.
///
/// ```
/// # use onlyonce::{Begin, Fingerprint, KeyRef, Scope, Store};
/// # let dir = tempfile::tempdir()?;
/// # let store = Store::open(dir.path())?;
/// # let scope = Scope::of(["tenant-7"]);
/// # fn charge(_key: &str) -> Result<Vec<u8>, std::io::Error> { Ok(b"ch_1".to_vec()) }
/// # let (key, request) = (KeyRef::new(&scope, "8e03978e")?, Fingerprint::of(["pay", "42"]));
/// if let Begin::Execute(mut claim) = store.begin(key, request)? {
///     match charge(&claim.derive_key("charge")) {
///         Ok(answer) => claim.complete(&answer)?, // stored; only now answer the client
///         Err(_) => claim.fail(b"")?,             // it may have been charged: interrupted
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "dropping an undecided claim leaves the key interrupted"]
pub struct Claim<S: IdempotencyStore = Store> {
    pub(crate) store: S,
    grant: Grant,
    /// The claim has ended: dropping it does nothing.
    pub(crate) ended: bool,
    /// It is being found out what became of earlier attempts: this one has done nothing yet.
    pub(crate) settling: bool,
}

impl<S: IdempotencyStore> Claim<S> {
    fn new(store: S, grant: Grant) -> Self {
        Claim { store, grant, ended: false, settling: false }
    }

    pub(crate) fn ticket(&self) -> &Ticket {
        &self.grant.ticket
    }

    /// Returns the fencing token of this attempt. For a downstream service's idempotency key use
    /// [`derive_key`](Self::derive_key): the token changes with each attempt.
    pub fn token(&self) -> Token {
        self.grant.ticket.token
    }

    /// Returns the number of this attempt, from 1.
    pub fn attempt(&self) -> u32 {
        self.grant.ticket.attempt
    }

    /// Returns the last checkpoint that an earlier attempt saved.
    pub fn checkpoint(&self) -> Option<&[u8]> {
        self.grant.checkpoint.as_deref()
    }

    /// No attempt before this one counts.
    pub(crate) fn starts_over(&mut self) {
        self.grant.ticket.attempt = 1;
        (self.grant.checkpoint, self.grant.after) = (None, None);
    }

    /// Returns why the attempt before this one was interrupted; `None` at the first attempt.
    pub fn after(&self) -> Option<Reason> {
        self.grant.after
    }

    /// Returns an idempotency key for a step of this operation at another service, or for a unique
    /// column: 32 hexadecimal digits. It is a function of scope, key, fingerprint and `step` alone,
    /// so it is the same at every attempt, in every version of this library and with every backend.
    ///
    /// The fingerprint is that of the first attempt, as long as the store knows the key. Its
    /// sixteen bytes count, without the number of its scheme. So a service that changes how it
    /// makes fingerprints gets another derived key for the same request if the store has forgotten
    /// that there was a claim: because an interrupted key expired, a loss of power took a claim
    /// that wasn't durable, or a backup was restored. Another service then treats the retry as a
    /// new order, and a unique column doesn't refuse it. Change the definition only while no such
    /// retry can come, or let `settle` look for the effect by something else, such as scope and key
    /// themselves.
    pub fn derive_key(&self, step: &str) -> String {
        derive_key(self.ticket(), step)
    }
}

/// Whether the work may run after [`Claim::nothing_happened`]. A claim whose history stays, for
/// lack of room or because its store has no such thing, is held all the same; its release leaves
/// the key interrupted.
pub(crate) fn held_anyway(cleared: Result<(), ClaimError>) -> Result<(), BeginError> {
    match cleared {
        Ok(()) | Err(ClaimError::StoreFull(_) | ClaimError::NotApplicable { .. }) => Ok(()),
        Err(error) => Err(BeginError::Unavailable { what: error.to_string() }),
    }
}

/// See [`Claim::derive_key`].
pub(crate) fn derive_key(ticket: &Ticket, step: &str) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("onlyonce 2026-11 derived key");
    for part in
        [ticket.key.scope(), ticket.key.key(), ticket.fingerprint.as_bytes(), step.as_bytes()]
    {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let mut bytes = [0; 16];
    hasher.finalize_xof().fill(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl<S: IdempotencyStore> Drop for Claim<S> {
    fn drop(&mut self) {
        if !self.ended {
            let how = if self.settling {
                Abandon::Undelivered
            } else if std::thread::panicking() {
                Abandon::Panicked
            } else {
                Abandon::Dropped
            };
            self.store.abandon(&self.grant.ticket, how);
        }
    }
}

impl<S: IdempotencyStore> fmt::Debug for Claim<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim")
            .field("key", &self.grant.ticket.key)
            .field("token", &self.token())
            .field("attempt", &self.attempt())
            .finish_non_exhaustive()
    }
}

/// A key that is in flight: another caller executes the operation. It keeps its store open.
#[derive(Debug)]
pub struct Pending<S: IdempotencyStore = Store> {
    pub(crate) store: S,
    /// Boxed, as below: a `Begin` is moved often, and mostly is something else.
    pub(crate) request: Box<Request>,
    pub(crate) running: Running,
}

impl<S: IdempotencyStore> Pending<S> {
    /// Returns how long the other attempt has been running.
    pub fn running_for(&self) -> Duration {
        self.running.running_for
    }

    /// Returns when a client should ask again: half of the time that the attempt has been running,
    /// between 1 and 10 seconds. Add jitter.
    pub fn retry_after(&self) -> Duration {
        (self.running.running_for / 2).clamp(Duration::from_secs(1), Duration::from_secs(10))
    }
}

/// A key that is interrupted: it isn't known whether its operation took effect. It keeps its store
/// open.
#[derive(Debug)]
pub struct Interrupted<S: IdempotencyStore = Store> {
    pub(crate) store: S,
    pub(crate) request: Box<Request>,
    pub(crate) stuck: Interruption,
}

impl<S: IdempotencyStore> Interrupted<S> {
    /// Returns why the last attempt was interrupted.
    pub fn reason(&self) -> Reason {
        self.stuck.reason
    }

    /// Returns whether no holder can be working on the key any more. If false, the holder is silent
    /// but may be alive: a caller that takes over may execute beside it.
    pub fn holder_gone(&self) -> bool {
        self.stuck.holder_gone
    }

    /// Returns the number of attempts.
    pub fn attempts(&self) -> u32 {
        self.stuck.attempts
    }

    /// Returns how long the key has been interrupted, by the store's time.
    pub fn interrupted_for(&self) -> Duration {
        self.stuck.interrupted_for
    }

    /// Returns how long a caller that settles automatically should leave the key alone: zero,
    /// unless takeovers have just been [undone](Claim::undo). A second after the first one, twice
    /// as long after each further one, up to five minutes.
    pub fn settle_after(&self) -> Duration {
        self.stuck.settle_after
    }

    /// Returns the last checkpoint that a holder saved.
    pub fn checkpoint(&self) -> Option<&[u8]> {
        self.stuck.checkpoint.as_deref()
    }

    /// Returns the answer that was kept when a holder failed with unknown outcome.
    pub fn answer(&self) -> Option<&Arc<[u8]>> {
        self.stuck.answer.as_ref()
    }
}
