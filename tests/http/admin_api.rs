//! The admin service's API, through a real socket.

use crate::admin_client::*;
use crate::common::*;
use onlyonce::{admin::Admin, *};
use serde_json::json;
use std::net::SocketAddr;

/// A store that has seen something of everything.
fn busy() -> (Store, ManualClock, Claim) {
    let (store, clock) = threaded();
    store.finish("done", b"the answer");
    let mut failed = store.claim("failed");
    failed.save_checkpoint(b"charge created: ch_1").unwrap();
    failed.fail(b"502 from the provider").unwrap();
    drop(failed);
    clock.advance(HOUR);
    drop(store.claim("dropped"));
    clock.advance(MINUTE);
    let held = store.claim("held");
    clock.advance(SECOND);
    (store, clock, held)
}

fn started() -> (Store, ManualClock, Claim, SocketAddr) {
    let (store, clock, held) = busy();
    let address = serve(Admin::new(&store));
    (store, clock, held, address)
}

/// The scope of the tests' keys, in JSON and in a query.
const SCOPE: &str = "tenant/orders";
const QUERY_SCOPE: &str = "tenant%2Forders";

fn names(answer: &Answer) -> Vec<String> {
    let value = answer.json();
    let keys = value["keys"].as_array().unwrap();
    keys.iter().map(|key| key["key"].as_str().unwrap().to_owned()).collect()
}

fn token(address: SocketAddr, key: &str) -> u64 {
    let found = get(address, &format!("/api/key?scope={QUERY_SCOPE}&key={key}"));
    found.json()["token"].as_u64().unwrap()
}

#[test]
fn keys_are_listed_by_state_and_age() {
    let (_store, _clock, _held, address) = started();
    assert_eq!(names(&get(address, "/api/keys")), ["failed", "dropped", "held"]);
    assert_eq!(names(&get(address, "/api/keys?state=interrupted")), ["failed", "dropped"]);
    assert_eq!(names(&get(address, "/api/keys?state=in_flight")), ["held"]);
    assert_eq!(names(&get(address, "/api/keys?state=completed")), ["done"]);
    assert_eq!(names(&get(address, "/api/keys?prefix=d")), ["dropped"]);
    assert_eq!(names(&get(address, "/api/keys?older_than_ms=3600000")), ["failed"]);
    assert_eq!(names(&get(address, &format!("/api/keys?scope={QUERY_SCOPE}"))).len(), 3);
    assert!(names(&get(address, "/api/keys?scope=another")).is_empty());
    let first = get(address, "/api/keys?limit=1").json();
    assert_eq!((first["total"].as_u64(), first["keys"].as_array().unwrap().len()), (Some(3), 1));
    let failed = &first["keys"][0];
    assert_eq!(failed["scope"], SCOPE);
    assert_eq!(failed["reason"], "the holder failed, outcome unknown");
    assert_eq!((&failed["attempts"], &failed["holder_gone"]), (&json!(1), &json!(true)));
    assert_eq!(get(address, "/api/keys?state=lost").status, 400);
    assert_eq!(get(address, "/api/keys?prefix=hex:0").status, 400);
}

/// A key that was taken over shows how the attempt before has ended.
#[test]
fn the_attempt_before_is_shown() {
    let (store, _) = threaded();
    let mut failed = store.claim("k");
    failed.fail(b"504").unwrap();
    drop(failed);
    let address = serve(Admin::new(&store));
    let look = || get(address, &format!("/api/key?scope={QUERY_SCOPE}&key=k")).json();
    assert_eq!(look()["earlier"], json!(null));
    let Begin::Execute(taken) = store.stuck("k").take_over().unwrap() else { panic!("not taken") };
    for _ in 0..2 {
        let (now, earlier) = (look(), look()["earlier"].clone());
        assert_eq!((&now["state"], &now["attempts"]), (&json!("in_flight"), &json!(2)));
        assert_eq!((&earlier["attempt"], &earlier["answer"]["text"]), (&json!(1), &json!("504")));
        assert_eq!(earlier["reason"], "the holder failed, outcome unknown");
    }
    drop(taken);
    assert_eq!(look()["state"], "interrupted");
}

