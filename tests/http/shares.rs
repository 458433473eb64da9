//! S29: no tenant shuts the service for the others.

use crate::service::*;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use onlyonce::{
    Store,
    http::{IdempotencyLayer, KeyScope},
    storage::SimStorage,
};
use std::sync::Arc;

fn tenants(store: &Store) -> Layered {
    let account =
        |parts: &http::request::Parts| Some(parts.headers.get("account")?.as_bytes().to_vec());
    IdempotencyLayer::new(store.clone(), KeyScope::by(account))
}

fn of(account: &'static str, key: &str) -> Request<Full<Bytes>> {
    let mut request = post(key);
    request.headers_mut().insert("account", account.parse().unwrap());
    request
}

/// Answers 500 to one tenant, 201 to all others.
fn failing_for(account: &'static str) -> Handler {
    handler(move |request: Request<Bytes>| async move {
        match request.headers()["account"] == account {
            true => answer(500, "no database"),
            false => answer(201, "order"),
        }
    })
}

#[tokio::test]
async fn errors_of_one_leave_room_for_the_others() {
    let disk = SimStorage::new(7);
    let options = options().max_claims(128);
    let store = options.clone().open_on(Arc::new(disk.clone())).unwrap();
    let orders = failing_for("a");
    let address = serve(behind(&tenants(&store), &orders)).await;
    let mut refused = 0;
    for n in 0..200 {
        let got = send_to(address, of("a", &format!("a{n}"))).await;
        if got.status == StatusCode::TOO_MANY_REQUESTS {
            assert_eq!(got.problem(), "share-used");
            assert!(got.retryable() && got.header("retry-after").is_some());
            refused += 1;
        } else {
            assert_eq!((got.status.as_u16(), refused), (500, 0));
        }
        assert_eq!(send_to(address, of("b", &format!("b{n}"))).await.status, 201);
    }
    assert!(refused > 100);
    assert_eq!((orders.runs(), store.stats().refused_scope), (400 - refused, refused));
    // What it has is answered as before.
    assert!(send_to(address, of("a", "a0")).await.is_replay());

    let store = options.open_on(Arc::new(disk.kill())).unwrap();
    let address = serve(behind(&tenants(&store), &orders)).await;
    assert_eq!(send_to(address, of("b", "after")).await.status, 201);
    assert_eq!(send_to(address, of("a", "after")).await.problem(), "share-used");
    assert!(send_to(address, of("a", "a0")).await.is_replay());
}

/// Neither do handlers of one that hang.
#[tokio::test]
async fn what_hangs_for_one_leaves_room_for_the_others() {
    let store = options().max_claims(64).open_on(Arc::new(SimStorage::new(7))).unwrap();
    let orders = handler(|request: Request<Bytes>| async move {
        match request.headers()["account"] == "a" {
            true => std::future::pending().await,
            false => answer(201, "order"),
        }
    });
    let address = serve(behind(&tenants(&store), &orders)).await;
    let mut hanging = Vec::new();
    let refused = loop {
        let runs = orders.runs();
        let call = tokio::spawn(send_to(address, of("a", &format!("a{runs}"))));
        until(|| orders.runs() > runs || call.is_finished()).await;
        if call.is_finished() {
            break call.await.unwrap();
        }
        hanging.push(call);
    };
    assert_eq!(refused.problem(), "share-used");
    assert!((20..40).contains(&hanging.len()), "{}", hanging.len());
    for n in 0..100 {
        assert_eq!(send_to(address, of("b", &format!("b{n}"))).await.status, 201);
    }
    hanging.into_iter().for_each(|call| call.abort());
}
