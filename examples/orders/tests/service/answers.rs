//! What a client is answered, over a real socket.

use crate::server::{Answer, Server};

const KEY: &str = "Idempotency-Key: k";
const BOOK: &str = r#"{"item":"book","quantity":1}"#;
const SLOW: &str = r#"{"item":"desk","quantity":1,"delay_ms":600000}"#;

#[test]
fn a_retry_is_answered_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let first = server.order("8e03978e", BOOK);
    assert_eq!(first.status, 201);
    assert!(!first.replayed);
    assert!(first.has("location: /orders/1"));
    assert!(first.has("content-type: application/json"));
    // The quoted key is the same key; the spelling of the body doesn't matter.
    assert_eq!(server.order("8e03978e", BOOK), first.again());
    assert_eq!(server.order("\"8e03978e\"", BOOK), first.again());
    assert_eq!(server.order("8e03978e", r#"{ "quantity": 1, "item": "book" }"#), first.again());
    assert_eq!(server.items(), ["book"]);
    assert_eq!(server.get("/orders/1").status, 200);
    assert!(server.get("/orders/2").is_problem(404, "not-found"));

    // Also after a restart.
    server.terminate();
    assert!(server.ended().success());
    let server = Server::start(dir.path());
    assert_eq!(server.order("8e03978e", BOOK), first.again());
    assert_eq!(server.order("another", BOOK).status, 201);
    assert_eq!(server.items(), ["book", "book"]);
}

#[test]
fn another_order_under_the_key_is_422() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let first = server.order("k", BOOK);
    let other = server.order("k", r#"{"item":"book","quantity":2}"#);
    assert!(other.is_problem(422, "key-reused"));
    assert_eq!(server.order("k", BOOK), first.again());
    assert_eq!(server.items(), ["book"]);
}

#[test]
fn a_running_one_is_409() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    // One of them runs, for ten minutes; the other one is refused.
    let both = vec![server.send(&[KEY], SLOW), server.send(&[KEY], SLOW)];
    let (answer, _running) = Answer::first_of(both);
    assert!(answer.is_problem(409, "in-flight"));
    assert!(answer.has("retry-after: "));
    assert!(server.order("k", BOOK).is_problem(422, "key-reused"));
}

#[test]
fn without_a_good_key_or_order_it_is_400() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    assert!(server.post(&[], BOOK).is_problem(400, "key-missing"));
    for lines in [
        &["Idempotency-Key:"] as &[_],
        &["Idempotency-Key: \"open"],
        &["Idempotency-Key: a b"],
        &["Idempotency-Key: a", "Idempotency-Key: a"],
        &[&format!("Idempotency-Key: {}", "k".repeat(256))],
    ] {
        assert!(server.post(lines, BOOK).is_problem(400, "key-malformed"), "{lines:?}");
    }
    for body in ["", "book", r#"{"item":"book"}"#, r#"{"item":"book","quantity":0}"#] {
        assert!(server.order("k", body).is_problem(400, "order-malformed"), "{body}");
    }
    // None of these claimed the key.
    assert_eq!(server.order("k", BOOK).status, 201);
    assert_eq!(server.items(), ["book"]);
}
