//! The layer around a service of tower: where a request's handler runs.

use super::{
    admit::{Admitted, ToExecute},
    body::{RequestBody, ResponseBody},
    config::Core,
    detached::Detached,
    execute::execute,
    executor::BoxFuture,
};
use crate::spi::IdempotencyStore;
use bytes::Bytes;
use http::{Request, Response, request::Parts};
use http_body::Body;
use std::{
    fmt,
    future::poll_fn,
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
        if !self.core.covers(&parts) {
            let request = Request::from_parts(parts, body).map(RequestBody::through);
            return Box::pin(pass(inner, request));
        }
        let core = self.core.of_request(&parts.headers);
        let span = core.span.clone();
        let handled = async move {
            match core.admit(&parts, body).await {
                Admitted::Pass(body) => pass(inner, Request::from_parts(parts, body)).await,
                Admitted::Answered(answer) => Ok(answer),
                Admitted::Execute(admitted) => once(core, inner, parts, admitted).await,
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

/// Runs the handler; in a task of its own when its client has gone.
async fn once<S, I, B, R>(
    core: Core<S>,
    inner: I,
    parts: Parts,
    admitted: Box<ToExecute<S>>,
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
    let (detached, span) = (core.config.detached, core.span.clone());
    let executor = core.config.executor.clone();
    // In a box in any case: replays, which don't get here, then have a small future.
    let work: BoxFuture<_> = Box::pin(execute(core, inner, parts, admitted));
    if !detached {
        return work.await;
    }
    let alone = move |work: BoxFuture<_>| {
        let ending = async {
            // The answer is dropped; the next retry finds it in the store.
            drop(work.await);
        };
        executor.spawn(Box::pin(ending.instrument(span.clone())));
    };
    Detached::new(work, alone).await
}
