//! What random programs meet too rarely, met on purpose: short programs, each for one rule of
//! the log or the claims file that nothing else would show to be missing.

use crate::reference::{Begin, claim, complete, look, open, replays, response, small};
use onlyonce::{
    Completion, Durability, ManualClock, OpenError, Options, Resolution, State, Store,
    storage::{SimStorage, Storage},
};
use std::time::Duration;

const BUFFERED: Durability = Durability::Buffered { max_delay: Duration::from_secs(1) };

fn complete_for(store: &Store, key: &str, seconds: u64, response: &[u8]) {
    let retention = Some(Duration::from_secs(seconds).into());
    let completion = Completion { response: Some(response), retention, head: b"" };
    claim(store, key).complete_with(completion).unwrap();
}

fn is_completed(store: &Store, key: &str) -> bool {
    look(store, key).unwrap().is_some_and(|entry| matches!(entry.state, State::Completed(_)))
}

/// Records reach the disk and the header of their segment doesn't: the next life finds the
/// segment free, fills it from the start, and what lies behind is not its own.
#[test]
fn what_an_earlier_life_left_in_a_free_segment_stays_gone() {
    let keys: Vec<_> = (0..6).map(|n| format!("early-{n}")).collect();
    let mut stale = 0;
    for seed in 0..800 {
        let clock = ManualClock::at(crate::reference::T0);
        let options = small(&clock).durability(BUFFERED);
        let disk = SimStorage::new(seed);
        let store = open(&options, &disk).unwrap();
        // Of another class than the store's own: in their segment at once, without a sync. Of a size
        // with which some lie on later pages than the first, which is written as a whole.
        keys.iter().for_each(|key| complete_for(&store, key, 90_000, &[7; 1500]));
        let disk = disk.power_cut();
        drop(store);
        let store = open(&options, &disk).unwrap();
        let before: Vec<_> = keys.iter().map(|key| is_completed(&store, key)).collect();
        complete_for(&store, "later0", 90_000, &[8; 1500]);
        stale += u32::from(before.iter().any(|completed| !completed));
        let disk = disk.kill();
        drop(store);
        let store = open(&options, &disk).unwrap();
        assert!(is_completed(&store, "later0"));
        let after: Vec<_> = keys.iter().map(|key| is_completed(&store, key)).collect();
        assert_eq!(after, before, "seed {seed}");
    }
    assert!(stale > 100, "{stale} of 800 losses of power lost something");
}

/// More is completed between two syncs than the ring holds.
#[test]
fn a_full_ring_waits_until_it_is_drained() {
    let clock = ManualClock::at(crate::reference::T0);
    let options = small(&clock).durability(BUFFERED);
    let disk = SimStorage::new(5);
    let store = open(&options, &disk).unwrap();
    let key = |number: usize| format!("key-{number}");
    (0..100).for_each(|number| complete(&store, &key(number), &response(number, 4000)));
    (0..100).for_each(|number| replays(&store, &key(number), &response(number, 4000)));
    let next = disk.kill();
    drop(store);
    let store = open(&options, &next).unwrap();
    (0..100).for_each(|number| replays(&store, &key(number), &response(number, 4000)));
}

/// A completed claim is cleared, and not durably; its record expires and its segment is used
/// again. The claim must not be back after a loss of power.
#[test]
fn a_completed_claim_is_gone_for_good_before_its_record_goes() {
    for durability in [Durability::Synced, Durability::SyncedCompletions, BUFFERED] {
        for seed in 0..10 {
            let clock = ManualClock::at(crate::reference::T0);
            let options: Options = small(&clock).durability(durability);
            let disk = SimStorage::new(seed);
            let store = open(&options, &disk).unwrap();
            let mut claim = claim(&store, "brief");
            claim.ensure_durable().unwrap();
            let retention = Some(Duration::from_secs(1).into());
            let completion = Completion { response: Some(b"r"), retention, head: b"" };
            claim.complete_with(completion).unwrap();
            clock.advance(Duration::from_secs(2));
            for _ in 0..3 {
                store.housekeep().unwrap();
            }
            let stats = store.stats();
            assert_eq!(stats.segments_free, stats.segments, "not recycled yet");
            let next = disk.power_cut();
            drop(store);
            let store = open(&options, &next).unwrap();
            assert!(look(&store, "brief").unwrap().is_none(), "{durability:?}, seed {seed}");
        }
    }
}

