#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub use onlyonce_client::*;

use http::Extensions;
use reqwest::{Body, Request, Response, ResponseBuilderExt};
use reqwest_middleware::{Error, Middleware, Next, Result};

/// The middleware: requests get keys, and are sent until they have an answer.
///
/// Requests whose body is a stream can't be sent twice: with a key of the caller's or a method that
/// needs one they are refused ([`KeyFault::Body`]).
#[derive(Clone, Debug)]
pub struct Keyed(Policy);

impl Keyed {
    /// Makes the middleware of a policy.
    pub fn new(policy: Policy) -> Self {
        Keyed(policy)
    }
}

#[async_trait::async_trait]
impl Middleware for Keyed {
    async fn handle(
        &self,
        request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> Result<Response> {
        let policy = &self.0;
        let (parts, body) = described(&request, extensions)?;
        let body = match body {
            Some(body) => body,
            None if parts.extensions.get::<Intention>().is_none() => &[],
            None => return Err(streamed()),
        };
        let key = policy.key_of(&parts, body).await;
        let Some(key) = key.map_err(|fault| failed(SendError::<Error>::not_sent(fault)))? else {
            return next.run(request, extensions).await;
        };
        if request.try_clone().is_none() {
            return Err(streamed());
        }
        let url = request.url().clone();
        let header = policy.header_name().clone();
        let extensions = &*extensions;
        let send = |value| {
            let mut request = request.try_clone().expect("cloned before");
            request.headers_mut().insert(&header, value);
            let (next, mut extensions) = (next.clone(), extensions.clone());
            async move {
                let response = next.run(request, &mut extensions).await?;
                Ok::<http::Response<Body>, Error>(response.into())
            }
        };
        let answer = policy.send(&key, send).await.map_err(failed)?;
        let (mut head, body) = answer.into_parts();
        // What the conversion to `http` has lost.
        let with_url = http::Response::builder().url(url).body(()).expect("no header to be wrong");
        head.extensions.extend(with_url.into_parts().0.extensions);
        Ok(http::Response::from_parts(head, Body::wrap(body)).into())
    }
}

/// The request's parts as the policy reads them, and its body if it is in memory.
fn described<'a>(
    request: &'a Request,
    extensions: &Extensions,
) -> Result<(http::request::Parts, Option<&'a [u8]>)> {
    let described = http::Request::builder().method(request.method()).uri(request.url().as_str());
    let mut parts = described.body(()).map_err(Error::middleware)?.into_parts().0;
    parts.headers = request.headers().clone();
    parts.extensions = extensions.clone();
    let body = match request.body() {
        Some(body) => body.as_bytes(),
        None => Some(&[][..]),
    };
    Ok((parts, body))
}

fn failed(error: SendError<Error>) -> Error {
    Error::middleware(error)
}

fn streamed() -> Error {
    let fault = KeyFault::Body("it is a stream, which can't be sent twice".into());
    failed(SendError::not_sent(fault))
}
