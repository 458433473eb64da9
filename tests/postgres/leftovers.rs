//! What a handler leaves in its session is gone before another one has it, and what it leaves in its
//! transaction doesn't change what the store promises.

use crate::servers::*;
use onlyonce::{postgres::*, *};
use std::{sync::Arc, time::Duration};

type Shop = AsyncStore<TransactionStore>;

/// One connection, so that all have the same session.
async fn shop() -> Option<(Shop, Arc<Server>, String)> {
    let server = Server::shared()?;
    let database = server.database().await;
    server.sql(&database, "CREATE SCHEMA other; CREATE TABLE orders (request text)").await;
    let store = options(&server.dsn(&database)).connections(1).connect().await.unwrap();
    Some((AsyncStore::new(store.in_transactions()), server, database))
}

async fn claim(shop: &Shop, name: &str) -> Claim<Shop> {
    match shop.begin(key(name), print()).await.unwrap() {
        Begin::Execute(claim) => claim,
        other => panic!("{name}: no claim, but {other:?}"),
    }
}

/// The first column of the last row, in the transaction of a claim that is given back.
async fn shown(shop: &Shop, sql: &str) -> String {
    let claim = claim(shop, "looks").await;
    let rows = claim.transaction().await.unwrap().as_ref().query(sql, &[]).await.unwrap();
    claim.release().await.unwrap();
    rows.last().map_or_else(String::new, |row| row.get(0))
}

#[test]
fn nothing_of_a_handler_is_left_in_its_session() {
    block_on(async {
        let Some((shop, server, database)) = shop().await else { return };
        let leaves = [
            ("SET search_path = other", "SELECT current_setting('search_path')"),
            ("SET ROLE pg_read_all_data", "SELECT current_user::text"),
            ("SET SESSION AUTHORIZATION pg_read_all_data", "SELECT session_user::text"),
            ("SET synchronous_commit = off", "SELECT current_setting('synchronous_commit')"),
            ("SET statement_timeout = 77", "SELECT current_setting('statement_timeout')"),
            ("SET lock_timeout = 77", "SELECT current_setting('lock_timeout')"),
            ("SET TIME ZONE 'Asia/Tokyo'", "SELECT current_setting('timezone')"),
            ("SET app.tenant = 'one'", "SELECT coalesce(current_setting('app.tenant', true), '')"),
            (
                "SET default_transaction_isolation = 'serializable'",
                "SELECT current_setting('transaction_isolation')",
            ),
            (
                "CREATE TEMP TABLE orders (request text)",
                "SELECT to_regclass('orders')::oid::regclass::text || relpersistence::text \
                 FROM pg_class WHERE oid = to_regclass('orders')",
            ),
            (
                "SELECT pg_advisory_lock(42)",
                "SELECT count(*)::text FROM pg_locks WHERE locktype = 'advisory' AND objid = 42",
            ),
            ("LISTEN orders", "SELECT count(*)::text FROM pg_listening_channels()"),
            (
                "DECLARE left_open CURSOR WITH HOLD FOR SELECT 1",
                "SELECT count(*)::text FROM pg_cursors WHERE name = 'left_open'",
            ),
            (
                "PREPARE mine AS SELECT 1",
                "SELECT count(*)::text FROM pg_prepared_statements WHERE name = 'mine'",
            ),
        ];
        for (n, (leave, look)) in leaves.into_iter().enumerate() {
            for commits in [true, false] {
                let before = shown(&shop, look).await;
                let mut leaving = claim(&shop, &format!("{n} {commits}")).await;
                leaving.transaction().await.unwrap().as_ref().batch_execute(leave).await.unwrap();
                if commits {
                    leaving.complete(b"done").await.unwrap();
                } else {
                    leaving.release().await.unwrap();
                }
                assert_eq!(shown(&shop, look).await, before, "{leave}, committed: {commits}");
            }
        }
        let insert = "INSERT INTO orders VALUES ('k')";
        let mut last = claim(&shop, "last").await;
        last.transaction().await.unwrap().as_ref().batch_execute(insert).await.unwrap();
        last.complete(b"order").await.unwrap();
        let orders = server.sql(&database, "SELECT count(*) FROM public.orders").await;
        assert_eq!(orders.as_deref(), Some("1"));
    });
}

