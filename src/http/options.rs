//! The layer's settings as methods, with their defaults.

use super::{
    attempt::Attempt,
    config::Config,
    details::{Envelope, ProblemDetails},
    executor::Executor,
    fingerprint::Fingerprints,
    interrupted::{OnInterrupted, Settlement},
    layer::IdempotencyLayer,
    seal::{BoxError, Dereference, Seal},
    source::KeySource,
    verdict::Policy,
};
use crate::{clock::Clock, record::Retention, spi::IdempotencyStore};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request};
use http_body::Body;
use std::{future::Future, sync::Arc, time::Duration};

impl<S: IdempotencyStore> IdempotencyLayer<S> {
    fn set(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(Arc::make_mut(&mut self.core.config));
        self
    }

    /// Sets which methods are covered. Default: POST and PATCH. PUT and DELETE are idempotent by
    /// definition, but their answers aren't: cover them if a retry must see the first answer.
    pub fn methods(self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.set(|config| config.methods = methods.into_iter().collect())
    }

    /// Sets which paths are covered, as the client sends them; `/orders/*` means all paths that
    /// begin with `/orders/`. Default: all that reach the layer.
    pub fn paths<P: Into<String>>(self, paths: impl IntoIterator<Item = P>) -> Self {
        self.set(|config| config.paths = paths.into_iter().map(Into::into).collect())
    }

    /// Sets the header that carries the key. Default: `Idempotency-Key`. The same as
    /// [`key`](Self::key) with [`KeySource::header`].
    pub fn header(self, name: HeaderName) -> Self {
        self.key(KeySource::header(name))
    }

    /// Sets where the key is found (a header, one of several, a field of the body, by a function)
    /// and which form it must have. Default: the header `Idempotency-Key`, in any form.
    pub fn key(self, source: KeySource) -> Self {
        self.set(|config| {
            config.label = source.label();
            config.key = source;
        })
    }

    /// Lets requests without a key pass, without any protection. Default: they get 400.
    pub fn optional(self) -> Self {
        self.set(|config| config.optional = true)
    }

    /// Sets what makes two requests the same. Default: [`Fingerprints::new`].
    pub fn fingerprint(self, rules: Fingerprints) -> Self {
        self.set(|config| config.fingerprints = rules)
    }

    /// Sets the size of the largest body of a covered request, in bytes; a larger one gets 413.
    /// Default: 1 MiB.
    pub fn max_body(self, bytes: usize) -> Self {
        self.set(|config| config.max_body = bytes)
    }

    /// Sets how many bytes of request bodies are held at a time, by all requests; more get 503.
    /// Default: 256 MiB.
    pub fn max_buffered(self, bytes: usize) -> Self {
        self.set(|config| config.max_buffered = bytes)
    }

    /// Sets how long a request's body may take, from its head to its end; a slower one gets 408.
    /// Default: 60 s. It needs the [`Executor`]'s time for bodies that don't come with their heads.
    pub fn read_timeout(self, at_most: Duration) -> Self {
        self.set(|config| config.read_timeout = at_most)
    }

    /// Sets the size of the largest answer that is kept, in bytes, including the kept headers,
    /// which count twice because they may also be stored as the head. A larger one is sent whole to
    /// the first client and recorded as done, not retained. Default (and maximum): the store's
    /// `max_response`.
    pub fn max_response(self, bytes: u32) -> Self {
        self.set(|config| config.max_response = Some(bytes))
    }

    /// Adds headers of an answer that are replayed although they usually are not.
    pub fn retain_headers(self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.set(|config| config.retained.keep.extend(names))
    }

    /// Adds headers of an answer that are never replayed.
    pub fn never_retain_headers(self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.set(|config| config.retained.never.extend(names))
    }

    /// Sets what the service's answers say about the operation. Default: [`Policy::default`].
    pub fn policy(self, policy: Policy) -> Self {
        self.set(|config| config.policy = policy)
    }

    /// Sets how long a request whose key is in flight waits for the answer before it gets 409 with
    /// `Retry-After`. Default: not at all.
    pub fn wait(self, at_most: Duration) -> Self {
        self.set(|config| config.wait = at_most)
    }

    /// Sets how many requests may wait for one key; more get 409 at once. Default: 100.
    pub fn max_waiters(self, each_key: usize) -> Self {
        self.set(|config| config.max_waiters = each_key)
    }

    /// Sets how many requests may wait for keys of any kind; more get 409 at once. Scopes share
    /// them. Default: 10,000.
    pub fn max_waiting(self, all: usize) -> Self {
        self.set(|config| config.max_waiting = all)
    }

