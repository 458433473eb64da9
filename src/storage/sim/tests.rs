//! The contents that the platter may have, and those that it may not.

use std::{collections::BTreeSet, io::ErrorKind};

use proptest::prelude::*;

use super::*;
use crate::storage::SECTOR_BYTES;

const SEEDS: std::ops::Range<u64> = 0..200;

/// A disk with one durable file of `sectors` sectors.
fn disk_with(seed: u64, sectors: usize) -> (SimStorage, Arc<dyn StorageFile>) {
    let disk = SimStorage::new(seed);
    let file = disk.create("a", (sectors * SECTOR_BYTES) as u64).unwrap();
    disk.sync_dir().unwrap();
    (disk, file)
}

/// The first byte of each sector of file "a"; sectors are never mixtures.
fn sectors(disk: &SimStorage) -> Vec<u8> {
    let files = disk.snapshot();
    let whole = files["a"].chunks(SECTOR_BYTES).map(|sector| {
        assert!(sector.iter().all(|byte| *byte == sector[0]), "a torn sector");
        sector[0]
    });
    whole.collect()
}

fn fill(file: &Arc<dyn StorageFile>, sector: usize, value: u8) {
    file.write_at((sector * SECTOR_BYTES) as u64, &[value; SECTOR_BYTES]).unwrap();
}

#[test]
fn synced_bytes_survive_a_power_cut_and_others_may() {
    let mut seen = BTreeSet::new();
    for seed in SEEDS {
        let (disk, file) = disk_with(seed, 4);
        fill(&file, 0, 1);
        file.sync().unwrap();
        fill(&file, 1, 2);
        let view = file.map_mut().unwrap();
        view.store(2 * SECTOR_BYTES, &[3; SECTOR_BYTES]).unwrap();
        seen.insert(sectors(&disk.power_cut()));
    }
    let all = [0, 2].map(|second| [0, 3].map(|third| vec![1, second, third, 0]));
    assert_eq!(seen, BTreeSet::from_iter(all.into_iter().flatten()));
}

#[test]
fn all_bytes_survive_a_kill_and_are_still_unsynced() {
    let mut seen = BTreeSet::new();
    for seed in SEEDS {
        let (disk, file) = disk_with(seed, 2);
        file.map_mut().unwrap().store(0, &[1; SECTOR_BYTES]).unwrap();
        fill(&file, 1, 2);
        let disk = disk.kill();
        assert_eq!(sectors(&disk), [1, 2]);
        seen.insert(sectors(&disk.power_cut()));
        disk.kill().open("a").unwrap().sync().unwrap();
    }
    assert_eq!(seen.len(), 4);

    let (disk, file) = disk_with(1, 1);
    fill(&file, 0, 1);
    let disk = disk.kill();
    disk.open("a").unwrap().sync().unwrap();
    assert_eq!(sectors(&disk.power_cut()), [1]);
}

#[test]
fn a_cut_may_find_a_version_in_between() {
    let mut seen = BTreeSet::new();
    for seed in SEEDS {
        let (disk, file) = disk_with(seed, 1);
        fill(&file, 0, 1);
        fill(&file, 0, 2);
        seen.insert(sectors(&disk.power_cut()));
    }
    assert_eq!(seen, BTreeSet::from([vec![0], vec![1], vec![2]]));

    let mut seen = BTreeSet::new();
    for seed in SEEDS {
        let (disk, file) = disk_with(seed, 1);
        let view = file.map_mut().unwrap();
        for value in 1..=3 {
            view.store(0, &[value; SECTOR_BYTES]).unwrap();
            disk.list().unwrap();
        }
        seen.insert(sectors(&disk.power_cut()));
    }
    assert_eq!(seen.len(), 4, "the kernel writes back mapped memory whenever it likes");
}

