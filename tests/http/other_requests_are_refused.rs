//! H4: a key stands for one request.

use crate::service::*;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request};
use http_body_util::Full;
use onlyonce::http::Fingerprints;

type Req = Request<Full<Bytes>>;

fn changed(change: impl FnOnce(&mut Req)) -> Req {
    let mut request = post_body("k", "{}");
    request.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    change(&mut request);
    request
}

fn header(name: &'static str, value: &'static str) -> Req {
    changed(|r| drop(r.headers_mut().insert(name, HeaderValue::from_static(value))))
}

fn others() -> Vec<Req> {
    vec![
        changed(|r| *r.body_mut() = Full::from("{ }")),
        changed(|r| *r.uri_mut() = "/v2/orders".parse().unwrap()),
        changed(|r| *r.uri_mut() = "/orders?dry".parse().unwrap()),
        changed(|r| *r.method_mut() = Method::PATCH),
        header("if-match", "\"1\""),
        header("if-none-match", "*"),
        header("content-type", "text/plain"),
        header("host", "there"),
        header("host", "here:8080"),
    ]
}

fn same() -> Vec<Req> {
    vec![
        header("content-type", "Application/JSON; charset=utf-8"),
        header("user-agent", "curl"),
        header("host", "HERE"),
        header("authorization", "Bearer renewed"),
        header("traceparent", "00-1-1-1"),
    ]
}

#[tokio::test]
async fn others_are_refused_when_it_is_done() {
    let store = store();
    let orders = counter();
    let service = behind(&layer(&store), &orders);
    send(&service, changed(|_| {})).await;
    for other in others() {
        let got = send(&service, other).await;
        assert_eq!((got.status.as_u16(), got.problem().as_str()), (422, "key-reused"));
        assert!(!got.retryable() && !got.text().contains("order 1"));
    }
    for same in same() {
        assert!(send(&service, same).await.is_replay());
    }
    assert_eq!(orders.runs(), 1);
}

#[tokio::test]
async fn and_while_it_runs() {
    let store = store();
    let never = handler(|_| std::future::pending());
    let service = behind(&layer(&store), &never);
    let first = service.clone();
    let first = tokio::spawn(async move { send(&first, changed(|_| {})).await });
    until(|| never.runs() == 1).await;
    for other in others() {
        assert_eq!(send(&service, other).await.problem(), "key-reused");
    }
    for same in same() {
        assert_eq!(send(&service, same).await.problem(), "in-flight");
    }
    first.abort();
}

#[tokio::test]
async fn over_a_socket() {
    let store = store();
    let orders = counter();
    let address = serve(behind(&layer(&store), &orders)).await;
    assert_eq!(send_to(address, post_body("k", "a")).await.status, 201);
    assert_eq!(send_to(address, post_body("k", "b")).await.problem(), "key-reused");
}

#[tokio::test]
async fn what_belongs_to_a_request_can_be_said() {
    let store = store();
    let orders = counter();
    let rules = Fingerprints::new()
        .canonical_json(true)
        .query(false)
        .keyed([7; 32])
        .headers([HeaderName::from_static("x-version")]);
    let service = behind(&layer(&store).fingerprint(rules), &orders);
    send(&service, changed(|_| {})).await;
    let spelled = changed(|r| *r.body_mut() = Full::from(" {\n} "));
    assert!(send(&service, spelled).await.is_replay());
    let queried = changed(|r| *r.uri_mut() = "/orders?utm=1".parse().unwrap());
    assert!(send(&service, queried).await.is_replay());
    assert_eq!(send(&service, header("x-version", "2")).await.problem(), "key-reused");
    assert_eq!(orders.runs(), 1);
}

/// A retry across a deployment that changed the definition.
#[tokio::test]
async fn older_fingerprints_are_compared_by_their_own_scheme() {
    let store = store();
    let orders = counter();
    let old = Fingerprints::new();
    let before = behind(&layer(&store).fingerprint(old.clone()), &orders);
    send(&before, changed(|_| {})).await;
    let now = Fingerprints::new().scheme(2).canonical_json(true);
    let without = behind(&layer(&store).fingerprint(now.clone()), &orders);
    assert_eq!(send(&without, changed(|_| {})).await.problem(), "key-reused");
    let after = behind(&layer(&store).fingerprint(now.or_older(old)), &orders);
    assert!(send(&after, changed(|_| {})).await.is_replay());
    for other in others() {
        assert_eq!(send(&after, other).await.problem(), "key-reused");
    }
    assert_eq!(orders.runs(), 1);
}

/// One service by several names, if it says so; and parameters in any order.
#[tokio::test]
async fn hosts_and_orders_can_be_left_out() {
    let (store, orders) = (store(), counter());
    let rules = Fingerprints::new().host(false).query_order(false);
    let service = behind(&layer(&store).fingerprint(rules), &orders);
    let to = |host: &'static str, path: &'static str| {
        let mut request = post("k");
        request.headers_mut().insert("host", HeaderValue::from_static(host));
        *request.uri_mut() = path.parse().unwrap();
        request
    };
    assert_eq!(send(&service, to("a", "/orders?x=1&b=2&b=1")).await.status, 201);
    assert!(send(&service, to("b", "/orders?b=2&x=1&b=1")).await.is_replay());
    for other in ["/orders?b=1&x=1&b=2", "/orders?b=2&x=2&b=1", "/orders?b=2&x=1", "/orders"] {
        assert_eq!(send(&service, to("a", other)).await.problem(), "key-reused", "{other}");
    }
}

/// A service that takes the host up knows the retries of what it began without.
#[tokio::test]
async fn the_host_comes_by_a_deployment() {
    let (store, orders) = (store(), counter());
    let before = Fingerprints::new().host(false);
    let now = Fingerprints::new().scheme(2).or_older(before.clone());
    let [before, now] =
        [before, now].map(|rules| behind(&layer(&store).fingerprint(rules), &orders));
    assert_eq!(send(&before, post("old")).await.text(), "order 1");
    assert!(send(&now, post("old")).await.is_replay());
    assert_eq!(send(&now, post("new")).await.text(), "order 2");
    let mut other = post("new");
    other.headers_mut().insert("host", HeaderValue::from_static("there"));
    assert_eq!(send(&now, other).await.problem(), "key-reused");
}
