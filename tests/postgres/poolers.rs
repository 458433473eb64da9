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
