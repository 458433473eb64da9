//! `backup` copies a store that another process has open, or nobody; `restore` makes a store of
//! it again.

use crate::command::*;

fn listed(dir: &std::path::Path) -> Vec<serde_json::Value> {
    let mut lines = run(&["list", path(dir), "--json"]).lines();
    // Of an in-flight key a copy knows that it was interrupted.
    lines.iter_mut().for_each(|line| {
        let line = line.as_object_mut().unwrap();
        for name in ["state", "reason", "interrupted_at"] {
            line.remove(name);
        }
    });
    lines.sort_by_key(|line| line["key"].to_string());
    lines
}

#[test]
fn of_an_open_and_of_a_closed_store() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (store, held) = fill(&at("store"));
    let done = run(&["backup", path(&at("store")), path(&at("live")), "--json"]).json();
    assert_eq!((&done["claims"], &done["problems"]), (&2.into(), &serde_json::json!([])));
    store.close().unwrap();
    drop(held);
    let text = run(&["backup", path(&at("store")), path(&at("closed")), "--no-share"]).ok();
    assert!(text.contains("2 undecided claims") && text.contains("0 B shared"), "{text}");
    for copy in ["live", "closed"] {
        let restored = at(&format!("{copy}-restored"));
        let text = run(&["restore", path(&at(copy)), path(&restored)]).ok();
        assert!(text.contains("copied and checked"), "{text}");
        assert_eq!(listed(&restored), listed(&at("store")));
        options().open(&restored).unwrap().close().unwrap();
    }
}

#[test]
fn against_an_earlier_one() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let store = options().open(at("store")).unwrap();
    (0..400).for_each(|n| claim(&store, &format!("order-{n}")).complete(&[7; 6000]).unwrap());
    store.close().unwrap();
    run(&["backup", path(&at("store")), path(&at("monday"))]).ok();
    let (from, to, since) = (at("store"), at("tuesday"), at("monday"));
    let done = run(&["backup", path(&from), path(&to), "--since", path(&since), "--json"]).json();
    assert_eq!(done["unchanged"], done["segments"]);
    run(&["restore", path(&at("tuesday")), path(&at("restored"))]).ok();
    assert_eq!(listed(&at("restored")), listed(&at("store")));
}

#[test]
fn what_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    filled(&at("store"));
    let (store, other) = (at("store"), at("other"));
    run(&["backup", path(&store), path(&store)]).fails(9, "not empty");
    run(&["restore", path(&store), path(&at("new"))]).fails(5, "not a finished backup");
    run(&["backup", path(&store), path(&at("copy"))]).ok();
    run(&["restore", path(&at("copy")), path(&store)]).fails(9, "not empty");
    run(&["restore", path(&at("nowhere")), path(&at("new2"))]).fails(5, "manifest is missing");
    filled(&other);
    let (to, since) = (at("b"), at("copy"));
    run(&["backup", path(&other), path(&to), "--since", path(&since)]).fails(4, "another store");
    std::fs::write(at("copy").join("claims"), b"x").unwrap();
    run(&["restore", path(&at("copy")), path(&at("new3"))]).fails(5, "claims");
}

/// Killed at some moment, it is refused; or it had been finished.
#[test]
fn a_backup_that_was_killed() {
    use std::{
        process::{Command, Stdio},
        time::Duration,
    };
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let durability = onlyonce::Durability::Buffered { max_delay: Duration::from_secs(1) };
    let store = options().durability(durability).open(at("store")).unwrap();
    (0..2000).for_each(|n| claim(&store, &format!("order-{n}")).complete(&[7; 6000]).unwrap());
    store.close().unwrap();
    let mut killed = 0;
    // At several moments, and then at once until it has been killed in time.
    let waits = [0, 2, 10, 20, 40, 80, 160].into_iter().chain(std::iter::repeat_n(0, 100));
    for (number, wait) in waits.enumerate() {
        if number >= 7 && killed > 0 {
            break;
        }
        let (copy, new) = (at(&format!("copy-{number}")), at(&format!("new-{number}")));
        let mut child = Command::new(env!("CARGO_BIN_EXE_onlyonce"))
            .args(["backup", path(&at("store")), path(&copy)])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(wait));
        child.kill().unwrap();
        child.wait().unwrap();
        let ran = run(&["restore", path(&copy), path(&new)]);
        match ran.code {
            0 => assert_eq!(listed(&new).len(), 2000),
            _ => {
                ran.fails(5, "not a finished backup");
                assert!(!new.join("superblock").exists());
                killed += 1;
            }
        }
    }
    assert!(killed > 0, "each had been finished");
    assert_eq!(listed(&at("store")).len(), 2000);
}
