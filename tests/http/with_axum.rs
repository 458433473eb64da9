//! H4, H8, H17: in axum, with nested routers and extractors.

use crate::service::*;

use axum::{
    Router,
    extract::{FromRequestParts, Path},
    http::{Request, StatusCode, request::Parts},
    routing::post,
};
use bytes::Bytes;
use http_body_util::Full;
use onlyonce::http::Attempt;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

fn order(path: &str, key: &str) -> Request<Full<Bytes>> {
    Request::post(path)
        .header("host", "here")
        .header("idempotency-key", key)
        .body(Full::new("one book".into()))
        .unwrap()
}

fn orders(runs: &Arc<AtomicU64>) -> Router {
    let runs = runs.clone();
    let create = move |attempt: Attempt| async move {
        assert_eq!((attempt.number(), attempt.key()), (1, &b"k"[..]));
        format!("order {}", runs.fetch_add(1, Ordering::SeqCst) + 1)
    };
    Router::new().route("/orders", post(create))
}

#[tokio::test]
async fn route_layer() {
    let (store, runs) = (store(), Arc::default());
    let app = orders(&runs).route_layer(layer(&store));
    assert_eq!(send(&app, order("/orders", "k")).await.text(), "order 1");
    assert!(send(&app, order("/orders", "k")).await.is_replay());
    // What doesn't exist takes no room in the store.
    assert_eq!(send(&app, order("/nothing", "other")).await.status, 404);
    assert_eq!(store.stats().granted, 1);
    let address = serve(app).await;
    let request = http::Request::post("/orders").header("idempotency-key", "k");
    let request = request.body(Full::new(Bytes::from("one book"))).unwrap();
    assert!(send_to(address, request).await.is_replay());
}

#[tokio::test]
async fn nested_paths_are_compared_whole() {
    let (store, runs) = (store(), Arc::default());
    let layer = layer(&store);
    let nested = || orders(&runs).route_layer(layer.clone());
    let app = Router::new().nest("/v1", nested()).nest("/v2", nested());
    assert_eq!(send(&app, order("/v1/orders", "k")).await.text(), "order 1");
    assert_eq!(send(&app, order("/v2/orders", "k")).await.problem(), "key-reused");
    assert!(send(&app, order("/v1/orders", "k")).await.is_replay());
}

#[tokio::test]
async fn applied_twice_the_inner_one_passes() {
    let (store, runs) = (store(), Arc::default());
    let app = orders(&runs).route_layer(layer(&store)).layer(layer(&store));
    assert_eq!(send(&app, order("/orders", "k")).await.text(), "order 1");
    assert!(send(&app, order("/orders", "k")).await.is_replay());
    assert_eq!(store.stats().granted, 1);
}

struct LoggedIn;

impl<S: Sync> FromRequestParts<S> for LoggedIn {
    type Rejection = StatusCode;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, StatusCode> {
        let known = parts.headers.contains_key("authorization");
        known.then_some(LoggedIn).ok_or(StatusCode::UNAUTHORIZED)
    }
}

/// A 401 by an extractor inside the layer is not what the client gets when it has logged in.
#[tokio::test]
async fn rejections_of_extractors_are_not_replayed() {
    let store = store();
    let create = async |_: LoggedIn| "order 1";
    let app = Router::new().route("/orders", post(create)).route_layer(layer(&store));
    assert_eq!(send(&app, order("/orders", "k")).await.status, 401);
    let mut request = order("/orders", "k");
    request.headers_mut().insert("authorization", "Bearer 1".parse().unwrap());
    let got = send(&app, request).await;
    assert_eq!((got.text(), got.is_replay()), ("order 1", false));
}

