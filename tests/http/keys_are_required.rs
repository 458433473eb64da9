//! H1, H2, H13, H14: which requests need a key, what is one, and whose it is.

use crate::service::*;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request};
use http_body_util::Full;
use onlyonce::http::{IdempotencyLayer, KeyScope};

fn without_key(method: Method) -> Request<Full<Bytes>> {
    Request::builder().method(method).uri("/orders").body(Full::default()).unwrap()
}

#[tokio::test]
async fn without_one_nothing_runs() {
    let store = store();
    let orders = counter();
    let service = behind(&layer(&store), &orders);
    for method in [Method::POST, Method::PATCH] {
        let got = send(&service, without_key(method)).await;
        assert_eq!((got.status.as_u16(), got.problem().as_str()), (400, "key-missing"));
        assert!(!got.retryable());
    }
    assert_eq!((orders.runs(), store.stats().granted), (0, 0));
}

#[tokio::test]
async fn other_methods_and_paths_pass_through() {
    let store = store();
    let orders = handler(|_| async { with(answer(200, "all"), "idempotent-replayed", "mine") });
    let service = behind(&layer(&store), &orders);
    for method in [Method::GET, Method::PUT, Method::DELETE] {
        let got = send(&service, without_key(method.clone())).await;
        assert_eq!(got.header("idempotent-replayed"), Some("mine"));
        let mut keyed = post("k");
        *keyed.method_mut() = method;
        send(&service, keyed).await;
    }
    let elsewhere = behind(&layer(&store).paths(["/payments", "/v2/*"]), &orders);
    send(&elsewhere, without_key(Method::POST)).await;
    assert_eq!((orders.runs(), store.stats().granted), (7, 0));

    let both = layer(&store).paths(["/orders"]).methods([Method::PUT]);
    let got = send(&behind(&both, &orders), without_key(Method::PUT)).await;
    assert_eq!(got.problem(), "key-missing");
}

#[tokio::test]
async fn optional_ones_protect_who_sends_them() {
    let store = store();
    let orders = counter();
    let service = behind(&layer(&store).optional(), &orders);
    for n in 1..=2 {
        let got = send(&service, without_key(Method::POST)).await;
        assert_eq!(got.text(), format!("order {n}"));
    }
    assert_eq!(send(&service, post("k")).await.text(), "order 3");
    assert!(send(&service, post("k")).await.is_replay());
    // A malformed one is none, not a missing one.
    assert_eq!(send(&service, post("\"k")).await.problem(), "key-malformed");
}

#[tokio::test]
async fn quoted_or_bare_it_is_one_key() {
    let store = store();
    let orders = counter();
    let service = behind(&layer(&store), &orders);
    for key in ["8e03978e", "\"8e03978e\"", " \"8e03978e\" ", "\"8e03978e\";v=1"] {
        assert_eq!(send(&service, post(key)).await.text(), "order 1", "{key}");
    }
    assert_eq!(send(&service, post(r#""a\"b""#)).await.text(), "order 2");
    let long = "k".repeat(255);
    assert_eq!(send(&service, post(&long)).await.text(), "order 3");
}

#[tokio::test]
async fn what_is_none_says_why() {
    let store = store();
    let orders = counter();
    let service = behind(&layer(&store), &orders);
    let long = "k".repeat(256);
    let lines: [&[u8]; 9] = [
        b"",
        b"\"\"",
        b"\"open",
        b"a b",
        b"a,b",
        b"caf\xe9",
        b"\"caf\xe9\"",
        b"\"tab\there\"",
        long.as_bytes(),
    ];
    for line in lines {
        let mut request = post("k");
        let line = HeaderValue::from_bytes(line).unwrap();
        request.headers_mut().insert("idempotency-key", line);
        let got = send(&service, request).await;
        assert_eq!((got.status.as_u16(), got.problem().as_str()), (400, "key-malformed"));
    }
    let mut twice = post("k");
    twice.headers_mut().append("idempotency-key", HeaderValue::from_static("k"));
    assert_eq!(send(&service, twice).await.problem(), "key-malformed");
    assert_eq!(orders.runs(), 0);
}

#[tokio::test]
async fn the_header_has_the_name_it_is_given() {
    let store = store();
    let orders = counter();
    let layer = layer(&store).header(HeaderName::from_static("x-my-key"));
    let service = behind(&layer, &orders);
    assert_eq!(send(&service, post("k")).await.problem(), "key-missing");
    let mut request = post("k");
    request.headers_mut().insert("x-my-key", HeaderValue::from_static("k"));
    assert_eq!(send(&service, request).await.status, 201);
}

#[derive(Clone)]
struct Account(&'static str);

fn by(account: &'static str) -> Request<Full<Bytes>> {
    let mut request = post("k");
    request.headers_mut().insert("x-account", HeaderValue::from_static(account));
    request
}

/// As an authentication layer does it.
fn authenticated<B>(mut request: Request<B>) -> Request<B> {
    let account = match request.headers().get("x-account").map(HeaderValue::as_bytes) {
        Some(b"ann") => Account("ann"),
        Some(b"bob") => Account("bob"),
        _ => return request,
    };
    request.extensions_mut().insert(account);
    request
}

#[tokio::test]
async fn principals_do_not_meet() {
    let store = store();
    let orders = counter();
    let scope = KeyScope::by(|parts| Some(parts.extensions.get::<Account>()?.0));
    let service = tower::ServiceBuilder::new()
        .map_request(authenticated)
        .layer(IdempotencyLayer::new(store.clone(), scope))
        .service(orders.clone());
    assert_eq!(send(&service, by("ann")).await.text(), "order 1");
    assert_eq!(send(&service, by("bob")).await.text(), "order 2");
    assert_eq!(send(&service, by("ann")).await.text(), "order 1");
    // Nobody's: the service is wrong, and nothing runs.
    let got = send(&service, post("k")).await;
    assert_eq!((got.status.as_u16(), got.problem().as_str()), (500, "scope-missing"));
    assert_eq!(orders.runs(), 2);
}

#[tokio::test]
async fn problems_have_types_of_their_own_and_no_key_in_them() {
    let store = store();
    let orders = counter();
    let layer = layer(&store).problem_types("https://docs.example/problems/");
    let service = behind(&layer, &orders);
    send(&service, post("secret-key")).await;
    let one = send(&service, post_body("secret-key", "other")).await;
    let two = send(&service, post_body("secret-key", "other")).await;
    assert_eq!(one.json()["type"], "https://docs.example/problems/key-reused");
    assert_ne!(one.json()["instance"], two.json()["instance"]);
    assert!(!one.text().contains("secret-key") && !one.text().contains("order 1"));
}
