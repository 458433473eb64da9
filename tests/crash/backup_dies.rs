//! A backup that dies at any of its calls, or whose disk fails or is full, is refused as a backup
//! and is no store; the store that was copied goes on as if nothing had been.

use crate::common::*;
use onlyonce::{
    storage::{Fault, SimStorage, Storage},
    *,
};
use std::{io::ErrorKind, sync::Arc};

fn filled(sim: &Sim) -> Store {
    let store = sim.open();
    (0..30).for_each(|n| store.finish(&format!("key-{n}"), &[n; 2000]));
    store.claim("half way").save_checkpoint(b"1").unwrap();
    store
}

/// How many calls of the disk a whole backup takes.
fn calls(store: &Store) -> u64 {
    let disk = SimStorage::new(3);
    store.backup_on(&disk).unwrap();
    disk.calls()
}

#[track_caller]
fn is_whole(sim: &Sim, disk: SimStorage) {
    let copy = sim.options.open_on(Arc::new(disk)).unwrap();
    (0..30).for_each(|n| assert_eq!(copy.answer(&format!("key-{n}")), [n; 2000]));
    assert_eq!(copy.stuck("half way").checkpoint(), Some(&b"1"[..]));
}

/// What is left is no store, or the whole one: only the manifest was lacking.
#[track_caller]
fn is_nothing_or_all(sim: &Sim, disk: SimStorage, call: u64) {
    let names = disk.list().unwrap();
    let empty = names.is_empty();
    match sim.options.open_on(Arc::new(disk.clone())) {
        Err(OpenError::NotAStore { .. }) => {}
        // Nothing had been written.
        Ok(_) if empty => {}
        Ok(store) => {
            drop(store);
            is_whole(sim, disk);
        }
        Err(error) => panic!("call {call}: {error}"),
    }
}

#[test]
fn killed_or_without_power_at_each_call() {
    let sim = Sim::new();
    let store = filled(&sim);
    let calls = calls(&store);
    assert!(calls > 20, "{calls}");
    for call in 1..=calls {
        for power in [false, true] {
            let disk = SimStorage::new(call);
            disk.fault_at(call, Fault::Crash);
            let error = store.backup_on(&disk).unwrap_err();
            assert!(!error.to_string().is_empty());
            let left = if power { disk.power_cut() } else { disk.kill() };
            is_nothing_or_all(&sim, left, call);
        }
    }
    assert_eq!(store.answer("key-3"), [3; 2000]);
    store.finish("later", b"order");
}

#[test]
fn failing_and_full_disks() {
    let sim = Sim::new();
    let store = filled(&sim);
    for call in 1..=calls(&store) {
        for fault in [
            Fault::Error(ErrorKind::Other),
            Fault::Error(ErrorKind::StorageFull),
            Fault::ShortWrite,
        ] {
            let disk = SimStorage::new(call);
            disk.fault_at(call, fault);
            store.backup_on(&disk).unwrap_err();
            is_nothing_or_all(&sim, disk.kill(), call);
        }
    }
    let disk = SimStorage::new(1);
    disk.set_capacity(Some(100 << 10));
    store.backup_on(&disk).unwrap_err();
    store.finish("later", b"order");
}

/// A backup that has been reported as made survives a loss of power.
#[test]
fn a_finished_backup_is_durable() {
    let sim = Sim::new();
    let store = filled(&sim);
    for seed in 0..20 {
        let disk = SimStorage::new(seed);
        store.backup_on(&disk).unwrap();
        is_whole(&sim, disk.power_cut());
    }
}

/// The store's own disk fails while it is copied: no backup, and the store says that it is
/// poisoned.
#[test]
fn the_store_s_disk_fails() {
    let sim = Sim::with(|options| options.durability(Durability::SyncedCompletions));
    let store = filled(&sim);
    drop(store.claim("not yet durable"));
    sim.disk.fault_at(sim.disk.calls() + 1, Fault::Error(ErrorKind::Other));
    let disk = SimStorage::new(1);
    store.backup_on(&disk).unwrap_err();
    assert!(disk.list().unwrap().iter().all(|name| name != "superblock"));
}
