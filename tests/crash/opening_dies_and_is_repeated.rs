//! R9: an opening that dies at any of its calls, and is repeated, comes to the same result.

use crate::reference::{begin, claim, complete, interrupted, open, response, small};
use onlyonce::{
    Begin, Completion, Durability, Filter, ManualClock, OpenError, Options, Recovery,
    ResolveOptions, State, Store,
    storage::{Fault, SimStorage},
};
use std::{collections::BTreeMap, time::Duration};

/// All that can be seen of a store's keys.
fn contents(store: &Store) -> BTreeMap<Vec<u8>, String> {
    let entries = store.entries(Filter::ALL).map(|entry| {
        let entry = entry.unwrap();
        let what = match &entry.state {
            State::Completed(record) => {
                format!("{record:?} {:?} {:?}", record.head(), record.response())
            }
            State::Interrupted { checkpoint, answer, reason, .. } => {
                format!("interrupted {reason} {checkpoint:?} {answer:?}")
            }
            other => format!("{other:?}"),
        };
        (entry.key.key().to_vec(), format!("{} {} {what}", entry.token, entry.attempts))
    });
    entries.collect()
}

/// A life with a bit of everything; the disk as it is when the process dies.
fn lived(options: &Options, clock: &ManualClock) -> SimStorage {
    lived_on(SimStorage::new(11), options, clock)
}

fn lived_on(disk: SimStorage, options: &Options, clock: &ManualClock) -> SimStorage {
    let store = open(options, &disk).unwrap();
    for number in 0..40 {
        complete(&store, &format!("key-{number}"), &response(number, 100 * (number % 40)));
    }
    let mut short = claim(&store, "short");
    let retention = Some(Duration::from_secs(1).into());
    short
        .complete_with(Completion { response: Some(b"s"), retention, ..Completion::default() })
        .unwrap();
    let mut long = claim(&store, "long");
    let retention = Some(Duration::from_secs(1 << 20).into());
    long.complete_with(Completion { response: Some(b"l"), retention, head: b"head" }).unwrap();
    store.flush().unwrap();
    clock.advance(Duration::from_secs(2));
    store.housekeep().unwrap();
    let mut half = claim(&store, "half way");
    half.save_checkpoint(&[7; 700]).unwrap();
    let mut failed = claim(&store, "failed");
    failed.fail(b"500").unwrap();
    drop(claim(&store, "dropped"));
    let Ok(Begin::Execute(mut second)) = interrupted(&store, "dropped").take_over() else {
        panic!()
    };
    second.save_checkpoint(b"second").unwrap();
    claim(&store, "released").release().unwrap();
    let _held = claim(&store, "held");
    disk.kill()
}

/// A life that goes on filling what two short ones have left.
fn lived_after_others(options: &Options, clock: &ManualClock) -> SimStorage {
    let mut disk = SimStorage::new(13);
    for life in 0..2 {
        let store = open(options, &disk).unwrap();
        complete(&store, &format!("life-{life}"), b"here");
        let mut long = claim(&store, &format!("long-{life}"));
        let retention = Some(Duration::from_secs(1 << 20).into());
        long.complete_with(Completion { response: Some(b"l"), retention, head: b"" }).unwrap();
        disk = disk.kill();
    }
    lived_on(disk, options, clock)
}

fn dies_everywhere(options: &Options, clock: &ManualClock, by_power: bool, exact: bool) {
    dies_from(lived(options, clock), options, by_power, exact);
    dies_from(lived_after_others(options, clock), options, by_power, exact);
}