#[test]
fn completed_keys_are_listed_page_by_page_each_once() {
    let (store, _) = threaded();
    let mut all: Vec<_> = (0..300).map(|n| format!("key-{n}")).collect();
    all.iter().for_each(|name| store.finish(name, b"x"));
    let address = serve(Admin::new(&store));
    let (mut found, mut cursor, mut pages) = (Vec::new(), Some(0), 0);
    while let Some(at) = cursor {
        let page = get(address, &format!("/api/keys?state=completed&limit=50&cursor={at}"));
        found.extend(names(&page));
        cursor = page.json()["next"].as_u64();
        pages += 1;
    }
    found.sort();
    all.sort();
    assert_eq!(found, all);
    assert!((4..=7).contains(&pages), "{pages}");
}

#[test]
fn undecided_keys_are_listed_page_by_page_by_their_age() {
    let (store, clock) = threaded();
    let all: Vec<_> = (0..25).map(|n| format!("key-{n:02}")).collect();
    for (n, name) in all.iter().enumerate() {
        drop(store.claim(name));
        // Some have the same age.
        clock.advance(if n % 3 == 0 { SECOND } else { std::time::Duration::ZERO });
    }
    let address = serve(Admin::new(&store));
    let (mut found, mut cursor) = (Vec::new(), Some(0));
    while let Some(at) = cursor {
        let page = get(address, &format!("/api/keys?limit=10&cursor={at}"));
        assert_eq!(page.json()["total"], 25);
        found.extend(names(&page));
        cursor = page.json()["next"].as_u64();
    }
    assert_eq!(found, all);
    assert!(names(&get(address, "/api/keys?cursor=25")).is_empty());
    let beyond = get(address, &format!("/api/keys?cursor={}", u64::MAX)).json();
    assert_eq!((&beyond["total"], &beyond["next"]), (&json!(25), &json!(null)));
}

#[test]
fn a_key_is_looked_up_by_name_and_by_hash() {
    let (_store, _clock, _held, address) = started();
    let done = get(address, &format!("/api/key?scope={QUERY_SCOPE}&key=done")).json();
    assert_eq!(
        (&done["state"], &done["answer"]["text"]),
        (&json!("completed"), &json!("the answer"))
    );
    assert_eq!(done["completed_at_ms"], T0);
    let failed = get(address, &format!("/api/key?scope={QUERY_SCOPE}&key=failed")).json();
    assert_eq!(failed["checkpoint"], "charge created: ch_1");
    assert_eq!(failed["answer"]["text"], "502 from the provider");
    for key in [&done, &failed] {
        let hash = key["hash"].as_str().unwrap();
        assert_eq!(get(address, &format!("/api/key?hash={hash}")).json()["key"], key["key"]);
    }
    assert_eq!(get(address, "/api/key?scope=&key=unknown").status, 404);
    assert_eq!(get(address, "/api/key?hash=0123456789abcdef").status, 404);
    assert_eq!(get(address, "/api/key?hash=secret").status, 400);
    assert_eq!(get(address, "/api/key?scope=").status, 400);
}

#[test]
fn keys_are_bytes_and_come_back_as_they_were() {
    let (store, _) = threaded();
    let scope = Scope::new(b"\xff\0\\").unwrap();
    let name = [&b"<script>&\"'\n"[..], &[0x80, 0xe2, 0x80, 0xae]].concat();
    let key = KeyRef::new(&scope, &name).unwrap();
    drop(granted(store.begin(key, print()).unwrap()));
    let address = serve(Admin::new(&store));
    let listed = get(address, "/api/keys").json();
    let found = &listed["keys"][0];
    assert_eq!(found["scope"], "hex:ff005c");
    assert!(found["key"].as_str().unwrap().starts_with("hex:3c736372697074"));
    let shown = json!({
        "scope": "\\xff\\x00\\\\", "key": "<script>&\"'\\x0a\\x80\\xe2\\x80\\xae",
    });
    assert_eq!(found["shown"], shown);
    let body = json!({
        "scope": found["scope"], "key": found["key"], "token": found["token"],
        "decision": "complete", "answer": { "text": "raw \\x00\\xff" },
    });
    assert_eq!(post(address, "/api/resolve", &body).status, 200);
    let Begin::Replay(record) = store.begin(key, print()).unwrap() else { panic!() };
    assert_eq!(record.response(), Some(&b"raw \0\xff"[..]));
}

