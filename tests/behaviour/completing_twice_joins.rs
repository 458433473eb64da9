//! S11, rule 9, and the column Completing: while a completion is on its way to the disk others
//! see the key in flight, its own holder may say the same again, and nobody can take it.

use crate::common::{gate::Gated, *};
use onlyonce::*;
use std::{sync::Arc, thread};

#[test]
fn the_same_bytes_twice_are_one_record() {
    let (store, _) = store();
    let mut claim = store.claim("k");
    assert_eq!(claim.complete(b"order 1"), Ok(()));
    let used = store.stats();
    assert_eq!(claim.complete(b"order 1"), Ok(()));
    assert_eq!(store.stats().records, 1);
    assert_eq!(store.stats().space_free, used.space_free);
    assert_eq!(store.stats().completed, 1);
}

#[test]
fn other_bytes_are_refused_and_the_first_stay() {
    let (store, _) = store();
    let mut claim = store.claim("k");
    claim.complete(b"order 1").unwrap();
    let error = claim.complete(b"order 2").unwrap_err();
    assert_eq!(error, ClaimError::DifferentResponse);
    assert_eq!((error.key_state(), error.retry()), (KeyState::Completed, Retry::Never));
    assert_eq!(claim.complete_without_response(b""), Err(ClaimError::DifferentResponse));
    let headed = Completion { head: b"h", response: Some(b"order 1"), retention: None };
    assert_eq!(claim.complete_with(headed), Err(ClaimError::DifferentResponse));
    assert_eq!(store.answer("k"), b"order 1");
}

#[test]
fn an_empty_response_is_not_the_same_as_none() {
    let (store, _) = store();
    let mut claim = store.claim("k");
    claim.complete(b"").unwrap();
    assert_eq!(claim.complete_without_response(b""), Err(ClaimError::DifferentResponse));
    let mut other = store.claim("l");
    other.complete_without_response(b"").unwrap();
    assert_eq!(other.complete(b""), Err(ClaimError::DifferentResponse));
    assert_eq!(other.complete_without_response(b""), Ok(()));
}

/// Runs `test` while the completion of "k" waits for the disk.
fn while_completing(test: impl FnOnce(&Store, &ManualClock, &spi::Ticket) + Send + 'static) {
    while_completing_in(Durability::Synced, test);
}

fn while_completing_in(
    durability: Durability,
    test: impl FnOnce(&Store, &ManualClock, &spi::Ticket) + Send + 'static,
) {
    must_end(move || {
        let sim = Sim::with(|options| options.durability(durability));
        let disk = Gated::new(&sim.disk);
        let store = sim.options.open_on(Arc::new(disk.clone())).unwrap();
        let request =
            spi::Request { key: key("k").into(), fingerprint: print(), terms: Terms::default() };
        let found =
            crate::common::futures::block_on(IdempotencyStore::begin(&store, &request)).unwrap();
        let spi::Found::Granted(spi::Grant { ticket, .. }) = found else { panic!("{found:?}") };
        let shut = disk.shut("segment-");
        thread::scope(|scope| {
            let first = scope.spawn(|| complete(&store, &ticket, b"order 1"));
            shut.until_reached();
            test(&store, &sim.clock, &ticket);
            drop(shut);
            assert_eq!(first.join().unwrap(), Ok(()));
        });
        assert_eq!(store.answer("k"), b"order 1");
        assert_eq!(store.stats().records, 1);
    });
}

fn complete(store: &Store, ticket: &spi::Ticket, response: &[u8]) -> Result<(), ClaimError> {
    let completion = Completion { response: Some(response), ..Completion::default() };
    write(store, ticket, spi::ClaimOp::Complete(completion))
}

fn write(store: &Store, ticket: &spi::Ticket, verb: spi::ClaimOp<'_>) -> Result<(), ClaimError> {
    crate::common::futures::block_on(IdempotencyStore::write(store, ticket, verb))
}

#[test]
fn others_see_it_in_flight_until_it_is_durable() {
    while_completing(|store, clock, _| {
        assert!(store.is_in_flight("k"));
        assert_mismatch(store, "k");
        let entry = store.get(key("k")).unwrap().unwrap();
        assert!(matches!(entry.state, State::InFlight { .. }), "{entry:?}");
        assert_eq!(store.entries(Filter::COMPLETED).count(), 0);
        assert_eq!(store.entries(Filter::IN_FLIGHT).count(), 1);
        // Its lease is over: it cannot pass any more.
        clock.advance(HOUR);
        assert!(store.is_in_flight("k"));
    });
}

