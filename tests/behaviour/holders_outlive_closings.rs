//! S26: a claim is held while its store is closed and opened again in the same process. Its
//! holder may be at work, so the key is not taken for abandoned until the handle is gone; what the
//! holder calls is answered `Closed`, counted, and fences nobody.

use crate::common::*;
use onlyonce::{storage::Fault, *};
use std::{io::ErrorKind, panic, thread, time::Duration};

type Answer = Result<Outcome, OnceError<Store, ()>>;

fn settle_never(store: &Store) -> Answer {
    store.once(key("k"), print()).settle(|_| panic!("settled")).run(|_| panic!("ran"))
}

#[test]
fn the_holder_is_known_to_live() {
    let sim = Sim::new();
    let store = sim.open();
    let claim = store.claim("k");
    drop(store.claim("dropped"));
    assert_eq!(store.close().unwrap().handles_left(), 1);

    let store = sim.open();
    let stuck = store.stuck("k");
    assert_eq!((stuck.reason(), stuck.holder_gone()), (Reason::Crashed, false));
    assert!(store.stuck("dropped").holder_gone());
    let entry = store.get(key("k")).unwrap().unwrap();
    assert!(matches!(entry.state, State::Interrupted { holder_gone: false, .. }));
    assert!(matches!(settle_never(&store), Err(OnceError::Interrupted(Some(_)))));
    assert_eq!(store.stats().holders, 1);

    drop(claim);
    let stuck = store.stuck("k");
    assert_eq!((stuck.reason(), stuck.holder_gone()), (Reason::Dropped, true));
    assert_eq!((stuck.attempts(), store.stats().holders), (1, 0));
    let settle = |_: &Claim| Settled::Happened(b"order 1".to_vec());
    let answer: Answer = store.once(key("k"), print()).settle(settle).run(|_| panic!("ran"));
    assert_eq!(answer.unwrap().response(), Some(&b"order 1"[..]));
}

#[test]
fn its_panic_is_told_too() {
    let sim = Sim::new();
    let store = sim.open();
    let claim = store.claim("k");
    store.close().unwrap();
    let store = sim.open();
    let work = panic::AssertUnwindSafe(|| {
        let _claim = claim;
        panic::resume_unwind(Box::new("bug"))
    });
    assert!(panic::catch_unwind(work).is_err());
    let stuck = store.stuck("k");
    assert_eq!((stuck.reason(), stuck.holder_gone()), (Reason::Panicked, true));
}

#[test]
fn its_late_calls_are_counted_and_fence_nobody() {
    let sim = Sim::new();
    let store = sim.open();
    let (mut late, mut done) = (store.claim("k"), store.claim("done"));
    done.complete(b"order 0").unwrap();
    store.close().unwrap();

    let store = sim.open();
    // Only who says that the holder may be overtaken does so.
    let mut taker = granted(store.stuck("k").take_over().unwrap());
    assert_eq!(late.complete(b"late"), Err(ClaimError::Closed));
    assert_eq!(late.renew(), Err(ClaimError::Closed));
    assert_eq!(store.stats().late_calls, 2);
    // Whose operation is recorded is not late.
    assert_eq!(done.complete(b"order 0"), Err(ClaimError::Closed));
    assert_eq!((store.stats().late_calls, store.stats().fenced), (2, 0));
    assert!(store.is_in_flight("k"));
    assert_eq!(store.stats().holders, 2);
    drop(late);
    assert!(store.is_in_flight("k"));
    assert_eq!(store.stats().holders, 1);
    taker.complete(b"order 1").unwrap();
    assert_eq!(store.answer("k"), b"order 1");
    assert_eq!(store.stats().holders, 0);
}

#[test]
fn a_late_call_that_nobody_has_open_is_counted_by_the_closed_store() {
    let sim = Sim::new();
    let store = sim.open();
    let (other, mut claim) = (store.clone(), store.claim("k"));
    store.close().unwrap();
    assert_eq!(claim.complete(b"late"), Err(ClaimError::Closed));
    assert_eq!(other.stats().late_calls, 1);
}

#[test]
fn it_goes_on_counting_over_closings() {
    let sim = Sim::new();
    let store = sim.open();
    let first = store.claim("first");
    assert_eq!(store.close().unwrap().handles_left(), 1);
    let store = sim.open();
    let second = store.claim("second");
    assert_eq!(store.close().unwrap().handles_left(), 2);
    let store = sim.open();
    assert!(!store.stuck("first").holder_gone() && !store.stuck("second").holder_gone());
    drop(first);
    assert!(store.stuck("first").holder_gone() && !store.stuck("second").holder_gone());
    assert_eq!(store.close().unwrap().handles_left(), 1);
    drop(second);
    let store = sim.open();
    assert!(store.stuck("second").holder_gone());
    assert_eq!(store.close().unwrap().handles_left(), 0);
}

#[test]
fn one_that_goes_while_the_store_is_closed_is_gone() {
    let sim = Sim::new();
    let store = sim.open();
    let claim = store.claim("k");
    store.close().unwrap();
    drop(claim);
    let store = sim.open();
    assert!(store.stuck("k").holder_gone());
    assert_eq!(store.stats().holders, 0);
}

#[test]
fn a_key_does_not_expire_under_it() {
    let sim = Sim::with(|options| options.interrupted_retention(HOUR));
    let store = sim.open();
    let claim = store.claim("k");
    store.close().unwrap();
    let store = sim.open();
    sim.clock.advance(DAY);
    store.housekeep().unwrap();
    assert!(!store.stuck("k").holder_gone());
    store.close().unwrap();
    let store = sim.open();
    assert!(!store.stuck("k").holder_gone());
    drop(claim);
    assert!(store.is_absent("k"));
}

#[test]
fn an_operator_may_decide_meanwhile() {
    let sim = Sim::new();
    let store = sim.open();
    let claim = store.claim("k");
    store.close().unwrap();
    let store = sim.open();
    let space = store.stats().space_free;
    store.resolve(key("k"), Resolution::Free).unwrap();
    let next = store.claim("k");
    assert_eq!(store.stats().holders, 2);
    drop(claim);
    assert!(store.is_in_flight("k"));
    next.release().unwrap();
    assert_eq!((store.stats().holders, store.stats().space_free), (0, space));
}

#[test]
fn draining_waits_for_it() {
    must_end(|| {
        let sim = Sim::with(|options| options.background(true));
        let store = sim.open();
        let claim = store.claim("k");
        store.close().unwrap();
        let store = sim.open();
        assert_eq!(store.drain(Duration::ZERO), 1);
        thread::scope(|scope| {
            let draining = scope.spawn(|| store.drain(HOUR));
            drop(claim);
            assert_eq!(draining.join().unwrap(), 0);
        });
    });
}

#[test]
fn the_guide_to_a_failed_sync() {
    let sim = Sim::new();
    let store = sim.open();
    let mut claim = store.claim("k");
    for call in 1..=20 {
        sim.disk.fault_at(sim.disk.calls() + call, Fault::Error(ErrorKind::Other));
    }
    assert_eq!(store.begin(key("other"), print()).unwrap_err(), BeginError::Poisoned);
    assert_eq!(store.close().unwrap_err(), StoreError::Poisoned);
    let sim = Sim { disk: sim.disk.kill(), ..sim };
    let store = sim.open();
    assert!(!store.stuck("k").holder_gone());
    assert_eq!(claim.complete(b"late"), Err(ClaimError::Closed));
    assert_eq!(store.stats().late_calls, 1);
    drop(claim);
    assert!(store.stuck("k").holder_gone());
}
