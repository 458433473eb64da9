//! H33: what the layer tells beside the answers themselves: headers, a key's state, its own errors
//! in the service's shape, documents.

use crate::service::*;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request};
use http_body_util::Full;
use onlyonce::{
    AnyStore, AsyncStore, ManualClock, Retention,
    http::{IdempotencyLayer, KeyScope, KeySource, Problem, ProblemDetails, Settlement},
};
use std::{sync::Arc, time::Duration};
use tokio::sync::Semaphore;

#[tokio::test]
async fn whether_a_retry_may_help_and_for_how_long() {
    let clock = ManualClock::at(1_000_000);
    let store = store_at(&clock);
    let orders = handler(|request: Request<Bytes>| async move {
        answer(if request.body() == "broken" { 500 } else { 201 }, "order")
    });
    let layer = layer(&store).retention(Retention { replay_for: HOUR, remember_for: 2 * HOUR });
    let address = serve(behind(&layer, &orders)).await;
    let told = |got: &Got| got.header("idempotency-retryable").map(str::to_owned);
    let first = send_to(address, post("k")).await;
    assert_eq!((told(&first), first.header("idempotency-expires-in")), (None, None));
    clock.advance(Duration::from_secs(90));
    let again = send_to(address, post("k")).await;
    assert_eq!(again.header("age"), Some("90"));
    assert_eq!((told(&again), again.header("idempotency-expires-in")), (None, Some("7110")));
    let other = send_to(address, post_body("k", "other")).await;
    assert_eq!((told(&other).as_deref(), other.retryable()), (Some("false"), false));
    // A 5xx that never changes: a client that goes on waits for nothing.
    send_to(address, post_body("b", "broken")).await;
    let left = send_to(address, post_body("b", "broken")).await;
    assert_eq!((left.status.as_u16(), told(&left).as_deref()), (500, Some("false")));
    // One that may be settled another time.
    let unsure = |_, _| std::future::ready(Settlement::<Full<Bytes>>::Unknown);
    let settling = serve(behind(&layer.settle(unsure), &orders)).await;
    let left = send_to(settling, post_body("b", "broken")).await;
    assert_eq!((left.is_replay(), told(&left).as_deref()), (true, Some("true")));
}

fn status_of(account: &'static str, key: &str) -> Request<Full<Bytes>> {
    let mut request = post(key);
    *request.method_mut() = Method::GET;
    request.headers_mut().insert("account", HeaderValue::from_static(account));
    request
}

#[tokio::test]
async fn what_has_become_of_a_key() {
    let clock = ManualClock::at(1_000_000);
    let (store, gate) = (store_at(&clock), Arc::new(Semaphore::new(0)));
    let orders = gated(&gate, || answer(201, "order"));
    let account =
        |parts: &http::request::Parts| Some(parts.headers.get("account")?.as_bytes().to_vec());
    let layer = IdempotencyLayer::new(store.clone(), KeyScope::by(account)).retention(HOUR);
    let address = serve(behind(&layer, &orders)).await;
    let status = serve(layer.key_status()).await;
    let order = || {
        let mut request = post("k");
        request.headers_mut().insert("account", HeaderValue::from_static("a"));
        request
    };
    let state = async |account| send_to(status, status_of(account, "k")).await.json();
    assert_eq!(state("a").await, serde_json::json!({"state": "unknown"}));
    let first = tokio::spawn(send_to(address, order()));
    until(|| orders.runs() == 1).await;
    clock.advance(Duration::from_secs(7));
    let running = serde_json::json!({"state": "in_flight", "running_seconds": 7});
    assert_eq!(state("a").await, running);
    // Another principal's key is another one.
    assert_eq!(state("b").await["state"], "unknown");
    gate.add_permits(1);
    first.await.unwrap();
    clock.advance(Duration::from_secs(60));
    let done = serde_json::json!({
        "state": "done", "status": 201, "answer_kept": true, "age": 60, "expires_in": 3540,
    });
    assert_eq!(state("a").await, done);
    let missing = send_to(status, status_of("a", "a b")).await;
    assert_eq!(missing.problem(), "key-malformed");
    assert_eq!((orders.runs(), store.stats().granted), (1, 1));
    // The same through a backend chosen at run time.
    let any = AsyncStore::new(AnyStore::new(store.clone()));
    let any = IdempotencyLayer::new(any, KeyScope::by(account)).key_status();
    let got = send_to(serve(any).await, status_of("a", "k")).await;
    assert_eq!(got.json(), done);
}

