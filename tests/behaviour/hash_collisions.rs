//! S20: keys whose 64-bit hashes are all the same live side by side through claim, completion,
//! expiry and recovery.

use crate::common::*;
use onlyonce::*;

/// All keys have the same hash.
fn colliding() -> Sim {
    Sim::with(|options| options.hash_bits(0).max_claims(200))
}

fn names() -> impl Iterator<Item = String> {
    (0..60).map(|n| format!("key {n}"))
}

#[test]
fn claims_do_not_meet() {
    let mut sim = colliding();
    let store = sim.open();
    let mut claims: Vec<_> = names().map(|name| store.claim(&name)).collect();
    names().for_each(|name| assert!(store.is_in_flight(&name)));
    claims[7].save_checkpoint(b"seven").unwrap();
    claims.remove(3).release().unwrap();
    assert!(store.is_absent("key 3"));
    names().filter(|name| name != "key 3").for_each(|name| assert!(store.is_in_flight(&name)));
    let store = sim.power_cut_and_open();
    assert!(store.is_absent("key 3"));
    assert_eq!(store.stuck("key 7").checkpoint(), Some(&b"seven"[..]));
    assert_eq!(store.stuck("key 8").checkpoint(), None);
    assert_eq!(store.stats().interrupted, 59);
    drop(claims);
}

#[test]
fn records_do_not_meet() {
    let mut sim = colliding();
    let store = sim.open();
    names().for_each(|name| store.finish(&name, name.as_bytes()));
    let check = |store: &Store| {
        for name in names() {
            assert_eq!(store.answer(&name), name.as_bytes());
            assert_mismatch(store, &name);
        }
        assert!(store.is_absent("another"));
        assert_eq!(store.entries(Filter::COMPLETED).count(), 60);
    };
    check(&store);
    check(&sim.kill_and_open());
    check(&sim.power_cut_and_open());
    assert_eq!(sim.kill_and_open().claim("another").attempt(), 1);
}

#[test]
fn a_second_completion_finds_its_own_record() {
    let sim = colliding();
    let store = sim.open();
    let mut claims: Vec<_> = names().map(|name| store.claim(&name)).collect();
    for (claim, name) in claims.iter_mut().zip(names()) {
        claim.complete(name.as_bytes()).unwrap();
    }
    for (claim, name) in claims.iter_mut().zip(names()) {
        assert_eq!(claim.complete(name.as_bytes()), Ok(()));
        assert_eq!(claim.complete(b"other"), Err(ClaimError::DifferentResponse));
        assert_eq!(claim.renew(), Err(ClaimError::AlreadyCompleted));
    }
}

#[test]
fn each_expires_at_its_own_time() {
    let mut sim = colliding();
    let store = sim.open();
    for (n, name) in names().enumerate() {
        let retention = Some((MINUTE * (n as u32 + 1)).into());
        let response = Some(name.as_bytes());
        let completion = Completion { response, retention, head: b"" };
        store.claim(&name).complete_with(completion).unwrap();
    }
    for round in 1..=60 {
        sim.clock.advance(MINUTE);
        store.housekeep().unwrap();
        let live = names().filter(|name| !store.is_absent(name)).count();
        assert_eq!(live, 60 - round);
        if round < 60 {
            assert_eq!(store.answer("key 59"), b"key 59");
        }
    }
    let store = sim.kill_and_open();
    names().for_each(|name| assert_eq!(store.claim(&name).attempt(), 1));
}

#[test]
fn forgetting_one_leaves_the_others() {
    let mut sim = colliding();
    let store = sim.open();
    names().for_each(|name| store.finish(&name, name.as_bytes()));
    store.resolve_with(key("key 5"), Resolution::Forget, ResolveOptions::forced()).unwrap();
    let check = |store: &Store| {
        for name in names() {
            match name.as_str() {
                "key 5" => assert!(store.is_absent("key 5")),
                _ => assert_eq!(store.answer(&name), name.as_bytes()),
            }
        }
    };
    check(&store);
    check(&sim.power_cut_and_open());
}
