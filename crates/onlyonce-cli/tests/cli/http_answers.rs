//! `get` takes apart what the HTTP layer has stored.

use crate::command::{SCOPE, filled, options, path, print, run, run_with, state};
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
    let (scope, print) = (Scope::of(["account-1"]), Fingerprint::of(["book"]).with_scheme(1));
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
    let Some(StoredAnswer::Open { status, headers, body, .. }) =
        StoredAnswer::read(record.response().unwrap())
    else {
        panic!("not the layer's")
    };
    assert_eq!((status.as_u16(), &body[..]), (201, &b"{\"order\":1}"[..]));
    assert_eq!(headers["location"], "/orders/1");
    // And what stays of it when it is not retained any more.
    assert!(StoredAnswer::read(record.head()).is_some());
}

/// A store in which a request of the layer has ended without a decision.
fn interrupted_request(dir: &std::path::Path, store: &onlyonce::Store) {
    let scope = Scope::of(["account-1"]);
    let layer = IdempotencyLayer::new(store.clone(), KeyScope::by(|_| Some("account-1")));
    let ask = || {
        let service = handler(|_| ready(answer(500, "it may have been charged")));
        let request = http::Request::post("/orders").header("idempotency-key", "\"k-1\"");
        let request = request.body(http_body_util::Full::new(bytes::Bytes::from("book"))).unwrap();
        layer.clone().layer(service).oneshot(request)
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert_eq!(runtime.block_on(ask()).unwrap().status(), 500);
    let state = store.get(KeyRef::new(&scope, "k-1").unwrap()).unwrap().unwrap().state;
    assert!(matches!(state, onlyonce::State::Interrupted { .. }), "{state:?} in {dir:?}");
}

/// What the layer answers to a retry.
fn retried(store: &onlyonce::Store) -> (u16, String) {
    use http_body_util::BodyExt;
    let layer = IdempotencyLayer::new(store.clone(), KeyScope::by(|_| Some("account-1")));
    let service = handler(|_| ready(answer(500, "executed again")));
    let request = http::Request::post("/orders").header("idempotency-key", "\"k-1\"");
    let request = request.body(http_body_util::Full::new(bytes::Bytes::from("book"))).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let answered = layer.layer(service).oneshot(request).await.unwrap();
        let status = answered.status().as_u16();
        let body = answered.into_body().collect().await.map(|body| body.to_bytes());
        (status, String::from_utf8_lossy(&body.unwrap_or_default()).into_owned())
    })
}

/// Else each retry would be answered by a 500, for good.
#[test]
fn an_answer_that_the_layer_could_not_replay_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let open = || options().open(dir.path()).unwrap();
    let store = open();
    interrupted_request(dir.path(), &store);
    store.close().unwrap();
    let text = run(&["get", path(dir.path()), "account-1", "k-1"]).ok();
    assert!(text.contains("complete it with --status"), "{text}");
    assert_eq!(run(&["list", path(dir.path()), "--json"]).lines()[0]["layer"], "http");
    let before = state(dir.path());
    let one = ["resolve", path(dir.path()), "account-1", "k-1", "complete"];
    for force in [&[][..], &["--force"]] {
        let args = [&one[..], &["--response", "{\"order\":1}"], force].concat();
        assert!(!run(&args).fails(9, "add --status, as in --status 201").contains("--force"));
    }
    let many = ["resolve-many", path(dir.path()), "--state", "interrupted", "complete"];
    let said = run(&[&many[..], &["--response", "x", "--yes"]].concat());
    assert!(said.code == 9 && said.out.contains("add --status"), "{said:?}");
    for (status, header, why) in [
        ("100", "a: b", "below 200"),
        ("204", "a: b", "no body"),
        ("200", "content-length: 3", "made for each answer"),
        ("200", "transfer-encoding: chunked", "made for each answer"),
    ] {
        let how = ["--response", "x", "--status", status, "--header", header];
        run(&[&one[..], &how].concat()).fails(2, why);
    }
    assert_eq!(state(dir.path()), before);
    run(&[&one[..], &["--response", "{\"order\":1}", "--status", "201"]].concat()).ok();
    let store = open();
    assert_eq!(retried(&store), (201, "{\"order\":1}".to_owned()));
    store.close().unwrap();
}

/// What its holder left is an answer as the layer stores it.
#[test]
fn the_holder_s_answer_is_taken_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path()).unwrap();
    interrupted_request(dir.path(), &store);
    store.close().unwrap();
    let left = run(&["get", path(dir.path()), "account-1", "k-1", "--raw"]).bytes;
    let file = dir.path().join("left");
    std::fs::write(&file, left).unwrap();
    let args = ["resolve", path(dir.path()), "account-1", "k-1", "complete", "--response-file"];
    run(&[&args[..], &[path(&file)]].concat()).ok();
    let store = options().open(dir.path()).unwrap();
    assert_eq!(retried(&store), (500, "it may have been charged".to_owned()));
    store.close().unwrap();
}