#[test]
fn an_operator_decides_about_what_he_has_seen() {
    let (store, _clock, mut held, address) = started();
    let body = |key: &str, token: u64, decision: &str, force: bool| {
        json!({
            "scope": SCOPE, "key": key, "token": token, "decision": decision, "force": force,
            "answer": { "text": "by hand" },
        })
    };
    let [failed, dropped, running] = ["failed", "dropped", "held"].map(|key| token(address, key));
    // Another attempt has begun since he looked.
    let stale = post(address, "/api/resolve", &body("failed", failed - 1, "free", false));
    assert_eq!(stale.status, 409);
    assert!(stale.error().contains("not what it was"), "{}", stale.error());
    assert_eq!(store.stuck("failed").reason(), Reason::Failed);

    assert_eq!(
        post(address, "/api/resolve", &body("failed", failed, "complete", false)).status,
        200
    );
    assert_eq!(store.answer("failed"), b"by hand");
    assert_eq!(post(address, "/api/resolve", &body("dropped", dropped, "free", false)).status, 200);
    assert!(store.is_absent("dropped"));

    let refused = post(address, "/api/resolve", &body("held", running, "free", false));
    assert_eq!((refused.status, &refused.json()["needs_force"]), (409, &json!(true)));
    assert_eq!(post(address, "/api/resolve", &body("held", running, "free", true)).status, 200);
    assert_eq!(held.complete(b"too late"), Err(ClaimError::Fenced));
    let stats = get(address, "/api/stats").json();
    assert_eq!(
        (&stats["alarms"][0]["what"], &stats["alarms"][0]["key"]),
        (&json!("fenced"), &json!("held"))
    );

    let done = token(address, "done");
    let refused = post(address, "/api/resolve", &body("done", done, "forget", false));
    assert_eq!((refused.status, &refused.json()["needs_force"]), (409, &json!(true)));
    assert_eq!(post(address, "/api/resolve", &body("done", done, "forget", true)).status, 200);
    assert!(store.is_absent("done"));
}

#[test]
fn what_is_no_decision_is_refused_and_changes_nothing() {
    let (store, _clock, _held, address) = started();
    let failed = token(address, "failed");
    let whole = json!({ "scope": SCOPE, "key": "failed", "token": failed, "decision": "free" });
    for (field, value) in [
        ("scope", json!(1)),
        ("key", json!("")),
        ("key", json!("hex:0")),
        ("token", json!(null)),
        ("token", json!("7")),
        ("decision", json!("ignore")),
        ("decision", json!("complete")),
        ("force", json!("yes")),
    ] {
        let mut body = whole.clone();
        body[field] = value;
        let refused = post(address, "/api/resolve", &body);
        assert_eq!(refused.status, 400, "{body}: {}", refused.body);
    }
    for body in ["", "[]", "{", "null"] {
        assert_eq!(request(address, "POST /api/resolve", &OWN, body).status, 400, "{body}");
    }
    let answer = json!({ "text": "x", "http": { "status": 99, "headers": [] } });
    let mut body = whole.clone();
    (body["decision"], body["answer"]) = (json!("complete"), answer);
    assert_eq!(post(address, "/api/resolve", &body).status, 400);
    body["answer"] = json!({ "text": "x".repeat(5000) });
    assert_eq!(post(address, "/api/resolve", &body).status, 413);
    body["answer"] = json!({ "text": "x".repeat(200_000) });
    assert_eq!(post(address, "/api/resolve", &body).status, 413);
    assert_eq!(store.stuck("failed").reason(), Reason::Failed);
    assert_eq!(get(address, "/api/resolve").status, 405);
    assert_eq!(post(address, "/api/keys", &whole).status, 405);
    assert_eq!(request(address, "DELETE /api/keys", &OWN, "").status, 405);
    assert_eq!(get(address, "/api/unknown").status, 404);
}

