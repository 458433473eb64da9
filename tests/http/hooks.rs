//! What services hang into the layer: seals, bodies kept elsewhere; and what it says of itself.

use crate::service::*;

use bytes::Bytes;
use onlyonce::{
    Filter, Retention, State,
    http::{BoxError, Fingerprints, Seal, StoreReference},
};
use std::{sync::Mutex, time::Duration};

/// No cipher, but it knows the place.
struct Rot(u8);

impl Seal for Rot {
    fn seal(&self, context: &[u8], plain: &[u8]) -> Result<Vec<u8>, BoxError> {
        Ok([context, &plain.iter().map(|b| b.wrapping_add(self.0)).collect::<Vec<_>>()].concat())
    }

    fn open(&self, context: &[u8], sealed: &[u8]) -> Result<Vec<u8>, BoxError> {
        let sealed = sealed.strip_prefix(context).ok_or("of another key")?;
        Ok(sealed.iter().map(|b| b.wrapping_sub(self.0)).collect())
    }
}

#[tokio::test]
async fn sealed_answers_are_not_in_the_store() {
    let store = store();
    let secret = || with(answer(201, "the secret"), "location", "/secrets/1");
    let orders = handler(move |_| std::future::ready(secret()));
    let sealing = layer(&store).seal(Rot(13));
    let service = behind(&sealing, &orders);
    assert_eq!(send(&service, post("k")).await.text(), "the secret");
    let State::Completed(record) = store.entries(Filter::ALL).next().unwrap().unwrap().state else {
        panic!("not completed")
    };
    let stored = [record.head(), record.response().unwrap()].concat();
    assert!(!stored.windows(6).any(|bytes| bytes == b"secret"));
    let again = send(&service, post("k")).await;
    assert_eq!((again.text(), again.is_replay()), ("the secret", true));
    // Without the seal, or with another one: no answer, and no second execution.
    assert_eq!(send(&behind(&layer(&store), &orders), post("k")).await.problem(), "failed");
    assert_eq!(orders.runs(), 1);
}

/// What is sealed can't take another's place, and what isn't sealed is not believed.
#[tokio::test]
async fn nothing_unsealed_is_believed() {
    let (store, orders) = (store(), counter());
    // Stored before there was a seal.
    send(&behind(&layer(&store), &orders), post("k")).await;
    let sealing = layer(&store).seal(Rot(13));
    let strict = serve(behind(&sealing, &orders)).await;
    assert_eq!(send_to(strict, post("k")).await.problem(), "failed");
    let lenient = serve(behind(&sealing.accept_unsealed(), &orders)).await;
    assert_eq!(send_to(lenient, post("k")).await.text(), "order 1");
    assert_eq!(orders.runs(), 1);
}

/// Remembers the contexts in which it was asked to seal.
#[derive(Clone, Default)]
struct Noting(std::sync::Arc<Mutex<Vec<Vec<u8>>>>);

impl Seal for Noting {
    fn seal(&self, context: &[u8], plain: &[u8]) -> Result<Vec<u8>, BoxError> {
        self.0.lock().unwrap().push(context.to_vec());
        Rot(1).seal(context, plain)
    }

    fn open(&self, context: &[u8], sealed: &[u8]) -> Result<Vec<u8>, BoxError> {
        Rot(1).open(context, sealed)
    }
}

#[tokio::test]
async fn each_kind_of_answer_is_sealed_in_a_context_of_its_own() {
    let store = store();
    let orders = handler(|request: http::Request<Bytes>| async move {
        answer(if request.body() == "broken" { 500 } else { 201 }, "order")
    });
    let seal = Noting::default();
    let address = serve(behind(&layer(&store).seal(seal.clone()), &orders)).await;
    // A record has a head beside the whole answer; an interrupted key keeps one answer.
    send_to(address, post("k")).await;
    send_to(address, post_body("l", "broken")).await;
    let contexts = seal.0.lock().unwrap().clone();
    assert_eq!(contexts.len(), 3);
    let kinds: std::collections::HashSet<_> = contexts.iter().map(|c| c[..2].to_vec()).collect();
    assert_eq!(kinds.len(), 3, "{contexts:?}");
    for key in ["k", "l"] {
        let got = send_to(address, post_body(key, if key == "l" { "broken" } else { "one book" }));
        assert_eq!(got.await.text(), "order");
    }
}

