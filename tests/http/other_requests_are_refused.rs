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
    assert_eq!(send(&without, changed(|_| {})).await.problem(), "other-definition");
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

/// Two nodes with two definitions on one store, in both orders: what the old one can't compare it
/// leaves to the new one, and says so.
#[tokio::test]
async fn a_rolling_deployment_loses_no_retry() {
    let (store, orders) = (store(), counter());
    let before = Fingerprints::new();
    let after = Fingerprints::new().scheme(2).json_without(["/sent_at"]).or_older(before.clone());
    let [old, new] = [before, after].map(|rules| layer(&store).fingerprint(rules));
    let old = serve(behind(&old, &orders)).await;
    let new = serve(behind(&new, &orders)).await;
    let order = |key: &'static str, body: &'static str| {
        let mut request = changed(|r| *r.body_mut() = Full::from(body));
        request.headers_mut().insert("idempotency-key", HeaderValue::from_static(key));
        request
    };
    let (one, spelled) = (r#"{"book":1,"sent_at":1}"#, r#"{"sent_at":2,"book":1}"#);
    // Begun by the old one: each knows the retry, by the old definition.
    assert_eq!(send_to(old, order("a", one)).await.text(), "order 1");
    assert!(send_to(new, order("a", one)).await.is_replay());
    assert!(send_to(old, order("a", one)).await.is_replay());
    assert_eq!(send_to(new, order("a", spelled)).await.problem(), "key-reused");
    // Begun by the new one: the old one can't tell, and the client comes to the new one.
    assert_eq!(send_to(new, order("b", one)).await.text(), "order 2");
    let unsure = send_to(old, order("b", one)).await;
    assert_eq!((unsure.status.as_u16(), unsure.problem().as_str()), (503, "other-definition"));
    assert!(unsure.retryable() && unsure.header("retry-after").is_some());
    assert!(send_to(new, order("b", spelled)).await.is_replay());
    assert_eq!(send_to(new, order("b", "{}")).await.problem(), "key-reused");
    assert_eq!(orders.runs(), 2);
}

/// A key of a service without the layer is another request's, now and later.
#[tokio::test]
async fn keys_without_a_definition_are_anothers() {
    let (store, orders) = (store(), counter());
    let scope = onlyonce::Scope::global();
    let key = onlyonce::KeyRef::new(&scope, "k").unwrap();
    let begun = store.begin(key, onlyonce::Fingerprint::of(["another"])).unwrap();
    let address = serve(behind(&layer(&store), &orders)).await;
    assert_eq!(send_to(address, post("k")).await.problem(), "key-reused");
    drop(begun);
}

fn typed(kind: &'static str, body: impl Into<Bytes>) -> Req {
    let mut request = post_body("k", body);
    request.headers_mut().insert("content-type", HeaderValue::from_str(kind).unwrap());
    request
}

/// Whether a second request is the first one's retry, by these rules.
async fn is_same(rules: &Fingerprints, one: Req, two: Req) -> bool {
    let (store, orders) = (store(), counter());
    let address = serve(behind(&layer(&store).fingerprint(rules.clone()), &orders)).await;
    assert_eq!(send_to(address, one).await.status, 201);
    let got = send_to(address, two).await;
    assert!(got.is_replay() || got.problem() == "key-reused", "{got:?}");
    got.is_replay()
}

#[tokio::test]
async fn fields_are_left_out_or_chosen() {
    let json = |body: &'static str| typed("application/json", body);
    let without = Fingerprints::new().json_without(["/sent_at", "/meta/id"]);
    let one = r#"{"book":1,"sent_at":1,"meta":{"id":1,"by":"a"}}"#;
    for (two, same) in [
        (r#"{"book":1,"sent_at":2,"meta":{"id":2,"by":"a"}}"#, true),
        (r#"{"meta":{"by":"a"},"book":1}"#, true),
        (r#"{"book":1,"sent_at":1,"meta":{"id":1,"by":"b"}}"#, false),
        (r#"{"book":2,"sent_at":1,"meta":{"id":1,"by":"a"}}"#, false),
    ] {
        assert_eq!(is_same(&without, json(one), json(two)).await, same, "{two}");
    }
    let only = Fingerprints::new().json_only(["/book", "/meta/by"]);
    assert!(is_same(&only, json(one), json(r#"{"book":1,"meta":{"by":"a"},"x":1}"#)).await);
    assert!(!is_same(&only, json(one), json(r#"{"book":1,"meta":{"by":"b"}}"#)).await);
    // What is no JSON counts by its bytes.
    assert!(!is_same(&only, json("{"), json("{ ")).await);
}

#[tokio::test]
async fn bodies_are_left_out_and_forms_compared_by_their_parts() {
    let out = Fingerprints::new().body(false);
    assert!(is_same(&out, post_body("k", "one"), post_body("k", "two")).await);
    assert!(!is_same(&out, post("k"), changed(|_| {})).await);
    let form = |boundary: &str, value: &str| {
        let body = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n{value}\r\n\
             --{boundary}--\r\n"
        );
        let mut request = post_body("k", body);
        let kind = format!("multipart/form-data; boundary={boundary}");
        request.headers_mut().insert("content-type", kind.parse().unwrap());
        request
    };
    let parts = Fingerprints::new().multipart(true);
    assert!(is_same(&parts, form("one", "1"), form("two", "1")).await);
    assert!(!is_same(&parts, form("one", "1"), form("two", "2")).await);
    assert!(!is_same(&Fingerprints::new(), form("one", "1"), form("two", "1")).await);
}

#[tokio::test]
async fn a_function_of_the_service_says_it_all() {
    let rules = Fingerprints::by(|parts, body| {
        [parts.uri.path().as_bytes(), b" ", &body[..body.len().min(3)]].concat()
    });
    let at = |path: &str, body: &'static str| {
        let mut request = post_body("k", body);
        *request.uri_mut() = path.parse().unwrap();
        request
    };
    assert!(is_same(&rules, at("/orders", "one book"), at("/orders?x=1", "one")).await);
    assert!(!is_same(&rules, at("/orders", "one"), at("/orders", "two")).await);
    assert!(!is_same(&rules, at("/orders", "one"), at("/order", "one")).await);
}
