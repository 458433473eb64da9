//! S24 and the operator's row: complete, free or forget, under a new token, with force where
//! somebody may be at work or something is lost. Durable when it returns.

use crate::common::*;
use onlyonce::*;

fn by_hand(response: &[u8]) -> Completion<'_> {
    Completion { response: Some(response), ..Completion::default() }
}

fn complete(response: &[u8]) -> Resolution<'_> {
    Resolution::Complete { fingerprint: None, completion: by_hand(response) }
}

#[test]
fn an_absent_key_is_imported_under_its_request_s_fingerprint() {
    let mut sim = Sim::new();
    let store = sim.open();
    let error =
        store.resolve_with(key("k"), complete(b"imported"), ResolveOptions::forced()).unwrap_err();
    assert!(matches!(error, StoreError::NotApplicable { .. }), "{error:?}");
    let fingerprint = Some(print());
    let import = Resolution::Complete { fingerprint, completion: by_hand(b"imported") };
    store.resolve(key("k"), import).unwrap();
    assert_eq!(store.answer("k"), b"imported");
    assert_mismatch(&store, "k");
    assert_eq!(store.get(key("k")).unwrap().unwrap().attempts, 0);
    let store = sim.power_cut_and_open();
    assert_eq!(store.answer("k"), b"imported");
    assert_eq!(
        store.resolve_with(key("k"), import, ResolveOptions::forced()),
        Err(StoreError::AlreadyCompleted)
    );
    assert_eq!(
        store.resolve_with(key("l"), Resolution::Free, ResolveOptions::forced()),
        Err(absent())
    );
    assert_eq!(
        store.resolve_with(key("l"), Resolution::Forget, ResolveOptions::forced()),
        Err(absent())
    );
}

fn absent() -> StoreError {
    StoreError::NotApplicable { state: "absent" }
}

#[test]
fn an_interrupted_key_is_completed_without_force() {
    let mut sim = Sim::new();
    let store = sim.open();
    drop(store.claim("k"));
    let stuck = store.stuck("k");
    store.resolve(key("k"), complete(b"it happened")).unwrap();
    assert_eq!(replayed(stuck.take_over().unwrap()).response(), Some(&b"it happened"[..]));
    assert_eq!(sim.power_cut_and_open().answer("k"), b"it happened");
}

/// Each attempt and each decision has a token of its own.
#[test]
fn a_decision_about_an_attempt_that_is_not_the_last_one_changes_nothing() {
    let mut sim = Sim::new();
    let store = sim.open();
    drop(store.claim("k"));
    let token = |store: &Store| store.get(key("k")).unwrap().unwrap().token;
    let first = token(&store);
    drop(granted(store.stuck("k").take_over().unwrap()));
    let second = token(&store);
    let print = Some(print());
    let import = Resolution::Complete { fingerprint: print, completion: by_hand(b"imported") };
    for resolution in [complete(b"it happened"), import, Resolution::Free, Resolution::Forget] {
        let error = store
            .resolve_with(key("k"), resolution, ResolveOptions::forced().seen(first))
            .unwrap_err();
        assert!(matches!(error, StoreError::NotApplicable { .. }), "{error:?}");
    }
    // An opening is no attempt.
    let store = sim.power_cut_and_open();
    store
        .resolve_with(key("k"), complete(b"it happened"), ResolveOptions::new().seen(second))
        .unwrap();
    assert!(
        store
            .resolve_with(key("k"), Resolution::Forget, ResolveOptions::forced().seen(second))
            .is_err()
    );
    assert_eq!(store.answer("k"), b"it happened");
    let third = token(&store);
    store.resolve_with(key("k"), Resolution::Forget, ResolveOptions::forced().seen(third)).unwrap();
    // Nothing is imported where something was seen.
    assert_eq!(
        store.resolve_with(key("k"), import, ResolveOptions::forced().seen(third)),
        Err(absent())
    );
}

#[test]
fn an_interrupted_key_is_freed_or_forgotten_without_force() {
    let mut sim = Sim::new();
    let store = sim.open();
    for (name, resolution) in [("freed", Resolution::Free), ("forgotten", Resolution::Forget)] {
        let mut claim = store.claim(name);
        claim.save_checkpoint(b"charged?").unwrap();
        drop(claim);
        store.resolve(key(name), resolution).unwrap();
        assert!(store.is_absent(name));
    }
    let store = sim.power_cut_and_open();
    for name in ["freed", "forgotten"] {
        assert!(store.is_absent(name));
        let claim = store.claim(name);
        assert_eq!((claim.attempt(), claim.checkpoint()), (1, None));
    }
}

