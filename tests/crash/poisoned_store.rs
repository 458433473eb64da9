//! Rule 11, R6: after a failed write or sync nothing more is acknowledged, what was durable is
//! still served, and only opening again tells what became of the keys of that group.

use crate::common::*;
use onlyonce::{storage::Fault, *};
use std::io::ErrorKind;

/// The next `calls` calls of the disk fail.
fn break_disk(sim: &Sim, calls: u64) {
    for call in 1..=calls {
        sim.disk.fault_at(sim.disk.calls() + call, Fault::Error(ErrorKind::Other));
    }
}

/// A store with a completed key, a held one, and one whose completion the disk refused.
fn poisoned() -> (Sim, Store, Claim, Claim) {
    let sim = Sim::new();
    let store = sim.open();
    store.finish("done", b"order 1");
    let held = store.claim("held");
    let mut failing = store.claim("failing");
    break_disk(&sim, 20);
    let error = failing.complete(b"lost?").unwrap_err();
    assert_eq!(error, ClaimError::Poisoned);
    assert_eq!((error.key_state(), error.retry()), (KeyState::Unknown, Retry::AfterReopen));
    (sim, store, held, failing)
}

#[test]
fn nothing_more_is_acknowledged() {
    let (_sim, store, mut held, mut failing) = poisoned();
    assert!(store.stats().poisoned.is_some());
    assert_eq!(failing.complete(b"lost?"), Err(ClaimError::Poisoned));
    assert_eq!(held.complete(b"order 2"), Err(ClaimError::Poisoned));
    assert_eq!(held.save_checkpoint(b"half"), Err(ClaimError::Poisoned));
    assert_eq!(held.fail(b"500"), Err(ClaimError::Poisoned));
    assert_eq!(held.release(), Err(ClaimError::Poisoned));
    let refused = store.begin(key("new"), print()).unwrap_err();
    assert_eq!((refused.clone(), refused.retry()), (BeginError::Poisoned, Retry::AfterReopen));
    assert_eq!(
        store.resolve_with(key("held"), Resolution::Free, ResolveOptions::forced()),
        Err(StoreError::Poisoned)
    );
    assert_eq!(store.flush(), Err(StoreError::Poisoned));
    assert_eq!(store.close().unwrap_err(), StoreError::Poisoned);
}

#[test]
fn what_was_durable_is_served_and_what_is_unknown_is_not() {
    let (_sim, store, _held, _failing) = poisoned();
    assert_eq!(store.answer("done"), b"order 1");
    assert_mismatch(&store, "done");
    // Nobody can end it any more: in flight, or the truth about it.
    let held = store.begin(key("held"), print());
    assert!(matches!(held, Ok(Begin::InFlight(_)) | Err(BeginError::Poisoned)), "{held:?}");
    let unknown = store.begin(key("failing"), print());
    assert!(!matches!(unknown, Ok(Begin::Replay(_) | Begin::Execute(_))), "{unknown:?}");
}

#[test]
fn opening_again_tells() {
    let (mut sim, store, held, failing) = poisoned();
    let store_again = sim.power_cut_and_open();
    assert_eq!(store_again.answer("done"), b"order 1");
    assert_eq!(store_again.stuck("held").reason(), Reason::Crashed);
    match store_again.ask("failing") {
        Begin::Replay(record) => assert_eq!(record.response(), Some(&b"lost?"[..])),
        Begin::Interrupted(stuck) => assert_eq!(stuck.reason(), Reason::Crashed),
        other => panic!("{other:?}"),
    }
    store_again.finish("new", b"order 3");
    assert_eq!(store_again.stats().poisoned, None);
    drop((held, failing, store));
}

#[test]
fn a_claim_that_did_not_become_durable_is_not_granted() {
    let mut sim = Sim::new();
    let store = sim.open();
    break_disk(&sim, 1);
    assert_eq!(store.begin(key("k"), print()).unwrap_err(), BeginError::Poisoned);
    assert_eq!(store.stats().holders, 0);
    drop(store);
    let store = sim.power_cut_and_open();
    let state = store.get(key("k")).unwrap().map(|entry| entry.state);
    assert!(!matches!(state, Some(State::Completed(_) | State::InFlight { .. })), "{state:?}");
}

#[test]
fn waiters_are_told_rather_than_left_waiting() {
    must_end(|| {
        let sim = Sim::with(|options| options.background(true));
        let store = sim.open();
        let mut claim = store.claim("k");
        let waiting = pending(store.ask("k"));
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| waiting.wait(MINUTE));
            until(|| store.stats().waiters == 1);
            break_disk(&sim, 50);
            assert_eq!(claim.complete(b"lost?"), Err(ClaimError::Poisoned));
            let begin = waiter.join().unwrap();
            let told = matches!(begin, Ok(Begin::InFlight(_)) | Err(BeginError::Poisoned));
            assert!(told, "{begin:?}");
        });
    });
}

#[test]
fn waiting_for_a_key_that_nobody_can_end_ends() {
    must_end(|| {
        let sim = Sim::new();
        let store = sim.open();
        let (_held, mut failing) = (store.claim("held"), store.claim("failing"));
        let waiting = pending(store.ask("held"));
        break_disk(&sim, 20);
        assert_eq!(failing.complete(b"lost?"), Err(ClaimError::Poisoned));
        let begin = waiting.wait(HOUR);
        assert!(matches!(begin, Ok(Begin::InFlight(_)) | Err(BeginError::Poisoned)), "{begin:?}");
    });
}
