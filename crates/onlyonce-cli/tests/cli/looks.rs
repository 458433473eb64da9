//! `info`, `list` and `get` show what a store holds, of one that is open in another process too,
//! for people and for programs.

use crate::command::*;

fn keys(lines: &[serde_json::Value]) -> Vec<&str> {
    let mut keys: Vec<_> = lines.iter().map(|line| line["key"].as_str().unwrap()).collect();
    keys.sort_unstable();
    keys
}

#[test]
fn info_of_a_closed_and_of_an_open_store() {
    let dir = tempfile::tempdir().unwrap();
    let (store, held) = fill(dir.path());
    let info = run(&["info", path(dir.path()), "--json"]).json();
    if cfg!(target_os = "linux") {
        assert_eq!(info["owner"], std::process::id());
        // What a running store has in memory only is not seen: the dropped claim.
        assert_eq!((&info["in_flight"], &info["interrupted"]), (&2.into(), &0.into()));
    }
    store.close().unwrap();
    drop(held);
    let info = run(&["info", path(dir.path()), "--json"]).json();
    assert!(info["owner"].is_null());
    assert_eq!((&info["in_flight"], &info["interrupted"]), (&0.into(), &2.into()));
    assert_eq!(
        (&info["records"], &info["format"], &info["life"]),
        (&10.into(), &2.into(), &1.into())
    );
    assert_eq!(info["created"], true);
    assert_eq!(info["durability"], "synced");
    assert_eq!(info["problems"], serde_json::json!([]));
    assert!(info["oldest_ms"].as_u64().unwrap() <= info["newest_ms"].as_u64().unwrap());
    let text = run(&["info", path(dir.path())]).ok();
    for what in ["0 in flight, 2 interrupted, 10 completed", "1 dropped", "MiB", "UTC", "none seen"]
    {
        assert!(text.contains(what), "{what}: {text}");
    }
    assert!(text.contains("by its only opening"), "{text}");
    assert!(!text.contains('\u{1b}'), "colours without a terminal");
    let coloured = run(&["info", path(dir.path()), "--color", "always"]).ok();
    assert!(coloured.contains('\u{1b}'));
}

#[test]
fn lists_are_filtered() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let store = path(dir.path());
    let list = |more: &[&str]| run(&[&["list", store, "--json"], more].concat()).lines();
    assert_eq!(list(&[]).len(), 12);
    assert_eq!(keys(&list(&["--state", "interrupted"])), ["held", "stuck"]);
    assert_eq!(list(&["--state", "completed"]).len(), 10);
    assert_eq!(list(&["--state", "in-flight"]).len(), 0);
    assert_eq!(list(&["--scope", SCOPE]).len(), 12);
    assert_eq!(list(&["--scope", "tenant-8/orders"]).len(), 0);
    assert_eq!(list(&["--scope", "-"]).len(), 0);
    assert_eq!(keys(&list(&["--prefix", "order-3"])), ["order-3"]);
    assert_eq!(list(&["--older-than", "1h"]).len(), 0);
    assert_eq!(list(&["--older-than", "0s"]).len(), 12);
    let text = run(&["list", store]).ok();
    assert_eq!(text.lines().count(), 13, "{text}");
    assert!(text.contains("STATE") && text.contains(&format!("{SCOPE} order-3")), "{text}");
    let none = run(&["list", store, "--prefix", "nothing"]).ok();
    assert!(none.contains("no keys"), "{none}");
    run(&["list", store, "--older-than", "soon"]).misused();
}