/// Nor does a service without the layer get what it can't read; but the operator knows best.
#[test]
fn a_key_of_the_service_s_own_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let scheme_7 = print().with_scheme(7);
    let store = options().open(dir.path()).unwrap();
    let scope = crate::command::scope();
    for name in ["own", "left"] {
        drop(store.begin(KeyRef::new(&scope, name).unwrap(), scheme_7).unwrap());
    }
    let Begin::Interrupted(stuck) =
        store.begin(KeyRef::new(&scope, "left").unwrap(), scheme_7).unwrap()
    else {
        panic!("not interrupted")
    };
    let Begin::Execute(mut claim) = stuck.take_over().unwrap() else { panic!("not granted") };
    claim.fail(b"own words").unwrap();
    drop(claim);
    store.close().unwrap();
    let complete = |key: &str, how: &[&str]| {
        run(&[&["resolve", path(dir.path()), SCOPE, key, "complete"], how].concat())
    };
    complete("stuck", &["--response", "x", "--status", "200"]).fails(9, "leave out --status");
    complete("stuck", &["--response", "x", "--status", "200", "--layer", "http"]).ok();
    complete("own", &["--response", "x"]).fails(9, "--layer own");
    complete("own", &["--response", "x", "--layer", "own"]).ok();
    complete("left", &["--response", "x"]).ok();
    complete("held", &["--response", "x", "--layer", "other"]).misused();
}

#[test]
fn a_running_service_refuses_it_too() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path()).unwrap();
    interrupted_request(dir.path(), &store);
    let admin = onlyonce::admin::Admin::new(&store);
    let url = format!("http://{}/", crate::admin_client::serve(admin));
    let complete = |command: &[&str], how: &[&str]| {
        run(&[command, &["--url", &url, "complete", "--response", "made"], how].concat())
    };
    let one = ["resolve", "account-1", "k-1"];
    let line = complete(&one, &["--force"]).fails(9, "add --status");
    assert!(!line.contains("--force"), "{line}");
    let many = ["resolve-many", "--state", "interrupted", "--yes"];
    let said = complete(&many, &[]);
    assert!(said.code == 9 && said.out.contains("add --status"), "{said:?}");
    assert_eq!(complete(&many, &["--status", "202"]).ok(), "1 key is completed\n");
    assert_eq!(retried(&store), (202, "made".to_owned()));
}

/// An answer that the layer can't replay is what a key of it may be completed with by its
/// service's own code, or was by an earlier version.
#[test]
fn an_answer_that_makes_every_retry_fail_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path()).unwrap();
    interrupted_request(dir.path(), &store);
    let scope = Scope::of(["account-1"]);
    let key = KeyRef::new(&scope, "k-1").unwrap();
    let completion = onlyonce::Completion { response: Some(b"{}"), ..Default::default() };
    let by_hand = onlyonce::Resolution::Complete { fingerprint: None, completion };
    store.resolve(key, by_hand).unwrap();
    assert_eq!(retried(&store).0, 500);
    let admin = onlyonce::admin::Admin::new(&store);
    let url = format!("http://{}/", crate::admin_client::serve(admin));
    let replace = |how: &[&str]| {
        let one = ["resolve", "--url", &url, "account-1", "k-1", "replace", "--response"];
        run(&[&one[..], how].concat())
    };
    replace(&["{\"order\":1}"]).fails(9, "add --status");
    replace(&["{\"order\":1}", "--status", "201"]).ok();
    assert_eq!(retried(&store), (201, "{\"order\":1}".to_owned()));
    store.close().unwrap();
    let offline = ["resolve", path(dir.path()), "account-1", "k-1", "replace", "--response", "2"];
    run(&offline).fails(9, "add --status");
    run(&[&offline[..], &["--status", "200"]].concat()).ok();
    let store = options().open(dir.path()).unwrap();
    assert_eq!(retried(&store), (200, "2".to_owned()));
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

/// Records of another store become answers that the layer replays.
#[tokio::test]
async fn answers_that_are_imported() {
    let dir = tempfile::tempdir().unwrap();
    let line = r#"{"scope":["account-1"],"key":"k-1",
        "http_request":{"method":"POST","path":"/orders","query":"dry=1","host":"shop.test",
            "content_type":"application/json","body":"{}"},
        "http":{"status":201,"headers":[["location","/orders/1"]],"body":"order 1"},
        "expires_in":-1}"#;
    let gone = r#"{"scope":["account-1"],"key":"k-2","fingerprint":"4f6d13f4e64b4176f2a628c1713b2c33",
        "response":"r","expires_in":-2}"#;
    let lines = [line, gone].map(|line| line.replace('\n', "")).join("\n");
    let told = run_with(&["import", path(dir.path()), "--create"], &lines).ok();
    assert!(told.contains('1'), "{told}");
    let store = options().open(dir.path()).unwrap();
    let layer = IdempotencyLayer::new(store.clone(), KeyScope::by(|_| Some("account-1")));
    let never = handler(|_| async { unreachable!("it was executed before") });
    let request = http::Request::post("/orders?dry=1")
        .header("idempotency-key", "k-1")
        .header("host", "shop.test")
        .header("content-type", "application/json")
        .body(http_body_util::Full::new(bytes::Bytes::from("{}")))
        .unwrap();
    let got = crate::service::call(&layer.layer(never), request).await;
    assert_eq!((got.status.as_u16(), got.text(), got.is_replay()), (201, "order 1", true));
    assert_eq!(got.header("location"), Some("/orders/1"));
    drop(layer);
    store.close().unwrap();
}
