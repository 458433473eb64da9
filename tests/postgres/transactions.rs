//! Claim, effect and completion in one transaction: together or not at all, whatever happens.

use crate::servers::{
    proxy::{Lose, Proxy},
    *,
};
use onlyonce::{
    postgres::{tokio_postgres::Client, *},
    *,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

const ORDERS: &str = "CREATE TABLE orders (request text)";

/// A database with orders, a store, and a client for transactions of the test's own.
async fn shop() -> Option<(PostgresStore, Client, Arc<Server>, String)> {
    let server = Server::shared()?;
    let database = server.database().await;
    server.sql(&database, ORDERS).await;
    let store = options(&server.dsn(&database)).lock_timeout(Duration::from_millis(100));
    let store = store.connect().await.unwrap();
    let client = server.connect(&database).await.unwrap();
    Some((store, client, server, database))
}

async fn orders(server: &Server, database: &str) -> String {
    server.sql(database, "SELECT count(*) FROM orders").await.unwrap()
}

fn executing(found: BeginIn) -> ClaimIn {
    match found {
        BeginIn::Execute(claim) => claim,
        other => panic!("no claim, but {other:?}"),
    }
}

fn done(response: &[u8]) -> Completion<'_> {
    Completion { response: Some(response), ..Completion::default() }
}

const INSERT: &str = "INSERT INTO orders VALUES ('k')";

#[test]
fn committed_or_never_been() {
    block_on(async {
        let Some((store, mut client, server, database)) = shop().await else { return };
        let begin = async |tx: &mut tokio_postgres::Transaction<'_>| {
            store.begin_in(tx, key("k"), print(), Terms::default()).await.unwrap()
        };
        // Rolled back: the key is as it was.
        let mut tx = client.transaction().await.unwrap();
        let claim = executing(begin(&mut tx).await);
        assert_eq!((claim.attempt(), claim.after(), claim.checkpoint()), (1, None, None));
        tx.batch_execute(INSERT).await.unwrap();
        store.complete_in(&mut tx, &claim, done(b"lost")).await.unwrap();
        tx.rollback().await.unwrap();
        assert!(store.get(key("k")).await.unwrap().is_none());
        // Committed: both are there.
        let mut tx = client.transaction().await.unwrap();
        // Whatever the caller's transaction had set, the completion is durable.
        tx.batch_execute("SET LOCAL synchronous_commit = off").await.unwrap();
        let again = executing(begin(&mut tx).await);
        assert!(again.token() > claim.token() && again.attempt() == 1);
        assert_eq!(again.derive_key("order"), claim.derive_key("order"));
        tx.batch_execute(INSERT).await.unwrap();
        store.complete_in(&mut tx, &again, done(b"order 1")).await.unwrap();
        // Twice is once, and with other bytes refused.
        store.complete_in(&mut tx, &again, done(b"order 1")).await.unwrap();
        let other = store.complete_in(&mut tx, &again, done(b"order 2")).await;
        assert_eq!(other, Err(ClaimError::DifferentResponse));
        // What the business waits for is its own affair.
        let row = tx.query_one("SHOW lock_timeout", &[]).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), "0");
        let row = tx.query_one("SHOW synchronous_commit", &[]).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), "on");
        tx.commit().await.unwrap();
        assert_eq!(orders(&server, &database).await, "1");
        let mut tx = client.transaction().await.unwrap();
        let BeginIn::Replay(record) = begin(&mut tx).await else { panic!("not replayed") };
        assert_eq!(record.response(), Some(&b"order 1"[..]));
        let other = Fingerprint::of(["other"]);
        let found = store.begin_in(&mut tx, key("k"), other, Terms::default()).await.unwrap();
        assert!(matches!(found, BeginIn::Mismatch { scheme: 0 }), "{found:?}");
        // A claim of a transaction that is over holds nothing.
        let late = store.complete_in(&mut tx, &claim, done(b"late")).await;
        assert_eq!(late, Err(ClaimError::Fenced));
    });
}

