//! The admin service and its page over a table.

use crate::{
    admin_client::{browser::Browser, get, post, serve},
    servers::*,
};
use onlyonce::{admin::Admin, postgres::PostgresStore, *};
use serde_json::{Value, json};
use std::{net::SocketAddr, time::Duration};

const MINUTE: Duration = Duration::from_secs(60);

async fn claim(store: &PostgresStore, name: &str) -> Claim<AsyncStore<PostgresStore>> {
    match AsyncStore::new(store.clone()).begin(key(name), print()).await.unwrap() {
        Begin::Execute(claim) => claim,
        other => panic!("{name}: {other:?}"),
    }
}

/// A key that its holder has dropped.
async fn stuck(store: &PostgresStore, name: &str) {
    drop(claim(store, name).await);
    assert_eq!(store.drain(PATIENCE).await, 0);
}

fn keys(address: SocketAddr, asked: &str) -> Vec<String> {
    let (mut names, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = get(address, &format!("/api/keys?{asked}&cursor={cursor}")).json();
        let keys = page["keys"].as_array().unwrap_or_else(|| panic!("{page}"));
        names.extend(keys.iter().map(|key| key["key"].as_str().unwrap().to_owned()));
        cursor = match &page["next"] {
            Value::Null => return names,
            Value::String(next) => next.clone(),
            next => next.to_string(),
        };
    }
}