#[test]
fn a_key_in_flight_needs_force_and_its_holder_is_fenced() {
    let mut sim = Sim::new();
    let store = sim.open();
    for (name, resolution) in
        [("c", complete(b"by hand")), ("f", Resolution::Free), ("g", Resolution::Forget)]
    {
        let mut late = store.claim(name);
        let refused = store.resolve(key(name), resolution).unwrap_err();
        assert_eq!(refused, StoreError::NeedsForce { state: "in flight" });
        assert_eq!(refused.key_state(), KeyState::Unchanged);
        assert!(store.is_in_flight(name));
        store.resolve_with(key(name), resolution, ResolveOptions::forced()).unwrap();
        assert_eq!(late.complete(b"late"), Err(ClaimError::Fenced));
        assert_eq!(late.save_checkpoint(b"late"), Err(ClaimError::Fenced));
        assert_eq!(late.release(), Err(ClaimError::Fenced));
    }
    assert_eq!(store.stats().holders, 0);
    let check = |store: &Store| {
        assert_eq!(store.answer("c"), b"by hand");
        assert!(store.is_absent("f") && store.is_absent("g"));
    };
    check(&store);
    check(&sim.power_cut_and_open());
}

#[test]
fn a_silent_holder_is_no_longer_in_flight() {
    let (store, clock) = store();
    let mut late = store.claim("k");
    clock.advance(MINUTE);
    store.resolve(key("k"), complete(b"by hand")).unwrap();
    assert_eq!(late.complete(b"late"), Err(ClaimError::Fenced));
    assert_eq!(store.answer("k"), b"by hand");
}

#[test]
fn forgetting_a_completed_key_needs_force_and_lasts() {
    let mut sim = Sim::new();
    let store = sim.open();
    store.finish("k", b"order 1");
    let free = store.resolve_with(key("k"), Resolution::Free, ResolveOptions::forced());
    assert_eq!(free, Err(StoreError::NotApplicable { state: "completed" }));
    let refused = store.resolve(key("k"), Resolution::Forget);
    assert_eq!(refused, Err(StoreError::NeedsForce { state: "completed" }));
    assert_eq!(store.answer("k"), b"order 1");
    store.resolve_with(key("k"), Resolution::Forget, ResolveOptions::forced()).unwrap();
    assert!(store.is_absent("k"));
    let store = sim.power_cut_and_open();
    assert!(store.is_absent("k"));
    store.finish("k", b"order 2");
    assert_eq!(store.answer("k"), b"order 2");
    let store = sim.power_cut_and_open();
    assert_eq!(store.answer("k"), b"order 2", "the tombstone kills only what was before it");
    store.resolve_with(key("k"), Resolution::Forget, ResolveOptions::forced()).unwrap();
    assert!(sim.power_cut_and_open().is_absent("k"));
}

#[test]
fn a_claim_after_forgetting_survives_the_tombstone() {
    let mut sim = Sim::new();
    let store = sim.open();
    store.finish("k", b"order 1");
    store.resolve_with(key("k"), Resolution::Forget, ResolveOptions::forced()).unwrap();
    let claim = store.claim("k");
    let store = sim.power_cut_and_open();
    assert_eq!((store.stuck("k").reason(), store.stuck("k").attempts()), (Reason::Crashed, 1));
    drop(claim);
}

#[test]
fn it_is_durable_whatever_the_store_s_durability() {
    for durability in [Durability::SyncedCompletions, Durability::Buffered { max_delay: HOUR }] {
        let mut sim = Sim::with(|options| options.durability(durability));
        let store = sim.open();
        store.finish("forgotten", b"order 1");
        drop(store.claim("completed"));
        drop(store.claim("freed"));
        store.flush().unwrap();
        store.resolve_with(key("forgotten"), Resolution::Forget, ResolveOptions::forced()).unwrap();
        store.resolve(key("completed"), complete(b"by hand")).unwrap();
        store.resolve(key("freed"), Resolution::Free).unwrap();
        let store = sim.power_cut_and_open();
        assert!(store.is_absent("forgotten"), "{durability:?}");
        assert_eq!(store.answer("completed"), b"by hand");
        assert!(store.is_absent("freed"), "{durability:?}");
    }
}

#[test]
fn a_completion_that_cannot_be_kept_is_refused() {
    let (store, _) = store();
    drop(store.claim("k"));
    let too_large = store.resolve(key("k"), complete(&[0; 4097]));
    assert_eq!(too_large, Err(StoreError::ResponseTooLarge { len: 4097, limit: 4096 }));
    let fingerprint = Some(print());
    let largest = Resolution::Complete { fingerprint, completion: by_hand(&[7; 4096]) };
    store.resolve(key("the largest"), largest).unwrap();
    assert_eq!(store.answer("the largest"), [7; 4096]);
    let completion = Completion { head: &[7; 4096], ..Completion::default() };
    let longest = Resolution::Complete { fingerprint, completion };
    store.resolve(key("the longest head"), longest).unwrap();
    assert_eq!(replayed(store.ask("the longest head")).head(), [7; 4096]);
    let completion = Completion { head: &[0; 4097], ..Completion::default() };
    let resolution = Resolution::Complete { fingerprint: None, completion };
    let refused = store.resolve(key("k"), resolution);
    assert!(matches!(refused, Err(StoreError::TooLong { .. })));
    let completion = Completion { retention: Some((3661 * DAY).into()), ..by_hand(b"x") };
    let resolution = Resolution::Complete { fingerprint: None, completion };
    let refused = store.resolve(key("k"), resolution);
    assert!(matches!(refused, Err(StoreError::Terms { .. })));
    assert_eq!(store.stuck("k").reason(), Reason::Dropped);
}

