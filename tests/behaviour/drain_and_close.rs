//! An orderly end: drain grants nothing more and waits for the holders (H24); close makes
//! everything durable and frees the directory; handles that remain are told.

use crate::common::*;
use onlyonce::*;
use std::{thread, time::Duration};

#[test]
fn draining_grants_no_more_and_goes_on_replaying() {
    let (store, _) = store();
    store.finish("done", b"order 1");
    drop(store.claim("dropped"));
    let mut claim = store.claim("running");
    assert_eq!(store.drain(Duration::ZERO), 1);
    let refused = store.begin(key("new"), print()).unwrap_err();
    assert_eq!((refused.clone(), refused.retry()), (BeginError::Closed, Retry::AfterReopen));
    assert_eq!(store.stuck("dropped").take_over().unwrap_err(), BeginError::Closed);
    assert_eq!(store.answer("done"), b"order 1");
    assert!(store.is_in_flight("running"));
    claim.complete(b"order 2").unwrap();
    assert_eq!(store.answer("running"), b"order 2");
    assert_eq!(store.drain(Duration::ZERO), 0);
}

fn refuses_claims(store: &Store) -> bool {
    match store.begin(key("new"), print()) {
        Ok(begin) => {
            granted(begin).release().unwrap();
            false
        }
        Err(error) => {
            assert_eq!(error, BeginError::Closed);
            true
        }
    }
}

#[test]
fn draining_ends_with_the_last_holder() {
    must_end(|| {
        let (store, _) = threaded();
        let (mut completed, released, dropped) =
            (store.claim("a"), store.claim("b"), store.claim("c"));
        thread::scope(|scope| {
            let draining = scope.spawn(|| store.drain(MINUTE));
            until(|| refuses_claims(&store));
            completed.complete(b"").unwrap();
            released.release().unwrap();
            assert!(!draining.is_finished());
            drop(dropped);
            assert_eq!(draining.join().unwrap(), 0);
        });
    });
}

#[test]
fn draining_says_at_its_limit_how_many_are_left() {
    must_end(|| {
        let (store, clock) = threaded();
        let claims = [store.claim("a"), store.claim("b")];
        thread::scope(|scope| {
            let draining = scope.spawn(|| store.drain(30 * SECOND));
            until(|| refuses_claims(&store));
            until(|| {
                clock.advance(SECOND);
                draining.is_finished()
            });
            assert_eq!(draining.join().unwrap(), 2);
        });
        drop(claims);
    });
}

#[test]
fn other_handles_are_told_that_it_is_closed() {
    let (store, _) = store();
    store.finish("done", b"order 1");
    let mut claim = store.claim("running");
    drop(store.claim("dropped"));
    let (waiting, stuck) = (pending(store.ask("running")), store.stuck("dropped"));
    let other = store.clone();
    store.close().unwrap();

    assert_eq!(other.begin(key("done"), print()).unwrap_err(), BeginError::Closed);
    assert_eq!(other.get(key("done")).unwrap_err(), StoreError::Closed);
    assert_eq!(other.entries(Filter::ALL).next().unwrap().unwrap_err(), StoreError::Closed);
    assert_eq!(waiting.wait(Duration::ZERO).unwrap_err(), BeginError::Closed);
    assert_eq!(stuck.take_over().unwrap_err(), BeginError::Closed);
    assert_eq!(other.flush(), Err(StoreError::Closed));
    assert_eq!(
        other.resolve_with(key("done"), Resolution::Forget, ResolveOptions::forced()),
        Err(StoreError::Closed)
    );
    let error = claim.complete(b"late").unwrap_err();
    assert_eq!((error.clone(), error.retry()), (ClaimError::Closed, Retry::AfterReopen));
    for error in [
        claim.save_checkpoint(b"late").unwrap_err(),
        claim.renew().unwrap_err(),
        claim.fail(b"late").unwrap_err(),
        claim.ensure_durable().unwrap_err(),
        claim.release().unwrap_err(),
    ] {
        assert_eq!(error, ClaimError::Closed);
    }
    assert_eq!(other.close().unwrap().handles_left(), 0, "closing twice is closing");
}

#[test]
fn the_directory_can_be_opened_again_while_old_handles_remain() {
    let dir = tempfile::tempdir().unwrap();
    let open = || small(&ManualClock::at(T0)).background(true).open(dir.path()).unwrap();
    let store = open();
    let (other, mut claim) = (store.clone(), store.claim("k"));
    store.close().unwrap();

    let store = open();
    assert_eq!(store.stuck("k").reason(), Reason::Crashed);
    let mut taker = granted(store.stuck("k").take_over().unwrap());
    assert_eq!(claim.complete(b"late"), Err(ClaimError::Closed));
    drop((claim, other));
    taker.complete(b"order 1").unwrap();
    assert_eq!(store.answer("k"), b"order 1");
    drop((taker, store));
    assert_eq!(open().answer("k"), b"order 1");
}

#[test]
fn the_last_handle_closes() {
    let dir = tempfile::tempdir().unwrap();
    let open = || small(&ManualClock::at(T0)).open(dir.path());
    let store = open().unwrap();
    let claim = store.claim("k");
    drop(store);
    assert!(matches!(open(), Err(OpenError::InUse { .. })), "a claim is a handle");
    drop(claim);
    assert_eq!(open().unwrap().stuck("k").reason(), Reason::Dropped);
}

#[test]
fn closing_and_flushing_make_everything_durable() {
    let buffered = Durability::Buffered { max_delay: HOUR };
    for close in [true, false] {
        let mut sim = Sim::with(|options| options.durability(buffered));
        let store = sim.open();
        store.finish("k", b"order 1");
        let claim = store.claim("running");
        match close {
            true => drop(store.close().unwrap()),
            false => store.flush().unwrap(),
        }
        let store = sim.power_cut_and_open();
        assert_eq!(store.answer("k"), b"order 1");
        assert_eq!(store.stuck("running").reason(), Reason::Crashed);
        drop(claim);
    }
}