/// What was prepared in a session is gone, or does not fit any longer: another session is used.
#[test]
fn statements_that_are_gone_are_prepared_again() {
    block_on(async {
        let Some((shop, server, database)) = shop().await else { return };
        let store = shop.get_ref().get_ref().clone();
        let plain = AsyncStore::new(store.clone());
        for n in 0..3 {
            let mut tidy = claim(&shop, &format!("tidy{n}")).await;
            tidy.transaction()
                .await
                .unwrap()
                .as_ref()
                .batch_execute("DEALLOCATE ALL")
                .await
                .unwrap();
            tidy.complete(b"done").await.unwrap();
            for name in [format!("a{n}"), format!("b{n}")] {
                claim(&shop, &name).await.complete(b"done").await.unwrap();
                let found = plain.begin(key(&name), print()).await.unwrap();
                assert!(matches!(found, Begin::Replay(_)), "{found:?}");
            }
        }
        assert!(store.get(key("a0")).await.unwrap().is_some());
        let retype = async |kind: &str| {
            let alter = format!("ALTER TABLE onlyonce ALTER reserve TYPE {kind}");
            server.sql(&database, &alter).await;
        };
        // Prepared with other columns than there are, and again.
        retype("bigint").await;
        let hasty = options(&server.dsn(&database)).deadline(Duration::from_secs(3));
        assert!(hasty.connect().await.unwrap().get(key("a0")).await.is_err());
        retype("integer").await;
        assert!(store.get(key("a0")).await.unwrap().is_some());
    });
}

/// A unique column with a value that is taken, and a constraint that is deferred.
const TABLES: &str =
    "CREATE TABLE users (mail text PRIMARY KEY); INSERT INTO users VALUES ('taken');
    CREATE TABLE parents (id int PRIMARY KEY);
    CREATE TABLE lines (parent int REFERENCES parents DEFERRABLE INITIALLY DEFERRED)";

/// A statement of the handler's has failed, or a deferred constraint does not hold: the effects can't
/// be committed. The answer can, without them.
#[test]
fn an_answer_without_the_effects() {
    block_on(async {
        let Some((shop, server, database)) = shop().await else { return };
        server.sql(&database, TABLES).await;
        let store = shop.get_ref().get_ref().clone();
        let order = "INSERT INTO orders VALUES ('order')";
        let cases = [
            ("unique", "INSERT INTO users VALUES ('taken')"),
            ("deferred", "INSERT INTO lines VALUES (77)"),
        ];
        for (name, fails) in cases {
            let mut failing = claim(&shop, name).await;
            let transaction = failing.transaction().await.unwrap();
            transaction.as_ref().batch_execute(order).await.unwrap();
            let failed = transaction.as_ref().batch_execute(fails).await;
            assert_eq!(failed.is_err(), name == "unique");
            drop(transaction);
            let done = failing.complete(b"201").await;
            assert!(matches!(done, Err(ClaimError::EffectsFailed { .. })), "{name}: {done:?}");
            assert_eq!(done.unwrap_err().key_state(), KeyState::Unchanged);
            failing.undo_effects().await.unwrap();
            failing.complete(b"409").await.unwrap();
            let Begin::Replay(record) = shop.begin(key(name), print()).await.unwrap() else {
                panic!("{name}: not replayed")
            };
            assert_eq!(record.response(), Some(&b"409"[..]));
            // Both undone: the key is as it was.
            let name = format!("{name} dropped");
            let mut dropped = claim(&shop, &name).await;
            let transaction = dropped.transaction().await.unwrap();
            let _ = transaction.as_ref().batch_execute(&format!("{order}; {fails}")).await;
            drop(transaction);
            assert!(dropped.complete(b"201").await.is_err());
            drop(dropped);
            store.drain(PATIENCE).await;
            assert!(store.get(key(&name)).await.unwrap().is_none());
        }
        // Nothing failed, and the handler refuses after its first write.
        let mut refusing = claim(&shop, "refused").await;
        refusing.transaction().await.unwrap().as_ref().batch_execute(order).await.unwrap();
        refusing.undo_effects().await.unwrap();
        refusing.complete(b"409").await.unwrap();
        let orders = server.sql(&database, "SELECT count(*) FROM orders").await;
        assert_eq!(orders.as_deref(), Some("0"));
        // Elsewhere there is nothing to undo.
        let plain = AsyncStore::new(store);
        let Begin::Execute(mut plain) = plain.begin(key("plain"), print()).await.unwrap() else {
            panic!("not granted")
        };
        plain.undo_effects().await.unwrap();
        plain.complete(b"done").await.unwrap();
    });
}

/// A handler that hangs, idle or in one statement, is ended at the execution limit.
#[test]
fn a_handler_that_hangs_is_ended() {
    block_on(async {
        let Some(server) = Server::shared() else { return };
        let database = server.database().await;
        let base = options(&server.dsn(&database)).lease(Duration::from_millis(500));
        let store = base.clone().execution_limit(Duration::from_millis(500));
        let shop = AsyncStore::new(store.connect().await.unwrap().in_transactions());
        let asker = AsyncStore::new(base.connect().await.unwrap());
        for name in ["idle", "in one statement", "in many"] {
            let mut hung = claim(&shop, name).await;
            let transaction = hung.transaction().await.unwrap();
            match name {
                "idle" => until(async || transaction.as_ref().is_closed()).await,
                "in one statement" => {
                    transaction.as_ref().batch_execute("SELECT pg_sleep(3600)").await.unwrap_err();
                }
                _ => {
                    until(async || transaction.as_ref().batch_execute("SELECT 1").await.is_err())
                        .await
                }
            }
            drop(transaction);
            until(async || {
                let found = asker.begin(key(name), print()).await.unwrap();
                matches!(found, Begin::Execute(_))
            })
            .await;
            let late = hung.complete(b"late").await;
            assert!(matches!(late, Err(ClaimError::Unavailable { .. })), "{late:?}");
        }
        // Longer than a server's time-outs can be.
        let long = base.execution_limit(Duration::from_secs(29 * 24 * 3600));
        let shop = AsyncStore::new(long.connect().await.unwrap().in_transactions());
        claim(&shop, "long").await.complete(b"done").await.unwrap();
    });
}