/// The number of its key is the first byte of what a seal makes.
struct Rotating {
    now: u8,
    known: Vec<u8>,
}

impl Seal for Rotating {
    fn seal(&self, context: &[u8], plain: &[u8]) -> Result<Vec<u8>, BoxError> {
        Ok([&[self.now], &Rot(self.now).seal(context, plain)?[..]].concat())
    }

    fn open(&self, context: &[u8], sealed: &[u8]) -> Result<Vec<u8>, BoxError> {
        let (number, sealed) = sealed.split_first().ok_or("empty")?;
        match self.known.contains(number) {
            true => Rot(*number).open(context, sealed),
            false => Err("by a key that is gone".into()),
        }
    }
}

#[tokio::test]
async fn the_key_of_a_seal_is_exchanged() {
    let (store, orders) = (store(), counter());
    let with = |now, known: &[u8]| layer(&store).seal(Rotating { now, known: known.to_vec() });
    let [old, both, new] = [with(1, &[1]), with(2, &[1, 2]), with(2, &[2])];
    let mut addresses = Vec::new();
    for layer in [old, both, new] {
        addresses.push(serve(behind(&layer, &orders)).await);
    }
    let [old, both, new] = addresses[..] else { unreachable!() };
    send_to(old, post("a")).await;
    assert!(send_to(both, post("a")).await.is_replay());
    send_to(both, post("b")).await;
    assert!(send_to(new, post("b")).await.is_replay());
    assert_eq!(send_to(new, post("a")).await.problem(), "failed");
    assert_eq!(orders.runs(), 2);
}

#[tokio::test]
async fn bodies_kept_elsewhere() {
    let store = store();
    let kept = std::sync::Arc::new(Mutex::new(Some(Bytes::from("a large report"))));
    let orders = handler(|_| async {
        let mut report = with(answer(200, "a large report"), "x-own", "1");
        report.extensions_mut().insert(StoreReference(Bytes::from("report 1")));
        report
    });
    let find = kept.clone();
    let layer = layer(&store).dereference(move |reference: Bytes| {
        assert_eq!(reference, "report 1");
        std::future::ready(Ok(find.lock().unwrap().clone()))
    });
    let service = behind(&layer, &orders);
    assert_eq!(send(&service, post("k")).await.text(), "a large report");
    let again = send(&service, post("k")).await;
    assert_eq!((again.text(), again.header("x-own")), ("a large report", Some("1")));
    assert!(again.is_replay());
    *kept.lock().unwrap() = None;
    let gone = send(&service, post("k")).await;
    assert_eq!(
        (gone.problem().as_str(), &gone.json()["original_status"]),
        ("not-retained", &200.into())
    );
    assert_eq!(orders.runs(), 1);
}

#[test]
fn the_policy_can_be_published() {
    let store = store();
    let layer = layer(&store)
        .paths(["/orders"])
        .wait(Duration::from_secs(2))
        .retention(Retention { replay_for: HOUR, remember_for: 24 * HOUR })
        .fingerprint(Fingerprints::new().canonical_json(true));
    let policy: serde_json::Value = serde_json::from_str(&layer.policy_json()).unwrap();
    assert_eq!(policy["header"], "idempotency-key");
    assert_eq!((&policy["required"], &policy["methods"][1]), (&true.into(), &"PATCH".into()));
    assert_eq!(policy["replay_for_seconds"], 3600);
    assert_eq!(policy["paths"][0], "/orders");
    assert_eq!(policy["while_in_flight"]["wait_ms"], 2000);
    // What counts is what is said to count.
    let parts = |layer: &Layered| {
        let policy: serde_json::Value = serde_json::from_str(&layer.policy_json()).unwrap();
        policy["same_request"]["parts"].as_array().unwrap().contains(&"query".into())
    };
    let without_query = self::layer(&store).fingerprint(Fingerprints::new().query(false));
    assert_eq!((parts(&layer), parts(&without_query)), (true, false));
    let problems = policy["problems"].as_array().unwrap();
    for problem in problems {
        let name = problem["type"].as_str().unwrap().rsplit(':').next().unwrap();
        let page = format!("{}/docs/problems/{name}.md", env!("CARGO_MANIFEST_DIR"));
        assert!(std::path::Path::new(&page).exists(), "{page}");
    }
}
