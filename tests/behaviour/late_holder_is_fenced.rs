//! S8, S9: a holder whose lease has passed may still finish, unless somebody took over; then it
//! is fenced and changes nothing.

use crate::common::*;
use onlyonce::*;

/// A claim whose lease has passed, and its taker.
fn overtaken(store: &Store, clock: &ManualClock) -> (Claim, Claim) {
    let late = store.claim("k");
    clock.advance(MINUTE);
    let taker = granted(store.stuck("k").take_over().unwrap());
    assert!(taker.token() > late.token());
    (late, taker)
}

#[test]
fn a_lease_passes_at_its_first_instant() {
    let (store, clock) = store();
    let _claim = store.claim("k");
    clock.advance(MINUTE - MS);
    assert!(store.is_in_flight("k"));
    clock.advance(MS);
    let stuck = store.stuck("k");
    assert_eq!((stuck.reason(), stuck.holder_gone()), (Reason::LeasePassed, false));
    store.housekeep().unwrap();
    assert_eq!(store.stats().leases_passed, 1);
}

#[test]
fn a_late_completion_counts_if_nobody_took_over() {
    let (store, clock) = store();
    let mut claim = store.claim("k");
    clock.advance(HOUR);
    store.housekeep().unwrap();
    claim.complete(b"late").unwrap();
    assert_eq!(store.answer("k"), b"late");
    assert_eq!(store.stats().fenced, 0);
}

#[test]
fn after_a_takeover_the_taker_s_completion_is_the_one_that_stays() {
    let (store, clock) = store();
    let (mut late, mut taker) = overtaken(&store, &clock);
    assert_eq!(late.complete(b"late"), Err(ClaimError::Fenced));
    assert!(store.is_in_flight("k"));
    taker.complete(b"taker's").unwrap();
    assert_eq!(late.complete(b"late"), Err(ClaimError::Fenced));
    assert_eq!(late.complete(b"taker's"), Err(ClaimError::Fenced), "even with the same bytes");
    assert_eq!(store.answer("k"), b"taker's");
    assert_eq!(store.stats().fenced, 3);
    assert_eq!(store.stats().completed, 1);
}

#[test]
fn release_renew_checkpoint_and_fail_are_fenced_and_change_nothing() {
    let (store, clock) = store();
    let (mut late, taker) = overtaken(&store, &clock);
    assert_eq!(late.renew(), Err(ClaimError::Fenced));
    assert_eq!(late.save_checkpoint(b"late"), Err(ClaimError::Fenced));
    assert_eq!(late.fail(b"late"), Err(ClaimError::Fenced));
    assert_eq!(late.ensure_durable(), Err(ClaimError::Fenced));
    assert_eq!(late.release(), Err(ClaimError::Fenced));
    assert!(store.is_in_flight("k"));
    drop(taker);
    let stuck = store.stuck("k");
    assert_eq!((stuck.reason(), stuck.attempts()), (Reason::Dropped, 2));
    assert_eq!((stuck.checkpoint(), stuck.answer()), (None, None));
}

#[test]
fn a_late_renewal_does_not_keep_the_taker_s_lease() {
    let (store, clock) = store();
    let (mut late, _taker) = overtaken(&store, &clock);
    clock.advance(MINUTE - MS);
    assert_eq!(late.renew(), Err(ClaimError::Fenced));
    assert!(store.is_in_flight("k"));
    clock.advance(MS);
    assert_eq!(store.stuck("k").reason(), Reason::LeasePassed);
}

#[test]
fn dropping_the_late_holder_does_not_touch_the_taker() {
    let (store, clock) = store();
    let (late, mut taker) = overtaken(&store, &clock);
    assert_eq!(store.stats().holders, 2);
    drop(late);
    assert!(store.is_in_flight("k"));
    assert_eq!(store.stats().holders, 1);
    taker.complete(b"taker's").unwrap();
    assert_eq!(store.stats().holders, 0);
}

#[test]
fn a_holder_of_an_earlier_life_of_the_key_is_fenced() {
    let (store, clock) = store();
    let mut late = store.claim("k");
    store.resolve_with(key("k"), Resolution::Free, ResolveOptions::forced()).unwrap();
    assert_eq!(late.complete(b"late"), Err(ClaimError::Fenced), "absent");
    let mut fresh = store.claim("k");
    assert_eq!(late.complete(b"late"), Err(ClaimError::Fenced), "somebody else's");
    fresh.complete(b"fresh").unwrap();
    assert_eq!(late.complete(b"late"), Err(ClaimError::Fenced), "completed by somebody else");
    clock.advance(DAY);
    assert_eq!(fresh.complete(b"fresh"), Err(ClaimError::Fenced), "expired");
}
