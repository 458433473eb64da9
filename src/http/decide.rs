//! The decision about a request: reads and checks it, claims its key, and says what follows.

use super::{
    body::{Reading, RequestBody, ResponseBody, Trailers, read},
    budget::{Beyond, Held, NoPlace},
    config::Core,
    executor::BoxFuture,
    header::BadKey,
    interrupted::OnInterrupted,
    outcome::Outcome,
    problem::{Problem, ProblemResponse, with_jitter},
    running::Run,
};
use crate::{
    error::{BeginError, Full, Retry},
    key::{KeyRef, OwnedKey, Scope},
    record::Record,
    spi::{IdempotencyStore, Request},
    store::async_store::AsyncStore,
    store::claim::{Begin, Claim, Interrupted, Pending},
};
use bytes::Bytes;
use http::{HeaderMap, Response, request::Parts};
use http_body::Body;
use std::{
    borrow::Cow,
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

/// When a store that is closed or failing may be back.
const STORE_BACK: Duration = Duration::from_secs(5);

/// The key of a request whose body has not been read.
pub(super) enum Named {
    /// It has none, and needs none.
    Not,
    By(OwnedKey),
    /// It may be in the body.
    InBody(Scope),
}

/// A whole request, and what is asked of the store.
pub(super) struct Asked {
    pub request: Request,
    pub whole: Whole,
}

/// A request's body that has been read.
pub(super) struct Whole {
    pub data: Bytes,
    pub trailers: Trailers,
    pub held: Held,
}

impl Whole {
    /// As the service inside gets it.
    pub fn body<B>(self) -> RequestBody<B> {
        RequestBody::whole(self.data, self.trailers, self.held)
    }
}

/// The decision about a request.
pub(super) enum Decision<S: IdempotencyStore> {
    /// The handler is executed. An earlier holder may have left an answer.
    Execute(Claim<AsyncStore<S>>, Option<Left>, Run),
    /// The operation is done.
    Replay(Record),
    /// It is unknown whether the operation took effect; an earlier holder left an answer. If that
    /// can't be read, this is the problem.
    Left(Left, ProblemResponse),
    /// Nothing is executed.
    Refuse(ProblemResponse),
}

/// The answer of an interrupted holder.
pub(super) struct Left {
    pub answer: Arc<[u8]>,
    pub age: Duration,
}

type Begun<S> = Result<Begin<AsyncStore<S>>, BeginError>;

impl<S: IdempotencyStore> Core<S> {
    /// The layer's own answer.
    pub fn say<B: Body>(&self, trouble: ProblemResponse) -> Response<ResponseBody<B>> {
        self.came(Outcome::Refused(trouble.problem));
        trouble.answer(&self.config, self.grpc)
    }

    /// The request's key in its scope, as far as its head says.
    pub fn key(&self, parts: &Parts) -> Result<Named, ProblemResponse> {
        let source = &self.config.key;
        if source.needs_body() {
            return Ok(Named::InBody(self.scope(parts)?));
        }
        match source.in_headers(parts) {
            Err(BadKey::Missing) if self.config.optional => Ok(Named::Not),
            key => {
                let scope = self.scope(parts)?;
                Ok(Named::By(self.in_scope(&scope, key)?))
            }
        }
    }

    /// The key of a request that has it in its body, or may have; `None` if it has none and needs
    /// none.
    pub fn key_in(
        &self,
        scope: &Scope,
        parts: &Parts,
        whole: &Whole,
    ) -> Result<Option<OwnedKey>, ProblemResponse> {
        match self.config.key.in_request(parts, &whole.data) {
            Err(BadKey::Missing) if self.config.optional => Ok(None),
            key => self.in_scope(scope, key).map(Some),
        }
    }

    /// The key in a request's header, which is needed.
    pub fn key_in_header(&self, parts: &Parts) -> Result<OwnedKey, ProblemResponse> {
        let scope = self.scope(parts)?;
        self.in_scope(&scope, self.config.key.in_headers(parts))
    }

    fn scope(&self, parts: &Parts) -> Result<Scope, ProblemResponse> {
        self.config.scope.of(parts).ok_or_else(|| {
            Problem::ScopeMissing.because("the service names no principal for this request")
        })
    }

    fn in_scope(
        &self,
        scope: &Scope,
        key: Result<Cow<'_, [u8]>, BadKey>,
    ) -> Result<OwnedKey, ProblemResponse> {
        let name = &self.config.label;
        let key = key.map_err(|bad| match bad {
            BadKey::Missing => Problem::KeyMissing.because(format!("{name} is missing")),
            BadKey::Malformed(why) => Problem::KeyMalformed.because(format!("{name}: {why}")),
        })?;
        match KeyRef::new(scope, &key) {
            Ok(key) => Ok(key.owned()),
            Err(error) => Err(Problem::KeyMalformed.because(error.to_string())),
        }
    }

    /// Reads the whole request. No claim is held during that, and nothing of the service inside;
    /// time and size are bounded, so a slow client delays no others.
    pub async fn read<B: Body<Data = Bytes>>(
        &self,
        scope: &[u8],
        parts: &Parts,
        body: B,
    ) -> Result<Whole, ProblemResponse> {
        let limit = self.config.max_body;
        let too_large = || {
            let why = format!("the body is larger than {limit} bytes");
            Problem::BodyTooLarge.because(why)
        };
        let hint = body.size_hint();
        // A body that knows its end knows more than the header.
        let least = match hint.upper() {
            Some(_) => hint.lower(),
            None => declared_length(&parts.headers).unwrap_or(0).max(hint.lower()),
        };
        if least > limit as u64 {
            return Err(too_large());
        }
        let mut held = Held::none(&self.shared.budget);
        let shared = self.config.has_scopes().then_some(scope);
        let keep = |bytes| {
            held.take(bytes, self.config.max_buffered, shared).map_err(|beyond| {
                let trouble = match beyond {
                    Beyond::All => Problem::Overloaded
                        .because("the service holds as many bytes of requests as it may"),
                    Beyond::Share => {
                        self.shared.refused.count(scope, "bytes of bodies");
                        let why = "the service holds as many bytes of this client as it may";
                        Problem::ShareUsed.because(why)
                    }
                };
                trouble.after(with_jitter(Duration::from_secs(1)))
            })
        };
        match self.in_time(read(pin!(body), limit, keep)).await? {
            Reading::Whole(data, trailers) => Ok(Whole { data, trailers, held }),
            Reading::TooLarge(..) => Err(too_large()),
            Reading::Failed(..) => {
                Err(Problem::BodyUnreadable.because("the body ended in an error"))
            }
        }
    }

    /// Reads a request whose key may be in its body, and finds that.
    pub async fn read_and_find<B: Body<Data = Bytes>>(
        &self,
        scope: &Scope,
        parts: &Parts,
        body: B,
    ) -> (Option<OwnedKey>, Result<Whole, ProblemResponse>) {
        let whole = match self.read(scope.as_bytes(), parts, body).await {
            Ok(whole) => whole,
            Err(trouble) => return (None, Err(trouble)),
        };
        match self.key_in(scope, parts, &whole) {
            Ok(key) => (key, Ok(whole)),
            Err(trouble) => (None, Err(trouble)),
        }
    }

    /// The result of `reading`, unless it takes longer than a body may.
    async fn in_time<T>(
        &self,
        reading: impl Future<Output = Result<T, ProblemResponse>>,
    ) -> Result<T, ProblemResponse> {
        let mut reading = pin!(reading);
        // Most bodies come with their heads, and need no timer.
        let mut over: Option<BoxFuture<()>> = None;
        poll_fn(|context| {
            if let Poll::Ready(read) = reading.as_mut().poll(context) {
                return Poll::Ready(read);
            }
            let config = &self.config;
            let over = over.get_or_insert_with(|| config.executor.sleep(config.read_timeout));
            over.as_mut().poll(context).map(|()| {
                let why = format!("the body did not come within {:?}", config.read_timeout);
                Err(Problem::BodyTooSlow.because(why))
            })
        })
        .await
    }

    /// What is asked of the store for a request.
    pub fn asked(&self, key: OwnedKey, parts: &Parts, whole: Whole) -> Asked {
        let fingerprint = self.config.fingerprints.of(parts, &whole.data);
        Asked { request: Request { key, fingerprint, terms: self.config.terms() }, whole }
    }

    /// Begins, waits and takes over as the settings say.
    pub async fn decide(&self, parts: &Parts, asked: &Asked) -> Decision<S> {
        let since = Instant::now();
        match self.store.begin_request(&asked.request).await {
            Ok(Begin::Replay(record)) => Decision::Replay(record),
            Ok(Begin::Execute(claim)) => match self.shared.running.start() {
                Some(run) => Decision::Execute(claim, None, run),
                None => Box::pin(self.not_started(claim)).await,
            },
            // In a box, so that the future of most requests is small.
            begun => Box::pin(self.decide_later(parts, asked, begun, since)).await,
        }
    }

    /// Gives a claim back, because no handler is to start any more.
    async fn not_started(&self, claim: Claim<AsyncStore<S>>) -> Decision<S> {
        let _ = claim.release().await;
        let why = "the service is stopping; the request was not executed";
        let trouble = Problem::Unavailable.because(why).after(with_jitter(STORE_BACK));
        Decision::Refuse(trouble)
    }

    /// Waits and takes over a key that is neither free nor done.
    async fn decide_later(
        &self,
        parts: &Parts,
        asked: &Asked,
        begun: Begun<S>,
        since: Instant,
    ) -> Decision<S> {
        let mut begun = self.by_older(parts, asked, begun).await;
        let (mut left, mut took) = (None, false);
        // Another retry may be faster, again and again: the rest of the time is waited.
        loop {
            begun = self.wait(asked, begun, since).await;
            let Ok(Begin::Interrupted(stuck)) = begun else { break };
            left = left_by(&stuck);
            let over = took && since.elapsed() >= self.config.wait;
            if over || !self.may_take_over(&stuck) {
                begun = Ok(Begin::Interrupted(stuck));
                break;
            }
            begun = stuck.take_over().await;
            took = true;
        }
        match begun {
            Ok(Begin::Execute(claim)) => match self.shared.running.start() {
                Some(run) => Decision::Execute(claim, left, run),
                None => self.not_started(claim).await,
            },
            Ok(Begin::Replay(record)) => Decision::Replay(record),
            Ok(Begin::InFlight(pending)) => Decision::Refuse(in_flight(&pending)),
            Ok(Begin::Interrupted(stuck)) => self.interrupted(&stuck),
            Ok(Begin::Mismatch { scheme }) if self.config.fingerprints.is_foreign(scheme) => {
                tracing::error!(
                    scheme,
                    "a key was used under a definition of fingerprints that is not known here: a \
                     node with another definition runs, or an older one is not named"
                );
                let why = "this node can't tell whether it is the same request; another one can";
                let trouble = Problem::OtherDefinition.because(why);
                Decision::Refuse(trouble.after(with_jitter(Duration::from_secs(2))))
            }
            Ok(Begin::Mismatch { .. }) => Decision::Refuse(Problem::KeyReused.because(
                "this key was used for another request; make a new key for a new request",
            )),
            Err(BeginError::AttemptsExhausted { attempts }) => {
                let why = format!("{attempts} attempts were interrupted; an operator must decide");
                or_left(left, Problem::Interrupted.because(why))
            }
            Err(error) => Decision::Refuse(refused(&error)),
        }
    }

    /// Begins by an older fingerprint if the key was used under one.
    async fn by_older(&self, parts: &Parts, asked: &Asked, begun: Begun<S>) -> Begun<S> {
        let rules = &self.config.fingerprints;
        match begun {
            Ok(Begin::Mismatch { scheme }) if let Some(older) = rules.older(scheme) => {
                let fingerprint = older.of(parts, &asked.whole.data);
                let request = Request { fingerprint, ..asked.request.clone() };
                self.store.begin_request(&request).await
            }
            begun => begun,
        }
    }

    /// Waits for a key in flight, if there is time and a place.
    async fn wait(&self, asked: &Asked, begun: Begun<S>, since: Instant) -> Begun<S> {
        let left = self.config.wait.saturating_sub(since.elapsed());
        match begun {
            Ok(Begin::InFlight(pending)) if !left.is_zero() => {
                let place = self.shared.waiters.enter(&asked.request.key, self.config.places());
                match place {
                    Ok(_place) => pending.wait(left).await,
                    Err(why) => {
                        if why == NoPlace::Share {
                            let scope = asked.request.key.scope();
                            self.shared.refused.count(scope, "places to wait");
                        }
                        self.came(Outcome::WaitRefused);
                        Ok(Begin::InFlight(pending))
                    }
                }
            }
            begun => begun,
        }
    }

    fn may_take_over(&self, stuck: &Interrupted<AsyncStore<S>>) -> bool {
        !matches!(self.config.interrupted, OnInterrupted::Refuse)
            && (stuck.holder_gone() || self.config.silent_holders)
            && stuck.settle_after().is_zero()
            && !self.shared.running.is_draining()
    }

    /// The answer to a key that stays interrupted.
    pub fn interrupted(&self, stuck: &Interrupted<AsyncStore<S>>) -> Decision<S> {
        let why = "an attempt was interrupted, and it is not known whether it took effect";
        let trouble = Problem::Interrupted.because(why);
        let may_change =
            !stuck.holder_gone() || !matches!(self.config.interrupted, OnInterrupted::Refuse);
        let trouble = match may_change {
            true => trouble.after(with_jitter(STORE_BACK.max(stuck.settle_after()))),
            false => trouble,
        };
        or_left(left_by(stuck), trouble)
    }
}

fn left_by<S: IdempotencyStore>(stuck: &Interrupted<AsyncStore<S>>) -> Option<Left> {
    let answer = stuck.answer().filter(|answer| !answer.is_empty())?.clone();
    Some(Left { answer, age: stuck.interrupted_for() })
}

fn or_left<S: IdempotencyStore>(left: Option<Left>, trouble: ProblemResponse) -> Decision<S> {
    match left {
        Some(left) => Decision::Left(left, trouble),
        None => Decision::Refuse(trouble),
    }
}

pub(super) fn in_flight<S: IdempotencyStore>(pending: &Pending<S>) -> ProblemResponse {
    let why = "a request with this key is being executed";
    Problem::InFlight.because(why).after(with_jitter(pending.retry_after()))
}

pub(super) fn refused(error: &BeginError) -> ProblemResponse {
    if *error == BeginError::StoreFull(Full::Scope) {
        let why = "too many requests of this client are unfinished; this one was not executed";
        return Problem::ShareUsed.because(why).after(with_jitter(STORE_BACK));
    }
    tracing::error!(%error, "an idempotency key could not be claimed; nothing was executed");
    let why = "the idempotency store refused the request; it was not executed";
    match error.retry() {
        Retry::After(wait) => Problem::Unavailable.because(why).after(with_jitter(wait)),
        Retry::AfterReopen => Problem::Unavailable.because(why).after(with_jitter(STORE_BACK)),
        Retry::Never => Problem::Failed.because(why),
    }
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(http::header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
