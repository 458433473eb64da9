//! H32: keys from elsewhere than one header, and webhooks as their senders send them.

use crate::service::*;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, StatusCode, request::Parts};
use http_body_util::Full;
use onlyonce::http::{Fingerprints, IdempotencyLayer, KeyScope, KeySource, Policy};
use std::{sync::Arc, time::Duration};
use tokio::sync::Semaphore;

type Req = Request<Full<Bytes>>;

fn to(path: &str, headers: &[(&'static str, &str)], body: &str) -> Req {
    let mut request = Request::post(path).header("host", "here");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).unwrap()
}

#[tokio::test]
async fn one_of_several_headers() {
    let (store, orders) = (store(), counter());
    let names = ["idempotency-key", "x-idempotency-key"].map(HeaderName::from_static);
    let keyed = layer(&store).key(KeySource::headers(names));
    let address = serve(behind(&keyed, &orders)).await;
    let sent = |headers: &[(&'static str, &str)]| send_to(address, to("/orders", headers, "a"));
    assert_eq!(sent(&[("idempotency-key", "k")]).await.text(), "order 1");
    assert!(sent(&[("x-idempotency-key", "\"k\"")]).await.is_replay());
    let both = [("idempotency-key", "k"), ("x-idempotency-key", "k")];
    assert!(sent(&both).await.is_replay());
    let differing = [("idempotency-key", "k"), ("x-idempotency-key", "other")];
    assert_eq!(sent(&differing).await.problem(), "key-malformed");
    let got = sent(&[]).await;
    assert_eq!(got.problem(), "key-missing");
    assert!(got.text().contains("Idempotency-Key or X-Idempotency-Key"), "{got:?}");
    assert_eq!(orders.runs(), 1);
}

#[tokio::test]
async fn by_a_function_of_the_request() {
    let (store, orders) = (store(), counter());
    let find = |parts: &Parts, body: &Bytes| {
        let account = parts.headers.get("account")?.to_str().ok()?;
        let order = std::str::from_utf8(body).ok()?.strip_prefix("order ")?;
        Some(format!("{account}/{order}"))
    };
    let service = behind(&layer(&store).key(KeySource::by(find)), &orders);
    let address = serve(service).await;
    let sent = |account, body| send_to(address, to("/orders", &[("account", account)], body));
    assert_eq!(sent("a", "order 7").await.text(), "order 1");
    assert!(sent("a", "order 7").await.is_replay());
    assert_eq!(sent("b", "order 7").await.text(), "order 2");
    assert_eq!(sent("b", "no order").await.problem(), "key-missing");
    assert_eq!(sent("b", &format!("order {}", "7".repeat(300))).await.problem(), "key-malformed");
    // Where none is needed, the handler gets the body that was read.
    let optional = layer(&store).key(KeySource::by(find)).optional();
    let echo = handler(|request: Request<Bytes>| async { answer(200, request.into_body()) });
    let address = serve(behind(&optional, &echo)).await;
    assert_eq!(send_to(address, to("/orders", &[], "no order")).await.text(), "no order");
    assert_eq!((orders.runs(), store.stats().granted), (2, 2));
}

#[tokio::test]
async fn only_keys_of_the_form_that_is_asked_for() {
    let (store, orders) = (store(), counter());
    let uuids = serve(behind(&layer(&store).key(KeySource::default().uuids()), &orders)).await;
    let long = serve(behind(&layer(&store).key(KeySource::default().min_bytes(8)), &orders)).await;
    let good = "8e03978e-40d5-43dd-bc93-6894a57f9324";
    assert_eq!(send_to(uuids, post(&format!("\"{good}\""))).await.status, 201);
    for bad in
        ["8e03978e", "8e03978e-40d5-43dd-bc93-6894a57f932g", "8e03978e40d543ddbc936894a57f9324"]
    {
        let got = send_to(uuids, post(bad)).await;
        assert_eq!((got.status.as_u16(), got.problem().as_str()), (400, "key-malformed"), "{bad}");
    }
    assert_eq!(send_to(long, post("8e03978")).await.problem(), "key-malformed");
    assert_eq!(send_to(long, post("8e03978e")).await.status, 201);
}

/// The function isn't called before the body is whole, and a claim isn't held.
#[tokio::test]
async fn a_key_in_the_body_holds_nothing_while_it_comes() {
    let (store, gate) = (store(), Arc::new(Semaphore::new(0)));
    let orders = gated(&gate, || answer(201, "order"));
    let keyed = layer(&store).key(KeySource::json("/id")).max_body(100);
    let address = serve(behind(&keyed, &orders)).await;
    let large = format!("{{\"id\":\"k\",\"more\":\"{}\"}}", "x".repeat(200));
    assert_eq!(send_to(address, to("/orders", &[], &large)).await.problem(), "body-too-large");
    let first = tokio::spawn(send_to(address, to("/orders", &[], "{\"id\":\"k\"}")));
    until(|| orders.runs() == 1).await;
    let other = to("/orders", &[], "{\"id\":\"k\"}");
    assert_eq!(send_to(address, other).await.problem(), "in-flight");
    gate.add_permits(1);
    assert_eq!(first.await.unwrap().text(), "order");
}

/// An event as Stripe delivers it; the signature, which an outer layer checks, and the number of
/// pending deliveries are other ones at each delivery.
fn stripe_event(id: &str, pending: u32) -> Req {
    let body = format!(
        r#"{{
  "id": "{id}", "object": "event", "api_version": "2026-05-27", "created": 1795000000,
  "data": {{"object": {{"id": "pi_3M", "object": "payment_intent", "amount": 2000}}}},
  "livemode": false, "pending_webhooks": {pending},
  "request": {{"id": "req_1", "idempotency_key": "8e03978e"}}, "type": "payment_intent.succeeded"
}}"#
    );
    let signature = format!("t=179500000{pending},v1=5257a869e7");
    let headers = [("content-type", "application/json"), ("stripe-signature", signature.as_str())];
    to("/hooks/stripe", &headers, &body)
}

/// An event after the Standard Webhooks specification.
fn standard_event(id: &str, at: u32) -> Req {
    let body = r#"{"type":"invoice.paid","timestamp":"2026-11-30T10:00:00Z","data":{"id":"in_1"}}"#;
    let headers = [
        ("content-type", "application/json"),
        ("webhook-id", id),
        ("webhook-timestamp", &at.to_string()),
        ("webhook-signature", "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4="),
    ];
    to("/hooks/standard", &headers, body)
}

/// What the chapter "Receiving webhooks" recommends.
fn receiving(store: &onlyonce::Store, key: KeySource) -> Layered {
    let sender = |parts: &Parts| Some(parts.uri.path().to_owned());
    IdempotencyLayer::new(store.clone(), KeyScope::by(sender))
        .key(key)
        .fingerprint(Fingerprints::new().body(false))
        .policy(Policy::default().nothing_done([StatusCode::BAD_REQUEST]))
        .resume()
        .max_body(256 << 10)
        .retention(Duration::from_secs(30 * 24 * 3600))
}

#[tokio::test]
async fn events_are_handled_once_and_a_failed_one_again() {
    let store = store();
    // Refuses the first delivery, breaks at the second, and takes the third.
    let tries = std::sync::atomic::AtomicU64::new(0);
    let hooks = handler(move |_| {
        let status =
            [400, 500, 200][tries.fetch_add(1, std::sync::atomic::Ordering::SeqCst) as usize];
        std::future::ready(answer(status, format!("{status}")))
    });
    let stripe = serve(behind(&receiving(&store, KeySource::json("/id")), &hooks)).await;
    for (pending, status, replay) in
        [(5, 400, false), (4, 500, false), (3, 200, false), (2, 200, true), (1, 200, true)]
    {
        let got = send_to(stripe, stripe_event("evt_1", pending)).await;
        assert_eq!((got.status.as_u16(), got.is_replay()), (status, replay), "{pending}");
    }
    assert_eq!((hooks.runs(), store.stats().completed), (3, 1));
    let nameless = to("/hooks/stripe", &[], r#"{"object":"event"}"#);
    assert_eq!(send_to(stripe, nameless).await.problem(), "key-missing");
}

#[tokio::test]
async fn senders_do_not_meet() {
    let (store, hooks) = (store(), counter());
    let stripe = serve(behind(&receiving(&store, KeySource::json("/id")), &hooks)).await;
    let name = KeySource::header(HeaderName::from_static("webhook-id"));
    let standard = serve(behind(&receiving(&store, name), &hooks)).await;
    assert_eq!(send_to(stripe, stripe_event("same", 1)).await.text(), "order 1");
    assert_eq!(send_to(standard, standard_event("same", 1)).await.text(), "order 2");
    assert!(send_to(standard, standard_event("same", 2)).await.is_replay());
    assert!(send_to(stripe, stripe_event("same", 2)).await.is_replay());
}

/// Tool calls of agents (MCP): a JSON-RPC request whose number is another one for each try, and
/// whose key the client has put into `_meta`.
#[tokio::test]
async fn tool_calls_of_agents() {
    let (store, tools) = (store(), counter());
    let rules = Fingerprints::new().json_only(["/method", "/params/name", "/params/arguments"]);
    let find = |_: &Parts, body: &Bytes| {
        let call: serde_json::Value = serde_json::from_slice(body).ok()?;
        let called = call.get("method")? == "tools/call";
        let key = called.then(|| call.pointer("/params/_meta/idempotencyKey"))??;
        key.as_str().map(str::to_owned)
    };
    // Listing the tools, and calls without a key, pass.
    let keyed = layer(&store).key(KeySource::by(find)).optional().fingerprint(rules);
    let address = serve(behind(&keyed, &tools)).await;
    let call = |number: u32, amount: u32| {
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":{number},"method":"tools/call","params":{{"name":"pay",
                "arguments":{{"amount":{amount}}},"_meta":{{"idempotencyKey":"k","progressToken":{number}}}}}}}"#
        );
        to("/mcp", &[("content-type", "application/json")], &body)
    };
    assert_eq!(send_to(address, call(1, 42)).await.text(), "order 1");
    assert!(send_to(address, call(2, 42)).await.is_replay());
    assert_eq!(send_to(address, call(3, 43)).await.problem(), "key-reused");
    let list = to("/mcp", &[], r#"{"jsonrpc":"2.0","id":4,"method":"tools/list"}"#);
    assert_eq!(send_to(address, list).await.text(), "order 2");
}