fn dies_from(left: SimStorage, options: &Options, by_power: bool, exact: bool) {
    // With the power gone everything that is left is on the platter.
    let left = if by_power { left.power_cut() } else { left };
    let wanted = contents(&open(options, &left.kill()).unwrap());
    assert!(wanted.len() >= 44, "{}", wanted.len());
    let mut calls = 0;
    for at in 1.. {
        let disk = left.kill();
        disk.fault_at(at, Fault::Crash);
        let opened = open(options, &disk);
        let struck = disk.calls() >= at;
        drop(opened);
        if !struck {
            break;
        }
        calls = at;
        for power in [false, true] {
            let next = if power { disk.power_cut() } else { disk.kill() };
            let store = open(options, &next).unwrap_or_else(|e| panic!("call {at}: {e:?}"));
            if exact || by_power || !power {
                assert_eq!(contents(&store), wanted, "call {at}, power {power}");
            }
            assert!(!matches!(begin(&store, "key-39"), Ok(Begin::Execute(_))));
        }
    }
    assert!(calls > 30, "an opening has only {calls} calls");
}

#[test]
fn after_a_killed_process() {
    let clock = ManualClock::at(crate::reference::T0);
    dies_everywhere(&small(&clock), &clock, false, true);
}

#[test]
fn after_a_loss_of_power() {
    let clock = ManualClock::at(crate::reference::T0);
    dies_everywhere(&small(&clock), &clock, true, true);
}

#[test]
fn after_a_killed_process_with_unsynced_writes() {
    let clock = ManualClock::at(crate::reference::T0);
    let buffered = Durability::Buffered { max_delay: Duration::from_secs(1) };
    dies_everywhere(&small(&clock).durability(buffered), &clock, false, false);
}

#[test]
fn a_failure_while_opening_is_told_and_changes_nothing() {
    let clock = ManualClock::at(crate::reference::T0);
    let options = small(&clock);
    let left = lived(&options, &clock);
    let wanted = contents(&open(&options, &left.kill()).unwrap());
    for at in 1.. {
        let disk = left.kill();
        disk.fault_at(at, Fault::Error(std::io::ErrorKind::Other));
        let opened = open(&options, &disk);
        if disk.calls() < at {
            break;
        }
        match opened {
            // Some calls may fail without harm (a segment prepared ahead of need).
            Ok(store) => assert_eq!(contents(&store), wanted, "call {at}"),
            Err(OpenError::Io { .. } | OpenError::NoSpace { .. }) => {}
            Err(error) => panic!("call {at}: {error:?} instead of what the system said"),
        }
        let store = open(&options, &disk).unwrap_or_else(|e| panic!("again, call {at}: {e:?}"));
        assert_eq!(contents(&store), wanted, "call {at}");
    }
}

/// A tombstone in a sealed segment is read by itself. That it can't be read now is no damage.
#[test]
fn a_failure_to_read_a_decision_is_not_taken_for_damage() {
    let clock = ManualClock::at(crate::reference::T0);
    let options = small(&clock);
    let left = SimStorage::new(12);
    let store = open(&options, &left).unwrap();
    complete(&store, "forgotten", b"wrong");
    let scope = crate::reference::scope();
    let key = onlyonce::KeyRef::new(&scope, "forgotten").unwrap();
    store.resolve_with(key, onlyonce::Resolution::Forget, ResolveOptions::forced()).unwrap();
    store.close().unwrap();
    let mut refused = 0;
    for at in 1.. {
        let disk = left.kill();
        disk.fault_at(at, Fault::Error(std::io::ErrorKind::Other));
        let opened = open(&options, &disk);
        if disk.calls() < at {
            break;
        }
        match opened {
            Ok(store) => assert!(contents(&store).is_empty(), "call {at}"),
            Err(OpenError::Io { .. } | OpenError::NoSpace { .. }) => refused += 1,
            Err(error) => panic!("call {at}: {error:?} instead of what the system said"),
        }
    }
    assert!(refused > 0);
}

/// What salvage can't read now may be there the next time: a file that is there is never made anew.
#[test]
fn a_failure_while_salvaging_loses_nothing_on_the_disk() {
    let clock = ManualClock::at(crate::reference::T0);
    let options = small(&clock);
    let left = lived(&options, &clock);
    let wanted = contents(&open(&options, &left.kill()).unwrap());
    for at in 1.. {
        let disk = left.kill();
        disk.fault_at(at, Fault::Error(std::io::ErrorKind::Other));
        let opened = open(&options.clone().recovery(Recovery::Salvage), &disk);
        if disk.calls() < at {
            break;
        }
        match opened {
            Ok(store) => drop(store),
            Err(OpenError::Io { .. } | OpenError::NoSpace { .. }) => {}
            Err(error) => panic!("call {at}: {error:?} instead of what the system said"),
        }
        let store = open(&options, &disk).unwrap_or_else(|e| panic!("again, call {at}: {e:?}"));
        assert_eq!(contents(&store), wanted, "call {at}");
    }
}

