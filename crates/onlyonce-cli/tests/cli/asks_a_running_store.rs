//! `--url`: the command asks the admin service of a running store instead of reading its
//! directory, and decides there too.

use crate::admin_client::serve;
use crate::command::*;
use onlyonce::{Begin, Claim, KeyRef, Store, admin::Admin};

struct Running {
    store: Store,
    held: Option<Claim>,
    url: String,
    _dir: tempfile::TempDir,
}

impl Running {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (store, held) = fill(dir.path());
        let url = format!("http://{}/", serve(Admin::new(&store)));
        Running { store, held: Some(held), url, _dir: dir }
    }

    fn run(&self, args: &[&str]) -> Outcome {
        run(&[args, &["--url", &self.url]].concat())
    }

    fn ask(&self, key: &str) -> Begin {
        let scope = scope();
        self.store.begin(KeyRef::new(&scope, key).unwrap(), print()).unwrap()
    }
}

fn keys(lines: &[serde_json::Value]) -> Vec<&str> {
    let mut keys: Vec<_> = lines.iter().map(|line| line["key"].as_str().unwrap()).collect();
    keys.sort_unstable();
    keys
}

#[test]
fn lists_and_keys() {
    let running = Running::new();
    let list = |more: &[&str]| running.run(&[&["list", "--json"], more].concat()).lines();
    assert_eq!(list(&[]).len(), 12);
    // Unlike its directory, the service knows what has become of the claims of this life.
    assert_eq!(keys(&list(&["--state", "interrupted"])), ["stuck"]);
    assert_eq!(keys(&list(&["--state", "in-flight"])), ["held"]);
    assert_eq!(list(&["--state", "completed", "--scope", SCOPE]).len(), 10);
    assert_eq!(list(&["--scope", "tenant-8/orders"]).len(), 0);
    assert_eq!(keys(&list(&["--prefix", "order-3"])), ["order-3"]);
    assert_eq!(list(&["--older-than", "1h"]).len(), 0);
    let text = running.run(&["list"]).ok();
    assert!(text.contains(&format!("{SCOPE} order-3")) && text.contains("STATE"), "{text}");
    assert!(text.contains("the claim was dropped undecided"), "{text}");
    let text = running.run(&["get", SCOPE, "stuck"]).ok();
    assert!(text.contains("interrupted") && text.contains("charged ch_1"), "{text}");
    let text = running.run(&["get", SCOPE, "order-3"]).ok();
    assert!(text.contains("completed") && text.contains("order 3"), "{text}");
    let json = running.run(&["get", SCOPE, "order-3", "--json"]).json();
    assert_eq!((&json["state"], &json["scope"]), (&"completed".into(), &SCOPE.into()));
    running.run(&["get", SCOPE, "never"]).fails(8, "list");
    let text = running.run(&["info"]).ok();
    assert!(text.contains("nothing is wrong"), "{text}");
    assert!(running.run(&["info", "--json"]).json()["counts"].is_object());
    // Before or after, and joined.
    let url = format!("--url={}", running.url);
    run(&[&url, "get", SCOPE, "order-3"]).ok();
}

#[test]
fn names_that_are_no_text() {
    let running = Running::new();
    let scope = onlyonce::Scope::new([0, b'\\', 255]).unwrap();
    let key = KeyRef::new(&scope, &[7u8, b' ', b'+', b'%'][..]).unwrap();
    drop(running.store.begin(key, print()).unwrap());
    let listed = running.run(&["list", "--json", "--scope", "hex:005cff"]).lines();
    assert_eq!(keys(&listed), ["hex:07202b25"]);
    let json = running.run(&["get", "hex:005cff", "hex:07202b25", "--json"]).json();
    assert_eq!(json["state"], "interrupted");
}

