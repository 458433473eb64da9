//! `export` writes what `import` reads, and `import` reads a simple form for those who come from
//! elsewhere.

use crate::command::*;
use onlyonce::{Begin, KeyRef, ResolveOptions};

fn import(dir: &std::path::Path, lines: &str) -> Outcome {
    run_with(&["import", path(dir), "--create", "--json"], lines)
}

#[test]
fn what_is_exported_is_imported() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    filled(&from);
    let lines = run(&["export", path(&from)]).ok();
    let counts = import(&to, &lines).json();
    assert_eq!((&counts["imported"], &counts["known"]), (&12.into(), &0.into()));
    // Once more does no harm.
    let counts = import(&to, &lines).json();
    assert_eq!((&counts["imported"], &counts["known"]), (&0.into(), &12.into()));
    let store = options().open(&to).unwrap();
    let scope = scope();
    for n in 0..10 {
        let name = format!("order-{n}");
        match store.begin(KeyRef::new(&scope, &name).unwrap(), print()).unwrap() {
            Begin::Replay(record) => assert_eq!(record.response(), Some(&response(n)[..])),
            other => panic!("{other:?}"),
        }
    }
    match store.begin(KeyRef::new(&scope, "stuck").unwrap(), print()).unwrap() {
        Begin::Interrupted(stuck) => assert_eq!(stuck.checkpoint(), Some(&b"charged ch_1"[..])),
        other => panic!("{other:?}"),
    }
    // The end of a record's time is where it was.
    let expires = |dir| {
        let json = run(&["get", path(dir), SCOPE, "order-1", "--json"]).json();
        json["expires_at"].as_u64().unwrap()
    };
    assert!(expires(&from).abs_diff(expires(&to)) < 60_000);
}

#[test]
fn the_simple_form() {
    let dir = tempfile::tempdir().unwrap();
    let lines = r#"
{"scope": ["tenant-7", "orders"], "key": "a", "request": ["POST", "/orders"], "response": "1"}
{"scope": "tenant-7/orders", "key": "b", "fingerprint": "FINGERPRINT", "response_base64": "/wA=", "expires_in": 3600}
{"scope": "tenant-7/orders", "key": "c", "request": ["POST", "/orders"], "response": "gone", "expires_at": 1000}
{"scope": "tenant-7/orders", "key": "d", "request": ["POST", "/orders"], "retained": false, "head": "201"}
"#;
    let hex: String = print().as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let counts = import(dir.path(), &lines.replace("FINGERPRINT", &hex)).json();
    assert_eq!((&counts["imported"], &counts["expired"]), (&3.into(), &1.into()));
    let store = options().open(dir.path()).unwrap();
    let scope = scope();
    let ask = |name: &str| store.begin(KeyRef::new(&scope, name).unwrap(), print()).unwrap();
    let replay = |name: &str| match ask(name) {
        Begin::Replay(record) => record,
        other => panic!("{other:?}"),
    };
    assert_eq!(replay("a").response(), Some(&b"1"[..]));
    assert_eq!(replay("b").response(), Some(&[0xff, 0][..]));
    assert_eq!((replay("d").response(), replay("d").head()), (None, &b"201"[..]));
    match ask("c") {
        Begin::Execute(claim) => claim.release().unwrap(),
        other => panic!("it had expired: {other:?}"),
    }
}

