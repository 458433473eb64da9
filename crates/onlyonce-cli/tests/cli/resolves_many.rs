//! `resolve-many` decides about many keys in one opening, and about no others.

use crate::command::*;
use onlyonce::{Begin, ClaimError, Durability, KeyRef, Options, Scope, Store};
use std::{path::Path, time::Duration};

const MANY: usize = 3000;

fn options_for_many() -> Options {
    let durability = Durability::Buffered { max_delay: Duration::from_secs(1) };
    options().max_claims(2 * MANY as u32).durability(durability)
}

/// Interrupts `number` keys of this scope.
fn interrupt(store: &Store, scope: &Scope, number: usize) {
    for n in 0..number {
        let name = format!("key-{n:05}");
        drop(store.begin(KeyRef::new(scope, &name).unwrap(), print()).unwrap());
    }
}

fn many(dir: &Path, more: &[&str]) -> Outcome {
    run(&[&["resolve-many", path(dir)], more].concat())
}

fn info(dir: &Path) -> serde_json::Value {
    run(&["info", path(dir), "--json"]).json()
}

fn listed(dir: &Path, more: &[&str]) -> Vec<serde_json::Value> {
    run(&[&["list", path(dir), "--json"], more].concat()).lines()
}

#[test]
fn thousands_in_one_opening() {
    let dir = tempfile::tempdir().unwrap();
    let store = options_for_many().open(dir.path()).unwrap();
    interrupt(&store, &scope(), MANY);
    claim(&store, "done").complete(b"before").unwrap();
    store.close().unwrap();
    let how = ["--state", "interrupted", "complete", "--response", "settled by hand"];
    // Without --yes it only looks.
    let before = (state(dir.path()), info(dir.path()));
    let text = many(dir.path(), &how).ok();
    for what in ["3,000 keys would become completed", "and 2,990 more", "nothing was changed"] {
        assert!(text.contains(what), "{what}: {text}");
    }
    let json = many(dir.path(), &[&how[..], &["--json"]].concat()).json();
    assert_eq!((&json["dry_run"], &json["would_decide"]), (&true.into(), &MANY.into()));
    assert_eq!(json["sample"].as_array().unwrap().len(), 10);
    assert_eq!(state(dir.path()), before.0);
    let said = many(dir.path(), &[&how[..], &["--yes"]].concat()).ok();
    assert_eq!(said, "3,000 keys are completed\n");
    let after = info(dir.path());
    let life = |info: &serde_json::Value| info["life"].as_u64().unwrap();
    let segments = |info: &serde_json::Value| info["segments"].as_u64().unwrap();
    assert_eq!(life(&after), life(&before.1) + 1, "more than one opening");
    assert!(segments(&after) <= segments(&before.1) + 1, "{after}");
    assert_eq!((&after["interrupted"], &after["records"]), (&0.into(), &(MANY + 1).into()));
    let store = options_for_many().open(dir.path()).unwrap();
    let scope = scope();
    for (name, response) in [("key-00000", "settled by hand"), ("done", "before")] {
        match store.begin(KeyRef::new(&scope, name).unwrap(), print()).unwrap() {
            Begin::Replay(record) => assert_eq!(record.response(), Some(response.as_bytes())),
            other => panic!("{name}: {other:?}"),
        }
    }
    store.close().unwrap();
    // Nothing is left, and nothing is opened for it.
    let life = info(dir.path())["life"].clone();
    assert_eq!(many(dir.path(), &[&how[..], &["--yes"]].concat()).ok(), "0 keys are completed\n");
    assert_eq!(info(dir.path())["life"], life);
}

#[test]
fn keys_are_selected_by_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path()).unwrap();
    let other = Scope::of(["tenant-8"]);
    interrupt(&store, &scope(), 12);
    interrupt(&store, &other, 3);
    claim(&store, "failed").fail(b"502").unwrap();
    store.close().unwrap();
    let would = |more: &[&str]| {
        let json = many(dir.path(), &[more, &["free", "--json"]].concat()).json();
        json["would_decide"].as_u64().unwrap()
    };
    assert_eq!(would(&["--state", "interrupted"]), 16);
    assert_eq!(would(&["--scope", "tenant-8"]), 3);
    assert_eq!(would(&["--scope", SCOPE, "--prefix", "key-0000"]), 10);
    assert_eq!(would(&["--reason", "failed"]), 1);
    assert_eq!(would(&["--reason", "panicked"]), 0);
    assert_eq!(would(&["--older-than", "1h"]), 0);
    assert_eq!(would(&["--state", "completed"]), 0);
    // All of it must be true of a key, and the options may follow the decision.
    let yes = ["free", "--scope", SCOPE, "--reason", "dropped", "--yes"];
    assert_eq!(many(dir.path(), &yes).ok(), "12 keys are free\n");
    assert_eq!(listed(dir.path(), &[]).len(), 4);
    many(dir.path(), &["free"]).fails(2, "which keys?");
    many(dir.path(), &["--state", "interrupted"]).misused();
    many(dir.path(), &["--state", "interrupted", "complete"]).misused();
    many(dir.path(), &["--state", "lost", "free"]).misused();
}

