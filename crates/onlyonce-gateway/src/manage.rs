//! What operators see: health, metrics and the admin page, at an address of their own.

use crate::keys::Keys;
use anyhow::Context as _;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use onlyonce::{
    AnyStore, KeyRef, Scope,
    admin::{Admin, AdminBody},
    http::IdempotencyLayer,
    metrics::{GROUP_BUCKETS, Publisher, SECONDS_BUCKETS},
    postgres::PostgresStore,
};
use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};
use tower_service::Service;

type Body = Either<AdminBody, Full<Bytes>>;

/// The service at the operators' address.
#[derive(Clone)]
pub struct Manage(Arc<Inner>);

struct Inner {
    layer: IdempotencyLayer<AnyStore>,
    health: Health,
    recorder: PrometheusHandle,
    publisher: Option<Mutex<Publisher>>,
    admin: Option<(Admin, String)>,
}

/// How the store is asked for its state.
enum Health {
    Embedded(onlyonce::Store),
    Postgres(PostgresStore),
}

impl Manage {
    pub fn new(
        keys: &Keys,
        layer: IdempotencyLayer<AnyStore>,
        token: Option<String>,
    ) -> anyhow::Result<Self> {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS_BUCKETS)?
            .set_buckets_for_metric(Matcher::Suffix("_size".into()), &GROUP_BUCKETS)?
            .install_recorder()
            .context("installing the recorder of metrics")?;
        let (health, publisher, admin) = match keys {
            Keys::Embedded(store) => {
                let admin = token.map(|token| {
                    (Admin::new(store).name("onlyonce-gateway").under("/admin"), token)
                });
                let publisher = Mutex::new(Publisher::new(store));
                (Health::Embedded(store.clone()), Some(publisher), admin)
            }
            // Its keys are decided about by the table's own operators.
            Keys::Postgres(store) => (Health::Postgres(store.clone()), None, None),
        };
        Ok(Manage(Arc::new(Inner { layer, health, recorder, publisher, admin })))
    }

    async fn answer(self, request: Request<Incoming>) -> Response<Body> {
        let inner = &self.0;
        match (request.uri().path(), &inner.admin) {
            ("/health", _) => inner.health().await,
            ("/metrics", _) => inner.metrics(),
            (path, Some((admin, token))) if path == "/admin" || path.starts_with("/admin/") => {
                if !knows(request.headers(), token) {
                    let mut answer = text(StatusCode::UNAUTHORIZED, "who are you?\n");
                    let how = HeaderValue::from_static("Basic realm=\"onlyonce-gateway admin\"");
                    answer.headers_mut().insert(header::WWW_AUTHENTICATE, how);
                    return answer;
                }
                let Ok(answer) = admin.clone().call(request).await;
                answer.map(Either::Left)
            }
            _ => text(StatusCode::NOT_FOUND, "here are /health, /metrics and /admin\n"),
        }
    }
}

impl Inner {
    async fn health(&self) -> Response<Body> {
        let trouble = match &self.health {
            Health::Embedded(store) => {
                let stats = store.stats();
                stats.poisoned.or(stats.full)
            }
            Health::Postgres(store) => {
                let scope = Scope::of(["onlyonce-gateway", "health"]);
                let key = KeyRef::new(&scope, "probe").expect("a key");
                store.get(key).await.err().map(|error| error.to_string())
            }
        };
        match trouble {
            None => text(StatusCode::OK, "ok\n"),
            Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        }
    }

    fn metrics(&self) -> Response<Body> {
        if let Some(publisher) = &self.publisher {
            publisher.lock().expect("publishing doesn't panic").publish();
        }
        self.layer.publish();
        let mut answer = text(StatusCode::OK, self.recorder.render());
        let kind = HeaderValue::from_static("text/plain; version=0.0.4");
        answer.headers_mut().insert(header::CONTENT_TYPE, kind);
        answer
    }
}

impl Service<Request<Incoming>> for Manage {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { Ok(this.answer(request).await) })
    }
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut answer = Response::new(Either::Right(Full::new(text.into())));
    *answer.status_mut() = status;
    answer
}

/// Whether the token is among the credentials: as a bearer token, or as the password of any name.
fn knows(headers: &HeaderMap, token: &str) -> bool {
    let line = headers.get(header::AUTHORIZATION).and_then(|line| line.to_str().ok());
    match line.and_then(|line| line.split_once(' ')) {
        Some((scheme, given)) if scheme.eq_ignore_ascii_case("bearer") => {
            same(given.as_bytes(), token.as_bytes())
        }
        Some((scheme, given)) if scheme.eq_ignore_ascii_case("basic") => {
            let plain = STANDARD.decode(given).unwrap_or_default();
            let password = plain.iter().position(|byte| *byte == b':').map(|at| &plain[at + 1..]);
            password.is_some_and(|password| same(password, token.as_bytes()))
        }
        _ => false,
    }
}

/// Compares in a time that doesn't tell how much was right.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}
