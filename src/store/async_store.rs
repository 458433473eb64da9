//! The methods of `Store` and `Claim` as futures, over any backend. They need no particular
//! runtime: futures are woken through their [`Waker`](std::task::Waker) alone.

use crate::{
    error::{BeginError, ClaimError, StoreError},
    fingerprint::Fingerprint,
    key::{KeyRef, OwnedKey, Scope},
    spi::{Abandon, ClaimOp, Completion, Erased, Found, IdempotencyStore, Request, Terms, Ticket},
    store::claim::{Begin, Claim, Interrupted, Pending},
    store::once::Once,
    token::Token,
};
use std::{future::Future, time::Duration};

/// A store whose calls are futures, over any backend.
///
/// Futures of the embedded store never wait for a sync on their thread. What may still take time
/// there: copying a record that is not in the page cache (a replay reads mapped files), writing
/// claims and records by write calls on copy-on-write file systems, and dropping the last handle,
/// which closes the store.
///
/// Dropping a future is safe at any point: a claim that was granted but not delivered is undone,
/// and a write that was begun becomes durable all the same.
///
/// ```
/// # use onlyonce::{AsyncStore, Begin, ClaimError, Fingerprint, KeyRef, Scope, Store};
/// # async fn handle(store: AsyncStore<Store>) -> Result<(), Box<dyn std::error::Error>> {
/// let scope = Scope::of(["tenant-7", "orders"]);
/// let key = KeyRef::new(&scope, "8e03978e")?;
/// if let Begin::Execute(mut claim) = store.begin(key, Fingerprint::of(["order", "book"])).await? {
///     claim.complete(b"order 1").await?;
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct AsyncStore<S>(S);

impl<S: IdempotencyStore> AsyncStore<S> {
    /// Makes the async interface of a backend.
    pub fn new(backend: S) -> Self {
        AsyncStore(backend)
    }

    /// Returns the backend.
    pub fn get_ref(&self) -> &S {
        &self.0
    }

    /// Claims `key`, or returns its state.
    ///
    /// # Errors
    /// Nothing was executed, and no claim is held; as with [`Store::begin`](crate::Store::begin).
    pub async fn begin(
        &self,
        key: KeyRef<'_>,
        fingerprint: Fingerprint,
    ) -> Result<Begin<AsyncStore<S>>, BeginError> {
        self.begin_with(key, fingerprint, Terms::default()).await
    }

    /// Claims `key` like [`begin`](Self::begin), with other terms than the store's.
    ///
    /// # Errors
    /// As with [`begin`](Self::begin), and [`BeginError::Terms`] if the terms are out of bounds.
    pub async fn begin_with(
        &self,
        key: KeyRef<'_>,
        fingerprint: Fingerprint,
        terms: Terms,
    ) -> Result<Begin<AsyncStore<S>>, BeginError> {
        self.begin_request(&Request { key: key.owned(), fingerprint, terms }).await
    }

    /// [`begin_with`](Self::begin_with), by a caller who keeps the request.
    pub(crate) async fn begin_request(
        &self,
        request: &Request,
    ) -> Result<Begin<AsyncStore<S>>, BeginError> {
        let found = self.0.begin(request).await?;
        Ok(Begin::of(self, request, found))
    }

    /// Forgets all keys of a scope, whatever their state, and overwrites or deletes what the backend
    /// has of them; keys that a holder may be working on only if `force`. See
    /// [`Store::erase_scope`](crate::Store::erase_scope) for the embedded store, whose call runs on a
    /// thread of its own, and `PostgresStore::erase_scope`. Dropping the future doesn't end it.
    ///
    /// # Errors
    /// As with [`Store::erase_scope`](crate::Store::erase_scope); [`StoreError::Unavailable`] from a
    /// backend that has no such call.
    pub async fn erase_scope(&self, scope: &Scope, force: bool) -> Result<Erased, StoreError> {
        self.0.erase_scope(scope, force).await
    }