#[tokio::test]
async fn what_is_interrupted_says_since_when() {
    let clock = ManualClock::at(1_000_000);
    let store = store_at(&clock);
    let layer = layer(&store);
    let orders = handler(|_| async { answer(500, "") });
    send(&behind(&layer, &orders), post("k")).await;
    clock.advance(Duration::from_secs(30));
    let status = serve(layer.key_status()).await;
    let got = send_to(status, status_of("a", "k")).await.json();
    let expected =
        serde_json::json!({"state": "interrupted", "interrupted_seconds": 30, "attempts": 1});
    assert_eq!(got, expected);
}

/// Clients made for APIs whose errors have another shape.
#[tokio::test]
async fn refusals_in_the_shape_of_the_service() {
    let (store, orders) = (store(), counter());
    let own = |problem: &ProblemDetails| {
        assert_eq!(problem.problem(), Problem::KeyReused);
        let body = format!("{}|{}|{}", problem.title(), problem.retryable(), problem.kind());
        (HeaderValue::from_static("text/plain"), Bytes::from(body))
    };
    let ours = serve(behind(&layer(&store).problem_body(own), &orders)).await;
    send_to(ours, post("k")).await;
    let got = send_to(ours, post_body("k", "other")).await;
    assert_eq!((got.status.as_u16(), got.header("content-type")), (422, Some("text/plain")));
    let said = "Idempotency-Key is already used|false|urn:onlyonce:problem:key-reused";
    assert_eq!(got.text(), said);
    assert_eq!(got.header("cache-control"), Some("no-store"));
    let stripe = serve(behind(&layer(&store).problem_body(ProblemDetails::stripe), &orders)).await;
    let got = send_to(stripe, post_body("k", "other")).await;
    assert_eq!((got.status.as_u16(), got.header("content-type")), (422, Some("application/json")));
    let error = &got.json()["error"];
    assert_eq!(
        (&error["type"], &error["code"]),
        (&"idempotency_error".into(), &"key_reused".into())
    );
    assert!(error["message"].as_str().unwrap().starts_with("Idempotency-Key is already used: "));
}

#[tokio::test]
async fn titles_name_the_header_and_links_lead_to_the_page() {
    let (store, orders) = (store(), counter());
    let named = layer(&store)
        .header(HeaderName::from_static("x-my-key"))
        .problem_types("https://api.test/problems/");
    let got = send_to(serve(behind(&named, &orders)).await, post("k")).await;
    assert_eq!(got.json()["title"], "X-My-Key is missing");
    let link = "<https://api.test/problems/key-missing>; rel=\"describedby\"";
    assert_eq!(got.header("link"), Some(link));
    // A URN leads to nothing.
    let got = send_to(serve(behind(&layer(&store), &orders)).await, post("a b")).await;
    assert_eq!((got.problem().as_str(), got.header("link")), ("key-malformed", None));
}

#[test]
fn windows_in_the_policy_are_the_stores_own() {
    let store = options().retention(Retention { replay_for: HOUR, remember_for: 3 * HOUR });
    let store = store.open_on(Arc::new(onlyonce::storage::SimStorage::new(1))).unwrap();
    let published = |layer: &Layered| -> serde_json::Value {
        serde_json::from_str(&layer.policy_json()).unwrap()
    };
    let policy = published(&layer(&store));
    assert_eq!(policy["replay_for_seconds"], 3600);
    assert_eq!(policy["remember_for_seconds"], 3 * 3600);
    assert_eq!(policy["max_response_bytes"], 64 << 10);
    let strict = layer(&store).key(KeySource::default().uuids()).retention(2 * HOUR);
    let policy = published(&strict);
    assert_eq!(policy["key"]["format"], "a UUID, in quotes or without");
    assert_eq!(policy["remember_for_seconds"], 2 * 3600);
}

#[test]
fn the_document_for_openapi_refers_to_what_it_has() {
    let store = store();
    let layer = layer(&store).key(KeySource::default().uuids().min_bytes(36));
    let document: serde_json::Value = serde_json::from_str(&layer.openapi_json()).unwrap();
    let key = &document["components"]["parameters"]["IdempotencyKey"];
    assert_eq!((&key["in"], &key["required"]), (&"header".into(), &true.into()));
    assert_eq!(
        (&key["schema"]["format"], &key["schema"]["minLength"]),
        (&"uuid".into(), &36.into())
    );
    fn references(value: &serde_json::Value, found: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(|to| to.as_str()).map(str::to_owned));
                fields.values().for_each(|value| references(value, found));
            }
            serde_json::Value::Array(all) => all.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 10);
    for reference in found {
        let at = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(at).is_some(), "{reference}");
    }
    let responses = document["components"]["responses"].as_object().unwrap();
    let statuses: Vec<&str> = responses.keys().map(|name| &name["Idempotency".len()..]).collect();
    assert_eq!(statuses, ["400", "408", "409", "413", "422", "429", "500", "503"]);
}
