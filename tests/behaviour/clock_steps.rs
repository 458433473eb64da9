//! S21: the clock steps back an hour or forward a year, at run time and across a restart.
//! Nothing that has expired comes back, nothing expires early, nobody's lease is forgotten.

use crate::common::*;
use onlyonce::*;
use std::time::Duration;

const HOUR_MS: u64 = 3_600_000;

#[test]
fn steps_at_run_time_are_not_seen() {
    let (store, clock) = store();
    store.finish("done", b"order 1");
    let _claim = store.claim("running");
    for wall in [T0 - HOUR_MS, T0 + 365 * 24 * HOUR_MS, 0, T0] {
        clock.set_wall(wall);
        assert_eq!(store.stats().now_ms, T0);
        assert_eq!(store.answer("done"), b"order 1");
        assert!(store.is_in_flight("running"));
    }
    clock.set_wall(0);
    clock.advance(MINUTE);
    assert_eq!(store.stuck("running").reason(), Reason::LeasePassed);
    clock.advance(DAY - MINUTE);
    assert!(store.is_absent("done"));
}

#[test]
fn time_goes_on_from_the_highest_seen_when_the_clock_is_set_back_across_a_restart() {
    let mut sim = Sim::new();
    let store = sim.open();
    store.finish("k", b"order 1");
    sim.clock.advance(12 * HOUR);
    store.finish("later", b"order 2");
    sim.clock.set_wall(T0 - HOUR_MS);
    let store = sim.kill_and_open();
    assert_eq!(store.stats().now_ms, T0 + 12 * HOUR_MS);
    sim.clock.advance(12 * HOUR - MS);
    assert_eq!(store.answer("k"), b"order 1");
    sim.clock.advance(MS);
    assert!(store.is_absent("k"));
    assert_eq!(store.answer("later"), b"order 2");
}

/// A record that has expired, as everybody could see.
fn expired(sim: &Sim) -> Store {
    let store = sim.open();
    store.finish("k", b"old");
    sim.clock.advance(DAY);
    store
}

#[test]
fn what_has_been_granted_anew_stays_so_after_a_step_back_and_a_crash() {
    let mut sim = Sim::new();
    let claim = expired(&sim).claim("k");
    sim.clock.set_wall(T0);
    let store = sim.power_cut_and_open();
    assert_eq!(store.stuck("k").reason(), Reason::Crashed);
    drop(claim);
}

#[test]
fn what_has_been_swept_does_not_come_back() {
    let mut sim = Sim::new();
    let store = expired(&sim);
    store.housekeep().unwrap();
    store.housekeep().unwrap();
    sim.clock.set_wall(T0);
    assert!(sim.power_cut_and_open().is_absent("k"));
}

#[test]
fn what_had_expired_at_a_clean_close_does_not_come_back() {
    let sim = Sim::new();
    let store = expired(&sim);
    assert!(store.is_absent("k"));
    store.close().unwrap();
    sim.clock.set_wall(T0);
    let store = sim.open();
    assert!(store.is_absent("k"));
    assert_eq!(store.stats().now_ms, T0 + 24 * HOUR_MS);
}

#[test]
fn an_hour_lost_makes_nothing_live_longer_than_the_hour() {
    let mut sim = Sim::new();
    let store = sim.open();
    store.finish("k", b"order 1");
    // An hour passes that nobody notes down, then the clock is set back by it.
    sim.clock.advance(HOUR);
    sim.clock.set_wall(T0);
    let store = sim.kill_and_open();
    sim.clock.advance(DAY);
    assert!(store.is_absent("k"));
}

#[test]
fn a_jump_of_a_year_across_a_restart_is_not_believed_until_it_is_accepted() {
    let mut sim = Sim::new();
    let store = sim.open();
    store.finish("k", b"order 1");
    drop(store.claim("interrupted"));
    let year = T0 + 365 * 24 * HOUR_MS;
    sim.clock.set_wall(year);
    let store = sim.kill_and_open();
    assert_eq!((store.stats().clock_held, store.stats().now_ms), (true, T0));
    assert_eq!(store.answer("k"), b"order 1");
    assert_eq!(store.stuck("interrupted").attempts(), 1);
    sim.clock.advance(DAY - MS);
    assert_eq!(store.answer("k"), b"order 1");
    sim.clock.advance(MS);
    assert!(store.is_absent("k"));

    sim.options = sim.options.clone().accept_clock(AcceptClock::AsIs);
    let store = sim.kill_and_open();
    assert_eq!((store.stats().clock_held, store.stats().now_ms), (false, year + 24 * HOUR_MS));
    assert!(store.is_absent("k"));
    assert!(store.is_absent("interrupted"));
}