/// What axum's own extractors refuse leaves the key to the corrected request, by one line of policy.
#[tokio::test]
async fn rejections_burn_no_key() {
    use onlyonce::http::Policy;
    let (store, runs) = (store(), Arc::new(AtomicU64::new(0)));
    let counted = runs.clone();
    let create = async move |Path(id): Path<u64>, axum::Json(items): axum::Json<Vec<u64>>| {
        let run = counted.fetch_add(1, Ordering::SeqCst) + 1;
        (StatusCode::CREATED, format!("{id} {items:?} {run}"))
    };
    let layer = layer(&store).policy(Policy::default().nothing_done(Policy::REJECTIONS));
    let app = Router::new().route("/orders/{id}", post(create)).route_layer(layer);
    let address = serve(app).await;
    let json = Some("application/json");
    let ask = async |path: &str, key: &str, media: Option<&'static str>, body: &'static str| {
        let mut request = post_body(key, body);
        *request.uri_mut() = path.parse().unwrap();
        if let Some(media) = media {
            request.headers_mut().insert("content-type", media.parse().unwrap());
        }
        send_to(address, request).await
    };
    for (nth, (status, path, media, body)) in [
        (400, "/orders/x", json, "[1]"),
        (400, "/orders/7", json, "[1"),
        (422, "/orders/7", json, "{}"),
        (415, "/orders/7", None, "[1]"),
        (415, "/orders/7", Some("text/plain"), "[1]"),
    ]
    .into_iter()
    .enumerate()
    {
        let key = format!("k{nth}");
        let refused = ask(path, &key, media, body).await;
        assert_eq!(refused.status, status, "{refused:?}");
        for replay in [false, true] {
            let got = ask("/orders/7", &key, json, "[1]").await;
            assert_eq!((got.status.as_u16(), got.is_replay()), (201, replay), "{got:?}");
            assert_eq!(got.text(), format!("7 [1] {}", nth + 1));
        }
    }
    assert_eq!((store.stats().completed, runs.load(Ordering::SeqCst)), (5, 5));
}

#[tokio::test]
async fn an_attempt_is_optional_where_there_may_be_none() {
    let store = store();
    let create =
        async |attempt: Option<Attempt>, Path(id): Path<u64>| format!("{id} {}", attempt.is_some());
    let app = Router::new()
        .route("/orders/{id}", post(create).put(create).delete(async |_: Attempt| "never"))
        .route_layer(layer(&store));
    let request = |method: &str| {
        let mut request = order("/orders/7", "k");
        *request.method_mut() = method.parse().unwrap();
        request
    };
    assert_eq!(send(&app, request("POST")).await.text(), "7 true");
    assert_eq!(send(&app, request("PUT")).await.text(), "7 false");
    assert_eq!(send(&app, request("DELETE")).await.status, 500);
}

/// In axum errors are responses; the one that is made of shed load says so.
#[tokio::test]
async fn what_is_shed_is_no_interruption() {
    use onlyonce::http::{BoxError, Verdict};
    let (store, gate) = (store(), Arc::new(tokio::sync::Semaphore::new(0)));
    let runs = Arc::new(AtomicU64::new(0));
    let shed = async |error: BoxError| {
        let verdict = axum::Extension(Verdict::of_error(&*error));
        (StatusCode::SERVICE_UNAVAILABLE, verdict, "shed")
    };
    let create = {
        let (gate, runs) = (gate.clone(), runs.clone());
        move || async move {
            runs.fetch_add(1, Ordering::SeqCst);
            gate.acquire().await.unwrap().forget();
            "order"
        }
    };
    let inside = tower::ServiceBuilder::new()
        .layer(axum::error_handling::HandleErrorLayer::new(shed))
        .layer(tower::load_shed::LoadShedLayer::new())
        .layer(tower::limit::GlobalConcurrencyLimitLayer::new(1));
    let app = Router::new().route("/orders", post(create));
    let address = serve(app.route_layer(inside).route_layer(layer(&store))).await;
    let first = tokio::spawn(send_to(address, order("/orders", "a")));
    until(|| runs.load(Ordering::SeqCst) == 1).await;
    let got = send_to(address, order("/orders", "b")).await;
    assert_eq!((got.status.as_u16(), got.text()), (503, "shed"));
    assert_eq!((store.stats().in_flight, store.stats().interrupted), (1, 0));
    gate.add_permits(2);
    assert_eq!(first.await.unwrap().text(), "order");
    assert_eq!(send_to(address, order("/orders", "b")).await.text(), "order");
}
