//! Many callers of one key don't take the connections that the others need.

use crate::servers::*;
use onlyonce::{postgres::tokio_postgres::NoTls, sql::SqlOptions, *};
use std::time::Duration;

async fn granted<S: IdempotencyStore>(store: &AsyncStore<S>, name: &str) -> Claim<AsyncStore<S>> {
    match store.begin(key(name), print()).await.unwrap() {
        Begin::Execute(claim) => claim,
        _ => panic!("{name}: not granted"),
    }
}

/// What runs in this process is known without a connection: the only one is the holder's.
#[test]
fn a_key_that_runs_here_needs_no_connection() {
    block_on(async {
        let Some(server) = Server::shared() else { return };
        let database = server.database().await;
        let store = options(&server.dsn(&database)).connections(1).connect().await.unwrap();
        let (shop, plain) = (AsyncStore::new(store.in_transactions()), AsyncStore::new(store));
        let mut held = granted(&shop, "k").await;
        let Begin::InFlight(pending) = shop.begin(key("k"), print()).await.unwrap() else {
            panic!("not in flight")
        };
        let Begin::InFlight(other) = plain.begin(key("k"), print()).await.unwrap() else {
            panic!("not in flight")
        };
        let waiting = [
            tokio::spawn(
                async move { matches!(pending.wait(PATIENCE).await, Ok(Begin::Replay(_))) },
            ),
            tokio::spawn(async move { matches!(other.wait(PATIENCE).await, Ok(Begin::Replay(_))) }),
        ];
        held.complete(b"done").await.unwrap();
        for waiting in waiting {
            assert!(waiting.await.unwrap());
        }
    });
}

/// Twenty callers of a key that is locked in another process, for a long time; other keys are begun
/// and completed meanwhile, over two connections.
#[test]
fn a_crowd_for_a_locked_key_leaves_connections() {
    block_on(async {
        let Some(server) = Server::shared() else { return };
        let database = server.database().await;
        let base = options(&server.dsn(&database)).notify(false);
        let holder = AsyncStore::new(base.connect().await.unwrap().in_transactions());
        let mut held = granted(&holder, "hot").await;
        let app = "crowd";
        let dsn = format!("{} application_name={app}", server.dsn(&database));
        let few = options(&dsn).connections(2).notify(false);
        // Whoever waits for the lock does so for the whole test.
        let few = few.lock_timeout(PATIENCE).statement_limit(PATIENCE * 2).deadline(PATIENCE * 3);
        let store = few.connect().await.unwrap();
        let (shop, plain) = (AsyncStore::new(store.in_transactions()), AsyncStore::new(store));
        let mut crowd = tokio::task::JoinSet::new();
        for _ in 0..10 {
            let (shop, plain) = (shop.clone(), plain.clone());
            crowd.spawn(async move { is_replay(&shop.begin(key("hot"), print()).await.unwrap()) });
            crowd.spawn(async move { is_replay(&plain.begin(key("hot"), print()).await.unwrap()) });
        }
        for n in 0..30 {
            granted(&shop, &format!("a{n}")).await.complete(b"done").await.unwrap();
            granted(&plain, &format!("b{n}")).await.complete(b"done").await.unwrap();
        }
        assert!(crowd.try_join_next().is_none(), "none of the crowd has an answer yet");
        held.complete(b"done").await.unwrap();
        while let Some(replayed) = crowd.join_next().await {
            assert!(replayed.unwrap());
        }
        let sessions =
            format!("SELECT count(*) FROM pg_stat_activity WHERE application_name = '{app}'");
        let sessions = server.sql(&database, &sessions).await.unwrap();
        assert!(sessions.parse::<u32>().unwrap() <= 4, "{sessions} sessions");
    });
}

fn is_replay<S: IdempotencyStore>(found: &Begin<AsyncStore<S>>) -> bool {
    matches!(found, Begin::Replay(_))
}

