//! The path of a request: the order of its checks, and where its handler runs.

use super::{
    attempt::Attempt,
    body::{RequestBody, ResponseBody},
    config::Core,
    decide::{Asked, Decision, Named},
    execute::execute,
    executor::{BoxFuture, Executor},
    fingerprint::is_grpc,
    outcome::{Outcome, span},
};
use crate::spi::IdempotencyStore;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use std::{
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tower_service::Service;
use tracing::Instrument;

/// A service whose retried requests get the stored answer. Made by
/// [`IdempotencyLayer`](super::IdempotencyLayer).
pub struct Idempotency<S, I> {
    pub(super) core: Core<S>,
    pub(super) inner: I,
}

impl<S: Clone, I: Clone> Clone for Idempotency<S, I> {
    fn clone(&self) -> Self {
        Idempotency { core: self.core.clone(), inner: self.inner.clone() }
    }
}

impl<S, I> fmt::Debug for Idempotency<S, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Idempotency").finish_non_exhaustive()
    }
}

impl<S, I, B, R> Service<Request<B>> for Idempotency<S, I>
where
    S: IdempotencyStore,
    I: Service<Request<RequestBody<B>>, Response = Response<R>> + Clone + Send + 'static,
    I::Future: Send,
    I::Error: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Send,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Send,
{
    type Response = Response<ResponseBody<R>>;
    type Error = I::Error;
    type Future = BoxFuture<Result<Response<ResponseBody<R>>, I::Error>>;

    /// Always ready: the service inside is polled for readiness when it is about to run. Until then
    /// a request whose body comes slowly, one that waits, a replay and a refusal hold nothing of
    /// it.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), I::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let inner = self.inner.clone();
        let (parts, body) = request.into_parts();
        // The extension is there if an outer layer handles this request.
        let covered =
            self.core.config.covers(&parts) && parts.extensions.get::<Attempt>().is_none();
        if !covered {
            self.core.came(Outcome::Passed);
            let request = Request::from_parts(parts, body).map(RequestBody::through);
            return Box::pin(pass(inner, request));
        }
        let span = span!();
        let grpc = is_grpc(&parts.headers);
        let core = Core { span: span.clone(), grpc, ..self.core.clone() };
        let handled = async move {
            let (key, whole) = match core.key(&parts) {
                Ok(Named::By(key)) => {
                    let whole = core.read(key.scope(), parts, body).await;
                    (Some(key), whole)
                }
                Ok(Named::InBody(scope)) => Box::pin(core.read_and_find(&scope, parts, body)).await,
                Ok(Named::Not) => {
                    core.came(Outcome::Passed);
                    let request = Request::from_parts(parts, body).map(RequestBody::through);
                    return pass(inner, request).await;
                }
                Err(trouble) => return Ok(core.say(trouble)),
            };
            match (key, whole) {
                (Some(key), Ok(whole)) => once(core, inner, Asked { key, whole }).await,
                (None, Ok(whole)) => {
                    core.came(Outcome::Passed);
                    pass(inner, whole.request()).await
                }
                (_, Err(trouble)) => Ok(core.say(trouble)),
            }
        };
        Box::pin(handled.instrument(span))
    }
}

/// A request that the layer does not handle.
async fn pass<I, B, R>(
    mut inner: I,
    request: Request<RequestBody<B>>,
) -> Result<Response<ResponseBody<R>>, I::Error>
where
    I: Service<Request<RequestBody<B>>, Response = Response<R>>,
    R: Body<Data = Bytes>,
{
    poll_fn(|context| inner.poll_ready(context)).await?;
    Ok(inner.call(request).await?.map(ResponseBody::through))
}

/// Handles a request that takes effect once.
async fn once<S, I, B, R>(
    core: Core<S>,
    inner: I,
    asked: Asked,
) -> Result<Response<ResponseBody<R>>, I::Error>
where
    S: IdempotencyStore,
    I: Service<Request<RequestBody<B>>, Response = Response<R>> + Send + 'static,
    I::Future: Send,
    I::Error: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Send,
{
    let (claim, left, run) = match core.decide(&asked).await {
        Decision::Execute(claim, left, run) => (claim, left, run),
        Decision::Replay(record) => return Ok(core.replay(&asked.key, record).await),
        Decision::Left(left, trouble) => {
            return Ok(core.replay_left(&asked.key, left, trouble).await);
        }
        Decision::Refuse(trouble) => return Ok(core.say(trouble)),
    };
    // In a box in any case: replays, which don't get here, then have a small future.
    let work: BoxFuture<_> = Box::pin(execute(core.clone(), inner, asked, claim, left, run));
    if !core.config.detached {
        return work.await;
    }
    let (executor, span) = (core.config.executor.clone(), core.span);
    Detached { work: Some(work), executor, span }.await
}

/// Work that continues by itself when its client's task drops it. Until then it runs in that task,
/// which costs nothing; a panic of it is that task's, as it would be without the layer.
struct Detached<T: Send + 'static> {
    work: Option<BoxFuture<T>>,
    executor: Arc<dyn Executor>,
    /// The request's.
    span: tracing::Span,
}

impl<T: Send + 'static> Future for Detached<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        // If this panics, there is nothing left to continue.
        let mut work = self.work.take().expect("polled after it has ended");
        let polled = work.as_mut().poll(context);
        if polled.is_pending() {
            self.work = Some(work);
        }
        polled
    }
}

impl<T: Send + 'static> Drop for Detached<T> {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            let ending = async {
                // The answer is dropped; the next retry finds it in the store.
                drop(work.await);
            };
            self.executor.spawn(Box::pin(ending.instrument(self.span.clone())));
        }
    }
}
