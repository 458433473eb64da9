//! What the tests of the HTTP layer share: a store in memory, handlers that count, requests.

#![allow(dead_code, unreachable_pub)]

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use onlyonce::{
    AsyncStore, ManualClock, Options, Store,
    http::{BoxError, BoxFuture, Idempotency, IdempotencyLayer, KeyScope},
    storage::SimStorage,
};
use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::sync::Semaphore;
use tower::{Layer, Service, ServiceExt};

pub type AnyBody = UnsyncBoxBody<Bytes, BoxError>;
pub type Layered = IdempotencyLayer<Store>;

pub const HOUR: Duration = Duration::from_secs(3600);

pub fn options() -> Options {
    Options::new().max_response(64 << 10).max_claims(512).capacity(64 << 20).segment_bytes(1 << 20)
}

pub fn store() -> Store {
    options().open_on(Arc::new(SimStorage::new(7))).unwrap()
}

pub fn store_at(clock: &ManualClock) -> Store {
    options().clock(clock.clone()).open_on(Arc::new(SimStorage::new(7))).unwrap()
}

pub fn layer(store: &Store) -> Layered {
    IdempotencyLayer::new(store.clone(), KeyScope::Global)
}

pub fn async_store(store: &Store) -> AsyncStore<Store> {
    AsyncStore::new(store.clone())
}

pub type Run = dyn Fn(Request<Bytes>) -> BoxFuture<Response<AnyBody>> + Send + Sync;

/// A handler of whole requests with any body, which counts how often it runs.
#[derive(Clone)]
pub struct Handler {
    pub run: Arc<Run>,
    pub runs: Arc<AtomicU64>,
}

impl Handler {
    pub fn runs(&self) -> u64 {
        self.runs.load(Ordering::SeqCst)
    }
}

pub fn handler<F, R>(run: F) -> Handler
where
    F: Fn(Request<Bytes>) -> R + Send + Sync + 'static,
    R: Future<Output = Response<AnyBody>> + Send + 'static,
{
    Handler { run: Arc::new(move |request| Box::pin(run(request))), runs: Arc::default() }
}

/// A handler that waits for a permit of `gate` before it answers.
pub fn gated<F>(gate: &Arc<Semaphore>, answer: F) -> Handler
where
    F: Fn() -> Response<AnyBody> + Send + Sync + 'static,
{
    let (gate, answer) = (gate.clone(), Arc::new(answer));
    handler(move |_| {
        let (gate, answer) = (gate.clone(), answer.clone());
        async move {
            gate.acquire().await.unwrap().forget();
            answer()
        }
    })
}

/// A handler that answers 201 and the number of its run.
pub fn counter() -> Handler {
    let runs = AtomicU64::new(0);
    handler(move |_| {
        let run = runs.fetch_add(1, Ordering::SeqCst) + 1;
        std::future::ready(answer(201, format!("order {run}")))
    })
}

impl<B> Service<Request<B>> for Handler
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: std::fmt::Debug,
{
    type Response = Response<AnyBody>;
    type Error = BoxError;
    type Future = BoxFuture<Result<Response<AnyBody>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let data = body.collect().await.unwrap().to_bytes();
            this.runs.fetch_add(1, Ordering::SeqCst);
            Ok((this.run)(Request::from_parts(parts, data)).await)
        })
    }
}

pub fn answer(status: u16, body: impl Into<Bytes>) -> Response<AnyBody> {
    let body = Full::new(body.into()).map_err(|never| match never {}).boxed_unsync();
    Response::builder().status(status).body(body).unwrap()
}

pub fn with(
    mut answer: Response<AnyBody>,
    name: &'static str,
    value: &'static str,
) -> Response<AnyBody> {
    answer.headers_mut().append(name, value.parse().unwrap());
    answer
}

/// A service behind the layer.
pub fn behind<I>(layer: &Layered, inner: &I) -> Idempotency<Store, I>
where
    I: Clone,
{
    layer.layer(inner.clone())
}