/// What is free, and what of it is promised; never less than nothing.
#[test]
fn info_of_a_store_that_becomes_full() {
    let dir = tempfile::tempdir().unwrap();
    let capacity = 2 << 20;
    let store = options().capacity(capacity).open(dir.path()).unwrap();
    let info = || run(&["info", path(dir.path()), "--json"]).json();
    let space = |info: &serde_json::Value| {
        ["space_free", "space_promised"].map(|name| info[name].as_u64().expect("not negative"))
    };
    let mut held = vec![claim(&store, "order-0")];
    let [free, promised] = space(&info());
    assert!(promised > 8192 && promised < 10_000 && free > promised, "{free} {promised}");
    assert!(!run(&["info", path(dir.path())]).ok().contains("another segment"));
    let scope = scope();
    loop {
        let name = format!("order-{}", held.len());
        match store.begin(onlyonce::KeyRef::new(&scope, &name).unwrap(), print()) {
            Ok(onlyonce::Begin::Execute(claim)) => held.push(claim),
            Ok(other) => panic!("{other:?}"),
            Err(error) => {
                let full = onlyonce::Full::Claims;
                assert_eq!(error, onlyonce::BeginError::StoreFull(full));
                break;
            }
        }
    }
    let text = run(&["info", path(dir.path())]).ok();
    assert!(text.contains("all used: new keys are refused"), "{text}");
    assert!(text.contains(&format!("{SCOPE}: {} undecided keys", held.len())), "{text}");
    assert_eq!(space(&info())[1], held.len() as u64 * promised);
    // With answers as large as they may be, the segments are used up.
    held.iter_mut().for_each(|claim| claim.complete(&[7; 8192]).unwrap());
    drop(held);
    let mut done = 0;
    loop {
        let name = format!("more-{done}");
        match store.begin(onlyonce::KeyRef::new(&scope, &name).unwrap(), print()) {
            Ok(onlyonce::Begin::Execute(mut claim)) => claim.complete(&[7; 8192]).unwrap(),
            Ok(other) => panic!("{other:?}"),
            Err(error) => {
                assert_eq!(error, onlyonce::BeginError::StoreFull(onlyonce::Full::Space));
                break;
            }
        }
        done += 1;
    }
    let text = run(&["info", path(dir.path())]).ok();
    assert!(text.contains("another key needs another segment") && text.contains("--url"), "{text}");
    let stats = store.stats();
    assert!(stats.full.is_some_and(|why| why.contains("capacity of 2097152 bytes")));
    store.close().unwrap();
    let [free, promised] = space(&info());
    assert!(free < 10_000 && promised == 0, "{free} {promised}");
}

#[test]
fn a_key_in_each_state() {
    let dir = tempfile::tempdir().unwrap();
    let (store, held) = fill(dir.path());
    let get =
        |key: &str, more: &[&str]| run(&[&["get", path(dir.path()), SCOPE, key], more].concat());
    let text = get("order-3", &[]).ok();
    for what in ["completed", "attempts    1", "response", "order 3"] {
        assert!(text.contains(what), "{what}: {text}");
    }
    let json = get("order-3", &["--json"]).json();
    assert_eq!(json["response"], String::from_utf8(response(3)).unwrap());
    assert_eq!((&json["state"], &json["scope"]), (&"completed".into(), &SCOPE.into()));
    assert_eq!(get("order-3", &["--raw"]).bytes, response(3));
    if cfg!(target_os = "linux") {
        assert_eq!(get("held", &["--json"]).json()["state"], "in-flight");
    }
    store.close().unwrap();
    drop(held);
    let json = get("stuck", &["--json"]).json();
    assert_eq!((&json["state"], &json["reason"]), (&"interrupted".into(), &"dropped".into()));
    assert_eq!(json["checkpoint"], "charged ch_1");
    let text = get("stuck", &[]).ok();
    assert!(text.contains("the claim was dropped undecided") && text.contains("charged ch_1"));
    assert_eq!(get("held", &["--json"]).json()["reason"], "crashed");
    get("held", &["--raw"]).fails(8, "no answer of it is kept");
    get("never", &[]).fails(8, "no key never");
    get("", &[]).fails(2, "key");
}

#[test]
fn names_that_are_no_text() {
    use onlyonce::{Begin, KeyRef, Scope};
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path()).unwrap();
    let scope = Scope::new([0, 1, 255]).unwrap();
    let key = KeyRef::new(&scope, &[7u8, 0][..]).unwrap();
    match store.begin(key, print()).unwrap() {
        Begin::Execute(mut claim) => claim.complete(&[0xff, 0, 1]).unwrap(),
        other => panic!("{other:?}"),
    }
    store.close().unwrap();
    let listed = run(&["list", path(dir.path()), "--json"]).lines();
    let (scope, key) = (listed[0]["scope"].as_str().unwrap(), listed[0]["key"].as_str().unwrap());
    assert_eq!((scope, key), ("hex:0001ff", "hex:0700"));
    let json = run(&["get", path(dir.path()), scope, key, "--json"]).json();
    assert_eq!(json["response_base64"], "/wAB");
    assert!(run(&["get", path(dir.path()), scope, key]).ok().contains("not text"));
    assert_eq!(run(&["get", path(dir.path()), scope, key, "--raw"]).bytes, [0xff, 0, 1]);
}

/// Whoever stops reading is no error.
#[test]
fn a_reader_that_goes_away() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().durability(onlyonce::Durability::Buffered {
        max_delay: std::time::Duration::from_secs(1),
    });
    let store = store.open(dir.path()).unwrap();
    (0..3000).for_each(|n| claim(&store, &format!("order-{n}")).complete(&response(n)).unwrap());
    store.close().unwrap();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_onlyonce"))
        .args(["export", path(dir.path())])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let done = child.wait_with_output().unwrap();
    assert_eq!((done.status.code(), &done.stderr[..]), (Some(0), &b""[..]));
}