#[test]
fn a_duplicate_meets_the_running_one() {
    block_on(async {
        let Some((store, mut client, server, database)) = shop().await else { return };
        let mut tx = client.transaction().await.unwrap();
        let begin = store.begin_in(&mut tx, key("k"), print(), Terms::default());
        let claim = executing(begin.await.unwrap());
        let mut second = server.connect(&database).await.unwrap();
        let mut other = second.transaction().await.unwrap();
        let found = store.begin_in(&mut other, key("k"), print(), Terms::default()).await.unwrap();
        assert!(matches!(found, BeginIn::InFlight), "{found:?}");
        other.rollback().await.unwrap();
        // Outside of transactions as well; and whoever waits gets the answer.
        let face = AsyncStore::new(store.clone());
        let found = face.begin(key("k"), print()).await.unwrap();
        let Begin::InFlight(pending) = found else { panic!("{found:?}") };
        let waiting = tokio::spawn(pending.wait(Duration::from_secs(60)));
        tx.batch_execute(INSERT).await.unwrap();
        store.complete_in(&mut tx, &claim, done(b"order 1")).await.unwrap();
        tx.commit().await.unwrap();
        let found = waiting.await.unwrap().unwrap();
        assert!(matches!(found, Begin::Replay(_)), "{found:?}");
    });
}

#[test]
fn an_interrupted_key_is_taken_over() {
    block_on(async {
        let Some((store, mut client, _server, _)) = shop().await else { return };
        let face = AsyncStore::new(store.clone());
        let Begin::Execute(mut outside) = face.begin(key("k"), print()).await.unwrap() else {
            panic!("not granted")
        };
        outside.save_checkpoint(b"half").await.unwrap();
        drop(outside);
        store.drain(Duration::from_secs(20)).await;
        let mut tx = client.transaction().await.unwrap();
        let found = store.begin_in(&mut tx, key("k"), print(), Terms::default()).await.unwrap();
        let BeginIn::Interrupted(stuck) = found else { panic!("{found:?}") };
        assert_eq!((stuck.reason(), stuck.attempts()), (Reason::Dropped, 1));
        assert!(stuck.holder_gone() && stuck.checkpoint() == Some(b"half"));
        let claim = executing(store.take_over_in(&mut tx, stuck).await.unwrap());
        assert_eq!((claim.attempt(), claim.checkpoint()), (2, Some(&b"half"[..])));
        store.complete_in(&mut tx, &claim, done(b"order 1")).await.unwrap();
        tx.commit().await.unwrap();
        let found = face.begin(key("k"), print()).await.unwrap();
        assert!(matches!(found, Begin::Replay(_)), "{found:?}");
    });
}

type Shop = AsyncStore<TransactionStore>;

async fn claim(shop: &Shop) -> Claim<Shop> {
    match shop.begin(key("k"), print()).await.unwrap() {
        Begin::Execute(claim) => claim,
        other => panic!("no claim, but {other:?}"),
    }
}

#[test]
fn a_claim_that_is_a_transaction() {
    block_on(async {
        let Some((store, _, server, database)) = shop().await else { return };
        let shop = AsyncStore::new(store.in_transactions());
        let order = async |claim: &Claim<Shop>| {
            claim.transaction().await.unwrap().as_ref().batch_execute(INSERT).await.unwrap();
        };
        // However it ends undecided, nothing has happened.
        let mut failed = claim(&shop).await;
        order(&failed).await;
        failed.fail(b"500").await.unwrap();
        assert_eq!(failed.complete(b"late").await, Err(ClaimError::Fenced));
        assert!(matches!(failed.transaction().await, Err(ClaimError::Fenced)));
        let released = claim(&shop).await;
        order(&released).await;
        released.release().await.unwrap();
        let dropped = claim(&shop).await;
        order(&dropped).await;
        drop(dropped);
        store.drain(Duration::from_secs(20)).await;
        let mut held = claim(&shop).await;
        assert_eq!((held.attempt(), orders(&server, &database).await.as_str()), (1, "0"));
        held.renew().await.unwrap();
        let refused = held.save_checkpoint(b"half").await;
        assert!(matches!(refused, Err(ClaimError::NotApplicable { .. })), "{refused:?}");
        let found = shop.begin(key("k"), print()).await.unwrap();
        let Begin::InFlight(pending) = found else { panic!("{found:?}") };
        let waiting = tokio::spawn(pending.wait(Duration::from_secs(60)));
        order(&held).await;
        held.complete(b"order 1").await.unwrap();
        held.complete(b"order 1").await.unwrap();
        assert_eq!(held.complete(b"other").await, Err(ClaimError::DifferentResponse));
        let found = waiting.await.unwrap().unwrap();
        assert!(matches!(found, Begin::Replay(_)), "{found:?}");
        assert_eq!(orders(&server, &database).await, "1");
    });
}

