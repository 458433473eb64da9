//! Whoever inspects a directory changes nothing in it: not a byte, not a time of change, not a
//! file more; whatever state the store is in, and also while its owner has it open. And the owner
//! is not disturbed: no lock is taken.

use crate::common::*;
use onlyonce::{inspect::Inspection, *};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

/// Of each file and of the directory: times of change, and content.
fn state(dir: &Path) -> BTreeMap<String, (i64, i64, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let times = |path: &Path| {
        let meta = fs::metadata(path).unwrap();
        let nanos = |seconds: i64, nanos: i64| seconds * 1_000_000_000 + nanos;
        (nanos(meta.mtime(), meta.mtime_nsec()), nanos(meta.ctime(), meta.ctime_nsec()))
    };
    let (mtime, ctime) = times(dir);
    all.insert(".".to_owned(), (mtime, ctime, vec![]));
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let (mtime, ctime) = times(&path);
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        all.insert(name, (mtime, ctime, fs::read(&path).unwrap()));
    }
    all
}

/// Everything that looks.
fn look(dir: &Path) -> Result<(usize, bool), OpenError> {
    let inspection = Inspection::open(dir)?;
    inspection.info();
    let found = inspection.get(key("k")).is_ok();
    let problems = inspection.verify(|_| {}).problems.len();
    Ok((inspection.items().count(), found && problems == 0))
}

#[track_caller]
fn unchanged<T>(dir: &Path, look: impl FnOnce() -> T) -> T {
    let before = state(dir);
    let seen = look();
    assert!(state(dir) == before, "something has been written");
    seen
}

fn filled(dir: &Path) -> Store {
    let store = small(&ManualClock::at(T0)).open(dir).unwrap();
    store.finish("k", b"order 1");
    drop(store.claim("dropped"));
    store
}

#[test]
fn a_closed_store() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).close().unwrap();
    assert_eq!(unchanged(dir.path(), || look(dir.path()).unwrap()), (2, true));
}

#[test]
fn an_open_store_whose_owner_rests() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path());
    assert_eq!(unchanged(dir.path(), || look(dir.path()).unwrap()), (2, true));
    let inspection = Inspection::open(dir.path()).unwrap();
    if cfg!(target_os = "linux") {
        assert_eq!(inspection.info().owner, Some(std::process::id()));
    }
    store.finish("later", b"order 2");
    store.close().unwrap();
    // Whoever looks has no lock that an opener could meet.
    let store = small(&ManualClock::at(T0)).open(dir.path()).unwrap();
    assert_eq!(store.answer("later"), b"order 2");
}

#[test]
fn a_damaged_store() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).close().unwrap();
    let segment = dir.path().join("segment-000001");
    let mut bytes = fs::read(&segment).unwrap();
    bytes[4200] ^= 1;
    fs::write(&segment, bytes).unwrap();
    fs::remove_file(dir.path().join("ring")).unwrap();
    assert_eq!(unchanged(dir.path(), || look(dir.path()).unwrap()), (2, false));
}

#[test]
fn what_is_no_store() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    assert!(matches!(look(&missing), Err(OpenError::NoStore { .. })));
    assert!(!missing.exists(), "looking has made a directory");
    fs::write(dir.path().join("README"), b"mine").unwrap();
    let error = unchanged(dir.path(), || look(dir.path())).unwrap_err();
    assert!(matches!(error, OpenError::NoStore { .. }), "{error:?}");
    fs::write(dir.path().join("claims"), b"mine").unwrap();
    let error = unchanged(dir.path(), || look(dir.path())).unwrap_err();
    assert!(matches!(error, OpenError::NotAStore { .. }), "{error:?}");
    assert!(matches!(look(&dir.path().join("README")), Err(OpenError::Io { .. })));
}

/// Files that may only be read are enough.
#[test]
fn a_store_that_may_only_be_read() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).close().unwrap();
    let chmod = |mode: u32, dir_mode: u32| {
        for entry in fs::read_dir(dir.path()).unwrap() {
            fs::set_permissions(entry.unwrap().path(), PermissionsExt::from_mode(mode)).unwrap();
        }
        fs::set_permissions(dir.path(), PermissionsExt::from_mode(dir_mode)).unwrap();
    };
    chmod(0o400, 0o500);
    let seen = look(dir.path());
    chmod(0o600, 0o700);
    assert_eq!(seen.unwrap(), (2, true));
}