#[test]
fn decisions() {
    let mut running = Running::new();
    let resolve = |key: &str, how: &[&str]| running.run(&[&["resolve", SCOPE, key], how].concat());
    resolve("stuck", &["complete", "--response", "by hand \\ \u{e4}"]).ok();
    match running.ask("stuck") {
        Begin::Replay(record) => {
            assert_eq!(record.response(), Some("by hand \\ \u{e4}".as_bytes()));
        }
        other => panic!("{other:?}"),
    }
    resolve("stuck", &["free"]).fails(9, "look at the key again");
    resolve("order-1", &["forget"]).fails(9, "--force");
    resolve("order-1", &["forget", "--force"]).ok();
    assert!(matches!(running.ask("order-1"), Begin::Execute(_)));
    // A living holder is fenced only when that is said.
    resolve("held", &["free"]).fails(9, "--force");
    resolve("held", &["free", "--force"]).ok();
    resolve("never", &["free"]).fails(8, "no key never");
    let held = running.held.take().unwrap().complete(b"late").unwrap_err();
    assert_eq!(held, onlyonce::ClaimError::Fenced);
}

#[test]
fn a_decision_is_about_the_attempt_that_was_seen() {
    let running = Running::new();
    let token = || running.run(&["get", SCOPE, "stuck", "--json"]).json()["token"].to_string();
    let seen = token();
    let Begin::Interrupted(stuck) = running.ask("stuck") else { panic!("not interrupted") };
    drop(stuck.take_over().unwrap());
    let free = |seen: &str| running.run(&["resolve", SCOPE, "stuck", "free", "--seen", seen]);
    let line = free(&seen).fails(9, "another attempt has been made since");
    assert!(!line.contains("--force"), "{line}");
    free(&token()).ok();
    free(&seen).fails(8, "no key stuck");
    // Only where it helps, force is spoken of.
    let complete = ["resolve", SCOPE, "order-1", "complete", "--response", "x"];
    let line = running.run(&complete).fails(9, "already completed");
    assert!(!line.contains("--force"), "{line}");
    let complete = [&complete[..], &["--force"]].concat();
    assert!(!running.run(&complete).fails(9, "already completed").contains("--force"));
}

#[test]
fn decisions_are_kept_by_the_service() {
    let running = Running::new();
    let by = ["--as", "kim", "--note", "INC-7"];
    running.run(&[&["resolve", SCOPE, "stuck", "free"], &by[..]].concat()).ok();
    let text = running.run(&["decisions"]).ok();
    assert!(text.contains("by kim") && text.contains("INC-7") && text.contains("stuck"), "{text}");
    assert_eq!(running.run(&["decisions", "--json"]).lines()[0]["actor"], "kim");
    assert_eq!(running.store.decisions().unwrap()[0].note, "INC-7");
}

/// Its lease has passed, but its handle exists: it may still have its effect.
#[test]
fn a_silent_holder_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let clock = onlyonce::ManualClock::at(1_700_000_000_000);
    let store = options().clock(clock.clone()).open(dir.path()).unwrap();
    let mut held = claim(&store, "silent");
    clock.advance(std::time::Duration::from_secs(3600));
    let url = format!("http://{}/", serve(Admin::new(&store)));
    let one = |how: &[&str]| run(&[&["resolve", "--url", &url, SCOPE, "silent"], how].concat());
    one(&["free"]).fails(9, "may be working on it; add --force");
    let many = ["resolve-many", "--url", &url, "--state", "interrupted", "free", "--yes"];
    let said = run(&many);
    assert!(said.code == 9 && said.out.contains("may be working on it"), "{said:?}");
    one(&["free", "--force"]).ok();
    assert_eq!(held.complete(b"late").unwrap_err(), onlyonce::ClaimError::Fenced);
}

#[test]
fn an_answer_for_the_http_layer() {
    use onlyonce::http::StoredAnswer;
    let running = Running::new();
    let how = ["complete", "--status", "201", "--header", "Location: /orders/1", "--response", "1"];
    // Its fingerprint has scheme 0.
    let how = [&how[..], &["--layer", "http"]].concat();
    running.run(&[&["resolve", SCOPE, "stuck"], &how[..]].concat()).ok();
    let Begin::Replay(record) = running.ask("stuck") else { panic!("no record") };
    let stored = StoredAnswer::read(record.response().unwrap());
    assert!(matches!(stored, Some(StoredAnswer::Open { status, .. }) if status == 201));
    let text = running.run(&["get", SCOPE, "stuck"]).ok();
    assert!(text.contains("HTTP 201") && text.contains("location: /orders/1"), "{text}");
}

