//! Asks the service what became of a request whose answer was lost.

use crate::upstream::{check, connector, told};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use onlyonce::http::{Attempt, Settlement};
use std::time::Duration;
use tokio::time::timeout;

/// What the service says: `happened`, `nothing-happened` or `unknown`.
const SETTLED: HeaderName = HeaderName::from_static("onlyonce-settled");
/// The method of the request that is asked about.
const METHOD: HeaderName = HeaderName::from_static("onlyonce-method");
/// Its path and query.
const PATH: HeaderName = HeaderName::from_static("onlyonce-path");
/// The time for an answer.
const TIME: Duration = Duration::from_secs(10);
/// The size of the largest.
const ANSWER_BYTES: usize = 16 << 20;

/// The call-back.
#[derive(Clone)]
pub struct CallBack {
    client: Client<HttpConnector, Full<Bytes>>,
    place: Uri,
}

impl CallBack {
    pub fn new(place: Uri) -> anyhow::Result<Self> {
        check(&place)?;
        let client = Client::builder(TokioExecutor::new());
        // Each question on a connection of its own: they are rare.
        let client = client.clone().pool_max_idle_per_host(0).build(connector());
        Ok(CallBack { client, place })
    }

    /// Asks. Everything but a clear answer is unknown: the key stays as it is, and is asked about
    /// again later.
    pub async fn ask(self, attempt: Attempt, about: Request<Bytes>) -> Settlement<Full<Bytes>> {
        timeout(TIME, self.asked(attempt, about))
            .await
            .unwrap_or(None)
            .unwrap_or(Settlement::Unknown)
    }

    async fn asked(
        self,
        attempt: Attempt,
        about: Request<Bytes>,
    ) -> Option<Settlement<Full<Bytes>>> {
        let (parts, body) = about.into_parts();
        let mut headers = HeaderMap::new();
        // What identifies the request and its sender, as it came.
        for (name, value) in &parts.headers {
            let of_the_connection =
                [header::CONNECTION, header::TRANSFER_ENCODING, header::TE, header::CONTENT_LENGTH];
            if !of_the_connection.contains(name) && *name != SETTLED {
                headers.append(name, value.clone());
            }
        }
        told(&mut headers, &attempt);
        headers.insert(METHOD, HeaderValue::from_str(parts.method.as_str()).ok()?);
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        headers.insert(PATH, HeaderValue::from_str(path).ok()?);
        let mut request = Request::new(Full::from(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.place.clone();
        *request.headers_mut() = headers;
        let (mut head, body) = self.client.request(request).await.ok()?.into_parts();
        match head.headers.remove(SETTLED)?.as_bytes() {
            b"happened" => {
                // An answer that breaks off is none.
                let body = Limited::new(body, ANSWER_BYTES).collect().await.ok()?.to_bytes();
                for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::CONTENT_LENGTH]
                {
                    head.headers.remove(name);
                }
                Some(Settlement::Happened(Response::from_parts(head, Full::from(body))))
            }
            b"nothing-happened" => Some(Settlement::NothingHappened),
            _ => None,
        }
    }
}
