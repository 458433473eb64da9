//! R7: one directory serves one store at a time, in this process and in others; the death of the
//! owner frees it.

use crate::reference::{complete, open, replays, small};
use onlyonce::{ManualClock, OpenError, Options, Store, storage::SimStorage};
use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

/// Set in a child: the directory to open.
const DIRECTORY: &str = "ONLYONCE_TEST_OPEN";

fn options() -> Options {
    Options::new().max_response(4096).segment_bytes(64 << 10).max_claims(16)
}

fn child(directory: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "second_opener_is_refused::opens_in_a_child", "--nocapture"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// What a child says of its opening.
fn says(child: &mut Child) -> String {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let said = lines
        .map_while(Result::ok)
        .find_map(|line| line.split_once("child says: ").map(|(_, what)| what.to_owned()));
    said.expect("the child says something")
}

#[test]
fn opens_in_a_child() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    match options().open(directory) {
        Ok(_store) => {
            println!("\nchild says: opened");
            std::thread::sleep(std::time::Duration::from_secs(60));
        }
        Err(error) => println!("\nchild says: {error}"),
    }
}

#[test]
fn in_the_same_process() {
    let directory = tempfile::tempdir().unwrap();
    let store = options().open(directory.path()).unwrap();
    let again = options().open(directory.path());
    let Err(error @ OpenError::InUse { .. }) = again else { panic!("{again:?}") };
    let place = directory.path().display().to_string();
    assert!(error.to_string().contains(&place), "{error}");
    // The refusal has not disturbed the owner.
    complete(&store, "a", b"one");
    store.close().unwrap();
    replays(&options().open(directory.path()).unwrap(), "a", b"one");
}

#[test]
fn on_one_simulated_disk() {
    let (clock, disk) = (ManualClock::at(crate::reference::T0), SimStorage::new(1));
    let store = open(&small(&clock), &disk).unwrap();
    assert!(matches!(open(&small(&clock), &disk), Err(OpenError::InUse { .. })));
    drop(store);
    open(&small(&clock), &disk).unwrap();
}

#[test]
fn in_another_process() {
    let directory = tempfile::tempdir().unwrap();
    let store = options().open(directory.path()).unwrap();
    let mut other = child(directory.path());
    let said = says(&mut other);
    other.wait().unwrap();
    let place = directory.path().display().to_string();
    assert!(said.contains(&place) && said.contains("open already"), "{said}");
    complete(&store, "a", b"one");
}

#[test]
fn the_death_of_the_owner_frees_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    let mut owner = child(directory.path());
    assert_eq!(says(&mut owner), "opened");
    assert!(matches!(options().open(directory.path()), Err(OpenError::InUse { .. })));
    owner.kill().unwrap();
    owner.wait().unwrap();
    let store: Store = options().open(directory.path()).unwrap();
    complete(&store, "a", b"one");
}
