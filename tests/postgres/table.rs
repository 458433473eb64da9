//! The table: what is swept and when, that completions touch no index, clocks of servers that
//! differ, leases that are renewed in the background, and waiting across processes.

use crate::servers::*;
use onlyonce::{postgres::*, *};
use std::time::{Duration, Instant};

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);

type Store = AsyncStore<PostgresStore>;

async fn claim(store: &Store, name: &str) -> Claim<Store> {
    match store.begin(key(name), print()).await.unwrap() {
        Begin::Execute(claim) => claim,
        other => panic!("{name}: {other:?}"),
    }
}

async fn rows(clock: &ServerClock, server: &Server) -> String {
    let database = clock.database();
    server.sql(database, "SELECT count(*) FROM onlyonce").await.unwrap()
}

#[test]
fn rows_are_swept_when_their_key_has_long_been_absent() {
    block_on(async {
        let Some((plain, clock, server)) = manual().await else { return };
        let store = AsyncStore::new(plain.clone());
        claim(&store, "done").await.complete(b"x").await.unwrap();
        claim(&store, "free").await.release().await.unwrap();
        drop(claim(&store, "stuck").await);
        plain.drain(MINUTE).await;
        let mut longer = claim(&store, "longer").await;
        let retention = Some(Retention::of(HOUR * 72));
        let done = Completion { response: Some(b"x"), retention, head: b"" };
        longer.complete_with(done).await.unwrap();
        clock.advance(HOUR * 24).await;
        // Absent, but perhaps only just, by another server's clock.
        let swept = plain.sweep().await.unwrap().unwrap();
        assert_eq!((swept.removed, rows(&clock, &server).await.as_str()), (0, "4"));
        clock.advance(HOUR * 3).await;
        let swept = plain.sweep().await.unwrap().unwrap();
        assert_eq!((swept.removed, swept.postponed), (2, 2));
        let kept = store.begin(key("longer"), print()).await.unwrap();
        assert!(matches!(kept, Begin::Replay(_)), "{kept:?}");
        clock.advance(HOUR * 24 * 5).await;
        let kept = store.begin(key("stuck"), print()).await.unwrap();
        assert!(matches!(kept, Begin::Interrupted(_)), "{kept:?}");
        assert_eq!(plain.sweep().await.unwrap().unwrap().removed, 1);
        clock.advance(HOUR * 24).await;
        assert_eq!(plain.sweep().await.unwrap().unwrap().removed, 1);
        assert_eq!(rows(&clock, &server).await, "0");
        assert_eq!(plain.sweep().await.unwrap(), Some(Swept::default()));
    });
}

#[test]
fn one_store_sweeps_at_a_time() {
    block_on(async {
        let Some((store, clock, server)) = manual().await else { return };
        // Somebody's claim is held up in a transaction, and the sweeper passes it by.
        let face = AsyncStore::new(store.clone());
        for n in 0..3 {
            claim(&face, &format!("k{n}")).await.release().await.unwrap();
        }
        clock.advance(HOUR * 30).await;
        let holding = server.connect(clock.database()).await.unwrap();
        let hold = "BEGIN; SELECT * FROM onlyonce WHERE key = 'k1' FOR UPDATE";
        holding.batch_execute(hold).await.unwrap();
        assert_eq!(store.sweep().await.unwrap().unwrap().removed, 2);
        holding.batch_execute("ROLLBACK").await.unwrap();
        assert_eq!(store.sweep().await.unwrap().unwrap().removed, 1);
        // The lock is the table's: eight at once never remove a row twice.
        for n in 0..50 {
            claim(&face, &format!("r{n}")).await.release().await.unwrap();
        }
        clock.advance(HOUR * 30).await;
        let sweeping: Vec<_> = (0..8)
            .map(|_| {
                let store = store.clone();
                tokio::spawn(async move { store.sweep().await.unwrap() })
            })
            .collect();
        let mut removed = 0;
        for swept in sweeping {
            removed += swept.await.unwrap().map_or(0, |swept| swept.removed);
        }
        assert_eq!(removed, 50);
    });
}