/// An opening finds a segment free because the page cache says so, where a dying opening had
/// begun to free it: with power the segment would go back to being one of an earlier life.
#[test]
fn a_segment_is_freed_on_the_disk_before_a_new_life_begins() {
    for seed in 0..60 {
        let clock = ManualClock::at(crate::reference::T0);
        let options = small(&clock);
        let disk = SimStorage::new(seed);
        let store = open(&options, &disk).unwrap();
        // Taken into use, and nothing in it becomes durable.
        let mut first = claim(&store, "k");
        disk.fault_at(disk.calls() + 2, onlyonce::storage::Fault::Crash);
        assert!(first.complete(b"lost").is_err());
        drop((first, store));
        let left = disk.power_cut();
        for at in 1..60 {
            let dying = left.kill();
            dying.fault_at(at, onlyonce::storage::Fault::Crash);
            let survived = open(&options, &dying).is_ok();
            let next = dying.kill();
            drop(open(&options, &next));
            let last = next.power_cut();
            let opened = open(&options, &last);
            assert!(opened.is_ok(), "seed {seed}, call {at}: {opened:?}, {}", last.place());
            let found = crate::reference::begin(&opened.unwrap(), "k").unwrap();
            assert!(!matches!(found, Begin::Execute(_)), "seed {seed}, call {at}");
            if survived {
                // It makes fewer calls.
                break;
            }
        }
    }
}

/// A claim that was taken over, interrupted again and expired: a loss of power must not bring
/// back what the takeover had replaced.
#[test]
fn an_expired_key_does_not_come_back_as_an_earlier_attempt() {
    for seed in 0..200 {
        let clock = ManualClock::at(crate::reference::T0);
        let options = small(&clock)
            .durability(Durability::SyncedCompletions)
            .interrupted_retention(Duration::from_millis(1));
        let disk = SimStorage::new(seed);
        let store = open(&options, &disk).unwrap();
        // So that the two versions lie in different sectors.
        let _neighbour = claim(&store, "neighbour");
        let mut first = claim(&store, "k");
        first.ensure_durable().unwrap();
        drop(first);
        let Ok(Begin::Execute(mut second)) = crate::reference::interrupted(&store, "k").take_over()
        else {
            panic!("not granted");
        };
        second.ensure_durable().unwrap();
        drop(second);
        for _ in 0..1 + seed % 4 {
            clock.advance(Duration::from_millis(5));
            store.housekeep().unwrap();
            assert!(look(&store, "k").unwrap().is_none());
        }
        let next = disk.power_cut();
        drop(store);
        let store = open(&options, &next).unwrap();
        if let Some(entry) = look(&store, "k").unwrap() {
            assert_eq!(entry.attempts, 2, "seed {seed}");
        }
    }
}

/// A key completed in `Buffered`, expired, claimed anew and given free by an operator before the
/// disk has the completion: a loss of power must not bring back the claim that it decided.
#[test]
fn a_key_given_free_does_not_come_back_as_what_was_completed_before() {
    for seed in 0..20 {
        let clock = ManualClock::at(crate::reference::T0);
        let options = small(&clock).durability(BUFFERED);
        let disk = SimStorage::new(seed);
        let store = open(&options, &disk).unwrap();
        let mut first = claim(&store, "k");
        first.ensure_durable().unwrap();
        let retention = Some(Duration::from_millis(1).into());
        first.complete_with(Completion { response: Some(b"1"), retention, head: b"" }).unwrap();
        clock.advance(Duration::from_millis(1));
        drop(claim(&store, "k"));
        let resolution = if seed % 2 == 0 { Resolution::Free } else { Resolution::Forget };
        let scope = crate::reference::scope();
        let key = crate::reference::KeyRef::new(&scope, "k").unwrap();
        store.resolve(key, resolution).unwrap();
        let next = disk.power_cut();
        drop(store);
        let store = open(&options, &next).unwrap();
        assert!(look(&store, "k").unwrap().is_none(), "seed {seed}");
    }
}

/// Whenever a process is killed, what its ring has and its files lack goes to where it belongs:
/// to this side or the other of a change of segments, beside segments of another class that
/// begin at the same positions.
#[test]
fn what_only_the_ring_has_is_put_where_it_belongs() {
    for count in 1..50 {
        let clock = ManualClock::at(crate::reference::T0);
        let options = small(&clock).durability(BUFFERED);
        let disk = SimStorage::new(count as u64);
        let store = open(&options, &disk).unwrap();
        for number in 0..count {
            complete(&store, &format!("main-{number}"), &response(number, 1000 + 60 * number));
            if number % 5 == 0 {
                complete_for(&store, &format!("class-{number}"), 90_000, &response(number, 4000));
            }
        }
        let next = disk.kill();
        drop(store);
        let store = open(&options, &next).unwrap();
        for number in 0..count {
            replays(&store, &format!("main-{number}"), &response(number, 1000 + 60 * number));
            if number % 5 == 0 {
                replays(&store, &format!("class-{number}"), &response(number, 4000));
            }
        }
    }
}