fn replace<'a>(head: &'a [u8], response: &'a [u8]) -> Resolution<'a> {
    Resolution::Replace { head, response: Some(response) }
}

#[test]
fn a_wrong_answer_is_replaced_and_keeps_its_key_s_end() {
    for durability in [
        Durability::Synced,
        Durability::SyncedCompletions,
        Durability::Buffered { max_delay: HOUR },
    ] {
        let mut sim = Sim::with(|options| options.durability(durability));
        let store = sim.open();
        let mut claim = store.claim("k");
        claim.complete(b"wrong").unwrap();
        let before = replayed(store.ask("k"));
        sim.clock.advance(HOUR);
        let seen = store.get(key("k")).unwrap().unwrap().token;
        store.resolve(key("k"), replace(b"head", b"right")).unwrap();
        let again = store.resolve_with(
            key("k"),
            replace(b"", b"late"),
            ResolveOptions::forced().seen(seen),
        );
        let state = "not what it was when it was looked at";
        assert_eq!(again, Err(StoreError::NotApplicable { state }));
        assert_eq!(claim.complete(b"wrong"), Err(ClaimError::Fenced));
        let check = |store: &Store| {
            let record = replayed(store.ask("k"));
            assert_eq!((record.head(), record.response()), (&b"head"[..], Some(&b"right"[..])));
            let times = |record: &Record| (record.completed_at(), record.expires_at());
            assert_eq!(times(&record), times(&before), "{durability:?}");
            assert!(record.token() > before.token());
            assert_mismatch(store, "k");
            assert_eq!(store.stats().records, 1, "{durability:?}");
            assert_eq!(store.entries(Filter::ALL).count(), 1);
        };
        check(&store);
        let store = sim.power_cut_and_open();
        check(&store);
        // Both are forgotten by one decision.
        store.resolve_with(key("k"), Resolution::Forget, ResolveOptions::forced()).unwrap();
        assert!(store.is_absent("k"));
        assert!(sim.power_cut_and_open().is_absent("k"));
    }
}

#[test]
fn only_an_answer_that_is_there_is_replaced() {
    let (store, clock) = store();
    let not_completed = Err(StoreError::NotApplicable { state: "not completed" });
    drop(store.claim("stuck"));
    assert_eq!(
        store.resolve_with(key("stuck"), replace(b"", b"x"), ResolveOptions::forced()),
        not_completed
    );
    let held = store.claim("held");
    let refused = store.resolve(key("held"), replace(b"", b"x"));
    assert_eq!(refused, Err(StoreError::NeedsForce { state: "in flight" }));
    assert_eq!(
        store.resolve_with(key("held"), replace(b"", b"x"), ResolveOptions::forced()),
        not_completed
    );
    drop(held);
    let absent = Err(StoreError::NotApplicable { state: "absent" });
    assert_eq!(
        store.resolve_with(key("never"), replace(b"", b"x"), ResolveOptions::forced()),
        absent
    );
    store.finish("k", b"x");
    let too_large = store.resolve(key("k"), replace(b"", &[0; 4097]));
    assert!(matches!(too_large, Err(StoreError::ResponseTooLarge { .. })));
    let too_long = store.resolve(key("k"), replace(&[0; 4097], b""));
    assert!(matches!(too_long, Err(StoreError::TooLong { .. })));
    // What retries would never get is not taken.
    let retention = Some(Retention { replay_for: MINUTE, remember_for: HOUR });
    let completion = Completion { retention, ..by_hand(b"for a minute") };
    store.claim("brief").complete_with(completion).unwrap();
    clock.advance(MINUTE);
    assert!(
        store.resolve_with(key("brief"), replace(b"", b"x"), ResolveOptions::forced()).is_err()
    );
    let gone = Resolution::Replace { head: b"done otherwise", response: None };
    store.resolve(key("brief"), gone).unwrap();
    let record = replayed(store.ask("brief"));
    assert_eq!((record.head(), record.response()), (&b"done otherwise"[..], None));
    assert_eq!(store.answer("k"), b"x");
}
