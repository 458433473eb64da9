//! One intention, sent until it has an answer.

use crate::{
    answer::AnswerBody,
    error::{SendError, Trouble},
    judge::{Judgement, judge},
    key::Key,
    policy::Policy,
};
use http::{HeaderValue, Response, header};
use http_body::Body;
use std::{
    fmt,
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
    time::Duration,
};

/// How an answer came, in its extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sent {
    /// The key that the request was sent with.
    pub key: Key,
    /// How often it was sent.
    pub tries: u32,
}

impl Policy {
    /// Sends a request under `key` until it has an answer, for clients that no adapter is there for.
    /// `send` sends it once; it gets the value for the key's header, and must make the same request
    /// each time.
    ///
    /// When the tries or the deadline are used up, the last answer is returned, whatever it is, or
    /// the error of the last try.
    ///
    /// ```
    /// use http::Response;
    /// use http_body_util::Full;
    /// use onlyonce_client::{Key, Policy};
    /// use std::io;
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// let mut lost = 1;
    /// let send = |key| {
    ///     let _ = key; // goes into the header `Idempotency-Key`
    ///     lost -= 1;
    ///     async move {
    ///         match lost {
    ///             0 => Err(io::Error::other("the connection broke")),
    ///             _ => Ok(Response::new(Full::<&[u8]>::from("order 7".as_bytes()))),
    ///         }
    ///     }
    /// };
    /// let answer = Policy::new().send(&Key::random(), send).await?;
    /// assert_eq!(answer.status(), 200);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn send<F, T, B, E>(
        &self,
        key: &Key,
        mut send: F,
    ) -> Result<Response<AnswerBody<B>>, SendError<E>>
    where
        F: FnMut(HeaderValue) -> T,
        T: Future<Output = Result<Response<B>, E>>,
        B: Body<Error: fmt::Display>,
    {
        let start = self.timer.now();
        let mut tries = 0;
        loop {
            tries += 1;
            let left = self.deadline.saturating_sub(self.timer.now().saturating_sub(start));
            let a_try = self.whole(send(key.header().clone()));
            let got = match self.within(self.try_time.min(left), a_try).await {
                Some(got) => got,
                None => Err(Trouble::TimedOut),
            };
            let judgement = match &got {
                Ok(answer) => {
                    let (status, known) = (answer.status(), answer.body().known());
                    judge(status, answer.headers(), known, self.timer.wall())
                }
                Err(_) => Judgement::Retry { after: None },
            };
            let wait = match judgement {
                Judgement::Retry { after } => Some(self.wait(tries, after)),
                Judgement::Final => None,
            };
            let passed = self.timer.now().saturating_sub(start);
            let wait = wait
                .filter(|&wait| tries < self.tries && passed.saturating_add(wait) < self.deadline);
            let Some(wait) = wait else {
                return match got {
                    Ok(answer) => Ok(sent(answer, key, tries)),
                    Err(trouble) => Err(SendError { key: Some(key.clone()), tries, trouble }),
                };
            };
            // The connection is free meanwhile.
            drop(got);
            self.timer.sleep(wait).await;
        }
    }

    /// One try, to the end of its answer's body.
    async fn whole<T, B, E>(&self, sending: T) -> Result<Response<AnswerBody<B>>, Trouble<E>>
    where
        T: Future<Output = Result<Response<B>, E>>,
        B: Body<Error: fmt::Display>,
    {
        let (head, body) = sending.await.map_err(Trouble::Client)?.into_parts();
        let kind = head.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
        let streams = kind.is_some_and(|kind| {
            [&b"text/event-stream"[..], b"application/grpc"].iter().any(|one| kind.starts_with(one))
        });
        let body = AnswerBody::unread(body);
        let body = match streams {
            true => body,
            false => {
                let read = body.read(self.max_answer).await;
                read.map_err(|error| Trouble::BrokenOff(error.to_string()))?
            }
        };
        Ok(Response::from_parts(head, body))
    }

    /// The result of `a_try`, unless it takes longer than `time`.
    async fn within<T>(&self, time: Duration, a_try: impl Future<Output = T>) -> Option<T> {
        let mut a_try = pin!(a_try);
        let mut over = self.timer.sleep(time);
        poll_fn(|context| match a_try.as_mut().poll(context) {
            Poll::Ready(got) => Poll::Ready(Some(got)),
            Poll::Pending => over.as_mut().poll(context).map(|()| None),
        })
        .await
    }
}

fn sent<B>(mut answer: Response<B>, key: &Key, tries: u32) -> Response<B> {
    answer.extensions_mut().insert(Sent { key: key.clone(), tries });
    answer
}