/// Where a claim doesn't wait for the disk, nothing would hold up somebody who was granted one.
#[test]
fn its_lease_cannot_pass() {
    while_completing_in(Durability::SyncedCompletions, |store, clock, _| {
        clock.advance(DAY / 2);
        assert!(store.is_in_flight("k"));
    });
}

#[test]
fn a_second_completion_joins_the_first() {
    while_completing(|store, _, ticket| {
        assert_eq!(complete(store, ticket, b"other"), Err(ClaimError::DifferentResponse));
        let future = Completion { response: Some(b"order 1"), ..Completion::default() };
        let verb = spi::ClaimOp::Complete(future);
        let mut second = Box::pin(IdempotencyStore::write(store, ticket, verb));
        let woken = crate::common::futures::Woken::new();
        assert!(woken.poll(second.as_mut()).is_pending(), "acknowledged before it is durable");
    });
}

#[test]
fn its_holder_is_told_that_it_is_completed() {
    while_completing(|store, _, ticket| {
        for verb in [
            spi::ClaimOp::Fail(b"no"),
            spi::ClaimOp::Release,
            spi::ClaimOp::Renew,
            spi::ClaimOp::Checkpoint(b"half"),
        ] {
            assert_eq!(write(store, ticket, verb), Err(ClaimError::AlreadyCompleted), "{verb:?}");
        }
    });
}

#[test]
fn dropping_the_claim_does_not_undo_it() {
    while_completing(|store, _, ticket| {
        store.abandon(ticket, spi::Abandon::Dropped);
        store.abandon(ticket, spi::Abandon::Undelivered);
        assert!(store.is_in_flight("k"));
    });
}

#[test]
fn an_operator_is_told_to_ask_again() {
    while_completing(|store, _, _| {
        let completion = Completion { response: Some(b"mine"), ..Completion::default() };
        let complete = Resolution::Complete { fingerprint: None, completion };
        for resolution in [complete, Resolution::Free, Resolution::Forget] {
            let refused =
                store.resolve_with(key("k"), resolution, ResolveOptions::forced()).unwrap_err();
            assert!(refused.to_string().contains("ask again"), "{resolution:?}: {refused}");
        }
        assert!(store.is_in_flight("k"));
    });
}

/// With the record damaged nobody can tell what it says: neither its holder nor an operator is
/// told anything else.
#[test]
fn a_damaged_record_is_no_other_answer() {
    let sim = Sim::new();
    let store = sim.open();
    let mut claim = store.claim("k");
    claim.complete(b"order number one").unwrap();
    // So many that the ring doesn't have it any more.
    (0..20).for_each(|n| store.finish(&n.to_string(), &[7; 4000]));
    let files = sim.disk.snapshot();
    let place = |bytes: &[u8]| bytes.windows(16).position(|w| w == b"order number one");
    let segments = files.iter().filter(|(name, _)| name.starts_with("segment-"));
    let (name, at) = segments.filter_map(|(n, b)| Some((n, place(b)?))).next().unwrap();
    sim.disk.flip_bit(name, at as u64 * 8);
    let is_damaged = |error| matches!(error, Err(ClaimError::Damaged { .. }));
    assert!(is_damaged(claim.complete(b"order number one")));
    assert!(is_damaged(claim.renew()));
    let resolved = store.resolve_with(key("k"), Resolution::Free, ResolveOptions::forced());
    assert!(matches!(resolved, Err(StoreError::Damaged { .. })), "{resolved:?}");
}

/// An operator is not told of a record that a loss of power could still take back.
#[test]
fn an_operator_waits_for_what_is_being_completed() {
    let sim = Sim::new();
    let disk = gate::Gated::new(&sim.disk);
    let store = sim.options.open_on(Arc::new(disk.clone())).unwrap();
    let mut claim = store.claim("k");
    let shut = disk.shut("segment-");
    let holder = std::thread::spawn(move || claim.complete(b"done"));
    shut.until_reached();
    for resolution in [
        Resolution::Complete { fingerprint: None, completion: Completion::default() },
        Resolution::Free,
        Resolution::Forget,
        Resolution::Replace { head: b"", response: None },
    ] {
        let state = "being completed; ask again";
        let refused =
            store.resolve_with(key("k"), resolution, ResolveOptions::forced()).unwrap_err();
        assert_eq!(refused, StoreError::NotApplicable { state });
    }
    drop(shut);
    holder.join().unwrap().unwrap();
    store.resolve_with(key("k"), Resolution::Forget, ResolveOptions::forced()).unwrap();
}
