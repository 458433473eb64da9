//! Table 1.3: what a call that has returned is worth after a kill and after a loss of power,
//! durability by durability.

use crate::common::{gate::Gated, *};
use onlyonce::*;
use std::{sync::Arc, thread};

const BUFFERED: Durability = Durability::Buffered { max_delay: SECOND };

fn sim(durability: Durability) -> Sim {
    Sim::with(|options| options.durability(durability))
}

/// The same on other disks: what a loss of power keeps of what was not synced is another roll of
/// the dice on each.
fn sims(durability: Durability) -> impl Iterator<Item = Sim> {
    (1..=20).map(move |seed| Sim { disk: storage::SimStorage::new(seed), ..sim(durability) })
}

/// Completes, claims, checkpoints and releases; all have returned.
fn everything(store: &Store) -> Vec<Claim> {
    store.finish("completed", b"order 1");
    let mut checkpointed = store.claim("checkpointed");
    checkpointed.save_checkpoint(b"charged").unwrap();
    store.claim("released").release().unwrap();
    vec![checkpointed, store.claim("claimed")]
}

fn check_all(store: &Store) {
    assert_eq!(store.answer("completed"), b"order 1");
    assert_eq!(store.stuck("checkpointed").checkpoint(), Some(&b"charged"[..]));
    assert_eq!(store.stuck("claimed").reason(), Reason::Crashed);
    assert!(store.is_absent("released"));
}

#[test]
fn a_kill_loses_nothing_in_any_durability() {
    for durability in [Durability::Synced, Durability::SyncedCompletions, BUFFERED] {
        let mut sim = sim(durability);
        let claims = everything(&sim.open());
        check_all(&sim.kill_and_open());
        drop(claims);
    }
}

#[test]
fn synced_keeps_everything_through_a_loss_of_power() {
    let mut sim = sim(Durability::Synced);
    let claims = everything(&sim.open());
    check_all(&sim.power_cut_and_open());
    drop(claims);
}

#[test]
fn synced_completions_keeps_completions_and_checkpoints() {
    for mut sim in sims(Durability::SyncedCompletions) {
        let claims = everything(&sim.open());
        let store = sim.power_cut_and_open();
        assert_eq!(store.answer("completed"), b"order 1");
        assert_eq!(store.stuck("checkpointed").checkpoint(), Some(&b"charged"[..]));
        let state = |name| store.get(key(name)).unwrap().map(|entry| entry.state);
        for name in ["claimed", "released"] {
            assert!(matches!(state(name), None | Some(State::Interrupted { .. })), "{name}");
        }
        drop(claims);
    }
}

#[test]
fn one_claim_can_be_made_durable_before_its_first_effect() {
    for durability in [Durability::SyncedCompletions, BUFFERED] {
        let mut sim = sim(durability);
        let store = sim.open();
        let mut claim = store.claim("k");
        claim.ensure_durable().unwrap();
        let store = sim.power_cut_and_open();
        assert_eq!(store.stuck("k").reason(), Reason::Crashed, "{durability:?}");
        drop(claim);
    }
}

#[test]
fn buffered_keeps_what_is_older_than_its_delay() {
    must_end(|| {
        let mut sim = Sim::with(|options| options.durability(BUFFERED).background(true));
        let store = sim.open();
        let claims = everything(&store);
        let calls = sim.disk.calls();
        sim.clock.advance(SECOND);
        // The store's threads sync when the delay is over; a flush finds nothing else to do.
        until(|| sim.disk.calls() > calls);
        store.flush().unwrap();
        check_all(&sim.power_cut_and_open());
        drop(claims);
    });
}

#[test]
fn in_every_durability_nothing_half_written_is_served() {
    for durability in [Durability::Synced, Durability::SyncedCompletions, BUFFERED] {
        for mut sim in sims(durability) {
            let store = sim.open();
            let response = vec![7; 4096];
            (0..5).for_each(|n| store.finish(&n.to_string(), &response));
            let store = sim.power_cut_and_open();
            for n in 0..5 {
                match store.ask(&n.to_string()) {
                    Begin::Replay(record) => assert_eq!(record.response(), Some(&response[..])),
                    Begin::Execute(_) | Begin::Interrupted(_) if durability == BUFFERED => {}
                    other => panic!("{durability:?}: {other:?}"),
                }
            }
        }
    }
}

#[test]
fn a_completion_waits_for_the_disk_that_has_fallen_too_far_behind() {
    for mut sim in sims(BUFFERED) {
        let store = sim.open();
        store.finish("first", b"order 1");
        let calls = sim.disk.calls();
        sim.clock.advance(SECOND);
        store.finish("in time", b"order 2");
        assert_eq!(sim.disk.calls(), calls, "the delay isn't over yet");
        sim.clock.advance(MS);
        store.finish("too late", b"order 3");
        assert!(sim.disk.calls() > calls);
        let store = sim.power_cut_and_open();
        assert_eq!(store.answer("first"), b"order 1");
        assert_eq!(store.answer("in time"), b"order 2");
    }
}

#[test]
fn housekeeping_makes_durable_what_is_buffered() {
    for mut sim in sims(BUFFERED) {
        let store = sim.open();
        let claims = everything(&store);
        store.housekeep().unwrap();
        check_all(&sim.power_cut_and_open());
        drop(claims);
    }
}

#[test]
fn a_claim_alone_becomes_durable_in_time_too() {
    must_end(|| {
        for seed in 1..=5 {
            let mut sim = Sim::with(|options| options.durability(BUFFERED).background(true));
            sim.disk = storage::SimStorage::new(seed);
            let store = sim.open();
            let claim = store.claim("k");
            let calls = sim.disk.calls();
            sim.clock.advance(SECOND);
            until(|| sim.disk.calls() > calls);
            assert_eq!(sim.power_cut_and_open().stuck("k").reason(), Reason::Crashed);
            drop(claim);
        }
    });
}

/// The time is made durable once a minute, so that an idle store leaves its disk alone.
#[test]
fn an_idle_store_asks_its_disk_once_a_minute() {
    let sim = Sim::new();
    let store = sim.open();
    store.finish("k", b"order 1");
    store.housekeep().unwrap();
    let calls = sim.disk.calls();
    for _ in 0..59 {
        sim.clock.advance(SECOND);
        store.housekeep().unwrap();
        assert_eq!(sim.disk.calls(), calls);
    }
    sim.clock.advance(SECOND);
    store.housekeep().unwrap();
    assert!(sim.disk.calls() > calls);
}

/// A flush promises a claim that was there before it began. Completed while the flush runs, the key
/// is completed or interrupted after a loss of power, and not absent.
#[test]
fn a_flush_covers_a_claim_that_is_completed_meanwhile() {
    must_end(|| {
        let buffered = Durability::Buffered { max_delay: HOUR };
        let sim = sim(buffered);
        let disk = Gated::new(&sim.disk);
        let store = sim.options.open_on(Arc::new(disk.clone())).unwrap();
        let mut claim = store.claim("k");
        let shut = disk.shut("claims");
        thread::scope(|scope| {
            let flush = scope.spawn(|| store.flush());
            shut.until_reached();
            claim.complete(b"done").unwrap();
            drop(shut);
            assert_eq!(flush.join().unwrap(), Ok(()));
        });
        for _ in 0..20 {
            let cut = sim.disk.power_cut();
            let after = sim.options.open_on(Arc::new(cut)).unwrap();
            assert!(!after.is_absent("k"), "it can be claimed as if it had never been");
        }
    });
}
