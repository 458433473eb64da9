//! A directory without a store is a new store only for those who may create one: else a volume
//! that isn't mounted would let every retry execute.

use crate::common::*;
use onlyonce::*;
use std::{fs, sync::Arc};

fn no_store(opened: Result<Store, OpenError>, place: &str) {
    match opened {
        Err(OpenError::NoStore { place: found }) => assert_eq!(found, place),
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_is_created_where_nothing_is() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().create(false);
    let volume = dir.path().join("volume");
    let place = volume.join("keys");
    no_store(options.open(&place), place.to_str().unwrap());
    assert!(!volume.exists());
    fs::create_dir_all(&place).unwrap();
    no_store(options.open(&place), place.to_str().unwrap());
    assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
    // What a fresh file system has.
    fs::create_dir(place.join("lost+found")).unwrap();
    no_store(options.open(&place), place.to_str().unwrap());
    assert_eq!(fs::read_dir(&place).unwrap().count(), 1);
    // A creation that never came to its end has promised nothing.
    fs::write(place.join("superblock"), b"").unwrap();
    no_store(options.open(&place), place.to_str().unwrap());
    assert_eq!(fs::metadata(place.join("superblock")).unwrap().len(), 0);
}

#[test]
fn a_store_that_is_there_is_opened_and_says_whether_it_is_new() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("keys");
    let made = Options::new().open(&place).unwrap();
    assert!(made.stats().created);
    made.finish("k", b"answer");
    let info = inspect::Inspection::open(&place).unwrap().info();
    assert!(info.created);
    made.close().unwrap();
    for options in [Options::new().create(false), Options::new()] {
        let store = options.open(&place).unwrap();
        assert!(!store.stats().created);
        assert_eq!(store.answer("k"), b"answer");
        assert!(!inspect::Inspection::open(&place).unwrap().info().created);
    }
}

#[test]
fn part_of_a_store_is_not_taken_for_none() {
    let sim = Sim::new();
    sim.open().close().unwrap();
    sim.disk.remove_file("superblock");
    let opened = sim.options.clone().create(false).open_on(Arc::new(sim.disk.clone()));
    assert!(matches!(opened, Err(OpenError::NotAStore { .. })), "{opened:?}");
}
