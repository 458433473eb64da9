//! A store that takes segments until the limit of open files ends it can be opened again under the
//! same limit, by a process that has more files open of its own, and works.

use crate::common::*;
use onlyonce::{storage::DiskStorage, *};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{fs::File, path::Path, process::Command, sync::Arc};

const DIRECTORY: &str = "ONLYONCE_OPEN_FILES_RUN_OUT";
const LIMIT: u64 = 64;
/// Four to a segment, at most.
const RESPONSE: usize = 250 << 10;

/// For this process alone, which runs one test.
fn limit_open_files() {
    let limit = Rlimit { current: Some(LIMIT), ..getrlimit(Resource::Nofile) };
    setrlimit(Resource::Nofile, limit).unwrap();
}

fn open(directory: &str, clock: &ManualClock) -> Result<Store, OpenError> {
    let storage = DiskStorage::open(Path::new(directory).join("store")).unwrap();
    small(clock)
        .max_response(RESPONSE)
        .ring_bytes(4 << 20)
        .capacity(1 << 30)
        .durability(Durability::Buffered { max_delay: HOUR })
        .open_on(Arc::new(storage))
}

fn response(number: usize) -> Vec<u8> {
    vec![number as u8; RESPONSE]
}

/// Completes keys until no segment can be had; how many there are then.
fn fill(store: &Store, round: &str) -> usize {
    for number in 0..4 * LIMIT as usize {
        match store.begin(key(&format!("{round} {number}")), print()) {
            Ok(begin) => granted(begin).complete(&response(number)).unwrap(),
            Err(BeginError::Unavailable { what }) => {
                assert!(what.to_lowercase().contains("too many open files"), "{what}");
                return number;
            }
            Err(other) => panic!("{other}"),
        }
    }
    panic!("the limit of open files was not met");
}

#[test]
fn fills_in_a_child() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    limit_open_files();
    let store = open(&directory, &ManualClock::at(T0)).unwrap();
    let count = fill(&store, "first");
    let mut others = Vec::new();
    // Whatever else the service does can go on.
    (0..20).for_each(|_| others.push(File::open("/dev/null").unwrap()));
    assert_eq!(store.answer("first 0"), response(0));
    drop(others);
    std::fs::write(Path::new(&directory).join("count"), count.to_string()).unwrap();
    // Ends as by a kill.
    std::mem::forget(store);
}

#[test]
fn opens_again_in_a_child() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let count = std::fs::read_to_string(Path::new(&directory).join("count")).unwrap();
    let count: usize = count.parse().unwrap();
    limit_open_files();
    let others: Vec<_> = (0..20).map(|_| File::open("/dev/null").unwrap()).collect();
    let clock = ManualClock::at(T0);
    let store = open(&directory, &clock).unwrap();
    for number in 0..count {
        assert_eq!(store.answer(&format!("first {number}")), response(number));
    }
    // When everything has expired its segments take what comes.
    clock.advance(3 * DAY);
    store.housekeep().unwrap();
    assert!(fill(&store, "second") * 10 > count * 9);
    assert_eq!(store.answer("second 0"), response(0));
    store.close().unwrap();
    drop(others);
}

#[test]
fn under_a_limit_of_open_files_a_full_store_opens_again() {
    let directory = tempfile::tempdir().unwrap();
    for test in ["fills_in_a_child", "opens_again_in_a_child"] {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("open_files_run_out::{test}"), "--nocapture"])
            .env(DIRECTORY, directory.path())
            .output()
            .unwrap();
        assert!(child.status.success(), "{test}: {}", String::from_utf8_lossy(&child.stderr));
    }
}
