//! The layer's settings, and the state that all its services share.

use super::{
    budget::{Budget, Places, Refused, Waiters},
    details::Envelope,
    executor::{Executor, TokioExecutor},
    fingerprint::{Fingerprints, original_target},
    headers::Retained,
    interrupted::OnInterrupted,
    outcome::Outcomes,
    problem::Problem,
    running::Running,
    scope::KeyScope,
    seal::{Dereference, Seal},
    source::KeySource,
    verdict::{Policy, matches_path},
};
use crate::{
    clock::{Clock, SystemClock},
    record::Retention,
    spi::Terms,
    store::async_store::AsyncStore,
};
use http::{Method, request::Parts};
use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

/// The default start of the `type` of the layer's own answers.
const PROBLEM_TYPES: &str = "urn:onlyonce:problem:";

#[derive(Clone)]
pub(super) struct Config {
    pub scope: KeyScope,
    pub methods: Vec<Method>,
    /// Empty: all.
    pub paths: Vec<String>,
    pub key: KeySource,
    /// What the key is called in answers.
    pub label: String,
    pub optional: bool,
    pub fingerprints: Fingerprints,
    pub max_body: usize,
    pub max_buffered: usize,
    pub max_waiters: usize,
    pub max_waiting: usize,
    pub read_timeout: Duration,
    pub wait: Duration,
    pub max_response: Option<u32>,
    pub retained: Retained,
    pub policy: Policy,
    pub interrupted: OnInterrupted,
    pub silent_holders: bool,
    pub lease: Option<Duration>,
    pub retention: Option<Retention>,
    pub detached: bool,
    pub executor: Arc<dyn Executor>,
    pub seal: Option<Arc<dyn Seal>>,
    pub dereference: Option<Dereference>,
    pub problem_types: String,
    pub envelope: Envelope,
    pub unsealed: bool,
    pub clock: Arc<dyn Clock>,
}

impl Config {
    pub fn new(scope: KeyScope) -> Self {
        Config {
            scope,
            methods: vec![Method::POST, Method::PATCH],
            paths: Vec::new(),
            key: KeySource::default(),
            label: KeySource::default().label(),
            optional: false,
            fingerprints: Fingerprints::new(),
            max_body: 1 << 20,
            max_buffered: 256 << 20,
            max_waiters: 100,
            max_waiting: 10_000,
            read_timeout: Duration::from_secs(60),
            wait: Duration::ZERO,
            max_response: None,
            retained: Retained::default(),
            policy: Policy::default(),
            interrupted: OnInterrupted::Refuse,
            silent_holders: false,
            lease: None,
            retention: None,
            detached: true,
            executor: Arc::new(TokioExecutor),
            seal: None,
            dereference: None,
            problem_types: PROBLEM_TYPES.to_owned(),
            envelope: Envelope::default(),
            unsealed: false,
            clock: Arc::new(SystemClock),
        }
    }

    /// The `type` of a problem.
    pub fn kind_of(&self, problem: Problem) -> String {
        format!("{}{}", self.problem_types, problem.name())
    }

    pub fn covers(&self, parts: &Parts) -> bool {
        self.methods.contains(&parts.method) && self.covers_path(original_target(parts).0)
    }

    fn covers_path(&self, path: &str) -> bool {
        self.paths.is_empty() || self.paths.iter().any(|pattern| matches_path(pattern, path))
    }

    /// The store renews while the handler runs, up to its execution limit.
    pub fn terms(&self) -> Terms {
        let Config { lease, retention, max_response: reserve, .. } = *self;
        Terms { lease, retention, reserve, keep_alive: true, shared: self.has_scopes() }
    }

    /// Whether there are several scopes, of which none may use up what the others need.
    pub fn has_scopes(&self) -> bool {
        !matches!(self.scope, KeyScope::Global)
    }

    pub fn places(&self) -> Places {
        Places { each_key: self.max_waiters, all: self.max_waiting, shared: self.has_scopes() }
    }
}

/// The state that all services of a layer share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub budget: Arc<Budget>,
    pub waiters: Waiters,
    pub refused: Refused,
    pub running: Arc<Running>,
    pub double_executions: AtomicU64,
    pub outcomes: Outcomes,
}

/// A layer's insides.
pub(super) struct Core<S> {
    pub store: AsyncStore<S>,
    pub config: Arc<Config>,
    pub shared: Arc<Shared>,
    /// The request's, where this is handled for one.
    pub span: tracing::Span,
    /// It is one of gRPC.
    pub grpc: bool,
}

impl<S: Clone> Clone for Core<S> {
    fn clone(&self) -> Self {
        let Core { store, config, shared, span, grpc } = self;
        let (store, config, shared) = (store.clone(), config.clone(), shared.clone());
        Core { store, config, shared, span: span.clone(), grpc: *grpc }
    }
}