#[test]
fn a_failed_sync_proves_nothing_and_neither_does_the_next() {
    let mut seen = BTreeSet::new();
    for seed in SEEDS {
        let (disk, file) = disk_with(seed, 2);
        fill(&file, 0, 1);
        fill(&file, 1, 1);
        disk.fault_at(disk.calls() + 1, Fault::Error(ErrorKind::Other));
        file.sync().unwrap_err();
        assert_eq!(sectors(&disk), [1, 1], "the cache reads as if nothing had happened");
        file.sync().unwrap();
        fill(&file, 1, 1);
        file.sync().unwrap();
        seen.insert(sectors(&disk.power_cut()));
    }
    assert_eq!(seen, BTreeSet::from([vec![0, 1], vec![1, 1]]));
}

#[test]
fn a_failed_sync_may_take_pages_out_of_the_cache() {
    let mut seen = BTreeSet::new();
    for seed in SEEDS {
        let (disk, file) = disk_with(seed, 9);
        disk.forget_failed(true);
        let view = file.map_mut().unwrap();
        view.store(0, &[1; SECTOR_BYTES]).unwrap();
        view.store(8 * SECTOR_BYTES, &[1; SECTOR_BYTES]).unwrap();
        disk.fault_at(disk.calls() + 1, Fault::Error(ErrorKind::Other));
        file.sync().unwrap_err();
        let (cache, platter) = (sectors(&disk), sectors(&disk.power_cut()));
        let byte = |of: &[u8]| (of[0], of[8]);
        seen.insert((byte(&cache), byte(&platter)));
        assert!((0..9).all(|sector| cache[sector] >= platter[sector]), "older than the platter");
    }
    // Each page is kept, kept and not written, or forgotten.
    assert_eq!(seen.len(), 9);
}

#[test]
fn a_name_that_a_failed_sync_was_to_cover_must_be_made_again() {
    let failed = |seed| {
        let disk = SimStorage::new(seed);
        disk.create("a", 8).unwrap();
        disk.fault_at(disk.calls() + 1, Fault::Error(ErrorKind::Other));
        disk.sync_dir().unwrap_err();
        disk
    };
    let mut lost = 0;
    for seed in SEEDS {
        for disk in [failed(seed), failed(seed).kill(), failed(seed).kill().kill()] {
            disk.create("b", 8).unwrap();
            disk.sync_dir().unwrap();
            let found = disk.power_cut();
            assert!(found.open("b").is_ok());
            lost += usize::from(found.open("a").is_err());
            disk.kill();
        }
        let disk = failed(seed).kill();
        disk.create("a", 16).unwrap();
        disk.sync_dir().unwrap();
        assert_eq!(disk.power_cut().open("a").unwrap().size(), 16);
    }
    assert!((1..3 * SEEDS.end as usize).contains(&lost));
}

#[test]
fn names_are_durable_after_a_directory_sync_only() {
    let (mut kept, mut back) = (0, 0);
    for seed in SEEDS {
        let disk = SimStorage::new(seed);
        disk.create("old", 8).unwrap();
        disk.sync_dir().unwrap();
        disk.create("new", 8).unwrap();
        disk.remove("old").unwrap();
        assert_eq!(disk.kill().list().unwrap(), ["new"]);
        let after = disk.power_cut();
        kept += usize::from(after.open("new").is_ok());
        back += usize::from(after.open("old").is_ok());
        let names = after.power_cut().list().unwrap();
        assert_eq!(names, after.kill().list().unwrap(), "the dice roll once");
    }
    let possible = 1..SEEDS.end as usize;
    assert!(possible.contains(&kept) && possible.contains(&back));

    let disk = SimStorage::new(1);
    disk.create("old", 8).unwrap();
    disk.sync_dir().unwrap();
    disk.create("new", 8).unwrap();
    disk.remove("old").unwrap();
    disk.sync_dir().unwrap();
    assert_eq!(disk.power_cut().list().unwrap(), ["new"]);
}

#[test]
fn nothing_works_without_power() {
    let (disk, file) = disk_with(1, 1);
    let _lock = disk.lock().unwrap();
    let next = disk.power_cut();
    assert!(disk.list().is_err() && disk.create("b", 1).is_err() && disk.open("a").is_err());
    assert!(disk.lock().is_err() && disk.remove("a").is_err() && disk.sync_dir().is_err());
    assert!(file.sync().is_err() && file.write_at(0, &[1]).is_err() && file.map().is_err());
    assert_eq!(file.read_at(0, &mut [0]).unwrap_err().to_string(), "power is off");
    next.lock().unwrap();
    next.open("a").unwrap();
}