/// What handlers answer, behind the HTTP layer: one that refuses after its statement has failed is
/// heard, and its refusal is replayed; one that says what it has undone, too.
#[cfg(feature = "axum")]
#[test]
fn a_refusal_arrives() {
    use ::http::{Request, StatusCode};
    use axum::{Router, body::Body, response::IntoResponse, routing::post};
    use http_body_util::BodyExt;
    use onlyonce::http::{Attempt, IdempotencyLayer, KeyScope, Verdict};
    use tower::ServiceExt;
    block_on(async {
        let Some((shop, server, database)) = shop().await else { return };
        server.sql(&database, TABLES).await;
        let claims = shop.get_ref().clone();
        let handler = |sql: &'static str, status: StatusCode, verdict: Option<Verdict>| {
            let claims = claims.clone();
            post(move |attempt: Attempt| async move {
                let transaction = attempt.transaction(&claims).await.unwrap();
                transaction
                    .as_ref()
                    .batch_execute("INSERT INTO orders VALUES ('order')")
                    .await
                    .unwrap();
                let _ = transaction.as_ref().batch_execute(sql).await;
                drop(transaction);
                let mut answer = (status, "said by the handler").into_response();
                if let Some(verdict) = verdict {
                    answer.extensions_mut().insert(verdict);
                }
                answer
            })
        };
        // As in docs/backends.md: what failed is undone, and what was written before it stays.
        let sold_out = {
            let claims = claims.clone();
            post(move |attempt: Attempt| async move {
                let transaction = attempt.transaction(&claims).await.unwrap();
                let tx: &tokio_postgres::Client = transaction.as_ref();
                tx.execute("INSERT INTO orders VALUES ('request')", &[]).await.unwrap();
                tx.batch_execute("SAVEPOINT reserve").await.unwrap();
                tx.execute("INSERT INTO users VALUES ('taken')", &[]).await.unwrap_err();
                tx.batch_execute("ROLLBACK TO SAVEPOINT reserve").await.unwrap();
                drop(transaction);
                (StatusCode::CONFLICT, "sold out")
            })
        };
        let (conflict, created) = (StatusCode::CONFLICT, StatusCode::CREATED);
        let unique = "INSERT INTO users VALUES ('taken')";
        let deferred = "INSERT INTO lines VALUES (77)";
        let undone = Some(Verdict::FinalWithoutEffects);
        let layer = IdempotencyLayer::new(shop.clone(), KeyScope::Global);
        let app = Router::new()
            .route("/unique", handler(unique, conflict, None))
            .route("/undone", handler("SELECT 1", conflict, undone))
            .route("/untrue", handler(unique, created, None))
            .route("/deferred", handler(deferred, created, None))
            .route("/kept", handler("SELECT 1", conflict, None))
            .route("/sold-out", sold_out)
            .layer(layer);
        let send = async |path: &str| {
            let request = Request::post(path).header("idempotency-key", path);
            let answer = app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
            let (parts, body) = answer.into_parts();
            let replayed = parts.headers.contains_key("idempotent-replayed");
            let body = body.collect().await.unwrap().to_bytes();
            (parts.status.as_u16(), replayed, String::from_utf8_lossy(&body).into_owned())
        };
        let orders = async || server.sql(&database, "SELECT count(*) FROM orders").await.unwrap();
        for path in ["/unique", "/undone"] {
            for replayed in [false, true] {
                assert_eq!(
                    send(path).await,
                    (409, replayed, "said by the handler".into()),
                    "{path}"
                );
            }
        }
        // A success would be untrue: nothing is stored, and nothing has happened.
        for path in ["/untrue", "/deferred"] {
            for _ in 0..2 {
                let (status, replayed, body) = send(path).await;
                assert!(status == 500 && !replayed && body.contains("undone"), "{path}: {body}");
            }
        }
        assert_eq!(orders().await, "0");
        server.sql(&database, "INSERT INTO parents VALUES (77)").await;
        assert_eq!(send("/deferred").await, (201, false, "said by the handler".into()));
        assert_eq!(orders().await, "1");
        // Without a verdict that says otherwise what was written is kept.
        assert_eq!(send("/kept").await.0, 409);
        assert_eq!(orders().await, "2");
        for replayed in [false, true] {
            assert_eq!(send("/sold-out").await, (409, replayed, "sold out".into()));
        }
        assert_eq!(orders().await, "3");
    });
}
