//! S22: records of many different retentions at once. Each expires at its own time, and the
//! disk they take is bounded by what is live and an open segment for each class in use.

use crate::common::*;
use onlyonce::{
    storage::{Fault, SimStorage},
    *,
};
use std::{collections::VecDeque, time::Duration};

/// From a second to a year.
const WINDOWS: [u64; 10] =
    [1, 7, 60, 500, 3600, 6 * 3600, 86_400, 7 * 86_400, 30 * 86_400, 365 * 86_400];

fn sim() -> Sim {
    Sim::with(|options| options.lease(SECOND).capacity(64 << 20))
}

fn finish(store: &Store, name: &str, seconds: u64, response: &[u8]) {
    let retention = Some(Duration::from_secs(seconds).into());
    let completion = Completion { response: Some(response), retention, head: b"" };
    store.claim(name).complete_with(completion).unwrap();
}

#[test]
fn each_expires_at_its_own_time() {
    let mut sim = sim();
    let mut store = sim.open();
    WINDOWS.iter().for_each(|seconds| finish(&store, &seconds.to_string(), *seconds, b"x"));
    let mut now = 0;
    for (n, seconds) in WINDOWS.iter().enumerate() {
        sim.clock.advance(Duration::from_secs(seconds - now) - MS);
        store.housekeep().unwrap();
        assert_eq!(store.answer(&seconds.to_string()), b"x", "{seconds} s");
        if n % 2 == 1 {
            sim.options = sim.options.clone().accept_clock(AcceptClock::AsIs);
            store = sim.kill_and_open();
            assert_eq!(store.answer(&seconds.to_string()), b"x", "{seconds} s, reopened");
        }
        sim.clock.advance(MS);
        assert!(store.is_absent(&seconds.to_string()), "{seconds} s");
        now = *seconds;
        let live = store.entries(Filter::COMPLETED).count();
        assert_eq!(live, WINDOWS.len() - n - 1);
    }
    store.housekeep().unwrap();
    store.housekeep().unwrap();
    assert_eq!(store.stats().records, 0);
}

#[test]
fn the_disk_they_take_is_bounded() {
    let sim = sim();
    let store = sim.open();
    // 40 hours with 48 KiB of answers a minute in five classes: 115 MiB in all, of which less
    // than 4 MiB are live at any time.
    let mut peak = 0;
    for minute in 0..2400_u64 {
        let seconds = [60, 120, 300, 1000, 4 * 3600][minute as usize % 5];
        for part in 0..12 {
            finish(&store, &format!("{minute} {part}"), seconds, &[part; 4000]);
        }
        sim.clock.advance(MINUTE);
        if minute % 4 == 0 {
            store.housekeep().unwrap();
        }
        peak = peak.max(store.stats().segment_bytes);
    }
    assert!(peak <= 16 << 20, "{} MiB", peak >> 20);
    assert_eq!(store.stats().refused_full, 0);
}

#[test]
fn a_long_lived_record_in_a_busy_store_stays_readable() {
    let sim = Sim::with(|options| options.lease(SECOND).capacity(16 << 20));
    let store = sim.open();
    let mut kept = VecDeque::new();
    for day in 0..400_u64 {
        finish(&store, &format!("year {day}"), 365 * 86_400, &day.to_le_bytes());
        kept.push_back(day);
        for part in 0..20 {
            finish(&store, &format!("{day} {part}"), 3600, &[part; 4000]);
        }
        sim.clock.advance(DAY);
        store.housekeep().unwrap();
        store.housekeep().unwrap();
        if day >= 364 {
            let over = kept.pop_front().unwrap();
            assert!(store.is_absent(&format!("year {over}")), "day {day}");
        }
        let oldest = kept.front().unwrap();
        assert_eq!(store.answer(&format!("year {oldest}")), oldest.to_le_bytes());
    }
    assert_eq!(store.entries(Filter::COMPLETED).count(), kept.len());
    assert!(store.stats().segment_bytes <= 8 << 20, "{}", store.stats().segment_bytes);
}

#[test]
fn what_has_expired_is_used_again_by_itself() {
    must_end(|| {
        let (store, clock) = threaded();
        store.finish("k", b"order 1");
        clock.advance(2 * DAY);
        until(|| store.stats().segments_recycled == 1);
        until(|| store.stats().segments_free == store.stats().segments);
    });
}

/// What isn't of the store's own retention waits in memory for its segment. Until it is there the
/// claim stays, so that a process that dies meanwhile leaves the key interrupted.
#[test]
fn a_claim_stays_until_its_record_survives_the_process() {
    let buffered = Durability::Buffered { max_delay: HOUR };
    for seed in 0..12 {
        for call in 1.. {
            let mut sim = Sim::with(|options| options.durability(buffered));
            sim.disk = SimStorage::new(seed);
            let store = sim.open();
            finish(&store, "before", 60, b"x");
            let mut claim = store.claim("k");
            sim.disk.fault_at(sim.disk.calls() + call, Fault::Crash);
            let retention = Some(MINUTE.into());
            let completion = Completion { response: Some(b"done"), retention, head: b"" };
            let completed = claim.complete_with(completion).is_ok();
            let store = sim.kill_and_open();
            if completed {
                assert_eq!(store.answer("k"), b"done");
                assert!(call > 1, "nothing was asked of the disk");
                break;
            }
            assert!(!store.is_absent("k"), "call {call} of seed {seed}");
        }
    }
}
