//! A pooler between the store and the server: one that keeps sessions is like the server, one that
//! gives a session to each transaction is refused.

use crate::servers::{pooler::Pooler, *};
use onlyonce::*;

#[test]
fn a_pooler_that_keeps_sessions() {
    block_on(async {
        let Some(server) = Server::shared() else { return };
        let Some(pooler) = Pooler::start(&server, "session") else { return };
        let database = server.database().await;
        let dsn = pooler.dsn(&database);
        options(&dsn).migrate().await.unwrap();
        let store = options(&dsn).holder_session(true).connect().await.unwrap();
        let (plain, shop) =
            (AsyncStore::new(store.clone()), AsyncStore::new(store.in_transactions()));
        for n in 0..20 {
            let Begin::Execute(mut claim) =
                plain.begin(key(&format!("a{n}")), print()).await.unwrap()
            else {
                panic!("not granted")
            };
            claim.renew().await.unwrap();
            claim.complete(b"done").await.unwrap();
            let Begin::Execute(mut claim) =
                shop.begin(key(&format!("b{n}")), print()).await.unwrap()
            else {
                panic!("not granted")
            };
            claim.complete(b"done").await.unwrap();
        }
        assert!(store.holds_session());
        assert!(store.sweep().await.unwrap().is_some());
    });
}

#[test]
fn a_pooler_of_transactions_is_refused() {
    block_on(async {
        let Some(server) = Server::shared() else { return };
        for (mode, more) in
            [("transaction", ""), ("transaction", "server_round_robin = 1\n"), ("statement", "")]
        {
            let Some(pooler) = Pooler::start_with(&server, mode, more) else { return };
            let database = server.database().await;
            let options = options(&pooler.dsn(&database));
            // Some sessions are there already, and free.
            let mut clients = Vec::new();
            for _ in 0..3 {
                let (client, connection) =
                    tokio_postgres::connect(&pooler.dsn(&database), tokio_postgres::NoTls)
                        .await
                        .unwrap();
                tokio::spawn(connection);
                if mode == "transaction" {
                    client.batch_execute("BEGIN").await.unwrap();
                }
                clients.push(client);
            }
            for client in &clients {
                client.batch_execute("COMMIT").await.unwrap();
            }
            for _ in 0..5 {
                let refused = options.connect().await.map(|_| ());
                assert!(
                    matches!(refused, Err(OpenError::Unreachable { .. })),
                    "{mode}: {refused:?}"
                );
                assert!(options.migrate().await.is_err());
            }
            if mode == "transaction" {
                let refused = options.connect().await.unwrap_err().to_string();
                assert!(refused.contains("pooler"), "{refused}");
            }
        }
    });
}

/// A pooler that comes to share sessions while the store is open: its connections are checked again,
/// and calls say what is wrong.
#[test]
fn a_pooler_that_changes_is_noticed() {
    block_on(async {
        let Some(server) = Server::shared() else { return };
        let Some(pooler) = Pooler::start(&server, "session") else { return };
        let database = server.database().await;
        let options = options(&pooler.dsn(&database)).notify(false);
        let options = options.deadline(std::time::Duration::from_secs(4));
        let store = options.connect().await.unwrap();
        pooler.switch("session", "transaction");
        until(async || {
            // Its sessions end, and it makes others.
            let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                       WHERE datname = current_database() AND pid <> pg_backend_pid()";
            server.sql(&database, end).await;
            options.connect().await.is_err()
        })
        .await;
        until(async || {
            let (a, b, c) =
                tokio::join!(store.get(key("a")), store.get(key("b")), store.get(key("c")));
            [a, b, c].iter().any(|got| {
                matches!(got, Err(StoreError::Unavailable { what }) if what.contains("pooler"))
            })
        })
        .await;
        pooler.switch("transaction", "session");
        until(async || store.get(key("a")).await.is_ok()).await;
    });
}
