//! Runs the handler under its claim, and records its answer before the client sees it.

use super::{
    admit::ToExecute,
    attempt::Attempt,
    body::{Read, Reading, RequestBody, ResponseBody, read},
    config::Core,
    decide::{Asked, refused},
    fingerprint::original_target,
    interrupted::{self, OnInterrupted, Settlement},
    keep::{Head, Place},
    outcome::Outcome,
    problem::{Problem, with_jitter},
    stored::Kind,
    verdict::{Policy, Verdict},
};
use crate::{
    error::ClaimError,
    key::OwnedKey,
    spi::{self, Completion, IdempotencyStore},
    store::async_store::AsyncStore,
    store::claim::{Claim, held_anyway},
};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, request::Parts};
use http_body::Body;
use std::{
    any::Any,
    convert::Infallible,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::pin,
    sync::atomic::Ordering,
    task::Poll,
    time::Duration,
};
use tower_service::Service;

/// Settles if there is something to settle, runs the handler, records its answer.
pub(super) async fn execute<S, I, B, R>(
    core: Core<S>,
    mut inner: I,
    mut parts: Parts,
    mut admitted: Box<ToExecute<S>>,
) -> Result<Response<ResponseBody<R>>, I::Error>
where
    S: IdempotencyStore,
    I: Service<Request<RequestBody<B>>, Response = Response<R>>,
    I::Error: 'static,
    R: Body<Data = Bytes>,
{
    let mut attempt = Attempt::of(&admitted.claim);
    if admitted.claim.after().is_some()
        && let OnInterrupted::Settle(settle) = &core.config.interrupted
    {
        let request = Request::from_parts(parts.clone(), admitted.asked.whole.data.clone());
        admitted.claim.settling = true;
        // Rare paths are in a box here and below, so that the future of all other requests is
        // small.
        match settle(attempt.clone(), request).await {
            Settlement::Happened(answer) => {
                return Ok(Box::pin(core.settled(*admitted, answer)).await);
            }
            Settlement::NothingHappened => {
                if let Err(error) = held_anyway(admitted.claim.nothing_happened().await) {
                    return Ok(core.say(refused(&error)));
                }
                attempt = Attempt::of(&admitted.claim);
            }
            Settlement::Unknown => return Ok(Box::pin(core.unsettled(*admitted)).await),
        }
        admitted.claim.settling = false;
    }
    let head_request = parts.method == Method::HEAD;
    let policy = core.config.policy.at(original_target(&parts).0);
    if let Err(error) = poll_fn(|context| inner.poll_ready(context)).await {
        let (key, claim) = (&admitted.asked.request.key, &mut admitted.claim);
        return Box::pin(core.errored(key, claim, Verdict::NothingDone, error)).await;
    }
    core.came(Outcome::Executed);
    core.span.record("attempt", attempt.number());
    core.span.record("token", attempt.token().get());
    parts.extensions.insert(attempt.clone());
    let request = Request::from_parts(parts, admitted.asked.whole.body());
    let (key, claim) = (&admitted.asked.request.key, &mut admitted.claim);
    match caught(async move { inner.call(request).await }).await {
        Ok(Ok(answer)) => {
            let recorder = Recorder { core: &core, key, attempt, policy, head_request };
            Ok(recorder.record(claim, answer).await)
        }
        Ok(Err(error)) => {
            let verdict = Verdict::of_any(&error);
            Box::pin(core.errored(key, claim, verdict, error)).await
        }
        Err(panic) => {
            // The attempt was only to find out: the claim is dropped by the panic.
            match claim.ensure_durable().await {
                Err(error) if is_overtaken(&error) => core.overtaken(claim, &error),
                _ => {}
            }
            resume_unwind(panic)
        }
    }
}

/// The result of a future, or its panic.
async fn caught<T>(work: impl Future<Output = T>) -> Result<T, Box<dyn Any + Send>> {
    let mut work = pin!(work);
    poll_fn(|context| {
        // It is not polled again after a panic.
        match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))) {
            Ok(polled) => polled.map(Ok),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    })
    .await
}

/// Whether the key was decided by another attempt or an operator: the handler's own answer is not
/// sent then.
pub(super) fn is_overtaken(error: &ClaimError) -> bool {
    use ClaimError::*;
    matches!(error, Fenced | AlreadyCompleted | DifferentResponse)
}

impl<S: IdempotencyStore> Core<S> {
    /// An earlier attempt took effect, and this is its answer.
    async fn settled<R: Body<Data = Bytes>>(
        &self,
        admitted: ToExecute<S>,
        answer: Response<interrupted::Read>,
    ) -> Response<ResponseBody<R>> {
        let ToExecute { asked: Asked { request: spi::Request { key, .. }, .. }, mut claim, .. } =
            admitted;
        let (parts, (data, trailers)) = answer.into_parts();
        let headers = self.config.retained.of(&parts.headers, false);
        let head = Head { status: parts.status, headers };
        let packed =
            self.config.pack(&key, Place::Record, Kind::Whole, &head, trailers.as_deref(), &data);
        let short = self.config.pack_head(&key, &head, false);
        let done = match &packed {
            Some(packed) => claim.complete_with(completion(&short, Some(packed))).await,
            None => claim.complete_without_response(&short).await,
        };
        let done = match done {
            Err(ClaimError::ResponseTooLarge { .. }) => {
                claim.complete_without_response(&self.config.pack_head(&key, &head, true)).await
            }
            done => done,
        };
        match done {
            // The answer is replayed as for any retry.
            Ok(()) => self.standing(&key, &claim).await,
            Err(error) => self.unrecorded(&key, &mut claim, &error).await,
        }
    }

