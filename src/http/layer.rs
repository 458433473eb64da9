//! The layer itself, from its making to its drain.

use super::{
    config::{Config, Core, Shared},
    scope::KeyScope,
    service::Idempotency,
};
use crate::{spi::IdempotencyStore, store::async_store::AsyncStore};
use futures_channel::oneshot;
use std::{
    fmt,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::Duration,
};
use tower_layer::Layer;

/// Makes the requests of a service idempotent; see the [module](super). Clones share their bounds
/// and the handlers that [`drain`](Self::drain) waits for.
///
/// ```
/// use http::{Request, Response};
/// use onlyonce::{Store, http::{IdempotencyLayer, KeyScope}};
/// use tower_layer::Layer;
///
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path();
/// let store = Store::open(path).unwrap();
/// let handler = tower::service_fn(|_: Request<onlyonce::http::RequestBody<String>>| async {
///     Ok::<_, std::convert::Infallible>(Response::new("order 1".to_owned()))
/// });
/// // One scope for all clients; see `KeyScope::by` for one for each account.
/// let service = IdempotencyLayer::new(store, KeyScope::Global).layer(handler);
/// # let _ = service;
/// ```
#[must_use]
pub struct IdempotencyLayer<S> {
    pub(super) core: Core<S>,
}

impl<S: IdempotencyStore> IdempotencyLayer<S> {
    /// Makes a layer over `store`, which may be a [`Store`](crate::Store) or any backend in an
    /// [`AsyncStore`], for keys in `scope`. The layer keeps the store open.
    pub fn new(store: impl IntoStore<S>, scope: KeyScope) -> Self {
        let store = store.into_store();
        let config = Arc::new(Config::new(scope));
        let (shared, span) = (Arc::new(Shared::default()), tracing::Span::none());
        IdempotencyLayer { core: Core { store, config, shared, span, grpc: false } }
    }

    /// Starts no more handlers, and waits, for `at_most`, for those that run; returns how many
    /// still do. Replays continue. For an orderly shutdown: first stop accepting connections, then
    /// call this, then close the store.
    pub async fn drain(&self, at_most: Duration) -> u64 {
        let running = &self.core.shared.running;
        let mut idle: oneshot::Receiver<()> = running.drain();
        let mut over = pin!(self.core.config.executor.sleep(at_most));
        poll_fn(|context| {
            let ended = Pin::new(&mut idle).poll(context).is_ready();
            match ended || over.as_mut().poll(context).is_ready() {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
        running.count()
    }

    /// Returns how many handlers run, including those whose client has gone.
    pub fn running(&self) -> u64 {
        self.core.shared.running.count()
    }

    /// Returns how many bytes of request bodies are held now.
    pub fn buffered(&self) -> usize {
        self.core.shared.budget.held()
    }

    /// Returns how many requests had which outcome since the layer was made, by name: `executed`
    /// (handlers that ran), `replayed` (stored answers), `left_replayed` (answers of interrupted
    /// keys), `passed` (requests that the layer doesn't handle), and a name for each
    /// [`Problem`](super::Problem). Besides them `wait_refused`: requests that did not wait for a
    /// key in flight because there was no place.
    pub fn outcomes(&self) -> Vec<(&'static str, u64)> {
        self.core.shared.outcomes.all()
    }

    /// Returns how many handlers ended, in any way, after another attempt or an operator had ended
    /// their key or taken it over. **Each may be an operation that took effect twice.**
    pub fn double_executions(&self) -> u64 {
        self.core.shared.double_executions.load(Ordering::Relaxed)
    }
}

/// A store, or an [`AsyncStore`] around it.
pub trait IntoStore<S> {
    #[doc(hidden)]
    fn into_store(self) -> AsyncStore<S>;
}

impl<S: IdempotencyStore> IntoStore<S> for AsyncStore<S> {
    fn into_store(self) -> AsyncStore<S> {
        self
    }
}

impl IntoStore<crate::Store> for crate::Store {
    fn into_store(self) -> AsyncStore<crate::Store> {
        AsyncStore::new(self)
    }
}

impl IntoStore<crate::AnyStore> for crate::AnyStore {
    fn into_store(self) -> AsyncStore<crate::AnyStore> {
        AsyncStore::new(self)
    }
}

impl<S: Clone> Clone for IdempotencyLayer<S> {
    fn clone(&self) -> Self {
        IdempotencyLayer { core: self.core.clone() }
    }
}

impl<S> fmt::Debug for IdempotencyLayer<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyLayer")
            .field("scope", &self.core.config.scope)
            .field("interrupted", &self.core.config.interrupted)
            .finish_non_exhaustive()
    }
}

impl<S: IdempotencyStore, I> Layer<I> for IdempotencyLayer<S> {
    type Service = Idempotency<S, I>;

    /// # Panics
    /// If a setting is wrong; see [`check`](IdempotencyLayer::check).
    fn layer(&self, inner: I) -> Self::Service {
        if let Err(wrong) = self.check() {
            panic!("{wrong}");
        }
        Idempotency { core: self.core.clone(), inner }
    }
}