/// That no connection is free says nothing of the server: those that are there stay.
#[test]
fn a_wait_for_a_connection_closes_none() {
    block_on(async {
        let Some(server) = Server::shared() else { return };
        let database = server.database().await;
        let store = options(&server.dsn(&database)).connections(1).notify(false);
        let limits = store.lock_timeout(Duration::from_millis(20));
        let limits = limits.statement_limit(Duration::from_millis(100));
        let store = limits.deadline(Duration::from_millis(600)).connect().await.unwrap();
        let (shop, plain) = (AsyncStore::new(store.in_transactions()), AsyncStore::new(store));
        let mut held = granted(&shop, "held").await;
        let pid = held
            .transaction()
            .await
            .unwrap()
            .as_ref()
            .query_one("SELECT pg_backend_pid()", &[])
            .await;
        let pid: i32 = pid.unwrap().get(0);
        let refused = plain.begin(key("other"), print()).await.map(|_| ());
        assert!(matches!(refused, Err(BeginError::Unavailable { .. })), "{refused:?}");
        held.complete(b"done").await.unwrap();
        let mut next = granted(&shop, "next").await;
        let again = next
            .transaction()
            .await
            .unwrap()
            .as_ref()
            .query_one("SELECT pg_backend_pid()", &[])
            .await;
        assert_eq!(again.unwrap().get::<_, i32>(0), pid);
        next.complete(b"done").await.unwrap();
    });
}

/// Ten callers of a key that is locked elsewhere, for a long time; other keys are begun and completed
/// meanwhile, over a pool of two connections, which are the same two at the end.
#[test]
fn a_crowd_on_a_pool_of_the_callers_leaves_connections() {
    block_on(async {
        let Some(server) = Server::shared() else { return };
        let name = server.database().await;
        let pool = |app: &str| {
            let dsn = format!("{} application_name={app}", server.dsn(&name));
            let manager = deadpool_postgres::Manager::new(dsn.parse().unwrap(), NoTls);
            deadpool_postgres::Pool::builder(manager).max_size(2).build().unwrap()
        };
        let (holder, pool) = (pool("holder"), pool("crowd"));
        let holder = SqlOptions::postgres().connect_with(holder).await.unwrap().in_transactions();
        let Begin::Execute(mut held) =
            AsyncStore::new(holder).begin(key("hot"), print()).await.unwrap()
        else {
            panic!("not granted")
        };
        let patient = SqlOptions::postgres().lock_timeout(PATIENCE).deadline(PATIENCE * 3);
        let store = patient.connect_with(pool.clone()).await.unwrap();
        let (shop, plain) = (AsyncStore::new(store.in_transactions()), AsyncStore::new(store));
        // Both of its connections.
        let both = (pool.get().await.unwrap(), pool.get().await.unwrap());
        drop(both);
        let sessions = "SELECT string_agg(pid::text, ' ' ORDER BY pid) FROM pg_stat_activity \
            WHERE application_name = 'crowd' AND datname = current_database()";
        let before = server.sql(&name, sessions).await;
        let mut crowd = tokio::task::JoinSet::new();
        for _ in 0..5 {
            let (shop, plain) = (shop.clone(), plain.clone());
            crowd.spawn(async move {
                matches!(shop.begin(key("hot"), print()).await.unwrap(), Begin::Replay(_))
            });
            crowd.spawn(async move {
                matches!(plain.begin(key("hot"), print()).await.unwrap(), Begin::Replay(_))
            });
        }
        for n in 0..20 {
            let begun = shop.begin(key(&format!("a{n}")), print()).await.unwrap();
            let Begin::Execute(mut claim) = begun else { panic!("not granted") };
            claim.complete(b"done").await.unwrap();
            let begun = plain.begin(key(&format!("b{n}")), print()).await.unwrap();
            let Begin::Execute(mut claim) = begun else { panic!("not granted") };
            claim.complete(b"done").await.unwrap();
        }
        assert!(crowd.try_join_next().is_none(), "none of the crowd has an answer yet");
        held.complete(b"done").await.unwrap();
        while let Some(replayed) = crowd.join_next().await {
            assert!(replayed.unwrap());
        }
        assert_eq!(server.sql(&name, sessions).await, before);
    });
}