#[test]
fn bad_lines_are_named_and_what_came_before_stays() {
    let dir = tempfile::tempdir().unwrap();
    let good = r#"{"scope":"a","key":"k","request":["x"],"response":"1"}"#;
    for (bad, why) in [
        ("nonsense", "JSON"),
        (r#"{"key":"k"}"#, "scope"),
        (r#"{"scope":"a","key":"k"}"#, "fingerprint"),
        (r#"{"scope":"a","key":"","request":["x"],"response":""}"#, "empty"),
    ] {
        let ran = run_with(&["import", path(dir.path()), "--create"], &format!("{good}\n{bad}\n"));
        let line = ran.fails(2, why);
        assert!(line.contains("line 2"), "{line}");
    }
    assert_eq!(run(&["get", path(dir.path()), "a", "k", "--raw"]).bytes, b"1");
    run(&["import", path(dir.path()), "nowhere.jsonl"]).fails(1, "nowhere.jsonl");
}

/// An imported completion ends an interrupted key, and never changes a completed one.
#[test]
fn keys_that_are_there_already() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let line = |key: &str| {
        format!(
            "{{\"scope\":\"{SCOPE}\",\"key\":\"{key}\",\"request\":[\"POST\",\"/orders\"],\
             \"response\":\"imported\"}}\n"
        )
    };
    let counts = import(dir.path(), &format!("{}{}", line("stuck"), line("order-1"))).json();
    assert_eq!((&counts["imported"], &counts["known"]), (&1.into(), &1.into()));
    assert_eq!(run(&["get", path(dir.path()), SCOPE, "stuck", "--raw"]).bytes, b"imported");
    assert_eq!(run(&["get", path(dir.path()), SCOPE, "order-1", "--raw"]).bytes, response(1));
}

#[test]
fn a_store_is_compacted_and_has_other_sizes() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    // Most of it has expired.
    let brief = std::time::Duration::from_millis(1);
    let store = options().lease(brief).retention(brief).open(&old).unwrap();
    (0..1000).for_each(|n| claim(&store, &format!("gone-{n}")).complete(&[7; 8000]).unwrap());
    store.close().unwrap();
    let (store, _held) = fill(&old);
    let (scope, forget) = (scope(), onlyonce::Resolution::Forget);
    store
        .resolve_with(KeyRef::new(&scope, "order-9").unwrap(), forget, ResolveOptions::forced())
        .unwrap();
    store.close().unwrap();
    let get =
        |dir: &std::path::Path, key: &str| run(&["get", path(dir), SCOPE, key, "--json"]).json();
    let before = ["order-1", "stuck"].map(|key| get(&old, key));
    let compact = |more: &[&str]| run(&[&["compact", path(&old), path(&new)], more].concat());
    compact(&["--ring", "many"]).misused();
    let json = compact(&["--max-claims", "5000", "--ring", "1MiB", "--json"]).json();
    assert_eq!((&json["keys"], &json["decisions"]), (&11.into(), &1.into()), "{json}");
    assert!(json["bytes"].as_u64() < json["bytes_before"].as_u64(), "{json}");
    let info = run(&["info", path(&new), "--json"]).json();
    assert!(info["claims_max"].as_u64() >= Some(5000) && info["ring_bytes"] == 1 << 20, "{info}");
    for (before, key) in before.iter().zip(["order-1", "stuck"]) {
        let after = get(&new, key);
        for same in ["fingerprint", "attempts", "response", "checkpoint", "remember_for_ms"] {
            assert_eq!(after[same], before[same], "{key}: {same}");
        }
        assert!(after["token"].as_u64() > before["token"].as_u64(), "{key}");
    }
    let [old_end, new_end] =
        [&old, &new].map(|dir| get(dir, "order-1")["expires_at"].as_u64().unwrap());
    assert!(old_end.abs_diff(new_end) < 60_000, "{old_end} {new_end}");
    assert_eq!(run(&["decisions", path(&new), "--json"]).lines()[0]["key"], "order-9");
    run(&["verify", path(&new)]).ok();
    compact(&[]).fails(9, "is not empty");
    // Smaller, as far as its keys allow.
    let newer = dir.path().join("newer");
    run(&["compact", path(&new), path(&newer), "--max-claims", "14"]).ok();
    let info = run(&["info", path(&newer), "--json"]).json();
    assert!(info["claims_max"].as_u64() < Some(100), "{info}");
    assert_eq!(run(&["list", path(&newer), "--json"]).lines().len(), 11);
}

/// The bytes of all files of a directory.
fn all_bytes(dir: &std::path::Path) -> Vec<u8> {
    let files = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    files.flat_map(|file| std::fs::read(file).unwrap()).collect()
}

fn has(bytes: &[u8], what: &str) -> bool {
    bytes.windows(what.len()).any(|window| window == what.as_bytes())
}

/// Nothing of a customer's is in the new store, nor in a backup of it.
#[test]
fn one_customer_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let [old, new, copy] = ["old", "new", "copy"].map(|name| dir.path().join(name));
    let (store, _held) = fill(&old);
    let customer = onlyonce::Scope::of(["customer-4711", "orders"]);
    let key = |name| KeyRef::new(&customer, name).unwrap();
    for name in ["secret-key-1", "secret-key-2", "secret-key-3"] {
        let Begin::Execute(mut claim) = store.begin(key(name), print()).unwrap() else { panic!() };
        claim.save_checkpoint(b"secret checkpoint").unwrap();
        match name {
            "secret-key-1" => claim.complete(b"secret answer").unwrap(),
            "secret-key-2" => claim.fail(b"secret failure").unwrap(),
            _ => {}
        }
    }
    store
        .resolve_with(key("secret-key-1"), onlyonce::Resolution::Forget, ResolveOptions::forced())
        .unwrap();
    store.close().unwrap();
    let secrets = ["customer-4711", "secret-key-", "secret checkpoint", "secret "];
    let before = all_bytes(&old);
    assert!(secrets.iter().all(|secret| has(&before, secret)));
    let compact = ["compact", path(&old), path(&new), "--without-scope", "customer-4711/orders"];
    let json = run(&[&compact[..], &["--json"]].concat()).json();
    assert_eq!((&json["keys"], &json["decisions"]), (&12.into(), &0.into()), "{json}");
    run(&["backup", path(&new), path(&copy)]).ok();
    for dir in [&new, &copy] {
        let bytes = all_bytes(dir);
        assert!(secrets.iter().all(|secret| !has(&bytes, secret)), "{}", dir.display());
        assert!(has(&bytes, "order-1"));
    }
}