/// Salvage takes what it can get: a decision that can't be read is passed over, and counted.
#[test]
fn salvage_passes_over_a_decision_that_cannot_be_read() {
    let clock = ManualClock::at(crate::reference::T0);
    let options = small(&clock).recovery(Recovery::Salvage);
    let left = SimStorage::new(12);
    let store = open(&options, &left).unwrap();
    complete(&store, "forgotten", b"wrong");
    let scope = crate::reference::scope();
    let key = onlyonce::KeyRef::new(&scope, "forgotten").unwrap();
    store.resolve_with(key, onlyonce::Resolution::Forget, ResolveOptions::forced()).unwrap();
    store.close().unwrap();
    let mut passed_over = 0;
    for at in 1.. {
        let disk = left.kill();
        disk.fault_at(at, Fault::Error(std::io::ErrorKind::Other));
        let opened = open(&options, &disk);
        if disk.calls() < at {
            break;
        }
        passed_over += opened.map_or(0, |store| store.stats().damaged_places);
    }
    assert_eq!(passed_over, 1, "one call reads the tombstone");
}

/// Each opening and closing raises the superblock's number, so that a copy that it didn't get to
/// replace is not taken for the newer one.
#[test]
fn each_writing_of_the_superblock_is_a_newer_one() {
    let clock = ManualClock::at(crate::reference::T0);
    let options = small(&clock);
    let disk = SimStorage::new(13);
    let numbers = || {
        let bytes = &disk.snapshot()["superblock"];
        [24, 4096 + 24].map(|at| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()))
    };
    let mut last = 0;
    let mut has_risen = || {
        let [first, second] = numbers();
        assert!(first > last && first == second, "{last}, then {first} and {second}");
        last = first;
    };
    for durability in [Durability::Synced, Durability::SyncedCompletions] {
        let store = open(&options.clone().durability(durability), &disk).unwrap();
        has_risen();
        // What it says of the durability is of this opening.
        let durability = 1 + u8::from(durability == Durability::SyncedCompletions);
        assert_eq!(disk.snapshot()["superblock"][48], durability);
        store.close().unwrap();
        has_risen();
    }
}

/// A loss of power leaves two segments of one life open, the later one in the lower slot. Sealed,
/// that one says that everything before it is durable: so it must not be sealed first.
#[test]
fn after_a_loss_of_power_with_two_segments_open() {
    let buffered = Durability::Buffered { max_delay: Duration::from_secs(1) };
    for seed in 0..10 {
        let clock = ManualClock::at(crate::reference::T0);
        let options = small(&clock).segment_bytes(64 << 10).durability(buffered);
        let disk = SimStorage::new(seed);
        let store = open(&options, &disk).unwrap();
        // Segments that come back to the pool, of which the next life takes the highest first.
        for number in 0..40 {
            complete(&store, &format!("old-{number}"), &response(number, 4000));
        }
        store.flush().unwrap();
        clock.advance(Duration::from_secs(24 * 3600));
        (0..3).for_each(|_| store.housekeep().unwrap());
        store.close().unwrap();
        let store = open(&options, &disk).unwrap();
        for number in 0..34 {
            complete(&store, &format!("new-{number}"), &response(number, 4000));
        }
        let left = disk.power_cut();
        for at in 1.. {
            let disk = left.kill();
            disk.fault_at(at, Fault::Crash);
            drop(open(&options, &disk));
            if disk.calls() < at {
                break;
            }
            for next in [disk.kill(), disk.power_cut()] {
                open(&options, &next).unwrap_or_else(|e| panic!("seed {seed}, call {at}: {e:?}"));
            }
        }
    }
}
