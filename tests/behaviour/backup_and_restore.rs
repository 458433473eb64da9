//! What a backup is made against, what restoring puts together, and what it refuses.

use crate::common::*;
use onlyonce::{
    backup::{BackupError, BackupOptions, MANIFEST, restore},
    inspect::Inspection,
    *,
};
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

struct Place {
    dir: tempfile::TempDir,
    clock: ManualClock,
}

impl Place {
    fn new() -> Self {
        Place { dir: tempfile::tempdir().unwrap(), clock: ManualClock::at(T0) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn open(&self, name: &str) -> Store {
        small(&self.clock).capacity(32 << 20).open(self.path(name)).unwrap()
    }
}

fn fill(store: &Store, from: u32, to: u32) {
    (from..to).for_each(|n| store.finish(&format!("key-{n}"), &vec![n as u8; 3000]));
    // Full segments get their footers.
    store.housekeep().unwrap();
}

fn holds(store: &Store, to: u32) {
    (0..to).for_each(|n| assert_eq!(store.answer(&format!("key-{n}")), vec![n as u8; 3000]));
    assert!(store.is_absent(&format!("key-{to}")));
}

fn bytes_of(dir: &Path) -> u64 {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

#[test]
fn against_earlier_ones() {
    let place = Place::new();
    let store = place.open("store");
    fill(&store, 0, 1500);
    store.backup(place.path("monday")).unwrap();
    fill(&store, 1500, 1600);
    let since = |earlier: &str| BackupOptions::new().since(place.path(earlier));
    let tuesday = store.backup_with(place.path("tuesday"), &since("monday")).unwrap();
    fill(&store, 1600, 2500);
    let wednesday = store.backup_with(place.path("wednesday"), &since("tuesday")).unwrap();
    assert!(tuesday.unchanged > 0 && wednesday.unchanged >= tuesday.unchanged);
    assert!(bytes_of(&place.path("tuesday")) < bytes_of(&place.path("monday")));
    for (name, to) in [("monday", 1500), ("tuesday", 1600), ("wednesday", 2500)] {
        restore(place.path(name), place.path("restored")).unwrap();
        let restored = place.open("restored");
        holds(&restored, to);
        restored.close().unwrap();
        fs::remove_dir_all(place.path("restored")).unwrap();
    }
    // They may be moved, together.
    fs::create_dir(place.path("moved")).unwrap();
    for name in ["monday", "tuesday", "wednesday"] {
        fs::rename(place.path(name), place.path("moved").join(name)).unwrap();
    }
    restore(place.path("moved/wednesday"), place.path("restored")).unwrap();
    holds(&place.open("restored"), 2500);
    // One that lacks segments doesn't open as it is, and says why.
    let error = small(&place.clock).open(place.path("moved/tuesday")).unwrap_err();
    assert!(matches!(error, OpenError::Missing { .. }), "{error:?}");
}

#[test]
fn a_full_backup_is_a_store() {
    let place = Place::new();
    let store = place.open("store");
    fill(&store, 0, 40);
    let held = store.claim("held");
    store.backup(place.path("copy")).unwrap();
    drop(held);
    let copy = place.open("copy");
    holds(&copy, 40);
    assert_eq!(copy.stuck("held").reason(), Reason::Crashed);
    assert_eq!(copy.stats().life, store.stats().life + 1);
}

#[test]
fn of_a_store_that_somebody_else_has_open_or_nobody() {
    let place = Place::new();
    let store = place.open("store");
    fill(&store, 0, 1200);
    drop(store.claim("dropped"));
    let from_outside = |copy: &str| {
        let inspection = Inspection::open(place.path("store")).unwrap();
        inspection.backup(place.path(copy), &BackupOptions::new()).unwrap();
        let copy = place.open(copy);
        holds(&copy, 1200);
        assert!(!copy.is_absent("dropped"));
    };
    from_outside("open");
    store.close().unwrap();
    from_outside("closed");
}

#[test]
fn tokens_of_a_restored_copy_are_new() {
    let place = Place::new();
    let store = place.open("store");
    store.backup(place.path("copy")).unwrap();
    let mut given = Vec::new();
    for n in 0..500 {
        let claim = store.claim(&format!("{n}"));
        given.push(claim.token());
        claim.release().unwrap();
    }
    // The clock stands still: only the superblock's margin tells them apart.
    let copy = place.open("copy");
    for n in 0..500 {
        let claim = copy.claim(&format!("{n}"));
        let token = claim.token();
        claim.release().unwrap();
        assert!(given.iter().all(|given| *given < token), "{token} was given out before");
    }
    // And a copy of the copy.
    copy.backup(place.path("again")).unwrap();
    let highest = copy.claim("last").token();
    assert!(place.open("again").claim("first").token() > highest);
}

#[test]
fn a_copy_does_not_share_its_files() {
    let place = Place::new();
    let store = place.open("store");
    fill(&store, 0, 40);
    store.backup(place.path("copy")).unwrap();
    for entry in fs::read_dir(place.path("copy")).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().nlink(), 1, "{:?} is a hard link", entry.file_name());
    }
    // The store may be written to as it likes.
    fill(&store, 40, 400);
    store.close().unwrap();
    fs::remove_dir_all(place.path("store")).unwrap();
    holds(&place.open("copy"), 40);
}

#[test]
fn places_that_are_refused() {
    let place = Place::new();
    let store = place.open("store");
    fill(&store, 0, 40);
    let into_itself = store.backup(place.path("store")).unwrap_err();
    assert!(matches!(into_itself, BackupError::NotEmpty { .. }), "{into_itself}");
    fs::create_dir(place.path("used")).unwrap();
    fs::write(place.path("used/README"), b"mine").unwrap();
    let used = store.backup(place.path("used")).unwrap_err();
    assert!(matches!(&used, BackupError::NotEmpty { file, .. } if file == "README"), "{used}");
    store.backup(place.path("copy")).unwrap();
    let used = restore(place.path("copy"), place.path("used")).unwrap_err();
    assert!(matches!(used, BackupError::NotEmpty { .. }), "{used}");
    assert_eq!(fs::read_dir(place.path("used")).unwrap().count(), 1);
    // Against a backup of another store, against none.
    let other = place.open("other");
    other.backup(place.path("other-copy")).unwrap();
    let since = |earlier: &str| BackupOptions::new().since(place.path(earlier));
    let error = store.backup_with(place.path("a"), &since("other-copy")).unwrap_err();
    assert!(matches!(error, BackupError::OtherStore { .. }), "{error}");
    let error = store.backup_with(place.path("b"), &since("store")).unwrap_err();
    assert!(matches!(error, BackupError::Unfinished { .. }), "{error}");
    // A store is not a backup.
    let error = restore(place.path("store"), place.path("c")).unwrap_err();
    assert!(matches!(error, BackupError::Unfinished { .. }), "{error}");
}

#[test]
fn what_has_changed_since_is_refused() {
    let place = Place::new();
    let store = place.open("store");
    fill(&store, 0, 40);
    store.backup(place.path("copy")).unwrap();
    let names: Vec<_> =
        fs::read_dir(place.path("copy")).unwrap().map(|e| e.unwrap().file_name()).collect();
    for (number, name) in names.iter().enumerate() {
        let path = place.path("copy").join(name);
        let whole = fs::read(&path).unwrap();
        let target = place.path(&format!("restored-{number}"));
        let mut changed = whole.clone();
        let middle = changed.len() / 2;
        changed[middle] ^= 1;
        for damage in [Some(changed), Some(whole[..whole.len() / 2].to_vec()), None] {
            match &damage {
                Some(bytes) => fs::write(&path, bytes).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
            let error = restore(place.path("copy"), &target).unwrap_err();
            match (&error, name == MANIFEST) {
                (BackupError::Unfinished { .. }, true) => {}
                (BackupError::Changed { file, .. }, false) => assert_eq!(&**file, name),
                _ => panic!("{name:?}: {error}"),
            }
            // What was written of it is no store.
            let opened = small(&place.clock).open(&target);
            assert!(!matches!(opened, Ok(store) if !store.is_absent("key-1")), "{name:?}");
            fs::remove_dir_all(&target).unwrap();
        }
        fs::write(&path, whole).unwrap();
    }
    restore(place.path("copy"), place.path("restored")).unwrap();
    holds(&place.open("restored"), 40);
}

/// A damaged record is copied as it is, and named; a hole in the log is not passed over.
#[test]
fn of_a_damaged_store() {
    let place = Place::new();
    let store = place.open("store");
    fill(&store, 0, 40);
    store.close().unwrap();
    let segment = place.path("store/segment-000001");
    let whole = fs::read(&segment).unwrap();
    let mut damaged = whole.clone();
    damaged[6000] ^= 1;
    fs::write(&segment, damaged).unwrap();
    let store = place.open("store");
    let backup = store.backup(place.path("copy")).unwrap();
    assert_eq!(backup.problems.len(), 1, "{backup:?}");
    store.close().unwrap();
    let copy = place.open("copy");
    let error = copy.begin(key("key-0"), print()).unwrap_err();
    assert!(matches!(error, BeginError::Damaged { .. }), "{error:?}");
    // A header that doesn't read: refused from outside, salvaged when asked to.
    fs::write(&segment, [vec![0; 64], whole[64..].to_vec()].concat()).unwrap();
    let inspection = Inspection::open(place.path("store")).unwrap();
    let error = inspection.backup(place.path("refused"), &BackupOptions::new()).unwrap_err();
    assert!(matches!(&error, BackupError::Damaged(p) if p.file == "segment-000001"), "{error}");
    assert!(!place.path("refused").exists());
    let salvaged = inspection.salvage(place.path("salvaged")).unwrap();
    assert_eq!(salvaged.problems.len(), 1, "{salvaged:?}");
    // Opens without salvaging.
    place.open("salvaged").finish("new", b"order");
}