/// Sweeps race with callers: whatever the order, a key has one claim at a time and its tokens
/// rise.
#[test]
fn tokens_rise_across_sweeps_and_slow_clocks() {
    block_on(async {
        let Some((plain, clock, _server)) = manual().await else { return };
        let store = AsyncStore::new(plain.clone());
        let mut last = claim(&store, "k").await.token();
        for round in 0..6 {
            clock.advance(HOUR * 24 * 30).await;
            plain.sweep().await.unwrap();
            // The next server's clock is some minutes behind.
            clock.shift(-9 * 60 * 1_000_000).await;
            let held = claim(&store, "k").await;
            assert!(held.token() > last, "round {round}");
            last = held.token();
            match round % 3 {
                0 => held.release().await.unwrap(),
                1 => std::mem::forget(held),
                _ => {
                    let mut held = held;
                    held.complete(b"x").await.unwrap();
                }
            }
        }
    });
}

/// A failover to a server whose clock differs: at most the difference is gained or lost, and
/// nothing is granted twice.
#[test]
fn clocks_of_servers_differ() {
    block_on(async {
        let Some((plain, clock, _server)) = manual().await else { return };
        let store = AsyncStore::new(plain);
        let mut held = claim(&store, "k").await;
        // Behind: the lease lasts longer, and a renewal does not shorten it.
        clock.shift(-30_000_000).await;
        held.renew().await.unwrap();
        clock.advance(MINUTE + Duration::from_secs(29)).await;
        let found = store.begin(key("k"), print()).await.unwrap();
        assert!(matches!(found, Begin::InFlight(_)), "{found:?}");
        // Ahead: it passes early, which is no death; the holder still finishes.
        clock.shift(120_000_000).await;
        let Begin::Interrupted(stuck) = store.begin(key("k"), print()).await.unwrap() else {
            panic!("not interrupted")
        };
        assert!(!stuck.holder_gone());
        held.complete(b"x").await.unwrap();
        // An expired key that was granted again is not back when the clock is.
        clock.advance(HOUR * 24).await;
        let mut again = claim(&store, "k").await;
        again.complete(b"y").await.unwrap();
        clock.shift(-3_600_000_000).await;
        let Begin::Replay(record) = store.begin(key("k"), print()).await.unwrap() else {
            panic!("not replayed")
        };
        assert_eq!(record.response(), Some(&b"y"[..]));
        // A released key stays free.
        claim(&store, "free").await.release().await.unwrap();
        clock.shift(-3_600_000_000).await;
        claim(&store, "free").await.release().await.unwrap();
    });
}

#[test]
fn completions_touch_no_index() {
    block_on(async {
        let Some(server) = Server::shared() else { return };
        let database = server.database().await;
        let options = options(&server.dsn(&database));
        let store = AsyncStore::new(options.connect().await.unwrap());
        const PAIRS: u32 = 300;
        for n in 0..PAIRS {
            let mut held = claim(&store, &format!("key number {n}")).await;
            held.renew().await.unwrap();
            held.complete(&[7; 300]).await.unwrap();
        }
        let updates = async |column: &str| {
            let sql = format!(
                "SELECT pg_stat_force_next_flush(), {column} FROM pg_stat_user_tables \
                 WHERE relname = 'onlyonce'"
            );
            let client = server.connect(&database).await.unwrap();
            client.query_one(&sql, &[]).await.unwrap().get::<_, i64>(1)
        };
        // The store's own sessions report what they did a second later at the latest, and when
        // they end.
        drop(store);
        until(async || updates("n_tup_upd").await == 2 * i64::from(PAIRS)).await;
        let hot = updates("n_tup_hot_upd").await;
        println!("{hot} of {} updates are HOT", 2 * PAIRS);
        assert!(hot * 100 >= 2 * i64::from(PAIRS) * 95, "{hot} of {} are HOT", 2 * PAIRS);
    });
}

