//! S4 and rule 3: whoever is refused leaves every byte of the store as it was, and asks the disk
//! for nothing.

use crate::common::*;
use onlyonce::*;

/// Runs `refused`, which must leave the disk alone.
#[track_caller]
fn writes_nothing<T>(sim: &Sim, refused: impl FnOnce() -> T) -> T {
    let (files, calls) = (sim.disk.snapshot(), sim.disk.calls());
    let value = refused();
    assert_eq!(sim.disk.calls(), calls, "it asked the disk for something");
    assert!(sim.disk.snapshot() == files, "it wrote something");
    value
}

#[test]
fn a_mismatch() {
    let sim = Sim::new();
    let store = sim.open();
    store.finish("done", b"order 1");
    let _claim = store.claim("running");
    drop(store.claim("dropped"));
    writes_nothing(&sim, || {
        ["done", "running", "dropped"].iter().for_each(|name| assert_mismatch(&store, name));
    });
}

#[test]
fn an_answer_in_flight_or_interrupted() {
    let sim = Sim::new();
    let store = sim.open();
    let _claim = store.claim("running");
    drop(store.claim("dropped"));
    writes_nothing(&sim, || {
        assert!(store.is_in_flight("running"));
        assert_eq!(store.stuck("dropped").reason(), Reason::Dropped);
    });
}

#[test]
fn a_replay_which_does_not_renew_the_expiry_either() {
    let sim = Sim::new();
    let store = sim.open();
    store.finish("k", b"order 1");
    let expires_at = replayed(store.ask("k")).expires_at();
    sim.clock.advance(HOUR);
    let record = writes_nothing(&sim, || replayed(store.ask("k")));
    assert_eq!(record.expires_at(), expires_at);
}

#[test]
fn a_fenced_call() {
    let sim = Sim::new();
    let store = sim.open();
    let mut late = store.claim("k");
    sim.clock.advance(MINUTE);
    let _taker = granted(store.stuck("k").take_over().unwrap());
    writes_nothing(&sim, || {
        assert_eq!(late.complete(b"late"), Err(ClaimError::Fenced));
        assert_eq!(late.fail(b"late"), Err(ClaimError::Fenced));
        assert_eq!(late.save_checkpoint(b"late"), Err(ClaimError::Fenced));
        assert_eq!(late.renew(), Err(ClaimError::Fenced));
        assert_eq!(late.ensure_durable(), Err(ClaimError::Fenced));
        assert_eq!(late.release(), Err(ClaimError::Fenced));
    });
}

#[test]
fn a_refused_completion() {
    let sim = Sim::new();
    let store = sim.open();
    let mut claim = store.claim("k");
    writes_nothing(&sim, || {
        assert!(matches!(claim.complete(&[0; 4097]), Err(ClaimError::ResponseTooLarge { .. })));
        assert!(matches!(claim.save_checkpoint(&[0; 4097]), Err(ClaimError::TooLong { .. })));
    });
    claim.complete(b"first").unwrap();
    writes_nothing(&sim, || {
        assert_eq!(claim.complete(b"second"), Err(ClaimError::DifferentResponse));
        assert_eq!(claim.complete(b"first"), Ok(()));
        assert_eq!(claim.renew(), Err(ClaimError::AlreadyCompleted));
        assert_eq!(claim.release(), Err(ClaimError::AlreadyCompleted));
    });
}

#[test]
fn a_refused_operator_and_a_full_store() {
    let sim = Sim::with(|options| options.max_claims(1));
    let store = sim.open();
    let _claim = store.claim("k");
    let others: Vec<_> =
        (0..store.stats().cells_free).map(|n| store.claim(&n.to_string())).collect();
    writes_nothing(&sim, || {
        let refused = store.resolve(key("k"), Resolution::Free);
        assert_eq!(refused, Err(StoreError::NeedsForce { state: "in flight" }));
        let full = store.begin(key("l"), print()).unwrap_err();
        assert_eq!(full, BeginError::StoreFull(Full::Claims));
    });
    drop(others);
}

#[test]
fn looking_listing_renewing_and_dropping() {
    let sim = Sim::new();
    let store = sim.open();
    store.finish("done", b"order 1");
    let mut claim = store.claim("running");
    writes_nothing(&sim, || {
        assert!(store.get(key("done")).unwrap().is_some());
        assert_eq!(store.entries(Filter::ALL).count(), 2);
        claim.renew().unwrap();
        drop(claim);
    });
}
