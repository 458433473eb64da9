//! The layer's settings as methods, with their defaults.

use super::{
    attempt::Attempt,
    config::Config,
    executor::Executor,
    fingerprint::Fingerprints,
    interrupted::{OnInterrupted, Settlement},
    layer::IdempotencyLayer,
    seal::{BoxError, Dereference, Seal},
    verdict::Policy,
};
use crate::{clock::Clock, record::Retention, spi::IdempotencyStore};
use bytes::Bytes;
use http::{HeaderName, Method, Request};
use http_body::Body;
use std::{future::Future, sync::Arc, time::Duration};

impl<S: IdempotencyStore> IdempotencyLayer<S> {
    fn set(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(Arc::make_mut(&mut self.core.config));
        self
    }

    /// Which methods are covered. Default: POST and PATCH. PUT and DELETE are idempotent by
    /// definition, but their answers aren't: cover them if a retry must see the first answer.
    pub fn methods(self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.set(|config| config.methods = methods.into_iter().collect())
    }

    /// Which paths are covered, as the client sends them; `/orders/*` is all that start so.
    /// Default: all that reach the layer.
    pub fn paths<P: Into<String>>(self, paths: impl IntoIterator<Item = P>) -> Self {
        self.set(|config| config.paths = paths.into_iter().map(Into::into).collect())
    }

    /// The header that carries the key. Default: `Idempotency-Key`.
    pub fn header(self, name: HeaderName) -> Self {
        self.set(|config| config.header = name)
    }

    /// Requests without a key pass through, each of them a request of its own. Default: 400.
    pub fn optional(self) -> Self {
        self.set(|config| config.optional = true)
    }

    /// What makes two requests the same. Default: [`Fingerprints::new`].
    pub fn fingerprint(self, rules: Fingerprints) -> Self {
        self.set(|config| config.fingerprints = rules)
    }

    /// The largest body of a covered request, in bytes; 413 beyond. Default: 1 MiB.
    pub fn max_body(self, bytes: usize) -> Self {
        self.set(|config| config.max_body = bytes)
    }

    /// How many bytes of request bodies are held at a time, by all requests; 503 beyond. Default:
    /// 256 MiB.
    pub fn max_buffered(self, bytes: usize) -> Self {
        self.set(|config| config.max_buffered = bytes)
    }

    /// How long a request's body may take, from its head to its end; 408 beyond. Default: 60 s. Needs
    /// the [`Executor`]'s time for bodies that don't come with their heads.
    pub fn read_timeout(self, at_most: Duration) -> Self {
        self.set(|config| config.read_timeout = at_most)
    }

    /// The largest answer that is kept, in bytes, headers included. A larger one is sent whole to
    /// the first client and recorded as done, not retained. Default (and at most): the store's
    /// `max_response`.
    pub fn max_response(self, bytes: u32) -> Self {
        self.set(|config| config.max_response = Some(bytes))
    }

    /// Headers of an answer that are replayed although they usually are not.
    pub fn retain_headers(self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.set(|config| config.retained.keep.extend(names))
    }

    /// More headers of an answer that are never replayed.
    pub fn never_retain_headers(self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.set(|config| config.retained.never.extend(names))
    }

    /// What the service's answers say about the operation. Default: [`Policy::default`].
    pub fn policy(self, policy: Policy) -> Self {
        self.set(|config| config.policy = policy)
    }

    /// A request whose key is in flight waits for its answer, for so long at the most, before it
    /// is told to come back. Default: not at all.
    pub fn wait(self, at_most: Duration) -> Self {
        self.set(|config| config.wait = at_most)
    }

    /// How many requests may wait for one key; more are told to come back at once. Default: 100.
    pub fn max_waiters(self, each_key: usize) -> Self {
        self.set(|config| config.max_waiters = each_key)
    }

    /// How many requests may wait for keys of any kind; more are told to come back at once. Scopes
    /// share them. Default: 10,000.
    pub fn max_waiting(self, all: usize) -> Self {
        self.set(|config| config.max_waiting = all)
    }

    /// Interrupted keys are settled: before the handler runs again `settle` says whether an
    /// earlier attempt took effect. It gets the attempt (for `derive_key`, the reason and the
    /// checkpoint) and the request. Default: retries of interrupted keys are refused.
    ///
    /// Runs only when the earlier holder is known to be gone; see
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

    /// Interrupted keys are resumed: the handler runs again and finds in its [`Attempt`] what
    /// attempt it is, why the one before was interrupted, and its checkpoint. For handlers whose
    /// effects are idempotent by themselves. Default: refused.
    pub fn resume(self) -> Self {
        self.set(|config| config.interrupted = OnInterrupted::Resume)
    }

    /// Settles or resumes also when the earlier holder is silent but may be alive.
    pub fn even_if_holder_lives(self) -> Self {
        self.set(|config| config.silent_holders = true)
    }

    /// How long a holder may be silent; the store renews while the handler runs, up to its
    /// execution limit. Default: the store's.
    pub fn lease(self, lease: Duration) -> Self {
        self.set(|config| config.lease = Some(lease))
    }

    /// How long answers are replayed and remembered. Default: the store's.
    pub fn retention(self, retention: impl Into<Retention>) -> Self {
        self.set(|config| config.retention = Some(retention.into()))
    }

    /// Whether a handler runs to its end when its client has gone. Default: yes. If not, the key
    /// of a dropped request is interrupted.
    pub fn detached(self, yes: bool) -> Self {
        self.set(|config| config.detached = yes)
    }

    /// What handlers are spawned on. Default: [`TokioExecutor`](super::TokioExecutor).
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

    /// What the `type` of the layer's own answers starts with; its [`name`](super::Problem::name)
    /// follows. Default: `urn:onlyonce:problem:`. Once published it should stay.
    pub fn problem_types(self, start: impl Into<String>) -> Self {
        self.set(|config| config.problem_types = start.into())
    }

    /// The clock that `Age` is counted by where the backend doesn't say how old its records are
    /// (`Record::age`; all of this crate do, by their own time). Default: the system's.
    pub fn clock(self, clock: impl Clock) -> Self {
        self.set(|config| config.clock = Arc::new(clock))
    }
}