/// A key's later record lies in a segment with a lower number than its earlier, expired one.
#[test]
fn the_later_record_of_a_key_counts_wherever_it_lies() {
    let clock = ManualClock::at(crate::reference::T0);
    let options = small(&clock);
    let disk = SimStorage::new(1);
    let store = open(&options, &disk).unwrap();
    complete(&store, "of the first segment", b"1");
    // Others follow, so that each class gets its own.
    store.housekeep().unwrap();
    complete_for(&store, "k", 60, b"earlier");
    clock.advance(Duration::from_secs(60));
    complete(&store, "k", b"later");
    let segment_of = |what: &[u8]| {
        let holds = |bytes: &Vec<u8>| bytes.windows(what.len()).any(|window| window == what);
        let files = disk.snapshot();
        let found = files.iter().find(|(name, b)| name.starts_with("segment") && holds(b));
        found.unwrap().0.clone()
    };
    assert!(segment_of(b"later") < segment_of(b"earlier"));
    let next = disk.kill();
    drop(store);
    replays(&open(&options, &next).unwrap(), "k", b"later");
}

/// The footer of a segment is in the page cache alone when the process dies. Whoever opens the
/// store finds it there; a loss of power after that finds a segment of an earlier life.
#[test]
fn a_footer_in_the_page_cache_is_written_again_before_a_new_life_begins() {
    let clock = ManualClock::at(crate::reference::T0);
    let options = small(&clock);
    let key = |number: usize| format!("key-{number}");
    let all_replay = |store: &Store| {
        (0..20).for_each(|number| replays(store, &key(number), &response(number, 4000)));
    };
    for seed in 0..2 {
        for at in 1.. {
            let disk = SimStorage::new(seed);
            let store = open(&options, &disk).unwrap();
            (0..20).for_each(|number| complete(&store, &key(number), &response(number, 4000)));
            let strike = disk.calls() + at;
            disk.fault_at(strike, onlyonce::storage::Fault::Crash);
            let _ = store.close();
            if disk.calls() < strike {
                assert!(at > 4, "closing has only {at} calls");
                break;
            }
            let next = disk.kill();
            all_replay(&open(&options, &next).unwrap());
            let last = next.power_cut();
            let opened = open(&options, &last);
            all_replay(&opened.unwrap_or_else(|e| panic!("seed {seed}, call {at}: {e:?}")));
        }
    }
}

/// A loss of power takes the first of some records that nobody was promised, and leaves a later
/// one. The hole begins exactly where that which was durable ends.
#[test]
fn a_hole_behind_what_was_durable_is_no_damage() {
    let mut holes = 0;
    for seed in 0..40 {
        let clock = ManualClock::at(crate::reference::T0);
        let options = small(&clock).durability(BUFFERED);
        let disk = SimStorage::new(seed);
        let store = open(&options, &disk).unwrap();
        complete_for(&store, "durable", 90_000, b"kept");
        store.flush().unwrap();
        let keys: Vec<_> = (0..6).map(|number| format!("later-{number}")).collect();
        keys.iter().for_each(|key| complete_for(&store, key, 90_000, &[7; 600]));
        let next = disk.power_cut();
        drop(store);
        let store = open(&options, &next).unwrap_or_else(|e| panic!("seed {seed}: {e:?}"));
        replays(&store, "durable", b"kept");
        let kept: Vec<_> = keys.iter().map(|key| is_completed(&store, key)).collect();
        holes += u32::from(!kept[0] && kept.contains(&true));
    }
    assert!(holes > 0, "{holes} of 40 losses of power left a hole");
}

/// A segment was taken into use and nothing of it became durable: it is free again, at once.
#[test]
fn a_segment_without_records_is_free_again() {
    let mut open_ones = 0;
    for seed in 0..60 {
        let clock = ManualClock::at(crate::reference::T0);
        let options = small(&clock);
        let disk = SimStorage::new(seed);
        let store = open(&options, &disk).unwrap();
        let mut first = claim(&store, "k");
        disk.fault_at(disk.calls() + 2, onlyonce::storage::Fault::Crash);
        assert!(first.complete(b"lost").is_err());
        drop((first, store));
        let left = disk.power_cut();
        // The state in the segment's header.
        let in_use = left.snapshot()["segment-000001"][28] == 1;
        let store = open(&options, &left).unwrap();
        if is_completed(&store, "k") {
            continue;
        }
        let stats = store.stats();
        assert_eq!(stats.segments_free, stats.segments, "seed {seed}");
        open_ones += u32::from(in_use);
    }
    assert!(open_ones > 3, "{open_ones} of 60 found a segment in use");
}