/// The holders' time is real, by which they renew; the server's stands still, so that no lease passes
/// while a renewal is late.
#[test]
fn leases_are_renewed_behind_the_holder() {
    block_on(async {
        let Some((_, clock, server)) = manual().await else { return };
        let lease = Duration::from_millis(600);
        let options = clock.options().lease(lease);
        let store = AsyncStore::new(options.connect().await.unwrap());
        let limited = options.execution_limit(lease).connect().await.unwrap();
        let limited = AsyncStore::new(limited);
        let terms = Terms { keep_alive: true, ..Terms::default() };
        let begin = async |store: &Store, name: &str| match store
            .begin_with(key(name), print(), terms)
            .await
        {
            Ok(Begin::Execute(claim)) => claim,
            other => panic!("{other:?}"),
        };
        let (mut kept, mut failed) = (begin(&store, "kept").await, begin(&store, "failed").await);
        failed.fail(b"500").await.unwrap();
        let renewed = format!(
            "SELECT lease_until >= (SELECT last_value / 1000 FROM test_clock) + {} FROM onlyonce \
             WHERE key = 'kept'",
            lease.as_millis()
        );
        for _ in 0..3 {
            clock.advance(lease * 3 / 4).await;
            until(async || server.sql(clock.database(), &renewed).await.as_deref() == Some("t"))
                .await;
        }
        let found = store.begin(key("kept"), print()).await.unwrap();
        assert!(matches!(found, Begin::InFlight(_)), "{found:?}");
        kept.complete(b"done").await.unwrap();
        // What has failed is not brought back to life.
        let found = store.begin(key("failed"), print()).await.unwrap();
        assert!(matches!(&found, Begin::Interrupted(i) if i.reason() == Reason::Failed));
        // A hung execution is let go at the limit, though its handle exists.
        let hung = begin(&limited, "hung").await;
        until(async || {
            clock.advance(lease / 2).await;
            // Time for a renewal, if there is one.
            tokio::time::sleep(lease).await;
            let found = store.begin(key("hung"), print()).await.unwrap();
            matches!(&found, Begin::Interrupted(i) if i.reason() == Reason::LeasePassed)
        })
        .await;
        drop(hung);
    });
}