    /// Settles interrupted keys: before the handler runs again `settle` says whether an earlier
    /// attempt took effect. It gets the attempt (for `derive_key`, the reason and the checkpoint)
    /// and the request. Default: retries of interrupted keys are refused.
    ///
    /// It runs only when the earlier holder is known to be gone; see
    /// [`even_if_holder_lives`](Self::even_if_holder_lives).
    pub fn settle<F, R, B>(self, settle: F) -> Self
    where
        F: Fn(Attempt, Request<Bytes>) -> R + Send + Sync + 'static,
        R: Future<Output = Settlement<B>> + Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Send,
    {
        self.set(|config| config.interrupted = OnInterrupted::settle(settle))
    }

    /// Resumes interrupted keys: the handler runs again and finds in its [`Attempt`] the number of
    /// the attempt, why the one before was interrupted, and its checkpoint. For handlers whose
    /// effects are idempotent by themselves. Default: retries of interrupted keys are refused.
    pub fn resume(self) -> Self {
        self.set(|config| config.interrupted = OnInterrupted::Resume)
    }

    /// Settles or resumes also when the earlier holder is silent but may be alive.
    pub fn even_if_holder_lives(self) -> Self {
        self.set(|config| config.silent_holders = true)
    }

    /// Sets the lease. The store keeps the claim while the handler runs, up to its execution limit,
    /// so a shorter lease has no effect. Default: the store's.
    pub fn lease(self, lease: Duration) -> Self {
        self.set(|config| config.lease = Some(lease))
    }

    /// Sets how long answers are replayed and remembered. Default: the store's.
    pub fn retention(self, retention: impl Into<Retention>) -> Self {
        self.set(|config| config.retention = Some(retention.into()))
    }

    /// Sets whether a handler runs to its end when its client has gone. Default: yes. If not, the
    /// key of a dropped request is interrupted.
    pub fn detached(self, yes: bool) -> Self {
        self.set(|config| config.detached = yes)
    }

    /// Sets the runtime on which handlers are spawned. Default:
    /// [`TokioExecutor`](super::TokioExecutor).
    pub fn executor(self, executor: impl Executor) -> Self {
        self.set(|config| config.executor = Arc::new(executor))
    }

    /// Seals answers before they are stored. Default: they are stored as they are.
    pub fn seal(self, seal: impl Seal) -> Self {
        self.set(|config| config.seal = Some(Arc::new(seal)))
    }

    /// Finds bodies that handlers keep themselves, by what they put into
    /// [`StoreReference`](super::StoreReference); `None` if it isn't kept any more.
    pub fn dereference<F, R>(self, find: F) -> Self
    where
        F: Fn(Bytes) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Option<Bytes>, BoxError>> + Send + 'static,
    {
        let find = Dereference(Arc::new(move |reference| Box::pin(find(reference))));
        self.set(|config| config.dereference = Some(find))
    }

    /// Sets the start of the `type` of the layer's own answers; its [`name`](super::Problem::name)
    /// follows. Default: `urn:onlyonce:problem:`. Once published it should stay.
    pub fn problem_types(self, start: impl Into<String>) -> Self {
        self.set(|config| config.problem_types = start.into())
    }

    /// Sets how the bodies of the layer's own answers are written: media type and bytes, for an API
    /// whose errors have a shape of their own. Status and headers stay. Default:
    /// [`ProblemDetails::rfc9457`].
    ///
    /// ```
    /// # use onlyonce::{Store, http::{IdempotencyLayer, KeyScope, ProblemDetails}};
    /// # fn make(store: Store) -> IdempotencyLayer<Store> {
    /// IdempotencyLayer::new(store, KeyScope::Global).problem_body(ProblemDetails::stripe)
    /// # }
    /// ```
    pub fn problem_body(
        self,
        write: impl Fn(&ProblemDetails) -> (HeaderValue, Bytes) + Send + Sync + 'static,
    ) -> Self {
        self.set(|config| config.envelope = Envelope(Arc::new(write)))
    }

    /// Replays also answers that are not sealed although a [`seal`](Self::seal) is set: those that
    /// were stored before there was one, or by an operator. Default: they are not believed, because
    /// what isn't sealed may be put there by anyone who can write to the store; the client gets 500
    /// `failed`.
    pub fn accept_unsealed(self) -> Self {
        self.set(|config| config.unsealed = true)
    }

    /// Sets the clock for `Age` where the backend doesn't know how old its records are
    /// (`Record::age`; all backends of this crate know it, by their own time). Default: the
    /// system's.
    pub fn clock(self, clock: impl Clock) -> Self {
        self.set(|config| config.clock = Arc::new(clock))
    }
}
