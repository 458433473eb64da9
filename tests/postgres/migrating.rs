//! The tables are changed beside running stores and long transactions.

use crate::servers::*;
use onlyonce::*;

/// The tables as they were before there were revisions.
const BACK: &str = "DROP TABLE onlyonce_decisions; ALTER TABLE onlyonce DROP COLUMN step;
    ALTER TABLE onlyonce_schema DROP COLUMN revision, DROP COLUMN secret";

/// A transaction that has only read the table, and stays open: others pass while the change waits
/// for it, and a change that is given up leaves nothing that waits.
#[test]
fn a_change_waits_for_moments_only() {
    block_on(async {
        let Some(server) = Server::shared() else { return };
        let database = server.database().await;
        let options = options(&server.dsn(&database));
        server.sql(&database, BACK).await;
        let reader = server.connect(&database).await.unwrap();
        reader.batch_execute("BEGIN; SELECT count(*) FROM onlyonce").await.unwrap();
        let waiting = "SELECT count(*) FROM pg_locks WHERE relation = 'onlyonce'::regclass \
                       AND mode = 'AccessExclusiveLock'";
        let waits = async || server.sql(&database, waiting).await.as_deref() == Some("1");
        for gives_up in [true, false] {
            let options = options.clone();
            let migrating = tokio::spawn(async move { options.migrate().await });
            // As long as it waits a call waits behind it: not to the end of the transaction.
            for _ in 0..3 {
                until(waits).await;
                server.sql(&database, "SELECT count(*) FROM onlyonce").await;
            }
            if gives_up {
                migrating.abort();
                until(async || !waits().await).await;
                let sessions = "SELECT count(*) FROM pg_stat_activity WHERE \
                    application_name = 'onlyonce' AND datname = current_database()";
                until(async || server.sql(&database, sessions).await.as_deref() == Some("0")).await;
            } else {
                reader.batch_execute("COMMIT").await.unwrap();
                migrating.await.unwrap().unwrap();
            }
        }
        options.connect().await.unwrap();
    });
}

/// Programs of two revisions run side by side.
#[test]
fn old_and_new_side_by_side() {
    block_on(async {
        let Some(server) = Server::shared() else { return };
        let database = server.database().await;
        let options = options(&server.dsn(&database));
        let store = AsyncStore::new(options.connect().await.unwrap());
        let Begin::Execute(mut held) = store.begin(key("held"), print()).await.unwrap() else {
            panic!("not granted")
        };
        // What the next revision does to the tables.
        let next = "ALTER TABLE onlyonce ADD COLUMN later bigint;
            UPDATE onlyonce_schema SET revision = revision + 1";
        server.sql(&database, next).await;
        held.complete(b"done").await.unwrap();
        // This one continues, and starts again.
        options.migrate().await.unwrap();
        let again = AsyncStore::new(options.connect().await.unwrap());
        let found = again.begin(key("held"), print()).await.unwrap();
        assert!(matches!(found, Begin::Replay(_)), "{found:?}");
        let found = again.begin(key("other"), print()).await.unwrap();
        assert!(matches!(found, Begin::Execute(_)), "{found:?}");
        // Tables that it would not understand.
        server.sql(&database, "UPDATE onlyonce_schema SET version = version + 1").await;
        let refused = options.connect().await.map(|_| ());
        assert!(matches!(refused, Err(OpenError::Newer { .. })), "{refused:?}");
        // Statements of the revision before know nothing of what was added.
        let old = "INSERT INTO onlyonce (scope, key, owner, fingerprint, token, lease_ms, replay_ms, \
            remember_ms, keep_ms, started_at, lease_until, expires_at, reserve, sweep_hour, slot) \
            VALUES ('s', 'k', 'o', 'f', 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1)";
        server.sql(&database, old).await;
    });
}

/// What `docs/backends.md` grants to a role is enough for a store.
#[test]
fn a_role_that_only_uses_the_tables() {
    block_on(async {
        let Some(server) = Server::shared() else { return };
        let database = server.database().await;
        let docs = std::fs::read_to_string("docs/backends.md").unwrap();
        let grants: Vec<&str> = docs.lines().filter(|line| line.starts_with("GRANT ")).collect();
        assert_eq!(grants.len(), 4);
        server.sql(&database, &format!("CREATE ROLE shop LOGIN; {}", grants.join(" "))).await;
        let dsn = server.dsn(&database).replace("user=postgres", "user=shop");
        let options = options(&dsn).holder_session(true).strict_read(true);
        // There is nothing left to be done.
        options.migrate().await.unwrap();
        let store = options.connect().await.unwrap();
        let (plain, shop) =
            (AsyncStore::new(store.clone()), AsyncStore::new(store.in_transactions()));
        let Begin::Execute(mut claim) = plain.begin(key("a"), print()).await.unwrap() else {
            panic!("not granted")
        };
        claim.save_checkpoint(b"half").await.unwrap();
        claim.complete(b"done").await.unwrap();
        let Begin::Execute(mut claim) = shop.begin(key("b"), print()).await.unwrap() else {
            panic!("not granted")
        };
        claim.transaction().await.unwrap().as_ref().batch_execute("SELECT 1").await.unwrap();
        claim.complete(b"done").await.unwrap();
        for name in ["a", "b"] {
            let found = plain.begin(key(name), print()).await.unwrap();
            assert!(matches!(found, Begin::Replay(_)), "{found:?}");
        }
        assert!(store.sweep().await.unwrap().is_some());
        store.resolve_with(key("a"), Resolution::Forget, ResolveOptions::forced()).await.unwrap();
    });
}