#[test]
fn requests_of_other_sites_change_nothing() {
    let (store, _clock, _held, address) = started();
    let body = json!({
        "scope": SCOPE, "key": "failed", "token": token(address, "failed"), "decision": "free",
    })
    .to_string();
    let own = format!("origin: http://{address}");
    for lines in [
        // A form.
        &["content-type: application/x-www-form-urlencoded"][..],
        &["content-type: text/plain"],
        &["content-type: text/plain", "x-onlyonce-admin: 1"],
        &["content-type: application/json"],
        &[OWN[0], OWN[1], "origin: https://evil.example"],
        &[OWN[0], OWN[1], "origin: null"],
        &[OWN[0], OWN[1], "sec-fetch-site: cross-site"],
        &[OWN[0], OWN[1], "sec-fetch-site: same-site", &own],
    ] {
        for path in ["/api/resolve", "/api/erase", "/api/drain"] {
            let refused = request(address, &format!("POST {path}"), lines, &body);
            assert!(matches!(refused.status, 403 | 415), "{lines:?}: {}", refused.status);
        }
    }
    assert_eq!(store.stuck("failed").reason(), Reason::Failed);
    let health = get(address, "/api/health");
    assert_eq!((health.status, &health.json()["ready"]), (200, &json!(true)));
    // No word that lets another site read or ask first.
    assert!(!health.head.contains("access-control"));
    let asked = request(address, "OPTIONS /api/resolve", &["origin: https://evil.example"], "");
    assert!(asked.status == 405 && !asked.head.contains("access-control"));
    let read = request(address, "GET /api/keys", &["sec-fetch-site: cross-site"], "");
    assert_eq!(read.status, 403);

    let lines = [OWN[0], OWN[1], "sec-fetch-site: same-origin", &own];
    assert_eq!(request(address, "POST /api/resolve", &lines, &body).status, 200);
    assert!(store.is_absent("failed"));
}

#[test]
fn a_read_only_service_changes_nothing() {
    let (store, _clock, _held) = busy();
    let address = serve(Admin::new(&store).read_only(true));
    let body = json!({
        "scope": SCOPE, "key": "failed", "token": token(address, "failed"), "decision": "free",
        "confirm": "drain",
    });
    for path in ["/api/resolve", "/api/erase", "/api/drain"] {
        let refused = post(address, path, &body);
        assert_eq!(refused.status, 403);
        assert!(refused.error().contains("reading only"));
    }
    assert_eq!(store.stuck("failed").reason(), Reason::Failed);
    assert_eq!(get(address, "/api/stats").json()["read_only"], true);
}

#[test]
fn figures_and_health_tell_what_is() {
    let (store, clock, held, address) = started();
    let stats = get(address, "/api/stats").json();
    assert_eq!((&stats["counts"]["granted"], &stats["now"]["interrupted"]), (&json!(4), &json!(2)));
    assert_eq!(stats["durability"], "Synced");
    assert_eq!(stats["health"], json!([]));
    // Timed since the service was made.
    assert_eq!(stats["times"]["begin"]["count"], 0);
    store.finish("timed", b"x");
    let begin = get(address, "/api/stats").json()["times"]["begin"].clone();
    assert_eq!((&begin["count"], begin["buckets"].as_array().unwrap().len()), (&json!(1), 1));
    assert_eq!(begin["p50"], begin["p999"]);

    for _ in 0..3 {
        let _ = store.begin(key("done"), other_print()).unwrap();
    }
    let stats = get(address, "/api/stats").json();
    assert_eq!(
        stats["mismatches"],
        json!([{ "scope": SCOPE, "shown": SCOPE, "count": 3, "at_most_too_many": 0 }])
    );

    let drained = post(address, "/api/drain", &json!({ "at_most_ms": 0 }));
    assert_eq!(drained.status, 400, "not without a confirmation");
    let drained = post(address, "/api/drain", &json!({ "confirm": "drain", "at_most_ms": 0 }));
    assert_eq!((drained.status, &drained.json()["left"]), (200, &json!(1)));
    let health = get(address, "/api/health");
    assert_eq!((health.status, &health.json()["ready"]), (503, &json!(false)));
    assert!(store.begin(key("new"), print()).is_err());
    assert_eq!(get(address, "/api/stats").json()["draining"], true);

    drop(held);
    drop(clock);
    store.close().unwrap();
    assert_eq!(get(address, "/api/stats").status, 503, "it doesn't keep the store open");
}