/// Each of thousands of keys is found again, whichever thread of an opening had its part of the
/// index.
#[test]
fn every_key_of_many_is_found_again() {
    let clock = ManualClock::at(crate::reference::T0);
    let options = small(&clock).durability(BUFFERED).capacity(16 << 20);
    let disk = SimStorage::new(1);
    let store = open(&options, &disk).unwrap();
    let key = |number: usize| format!("key-{number}");
    (0..4000).for_each(|number| complete(&store, &key(number), b""));
    let next = disk.kill();
    drop(store);
    let store = open(&options, &next).unwrap();
    assert_eq!(store.stats().records, 4000);
    (0..4000).for_each(|number| replays(&store, &key(number), b""));
}

/// A second attempt that isn't durable completes in `Buffered`: what it had replaced goes when it
/// has become durable itself, and it stays until its completion is durable.
#[test]
fn a_second_attempt_is_cleared_after_its_completion() {
    for seed in 0..30 {
        let clock = ManualClock::at(crate::reference::T0);
        let options = small(&clock).durability(BUFFERED);
        let disk = SimStorage::new(seed);
        let store = open(&options, &disk).unwrap();
        let mut first = claim(&store, "k");
        first.ensure_durable().unwrap();
        drop(first);
        let Ok(Begin::Execute(mut second)) = crate::reference::interrupted(&store, "k").take_over()
        else {
            panic!("not granted");
        };
        second.complete(b"only in the ring").unwrap();
        // Others sync the claims file.
        for name in ["one", "two"] {
            claim(&store, name).ensure_durable().unwrap();
        }
        let next = disk.power_cut();
        drop(store);
        let store = open(&options, &next).unwrap();
        assert!(look(&store, "k").unwrap().is_some(), "seed {seed}");
    }
}

/// The end of the segment behind sealed ones is torn: it was never promised, whatever is known of
/// those.
#[test]
fn a_torn_end_behind_sealed_segments_is_no_damage() {
    let key = |number: usize| format!("key-{number}");
    let mut torn = 0;
    for seed in 0..10 {
        let clock = ManualClock::at(crate::reference::T0);
        let options = small(&clock).durability(BUFFERED);
        let disk = SimStorage::new(seed);
        let store = open(&options, &disk).unwrap();
        (0..30).for_each(|number| complete(&store, &key(number), &response(number, 4000)));
        store.flush().unwrap();
        // The first two segments are full, and sealed now.
        store.housekeep().unwrap();
        (30..36).for_each(|number| complete(&store, &key(number), &response(number, 4000)));
        let next = disk.power_cut();
        drop(store);
        let store = open(&options, &next).unwrap();
        (0..30).for_each(|number| replays(&store, &key(number), &response(number, 4000)));
        torn += (30..36).filter(|number| !is_completed(&store, &key(*number))).count();
    }
    assert!(torn > 0, "nothing was lost");
}

/// A segment is full and durable, and not sealed yet. Its last record is promised as all others.
#[test]
fn the_last_record_of_a_full_segment_is_no_torn_end() {
    let clock = ManualClock::at(crate::reference::T0);
    let options = small(&clock);
    let disk = SimStorage::new(1);
    let store = open(&options, &disk).unwrap();
    let key = |number: usize| format!("key-{number}");
    (0..20).for_each(|number| complete(&store, &key(number), &response(number, 4000)));
    let mut files = disk.kill().snapshot();
    drop(store);
    // What the ring still has would repair it.
    files.get_mut("ring").unwrap().fill(0);
    let place_of = |number: usize| {
        let start = &response(number, 4000)[..64];
        let mut segments = files.iter().filter(|(name, _)| name.starts_with("segment"));
        segments.find_map(|(name, bytes)| {
            let at = bytes.windows(64).position(|bytes| bytes == start)?;
            Some((name.clone(), at))
        })
    };
    let (first, _) = place_of(0).unwrap();
    let in_first: Vec<_> =
        (0..20).filter_map(place_of).filter(|(name, _)| *name == first).collect();
    assert!(in_first.len() < 20, "there is one segment only");
    let (name, at) = in_first.last().unwrap().clone();
    files.get_mut(&name).unwrap()[at] ^= 1;
    match open(&options, &SimStorage::from_files(1, files)) {
        Err(OpenError::Damaged { file, .. }) => assert_eq!(file, name),
        other => panic!("{other:?}"),
    }
}