/// An AWS-like token in the body; the JSON may be written another way.
#[tokio::test]
async fn tokens_of_clients_in_the_body() {
    let (store, instances) = (store(), counter());
    let keyed = layer(&store)
        .key(KeySource::json("/ClientToken"))
        .fingerprint(Fingerprints::new().canonical_json(true));
    let address = serve(behind(&keyed, &instances)).await;
    let run = |body: &str| to("/", &[("content-type", "application/x-amz-json-1.1")], body);
    let json = |body: &str| {
        let mut request = run(body);
        let kind = HeaderValue::from_static("application/json");
        request.headers_mut().insert("content-type", kind);
        request
    };
    let first = r#"{"ClientToken":"550e8400","ImageId":"ami-1","MinCount":1}"#;
    assert_eq!(send_to(address, json(first)).await.text(), "order 1");
    let again = r#"{ "MinCount": 1, "ImageId": "ami-1", "ClientToken": "550e8400" }"#;
    assert!(send_to(address, json(again)).await.is_replay());
    let other = r#"{"ClientToken":"550e8400","ImageId":"ami-2","MinCount":1}"#;
    assert_eq!(send_to(address, json(other)).await.problem(), "key-reused");
    // The suffix of AWS' own media type isn't `+json`: bytes count there.
    assert_eq!(send_to(address, run(first)).await.problem(), "key-reused");
}
