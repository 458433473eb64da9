//! `ring_bytes` holds for a store that exists, too: its ring grows when it is opened, a crash in between
//! leaves the old size or the new one, and what can't be had is told.

use crate::common::*;
use onlyonce::{
    inspect::Inspection,
    storage::{DiskStorage, Fault, SimStorage, Storage},
    *,
};
use std::sync::Arc;

const ALL: [Durability; 3] =
    [Durability::Synced, Durability::SyncedCompletions, Durability::Buffered { max_delay: SECOND }];
const SMALL: u64 = 64 << 10;
const LARGE: u64 = 192 << 10;

fn sim(durability: Durability) -> Sim {
    Sim::with(|options| options.durability(durability))
}

fn large(sim: &Sim) -> Options {
    sim.options.clone().ring_bytes(LARGE).max_response(20_000)
}

fn on(options: &Options, disk: &SimStorage) -> Result<Store, OpenError> {
    options.open_on(Arc::new(disk.clone()))
}

/// Laps the ring, and leaves the last records in it alone.
fn fill(store: &Store, first: u8) {
    (first..first + 40).for_each(|n| store.finish(&format!("key-{n}"), &[n; 4000]));
    drop(store.claim(&format!("half way {first}")));
}

#[track_caller]
fn is_there(store: &Store, first: u8) {
    for n in first..first + 40 {
        assert_eq!(store.answer(&format!("key-{n}")), [n; 4000]);
    }
    store.stuck(&format!("half way {first}"));
}

fn ring_of(sim: &Sim, disk: &SimStorage) -> u64 {
    let seen = Inspection::open_on(Arc::new(disk.clone()), sim.clock.clone(), None).unwrap();
    assert_eq!(seen.problems(), []);
    seen.info().ring_bytes
}

#[test]
fn a_larger_ring_holds_from_the_next_opening_on() {
    for durability in ALL {
        let mut sim = sim(durability);
        fill(&sim.open(), 0);
        assert_eq!(ring_of(&sim, &sim.disk), SMALL);
        sim.disk = sim.disk.kill();
        let small = sim.options.clone();
        sim.options = large(&sim);
        let store = sim.open();
        is_there(&store, 0);
        fill(&store, 100);
        store.finish("large", &[9; 20_000]);
        store.flush().unwrap();
        drop(store);
        let store = sim.kill_and_open();
        is_there(&store, 100);
        drop(store);
        let store = sim.power_cut_and_open();
        is_there(&store, 0);
        is_there(&store, 100);
        store.close().unwrap();
        assert_eq!(ring_of(&sim, &sim.disk), LARGE);
        // It doesn't shrink.
        let store = on(&small, &sim.disk).unwrap();
        assert_eq!(store.answer("large"), [9; 20_000]);
        fill(&store, 200);
        drop(store);
        let left = sim.disk.kill();
        assert_eq!(ring_of(&sim, &left), LARGE);
        is_there(&on(&small, &left).unwrap(), 200);
    }
}

#[test]
fn dying_while_it_grows_leaves_the_old_size_or_the_new_one() {
    let sim = sim(Durability::Synced);
    fill(&sim.open(), 0);
    let left = sim.disk.kill();
    let large = large(&sim);
    let mut sizes = std::collections::BTreeSet::new();
    for at in 1.. {
        let disk = left.kill();
        disk.fault_at(at, Fault::Crash);
        drop(on(&large, &disk));
        if disk.calls() < at {
            break;
        }
        for power in [false, true] {
            let next = if power { disk.power_cut() } else { disk.kill() };
            sizes.insert(ring_of(&sim, &next));
            // With what was there before, and then with the room.
            let store = on(&sim.options, &next).unwrap_or_else(|e| panic!("call {at}: {e:?}"));
            is_there(&store, 0);
            store.finish("more", b"order");
            drop(store);
            let next = next.kill();
            let store = on(&large, &next).unwrap();
            is_there(&store, 0);
            assert_eq!(store.answer("more"), b"order");
            drop(store);
            assert_eq!(ring_of(&sim, &next.kill()), LARGE);
        }
    }
    assert_eq!(sizes.into_iter().collect::<Vec<_>>(), [SMALL, LARGE]);
}

#[test]
fn without_room_the_store_opens_as_it_was_if_the_records_fit() {
    let sim = sim(Durability::Synced);
    let store = sim.open();
    fill(&store, 0);
    store.close().unwrap();
    sim.disk.set_capacity(Some(sim.disk.len_total()));
    let same = sim.options.clone().ring_bytes(LARGE);
    let store = on(&same, &sim.disk).unwrap();
    is_there(&store, 0);
    store.close().unwrap();
    assert_eq!(ring_of(&sim, &sim.disk), SMALL);
    let error = on(&large(&sim), &sim.disk).unwrap_err();
    assert!(error.to_string().contains("the ring, which has 65536 bytes"), "{error}");
    sim.disk.set_capacity(None);
    is_there(&on(&large(&sim), &sim.disk).unwrap(), 0);
}

/// Whatever call fails, nothing is lost, and the next opening makes it larger.
#[test]
fn a_disk_that_fails() {
    let sim = sim(Durability::Synced);
    fill(&sim.open(), 0);
    let left = sim.disk.kill();
    let large = large(&sim);
    for at in 1.. {
        let disk = left.kill();
        disk.fault_at(at, Fault::Error(std::io::ErrorKind::Other));
        let opened = on(&large, &disk);
        if disk.calls() < at {
            break;
        }
        drop(opened);
        let disk = disk.kill();
        let store = on(&large, &disk).unwrap_or_else(|e| panic!("call {at}: {e:?}"));
        is_there(&store, 0);
        drop(store);
        assert_eq!(ring_of(&sim, &disk.kill()), LARGE);
    }
}

/// What an interrupted growth leaves is blank. Anything else behind the ring is damage, which is told,
/// and which a salvage removes.
#[test]
fn a_longer_file_that_is_not_blank_is_damaged() {
    let sim = sim(Durability::Synced);
    fill(&sim.open(), 0);
    let left = sim.disk.kill();
    let ring = left.grow("ring", LARGE).unwrap();
    let at = SMALL + 70_000;
    ring.write_at(at, b"not the store's").unwrap();
    ring.sync().unwrap();
    let seen = Inspection::open_on(Arc::new(left.clone()), sim.clock.clone(), None).unwrap();
    let [problem] = seen.problems() else { panic!("{:?}", seen.problems()) };
    assert_eq!((&*problem.file, problem.offset), ("ring", at));
    match on(&sim.options, &left) {
        Err(OpenError::Damaged { file, offset, .. }) => assert_eq!((&*file, offset), ("ring", at)),
        other => panic!("{other:?}"),
    }
    let store = on(&sim.options.clone().recovery(Recovery::Salvage), &left).unwrap();
    assert_eq!(store.stats().damaged_places, 1);
    is_there(&store, 0);
    store.close().unwrap();
    assert_eq!(ring_of(&sim, &left), LARGE);
    is_there(&on(&sim.options, &left).unwrap(), 0);
}

#[test]
fn on_a_real_disk() {
    let sim = sim(Durability::Synced);
    let directory = tempfile::tempdir().unwrap();
    let open = |options: &Options| {
        options.open_on(Arc::new(DiskStorage::open(directory.path()).unwrap())).unwrap()
    };
    let store = open(&sim.options);
    fill(&store, 0);
    store.close().unwrap();
    let store = open(&large(&sim));
    is_there(&store, 0);
    fill(&store, 100);
    store.close().unwrap();
    let store = open(&sim.options);
    is_there(&store, 0);
    is_there(&store, 100);
}
