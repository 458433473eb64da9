//! The admin service, mounted.

use crate::server::Server;
use std::path::Path;

fn start(dir: &Path) -> Server {
    Server::start_with(dir, &[("ORDERS_ADMIN_TOKEN", "s3cret")])
}

const BEARER: &str = "Authorization: Bearer s3cret";

#[test]
fn only_who_knows_the_token_gets_in() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    for line in [
        "X: y",
        "Authorization: Bearer wrong",
        "Authorization: Basic czNjcmV0",
        "Authorization: s3cret",
    ] {
        for path in ["/admin", "/admin/api/keys"] {
            let answer = server.get_with(path, &[line]);
            assert_eq!(answer.status, 401, "{line}");
            assert!(answer.has("www-authenticate: basic"));
        }
    }
    assert_eq!(server.get_with("/admin", &[BEARER]).status, 200);
    // "ops:s3cret"
    let basic = "Authorization: Basic b3BzOnMzY3JldA==";
    let page = server.get_with("/admin", &[basic]);
    assert!(page.status == 200 && page.has("content-type: text/html"));
    assert_eq!(server.get_with("/admin/api/health", &[basic]).status, 200);
}

#[test]
fn without_a_token_there_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    assert_eq!(server.get("/admin").status, 404);
}

#[test]
fn an_answer_given_by_an_operator_is_replayed() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    let slow = r#"{"item":"desk","quantity":1,"delay_ms":600000}"#;
    let waiting = server.send(&["Idempotency-Key: k"], slow);
    let mut found = serde_json::Value::Null;
    crate::server::until("a key in flight", || {
        let listed = server.get_with("/admin/api/keys", &[BEARER]);
        found = serde_json::from_slice(&listed.body).unwrap();
        found["keys"].as_array().is_some_and(|keys| keys.len() == 1)
    });
    let key = &found["keys"][0];
    let body = serde_json::json!({
        "scope": key["scope"], "key": key["key"], "token": key["token"], "force": true,
        "decision": "complete",
        "answer": { "text": "{\"id\":7}", "http": { "status": 201, "headers": [["content-type", "application/json"]] } },
    });
    let answer =
        server.post_to("/admin/api/resolve", &[BEARER, "X-Onlyonce-Admin: 1"], &body.to_string());
    assert_eq!(answer.status, 200, "{:?}", String::from_utf8(answer.body));
    let retried = server.order("k", slow);
    assert_eq!(
        (retried.status, retried.replayed, &retried.body[..]),
        (201, true, &b"{\"id\":7}"[..])
    );
    drop(waiting);
}
