//! `resolve` completes, frees and forgets keys of a store that nobody has open, and nothing else
//! changes by it.

use crate::command::*;
use onlyonce::Options;
use std::time::Duration;

fn resolve(dir: &std::path::Path, key: &str, how: &[&str]) -> Outcome {
    run(&[&["resolve", path(dir), SCOPE, key], how].concat())
}

fn state_of(dir: &std::path::Path, key: &str) -> Option<String> {
    let ran = run(&["get", path(dir), SCOPE, key, "--json"]);
    match ran.code {
        8 => None,
        _ => Some(ran.json()["state"].as_str().unwrap().to_owned()),
    }
}

#[test]
fn an_interrupted_key_is_completed() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let said = resolve(dir.path(), "stuck", &["complete", "--response", "{\"order\":42}"]).ok();
    assert_eq!(said, "stuck is completed\n");
    assert_eq!(run(&["get", path(dir.path()), SCOPE, "stuck", "--raw"]).bytes, b"{\"order\":42}");
    // From a file, and from stdin.
    let file = dir.path().join("answer");
    std::fs::write(&file, [0xff, 0]).unwrap();
    resolve(dir.path(), "held", &["complete", "--response-file", path(&file)]).ok();
    assert_eq!(run(&["get", path(dir.path()), SCOPE, "held", "--raw"]).bytes, [0xff, 0]);
    resolve(dir.path(), "held", &["complete", "--response", "no"]).fails(9, "already completed");
    // The service replays it.
    let store = options().open(dir.path()).unwrap();
    let scope = scope();
    let key = onlyonce::KeyRef::new(&scope, "stuck").unwrap();
    match store.begin(key, print()).unwrap() {
        onlyonce::Begin::Replay(record) => {
            assert_eq!(record.response(), Some(&b"{\"order\":42}"[..]));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn from_stdin() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let args = ["resolve", path(dir.path()), SCOPE, "stuck", "complete", "--response-file", "-"];
    run_with(&args, "from stdin").ok();
    assert_eq!(run(&["get", path(dir.path()), SCOPE, "stuck", "--raw"]).bytes, b"from stdin");
}

#[test]
fn keys_are_freed_and_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let said = run(&["resolve", path(dir.path()), SCOPE, "stuck", "free", "--json"]).json();
    assert_eq!((&said["key"], &said["state"]), (&"stuck".into(), &"free".into()));
    assert_eq!(state_of(dir.path(), "stuck"), None);
    resolve(dir.path(), "order-1", &["free"]).fails(9, "forget --force");
    resolve(dir.path(), "order-1", &["forget"]).fails(9, "--force");
    assert_eq!(state_of(dir.path(), "order-1").as_deref(), Some("completed"));
    resolve(dir.path(), "order-1", &["forget", "--force"]).ok();
    assert_eq!(state_of(dir.path(), "order-1"), None);
    resolve(dir.path(), "order-1", &["forget", "--force"]).fails(8, "no key order-1");
    resolve(dir.path(), "never", &["complete", "--response", "x"]).fails(8, "import");
    // The others are as they were.
    assert_eq!(run(&["list", path(dir.path()), "--json"]).lines().len(), 10);
}

/// Between a look and a decision another attempt may have had an effect.
#[test]
fn a_decision_is_about_the_attempt_that_was_seen() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let token = |key: &str| {
        let text = run(&["get", path(dir.path()), SCOPE, key]).ok();
        let line = text.lines().find(|line| line.starts_with("token")).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    let seen = token("stuck");
    let store = options().open(dir.path()).unwrap();
    let scope = scope();
    let key = onlyonce::KeyRef::new(&scope, "stuck").unwrap();
    match store.begin(key, print()).unwrap() {
        onlyonce::Begin::Interrupted(stuck) => drop(stuck.take_over().unwrap()),
        other => panic!("{other:?}"),
    }
    store.close().unwrap();
    let complete = ["complete", "--response", "x", "--seen", &seen];
    for how in [&["free", "--seen", &seen][..], &["forget", "--force", "--seen", &seen], &complete]
    {
        resolve(dir.path(), "stuck", how).fails(9, "another attempt has been made since");
    }
    assert_eq!(state_of(dir.path(), "stuck").as_deref(), Some("interrupted"));
    resolve(dir.path(), "never", &["free", "--seen", &seen]).fails(8, "no key never");
    // What was decided is another state, too.
    let seen = token("stuck");
    let before = ["resolve", path(dir.path()), SCOPE, "stuck", "--seen", &seen];
    run(&[&before[..], &["complete", "--response", "x"]].concat()).ok();
    resolve(dir.path(), "stuck", &["forget", "--force", "--seen", &seen])
        .fails(9, "another attempt");
    resolve(dir.path(), "stuck", &["forget", "--force", "--seen", &token("stuck")]).ok();
    for bad in ["0", "x", "-1"] {
        resolve(dir.path(), "held", &["free", "--seen", bad]).misused();
    }
}

