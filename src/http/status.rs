//! What has become of a key, for its client: a service of its own.

use super::{
    body::ResponseBody, config::Core, executor::BoxFuture, layer::IdempotencyLayer,
    problem::Problem,
};
use crate::{
    key::OwnedKey,
    record::Record,
    spi::{Found, IdempotencyStore},
};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, header, request::Parts};
use serde_json::{Value, json};
use std::{
    convert::Infallible,
    fmt,
    task::{Context, Poll},
};
use tower_service::Service;

/// Answers clients that ask what has become of a key. Made by
/// [`IdempotencyLayer::key_status`].
pub struct KeyStatus<S>(Core<S>);

impl<S: IdempotencyStore> IdempotencyLayer<S> {
    /// Makes a service that says what has become of the key in a request's header, in the scope of
    /// that request: mount it under a path of your choice, for GET, behind the same authentication
    /// as the requests themselves.
    ///
    /// The answer is JSON: `state` is `in_flight` (with `running_seconds`), `interrupted` (with
    /// `interrupted_seconds`), `done` (with `status` as far as it is kept, `age` and `expires_in`
    /// in seconds) or `unknown`: never seen, or forgotten. It claims nothing. A client that reads
    /// `unknown` may still have a request on its way, so it decides nothing by that but to send the
    /// request again with the same key.
    ///
    /// Keys that are found in bodies can't be asked for: the answer is 400.
    pub fn key_status(&self) -> KeyStatus<S> {
        KeyStatus(self.core.clone())
    }
}

impl<S: Clone> Clone for KeyStatus<S> {
    fn clone(&self) -> Self {
        KeyStatus(self.0.clone())
    }
}

impl<S> fmt::Debug for KeyStatus<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyStatus")
    }
}

impl<S: IdempotencyStore, B> Service<Request<B>> for KeyStatus<S> {
    type Response = Response<ResponseBody<String>>;
    type Error = Infallible;
    type Future = BoxFuture<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let core = self.0.clone();
        let (parts, _) = request.into_parts();
        Box::pin(async move { Ok(core.status(&parts).await) })
    }
}

impl<S: IdempotencyStore> Core<S> {
    pub async fn status(&self, parts: &Parts) -> Response<ResponseBody<String>> {
        let key = match self.key_in_header(parts) {
            Ok(key) => key,
            Err(trouble) => return self.say(trouble),
        };
        let found = match self.store.look(&key).await {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(%error, "the state of a key could not be read");
                let why = "the state of the key can't be read now";
                return self.say(Problem::Unavailable.because(why));
            }
        };
        let body = match found {
            Some(Found::Replay(record)) => self.done(&key, &record),
            Some(Found::InFlight(running)) => {
                json!({ "state": "in_flight", "running_seconds": running.running_for.as_secs() })
            }
            Some(Found::Interrupted(stuck)) => json!({
                "state": "interrupted",
                "interrupted_seconds": stuck.interrupted_for.as_secs(),
                "attempts": stuck.attempts,
            }),
            Some(Found::Granted(_) | Found::Mismatch { .. }) | None => {
                json!({ "state": "unknown" })
            }
        };
        let data = Bytes::from(format!("{body}\n"));
        let mut answer = Response::new(ResponseBody::whole(data, None));
        let headers = answer.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        answer
    }

    fn done(&self, key: &OwnedKey, record: &Record) -> Value {
        let kept = self.unpack_record(key, record);
        json!({
            "state": "done",
            "status": kept.map(|stored| stored.status.as_u16()),
            "answer_kept": record.response().is_some(),
            "age": self.age(record),
            "expires_in": self.expires_in(record),
        })
    }
}
