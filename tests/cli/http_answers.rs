//! `get` takes apart what the HTTP layer has stored.

use crate::command::{options, path, run};
use crate::service::{answer, handler, with};
use onlyonce::{
    Begin, Fingerprint, KeyRef, Scope,
    http::{IdempotencyLayer, KeyScope, StoredAnswer},
};
use std::future::ready;
use tower::{Layer, ServiceExt};

#[tokio::test]
async fn an_answer_with_its_headers() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path()).unwrap();
    let layer = IdempotencyLayer::new(store.clone(), KeyScope::by(|_| Some("account-1")));
    let service = handler(|_| {
        let answer = answer(201, "{\"order\":1}");
        ready(with(with(answer, "location", "/orders/1"), "content-type", "application/json"))
    });
    let request = http::Request::post("/orders").header("idempotency-key", "\"k-1\"");
    let request = request.body(http_body_util::Full::new(bytes::Bytes::from("book"))).unwrap();
    let answered = layer.layer(service).oneshot(request).await.unwrap();
    assert_eq!(answered.status(), 201);
    drop(layer);
    let get = |more: &[&str]| run(&[&["get", path(dir.path()), "account-1", "k-1"], more].concat());
    let text = get(&[]).ok();
    for what in ["HTTP 201 Created", "location: /orders/1", "{\"order\":1}"] {
        assert!(text.contains(what), "{what}: {text}");
    }
    let json = get(&["--json"]).json();
    assert_eq!(
        (&json["http"]["status"], &json["http"]["body"]),
        (&201.into(), &"{\"order\":1}".into())
    );
    let location = serde_json::json!(["location", "/orders/1"]);
    assert!(json["http"]["headers"].as_array().unwrap().contains(&location), "{json}");
    store.close().unwrap();
}

/// What an operator completes is what the layer replays.
#[test]
fn an_answer_that_an_operator_gives() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path()).unwrap();
    let (scope, print) = (Scope::of(["account-1"]), Fingerprint::of(["book"]));
    let key = KeyRef::new(&scope, "k-1").unwrap();
    drop(store.begin(key, print).unwrap());
    store.close().unwrap();
    run(&[
        "resolve",
        path(dir.path()),
        "account-1",
        "k-1",
        "complete",
        "--status",
        "201",
        "--header",
        "Location: /orders/1",
        "--response",
        "{\"order\":1}",
    ])
    .ok();
    let text = run(&["get", path(dir.path()), "account-1", "k-1"]).ok();
    assert!(text.contains("HTTP 201 Created") && text.contains("location: /orders/1"), "{text}");
    let store = options().open(dir.path()).unwrap();
    let Begin::Replay(record) = store.begin(key, print).unwrap() else { panic!("no record") };
    let Some(StoredAnswer::Open { status, headers, body }) =
        StoredAnswer::read(record.response().unwrap())
    else {
        panic!("not the layer's")
    };
    assert_eq!((status.as_u16(), &body[..]), (201, &b"{\"order\":1}"[..]));
    assert_eq!(headers["location"], "/orders/1");
    // And what stays of it when it is not retained any more.
    assert!(StoredAnswer::read(record.head()).is_some());
}

#[test]
fn headers_that_are_none() {
    let resolve = |more: &[&str]| {
        let args = ["resolve", "nowhere", "a", "k", "complete", "--response", "x"];
        run(&[&args[..], more].concat())
    };
    resolve(&["--status", "7"]).misused();
    resolve(&["--status", "201", "--header", "nonsense"]).misused();
    resolve(&["--header", "a: b"]).misused();
}
