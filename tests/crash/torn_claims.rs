//! R18: where claims are stored through a map, a loss of power can leave one half stored. It was
//! never promised, so the store opens, frees its cell, and says so. What was promised is there.

use crate::common::*;
use onlyonce::{inspect::Inspection, storage::SimStorage, *};
use std::sync::Arc;

const MAPPED: [Durability; 2] =
    [Durability::SyncedCompletions, Durability::Buffered { max_delay: HOUR }];

fn sim(durability: Durability, seed: u64) -> Sim {
    let clock = ManualClock::at(T0);
    let options = small(&clock).durability(durability);
    let disk = SimStorage::new(seed);
    disk.tear_mapped(true);
    Sim { disk, clock, options }
}

fn inspect(sim: &Sim) -> Inspection {
    Inspection::open_on(Arc::new(sim.disk.clone()), sim.clock.clone(), None).unwrap()
}

/// The number of a cell that is in use, and where it begins.
fn cell_in_use(disk: &SimStorage) -> u64 {
    let bytes = &disk.snapshot()["claims"];
    let cells = bytes.chunks(256).enumerate().skip(2);
    let mut used = cells.filter(|(_, cell)| cell[..8] != *b"freecell");
    used.next().expect("a cell in use").0 as u64 * 256
}

#[test]
fn a_claim_that_was_not_promised_is_passed_over_and_told() {
    for durability in MAPPED {
        let mut torn = 0;
        for seed in 0..60 {
            let mut sim = sim(durability, seed);
            let store = sim.open();
            let room = store.stats().cells_free;
            // Cells that have held something, so that there is something to be torn.
            let old: Vec<_> = (0..20).map(|n| store.claim(&format!("old {n}"))).collect();
            store.flush().unwrap();
            old.into_iter().for_each(|claim| claim.release().unwrap());
            let mut safe = store.claim("safe");
            safe.save_checkpoint(&[1; 700]).unwrap();
            safe.ensure_durable().unwrap();
            let _others: Vec<_> = (0..20).map(|n| store.claim(&format!("new {n}"))).collect();
            let _ = store.get(key("new 1"));

            sim.disk = sim.disk.power_cut();
            let seen = inspect(&sim);
            assert_eq!(seen.problems(), []);
            let report = seen.verify(|_| {});
            assert_eq!(report.problems, []);
            let info = seen.info();
            assert!(!info.closed);
            let salvaging = sim.options.clone().recovery(Recovery::Salvage);
            let salvaged = salvaging.open_on(Arc::new(sim.disk.kill())).unwrap().stats();
            sim.disk = sim.disk.power_cut();
            let store = sim.open();
            let stats = store.stats();
            assert_eq!((salvaged.torn_claims, salvaged.damaged_places), (stats.torn_claims, 0));
            assert_eq!(
                (report.torn_claims, info.torn_claims),
                (stats.torn_claims, stats.torn_claims)
            );
            torn += stats.torn_claims;
            assert_eq!(store.stuck("safe").checkpoint(), Some(&[1; 700][..]));
            // The cells of those that were torn are free: the checkpoint takes four.
            assert_eq!(stats.cells_free + stats.interrupted + 3, room);
            // And it is told once.
            store.close().unwrap();
            let again = sim.open();
            assert_eq!(again.stats().torn_claims, 0);
        }
        assert!(torn > 20, "only {torn} were torn");
    }
}

#[test]
fn a_cell_that_was_promised_is_damage() {
    let all = [Durability::Synced, MAPPED[0], MAPPED[1]];
    for (durability, closed) in all.into_iter().flat_map(|d| [(d, true), (d, false)]) {
        let mut sim = sim(durability, 1);
        let store = sim.open();
        let mut claim = store.claim("held");
        claim.ensure_durable().unwrap();
        if closed {
            drop(claim);
            store.close().unwrap();
        }
        sim.disk = sim.disk.kill();
        sim.disk.flip_bit("claims", (cell_in_use(&sim.disk) + 100) * 8);
        let may_be_torn = durability != Durability::Synced && !closed;
        let opened = sim.try_open().map(|store| store.stats().torn_claims);
        match may_be_torn {
            true => assert_eq!(opened.unwrap(), 1, "{durability:?}"),
            false => {
                let error = opened.unwrap_err();
                let file = matches!(&error, OpenError::Damaged { file, .. } if file == "claims");
                assert!(file, "{durability:?}, closed {closed}: {error:?}");
                assert_eq!(inspect(&sim).problems().len(), 1);
                assert_eq!(inspect(&sim).info().torn_claims, 0);
            }
        }
    }
}

/// A word is whole, and none that is stored looks like this one.
#[test]
fn a_cell_that_no_store_can_have_left_is_damage() {
    for durability in MAPPED {
        let mut sim = sim(durability, 1);
        let store = sim.open();
        let _claim = store.claim("held");
        sim.disk = sim.disk.kill();
        let at = cell_in_use(&sim.disk);
        sim.disk.zero("claims", at..at + 256);
        assert!(matches!(sim.try_open(), Err(OpenError::Damaged { .. })));
    }
}