#[test]
fn an_answer_of_the_http_layer_is_shown_and_made_as_one() {
    let (_store, _clock, _held, address) = started();
    let body = json!({
        "scope": SCOPE, "key": "failed", "token": token(address, "failed"), "decision": "complete",
        "answer": {
            "text": "{\"order\":7}",
            "layer": "http",
            "http": { "status": 201, "headers": [["content-type", "application/json"], ["location", "/orders/7"]] },
        },
    });
    assert_eq!(post(address, "/api/resolve", &body).status, 200);
    let found = get(address, &format!("/api/key?scope={QUERY_SCOPE}&key=failed")).json();
    assert_eq!(found["answer"]["http"]["status"], 201);
    assert_eq!(found["answer"]["http"]["headers"][1], json!(["location", "/orders/7"]));
    assert_eq!(found["answer"]["text"], "{\"order\":7}");
    assert_eq!(found["head"]["http"]["headers"], json!([["location", "/orders/7"]]));
}

/// An answer that a key's retries could not be given is refused, with what would be right.
#[test]
fn the_layer_that_reads_an_answer_is_known() {
    let (store, _) = threaded();
    drop(store.claim("own"));
    let layered = print().with_scheme(1);
    drop(granted(store.begin(key("layered"), layered).unwrap()));
    let address = serve(Admin::new(&store));
    let of = |name: &str| {
        get(address, &format!("/api/key?scope={QUERY_SCOPE}&key={name}")).json()["layer"].clone()
    };
    assert_eq!((of("own"), of("layered")), (json!("own"), json!("http")));
    let complete = |name: &str, answer: serde_json::Value| {
        let body = json!({
            "scope": SCOPE, "key": name, "token": token(address, name), "decision": "complete",
            "force": true, "answer": answer,
        });
        post(address, "/api/resolve", &body)
    };
    let http = json!({ "status": 200, "headers": [] });
    let bare = complete("layered", json!({ "text": "x" }));
    assert_eq!(bare.status, 422);
    assert!(bare.error().contains("add \"http\" with a status"), "{}", bare.error());
    assert_eq!(bare.json()["needs_force"], false);
    let whole = complete("own", json!({ "text": "x", "http": http }));
    assert_eq!(whole.status, 422);
    assert!(whole.error().contains("leave out \"http\""), "{}", whole.error());
    for bad in [
        json!({ "text": "x", "http": { "status": 101, "headers": [] } }),
        json!({ "text": "x", "http": { "status": 204, "headers": [] } }),
        json!({ "text": "x", "http": { "status": 200, "headers": [["Connection", "close"]] } }),
        json!({ "text": "x", "layer": "another" }),
    ] {
        assert_eq!(complete("layered", bad.clone()).status, 400, "{bad}");
    }
    assert_eq!(store.stats().interrupted, 2);
    assert_eq!(complete("layered", json!({ "text": "x", "http": http })).status, 200);
    assert_eq!(complete("own", json!({ "text": "x" })).status, 200);
    assert_eq!(store.answer("own"), b"x");
}

