//! The attempt that a handler runs in.

use super::executor::BoxFuture;
use crate::{
    error::ClaimError,
    record::Reason,
    spi::{ClaimOp, IdempotencyStore, Ticket},
    store::async_store::AsyncStore,
    store::claim::{Claim, derive_key},
    token::Token,
};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// The attempt that a handler runs in: in the extensions of each covered request. (With
/// [`optional`](super::IdempotencyLayer::optional) a request without a key isn't covered and has
/// none.)
///
/// ```
/// use onlyonce::{ClaimError, http::Attempt};
/// # async fn charge(_key: &str) -> String { "ch_1".to_owned() }
/// async fn pay(request: http::Request<()>) -> Result<(), ClaimError> {
///     let attempt = request.extensions().get::<Attempt>().expect("behind the layer");
///     if attempt.checkpoint().is_none() {
///         let charge = charge(&attempt.derive_key("charge")).await;
///         attempt.save_checkpoint(charge).await?;
///     }
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct Attempt(Arc<Inner<dyn Holder>>);

struct Inner<H: ?Sized> {
    ticket: Ticket,
    after: Option<Reason>,
    checkpoint: Option<Arc<[u8]>>,
    /// A checkpoint may have been saved: the key can't be freed by this attempt any more.
    saved: AtomicBool,
    holder: H,
}

/// An operation of a holder whose handler runs.
enum Note {
    Checkpoint(Vec<u8>),
    EnsureDurable,
}

trait Holder: Send + Sync {
    fn write(&self, ticket: Ticket, note: Note) -> BoxFuture<Result<(), ClaimError>>;
}

impl<S: IdempotencyStore> Holder for AsyncStore<S> {
    fn write(&self, ticket: Ticket, note: Note) -> BoxFuture<Result<(), ClaimError>> {
        let store = self.clone();
        Box::pin(async move {
            let verb = match &note {
                Note::Checkpoint(bytes) => ClaimOp::Checkpoint(bytes),
                Note::EnsureDurable => ClaimOp::EnsureDurable,
            };
            IdempotencyStore::write(&store, &ticket, verb).await
        })
    }
}

impl Attempt {
    pub(super) fn of<S: IdempotencyStore>(claim: &Claim<AsyncStore<S>>) -> Self {
        Attempt(Arc::new(Inner {
            ticket: claim.ticket().clone(),
            after: claim.after(),
            checkpoint: claim.checkpoint().map(Arc::from),
            saved: AtomicBool::new(false),
            holder: claim.store.clone(),
        }))
    }

    /// Returns the fencing token. It changes with each attempt.
    pub fn token(&self) -> Token {
        self.0.ticket.token
    }

    /// Returns the number of this attempt, from 1.
    pub fn number(&self) -> u32 {
        self.0.ticket.attempt
    }

    /// Returns why the attempt before this one was interrupted; `None` at the first attempt.
    pub fn after(&self) -> Option<Reason> {
        self.0.after
    }

    /// Returns the last checkpoint that an earlier attempt saved.
    pub fn checkpoint(&self) -> Option<&[u8]> {
        self.0.checkpoint.as_deref()
    }

    /// Returns the key in its scope, as the client sent it.
    pub fn key(&self) -> &[u8] {
        self.0.ticket.key.key()
    }

    /// Returns an idempotency key for a step of this operation elsewhere, the same at each attempt.
    /// See [`Claim::derive_key`].
    pub fn derive_key(&self, step: &str) -> String {
        derive_key(&self.0.ticket, step)
    }

    /// Returns the transaction of this attempt's claim, if the layer's store is `store` (or a
    /// clone): the handler's writes there are committed together with its answer. Drop it before
    /// the handler returns.
    ///
    /// # Errors
    /// [`ClaimError::Fenced`] if the transaction has ended.
    #[cfg(feature = "sql")]
    pub async fn transaction<S: crate::sql::Transactional>(
        &self,
        store: &S,
    ) -> Result<S::Open<'_>, ClaimError> {
        store.open_of(&self.0.ticket).await
    }

    /// Stores how far the handler has got (at most 4 KiB), for the next attempt after a crash. From
    /// then on only a completion or an operator ends the key.
    ///
    /// # Errors
    /// As with [`Claim::save_checkpoint`](crate::Claim::save_checkpoint).
    pub async fn save_checkpoint(&self, bytes: impl Into<Vec<u8>>) -> Result<(), ClaimError> {
        self.0.saved.store(true, Ordering::Release);
        self.write(Note::Checkpoint(bytes.into())).await
    }

    /// Makes the claim survive a loss of power, whatever the store's durability. Call it before the
    /// first outside effect.
    ///
    /// # Errors
    /// As with [`Claim::ensure_durable`](crate::Claim::ensure_durable).
    pub async fn ensure_durable(&self) -> Result<(), ClaimError> {
        self.write(Note::EnsureDurable).await
    }

    /// Whether the key may stay interrupted when this attempt is released.
    pub(super) fn leaves_history(&self) -> bool {
        self.0.after.is_some() || self.0.saved.load(Ordering::Acquire)
    }

    async fn write(&self, note: Note) -> Result<(), ClaimError> {
        self.0.holder.write(self.0.ticket.clone(), note).await
    }
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt")
            .field("token", &self.token())
            .field("number", &self.number())
            .field("after", &self.after())
            .finish_non_exhaustive()
    }
}
