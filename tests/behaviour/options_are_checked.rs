//! Options out of range are refused with a text that says what would do, and leave no directory
//! behind.

use crate::common::*;
use onlyonce::*;
use std::time::Duration;

/// In milliseconds this is a little more than 2^64.
const WRAPS: Duration = Duration::from_secs(18_446_744_073_709_552);

#[track_caller]
fn refused(change: impl FnOnce(Options) -> Options, says: &str) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let error = change(small(&ManualClock::at(T0))).open(&path).unwrap_err();
    let OpenError::Options { what } = &error else { panic!("{error:?}") };
    assert!(what.contains(says), "{what}");
    assert_eq!(error.to_string(), *what);
    assert!(!path.exists(), "it left something behind");
}

#[track_caller]
fn accepted(change: impl FnOnce(Options) -> Options) {
    let sim = Sim::with(change);
    let store = sim.open();
    store.finish("k", b"order 1");
    assert_eq!(store.answer("k"), b"order 1");
    store.close().unwrap();
}

#[test]
fn the_lease() {
    for lease in [Duration::ZERO, Duration::from_micros(1), 30 * DAY + MS, Duration::MAX, WRAPS] {
        refused(|options| options.lease(lease), "lease");
    }
    accepted(|options| options.lease(MS));
}

#[test]
fn the_retention() {
    refused(|options| options.retention(MINUTE - MS), "at least the lease");
    refused(|options| options.retention(3661 * DAY), "ten years");
    refused(|options| options.retention(Duration::MAX), "ten years");
    let shrinking = Retention { replay_for: DAY, remember_for: HOUR };
    refused(|options| options.retention(shrinking), "remember_for");
    accepted(|options| options.retention(3660 * DAY));
}

#[test]
fn the_window_of_interrupted_keys() {
    for window in [Duration::ZERO, 3661 * DAY, Duration::MAX, WRAPS] {
        refused(|options| options.interrupted_retention(window), "interrupted_retention");
    }
    accepted(|options| options.interrupted_retention(MS));
}

#[test]
fn the_execution_limit() {
    refused(|options| options.execution_limit(MINUTE - MS), "execution_limit");
    refused(|options| options.execution_limit(30 * DAY + MS), "execution_limit");
    refused(|options| options.execution_limit(Duration::MAX), "execution_limit");
    accepted(|options| options.execution_limit(MINUTE));
}

#[test]
fn counts() {
    refused(|options| options.max_attempts(0), "max_attempts");
    refused(|options| options.max_claims(0), "max_claims");
    refused(|options| options.max_claims(u32::MAX), "max_claims");
    accepted(|options| options.max_attempts(1));
    accepted(|options| options.max_claims(1));
}

#[test]
fn sizes() {
    let too_large = RESPONSE_BYTES_MAX + 1;
    for bytes in [too_large, 16 << 20, (16 << 20) + 1] {
        let bound = RESPONSE_BYTES_MAX.to_string();
        refused(
            |options| options.max_response(bytes),
            &format!("max_response must be at most {bound}"),
        );
    }
    accepted(|options| options.max_response(RESPONSE_BYTES_MAX).capacity(1 << 30));
    refused(|options| options.max_response(usize::MAX), "max_response");
    refused(|options| options.segment_bytes((64 << 20) + 1), "64 MiB");
    refused(|options| options.segment_bytes(u64::MAX), "64 MiB");
    refused(|options| options.capacity(0), "capacity");
    refused(|options| options.capacity((1 << 20) - 1), "capacity");
    accepted(|options| options.capacity(1 << 20));
    accepted(|options| options.capacity(u64::MAX));
    accepted(|options| options.ring_bytes(0));
    accepted(|options| options.segment_bytes(0));
}

#[test]
fn a_ring_beyond_all_measure() {
    let sim = Sim::with(|options| options.ring_bytes(u64::MAX));
    assert!(sim.try_open().is_err(), "and no panic, and no endless allocation");
}

#[test]
fn no_response_at_all_may_be_kept() {
    let sim = Sim::with(|options| options.max_response(0));
    let store = sim.open();
    let mut claim = store.claim("k");
    let too_large = claim.complete(b"x");
    assert_eq!(too_large, Err(ClaimError::ResponseTooLarge { len: 1, limit: 0 }));
    claim.complete_without_response(&[1; 4096]).unwrap();
    assert_eq!(replayed(store.ask("k")).head(), [1; 4096]);
}

#[test]
fn the_delay_of_buffered() {
    let buffered = |max_delay| move |o: Options| o.durability(Durability::Buffered { max_delay });
    refused(buffered(Duration::ZERO), "max_delay");
    refused(buffered(Duration::from_micros(999)), "max_delay");
    accepted(buffered(MS));
    accepted(buffered(HOUR));
}

#[test]
fn a_delay_beyond_what_milliseconds_can_count() {
    for max_delay in [Duration::MAX, WRAPS] {
        let sim = Sim::with(|o| o.durability(Durability::Buffered { max_delay }));
        // Refused or kept, but no overflow.
        let Ok(store) = sim.try_open() else { continue };
        store.finish("k", b"order 1");
        sim.clock.advance(DAY - SECOND);
        store.finish("l", b"order 2");
        store.housekeep().unwrap();
        assert_eq!(store.answer("k"), b"order 1");
    }
}

#[test]
fn any_jump_of_the_clock_can_be_allowed() {
    for jump in [Duration::MAX, WRAPS] {
        let mut sim = Sim::with(|options| options.clock_jump_max(jump));
        sim.open().finish("k", b"order 1");
        sim.clock.set_wall(T0 + 400 * 24 * 3_600_000);
        let store = sim.kill_and_open();
        assert!(!store.stats().clock_held, "{jump:?}");
    }
}

/// Four of the largest records must fit the ring of a store: it grows where they don't.
#[test]
fn the_ring_grows_where_the_largest_records_do_not_fit() {
    let sim = Sim::new();
    sim.open().close().unwrap();
    assert_eq!(sim.disk.snapshot()["ring"].len(), 64 << 10);
    let open = |max_response| {
        let options = sim.options.clone().max_response(max_response);
        options.open_on(std::sync::Arc::new(sim.disk.clone()))
    };
    // A quarter of the ring, less the header, the longest scope and key, and the footer's entry.
    let largest = (16 << 10) - 88 - 255 - 255 - 16;
    open(largest).unwrap().finish("k", b"order 1");
    assert_eq!(sim.disk.snapshot()["ring"].len(), 64 << 10);
    open(largest + 1).unwrap().finish("larger", &vec![7; largest + 1]);
    assert_eq!(sim.disk.snapshot()["ring"].len(), 128 << 10);
    let store = open(largest).unwrap();
    assert_eq!(store.answer("k"), b"order 1");
    assert_eq!(store.answer("larger"), vec![7; largest + 1]);
}