/// As long as no new key can be taken, the service is not ready, and says why.
#[test]
fn a_full_store_is_not_ready_and_says_why() {
    let capacity = 2 << 20;
    let few = |options: Options| options.background(true).max_claims(16);
    let small = |options: Options| {
        options.background(true).max_response(16 << 10).capacity(capacity).max_claims(2000)
    };
    for (sim, full, why) in [
        (Sim::with(few), Full::Claims, "undecided keys take all cells of the claims file"),
        (Sim::with(small), Full::Space, "the capacity of 2097152 bytes"),
    ] {
        let store = sim.open();
        let address = serve(Admin::new(&store));
        let health = || get(address, "/api/health");
        assert_eq!((health().status, health().json()["ready"].clone()), (200, json!(true)));
        let (mut claims, refused) = (0.., std::cell::RefCell::new(None));
        let mut held: Vec<Claim> = std::iter::from_fn(|| {
            let name = format!("key-{}", claims.next().unwrap());
            match store.begin(key(&name), print()) {
                Ok(begin) => Some(granted(begin)),
                Err(error) => {
                    *refused.borrow_mut() = Some(error);
                    None
                }
            }
        })
        .collect();
        assert_eq!(refused.into_inner(), Some(BeginError::StoreFull(full)));
        let answer = health();
        assert_eq!((answer.status, answer.json()["ready"].clone()), (503, json!(false)));
        let trouble = answer.json()["troubles"][0].as_str().unwrap().to_owned();
        assert!(trouble.starts_with("full (") && trouble.contains(why), "{trouble}");
        let stats = get(address, "/api/stats").json();
        assert!(stats["now"]["full"].as_str().unwrap().contains(why), "{stats}");
        assert_eq!(stats["now"]["full_since_ms"], T0);
        assert_eq!(stats["health"][0], trouble);
        let facts = answer.json()["full"].clone();
        let of = if full == Full::Claims { "claims" } else { "capacity" };
        assert_eq!((&facts["of"], &facts["refused"]), (&json!(of), &json!(1)), "{facts}");
        assert_eq!(facts["since_ms"], T0);
        // One of them ends: another key can be taken.
        held.pop().unwrap().release().unwrap();
        assert_eq!((health().status, health().json()["full"].clone()), (200, json!(null)));
        assert_eq!(get(address, "/api/stats").json()["now"]["full"], json!(null));
    }
}

#[test]
fn it_can_lie_under_a_path() {
    let (store, _) = threaded();
    let address = serve(Admin::new(&store).under("/admin/"));
    assert_eq!(get(address, "/admin/api/health").status, 200);
    for page in ["/admin", "/admin/"] {
        assert!(get(address, page).head.contains("content-type: text/html"), "{page}");
    }
}

#[test]
fn the_page_allows_nothing_but_itself() {
    let (store, _) = threaded();
    let address = serve(Admin::new(&store));
    let [one, two] = [(); 2].map(|()| get(address, "/"));
    assert_eq!(one.status, 200);
    let nonce = |page: &Answer| {
        let at = page.body.find("nonce=\"").unwrap() + "nonce=\"".len();
        page.body[at..at + 32].to_owned()
    };
    assert_ne!(nonce(&one), nonce(&two));
    for page in [&one, &two] {
        assert!(page.head.contains(&format!("script-src 'nonce-{}'", nonce(page))));
        assert!(page.head.contains("default-src 'none'"));
        assert!(page.head.contains("frame-ancestors 'none'"));
        assert!(page.head.contains("x-content-type-options: nosniff"));
        assert!(!page.body.contains("{{nonce}}") && !page.body.contains("innerHTML"));
        for outside in ["src=\"http", "href=\"http", "@import", "url("] {
            assert!(!page.body.contains(outside), "{outside}");
        }
    }
}

/// Before it is full, and whose keys they are.
#[test]
fn claims_that_are_nearly_used_up_are_told_with_their_scopes() {
    let sim = Sim::with(|options| options.background(true).max_claims(16).max_attempts(1));
    let store = sim.open();
    let address = serve(Admin::new(&store));
    let health = || get(address, "/api/health").json();
    let max = store.stats().claims_max;
    let loud = Scope::of(["loud <b>tenant</b>"]);
    let mut held = vec![store.claim("quiet")];
    while !store.stats().claims_low {
        assert_eq!(health()["troubles"], json!([]));
        let name = held.len().to_string();
        held.push(granted(store.begin(KeyRef::new(&loud, &name).unwrap(), print()).unwrap()));
        assert!((held.len() as u64) < max, "never told");
    }
    let told = health();
    assert_eq!((&told["ready"], &told["claims"]["low"]), (&json!(true), &json!(true)), "{told}");
    assert!(told["troubles"][0].as_str().unwrap().starts_with("claims nearly used up"), "{told}");
    let first = &told["claims"]["scopes"][0];
    assert_eq!(first["undecided"], held.len() - 1);
    assert_eq!(told["claims"]["scopes"].as_array().unwrap().len(), 2);
    // Its name only where all names are shown.
    assert!(!told.to_string().contains("loud"), "{told}");
    let stats = get(address, "/api/stats").json();
    assert_eq!(stats["scopes"][0]["hash"], first["hash"]);
    assert!(stats["scopes"][0]["shown"].as_str().unwrap().contains("loud"), "{stats}");
    // Its only attempt is over.
    drop(held.pop());
    let told = health();
    assert_eq!((&told["ready"], &told["exhausted_keys"]), (&json!(true), &json!(1)));
    let troubles = told["troubles"].to_string();
    assert!(troubles.contains("attempts used up at 1 keys"), "{troubles}");
    held.into_iter().for_each(|claim| claim.release().unwrap());
    assert_eq!(health()["claims"]["low"], false);
    assert_eq!(get(address, "/api/stats").json()["scopes"], json!([]));
}

