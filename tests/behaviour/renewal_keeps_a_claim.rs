//! S12, rule 10: a holder that renews is never interrupted; one that is silent is. What the
//! library renews by itself stops at the execution limit.

use crate::common::*;
use onlyonce::*;

#[test]
fn a_renewed_claim_is_in_flight_however_long_it_works() {
    let (store, clock) = store();
    let mut claim = store.claim("k");
    for _ in 0..1000 {
        clock.advance(MINUTE - MS);
        store.housekeep().unwrap();
        assert!(store.is_in_flight("k"));
        claim.renew().unwrap();
    }
    clock.advance(MINUTE);
    assert_eq!(store.stuck("k").reason(), Reason::LeasePassed);
    assert_eq!(pending_for(&store, &mut claim), 1000 * (MINUTE - MS) + MINUTE);
}

/// Renews, and for how long the key has been in flight then.
fn pending_for(store: &Store, claim: &mut Claim) -> std::time::Duration {
    claim.renew().unwrap();
    pending(store.ask("k")).running_for()
}

#[test]
fn a_renewal_after_the_lease_has_passed_brings_it_back() {
    let (store, clock) = store();
    let mut claim = store.claim("k");
    clock.advance(HOUR);
    store.housekeep().unwrap();
    assert_eq!(store.stuck("k").reason(), Reason::LeasePassed);
    claim.renew().unwrap();
    assert!(store.is_in_flight("k"));
    clock.advance(MINUTE - MS);
    assert!(store.is_in_flight("k"));
}

#[test]
fn a_checkpoint_renews() {
    let (store, clock) = store();
    let mut claim = store.claim("k");
    clock.advance(MINUTE - MS);
    claim.save_checkpoint(b"charged").unwrap();
    clock.advance(MINUTE - MS);
    assert!(store.is_in_flight("k"));
    clock.advance(MS);
    assert_eq!(store.stuck("k").checkpoint(), Some(&b"charged"[..]));
}

#[test]
fn ensure_durable_does_not_renew() {
    let (store, clock) = store();
    let mut claim = store.claim("k");
    clock.advance(MINUTE - MS);
    claim.ensure_durable().unwrap();
    clock.advance(MS);
    assert_eq!(store.stuck("k").reason(), Reason::LeasePassed);
}

#[test]
fn the_store_keeps_a_claim_alive_up_to_the_execution_limit() {
    let (store, clock) = store();
    let terms = Terms { keep_alive: true, ..Terms::default() };
    let mut claim = granted(store.begin_with(key("k"), print(), terms).unwrap());
    clock.advance(15 * MINUTE - MS);
    store.housekeep().unwrap();
    assert!(store.is_in_flight("k"));
    clock.advance(MS);
    let stuck = store.stuck("k");
    assert_eq!((stuck.reason(), stuck.holder_gone()), (Reason::LeasePassed, false));
    claim.complete(b"late").unwrap();
    assert_eq!(store.answer("k"), b"late");
}

#[test]
fn renewing_a_kept_claim_does_not_shorten_it() {
    let (store, clock) = store();
    let terms = Terms { keep_alive: true, ..Terms::default() };
    let mut claim = granted(store.begin_with(key("k"), print(), terms).unwrap());
    claim.renew().unwrap();
    clock.advance(10 * MINUTE);
    assert!(store.is_in_flight("k"));
}

#[test]
fn retry_after_follows_the_running_time_and_not_the_lease() {
    let (store, clock) = store();
    let terms = Terms { lease: Some(HOUR), ..Terms::default() };
    let _claim = granted(store.begin_with(key("k"), print(), terms).unwrap());
    let retry_after = || pending(store.ask("k")).retry_after();
    assert_eq!(retry_after(), SECOND);
    clock.advance(6 * SECOND);
    assert_eq!(retry_after(), 3 * SECOND);
    clock.advance(10 * MINUTE);
    assert_eq!(retry_after(), 10 * SECOND);
    assert_eq!(pending(store.ask("k")).running_for(), 10 * MINUTE + 6 * SECOND);
}