/// An answer that has been read.
#[derive(Clone, Debug, PartialEq)]
pub struct Got {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

impl Got {
    pub async fn of<B: Body<Data = Bytes>>(answer: Response<B>) -> Got
    where
        B::Error: std::fmt::Debug,
    {
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.unwrap();
        let trailers = body.trailers().cloned();
        Got { status: parts.status, headers: parts.headers, body: body.to_bytes(), trailers }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub fn is_replay(&self) -> bool {
        self.header("idempotent-replayed") == Some("true")
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The last part of a problem's type; its other parts are checked.
    #[track_caller]
    pub fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        assert_eq!(self.header("cache-control"), Some("no-store"));
        let body = self.json();
        assert_eq!(body["status"], self.status.as_u16());
        assert!(body["title"].is_string() && body["detail"].is_string());
        assert!(body["instance"].as_str().unwrap().starts_with("urn:uuid:"));
        assert!(body["retryable"].is_boolean());
        let wait = self.header("retry-after").map(|wait| wait.parse::<u64>().unwrap());
        assert_eq!(body["retry_after"].as_u64(), wait);
        assert!(wait.is_none_or(|wait| (1..=10).contains(&wait)));
        let kind = body["type"].as_str().unwrap();
        kind.strip_prefix("urn:onlyonce:problem:").unwrap().to_owned()
    }

    /// Whether the problem says that the same request may be sent again.
    pub fn retryable(&self) -> bool {
        self.json()["retryable"].as_bool().unwrap()
    }
}

pub fn post(key: &str) -> Request<Full<Bytes>> {
    post_body(key, "one book")
}

pub fn post_body(key: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let request = Request::post("/orders").header("host", "here").header("idempotency-key", key);
    request.body(Full::new(body.into())).unwrap()
}

/// Sends a request to a service over a socket: a server and a connection of their own.
pub fn send<I, R>(service: &I, request: Request<Full<Bytes>>) -> BoxFuture<Got>
where
    I: Service<Request<hyper::body::Incoming>, Response = Response<R>> + Clone + Send + 'static,
    I::Future: Send,
    I::Error: Into<BoxError>,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    let service = service.clone();
    Box::pin(async move { send_to(serve(service).await, request).await })
}

/// Sends a request to a service by a call: what a socket can't carry, or has no part in.
pub fn call<I, B, R>(service: &I, request: Request<B>) -> BoxFuture<Got>
where
    I: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    I::Future: Send,
    I::Error: std::fmt::Debug,
    B: Send + 'static,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: std::fmt::Debug,
{
    let call = service.clone().oneshot(request);
    Box::pin(async move { Got::of(call.await.unwrap()).await })
}

/// Serves on a socket, HTTP/1.
pub async fn serve<I, R>(service: I) -> SocketAddr
where
    I: Service<Request<hyper::body::Incoming>, Response = Response<R>> + Clone + Send + 'static,
    I::Future: Send,
    I::Error: Into<BoxError>,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = hyper_util::service::TowerToHyperService::new(service.clone());
            let io = hyper_util::rt::TokioIo::new(stream);
            let connection =
                hyper::server::conn::http1::Builder::new().serve_connection(io, service);
            tokio::spawn(async move { drop(connection.with_upgrades().await) });
        }
    });
    address
}

/// Sends a request over a socket.
pub async fn send_to(address: SocketAddr, request: Request<Full<Bytes>>) -> Got {
    try_send_to(address, request).await.expect("it hung up")
}

/// Sends a request over a socket; `None` if there comes no answer.
pub async fn try_send_to(address: SocketAddr, mut request: Request<Full<Bytes>>) -> Option<Got> {
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
        .build_http();
    let path = request.uri().path_and_query().unwrap().clone();
    // The same for each server: its port is another one each time.
    request.headers_mut().entry("host").or_insert(http::HeaderValue::from_static("here"));
    *request.uri_mut() = format!("http://{address}{path}").parse().unwrap();
    match client.request(request).await {
        Ok(answer) => Some(Got::of(answer).await),
        Err(_) => None,
    }
}

/// Polls `condition` until it holds; fails after ten seconds.
pub async fn until(condition: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(60), "it never came");
        tokio::task::yield_now().await;
    }
}