#[test]
fn decisions_are_kept_with_who_and_why() {
    let (store, _) = threaded();
    drop(store.claim("stuck"));
    let admin =
        Admin::new(&store).actor_header("x-forwarded-user".parse().unwrap()).note_required(true);
    let address = serve(admin);
    let found = get(address, "/api/keys").json()["keys"][0].clone();
    let body = |note: &str| {
        let (scope, key, token) = (&found["scope"], &found["key"], &found["token"]);
        json!({
            "scope": scope, "key": key, "token": token, "decision": "complete", "note": note,
            "actor": "an impostor", "answer": { "text": "by hand", "layer": "own" },
        })
        .to_string()
    };
    let ask = |user: &[&str], note: &str| {
        request(address, "POST /api/resolve", &[&OWN, user].concat(), &body(note))
    };
    let kim = ["x-forwarded-user: kim"];
    let refused = ask(&[], "INC-7");
    assert_eq!(refused.status, 403);
    assert!(refused.error().contains("who decides?"), "{}", refused.error());
    let twice = [kim[0], "x-forwarded-user: root"];
    assert_eq!(ask(&twice, "INC-7").status, 403, "which of the two?");
    let refused = ask(&kim, " ");
    assert_eq!(refused.status, 400);
    assert!(refused.error().contains("note is missing"));
    assert_eq!(get(address, "/api/decisions").json()["decisions"], json!([]));
    assert_eq!(ask(&kim, "INC-7").status, 200);
    let kept = get(address, &format!("/api/decisions?scope={QUERY_SCOPE}&key=stuck")).json();
    let decision = &kept["decisions"][0];
    assert_eq!((&decision["actor"], &decision["note"]), (&json!("kim"), &json!("INC-7")));
    assert_eq!((&decision["decision"], &decision["outcome"]), (&json!("complete"), &json!("done")));
    assert_eq!(decision["token"], found["token"]);
    assert_eq!(decision["after"]["text"], "by hand");
    assert!(decision["was"].as_str().unwrap().starts_with("interrupted"), "{decision}");
    let none = get(address, "/api/decisions?prefix=other").json();
    assert_eq!(none["decisions"], json!([]));
}

/// One person alone lets nothing execute again, if the service says so.
#[test]
fn a_second_person_agrees() {
    let (store, clock) = threaded();
    drop(store.claim("stuck"));
    let admin =
        Admin::new(&store).actor_header("x-forwarded-user".parse().unwrap()).second_person(true);
    let address = serve(admin);
    let found = get(address, "/api/keys").json()["keys"][0].clone();
    let ask = |user: &str, decision: &str| {
        let body = json!({
            "scope": found["scope"], "key": found["key"], "token": found["token"],
            "decision": decision,
        });
        let user = format!("x-forwarded-user: {user}");
        let answer =
            request(address, "POST /api/resolve", &[OWN[0], OWN[1], &user], &body.to_string());
        (answer.status, answer.json()["done"].clone())
    };
    assert_eq!(ask("kim", "free"), (202, json!(false)));
    // The same person twice is one; another decision is another one.
    assert_eq!(ask("kim", "free"), (202, json!(false)));
    assert_eq!(ask("alex", "forget"), (202, json!(false)));
    clock.advance(HOUR);
    assert_eq!(ask("alex", "free"), (202, json!(false)), "too late");
    assert_eq!(store.stuck("stuck").reason(), Reason::Dropped);
    assert_eq!(ask("kim", "free"), (200, json!(true)));
    assert!(store.is_absent("stuck"));
    assert_eq!(store.decisions().unwrap()[0].actor, "alex, kim");
}

