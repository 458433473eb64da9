//! Servers that die, servers that stop, and clients that hang up, half way through an order.

use crate::server::{Answer, Server, until};

const KEY: &str = "Idempotency-Key: k";

#[test]
fn killed_after_the_insert_it_is_settled() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let order = r#"{"item":"desk","quantity":1,"delay_ms":4000}"#;
    let lost = server.send(&[KEY], order);
    // Half of the delay is before the insert, half after it.
    until("the order is inserted", || server.items() == ["desk"]);
    server.kill();
    drop(lost);

    let server = Server::start(dir.path());
    let settled = server.order("k", order);
    assert_eq!(settled.status, 201);
    assert!(settled.replayed, "it was found, not executed");
    assert!(settled.has("location: /orders/1"));
    assert_eq!(server.order("k", order), settled);
    assert_eq!(server.get("/orders/1").body, settled.body.trim_ascii_end());
    assert_eq!(server.items(), ["desk"]);
}

#[test]
fn killed_before_the_insert_it_runs() {
    // On a busy machine the kill may come too late: then the same again, slower.
    for delay_ms in [4_000, 16_000, 64_000] {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(dir.path());
        let order = format!(r#"{{"item":"desk","quantity":1,"delay_ms":{delay_ms}}}"#);
        // Half of the delay is before the insert. When one of two is refused, the other one runs.
        let both = vec![server.send(&[KEY], &order), server.send(&[KEY], &order)];
        let (refused, _lost) = Answer::first_of(both);
        server.kill();

        let server = Server::start(dir.path());
        if refused.status != 409 || !server.items().is_empty() {
            continue;
        }
        let first = server.order("k", &order);
        assert_eq!(first.status, 201);
        assert!(!first.replayed, "nothing had happened: it was executed");
        assert_eq!(server.order("k", &order), first.again());
        assert_eq!(server.items(), ["desk"]);
        return;
    }
    panic!("never killed in time");
}

#[test]
fn a_stop_lets_running_orders_end() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let order = r#"{"item":"desk","quantity":1,"delay_ms":1500}"#;
    let answered = server.send(&[KEY], order);
    let hung_up = server.send(&["Idempotency-Key: gone"], order);
    until("both are inserted", || server.items().len() == 2);
    drop(hung_up);
    server.terminate();
    let first = Answer::read(answered);
    assert_eq!(first.status, 201);
    assert!(server.ended().success());

    // Also the one whose client had gone was finished and kept.
    let server = Server::start(dir.path());
    assert_eq!(server.order("k", order), first.again());
    assert!(server.order("gone", order).replayed);
    assert_eq!(server.items(), ["desk", "desk"]);
}

#[test]
fn a_client_that_hangs_up_finds_its_order() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let order = r#"{"item":"desk","quantity":1,"delay_ms":2000}"#;
    // The one that runs, and one that is refused while it does.
    let both = vec![server.send(&[KEY], order), server.send(&[KEY], order)];
    let (_, running) = Answer::first_of(both);
    drop(running);
    until("the order is inserted", || server.items() == ["desk"]);
    until("its answer is kept", || server.order("k", order).status == 201);
    assert!(server.order("k", order).replayed);
    assert_eq!(server.items(), ["desk"]);
}
