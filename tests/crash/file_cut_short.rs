//! Somebody truncates a file of a running store. What it costs is written in
//! `docs/durability.md`: a call that finds it out poisons the store, and touching a mapped page
//! that has gone is a SIGBUS, as deadly as a kill. Never a wrong answer, never a hang, and what
//! was acknowledged is there again as far as its file is.

use crate::common::*;
use onlyonce::*;
use std::{
    fs::OpenOptions,
    io::{BufRead, BufReader, Read, Write},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
};

/// Set in a child: the directory of its store, and what it does after the cut.
const DIRECTORY: &str = "ONLYONCE_TEST_CUT";
const ACTION: &str = "ONLYONCE_TEST_CUT_ACTION";

fn options(durability: Durability) -> Options {
    small(&ManualClock::at(T0)).durability(durability)
}

/// The child: has a store with a record and a claim, says so, waits for a line, and goes on.
#[test]
fn goes_on_in_a_child() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let action = std::env::var(ACTION).unwrap();
    let durability = match &*action {
        "claim through the map" => Durability::SyncedCompletions,
        _ => Durability::Synced,
    };
    let store = options(durability).open(&directory).unwrap();
    store.finish("k", &[7; 4000]);
    let mut held = store.claim("held");
    println!("\nready");
    std::io::stdin().lock().read_line(&mut String::new()).unwrap();
    let said = match &*action {
        "replay" => match store.begin(key("k"), print()) {
            Ok(Begin::Replay(record)) => {
                assert_eq!(record.response(), Some(&[7; 4000][..]));
                "served".to_owned()
            }
            other => format!("{other:?}"),
        },
        "complete" => format!("{:?}", held.complete(b"late")),
        "claim" | "claim through the map" => {
            format!("{:?}", store.begin(key("new"), print()).map(|_| "granted"))
        }
        other => panic!("{other}"),
    };
    println!("\nsaid {said}");
    // As a process ends that knows of nothing: neither closes nor drops the store.
    std::process::exit(0);
}

fn start(directory: &Path, action: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "file_cut_short::goes_on_in_a_child", "--nocapture"])
        .env(DIRECTORY, directory)
        .env(ACTION, action)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Cuts a file of a child's store to `len` bytes before the child does `action`. Returns how the
/// child ended, and what it said.
fn cut(directory: &Path, file: &str, len: u64, action: &str) -> (ExitStatus, Option<String>) {
    let mut child = start(directory, action);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line == "ready"));
    let cut = OpenOptions::new().write(true).open(directory.join(file)).unwrap();
    cut.set_len(len).unwrap();
    child.stdin.take().unwrap().write_all(b"go on\n").unwrap();
    let said = lines.find_map(|line| line.strip_prefix("said ").map(str::to_owned));
    let mut complaint = String::new();
    child.stderr.take().unwrap().read_to_string(&mut complaint).unwrap();
    let status = child.wait().unwrap();
    assert_ne!(status.code(), Some(101), "{complaint}");
    (status, said)
}

/// Whether stores into maps are stores here; elsewhere they are write calls, and a cut file grows
/// again.
fn writes_in_place(directory: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(directory.as_os_str().as_bytes()).unwrap();
    // SAFETY: a plain system call that fills a value of ours; all zero is one of its values.
    let kind = unsafe {
        let mut answer: libc::statfs = std::mem::zeroed();
        assert_eq!(libc::statfs(path.as_ptr(), &mut answer), 0);
        answer.f_type as u32
    };
    let known = [0xEF53, 0x5846_5342, 0x0102_1994, 0xF2F5_2010].contains(&kind);
    if !known {
        eprintln!("{}: stores are write calls on this file system", directory.display());
    }
    known
}

#[track_caller]
fn killed_by_the_map((status, said): (ExitStatus, Option<String>)) {
    assert_eq!(status.signal(), Some(libc::SIGBUS), "{said:?}");
    assert_eq!(said, None);
}

#[track_caller]
fn refused_as((status, said): (ExitStatus, Option<String>), answer: &str) {
    assert_eq!((status.code(), said.as_deref()), (Some(0), Some(answer)));
}

#[track_caller]
fn damaged(directory: &Path, file: &str) {
    match options(Durability::Synced).open(directory) {
        Err(OpenError::Damaged { file: found, .. }) => assert_eq!(found, file),
        other => panic!("{other:?}"),
    }
}

fn salvaged(directory: &Path) -> Store {
    options(Durability::Synced).recovery(Recovery::Salvage).open(directory).unwrap()
}

#[test]
fn a_segment_that_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    killed_by_the_map(cut(directory, "segment-000001", 0, "replay"));
    damaged(directory, "segment-000001");
    // The claim is in another file. The record is gone, and the store has said so.
    let store = salvaged(directory);
    assert_eq!(store.stuck("held").reason(), Reason::Crashed);
}

/// The rest of a page that the file still has reads as zeros: the checksum fails.
#[test]
fn a_segment_that_is_read_in_its_last_page() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let answer = "Err(Damaged { segment: 1, offset: 4096 })";
    refused_as(cut(directory, "segment-000001", 4096 + 100, "replay"), answer);
    damaged(directory, "segment-000001");
}

#[test]
fn a_segment_that_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    refused_as(cut(directory, "segment-000001", 4096, "complete"), "Err(Poisoned)");
    damaged(directory, "segment-000001");
    assert!(matches!(salvaged(directory).ask("held"), Begin::Interrupted(_) | Begin::Replay(_)));
}

#[test]
fn the_ring_when_it_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let ended = cut(directory, "ring", 0, "complete");
    if !writes_in_place(directory) {
        return;
    }
    killed_by_the_map(ended);
    damaged(directory, "ring");
    // Everything that was acknowledged is in the segments: a ring is made anew.
    std::fs::remove_file(directory.join("ring")).unwrap();
    let store = salvaged(directory);
    assert_eq!(store.answer("k"), [7; 4000]);
    assert_eq!(store.stuck("held").reason(), Reason::Crashed);
}

#[test]
fn the_claims_file_when_it_is_written() {
    for len in [0, 4096] {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        refused_as(cut(directory, "claims", len, "claim"), "Err(Poisoned)");
        damaged(directory, "claims");
    }
}

#[test]
fn the_claims_file_when_claims_are_stores() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let ended = cut(directory, "claims", 0, "claim through the map");
    if writes_in_place(directory) {
        killed_by_the_map(ended);
        damaged(directory, "claims");
    }
}
