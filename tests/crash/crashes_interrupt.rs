//! The row "process dies, store reopened": the store knows its own incarnation. What was in
//! flight is interrupted at once, what was decided stays decided.

use crate::common::*;
use onlyonce::{storage::SimStorage, *};

/// One key in each state; what they are after a reopening.
fn one_of_each(store: &Store) -> Vec<Claim> {
    store.finish("completed", b"order 1");
    store.claim("released").release().unwrap();
    drop(store.claim("dropped"));
    let mut failed = store.claim("failed");
    failed.fail(b"500").unwrap();
    let mut checkpointed = store.claim("checkpointed");
    checkpointed.save_checkpoint(b"first").unwrap();
    checkpointed.save_checkpoint(b"charged").unwrap();
    let mut given_back = store.claim("given back");
    given_back.save_checkpoint(b"half").unwrap();
    given_back.release().unwrap();
    drop(store.claim("taken over"));
    let taker = granted(store.stuck("taken over").take_over().unwrap());
    vec![store.claim("in flight"), failed, checkpointed, taker]
}

#[track_caller]
fn expect(store: &Store, name: &str, reason: Reason, attempts: u32, checkpoint: Option<&[u8]>) {
    expect_of(store, name, true, reason, attempts, checkpoint);
}

#[track_caller]
fn expect_of(
    store: &Store,
    name: &str,
    gone: bool,
    reason: Reason,
    attempts: u32,
    checkpoint: Option<&[u8]>,
) {
    let stuck = store.stuck(name);
    assert_eq!(stuck.reason(), reason, "{name}");
    assert_eq!(stuck.attempts(), attempts, "{name}");
    assert_eq!(stuck.checkpoint(), checkpoint, "{name}");
    assert_eq!(stuck.holder_gone(), gone, "{name}");
}

fn check(store: &Store, dropped: Reason) {
    check_of(store, dropped, true);
}

/// `gone`: whether the holders are.
fn check_of(store: &Store, dropped: Reason, gone: bool) {
    assert_eq!(store.answer("completed"), b"order 1");
    assert!(store.is_absent("released"));
    expect(store, "dropped", dropped, 1, None);
    expect_of(store, "failed", gone, Reason::Failed, 1, None);
    assert_eq!(store.stuck("failed").answer().map(|a| &a[..]), Some(&b"500"[..]));
    expect_of(store, "in flight", gone, Reason::Crashed, 1, None);
    expect_of(store, "checkpointed", gone, Reason::Crashed, 1, Some(b"charged"));
    expect(store, "given back", Reason::GivenBack, 1, Some(b"half"));
    expect_of(store, "taken over", gone, Reason::Crashed, 2, None);
    let stats = store.stats();
    assert_eq!((stats.in_flight, stats.interrupted, stats.records), (0, 6, 1));
}

#[test]
fn the_process_dies() {
    let mut sim = Sim::new();
    let claims = one_of_each(&sim.open());
    // Dropping writes nothing, so a crash forgets that it was a drop.
    check(&sim.kill_and_open(), Reason::Crashed);
    drop(claims);
}

#[test]
fn the_power_goes() {
    let mut sim = Sim::new();
    let claims = one_of_each(&sim.open());
    check(&sim.power_cut_and_open(), Reason::Crashed);
    drop(claims);
}

/// The claims are this process's: their holders may be at work, whatever became of the store.
#[test]
fn the_store_is_closed_under_its_claims() {
    let sim = Sim::new();
    let store = sim.open();
    let claims = one_of_each(&store);
    assert_eq!(store.close().unwrap().handles_left(), 4);
    check_of(&sim.open(), Reason::Dropped, false);
    drop(claims);
}

#[test]
fn again_and_again() {
    let mut sim = Sim::new();
    let claims = one_of_each(&sim.open());
    for round in 0..6 {
        let store = match round % 2 {
            0 => sim.kill_and_open(),
            _ => sim.power_cut_and_open(),
        };
        check(&store, Reason::Crashed);
    }
    drop(claims);
}

#[test]
fn what_was_interrupted_by_a_crash_can_be_taken_over_and_completed() {
    let mut sim = Sim::new();
    let before = sim.open().claim("k");
    let store = sim.kill_and_open();
    let mut claim = granted(store.stuck("k").take_over().unwrap());
    assert!(claim.token() > before.token());
    assert_eq!((claim.attempt(), claim.after()), (2, Some(Reason::Crashed)));
    claim.complete(b"order 1").unwrap();
    assert_eq!(sim.power_cut_and_open().answer("k"), b"order 1");
}

#[test]
fn a_lapsed_claim_is_crashed_or_lapsed_after_a_restart_but_not_forgotten() {
    let mut sim = Sim::new();
    let store = sim.open();
    let claim = store.claim("k");
    sim.clock.advance(2 * MINUTE);
    store.housekeep().unwrap();
    let store = sim.kill_and_open();
    expect(&store, "k", Reason::Crashed, 1, None);
    drop(claim);
}

#[test]
fn real_files_tell_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(T0);
    let store = small(&clock).open(dir.path()).unwrap();
    let claims = one_of_each(&store);
    store.close().unwrap();
    let store = small(&clock).background(true).open(dir.path()).unwrap();
    check_of(&store, Reason::Dropped, false);
    drop(claims);
}

#[test]
fn of_a_holder_that_failed_twice_the_last_answer_counts() {
    for between in [0, 1] {
        let mut sim = Sim::new();
        let store = sim.open();
        let mut claim = store.claim("k");
        claim.fail(b"first").unwrap();
        claim.renew().unwrap();
        sim.clock.advance(between * MS);
        claim.fail(b"second").unwrap();
        let stuck = sim.kill_and_open().stuck("k");
        assert_eq!(stuck.answer().map(|answer| &answer[..]), Some(&b"second"[..]));
    }
}

#[test]
fn of_several_checkpoints_the_last_one_counts() {
    for seed in 0..10 {
        let mut sim = Sim { disk: SimStorage::new(seed), ..Sim::new() };
        let mut claim = sim.open().claim("k");
        for bytes in [&[1; 700][..], &[2; 100], &[3; 400]] {
            claim.save_checkpoint(bytes).unwrap();
        }
        let store = sim.power_cut_and_open();
        assert_eq!(store.stuck("k").checkpoint(), Some(&[3; 400][..]), "seed {seed}");
    }
}