#[test]
fn keys_are_named_as_they_were_listed() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path()).unwrap();
    interrupt(&store, &scope(), 6);
    store.close().unwrap();
    let list: String = listed(dir.path(), &[]).iter().map(|line| format!("{line}\n")).collect();
    // Since then one has been tried again, and one has become free.
    let store = options().open(dir.path()).unwrap();
    let scope = scope();
    let key = |name| KeyRef::new(&scope, name).unwrap();
    match store.begin(key("key-00001"), print()).unwrap() {
        Begin::Interrupted(stuck) => drop(stuck.take_over().unwrap()),
        other => panic!("{other:?}"),
    }
    store.resolve(key("key-00002"), onlyonce::Resolution::Free).unwrap();
    store.close().unwrap();
    let args = ["resolve-many", path(dir.path()), "--keys", "-", "free"];
    // A line that isn't understood comes before any decision.
    let bad = run_with(&[&args[..], &["--yes"]].concat(), &format!("{list}{{}}\n"));
    bad.fails(2, "line 7");
    assert_eq!(listed(dir.path(), &[]).len(), 5);
    let dry = run_with(&[&args[..], &["--json"]].concat(), &list).json();
    assert_eq!((&dry["would_decide"], &dry["would_refuse"]), (&4.into(), &2.into()));
    let file = dir.path().join("chosen");
    std::fs::write(&file, &list).unwrap();
    let args = ["--keys", path(&file), "free", "--yes", "--json"];
    let done = many(dir.path(), &args);
    assert_eq!((done.code, done.err.contains("2 keys left alone")), (9, true), "{done:?}");
    let lines: Vec<serde_json::Value> =
        done.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [tried, free, sum] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!(tried["key"], "key-00001");
    assert!(tried["refused"].as_str().unwrap().contains("another attempt"), "{tried}");
    assert_eq!(free["key"], "key-00002");
    assert_eq!((&sum["decided"], &sum["refused"]), (&4.into(), &2.into()));
    // By their names alone, they are what they are now.
    let names = "{\"scope\":\"tenant-7/orders\",\"key\":\"key-00001\"}\n\n";
    let args = ["resolve-many", path(dir.path()), "--keys", "-", "forget", "--yes"];
    assert_eq!(run_with(&args, names).ok(), "1 key is forgotten\n");
    assert_eq!(listed(dir.path(), &[]).len(), 0);
}

#[test]
fn completed_keys_are_forgotten_only_by_force() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let select = ["--state", "completed", "--prefix", "order-"];
    let text = many(dir.path(), &[&select[..], &["forget"]].concat()).ok();
    assert!(text.contains("10 keys would be left alone: it is completed (--force"), "{text}");
    let done = many(dir.path(), &[&select[..], &["forget", "--yes"]].concat());
    assert_eq!(done.code, 9, "{done:?}");
    assert_eq!(listed(dir.path(), &[]).len(), 12);
    let done = many(dir.path(), &[&select[..], &["forget", "--force", "--yes"]].concat());
    assert_eq!(done.ok(), "10 keys are forgotten\n");
    assert_eq!(listed(dir.path(), &[]).len(), 2);
}

#[test]
fn a_store_that_is_open_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (store, held) = fill(dir.path());
    let select = ["--state", "interrupted", "free"];
    // What is seen of it may be nothing; it is refused all the same.
    many(dir.path(), &[&select[..], &["--yes"]].concat()).fails(6, "--url");
    let dry = many(dir.path(), &select);
    assert!(dry.code == 0 && dry.err.contains("has the store open"), "{dry:?}");
    drop(held);
    store.close().unwrap();
}

mod at_a_service {
    use super::*;
    use crate::admin_client::serve;
    use onlyonce::admin::Admin;

    #[test]
    fn thousands_and_a_holder_that_lives() {
        let dir = tempfile::tempdir().unwrap();
        let store = options_for_many().open(dir.path()).unwrap();
        interrupt(&store, &scope(), MANY);
        let mut held = claim(&store, "held");
        let url = format!("http://{}/", serve(Admin::new(&store)));
        let many = |more: &[&str]| run(&[&["resolve-many", "--url", &url], more].concat());
        // Pages don't hide any.
        let listed = run(&["list", "--url", &url, "--json"]).lines();
        assert_eq!(listed.len(), MANY + 1);
        let text = many(&["--scope", SCOPE, "free"]).ok();
        assert!(text.contains("3,000 keys would become free"), "{text}");
        assert_eq!(store.stats().interrupted, MANY as u64);
        assert_eq!(many(&["--scope", SCOPE, "free", "--yes"]).ok(), "3,000 keys are free\n");
        assert_eq!(store.stats().interrupted, 0);
        let text = many(&["--state", "in-flight", "free"]).ok();
        assert!(text.contains("1 key would be left alone: its holder may be working"), "{text}");
        let done = many(&["--state", "in-flight", "free", "--yes"]);
        assert_eq!((done.code, &done.out[..20]), (9, "0 keys are free\n1 ke"), "{done:?}");
        assert!(held.renew().is_ok());
        let args = ["resolve-many", "--url", &url, "--keys", "-", "free", "--force", "--yes"];
        let names = "{\"scope\":\"tenant-7/orders\",\"key\":\"held\"}\n\
                     {\"scope\":\"tenant-7/orders\",\"key\":\"never\"}\n";
        let done = run_with(&args, names);
        assert_eq!(done.code, 9, "{done:?}");
        assert!(done.out.contains("1 key is free") && done.out.contains("never"), "{done:?}");
        assert_eq!(held.complete(b"late").unwrap_err(), ClaimError::Fenced);
    }
}
