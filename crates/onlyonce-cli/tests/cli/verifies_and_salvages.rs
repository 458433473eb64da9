//! `verify` names what doesn't read and says so by its exit code; `salvage` makes a store of the
//! rest, which opens without salvaging.

use crate::command::*;
use std::{fs, path::Path};

/// Changes a byte of a response in the log.
fn damage(dir: &Path, number: usize) {
    let segment = dir.join("segment-000001");
    let mut bytes = fs::read(&segment).unwrap();
    let needle = response(number);
    let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
    bytes[at] ^= 1;
    fs::write(&segment, bytes).unwrap();
}

#[test]
fn a_whole_store() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let text = run(&["verify", path(dir.path())]).ok();
    assert!(text.contains("10 records and 2 undecided claims are whole"), "{text}");
    assert!(text.contains("no damage"), "{text}");
    let json = run(&["verify", path(dir.path()), "--json"]).json();
    assert_eq!((&json["records"], &json["claims"]), (&10.into(), &2.into()));
    assert_eq!(json["problems"], serde_json::json!([]));
}

#[test]
fn a_damaged_record() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    filled(&store);
    damage(&store, 7);
    let ran = run(&["verify", path(&store), "--json"]);
    assert_eq!(ran.code, 5);
    let json: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let problem = &json["problems"][0];
    assert_eq!((&problem["key"], &problem["scope"]), (&"order-7".into(), &SCOPE.into()));
    assert_eq!(problem["file"], "segment-000001");
    let error: serde_json::Value = serde_json::from_str(&ran.err).unwrap();
    assert_eq!(error["code"], 5);
    let ran = run(&["verify", path(&store)]);
    assert!(ran.out.contains("order-7"), "{ran:?}");
    ran.fails(5, "salvage");
    // The rest is listed, exported and answered.
    let ran = run(&["list", path(&store)]);
    assert_eq!(ran.out.lines().count(), 12);
    ran.fails(5, "verify");
    let ran = run(&["export", path(&store)]);
    assert_eq!(ran.out.lines().count(), 11);
    ran.fails(5, "verify");
    run(&["get", path(&store), SCOPE, "order-6"]).ok();
    run(&["get", path(&store), SCOPE, "order-7"]).fails(5, "verify");
}

#[test]
fn salvage_makes_a_store_of_what_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    filled(&store);
    damage(&store, 7);
    fs::remove_file(store.join("ring")).unwrap();
    run(&["backup", path(&store), path(&dir.path().join("refused"))]).fails(5, "salvage");
    let new = dir.path().join("new");
    let text = run(&["salvage", path(&store), path(&new)]).ok();
    assert!(text.contains("ring") && text.contains("segment-000001"), "{text}");
    let listed = run(&["list", path(&new)]);
    assert_eq!(listed.out.lines().count(), 12);
    // The copy has the damaged record too, and says so until it has expired.
    listed.fails(5, "verify");
    assert_eq!(run(&["verify", path(&new)]).code, 5);
    assert_eq!(run(&["export", path(&new)]).code, 5);
    run(&["get", path(&new), SCOPE, "order-6"]).ok();
    run(&["info", path(&new)]).ok();
    let opened = options().open(&new).unwrap();
    let scope = scope();
    let key = |name| onlyonce::KeyRef::new(&scope, name).unwrap();
    let damaged = opened.begin(key("order-7"), print()).unwrap_err();
    assert!(matches!(damaged, onlyonce::BeginError::Damaged { .. }), "never absent: {damaged}");
    assert!(matches!(opened.begin(key("order-6"), print()), Ok(onlyonce::Begin::Replay(_))));
    assert!(matches!(opened.begin(key("stuck"), print()), Ok(onlyonce::Begin::Interrupted(_))));
}