#[test]
fn a_crash_ends_the_disk_at_that_moment() {
    let mut seen = BTreeSet::new();
    for seed in SEEDS {
        let (disk, file) = disk_with(seed, 3);
        let view = file.map_mut().unwrap();
        view.store(0, &[1; SECTOR_BYTES]).unwrap();
        disk.fault_at(disk.calls() + 1, Fault::Crash);
        file.write_at(SECTOR_BYTES as u64, &[2; 2 * SECTOR_BYTES]).unwrap_err();
        file.sync().unwrap_err();
        view.store(0, &[9; SECTOR_BYTES]).unwrap();
        let bytes = &disk.kill().snapshot()["a"];
        assert_eq!(bytes[..SECTOR_BYTES], [1; SECTOR_BYTES], "stored after the crash");
        seen.insert(bytes[SECTOR_BYTES..].iter().filter(|byte| **byte == 2).count());
        assert_ne!(disk.power_cut().snapshot()["a"][0], 9);
    }
    assert_eq!(seen, BTreeSet::from([0, SECTOR_BYTES, 2 * SECTOR_BYTES]));
}

#[test]
fn a_crash_in_the_middle_of_creating_leaves_anything() {
    let mut seen = BTreeSet::new();
    for seed in SEEDS {
        let disk = SimStorage::new(seed);
        disk.fault_at(1, Fault::Crash);
        disk.create("a", 1000).unwrap_err();
        seen.insert(disk.kill().snapshot().get("a").map(Vec::len));
    }
    let parts = (0..=8).map(|eighths| Some(1000 * eighths / 8));
    assert_eq!(seen, BTreeSet::from_iter(parts.chain([None])));
}