#[test]
fn what_cannot_be_asked() {
    let running = Running::new();
    // It is offered only where it works.
    running.run(&["verify", "x"]).misused();
    assert!(!run(&["verify", "--help"]).ok().contains("--url"));
    assert!(run(&["resolve", "--help"]).ok().contains("--url"));
    running.run(&["get", SCOPE, "order-1", "--raw"]).fails(2, "needs the store's directory");
    run(&["list", "--url", "127.0.0.1:1"]).fails(2, "write it as http");
    run(&["list", "--url", "http://127.0.0.1:1/"]).fails(1, "is the service running");
    let elsewhere = format!("{}no/such/place", running.url);
    run(&["list", "--url", &elsewhere]).fails(1, "");
    run(&["list", "--url", &running.url, "--url-header", "nonsense"]).fails(2, "Name: value");
    let read_only = format!("http://{}", serve(Admin::new(&running.store).read_only(true)));
    let args = ["resolve", SCOPE, "stuck", "free", "--url", &read_only];
    let ran = run(&args);
    assert_eq!(ran.code, 9, "{ran:?}");
    running.store.clone().close().unwrap();
    running.run(&["list"]).fails(1, "");
}

/// Nothing is printed of an answer that isn't one.
#[test]
fn a_refused_list_has_no_header() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let service = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
        let head = "HTTP/1.1 401 Unauthorized\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
    });
    let listed = run(&["list", "--url", &url]);
    service.join().unwrap();
    assert_eq!(listed.out, "");
    listed.fails(9, "ONLYONCE_AUTHORIZATION");
}

/// Of more decisions than the service shows at a time all are listed.
#[test]
fn decisions_are_listed_page_by_page() {
    let running = Running::new();
    let scope = scope();
    let names: Vec<_> = (0..1100).map(|n| format!("free-{n}")).collect();
    for name in &names {
        let key = KeyRef::new(&scope, name).unwrap();
        drop(running.store.begin(key, print()).unwrap());
        running.store.resolve(key, onlyonce::Resolution::Free).unwrap();
    }
    let listed = running.run(&["decisions", "--json", "--prefix", "free-"]).lines();
    let listed: Vec<_> = listed.iter().map(|line| line["key"].as_str().unwrap()).collect();
    assert_eq!(listed, names);
}

/// A scope is counted, and erased while the store runs; and in its directory afterwards.
#[test]
fn a_scope_is_erased() {
    let Running { store, held, url, _dir } = Running::new();
    let erase = |more: &[&str]| {
        run(&[&["erase", "--scope", SCOPE, "--json", "--url", &url], more].concat())
    };
    let count = erase(&[]).json();
    assert_eq!((&count["erased"], &count["keys"]), (&false.into(), &12.into()));
    let refused = erase(&["--yes"]);
    let told: serde_json::Value = serde_json::from_str(&refused.out).unwrap();
    assert_eq!(told["held"], 1);
    assert_eq!(refused.code, 9);
    assert!(refused.err.contains("--force"), "{}", refused.err);
    assert_eq!(erase(&["--yes", "--force"]).lines()[0]["held"], 0);
    assert_eq!(store.entries(onlyonce::Filter::ALL).count(), 0);
    drop(held);
    let scope = scope();
    let key = KeyRef::new(&scope, "again").unwrap();
    drop(store.begin(key, print()).unwrap());
    store.close().unwrap();
    let place = _dir.path().to_str().unwrap();
    let count = run(&["erase", place, "--scope", SCOPE]).ok();
    assert!(count.contains("1 key"), "{count}");
    let erased = run(&["erase", place, "--scope", SCOPE, "--yes"]).ok();
    assert!(erased.contains("erased 1 key"), "{erased}");
    for file in std::fs::read_dir(_dir.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(5).any(|window| window == b"again"));
    }
}
