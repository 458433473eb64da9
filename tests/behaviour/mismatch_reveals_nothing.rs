//! S3 and rule 2: another request under a used key is a mismatch in every state, which tells
//! nothing of what is stored.

use crate::common::*;
use onlyonce::*;

#[test]
fn while_it_runs() {
    let (store, _) = store();
    let _claim = store.claim("k");
    assert_mismatch(&store, "k");
}

#[test]
fn while_it_is_interrupted() {
    let (store, clock) = store();
    drop(store.claim("dropped"));
    assert_mismatch(&store, "dropped");
    let _silent = store.claim("lapsed");
    clock.advance(MINUTE);
    assert_mismatch(&store, "lapsed");
}

#[test]
fn after_completion_and_after_the_response_has_gone() {
    let (store, clock) = store();
    let retention = Retention { replay_for: MINUTE, remember_for: HOUR };
    let completion =
        Completion { response: Some(b"secret"), retention: Some(retention), ..Default::default() };
    store.claim("k").complete_with(completion).unwrap();
    assert_mismatch(&store, "k");
    clock.advance(2 * MINUTE);
    assert_mismatch(&store, "k");
    assert_eq!(store.stats().mismatched, 2);
}

#[test]
fn after_a_reopening() {
    let mut sim = Sim::new();
    let store = sim.open();
    store.finish("done", b"secret");
    let _claim = store.claim("running");
    let store = sim.kill_and_open();
    assert_mismatch(&store, "done");
    assert_mismatch(&store, "running");
}

#[test]
fn it_shows_neither_response_nor_fingerprint() {
    let (store, _) = store();
    store.finish("k", b"secret answer");
    let begin = store.begin(key("k"), other_print()).unwrap();
    assert_eq!(format!("{begin:?}"), "Mismatch { scheme: 0 }");
}

#[test]
fn it_tells_the_scheme_so_that_an_older_one_can_be_compared() {
    let (store, _) = store();
    store.finish("k", b"order 1");
    let newer = Fingerprint::of(["v2", "POST", "/orders", "book"]).with_scheme(1);
    let Begin::Mismatch { scheme } = store.begin(key("k"), newer).unwrap() else { panic!() };
    assert_eq!(scheme, 0);
    // The same bytes under another scheme are another fingerprint.
    let begin = store.begin(key("k"), print().with_scheme(1)).unwrap();
    assert!(matches!(begin, Begin::Mismatch { scheme: 0 }));
    assert_eq!(store.answer("k"), b"order 1");
}

#[test]
fn a_taker_under_another_fingerprint_is_refused_too() {
    let (store, _) = store();
    drop(store.claim("k"));
    let stuck = store.stuck("k");
    store.resolve(key("k"), Resolution::Free).unwrap();
    let _other = granted(store.begin(key("k"), other_print()).unwrap());
    assert!(matches!(stuck.take_over().unwrap(), Begin::Mismatch { scheme: 0 }));
}