#[test]
fn a_table_is_shown_and_decided_about() {
    block_on(async {
        let Some((plain, clock, _server)) = manual().await else { return };
        for name in ["c", "a", "b"] {
            claim(&plain, name).await.complete(name.as_bytes()).await.unwrap();
        }
        stuck(&plain, "old").await;
        clock.advance(MINUTE / 2).await;
        stuck(&plain, "young").await;
        let silent = claim(&plain, "silent").await;
        clock.advance(2 * MINUTE).await;
        let _held = claim(&plain, "held").await;
        let address = serve(Admin::new(&plain));

        let stats = get(address, "/api/stats").json();
        let now = &stats["now"];
        let counted = ["in_flight", "interrupted", "records"].map(|name| &now[name]);
        assert_eq!(counted, [1, 3, 3], "{stats}");
        assert_eq!(now["oldest_interrupted_ms"], 150_000);
        assert_eq!((&stats["backend"], &stats["can_drain"]), (&json!("postgres"), &json!(false)));
        assert_eq!(stats["counts"]["granted"], 7);
        assert!(now["table_bytes"].as_u64().unwrap() > 0 && now["connections"].as_u64().is_some());
        // What a table hasn't is absent, not zero.
        for absent in ["segments", "life", "cells_free", "poisoned", "capacity"] {
            assert!(now.get(absent).is_none(), "{absent}");
        }
        assert!(stats["counts"].get("late_calls").is_none());
        let health = get(address, "/api/health");
        assert_eq!(
            (health.status, &health.json()["ready"]),
            (200, &json!(true)),
            "{}",
            health.body
        );

        // Page by page, each once.
        assert_eq!(keys(address, "state=interrupted&limit=1"), ["old", "young", "silent"]);
        assert_eq!(keys(address, "state=completed&limit=2"), ["a", "b", "c"]);
        assert_eq!(keys(address, "state=completed&limit=2&prefix=b"), ["b"]);
        let scope = display_scope();
        assert_eq!(keys(address, &format!("state=completed&limit=1&scope={scope}")).len(), 3);
        assert_eq!(keys(address, "state=completed&scope=other"), [""; 0]);
        assert_eq!(keys(address, "older_than_ms=140000&limit=2"), ["old"]);
        assert_eq!(keys(address, "state=interrupted&reason=the+lease+passed"), ["silent"]);
        assert_eq!(keys(address, "state=in_flight"), ["held"]);
        assert_eq!(get(address, "/api/keys?state=completed&cursor=kzz").status, 400);
        let old = get(address, &format!("/api/key?scope={scope}&key=old")).json();
        assert_eq!(old["state"], "interrupted");
        assert!(old["age_ms"].as_u64().unwrap() >= 150_000, "{old}");
        // A hash out of a log.
        let hash = old["hash"].as_str().unwrap();
        assert_eq!(get(address, &format!("/api/key?hash={hash}")).json()["key"], "old");

        // What the attempt before has left.
        let mut failed = claim(&plain, "again").await;
        failed.fail(b"504").await.unwrap();
        drop(failed);
        assert_eq!(plain.drain(PATIENCE).await, 0);
        let store = AsyncStore::new(plain.clone());
        let Begin::Interrupted(stuck) = store.begin(key("again"), print()).await.unwrap() else {
            panic!("not interrupted")
        };
        let Begin::Execute(_taken) = stuck.take_over().await.unwrap() else { panic!("not taken") };
        let again = get(address, &format!("/api/key?scope={scope}&key=again")).json();
        let earlier = &again["earlier"];
        assert_eq!((&earlier["attempt"], &earlier["answer"]["text"]), (&json!(1), &json!("504")));
        assert_eq!((&again["attempts"], &old["earlier"]), (&json!(2), &Value::Null));

        // Decisions are about what was seen, and kept.
        let mut asked = json!({
            "scope": old["scope"], "key": "old", "token": 1, "decision": "complete",
            "answer": { "text": "by hand" }, "actor": "kim", "note": "INC-7",
        });
        let refused = post(address, "/api/resolve", &asked);
        assert_eq!(refused.status, 409, "{}", refused.body);
        asked["token"] = old["token"].clone();
        let done = post(address, "/api/resolve", &asked);
        assert_eq!(done.status, 200, "{}", done.body);
        let entry = plain.get(key("old")).await.unwrap().unwrap();
        let State::Completed(record) = &entry.state else { panic!("{entry:?}") };
        assert_eq!(record.response(), Some(&b"by hand"[..]));
        let kept = get(address, "/api/decisions").json();
        let kept = &kept["decisions"].as_array().unwrap()[..];
        let [one] = kept else { panic!("{kept:?}") };
        let said = ["actor", "note", "decision", "outcome", "key"].map(|name| one[name].clone());
        assert_eq!(said, ["kim", "INC-7", "complete", "done", "old"]);
        assert_eq!(one["was"], "interrupted: the claim was dropped undecided");
        assert_eq!((&one["token"], &one["attempts"]), (&old["token"], &json!(1)));
        assert_eq!(one["after"]["text"], "by hand");
        // A drain is a store's in files.
        let drain = json!({ "confirm": "drain" });
        assert_eq!(post(address, "/api/drain", &drain).status, 409);
        // A fenced holder is an alarm, with its key.
        let seen = plain.get(key("silent")).await.unwrap().unwrap().token;
        plain
            .resolve_with(key("silent"), Resolution::Free, ResolveOptions::forced().seen(seen))
            .await
            .unwrap();
        assert_eq!(silent.release().await, Err(ClaimError::Fenced));
        let alarms = get(address, "/api/stats").json()["alarms"].clone();
        assert_eq!((&alarms[0]["what"], &alarms[0]["key"]), (&json!("fenced"), &json!("silent")));
        plain.close();
        assert_eq!(get(address, "/api/health").status, 503);
    });
}

/// The scope of these tests' keys, as the service writes it.
fn display_scope() -> String {
    match key("k").scope() {
        [] => "-".into(),
        bytes => format!("hex:{}", bytes.iter().map(|b| format!("{b:02x}")).collect::<String>()),
    }
}

