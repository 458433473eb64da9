//! The examples of draft-ietf-httpapi-idempotency-key-header-07: the header of section 2.1, and the
//! three errors of section 2.7 with their statuses, titles and links to a documentation.

use crate::service::*;

use onlyonce::http::Problem;
use std::sync::Arc;
use tokio::sync::Semaphore;

const KEY: &str = "\"8e03978e-40d5-43e8-bc93-6894a57f9324\"";
const DOCS: &str = "https://developer.example.com/idempotency#";

#[tokio::test]
async fn errors_are_the_drafts() {
    let (store, gate) = (store(), Arc::new(Semaphore::new(0)));
    let orders = gated(&gate, || answer(201, "order 1"));
    let address = serve(behind(&layer(&store).problem_types(DOCS), &orders)).await;
    let check = |got: Got, problem: Problem, status: u16, title: &str| {
        assert_eq!((got.status, got.status.as_u16()), (problem.status(), status));
        assert_eq!(got.header("content-type"), Some("application/problem+json"));
        let body = got.json();
        assert_eq!(body["title"], title);
        assert_eq!(body["type"], format!("{DOCS}{}", problem.name()));
        assert!(!body["detail"].as_str().unwrap().is_empty());
    };

    let mut without = post("");
    without.headers_mut().remove("idempotency-key");
    let got = send_to(address, without).await;
    check(got, Problem::KeyMissing, 400, "Idempotency-Key is missing");

    let first = tokio::spawn(send_to(address, post(KEY)));
    until(|| orders.runs() == 1).await;
    let got = send_to(address, post(KEY)).await;
    let outstanding = "A request is outstanding for this Idempotency-Key";
    check(got, Problem::InFlight, 409, outstanding);

    gate.add_permits(1);
    assert_eq!(first.await.unwrap().text(), "order 1");
    let got = send_to(address, post_body(KEY, "another book")).await;
    check(got, Problem::KeyReused, 422, "Idempotency-Key is already used");
    assert!(send_to(address, post(KEY)).await.is_replay());
    assert_eq!(orders.runs(), 1);
}
