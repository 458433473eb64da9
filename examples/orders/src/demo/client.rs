//! One HTTP request and its answer.

use crate::orders::NewOrder;
use axum::{
    body::Bytes,
    http::{HeaderMap, Request, header},
};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client as Http, connect::HttpConnector},
    rt::TokioExecutor,
};
use std::time::Duration;

/// Sends orders to one server.
pub struct Client {
    http: Http<HttpConnector, Full<Bytes>>,
    address: String,
}

/// What must be the same whenever the order is sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers that belong to the answer rather than to its delivery.
    pub headers: Vec<(String, Bytes)>,
    /// Byte for byte.
    pub body: Bytes,
}

/// An answer as it was delivered.
pub struct Delivered {
    /// The answer.
    pub answer: Answer,
    /// It says that it is a replay.
    pub replayed: bool,
    /// When it asks to be asked again.
    pub retry_after: Option<Duration>,
}

impl Client {
    /// For the server at `address`.
    pub fn new(address: &str) -> Self {
        let http = Http::builder(TokioExecutor::new())
            // Each failure is ours to see.
            .retry_canceled_requests(false)
            .build_http();
        Client { http, address: address.to_owned() }
    }

    /// Asks the server for anything.
    pub async fn answers(&self) -> anyhow::Result<()> {
        let request = Request::get(format!("http://{}/orders/0", self.address));
        self.http.request(request.body(Full::default())?).await?;
        Ok(())
    }

    /// Sends an order once. The error is one of the connection.
    pub async fn send(&self, key: &str, order: &NewOrder) -> anyhow::Result<Delivered> {
        let body = serde_json::to_vec(order)?;
        let request = Request::post(format!("http://{}/orders", self.address))
            .header("idempotency-key", key)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::from(body))?;
        let (head, body) = self.http.request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(delivered(head.status.as_u16(), head.headers, body))
    }
}

fn delivered(status: u16, mut headers: HeaderMap, body: Bytes) -> Delivered {
    let replayed = headers.remove("idempotent-replayed").is_some();
    let retry_after = headers
        .get(header::RETRY_AFTER)
        .and_then(|seconds| seconds.to_str().ok()?.parse().ok())
        .map(Duration::from_secs);
    headers.remove(header::DATE);
    headers.remove(header::AGE);
    headers.remove("idempotency-expires-in");
    let mut headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.to_string(), Bytes::copy_from_slice(value.as_bytes())))
        .collect();
    headers.sort();
    Delivered { answer: Answer { status, headers, body }, replayed, retry_after }
}