/// A decision is kept with what it has replaced, as long as the options say.
#[test]
fn decisions_are_kept_for_a_time_of_their_own() {
    block_on(async {
        let Some((plain, clock, _server)) = manual().await else { return };
        let by = decisions::By { actor: "kim\0", note: "wrong total" };
        claim(&plain, "k").await.complete(b"wrong").await.unwrap();
        let replace = Resolution::Replace { head: b"h", response: Some(b"right") };
        plain.resolve_with(key("k"), replace, ResolveOptions::new().by(by)).await.unwrap();
        plain.resolve_with(key("k"), Resolution::Forget, ResolveOptions::forced()).await.unwrap();
        // What was refused has decided nothing.
        let refused = plain.resolve(key("k"), Resolution::Free).await;
        assert!(matches!(refused, Err(StoreError::NotApplicable { .. })), "{refused:?}");
        let kept = plain.decisions(Some(key("k")), 10).await.unwrap();
        let [forgotten, replaced] = &kept[..] else { panic!("{kept:?}") };
        assert_eq!((&*replaced.actor, &*replaced.note), ("kim\u{fffd}", "wrong total"));
        assert_eq!(replaced.verdict, decisions::Verdict::Replace);
        assert_eq!(replaced.was.state, decisions::WasState::Completed);
        assert_eq!(replaced.was.answer.as_deref(), Some(&b"wrong"[..]));
        assert_eq!((&*replaced.head, replaced.answer.as_deref()), (&b"h"[..], Some(&b"right"[..])));
        assert_eq!(forgotten.was.answer.as_deref(), Some(&b"right"[..]));
        assert!(forgotten.number > replaced.number && forgotten.was.token > replaced.was.token);
        assert!(plain.decisions(Some(key("other")), 10).await.unwrap().is_empty());
        let short = clock.options().decisions_kept(MINUTE).connect().await.unwrap();
        clock.advance(2 * MINUTE).await;
        assert!(short.decisions(None, 10).await.unwrap().is_empty());
        assert_eq!(plain.decisions(None, 10).await.unwrap().len(), 2);
        short.sweep().await.unwrap().unwrap();
        assert!(plain.decisions(None, 10).await.unwrap().is_empty());
    });
}

/// A holder completes between an operator's look and the decision: what was acknowledged stays.
#[test]
fn a_completion_is_not_decided_away() {
    block_on(async {
        let Some((plain, clock, server)) = manual().await else { return };
        let held = claim(&plain, "k").await;
        let holder = server.connect(clock.database()).await.unwrap();
        // The holder's completion, just before its commit.
        holder
            .batch_execute(
                "BEGIN; UPDATE onlyonce SET state = 3, response = 'done', holder = false, \
                 ended_at = test_now() / 1000, replay_until = test_now() / 1000 + 100000, \
                 expires_at = test_now() / 1000 + 100000",
            )
            .await
            .unwrap();
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
            AND datname = current_database()";
        let patient = clock.options().lock_timeout(PATIENCE).statement_limit(2 * PATIENCE);
        let patient = patient.deadline(3 * PATIENCE).connect().await.unwrap();
        let deciding = tokio::spawn(async move {
            patient.resolve_with(key("k"), Resolution::Free, ResolveOptions::forced()).await
        });
        until(async || server.sql(clock.database(), waits).await.is_some_and(|count| count != "0"))
            .await;
        holder.batch_execute("COMMIT").await.unwrap();
        let decided = deciding.await.unwrap();
        let is = matches!(decided, Err(StoreError::NotApplicable { state: "completed" }));
        assert!(is, "{decided:?}");
        let entry = plain.get(key("k")).await.unwrap().unwrap();
        assert!(matches!(entry.state, State::Completed(_)), "{entry:?}");
        assert!(plain.decisions(None, 10).await.unwrap().is_empty());
        drop(held);
    });
}

#[test]
fn the_page_shows_a_table() {
    let Some(mut browser) = Browser::start() else { return };
    block_on(async {
        let Some((plain, clock, _server)) = manual().await else { return };
        claim(&plain, "done").await.complete(b"x").await.unwrap();
        stuck(&plain, "<b>stuck</b>").await;
        let _held = claim(&plain, "held").await;
        clock.advance(MINUTE / 4).await;
        let address = serve(Admin::new(&plain).name("orders"));
        let mut page = browser.open(&format!("http://{address}/"));
        page.until("document.body?.dataset.loaded === 'yes'");
        page.until("document.querySelectorAll('#interrupted button').length === 1");
        let text = page.eval("document.body.innerText").as_str().unwrap().to_owned();
        for shown in
            ["<b>stuck</b>", "held", "orders", "SingleServer", "healthy", "with its indexes"]
        {
            assert!(text.contains(shown), "{shown} is not in\n{text}");
        }
        assert!(!text.contains("NaN") && !text.contains("undefined"), "{text}");
        assert_eq!(page.eval("document.querySelector('#ops').hidden"), true);
        assert_eq!(page.eval("document.querySelectorAll('#times tbody tr').length"), 2);
        page.eval("document.querySelector('#interrupted button').click()");
        page.until("document.querySelector('dialog').open");
        page.eval("document.querySelector('dialog [value=free]').click()");
        page.eval("document.querySelector('dialog [name=sure]').click()");
        page.eval("document.querySelector('dialog button.danger').click()");
        page.until("document.querySelectorAll('#interrupted button').length === 0");
        assert!(plain.get(key("<b>stuck</b>")).await.unwrap().is_none());
    });
}

