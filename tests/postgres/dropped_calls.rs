//! Calls whose future is dropped half way: a `begin` leaves its key as if it had never been asked,
//! a write is done all the same.

use crate::servers::*;
use onlyonce::{postgres::PostgresStore, *};
use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

/// Polls so many times, and drops what has not ended.
async fn polled<F: Future>(future: F, polls: u32) -> Option<F::Output> {
    let mut future = pin!(future);
    for _ in 0..polls {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return Some(value);
        }
        // Time for an answer.
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
    None
}

/// A claim that arrived after all.
async fn given_back(begun: Option<Result<Begin<AsyncStore<PostgresStore>>, BeginError>>) {
    if let Some(Ok(Begin::Execute(claim))) = begun {
        claim.release().await.unwrap();
    }
}

/// Waits until none of a store's connections is left on the server.
async fn until_gone(server: &Server, name: &str) {
    let count = format!("SELECT count(*) FROM pg_stat_activity WHERE application_name = '{name}'");
    until(async || server.sql("postgres", &count).await.as_deref() == Some("0")).await;
}

#[test]
fn a_dropped_begin_leaves_nothing() {
    block_on(async {
        let Some((other, clock, _server)) = manual().await else { return };
        let store = AsyncStore::new(clock.options().connect().await.unwrap());
        for polls in 1..8 {
            let name = format!("k{polls}");
            given_back(polled(store.begin(key(&name), print()), polls).await).await;
            // Nothing of it is on its way any more.
            assert_eq!(store.get_ref().drain(Duration::from_secs(20)).await, 0);
            let granted = AsyncStore::new(other.clone()).begin(key(&name), print()).await.unwrap();
            assert!(matches!(granted, Begin::Execute(_)), "{polls} polls: {granted:?}");
        }
    });
}

#[test]
fn not_even_when_its_store_is_dropped_with_it() {
    block_on(async {
        let Some((other, clock, server)) = manual().await else { return };
        for polls in 1..8 {
            let name = format!("k{polls}");
            let app = format!("dropped{polls}");
            let dsn = format!("{} application_name={app}", server.dsn(clock.database()));
            let options = options(&dsn).clock_us("test_now()");
            let store = AsyncStore::new(options.connect().await.unwrap());
            given_back(polled(store.begin(key(&name), print()), polls).await).await;
            drop(store);
            until_gone(&server, &app).await;
            assert!(other.get(key(&name)).await.unwrap().is_none(), "{polls} polls");
        }
    });
}

#[test]
fn a_dropped_completion_is_done() {
    block_on(async {
        let Some((other, clock, server)) = manual().await else { return };
        for polls in 1..8 {
            let name = format!("k{polls}");
            let app = format!("dropped{polls}");
            let dsn = format!("{} application_name={app}", server.dsn(clock.database()));
            let options = options(&dsn).clock_us("test_now()");
            let store = AsyncStore::new(options.connect().await.unwrap());
            let Begin::Execute(mut claim) = store.begin(key(&name), print()).await.unwrap() else {
                panic!("not granted")
            };
            let ended = polled(claim.complete(b"done"), polls).await;
            assert!(ended.is_none_or(|ended| ended == Ok(())), "{polls} polls");
            drop((claim, store));
            until_gone(&server, &app).await;
            let entry = other.get(key(&name)).await.unwrap().unwrap();
            assert!(matches!(entry.state, State::Completed(_)), "{polls} polls: {entry:?}");
        }
    });
}