#[test]
fn a_jump_within_the_bound_is_time_that_has_passed() {
    let mut sim = Sim::with(|options| options.clock_jump_max(DAY));
    let store = sim.open();
    store.finish("k", b"order 1");
    sim.clock.set_wall(T0 + 24 * HOUR_MS);
    let store = sim.kill_and_open();
    assert!(!store.stats().clock_held);
    assert!(store.is_absent("k"));
}

#[test]
fn the_bound_can_be_chosen() {
    let mut sim = Sim::with(|options| options.clock_jump_max(HOUR));
    sim.open().finish("k", b"order 1");
    sim.clock.set_wall(T0 + HOUR_MS);
    assert!(!sim.kill_and_open().stats().clock_held);
    sim.clock.set_wall(T0 + 2 * HOUR_MS + 1);
    assert!(sim.kill_and_open().stats().clock_held);
}

#[test]
fn a_year_that_really_passes_at_run_time_ends_everything() {
    let (store, clock) = store();
    store.finish("done", b"order 1");
    drop(store.claim("interrupted"));
    let running = store.claim("running");
    clock.advance(365 * DAY);
    store.housekeep().unwrap();
    assert!(store.is_absent("done"));
    assert!(store.is_absent("interrupted"));
    assert_eq!(store.stuck("running").reason(), Reason::LeasePassed);
    drop(running);
}

/// Reopens after a kill, with the clock set back: the time of the store. (Stores are forgotten
/// here, not dropped: that would close them, which notes the time too.)
fn after_a_step_back(mut sim: Sim) -> u64 {
    sim.clock.set_wall(T0);
    sim.kill_and_open().stats().now_ms
}

#[test]
fn each_way_to_see_the_time_counts_by_itself() {
    let later = |live: &dyn Fn(&Sim)| {
        let sim = Sim::new();
        live(&sim);
        after_a_step_back(sim)
    };
    let opened = |sim: &Sim| {
        sim.open();
        sim.clock.advance(HOUR);
        std::mem::forget(sim.open());
    };
    assert_eq!(later(&opened), T0 + HOUR_MS, "an opening");
    let claimed = |sim: &Sim| {
        let store = sim.open();
        sim.clock.advance(HOUR);
        std::mem::forget((store.claim("k"), store));
    };
    assert_eq!(later(&claimed), T0 + HOUR_MS, "a claim");
    let completed = |sim: &Sim| {
        let store = sim.open();
        let mut claim = store.claim("k");
        sim.clock.advance(HOUR);
        claim.complete(b"order 1").unwrap();
        std::mem::forget(store);
    };
    assert_eq!(later(&completed), T0 + HOUR_MS, "a completion");
    let looked = |sim: &Sim| {
        let store = sim.open();
        sim.clock.advance(HOUR);
        store.housekeep().unwrap();
        std::mem::forget(store);
    };
    assert_eq!(later(&looked), T0 + HOUR_MS, "a look at the clock");
}

fn record(store: &Store, name: &str) -> Record {
    replayed(store.begin(key(name), print()).unwrap())
}

fn keeping(sim: &Sim) -> Options {
    sim.options.clone().accept_clock(AcceptClock::KeepingWindows)
}

#[test]
fn a_store_from_a_machine_without_a_clock_keeps_its_windows() {
    let mut sim = Sim::new();
    let right = T0;
    sim.clock.set_wall(HOUR_MS);
    let store = sim.open();
    store.finish("old", b"order 1");
    sim.clock.advance(23 * HOUR);
    store.finish("young", b"order 2");
    drop(store.claim("interrupted"));
    sim.clock.set_wall(right);
    let plain = sim.options.clone();
    sim.options = keeping(&sim);
    let store = sim.kill_and_open();
    assert_eq!((store.stats().clock_held, store.stats().now_ms), (false, right));
    assert_eq!(store.stuck("interrupted").attempts(), 1);
    let found = record(&store, "young");
    assert_eq!((found.completed_at(), found.expires_at()), (right, right + 24 * HOUR_MS));
    assert_eq!(found.age(), Some(Duration::ZERO));
    assert_eq!(record(&store, "old").completed_at(), right - 23 * HOUR_MS);

    // Later openings need no permission, and see the time that has passed.
    sim.options = plain;
    sim.clock.set_wall(right + HOUR_MS - 1);
    let store = sim.kill_and_open();
    assert_eq!((store.stats().clock_held, store.stats().now_ms), (false, right + HOUR_MS - 1));
    assert_eq!(store.answer("old"), b"order 1");
    sim.clock.advance(MS);
    assert!(store.is_absent("old"));
    assert_eq!(record(&store, "young").age(), Some(HOUR));
}