#[test]
fn an_injected_error_does_nothing_and_a_short_write_a_part() {
    let mut seen = BTreeSet::new();
    for seed in SEEDS {
        let (disk, file) = disk_with(seed, 3);
        disk.fault_at(disk.calls() + 1, Fault::ShortWrite);
        file.write_at(0, &[1; 3 * SECTOR_BYTES]).unwrap_err();
        seen.insert(sectors(&disk));
    }
    assert!([[0, 0, 0], [1, 0, 0], [1, 1, 0]].iter().all(|part| seen.contains(&part[..])));
    let (disk, file) = disk_with(1, 2);
    let next = || disk.calls() + 1;
    disk.fault_at(next(), Fault::Error(ErrorKind::StorageFull));
    assert_eq!(file.write_at(0, &[1; 1024]).unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(sectors(&disk), [0, 0]);
    for fault in [Fault::ShortWrite, Fault::Error(ErrorKind::Other)] {
        disk.fault_at(next(), fault);
        disk.create("b", 8).err().unwrap();
        disk.fault_at(next(), fault);
        disk.remove("a").unwrap_err();
        assert_eq!(disk.list().unwrap(), ["a"]);
    }
}

#[test]
fn a_full_disk_keeps_what_it_has() {
    let disk = SimStorage::new(1);
    disk.set_capacity(Some(100));
    disk.create("a", 60).unwrap();
    assert_eq!(disk.create("b", 41).unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(disk.list().unwrap(), ["a"]);
    disk.create("a", 100).unwrap();
    assert_eq!(disk.len_total(), 100);
    assert_eq!(disk.kill().create("b", 1).unwrap_err().kind(), ErrorKind::StorageFull);
}

#[test]
fn calls_are_counted() {
    let disk = SimStorage::new(1);
    let file = disk.create("a", 64).unwrap();
    let view = file.map_mut().unwrap();
    view.store_word(0, 1).unwrap();
    file.write_region(8, &view, 0, 8).unwrap();
    file.sync().unwrap();
    assert_eq!(disk.calls(), 4);
    assert_eq!(disk.kill().calls(), 0);
}

#[test]
fn damage_is_in_the_cache_and_on_the_platter() {
    let disk = SimStorage::from_files(1, BTreeMap::from([("a".into(), vec![0xFF; 2000])]));
    let view = disk.open("a").unwrap().map().unwrap();
    disk.flip_bit("a", 8 * 600 + 3);
    disk.zero("a", 1021..1030);
    let mut wanted = vec![0xFF; 2000];
    wanted[600] = 0xF7;
    wanted[1021..1030].fill(0);
    let mut found = vec![0; 2000];
    view.load(0, &mut found);
    assert_eq!(found, wanted);
    assert_eq!(disk.snapshot()["a"], wanted);
    let disk = disk.power_cut();
    assert_eq!(disk.snapshot()["a"], wanted);

    let file = disk.open("a").unwrap();
    disk.truncate("a", 700);
    assert_eq!(file.map().unwrap_err().kind(), ErrorKind::InvalidData);
    assert_eq!(file.read_at(699, &mut [0; 2]).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    let disk = disk.power_cut();
    assert_eq!(disk.snapshot()["a"], wanted[..700]);
    let before = disk.snapshot();
    disk.remove_file("a");
    assert!(disk.kill().list().unwrap().is_empty());
    disk.restore(before);
    assert_eq!(disk.len_total(), 700);
}

#[derive(Clone, Debug)]
enum Step {
    Write(usize, u8),
    Store(usize, u8),
    Sync,
    FailedSync,
    Kill,
    Snapshot,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..6usize, 1..=255u8).prop_map(|(sector, value)| Step::Write(sector, value)),
        4 => (0..6usize, 1..=255u8).prop_map(|(sector, value)| Step::Store(sector, value)),
        2 => Just(Step::Sync),
        1 => Just(Step::FailedSync),
        1 => Just(Step::Kill),
        1 => Just(Step::Snapshot),
    ]
}

/// Runs the steps. What each sector may hold after a cut is kept as a set, the newest last.
fn run(seed: u64, steps: &[Step]) -> Vec<Vec<u8>> {
    let (mut disk, mut file) = disk_with(seed, 6);
    let mut possible = vec![vec![0u8]; 6];
    let mut states = Vec::new();
    // Lost by a failed sync and not written since: a later sync changes nothing.
    let mut doubtful = [false; 6];
    for step in steps {
        match *step {
            Step::Write(sector, value) | Step::Store(sector, value) => {
                match step {
                    Step::Write(..) => fill(&file, sector, value),
                    _ => {
                        let view = file.map_mut().unwrap();
                        view.store(sector * SECTOR_BYTES, &[value; SECTOR_BYTES]).unwrap();
                    }
                }
                possible[sector].push(value);
                doubtful[sector] = false;
            }
            Step::Sync => {
                file.sync().unwrap();
                for (values, _) in possible.iter_mut().zip(doubtful).filter(|(_, lost)| !lost) {
                    values.drain(..values.len() - 1);
                }
            }
            Step::FailedSync => {
                disk.fault_at(disk.calls() + 1, Fault::Error(ErrorKind::Other));
                file.sync().unwrap_err();
                for (values, lost) in possible.iter().zip(&mut doubtful) {
                    *lost |= values.len() > 1;
                }
            }
            Step::Kill => disk = disk.kill(),
            Step::Snapshot => {
                disk = disk.power_cut();
                for (values, value) in possible.iter_mut().zip(sectors(&disk)) {
                    assert!(values.contains(&value), "{value} is none of {values:?}");
                    *values = vec![value];
                }
                doubtful = [false; 6];
            }
        }
        file = disk.open("a").unwrap();
        let newest: Vec<u8> = possible.iter().map(|values| *values.last().unwrap()).collect();
        assert_eq!(sectors(&disk), newest);
        states.push(newest);
    }
    states
}

proptest! {
    #[test]
    fn a_cut_finds_what_it_may(seed: u64, steps in prop::collection::vec(step(), 1..60)) {
        let states = run(seed, &steps);
        prop_assert_eq!(states, run(seed, &steps), "the same seed and steps, another disk");
    }
}
