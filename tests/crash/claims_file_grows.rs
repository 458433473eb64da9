//! `max_claims` holds for a store that exists, too: its claims file grows when it is opened, a
//! crash in between leaves the old size or the new one, and what can't be had is told.

use crate::common::*;
use onlyonce::{
    inspect::Inspection,
    storage::{DiskStorage, Fault, SimStorage},
    *,
};
use std::sync::Arc;

const ALL: [Durability; 3] =
    [Durability::Synced, Durability::SyncedCompletions, Durability::Buffered { max_delay: SECOND }];

fn few(durability: Durability) -> Sim {
    Sim::with(|options| options.max_claims(6).durability(durability))
}

fn many(sim: &Sim) -> Options {
    sim.options.clone().max_claims(500)
}

fn on(options: &Options, disk: &SimStorage) -> Result<Store, OpenError> {
    options.open_on(Arc::new(disk.clone()))
}

fn undecided(store: &Store) {
    let mut claim = store.claim("half way");
    claim.save_checkpoint(&[7; 900]).unwrap();
    claim.ensure_durable().unwrap();
}

fn is_there(store: &Store) {
    assert_eq!(store.stuck("half way").checkpoint(), Some(&[7; 900][..]));
    assert_eq!(store.stats().interrupted, 1);
}

#[test]
fn a_larger_max_claims_holds_from_the_next_opening_on() {
    for durability in ALL {
        let mut sim = few(durability);
        let store = sim.open();
        undecided(&store);
        assert!(store.stats().claims_max < 100);
        store.close().unwrap();
        sim.options = many(&sim);
        let store = sim.open();
        is_there(&store);
        assert!(store.stats().claims_max >= 500);
        let claims: Vec<_> = (0..450).map(|n| store.claim(&n.to_string())).collect();
        store.flush().unwrap();
        drop(claims);
        let store = sim.power_cut_and_open();
        assert_eq!(store.stats().interrupted, 451);
        let seen = Inspection::open_on(Arc::new(sim.disk.clone()), sim.clock.clone(), Some(1));
        let seen = seen.unwrap();
        assert_eq!(seen.problems(), []);
        assert_eq!(seen.info().claims_max, store.stats().claims_max);
    }
}

#[test]
fn a_smaller_one_keeps_the_file_and_says_so() {
    let mut sim = few(Durability::Synced);
    let large = many(&sim);
    let store = on(&large, &sim.disk).unwrap();
    undecided(&store);
    let room = store.stats().claims_max;
    store.close().unwrap();
    let store = sim.kill_and_open();
    is_there(&store);
    assert_eq!(store.stats().claims_max, room);
}

#[test]
fn dying_while_it_grows_leaves_the_old_size_or_the_new_one() {
    for durability in ALL {
        let sim = few(durability);
        undecided(&sim.open());
        let left = sim.disk.kill();
        let large = many(&sim);
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
                let seen = Inspection::open_on(Arc::new(next.clone()), sim.clock.clone(), None);
                let seen = seen.unwrap();
                assert_eq!(seen.problems(), [], "call {at}");
                sizes.insert(seen.info().claims_max);
                // As it was, and then with the room.
                let store = on(&sim.options, &next).unwrap_or_else(|e| panic!("call {at}: {e:?}"));
                is_there(&store);
                store.close().unwrap();
                let store = on(&large, &next).unwrap();
                is_there(&store);
                assert!(store.stats().claims_max >= 500);
            }
        }
        assert_eq!(sizes.len(), 2, "{sizes:?}");
    }
}

#[test]
fn without_room_the_store_opens_as_it_was() {
    let sim = few(Durability::Synced);
    let store = sim.open();
    undecided(&store);
    let before = store.stats().claims_max;
    store.close().unwrap();
    sim.disk.set_capacity(Some(sim.disk.len_total()));
    let store = on(&many(&sim), &sim.disk).unwrap();
    is_there(&store);
    assert_eq!(store.stats().claims_max, before);
    store.close().unwrap();
    sim.disk.set_capacity(None);
    assert!(on(&many(&sim), &sim.disk).unwrap().stats().claims_max >= 500);
}

/// The call that makes the file larger may fail for any reason: the store opens as it was. Whatever
/// other call fails, nothing is lost, and the next opening makes it larger.
#[test]
fn a_refusal_leaves_the_old_size() {
    use std::io::ErrorKind::{FileTooLarge, Other, PermissionDenied, QuotaExceeded};
    let sim = few(Durability::Synced);
    undecided(&sim.open());
    let left = sim.disk.kill();
    let large = many(&sim);
    for kind in [Other, PermissionDenied, QuotaExceeded, FileTooLarge] {
        let mut stayed = 0;
        for at in 1.. {
            let disk = left.kill();
            disk.fault_at(at, Fault::Error(kind));
            let opened = on(&large, &disk);
            if disk.calls() < at {
                break;
            }
            if let Ok(store) = opened {
                is_there(&store);
                stayed += u64::from(store.stats().claims_max < 500);
                store.close().unwrap();
            }
            let store = on(&large, &disk.kill()).unwrap_or_else(|e| panic!("call {at}: {e:?}"));
            is_there(&store);
            assert!(store.stats().claims_max >= 500);
        }
        // Making it longer, and writing what is new.
        assert!(stayed >= 2, "{kind:?}: {stayed}");
    }
}

/// A copy of a store whose claims file is lost has room for what the options say.
#[test]
fn a_salvaged_copy_gets_what_the_options_say() {
    let sim = few(Durability::Synced);
    let large = many(&sim);
    let store = on(&large, &sim.disk).unwrap();
    store.finish("kept", b"order 1");
    store.close().unwrap();
    sim.disk.remove_file("claims");
    let seen = Inspection::open_on(Arc::new(sim.disk.clone()), sim.clock.clone(), None).unwrap();
    let copy = SimStorage::new(2);
    seen.salvage_on(&copy).unwrap();
    let store = on(&large, &copy).unwrap();
    assert_eq!(store.answer("kept"), b"order 1");
    assert!(store.stats().claims_max >= 500);
}

#[test]
fn on_a_real_disk() {
    for durability in ALL {
        let sim = few(durability);
        let directory = tempfile::tempdir().unwrap();
        let open = |options: &Options| {
            options.open_on(Arc::new(DiskStorage::open(directory.path()).unwrap())).unwrap()
        };
        let store = open(&sim.options);
        undecided(&store);
        store.close().unwrap();
        let store = open(&many(&sim));
        is_there(&store);
        let claims: Vec<_> = (0..450).map(|n| store.claim(&n.to_string())).collect();
        drop(claims);
        store.close().unwrap();
        assert_eq!(open(&sim.options).stats().interrupted, 451);
    }
}
