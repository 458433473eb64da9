//! Rule 5, S13: a release undoes this attempt, not the key's history.

use crate::common::*;
use onlyonce::*;

#[test]
fn the_first_attempt_without_a_checkpoint_frees_the_key() {
    let (store, _) = store();
    store.claim("k").release().unwrap();
    assert!(store.is_absent("k"));
    assert_eq!((store.stats().released, store.stats().holders), (1, 0));
    let claim = granted(store.begin(key("k"), other_print()).unwrap());
    assert_eq!(claim.attempt(), 1);
}

#[test]
fn so_does_the_release_of_a_first_attempt_that_had_lapsed_or_failed() {
    let (store, clock) = store();
    let lapsed = store.claim("lapsed");
    clock.advance(HOUR);
    store.housekeep().unwrap();
    lapsed.release().unwrap();
    assert!(store.is_absent("lapsed"));
    let mut failed = store.claim("failed");
    failed.fail(b"500").unwrap();
    failed.release().unwrap();
    assert!(store.is_absent("failed"));
}

#[test]
fn charged_and_lapsed_then_taken_over_and_released_is_granted_to_nobody() {
    let mut sim = Sim::new();
    let store = sim.open();
    let charged = store.claim("k");
    sim.clock.advance(MINUTE);
    granted(store.stuck("k").take_over().unwrap()).release().unwrap();
    assert_eq!(store.stuck("k").reason(), Reason::GivenBack);
    assert_eq!((store.stuck("k").attempts(), store.stuck("k").holder_gone()), (1, true));
    assert_eq!(charged.release(), Err(ClaimError::Fenced));
    assert_eq!(store.stuck("k").reason(), Reason::GivenBack);

    let store = sim.power_cut_and_open();
    assert_eq!(store.stuck("k").reason(), Reason::GivenBack);
    // Nor does another takeover that does nothing free it.
    granted(store.stuck("k").take_over().unwrap()).release().unwrap();
    assert_eq!((store.stuck("k").reason(), store.stuck("k").attempts()), (Reason::GivenBack, 1));
}

#[test]
fn a_checkpoint_stays() {
    let mut sim = Sim::new();
    let store = sim.open();
    let mut claim = store.claim("k");
    claim.save_checkpoint(b"charged").unwrap();
    claim.release().unwrap();
    let expect = |store: &Store| {
        let stuck = store.stuck("k");
        assert_eq!(
            (stuck.reason(), stuck.checkpoint()),
            (Reason::GivenBack, Some(&b"charged"[..]))
        );
    };
    expect(&store);
    expect(&sim.power_cut_and_open());
}

#[test]
fn an_empty_checkpoint_is_one_too() {
    let mut sim = Sim::new();
    let store = sim.open();
    let mut claim = store.claim("k");
    claim.save_checkpoint(b"").unwrap();
    claim.release().unwrap();
    assert_eq!(store.stuck("k").checkpoint(), Some(&b""[..]));
    assert_eq!(sim.power_cut_and_open().stuck("k").checkpoint(), Some(&b""[..]));
}

#[test]
fn only_a_completion_or_an_operator_ends_it() {
    let (store, _) = store();
    for name in ["completed", "freed"] {
        let mut claim = store.claim(name);
        claim.save_checkpoint(b"half").unwrap();
        claim.release().unwrap();
    }
    let mut taker = granted(store.stuck("completed").take_over().unwrap());
    taker.complete(b"order 1").unwrap();
    assert_eq!(store.answer("completed"), b"order 1");
    store.resolve(key("freed"), Resolution::Free).unwrap();
    assert_eq!(store.claim("freed").attempt(), 1);
}

#[test]
fn a_release_survives_a_loss_of_power() {
    let mut sim = Sim::new();
    let store = sim.open();
    store.claim("k").release().unwrap();
    let store = sim.power_cut_and_open();
    assert!(store.is_absent("k"));
    assert_eq!(store.claim("k").attempt(), 1);
}

/// The version that says that it was given back lies beside the one that it replaces, whose
/// clearing isn't durable yet.
#[test]
fn a_loss_of_power_right_after_it_keeps_the_reason() {
    for neighbours in 0..6 {
        let mut sim = Sim::new();
        let store = sim.open();
        drop(store.claim("k"));
        // They take the cells in between.
        let others: Vec<_> = (0..neighbours).map(|n: u32| store.claim(&n.to_string())).collect();
        let second = granted(store.stuck("k").take_over().unwrap());
        let more = store.claim("more");
        second.release().unwrap();
        let store = sim.power_cut_and_open();
        assert_eq!(store.stuck("k").reason(), Reason::GivenBack, "{neighbours}");
        drop((others, more));
    }
}