/// A store of a machine whose clock stood at 1970.
fn without_a_clock(dir: &std::path::Path) {
    let clock = onlyonce::ManualClock::at(3_600_000);
    let store = options().clock(clock).open(dir).unwrap();
    let scope = scope();
    let key = onlyonce::KeyRef::new(&scope, "k").unwrap();
    match store.begin(key, print()).unwrap() {
        onlyonce::Begin::Execute(mut claim) => claim.complete(b"order 1").unwrap(),
        other => panic!("{other:?}"),
    }
    match store.begin(onlyonce::KeyRef::new(&scope, "stuck").unwrap(), print()).unwrap() {
        onlyonce::Begin::Execute(claim) => drop(claim),
        other => panic!("{other:?}"),
    }
    store.close().unwrap();
}

#[test]
fn a_clock_that_the_service_holds_is_accepted_only_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let (store, other) = (dir.path().join("store"), dir.path().join("other"));
    without_a_clock(&store);
    let held = || run(&["info", path(&store), "--json"]).json()["clock_held"].clone();
    assert_eq!(held(), true);
    // What the store still has is exported, so that it is imported with what is left of it.
    let lines = run(&["export", path(&store)]).ok();
    assert_eq!(lines.lines().count(), 2);
    let counts = run_with(&["import", path(&other), "--create", "--json"], &lines).json();
    assert_eq!((&counts["imported"], &counts["expired"]), (&2.into(), &0.into()));
    // Another verb changes nothing about the clock.
    run(&["resolve", path(&store), SCOPE, "stuck", "free"]).ok();
    assert_eq!(held(), true);
    run(&["accept-clock", path(&store)]).misused();
    run(&["accept-clock", path(&store), "--keep-windows", "--expire"]).misused();
    let times = run(&["accept-clock", path(&store), "--keep-windows", "--json"]).json();
    assert!(times["was_ms"].as_u64().unwrap() < 4_000_000);
    assert!(times["now_ms"].as_u64().unwrap() > 1_700_000_000_000);
    assert_eq!(held(), false);
    assert_eq!(run(&["list", path(&store), "--json"]).lines().len(), 1);
}

#[test]
fn a_clock_that_is_accepted_as_it_is_ends_what_would_have_ended() {
    let dir = tempfile::tempdir().unwrap();
    without_a_clock(dir.path());
    run(&["accept-clock", path(dir.path()), "--expire"]).ok();
    assert_eq!(run(&["info", path(dir.path()), "--json"]).json()["clock_held"], false);
    assert!(!run(&["export", path(dir.path())]).ok().contains("completed_at"));
}

#[test]
fn columns_are_aligned() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path()).unwrap();
    for (scope, key) in [("a", "a-long-key"), ("a-longer-scope", "k"), (&"x".repeat(200), "far")] {
        let scope = onlyonce::Scope::of([scope]);
        drop(store.begin(onlyonce::KeyRef::new(&scope, key).unwrap(), print()).unwrap());
    }
    store.close().unwrap();
    let text = run(&["list", path(dir.path())]).ok();
    let lines: Vec<_> = text.lines().collect();
    let at = lines[0].find("KEY").unwrap();
    let columns: Vec<_> = ["a-long-key", "k  "]
        .map(|key| lines.iter().find_map(|line| line.rfind(&format!(" {key}")).map(|at| at + 1)))
        .to_vec();
    assert_eq!(columns, [Some(at), Some(at)], "{text}");
    let whys: std::collections::BTreeSet<_> =
        lines[1..].iter().filter(|l| !l.contains("far")).map(|line| line.find("  (")).collect();
    assert_eq!(whys.len(), 1, "{text}");
}

/// A terminal may take U+009B for the beginning of a sequence.
#[test]
fn json_rules_no_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path()).unwrap();
    let evil = "\u{9b}31m\u{202e}red";
    claim(&store, "k").complete(evil.as_bytes()).unwrap();
    store.close().unwrap();
    for args in [&["list", path(dir.path()), "--json"][..], &["export", path(dir.path())]] {
        let ran = run(args);
        assert!(!ran.out.contains(['\u{9b}', '\u{202e}']), "{}", ran.out);
        assert_eq!(ran.lines()[0]["response"], evil);
    }
}

#[test]
fn help_can_be_copied_into_a_shell() {
    let words = ["info", "list", "get", "resolve", "resolve-many", "verify", "backup", "restore"];
    let more = ["salvage", "export", "import", "accept-clock", "bench", "completions"];
    for word in words.iter().chain(&more) {
        let text = run(&[word, "--help"]).ok();
        assert!(!text.contains('\\'), "{text}");
    }
    assert!(!run(&["--help"]).ok().contains('\\'));
}
