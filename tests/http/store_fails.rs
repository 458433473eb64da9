//! H12: a store that is full, closed or failing, before the handler and after it.

use crate::service::*;

use onlyonce::{
    ResolveOptions,
    storage::{Fault, SimStorage},
};
use std::{io::ErrorKind, sync::Arc};
use tokio::sync::Semaphore;

#[tokio::test]
async fn closed_before() {
    let store = store();
    let orders = counter();
    let service = behind(&layer(&store), &orders);
    store.close().unwrap();
    let got = send(&service, post("k")).await;
    assert_eq!((got.status.as_u16(), got.problem().as_str()), (503, "unavailable"));
    assert!(got.retryable() && got.header("retry-after").is_some());
    assert_eq!(orders.runs(), 0);
}

#[tokio::test]
async fn full_before() {
    let store = options().max_claims(2).open_on(Arc::new(SimStorage::new(7))).unwrap();
    let never = handler(|_| std::future::pending());
    let service = behind(&layer(&store), &never);
    let mut calls = Vec::new();
    let mut full = 0;
    for n in 0..300 {
        let call = tokio::spawn(send(&service, post(&format!("k{n}"))));
        until(|| never.runs() == n + 1 || call.is_finished()).await;
        if call.is_finished() {
            let got = call.await.unwrap();
            assert_eq!((got.status.as_u16(), got.problem().as_str()), (503, "unavailable"));
            assert!(got.retryable());
            full += 1;
            break;
        }
        calls.push(call);
    }
    assert_eq!(full, 1);
    calls.into_iter().for_each(|call| call.abort());
}

/// Executed, and not recorded: the client isn't told of a success that a retry wouldn't see.
#[tokio::test]
async fn failing_after() {
    let disk = SimStorage::new(7);
    let store = options().open_on(Arc::new(disk.clone())).unwrap();
    let gate = Arc::new(Semaphore::new(0));
    let slow = gated(&gate, || answer(201, "order 1"));
    let service = behind(&layer(&store), &slow);
    let call = tokio::spawn(send(&service, post("k")));
    until(|| slow.runs() == 1).await;
    for call in 1..50 {
        disk.fault_at(disk.calls() + call, Fault::Error(ErrorKind::Other));
    }
    gate.add_permits(1);
    let got = call.await.unwrap();
    assert_eq!((got.status.as_u16(), got.problem().as_str()), (500, "not-recorded"));
    assert!(!got.text().contains("order 1"));
    // Poisoned from now on.
    let got = send(&service, post("another")).await;
    assert_eq!((got.problem().as_str(), slow.runs()), ("unavailable", 1));
    drop((service, store));
    let store = options().open_on(Arc::new(disk.kill())).unwrap();
    let orders = counter();
    let got = send(&behind(&layer(&store), &orders), post("k")).await;
    // Whether the record arrived is the disk's secret; it doesn't run again.
    assert!(got.is_replay() || got.problem() == "interrupted");
    assert_eq!(orders.runs(), 0);
}

/// What another program has stored is no answer of ours.
#[tokio::test]
async fn foreign_records_are_not_misread() {
    let store = store();
    let never = handler(|_| std::future::pending());
    let service = behind(&layer(&store), &never);
    let call = tokio::spawn(send(&service, post("k")));
    until(|| never.runs() == 1).await;
    let scope = onlyonce::Scope::global();
    let key = onlyonce::KeyRef::new(&scope, "k").unwrap();
    let completion =
        onlyonce::Completion { response: Some(b"garbage"), ..onlyonce::Completion::default() };
    let garbage = onlyonce::Resolution::Complete { fingerprint: None, completion };
    store.resolve_with(key, garbage, ResolveOptions::forced()).unwrap();
    assert_eq!(send(&service, post("k")).await.problem(), "failed");
    assert_eq!(never.runs(), 1);
    call.abort();
}