#[test]
fn a_held_clock_is_accepted_with_the_windows_kept_even_twice() {
    let mut sim = Sim::new();
    sim.open().finish("k", b"order 1");
    sim.options = keeping(&sim);
    for weeks in 1..=2 {
        let wall = T0 + weeks * 7 * 24 * HOUR_MS;
        sim.clock.set_wall(wall);
        let store = sim.kill_and_open();
        assert_eq!((store.stats().clock_held, store.stats().now_ms), (false, wall));
        let found = record(&store, "k");
        assert_eq!((found.completed_at(), found.age()), (wall, Some(Duration::ZERO)));
    }
}

#[test]
fn a_clock_that_had_been_ahead_is_put_right() {
    let mut sim = Sim::new();
    let year = T0 + 365 * 24 * HOUR_MS;
    sim.clock.set_wall(year);
    sim.open().finish("k", b"order 1");
    sim.clock.set_wall(T0);
    sim.options = keeping(&sim);
    let store = sim.kill_and_open();
    assert_eq!(store.stats().now_ms, T0);
    assert_eq!(record(&store, "k").expires_at(), T0 + 24 * HOUR_MS);
}

#[test]
fn the_bound_protects_half_the_retention() {
    for days in [1, 2] {
        let mut sim = Sim::new();
        sim.open().finish("k", b"order 1");
        sim.clock.set_wall(T0 + days * 24 * HOUR_MS);
        let store = sim.kill_and_open();
        assert!(store.stats().clock_held);
        assert_eq!(store.answer("k"), b"order 1");
    }
    let mut sim = Sim::new();
    sim.open().finish("k", b"order 1");
    sim.clock.set_wall(T0 + 12 * HOUR_MS);
    let store = sim.kill_and_open();
    assert!(!store.stats().clock_held);
    assert_eq!(record(&store, "k").age(), Some(12 * HOUR));
}

/// A time that can't be written down would keep the store from being opened again.
#[test]
fn a_wall_clock_beyond_all_times_does_not_shut_the_store() {
    let clock = ManualClock::at(u64::MAX / 2);
    let options = small(&clock);
    let mut sim = Sim { disk: storage::SimStorage::new(1), clock, options };
    let store = sim.open();
    store.finish("k", b"order 1");
    drop(store.claim("half way"));
    store.flush().unwrap();
    let store = sim.kill_and_open();
    assert_eq!(store.answer("k"), b"order 1");
    store.stuck("half way");
    // Time goes on, as it does elsewhere.
    sim.clock.advance(HOUR);
    assert_eq!(record(&store, "k").age(), Some(HOUR));
    store.close().unwrap();
    // And in a store that has seen another time, where an operator accepts this one.
    let mut sim = Sim::new();
    sim.open().finish("k", b"order 1");
    sim.clock.set_wall(u64::MAX);
    sim.options = sim.options.clone().accept_clock(AcceptClock::AsIs);
    let store = sim.kill_and_open();
    assert!(store.is_absent("k"));
    store.finish("later", b"order 2");
    store.close().unwrap();
    sim.options = small(&sim.clock);
    sim.clock.set_wall(T0);
    assert_eq!(sim.kill_and_open().answer("later"), b"order 2");
}

#[test]
fn who_looks_from_outside_sees_what_the_store_still_has() {
    let mut sim = Sim::with(|options| options.clock_jump_max(HOUR));
    let store = sim.open();
    store.finish("k", b"order 1");
    sim.clock.set_wall(T0 + 30 * 24 * HOUR_MS);
    drop(sim.kill_and_open());
    let look = |sim: &Sim| {
        let disk = std::sync::Arc::new(sim.disk.clone());
        inspect::Inspection::open_on(disk, sim.clock.clone(), None).unwrap()
    };
    assert_eq!(look(&sim).items().count(), 1);
    assert_eq!(look(&sim).info().jump_max_ms, HOUR_MS);
    sim.options = keeping(&sim);
    drop(sim.open());
    let inspection = look(&sim);
    assert_eq!(inspection.info().now_ms, T0 + 30 * 24 * HOUR_MS);
    assert_eq!(inspection.items().next().unwrap().unwrap().at_ms, T0 + 30 * 24 * HOUR_MS);
}