    /// It isn't known whether an earlier attempt took effect.
    async fn unsettled<R: Body<Data = Bytes>>(
        &self,
        admitted: ToExecute<S>,
    ) -> Response<ResponseBody<R>> {
        let ToExecute { asked, claim, left, .. } = admitted;
        let why = "it can't be told yet whether an earlier attempt took effect";
        let trouble = Problem::Interrupted.because(why).after(with_jitter(Duration::from_secs(5)));
        // The earlier answer stays with the key.
        let _ = claim.undo().await;
        match left {
            Some(left) => self.replay_left(&asked.request.key, left, trouble).await,
            None => self.say(trouble),
        }
    }

    /// There is no answer to keep; an outer layer makes the client's answer of the error.
    async fn errored<E, R: Body<Data = Bytes>>(
        &self,
        key: &OwnedKey,
        claim: &mut Claim<AsyncStore<S>>,
        verdict: Verdict,
        error: E,
    ) -> Result<Response<ResponseBody<R>>, E> {
        let ended = match verdict {
            Verdict::NothingDone => claim.give_back().await,
            _ => claim.fail(b"").await,
        };
        match ended {
            Err(late) if is_overtaken(&late) => {
                Ok(Box::pin(self.unrecorded(key, claim, &late)).await)
            }
            Ok(()) | Err(_) => Err(error),
        }
    }

    /// A handler has ended too late.
    fn overtaken(&self, claim: &Claim<AsyncStore<S>>, error: &ClaimError) {
        self.shared.double_executions.fetch_add(1, Ordering::Relaxed);
        tracing::error!(
            token = claim.token().get(),
            attempt = claim.attempt(),
            %error,
            "a handler ended after its key had been decided without it: the operation may have \
             taken effect twice"
        );
    }

    /// The answer could not be recorded, so it isn't sent.
    pub(super) async fn unrecorded<R: Body<Data = Bytes>>(
        &self,
        key: &OwnedKey,
        claim: &mut Claim<AsyncStore<S>>,
        error: &ClaimError,
    ) -> Response<ResponseBody<R>> {
        if is_overtaken(error) {
            self.overtaken(claim, error);
            return self.standing(key, claim).await;
        }
        tracing::error!(token = claim.token().get(), %error, "an answer could not be recorded");
        let why = match error {
            ClaimError::EffectsFailed { .. } => {
                // Undone before the client can try again.
                let _ = claim.give_back().await;
                "what the request has written could not be committed, and is undone"
            }
            _ => "the request was executed, and its outcome could not be recorded",
        };
        self.say(Problem::NotRecorded.because(why))
    }
}

/// A completion with a short head beside the whole answer.
pub(super) fn completion<'a>(head: &'a [u8], response: Option<&'a [u8]>) -> Completion<'a> {
    Completion { head, response, retention: None }
}

/// Records a handler's answer.
pub(super) struct Recorder<'a, S> {
    pub core: &'a Core<S>,
    pub key: &'a OwnedKey,
    pub attempt: Attempt,
    pub policy: &'a Policy,
    pub head_request: bool,
}

/// A handler's answer's body.
pub(super) enum Answered<R: Body> {
    Coming(R),
    /// Read already, as far as it is kept.
    Read(Read<R>),
}

impl<R: Body<Data = Bytes>> Answered<R> {
    /// Reads it up to a bound.
    pub async fn read(self, limit: usize) -> Read<R> {
        let body = match self {
            Answered::Coming(body) => body,
            Answered::Read(read) => return read,
        };
        // In a box, to be continued if it is longer than it may be.
        let mut body = Box::pin(body);
        match read(body.as_mut(), limit, |_| Ok::<(), Infallible>(())).await {
            Ok(Reading::Whole(data, trailers)) => Read::Whole(data, trailers),
            Ok(Reading::TooLarge(data)) => Read::TooLarge(data, body),
            Ok(Reading::Failed(data, error)) => Read::Failed(data, error),
        }
    }

    /// Those that are known.
    pub fn trailers(&self) -> Option<&HeaderMap> {
        match self {
            Answered::Read(Read::Whole(_, trailers)) => trailers.as_deref(),
            _ => None,
        }
    }

    /// For the client, as it comes.
    pub fn into_body(self) -> ResponseBody<R> {
        match self {
            Answered::Coming(body) => ResponseBody::through(body),
            Answered::Read(read) => read.into_body(),
        }
    }
}