/// Another process waits, and is told by the server.
#[test]
fn waiters_of_other_processes_are_told() {
    block_on(async {
        let Some((first, clock, _server)) = manual().await else { return };
        let second = AsyncStore::new(clock.options().connect().await.unwrap());
        let third = AsyncStore::new(clock.options().notify(false).connect().await.unwrap());
        let first = AsyncStore::new(first);
        for n in 0..3 {
            let name = format!("k{n}");
            let mut held = claim(&first, &name).await;
            let mut waiters = Vec::new();
            for store in [&second, &third] {
                let found = store.begin(key(&name), print()).await.unwrap();
                let Begin::InFlight(pending) = found else { panic!("{found:?}") };
                waiters.push(tokio::spawn(pending.wait(Duration::from_secs(60))));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            let completed = Instant::now();
            held.complete(b"done").await.unwrap();
            for waiter in waiters {
                let found = waiter.await.unwrap().unwrap();
                assert!(matches!(found, Begin::Replay(_)), "{found:?}");
            }
            println!("told within {:?}", completed.elapsed());
        }
        // When the holder gives it up, one of them gets it, and the others wait for that one.
        let held = claim(&first, "given").await;
        let mut waiters = tokio::task::JoinSet::new();
        for store in [&second, &third, &second, &third] {
            let found = store.begin(key("given"), print()).await.unwrap();
            let Begin::InFlight(pending) = found else { panic!("{found:?}") };
            waiters.spawn(pending.wait(PATIENCE));
        }
        held.release().await.unwrap();
        let found = waiters.join_next().await.unwrap().unwrap().unwrap();
        let Begin::Execute(mut given) = found else { panic!("{found:?}") };
        given.complete(b"done").await.unwrap();
        while let Some(waiter) = waiters.join_next().await {
            let found = waiter.unwrap().unwrap();
            assert!(matches!(found, Begin::Replay(_)), "{found:?}");
        }
    });
}

/// What they are told by.
#[test]
fn a_completion_is_notified() {
    block_on(async {
        let Some((plain, clock, server)) = manual().await else { return };
        let store = AsyncStore::new(plain);
        let mut held = claim(&store, "k").await;
        let other = AsyncStore::new(clock.options().connect().await.unwrap());
        let Begin::InFlight(pending) = other.begin(key("k"), print()).await.unwrap() else {
            panic!("not in flight")
        };
        let waiter = tokio::spawn(pending.wait(Duration::from_secs(60)));
        // The channel that it listens to, spied out.
        let mut listen = None;
        until(async || {
            let sql = "SELECT query FROM pg_stat_activity WHERE query LIKE 'LISTEN onlyonce%' \
                       AND datname = current_database()";
            listen = server.sql(clock.database(), sql).await;
            listen.is_some()
        })
        .await;
        let (client, mut connection) =
            tokio_postgres::connect(&server.dsn(clock.database()), tokio_postgres::NoTls)
                .await
                .unwrap();
        let hearing = tokio::spawn(async move {
            loop {
                let next = std::future::poll_fn(|context| connection.poll_message(context)).await;
                if let tokio_postgres::AsyncMessage::Notification(told) = next.unwrap().unwrap() {
                    return told.payload().to_owned();
                }
            }
        });
        client.batch_execute(&listen.unwrap()).await.unwrap();
        held.complete(b"done").await.unwrap();
        let payload = hearing.await.unwrap();
        assert!(payload.len() == 17 && payload.ends_with(','), "{payload}");
        assert!(matches!(waiter.await.unwrap().unwrap(), Begin::Replay(_)));
    });
}

/// Whoever is refused or answered leaves no transaction behind: no row, no lock, no commit.
#[test]
fn rejections_write_nothing() {
    block_on(async {
        let Some(bin) = programs() else { return };
        // Without anybody else who would take transaction numbers.
        let server = Server::start_with(bin, "autovacuum = off");
        let options = options(&server.dsn("postgres")).notify(false);
        options.migrate().await.unwrap();
        let plain = options.connect().await.unwrap();
        let store = AsyncStore::new(plain.clone());
        let mut done = claim(&store, "done").await;
        done.complete(b"x").await.unwrap();
        let held = claim(&store, "held").await;
        drop(claim(&store, "stuck").await);
        plain.drain(MINUTE).await;
        let Begin::Interrupted(stuck) = store.begin(key("stuck"), print()).await.unwrap() else {
            panic!("not interrupted")
        };
        let Begin::Execute(taken) = stuck.take_over().await.unwrap() else { panic!("not taken") };
        drop(taken);
        plain.drain(MINUTE).await;
        let next = async || {
            let sql = "SELECT pg_snapshot_xmax(pg_current_snapshot())";
            server.sql("postgres", sql).await.unwrap()
        };
        let before = next().await;
        let other = Fingerprint::of(["other"]);
        for name in ["done", "held", "stuck"] {
            for fingerprint in [print(), other] {
                let found = store.begin(key(name), fingerprint).await.unwrap();
                assert!(!matches!(found, Begin::Execute(_)), "{found:?}");
            }
        }
        assert_eq!(done.complete(b"x").await, Ok(()));
        assert_eq!(done.complete(b"y").await, Err(ClaimError::DifferentResponse));
        assert_eq!(done.renew().await, Err(ClaimError::AlreadyCompleted));
        assert!(plain.get(key("held")).await.unwrap().is_some());
        plain.entries(Filter::ALL, None, 10).await.unwrap();
        let free =
            plain.resolve_with(key("done"), Resolution::Free, ResolveOptions::forced()).await;
        assert!(matches!(free, Err(StoreError::NotApplicable { .. })), "{free:?}");
        assert_eq!(next().await, before);
        held.release().await.unwrap();
        assert_ne!(next().await, before, "and this would have been seen");
    });
}

/// A notification makes the disk work: without a listener there is none.
#[test]
fn nobody_is_notified_when_nobody_listens() {
    block_on(async {
        let Some(bin) = programs() else { return };
        let server = Server::start_with(bin, "autovacuum = off");
        let options = options(&server.dsn("postgres"));
        options.migrate().await.unwrap();
        let store = AsyncStore::new(options.connect().await.unwrap());
        let next = async || {
            let sql = "SELECT pg_snapshot_xmax(pg_current_snapshot())";
            server.sql("postgres", sql).await.unwrap().parse::<u64>().unwrap()
        };
        let before = next().await;
        for n in 0..5 {
            claim(&store, &format!("k{n}")).await.complete(b"x").await.unwrap();
        }
        // Time for a notification that would be one too many.
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(next().await - before, 10);
    });
}