#[test]
fn of_many_one_takes_the_order() {
    block_on(async {
        let Some((store, _, server, database)) = shop().await else { return };
        let shop = AsyncStore::new(store.in_transactions());
        let callers = (0..24).map(|_| {
            let shop = shop.clone();
            tokio::spawn(async move {
                let ran = shop.once(key("k"), print()).wait(Duration::from_secs(30));
                ran.run(async |claim| {
                    let transaction = claim.transaction().await.unwrap();
                    transaction.as_ref().batch_execute(INSERT).await?;
                    Ok::<_, WorkError<tokio_postgres::Error>>(b"order 1".to_vec())
                })
                .await
            })
        });
        for caller in callers.collect::<Vec<_>>() {
            let ran = caller.await.unwrap().unwrap();
            assert_eq!(ran.response(), Some(&b"order 1"[..]));
        }
        assert_eq!(orders(&server, &database).await, "1");
    });
}

/// The connection is lost at every statement, `COMMIT` included: the answer is true, and the order
/// exists once in the end.
fn lost(lose: Lose) {
    block_on(async {
        let Some(server) = Server::shared() else { return };
        let database = server.database().await;
        server.sql(&database, "CREATE TABLE orders (request text)").await;
        let proxy = Proxy::start(server.port).await;
        let dsn = format!("host=127.0.0.1 port={} user=postgres dbname={database}", proxy.port);
        let options = options(&dsn).connections(2).notify(false);
        let mut statement = 0;
        loop {
            let shop = AsyncStore::new(options.connect().await.unwrap().in_transactions());
            let before = proxy.struck();
            let name = format!("k{statement}");
            proxy.strike(statement, lose);
            let mut completed = false;
            // A client that retries until it has an answer.
            let (mut attempts, start) = (0, Instant::now());
            loop {
                // While the server has not noticed that the connection is lost, the transaction is
                // in flight, however long that takes.
                assert!(attempts < 10 && start.elapsed() < PATIENCE, "no answer to {name}");
                match shop.begin(key(&name), print()).await.unwrap() {
                    Begin::Replay(record) => {
                        assert_eq!(record.response(), Some(&b"order"[..]));
                        break;
                    }
                    Begin::Execute(mut claim) => {
                        attempts += 1;
                        assert!(!completed, "{name} executes after it was acknowledged");
                        let insert = format!("INSERT INTO orders VALUES ('{name}')");
                        let inserted = match claim.transaction().await {
                            Ok(open) => open.as_ref().batch_execute(&insert).await.is_ok(),
                            Err(_) => false,
                        };
                        if inserted {
                            completed = claim.complete(b"order").await.is_ok();
                        }
                    }
                    Begin::InFlight(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                    other => panic!("{name}: {other:?}"),
                }
            }
            let count = format!("SELECT count(*) FROM orders WHERE request = '{name}'");
            assert_eq!(server.sql(&database, &count).await.as_deref(), Some("1"), "{name}");
            if proxy.struck() == before {
                break;
            }
            statement += 1;
        }
        println!("{statement} statements");
        assert!(statement >= 6, "only {statement} statements were struck");
    });
}

#[test]
fn lost_before_the_server_has_it() {
    lost(Lose::Request);
}

#[test]
fn lost_before_its_answer_is_back() {
    lost(Lose::Answer);
}