#[test]
fn the_last_hour_is_kept_in_samples() {
    let (store, clock) = threaded();
    let address = serve(Admin::new(&store));
    let hour = || get(address, "/api/stats").json()["hour"].as_array().unwrap().clone();
    assert_eq!(hour().len(), 0);
    store.finish("k", b"x");
    for _ in 0..5 {
        store.answer("k");
    }
    let _held = store.claim("held");
    clock.advance(30 * SECOND);
    let first = hour()[0].clone();
    assert_eq!(first[0], T0 + 30_000);
    let near =
        |value: &serde_json::Value, wanted: f64| (value.as_f64().unwrap() - wanted).abs() < 1e-9;
    assert!(near(&first[1], 2.0 / 30.0) && near(&first[2], 5.0 / 30.0), "{first}");
    assert_eq!((&first[3], &first[4], &first[5]), (&json!(0.0), &json!(1), &json!(0)));
    assert!(first[7].as_u64() >= first[6].as_u64() && first[8].is_u64(), "{first}");
    clock.advance(29 * SECOND);
    assert_eq!(hour().len(), 1);
    clock.advance(SECOND);
    let second = hour()[1].clone();
    assert_eq!((&second[1], &second[6]), (&json!(0.0), &json!(null)), "nothing happened");
    assert_eq!(second[5], 1, "its lease has passed");
    for _ in 0..200 {
        clock.advance(30 * SECOND);
        hour();
    }
    assert_eq!(hour().len(), 120);
}

/// A scope is erased by name, twice said; and not while it is for reading only, or by one person where
/// two are needed.
#[test]
fn a_scope_is_erased() {
    let (store, _clock, _held, address) = started();
    let erase = |address, confirm: &str, force: bool| {
        let asked = json!({ "scope": SCOPE, "confirm": confirm, "force": force, "actor": "kim" });
        post(address, "/api/erase", &asked)
    };
    assert_eq!(erase(address, "", false).status, 400);
    assert_eq!(erase(address, "another", false).status, 400);
    assert_eq!(get(address, "/api/erase").status, 405);
    let read_only = serve(Admin::new(&store).read_only(true));
    assert_eq!(erase(read_only, SCOPE, false).status, 403);
    let two = serve(Admin::new(&store).second_person(true));
    assert_eq!(erase(two, SCOPE, false).status, 202);
    assert_eq!(erase(two, SCOPE, false).status, 202, "the same person");
    assert_eq!(names(&get(address, "/api/keys")).len(), 3);

    let erased = erase(address, SCOPE, false);
    assert_eq!(erased.status, 200);
    assert_eq!(erased.json(), json!({ "keys": 3, "decisions": 0, "held": 1 }));
    assert_eq!(names(&get(address, "/api/keys")), ["held"]);
    assert_eq!(erase(address, SCOPE, true).json()["held"], 0);
    assert!(names(&get(address, "/api/keys")).is_empty());
    assert!(store.is_absent("done"));
}

/// They come page by page, the newest first.
#[test]
fn decisions_come_page_by_page() {
    let (store, _clock) = threaded();
    for n in 0..7 {
        let name = format!("key-{n}");
        drop(store.claim(&name));
        store.resolve(key(&name), Resolution::Free).unwrap();
    }
    let address = serve(Admin::new(&store));
    let (mut seen, mut before) = (Vec::new(), String::new());
    loop {
        let page = get(address, &format!("/api/decisions?limit=3&before={before}")).json();
        let shown = page["decisions"].as_array().unwrap();
        assert!(shown.len() <= 3);
        seen.extend(shown.iter().map(|one| one["key"].as_str().unwrap().to_owned()));
        match page["next"].as_u64() {
            Some(next) => before = next.to_string(),
            None => break,
        }
    }
    let all: Vec<_> = (0..7).rev().map(|n| format!("key-{n}")).collect();
    assert_eq!(seen, all);
}
