//! Settings and answers for interrupted keys.

use super::{
    attempt::Attempt,
    body::{Reading, Trailers, read},
    executor::BoxFuture,
};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use std::{convert::Infallible, fmt, future::Future, pin::pin, sync::Arc};

/// The answer of a settle function: did an earlier attempt take effect?
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Settlement<B> {
    /// An earlier attempt took effect, and this is its answer: it is stored, and replayed from now
    /// on.
    Happened(Response<B>),
    /// No earlier attempt took effect, and none can any more: the handler is executed.
    NothingHappened,
    /// It isn't known: the key stays interrupted.
    Unknown,
}

/// A body with its trailers.
pub(super) type Read = (Bytes, Trailers);

type Settle = dyn Fn(Attempt, Request<Bytes>) -> BoxFuture<Settlement<Read>> + Send + Sync;

#[derive(Clone)]
pub(super) enum OnInterrupted {
    Refuse,
    Settle(Arc<Settle>),
    Resume,
}

impl OnInterrupted {
    pub fn settle<F, R, B>(settle: F) -> Self
    where
        F: Fn(Attempt, Request<Bytes>) -> R + Send + Sync + 'static,
        R: Future<Output = Settlement<B>> + Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Send,
    {
        OnInterrupted::Settle(Arc::new(move |attempt, request| {
            let settling = settle(attempt, request);
            Box::pin(async move { collected(settling.await).await })
        }))
    }

    /// Whether retries of interrupted keys run nothing by themselves.
    pub fn is_refused(&self) -> bool {
        matches!(self, OnInterrupted::Refuse)
    }

    pub fn name(&self) -> &'static str {
        match self {
            OnInterrupted::Refuse => "refuse",
            OnInterrupted::Settle(_) => "settle",
            OnInterrupted::Resume => "resume",
        }
    }
}

impl fmt::Debug for OnInterrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// With its answer's body read; an answer that can't be read is none.
async fn collected<B: Body<Data = Bytes>>(settlement: Settlement<B>) -> Settlement<Read> {
    let answer = match settlement {
        Settlement::Happened(answer) => answer,
        Settlement::NothingHappened => return Settlement::NothingHappened,
        Settlement::Unknown => return Settlement::Unknown,
    };
    let (parts, body) = answer.into_parts();
    match read(pin!(body), usize::MAX, |_| Ok::<(), Infallible>(())).await {
        Ok(Reading::Whole(data, trailers)) => {
            Settlement::Happened(Response::from_parts(parts, (data, trailers)))
        }
        Ok(Reading::TooLarge(..) | Reading::Failed(..)) => Settlement::Unknown,
    }
}