/// A scope is forgotten as a whole, with its decisions: after the table is written again, no file of it
/// has a byte of them.
#[test]
fn a_scope_is_erased() {
    block_on(async {
        let Some(bin) = programs() else { return };
        let server = Server::start(bin);
        let options = options(&server.dsn("postgres"));
        options.migrate().await.unwrap();
        let plain = options.connect().await.unwrap();
        let store = AsyncStore::new(plain.clone());
        let (gone, stays) = (Scope::of(["customer-7"]), Scope::of(["customer-8"]));
        let claim = async |scope: &Scope, name: &str| {
            let key = KeyRef::new(scope, name).unwrap();
            match store.begin(key, print()).await.unwrap() {
                Begin::Execute(claim) => claim,
                other => panic!("{other:?}"),
            }
        };
        for (scope, name) in [(&gone, "MARKGONE-done"), (&stays, "MARKSTAYS-done")] {
            claim(scope, name).await.complete(name.as_bytes()).await.unwrap();
        }
        drop(claim(&gone, "MARKGONE-stuck").await);
        assert_eq!(plain.drain(PATIENCE).await, 0);
        let key = KeyRef::new(&gone, "MARKGONE-stuck").unwrap();
        let by = decisions::By { actor: "kim", note: "MARKGONE" };
        plain.resolve_with(key, Resolution::Free, ResolveOptions::new().by(by)).await.unwrap();
        let held = claim(&gone, "MARKGONE-held").await;

        let erased = plain.erase_scope(&gone, false).await.unwrap();
        assert_eq!((erased.keys, erased.decisions, erased.held), (2, 1, 1));
        let erased = plain.erase_scope(&gone, true).await.unwrap();
        assert_eq!((erased.keys, erased.decisions, erased.held), (1, 0, 0));
        assert_eq!(held.release().await, Err(ClaimError::Fenced));
        assert_eq!(plain.entries(Filter::ALL, None, 10).await.unwrap().entries.len(), 1);
        let again = "VACUUM FULL onlyonce; VACUUM FULL onlyonce_decisions; CHECKPOINT";
        for statement in again.split(';') {
            server.sql("postgres", statement).await;
        }
        let found = |mark: &str| is_in(&server.data().join("base"), mark.as_bytes());
        assert!(found("MARKSTAYS"));
        assert!(!found("MARKGONE"));
    });
}

/// Whether some file under a directory has these bytes.
fn is_in(directory: &std::path::Path, bytes: &[u8]) -> bool {
    std::fs::read_dir(directory).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => is_in(&path, bytes),
            false => {
                let content = std::fs::read(&path).unwrap_or_default();
                content.windows(bytes.len()).any(|window| window == bytes)
            }
        }
    })
}

/// A probe is told that the database is gone, and looking says so instead of showing zeros.
#[test]
fn a_database_that_is_gone_is_not_ready() {
    block_on(async {
        let Some(bin) = programs() else { return };
        let server = Server::start(bin);
        let limit = Duration::from_millis(800);
        let options = options(&server.dsn("postgres")).connect_timeout(limit);
        options.migrate().await.unwrap();
        let options = options.lock_timeout(limit / 2).statement_limit(limit).deadline(limit);
        let plain = options.connect().await.unwrap();
        let address = serve(Admin::new(&plain));
        until(async || get(address, "/api/health").status == 200).await;
        server.kill();
        let health = get(address, "/api/health");
        let troubles = health.json()["troubles"].to_string();
        assert_eq!((health.status, &health.json()["ready"]), (503, &json!(false)));
        assert!(troubles.contains("doesn't answer"), "{troubles}");
        assert_eq!(get(address, "/api/keys?state=completed").status, 503);
    });
}
