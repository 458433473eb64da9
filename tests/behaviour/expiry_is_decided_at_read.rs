//! S6 and rule 4: what has expired is absent at the first instant, whether or not anything was
//! swept, and not one instant earlier. H23: two windows.

use crate::common::*;
use onlyonce::*;

#[test]
fn a_record_expires_at_its_first_instant_without_a_sweep() {
    let (store, clock) = store();
    store.finish("k", b"old");
    clock.advance(DAY - MS);
    assert_eq!(store.answer("k"), b"old");
    assert!(!store.is_absent("k"));
    clock.advance(MS);
    assert!(store.is_absent("k"));
    let mut claim = store.claim("k");
    assert_eq!(store.stats().began_after_expiry, 1);
    claim.complete(b"new").unwrap();
    assert_eq!(store.answer("k"), b"new");
}

#[test]
fn a_sweep_changes_no_answer() {
    let (store, clock) = store();
    store.finish("k", b"old");
    clock.advance(DAY - MS);
    store.housekeep().unwrap();
    assert_eq!(store.answer("k"), b"old");
    clock.advance(MS);
    // One round seals the segment, the next one sweeps it.
    store.housekeep().unwrap();
    store.housekeep().unwrap();
    assert_eq!(store.stats().records, 0, "swept");
    assert_eq!(store.claim("k").attempt(), 1);
}

#[test]
fn an_expired_mismatch_is_no_mismatch() {
    let (store, clock) = store();
    store.finish("k", b"old");
    clock.advance(DAY);
    let claim = granted(store.begin(key("k"), other_print()).unwrap());
    assert_eq!(claim.attempt(), 1);
}

#[test]
fn the_fact_outlives_the_response_when_remembered_for_longer() {
    let retention = Retention { replay_for: HOUR, remember_for: DAY };
    let sim = Sim::with(|options| options.retention(retention));
    let store = sim.open();
    let completion = Completion { head: b"head", response: Some(b"body"), retention: None };
    store.claim("k").complete_with(completion).unwrap();
    sim.clock.advance(HOUR - MS);
    assert_eq!(store.answer("k"), b"body");
    sim.clock.advance(MS);
    let record = replayed(store.ask("k"));
    assert_eq!((record.response(), record.head()), (None, &b"head"[..]));
    sim.clock.advance(DAY - HOUR - MS);
    assert_eq!(replayed(store.ask("k")).response(), None);
    sim.clock.advance(MS);
    assert_eq!(store.claim("k").attempt(), 1);
}

#[test]
fn an_interrupted_key_is_kept_from_its_interruption_on() {
    let (store, clock) = store();
    drop(store.claim("k"));
    clock.advance(7 * DAY - MS);
    assert_eq!(store.stuck("k").reason(), Reason::Dropped);
    clock.advance(MS);
    assert!(store.is_absent("k"));
    assert_eq!(store.claim("k").attempt(), 1);
    assert_eq!(store.stats().interrupted_expired, 1);
}

#[test]
fn an_interrupted_key_is_kept_as_long_as_a_record_would_be() {
    let sim = Sim::with(|options| options.retention(30 * DAY));
    let store = sim.open();
    drop(store.claim("k"));
    sim.clock.advance(30 * DAY - MS);
    store.housekeep().unwrap();
    assert_eq!(store.stuck("k").attempts(), 1);
    sim.clock.advance(MS);
    store.housekeep().unwrap();
    assert_eq!((store.stats().interrupted, store.stats().interrupted_expired), (0, 1));
    assert_eq!(store.claim("k").attempt(), 1);
}

#[test]
fn no_interrupted_key_expires_under_a_living_handle() {
    let (store, clock) = store();
    let mut claim = store.claim("k");
    clock.advance(3650 * DAY);
    store.housekeep().unwrap();
    assert_eq!(store.stuck("k").reason(), Reason::LeasePassed);
    claim.complete(b"at last").unwrap();
    assert_eq!(store.answer("k"), b"at last");
}

#[test]
fn a_claim_s_own_window_for_interruptions_survives_a_reopening() {
    let mut sim = Sim::with(|options| options.interrupted_retention(HOUR));
    let store = sim.open();
    let _claim = store.claim("k");
    let store = sim.kill_and_open();
    sim.clock.advance(HOUR - MS);
    assert_eq!(store.stuck("k").reason(), Reason::Crashed);
    let store = {
        drop(store);
        sim.kill_and_open()
    };
    assert_eq!(store.stuck("k").reason(), Reason::Crashed);
    sim.clock.advance(MS);
    assert!(store.is_absent("k"), "counted from the first reopening, not from the last");
}

#[test]
fn a_key_that_expires_while_the_service_is_down_is_counted_when_it_opens() {
    let mut sim = Sim::with(|options| options.clock_jump_max(30 * DAY));
    let _claim = sim.open().claim("k");
    let store = sim.kill_and_open();
    assert_eq!(store.stuck("k").reason(), Reason::Crashed);
    drop(store);
    sim.disk = sim.disk.kill();
    sim.clock.advance(7 * DAY);
    let store = sim.open();
    assert_eq!((store.stats().interrupted, store.stats().interrupted_expired), (0, 1));
    assert!(store.is_absent("k"));
    drop(store);
    assert_eq!(sim.open().stats().interrupted_expired, 0, "once");
}
