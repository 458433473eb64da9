//! A checkpoint takes several cells, which are tied together by token and version. A loss of
//! power in the middle of writing one leaves some of them; so does one in the middle of what the
//! next opening writes. What is found after both is one checkpoint or the other, never a mixture,
//! and never a store that a strict opening refuses.

use crate::common::*;
use onlyonce::{
    storage::{Fault, SimStorage},
    *,
};
use std::{collections::BTreeSet, sync::Arc};

const OLD: [u8; 1500] = [b'a'; 1500];
const NEW: [u8; 1500] = [b'b'; 1500];

fn open(sim: &Sim, disk: &SimStorage) -> Result<Store, OpenError> {
    sim.options.open_on(Arc::new(disk.clone()))
}

/// What the store says of the checkpoint.
fn found(sim: &Sim, disk: &SimStorage, what: &str) -> u8 {
    let store = open(sim, disk).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    let checkpoint = store.stuck("order").checkpoint().expect("it was durable").to_vec();
    assert!(checkpoint == OLD || checkpoint == NEW, "{what}: mixed: {checkpoint:?}");
    checkpoint[0]
}

fn twice_without_power(durability: Durability) {
    let mut seen = BTreeSet::new();
    for seed in 0..60 {
        let clock = ManualClock::at(T0);
        let options = small(&clock).durability(durability);
        let sim = Sim { disk: SimStorage::new(seed), clock, options };
        let store = sim.open();
        let mut claim = store.claim("order");
        claim.save_checkpoint(&OLD).unwrap();
        claim.ensure_durable().unwrap();
        store.flush().unwrap();
        // The power goes while the second one is written, or before anything has synced it.
        sim.disk.fault_at(sim.disk.calls() + 1 + seed % 3, Fault::Crash);
        let _ = claim.save_checkpoint(&NEW);
        let left = sim.disk.power_cut();
        for at in 1.. {
            let disk = left.kill();
            disk.fault_at(at, Fault::Crash);
            let opened = open(&sim, &disk);
            let struck = disk.calls() >= at;
            drop(opened);
            if !struck {
                break;
            }
            for roll in 0..2 {
                let what = format!("{durability:?}, seed {seed}, call {at}, roll {roll}");
                seen.insert(found(&sim, &disk.power_cut(), &what));
            }
        }
    }
    assert!(seen.contains(&OLD[0]));
}

#[test]
fn in_synced() {
    twice_without_power(Durability::Synced);
}

#[test]
fn in_synced_completions() {
    twice_without_power(Durability::SyncedCompletions);
}

#[test]
fn in_buffered() {
    twice_without_power(Durability::Buffered { max_delay: SECOND });
}
