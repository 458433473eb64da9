//! R18: of the superblock's two copies one is enough, be the other damaged or unreadable.

use crate::common::*;
use onlyonce::{
    backup::{BackupOptions, restore},
    inspect::Inspection,
    storage::{DiskStorage, SimStorage, Storage},
    *,
};
use std::{ops::Range, sync::Arc};

const COPIES: [Range<u64>; 2] = [0..512, 4096..4608];

fn closed() -> Sim {
    let sim = Sim::new();
    let store = sim.open();
    store.finish("kept", b"order 1");
    store.close().unwrap();
    sim
}

fn inspect(sim: &Sim) -> Result<Inspection, OpenError> {
    Inspection::open_on(Arc::new(sim.disk.clone()), sim.clock.clone(), None)
}

#[test]
fn a_copy_that_cannot_be_read() {
    for range in COPIES {
        let sim = closed();
        sim.disk.make_unreadable("superblock", range.clone());
        let seen = inspect(&sim).unwrap();
        let report = seen.verify(|_| {});
        let [problem] = &report.problems[..] else { panic!("{:?}", report.problems) };
        assert_eq!((&problem.file[..], problem.offset), ("superblock", range.start));
        assert!(problem.what.contains("can't be read"), "{problem}");
        assert_eq!(report.frames, 1);

        let to = tempfile::tempdir().unwrap();
        let (copy, again) = (to.path().join("copy"), to.path().join("again"));
        seen.backup(&copy, &BackupOptions::new()).unwrap();
        restore(&copy, &again).unwrap();
        let open = |disk: Arc<dyn Storage>| sim.options.open_on(disk).unwrap();
        let copied = open(Arc::new(DiskStorage::open(&again).unwrap()));
        assert_eq!(copied.answer("kept"), b"order 1");
        let salvaged = SimStorage::new(2);
        seen.salvage_on(&salvaged).unwrap();
        assert_eq!(open(Arc::new(salvaged)).answer("kept"), b"order 1");

        // An opening writes both again.
        let store = sim.open();
        assert_eq!(store.answer("kept"), b"order 1");
        assert_eq!(store.stats().damaged_places, 0);
        store.close().unwrap();
        assert_eq!(inspect(&sim).unwrap().problems(), []);
    }
}

#[test]
fn where_both_are_needed_the_one_that_cannot_be_read_is_named() {
    for (unread, other) in [(0, 1), (1, 0)] {
        let sim = closed();
        sim.disk.make_unreadable("superblock", COPIES[unread].clone());
        sim.disk.flip_bit("superblock", COPIES[other].start * 8 + 200);
        let before = sim.disk.snapshot();
        for refused in [sim.try_open().map(drop), inspect(&sim).map(drop)] {
            let error = refused.unwrap_err();
            let OpenError::Io { doing, source } = &error else { panic!("{error:?}") };
            assert!(doing.contains(&format!("at byte {}", COPIES[unread].start)), "{doing}");
            assert!(source.to_string().contains("can't be read"), "{source}");
        }
        assert!(sim.disk.snapshot() == before);
    }
}

/// A store whose first copy can't be read is not one that was never finished.
#[test]
fn a_store_is_not_made_anew_because_it_cannot_be_read() {
    let sim = closed();
    sim.disk.zero("superblock", COPIES[1].clone());
    sim.disk.make_unreadable("superblock", COPIES[0].clone());
    assert!(matches!(sim.try_open(), Err(OpenError::Io { .. })));
}