    /// Runs a whole request: claims the key, or waits, replays or settles; executes once; stores
    /// the answer; returns it. See [`Once`].
    pub fn once<'a>(&self, key: KeyRef<'a>, fingerprint: Fingerprint) -> Once<'a, AsyncStore<S>> {
        Once::new(self.clone(), key, fingerprint)
    }
}

impl<S: IdempotencyStore> IdempotencyStore for AsyncStore<S> {
    fn begin(&self, request: &Request) -> impl Future<Output = Result<Found, BeginError>> + Send {
        self.0.begin(request)
    }

    fn take_over(
        &self,
        request: &Request,
        seen: Token,
    ) -> impl Future<Output = Result<Found, BeginError>> + Send {
        self.0.take_over(request, seen)
    }

    fn write(
        &self,
        ticket: &Ticket,
        op: ClaimOp<'_>,
    ) -> impl Future<Output = Result<(), ClaimError>> + Send {
        self.0.write(ticket, op)
    }

    fn begin_many(
        &self,
        requests: &[Request],
    ) -> impl Future<Output = Vec<Result<Found, BeginError>>> + Send {
        self.0.begin_many(requests)
    }

    fn write_many(
        &self,
        writes: &[(&Ticket, ClaimOp<'_>)],
    ) -> impl Future<Output = Vec<Result<(), ClaimError>>> + Send {
        self.0.write_many(writes)
    }

    fn is_same(&self, other: &Self) -> bool {
        self.0.is_same(&other.0)
    }

    fn changed(
        &self,
        request: &Request,
        seen: Token,
        at_most: Duration,
    ) -> impl Future<Output = bool> + Send {
        self.0.changed(request, seen, at_most)
    }

    fn look(
        &self,
        key: &OwnedKey,
    ) -> impl Future<Output = Result<Option<Found>, BeginError>> + Send {
        self.0.look(key)
    }

    fn erase_scope(
        &self,
        scope: &Scope,
        force: bool,
    ) -> impl Future<Output = Result<Erased, StoreError>> + Send {
        self.0.erase_scope(scope, force)
    }

    fn terms_in_force(&self, terms: Terms) -> Result<Terms, BeginError> {
        self.0.terms_in_force(terms)
    }

    fn now(&self) -> Duration {
        self.0.now()
    }

    fn abandon(&self, ticket: &Ticket, how: Abandon) {
        self.0.abandon(ticket, how);
    }
}

impl<S: IdempotencyStore> Claim<AsyncStore<S>> {
    /// Completes the key: the operation took effect, and this is its answer. See
    /// [`Claim::<crate::Store>::complete`]. Dropping the future abandons the notification, never
    /// the write.
    ///
    /// # Errors
    /// As with [`Claim::<crate::Store>::complete`].
    pub async fn complete(&mut self, response: &[u8]) -> Result<(), ClaimError> {
        self.complete_with(Completion { response: Some(response), ..Completion::default() }).await
    }

    /// Completes the key like [`complete`](Self::complete), with a head or another retention.
    ///
    /// # Errors
    /// As with [`Claim::<crate::Store>::complete_with`].
    pub async fn complete_with(&mut self, completion: Completion<'_>) -> Result<(), ClaimError> {
        self.store.write(self.ticket(), ClaimOp::Complete(completion)).await?;
        self.ended = true;
        Ok(())
    }

    /// Completes the key without its answer, which is too large to keep.
    ///
    /// # Errors
    /// As with [`Claim::<crate::Store>::complete_with`].
    pub async fn complete_without_response(&mut self, head: &[u8]) -> Result<(), ClaimError> {
        self.complete_with(Completion { head, ..Completion::default() }).await
    }

    /// Reports that the outcome is unknown. The key is interrupted and keeps `answer`.
    ///
    /// # Errors
    /// As with [`Claim::<crate::Store>::fail`].
    pub async fn fail(&mut self, answer: &[u8]) -> Result<(), ClaimError> {
        self.store.write(self.ticket(), ClaimOp::Fail(answer)).await
    }

    /// Stores how far the operation has got, for the next holder. Renews the lease.
    ///
    /// # Errors
    /// As with [`Claim::<crate::Store>::save_checkpoint`].
    pub async fn save_checkpoint(&mut self, bytes: &[u8]) -> Result<(), ClaimError> {
        self.store.write(self.ticket(), ClaimOp::Checkpoint(bytes)).await
    }

    /// Starts the lease again.
    ///
    /// # Errors
    /// As with [`Claim::<crate::Store>::renew`].
    pub async fn renew(&mut self) -> Result<(), ClaimError> {
        self.store.write(self.ticket(), ClaimOp::Renew).await
    }

    /// Makes this claim survive a loss of power, whatever the store's durability.
    ///
    /// # Errors
    /// As with [`Claim::<crate::Store>::renew`].
    pub async fn ensure_durable(&mut self) -> Result<(), ClaimError> {
        self.store.write(self.ticket(), ClaimOp::EnsureDurable).await
    }

    /// Undoes what was written in the claim's own transaction, where claims are transactions
    /// (`postgres::TransactionStore`); the claim is still held. A completion after it keeps the
    /// answer alone. Where claims are no transactions it does nothing.
    ///
    /// # Errors
    /// As with [`Claim::<crate::Store>::renew`].
    pub async fn undo_effects(&mut self) -> Result<(), ClaimError> {
        self.store.write(self.ticket(), ClaimOp::UndoEffects).await
    }

    /// Undoes the takeover, because nothing was learned. See [`Claim::<crate::Store>::undo`].
    ///
    /// # Errors
    /// As with [`Claim::<crate::Store>::undo`].
    pub async fn undo(mut self) -> Result<(), ClaimError> {
        self.store.write(self.ticket(), ClaimOp::Undo).await?;
        self.ended = true;
        Ok(())
    }

    /// Records that no attempt before this one had an effect. See
    /// [`Claim::<crate::Store>::nothing_happened`].
    ///
    /// # Errors
    /// As with [`Claim::<crate::Store>::nothing_happened`].
    pub async fn nothing_happened(&mut self) -> Result<(), ClaimError> {
        self.store.write(self.ticket(), ClaimOp::NothingHappened).await?;
        self.starts_over();
        Ok(())
    }

    /// Gives the claim back: the attempt did nothing. See [`Claim::<crate::Store>::release`].
    ///
    /// # Errors
    /// As with [`Claim::<crate::Store>::renew`].
    pub async fn release(mut self) -> Result<(), ClaimError> {
        self.give_back().await
    }

    /// [`release`](Self::release), by a caller who looks at the claim afterwards.
    pub(crate) async fn give_back(&mut self) -> Result<(), ClaimError> {
        self.store.write(self.ticket(), ClaimOp::Release).await?;
        self.ended = true;
        Ok(())
    }
}

impl<S: IdempotencyStore> Pending<AsyncStore<S>> {
    /// Waits for the holder to end, for `at_most`, and begins again.
    ///
    /// # Errors
    /// As with [`AsyncStore::begin`].
    pub async fn wait(self, at_most: Duration) -> Result<Begin<AsyncStore<S>>, BeginError> {
        let Pending { store, request, mut running } = self;
        let until = store.now().saturating_add(at_most);
        loop {
            let left = until.saturating_sub(store.now());
            let changed = store.changed(&request, running.token, left).await;
            let begin = store.begin_request(&request).await?;
            match begin {
                Begin::InFlight(again) if changed && store.now() < until => {
                    running = again.running;
                }
                begin => return Ok(begin),
            }
        }
    }
}

impl<S: IdempotencyStore> Interrupted<AsyncStore<S>> {
    /// Takes the key over. If the key has changed in between, returns its present state.
    ///
    /// # Errors
    /// As with [`AsyncStore::begin`], and [`BeginError::AttemptsExhausted`].
    pub async fn take_over(self) -> Result<Begin<AsyncStore<S>>, BeginError> {
        let Interrupted { store, request, stuck } = self;
        let found = store.take_over(&request, stuck.token).await?;
        Ok(Begin::of(&store, &request, found))
    }
}