#[test]
fn a_wrong_answer_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let get = |key: &str| run(&["get", path(dir.path()), SCOPE, key, "--json"]).json();
    let before = get("order-1");
    let said = resolve(dir.path(), "order-1", &["replace", "--response", "right"]).ok();
    assert_eq!(said, "order-1 is completed, with this answer\n");
    let after = get("order-1");
    assert_eq!(after["response"], "right");
    for same in ["fingerprint", "expires_at", "completed_at", "attempts"] {
        assert_eq!(after[same], before[same], "{same}");
    }
    assert!(after["token"].as_u64() > before["token"].as_u64());
    let seen = before["token"].to_string();
    resolve(dir.path(), "order-1", &["replace", "--response", "x", "--seen", &seen])
        .fails(9, "another attempt");
    resolve(dir.path(), "stuck", &["replace", "--response", "x"]).fails(9, "no answer to replace");
    resolve(dir.path(), "never", &["replace", "--response", "x"]).fails(8, "no key never");
    let many = |more: &[&str]| {
        let all = ["resolve-many", path(dir.path()), "--prefix", "order-", "replace"];
        run(&[&all[..], &["--response", "the same"], more].concat())
    };
    assert!(many(&[]).ok().contains("10 keys would become completed, with this answer"));
    many(&["--yes"]).ok();
    assert_eq!(get("order-7")["response"], "the same");
}

#[test]
fn decisions_are_listed_and_exported() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let decisions = |more: &[&str]| run(&[&["decisions", path(dir.path())], more].concat());
    assert_eq!(decisions(&[]).ok(), "no decisions\n");
    let by = ["--as", "kim", "--note", "INC-7: no charge"];
    resolve(dir.path(), "stuck", &[&["free"], &by[..]].concat()).ok();
    resolve(dir.path(), "order-1", &["replace", "--response", "right", "--as", "alex"]).ok();
    let many = ["resolve-many", path(dir.path()), "--keys", "-", "forget", "--force", "--yes"];
    let lines = format!("{{\"scope\":\"{SCOPE}\",\"key\":\"order-2\"}}\n");
    run_with(&[&many[..], &by].concat(), &lines).ok();
    let text = decisions(&[]).ok();
    for what in ["free", "stuck", "by kim", "INC-7: no charge", "interrupted: dropped", "by alex"] {
        assert!(text.contains(what), "{what}: {text}");
    }
    let lines = decisions(&["--json"]).lines();
    let verdicts: Vec<_> = lines.iter().map(|line| line["decision"].as_str().unwrap()).collect();
    assert_eq!(verdicts, ["free", "replace", "forget"]);
    assert_eq!(lines[0]["checkpoint"], "charged ch_1");
    assert_eq!(lines[1]["before"], String::from_utf8(response(1)).unwrap());
    assert_eq!((&lines[1]["after"], &lines[1]["outcome"]), (&"right".into(), &"done".into()));
    assert_eq!(lines[2]["actor"], "kim");
    assert_eq!(decisions(&["--json", "--prefix", "order-"]).lines().len(), 2);
    assert_eq!(decisions(&["--json", "--scope", "other"]).lines().len(), 0);
}

/// The command doesn't know the service's options, and lets nothing expire that these would keep.
#[test]
fn other_keys_are_kept_as_long_as_their_service_keeps_them() {
    let dir = tempfile::tempdir().unwrap();
    let day = Duration::from_secs(24 * 3600);
    let clock = onlyonce::ManualClock::at(1_700_000_000_000);
    let service = || -> Options {
        options().clock(clock.clone()).interrupted_retention(400 * day).retention(9 * day)
    };
    // Long ago, but known to the store as now: its clock was set forward.
    let store = service().open(dir.path()).unwrap();
    drop(claim(&store, "old"));
    clock.advance(300 * day);
    drop(claim(&store, "new"));
    store.close().unwrap();
    resolve(dir.path(), "new", &["free"]).ok();
    let store = service().open(dir.path()).unwrap();
    let scope = scope();
    let old = store.get(onlyonce::KeyRef::new(&scope, "old").unwrap()).unwrap();
    assert!(old.is_some(), "an interrupted key was let go");
}

#[test]
fn a_store_with_small_and_one_with_large_answers() {
    for (max_response, ring) in [(4096, Some(64 << 10)), (2 << 20, None)] {
        let dir = tempfile::tempdir().unwrap();
        let mut options =
            Options::new().max_response(max_response).max_claims(20).capacity(64 << 20);
        if let Some(ring) = ring {
            options = options.ring_bytes(ring);
        }
        let store = options.clone().open(dir.path()).unwrap();
        drop(claim(&store, "stuck"));
        store.close().unwrap();
        let answer = "x".repeat(max_response.min(100_000));
        resolve(dir.path(), "stuck", &["complete", "--response", &answer]).ok();
        options.open(dir.path()).unwrap().close().unwrap();
        assert_eq!(run(&["get", path(dir.path()), SCOPE, "stuck", "--raw"]).out, answer);
    }
}
