//! The layer for clients that are tower services.

use crate::{
    answer::AnswerBody,
    error::{KeyFault, SendError, Trouble},
    key::Key,
    policy::Policy,
};
use bytes::Bytes;
use http::{Request, Response, request::Parts};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use std::{
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll},
};
use tower_layer::Layer;
use tower_service::Service;

/// A layer around any client that is a `Service<Request<Full<Bytes>>>`: requests get keys and are
/// sent until they have an answer. It goes outside of other layers that retry: what is inside of it
/// sees each try.
///
/// A request's body is held in memory while it is tried.
#[derive(Clone, Debug)]
pub struct KeyedLayer(Policy);

impl KeyedLayer {
    /// Makes the layer of a policy.
    pub fn new(policy: Policy) -> Self {
        KeyedLayer(policy)
    }
}

impl<S> Layer<S> for KeyedLayer {
    type Service = Keyed<S>;

    fn layer(&self, inner: S) -> Keyed<S> {
        Keyed { policy: self.0.clone(), inner }
    }
}

/// A client inside the layer.
#[derive(Clone, Debug)]
pub struct Keyed<S> {
    policy: Policy,
    inner: S,
}

type Sending<B, E> =
    Pin<Box<dyn Future<Output = Result<Response<AnswerBody<B>>, SendError<E>>> + Send>>;

impl<S, Q, B> Service<Request<Q>> for Keyed<S>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Future: Send> + Clone + Send + 'static,
    S::Error: Send,
    Q: Body<Data: Send, Error: fmt::Display> + Send + 'static,
    B: Body<Error: fmt::Display> + Send + 'static,
{
    type Response = Response<AnswerBody<B>>;
    type Error = SendError<S::Error>;
    type Future = Sending<B, S::Error>;

    /// Always ready: each try waits for the client itself.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let (policy, inner) = (self.policy.clone(), self.inner.clone());
        Box::pin(async move {
            let (mut parts, body) = request.into_parts();
            let body = body
                .collect()
                .await
                .map_err(|error| SendError::not_sent(KeyFault::Body(error.to_string())))?;
            let body = body.to_bytes();
            let key = policy.key_of(&parts, &body).await.map_err(SendError::not_sent)?;
            let Some(key) = key else {
                let answer = once(inner, parts, body).await.map_err(|error| SendError {
                    key: None,
                    tries: 1,
                    trouble: Trouble::Client(error),
                })?;
                return Ok(answer.map(AnswerBody::unread));
            };
            parts.extensions.remove::<Key>();
            let header = policy.header.clone();
            let send = move |value| {
                let mut parts = parts.clone();
                parts.headers.insert(&header, value);
                once(inner.clone(), parts, body.clone())
            };
            policy.send(&key, send).await
        })
    }
}

/// Sends a request once.
async fn once<S, B>(mut inner: S, parts: Parts, body: Bytes) -> Result<Response<B>, S::Error>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>>,
{
    poll_fn(|context| inner.poll_ready(context)).await?;
    inner.call(Request::from_parts(parts, Full::new(body))).await
}
