//! Opening a place that is no place for a store: each its own typed error that names the place,
//! and nothing is changed.

use crate::common::*;
use onlyonce::*;
use std::{fs, os::unix::fs::symlink, path::Path};

fn open(path: impl AsRef<Path>) -> Result<Store, OpenError> {
    small(&ManualClock::at(T0)).open(path)
}

#[track_caller]
fn io_error(path: &Path) {
    let error = open(path).unwrap_err();
    assert!(matches!(error, OpenError::Io { .. }), "{error:?}");
    assert!(error.to_string().contains(&*path.to_string_lossy()), "{error}");
}

#[test]
fn a_path_that_is_a_file_or_below_one() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, b"mine").unwrap();
    io_error(&file);
    io_error(&file.join("below"));
    assert_eq!(fs::read(&file).unwrap(), b"mine");
}

#[test]
fn a_path_where_nothing_can_be_created() {
    io_error(Path::new("/proc/onlyonce"));
    io_error(Path::new(""));
}

#[test]
fn missing_directories_are_made() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b/c");
    open(&path).unwrap().finish("k", b"order 1");
    assert_eq!(open(&path).unwrap().answer("k"), b"order 1");
}

#[test]
fn a_link_to_a_directory_is_that_directory() {
    let dir = tempfile::tempdir().unwrap();
    let (path, link) = (dir.path().join("store"), dir.path().join("link"));
    fs::create_dir(&path).unwrap();
    symlink(&path, &link).unwrap();
    let store = open(&link).unwrap();
    store.finish("k", b"order 1");
    assert!(matches!(open(&path), Err(OpenError::InUse { .. })));
    drop(store);
    assert_eq!(open(&path).unwrap().answer("k"), b"order 1");
}

#[test]
fn a_place_that_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let error = open(dir.path()).unwrap_err();
    let OpenError::InUse { place, owner } = &error else { panic!("{error:?}") };
    assert!(place.contains(&*dir.path().to_string_lossy()), "{place}");
    if std::path::Path::new("/proc/locks").exists() {
        assert_eq!(*owner, Some(std::process::id()));
    }
    store.finish("k", b"order 1");
    store.close().unwrap();
    assert_eq!(open(dir.path()).unwrap().answer("k"), b"order 1");
}

#[test]
fn an_owner_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let path = dir.path().to_owned();
    let next = std::thread::spawn(move || {
        let options = small(&ManualClock::at(T0)).wait_for_owner(HOUR);
        options.open(path).unwrap().answer("k")
    });
    // Whether the other one waits already or comes later is the same to both.
    store.finish("k", b"order 1");
    store.close().unwrap();
    assert_eq!(next.join().unwrap(), b"order 1");
    let _owner = open(dir.path()).unwrap();
    let impatient = small(&ManualClock::at(T0)).wait_for_owner(MS).open(dir.path());
    assert!(matches!(impatient, Err(OpenError::InUse { .. })));
}

#[test]
fn a_place_with_other_people_s_files_is_a_place() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("README"), b"mine").unwrap();
    fs::create_dir(dir.path().join("folder")).unwrap();
    open(dir.path()).unwrap().finish("k", b"order 1");
    assert_eq!(open(dir.path()).unwrap().answer("k"), b"order 1");
    assert_eq!(fs::read(dir.path().join("README")).unwrap(), b"mine");
}

#[test]
fn a_place_without_room_for_a_store() {
    let sim = Sim::new();
    for bytes in [0, 4096, 64 << 10] {
        sim.disk.set_capacity(Some(bytes));
        let error = sim.try_open().unwrap_err();
        assert!(matches!(error, OpenError::NoSpace { .. }), "{bytes}: {error:?}");
        assert!(error.to_string().contains("free some and open again"), "{error}");
    }
    // When there is room, it is opened as if nothing had been.
    sim.disk.set_capacity(None);
    sim.open().finish("k", b"order 1");
    assert_eq!(sim.open().answer("k"), b"order 1");
}

#[test]
fn a_place_without_room_for_answers() {
    let sim = Sim::new();
    sim.disk.set_capacity(Some(200 << 10));
    let store = sim.open();
    let full = store.begin(key("k"), print()).unwrap_err();
    assert_eq!(full, BeginError::StoreFull(Full::Disk));
    sim.disk.set_capacity(None);
    store.finish("k", b"order 1");
    assert_eq!(store.answer("k"), b"order 1");
}

#[test]
fn a_directory_without_its_superblock() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).unwrap().finish("k", b"order 1");
    fs::remove_file(dir.path().join("superblock")).unwrap();
    let error = open(dir.path()).unwrap_err();
    assert!(matches!(error, OpenError::NotAStore { .. }), "{error:?}");
}

#[test]
fn a_directory_with_any_one_of_a_store_s_files() {
    for name in ["claims", "ring", "segment-00000001", "segment-00000009"] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(name), b"mine").unwrap();
        let error = open(dir.path()).unwrap_err();
        let OpenError::NotAStore { file, .. } = &error else { panic!("{error:?}") };
        assert_eq!(file, name);
        assert_eq!(fs::read(dir.path().join(name)).unwrap(), b"mine");
    }
}
