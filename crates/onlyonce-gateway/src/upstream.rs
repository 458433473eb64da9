//! The service behind: how a request reaches it, and what a request that fails on the way means.

use crate::serve::Peer;
use anyhow::{bail, ensure};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header,
    uri::PathAndQuery,
};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use onlyonce::http::{Attempt, RequestBody, Verdict};
use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::timeout;

/// The key of the attempt's effect, the same at each attempt of a request: for a unique column.
pub const DERIVED_KEY: HeaderName = HeaderName::from_static("onlyonce-derived-key");
/// The number of the attempt, from 1.
pub const ATTEMPT: HeaderName = HeaderName::from_static("onlyonce-attempt");
/// A number that rises with each attempt of any request: a later attempt has a higher one.
pub const TOKEN: HeaderName = HeaderName::from_static("onlyonce-token");
/// What the service's answer means, if the service says it.
const VERDICT: HeaderName = HeaderName::from_static("onlyonce-verdict");
/// The time that a connection to the service may take.
const CONNECT: Duration = Duration::from_secs(2);

/// An answer's body.
pub type AnswerBody = Either<Incoming, Full<Bytes>>;

/// The service behind.
#[derive(Clone)]
pub struct Upstream {
    client: Client<HttpConnector, RequestBody<Incoming>>,
    base: Uri,
    time: Duration,
}

/// The client's connections, which are plain.
pub fn connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT));
    connector
}

/// Checks that an address can be one of the service.
pub fn check(place: &Uri) -> anyhow::Result<()> {
    match place.scheme_str() {
        Some("http") => {}
        Some("https") => bail!("{place}: TLS is left to other proxies; use http"),
        _ => bail!("{place}: write it as http://host:port"),
    }
    ensure!(place.authority().is_some(), "{place}: write it as http://host:port");
    Ok(())
}

impl Upstream {
    pub fn new(base: Uri, time: Duration, idle: Duration) -> anyhow::Result<Self> {
        check(&base)?;
        ensure!(base.query().is_none(), "{base}: an address without a query");
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(idle)
            .pool_timer(TokioTimer::new())
            .build(connector());
        Ok(Upstream { client, base, time })
    }

    /// The request's place at the service.
    fn place(&self, asked: &Uri) -> Uri {
        let before = self.base.path().trim_end_matches('/');
        let path = asked.path_and_query().map_or("/", PathAndQuery::as_str);
        let place = Uri::builder()
            .scheme("http")
            .authority(self.base.authority().expect("checked").clone())
            .path_and_query(format!("{before}{path}"));
        place.build().unwrap_or_else(|_| self.base.clone())
    }

    /// Passes a request on, and its answer back.
    pub async fn pass(self, mut request: Request<RequestBody<Incoming>>) -> Response<AnswerBody> {
        *request.uri_mut() = self.place(request.uri());
        *request.version_mut() = http::Version::HTTP_11;
        forward(request.headers_mut());
        // What clients send under these names is not the gateway's word.
        for name in [DERIVED_KEY, ATTEMPT, TOKEN, VERDICT] {
            request.headers_mut().remove(name);
        }
        if let Some(attempt) = request.extensions().get::<Attempt>().cloned() {
            told(request.headers_mut(), &attempt);
        }
        if let Some(Peer(peer)) = request.extensions().get::<Peer>() {
            let line = HeaderValue::try_from(peer.ip().to_string()).expect("digits");
            request.headers_mut().append("x-forwarded-for", line);
        }
        let Ok(answer) = timeout(self.time, self.client.request(request)).await else {
            let why = "the service did not answer in time";
            return own(StatusCode::GATEWAY_TIMEOUT, why, Verdict::Unknown);
        };
        match answer {
            Ok(mut answer) => {
                forward(answer.headers_mut());
                if let Some(verdict) = answer.headers_mut().remove(VERDICT)
                    && let Some(verdict) = meant(&verdict)
                {
                    answer.extensions_mut().insert(verdict);
                }
                answer.map(Either::Left)
            }
            // Nothing of the request was sent.
            Err(error) if error.is_connect() => {
                let why = "the service can't be reached";
                let mut answer = own(StatusCode::SERVICE_UNAVAILABLE, why, Verdict::NothingDone);
                answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
                answer
            }
            // The service may have acted on it before.
            Err(_) => {
                let why = "the connection to the service broke";
                own(StatusCode::BAD_GATEWAY, why, Verdict::Unknown)
            }
        }
    }
}

impl tower_service::Service<Request<RequestBody<Incoming>>> for Upstream {
    type Response = Response<AnswerBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody<Incoming>>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { Ok(this.pass(request).await) })
    }
}

/// Tells the service which attempt this is.
pub fn told(headers: &mut HeaderMap, attempt: &Attempt) {
    let value = |text: String| HeaderValue::try_from(text).expect("hexadecimal or digits");
    headers.insert(DERIVED_KEY, value(attempt.derive_key("upstream")));
    headers.insert(ATTEMPT, value(attempt.number().to_string()));
    headers.insert(TOKEN, value(attempt.token().to_string()));
}

fn meant(said: &HeaderValue) -> Option<Verdict> {
    match said.as_bytes() {
        b"final" => Some(Verdict::Final),
        b"nothing-done" => Some(Verdict::NothingDone),
        b"not-retained" => Some(Verdict::NotRetained),
        b"unknown" => Some(Verdict::Unknown),
        _ => None,
    }
}

/// Removes what is of one connection only (RFC 9110, 7.6.1).
fn forward(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    let own = [
        header::CONNECTION,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::TE,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
    ];
    for name in own {
        headers.remove(name);
    }
}

/// The gateway's own answer.
fn own(status: StatusCode, why: &str, verdict: Verdict) -> Response<AnswerBody> {
    let problem = serde_json::json!({
        "type": "about:blank", "status": status.as_u16(),
        "title": status.canonical_reason(), "detail": why,
    });
    let mut answer = Response::new(Either::Right(Full::from(problem.to_string())));
    *answer.status_mut() = status;
    let kind = HeaderValue::from_static("application/problem+json");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer.extensions_mut().insert(verdict);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_of_one_connection_is_not_passed_on() {
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("connection", "x-hop, close"), ("x-hop", "1"), ("upgrade", "h2c"), ("x-end", "1")]
        {
            headers.insert(name, HeaderValue::from_static(value));
        }
        forward(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-end"]);
    }

    #[test]
    fn a_path_of_the_service_comes_before() {
        let second = Duration::from_secs(1);
        let upstream = |base| Upstream::new(Uri::from_static(base), second, second);
        let place =
            |base, asked| upstream(base).unwrap().place(&Uri::from_static(asked)).to_string();
        assert_eq!(place("http://a:1", "/x?y=1"), "http://a:1/x?y=1");
        assert_eq!(place("http://a:1/v1/", "/x"), "http://a:1/v1/x");
        assert!(upstream("https://a").is_err() && upstream("/a").is_err());
        assert!(upstream("http://a/?b").is_err());
    }
}
