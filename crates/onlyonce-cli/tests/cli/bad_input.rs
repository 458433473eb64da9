//! Every subcommand on a store that is missing, foreign, damaged, in use or of a newer version:
//! one line that says what to do, and an exit code of its own. And nothing has been written.

use crate::command::*;
use std::{fs, path::Path};

/// All that takes a store, with `STORE` and `NEW` in their places.
const READING: &[&[&str]] = &[
    &["info", "STORE"],
    &["list", "STORE"],
    &["get", "STORE", SCOPE, "order-1"],
    &["verify", "STORE"],
    &["backup", "STORE", "NEW"],
    &["salvage", "STORE", "NEW"],
    &["export", "STORE"],
];
const WRITING: &[&[&str]] = &[&["resolve", "STORE", SCOPE, "stuck", "free"], &["import", "STORE"]];

#[track_caller]
fn all_fail(commands: &[&[&str]], store: &Path, code: i32, what: &str) {
    for command in commands {
        let new = store.with_extension("new");
        let place = |word: &&str| match *word {
            "STORE" => path(store).to_owned(),
            "NEW" => path(&new).to_owned(),
            word => word.to_owned(),
        };
        let args: Vec<String> = command.iter().map(place).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let before = store.is_dir().then(|| state(store));
        let line = run(&args).fails(code, what);
        assert!(line.contains(';'), "{command:?} says what, and not what to do: {line}");
        assert_eq!(store.is_dir().then(|| state(store)), before, "{command:?} has written");
        assert!(!new.exists(), "{command:?} has made something");
        // The same for programs.
        let json = run(&[&args[..], &["--json"]].concat());
        let error: serde_json::Value = serde_json::from_str(&json.err).unwrap();
        assert_eq!((json.code, &error["code"]), (code, &code.into()));
    }
}

fn all() -> Vec<&'static [&'static str]> {
    READING.iter().chain(WRITING).copied().collect()
}

#[test]
fn missing() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    all_fail(&all(), &missing, 3, "holds no store");
    assert!(!missing.exists());
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    all_fail(&all(), &empty, 3, "holds no store");
    let file = dir.path().join("file");
    fs::write(&file, b"mine").unwrap();
    all_fail(&all(), &file, 3, "file");
}

#[test]
fn foreign() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    filled(&store);
    fs::remove_file(store.join("superblock")).unwrap();
    all_fail(&all(), &store, 4, "no superblock");
}

#[test]
fn damaged() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    filled(&store);
    let superblock = store.join("superblock");
    let mut bytes = fs::read(&superblock).unwrap();
    bytes[20] ^= 1;
    bytes[4096 + 20] ^= 1;
    fs::write(&superblock, bytes).unwrap();
    all_fail(&all(), &store, 5, "superblock is damaged");
}

#[test]
fn newer() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    filled(&store);
    let superblock = store.join("superblock");
    let mut bytes = fs::read(&superblock).unwrap();
    for copy in [0, 4096] {
        bytes[copy + 8] = 3;
        let crc = crc32fast::hash(&bytes[copy..copy + 84]);
        bytes[copy + 84..copy + 88].copy_from_slice(&crc.to_le_bytes());
    }
    fs::write(&superblock, bytes).unwrap();
    all_fail(&all(), &store, 7, "has format 3, and this onlyonce knows up to 2");
}

#[test]
fn in_use() {
    let dir = tempfile::tempdir().unwrap();
    let (store, held) = fill(&dir.path().join("store"));
    all_fail(WRITING, &dir.path().join("store"), 6, "in use");
    store.close().unwrap();
    drop(held);
}

#[test]
fn misused() {
    for args in [
        &[][..],
        &["nonsense"],
        &["info"],
        &["list", "x", "--state", "lost"],
        &["bench", "--seconds", "x"],
    ] {
        run(args).misused();
    }
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let store = path(dir.path());
    run(&["get", store, "hex:0", "k"]).fails(2, "pairs of digits");
    run(&["bench", store, "--seconds", "0"]).fails(2, "--seconds");
    run(&["bench", "/nowhere/at/all"]).fails(1, "/nowhere/at/all");
}
