//! The contenders: the store, and the least that could be written by hand instead.

use onlyonce::{
    AsyncStore, Begin, Completion, Fingerprint, KeyRef, Scope, Terms,
    postgres::{BeginIn, PostgresStore},
};
use std::{
    future::Future,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
};
use tokio::sync::Mutex;
use tokio_postgres::{Client, NoTls, Statement};

type Boxed<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// A client that does one operation after the other.
pub trait Contender: Send + Sync + 'static {
    /// One operation of this client's.
    fn run(&self, client: usize) -> Boxed<'_>;
}

static NEXT: AtomicU64 = AtomicU64::new(0);

/// A key that has not been used.
fn fresh() -> String {
    format!("{:032x}", (NEXT.fetch_add(1, Ordering::Relaxed)).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn scope() -> Scope {
    Scope::of(["tenant-7", "orders"])
}

const RESPONSE: [u8; 200] = [7; 200];

/// Claim and complete.
pub struct Ours(pub PostgresStore);

impl Contender for Ours {
    fn run(&self, _: usize) -> Boxed<'_> {
        Box::pin(async {
            let (scope, name) = (scope(), fresh());
            let key = KeyRef::new(&scope, &name).unwrap();
            let store = AsyncStore::new(self.0.clone());
            let Begin::Execute(mut claim) =
                store.begin(key, Fingerprint::of(["book", "1"])).await.unwrap()
            else {
                panic!("a fresh key is not free")
            };
            claim.complete(&RESPONSE).await.unwrap();
        })
    }
}

/// One completed key, again and again.
pub struct Replays(PostgresStore);

impl Replays {
    pub async fn new(store: PostgresStore) -> Self {
        let scope = scope();
        let key = KeyRef::new(&scope, "replayed").unwrap();
        let face = AsyncStore::new(store.clone());
        if let Begin::Execute(mut claim) = face.begin(key, Fingerprint::of(["b"])).await.unwrap() {
            claim.complete(&RESPONSE).await.unwrap();
        }
        Replays(store)
    }
}

impl Contender for Replays {
    fn run(&self, _: usize) -> Boxed<'_> {
        Box::pin(async {
            let scope = scope();
            let key = KeyRef::new(&scope, "replayed").unwrap();
            let store = AsyncStore::new(self.0.clone());
            let found = store.begin(key, Fingerprint::of(["b"])).await.unwrap();
            assert!(matches!(found, Begin::Replay(_)));
        })
    }
}

async fn connect(dsn: &str) -> Client {
    let mut config: tokio_postgres::Config = dsn.parse().unwrap();
    config.target_session_attrs(tokio_postgres::config::TargetSessionAttrs::ReadWrite);
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// The least: a row is inserted if there is none, and updated when the work is done. No tokens, no
/// leases, no fingerprints, no repetition; its index serves the deletion of what has expired.
pub struct Hand(Vec<Mutex<(Client, Statement, Statement)>>);

impl Hand {
    pub async fn create(dsn: &str) {
        let create = "CREATE TABLE IF NOT EXISTS hand (
            scope bytea NOT NULL, key bytea NOT NULL, state smallint NOT NULL,
            expires_at timestamptz NOT NULL, response bytea, PRIMARY KEY (scope, key));
            CREATE INDEX IF NOT EXISTS hand_expires ON hand (expires_at)";
        connect(dsn).await.batch_execute(create).await.unwrap();
    }

    pub async fn connect(dsn: &str, clients: usize) -> Self {
        let mut all = Vec::new();
        for _ in 0..clients {
            let client = connect(dsn).await;
            let insert = "INSERT INTO hand VALUES ($1, $2, 1, now() + interval '1 day', NULL) \
                          ON CONFLICT (scope, key) DO NOTHING";
            let update = "UPDATE hand SET state = 2, response = $3 \
                          WHERE scope = $1 AND key = $2 AND state = 1";
            let insert = client.prepare(insert).await.unwrap();
            let update = client.prepare(update).await.unwrap();
            all.push(Mutex::new((client, insert, update)));
        }
        Hand(all)
    }
}

impl Contender for Hand {
    fn run(&self, client: usize) -> Boxed<'_> {
        Box::pin(async move {
            let (scope, name) = (scope(), fresh());
            let (scope, key) = (scope.as_bytes(), name.as_bytes());
            let mine = self.0[client].lock().await;
            let (client, insert, update) = &*mine;
            assert_eq!(client.execute(insert, &[&scope, &key]).await.unwrap(), 1);
            let done = client.execute(update, &[&scope, &key, &&RESPONSE[..]]).await.unwrap();
            assert_eq!(done, 1);
        })
    }
}

const ORDER: &str = "INSERT INTO orders (request, item, quantity) VALUES ($1, 'book', 1)";

/// The transaction of an order without any key: what the operation costs anyway.
pub struct Business(Vec<Mutex<(Client, Statement)>>);

impl Business {
    pub async fn create(dsn: &str) {
        let create = "CREATE TABLE IF NOT EXISTS orders (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            request text NOT NULL UNIQUE, item text NOT NULL, quantity bigint NOT NULL)";
        connect(dsn).await.batch_execute(create).await.unwrap();
    }

    pub async fn connect(dsn: &str, clients: usize) -> Self {
        let mut all = Vec::new();
        for _ in 0..clients {
            let client = connect(dsn).await;
            let order = client.prepare(ORDER).await.unwrap();
            all.push(Mutex::new((client, order)));
        }
        Business(all)
    }
}

impl Contender for Business {
    fn run(&self, client: usize) -> Boxed<'_> {
        Box::pin(async move {
            let name = fresh();
            let mut mine = self.0[client].lock().await;
            let (client, order) = &mut *mine;
            let transaction = client.transaction().await.unwrap();
            transaction.execute(&*order, &[&name]).await.unwrap();
            transaction.commit().await.unwrap();
        })
    }
}

/// The same order with its key, claimed and completed in its transaction.
pub struct SameTransaction {
    store: PostgresStore,
    /// As a service has it: connections that keep their prepared statements.
    clients: Vec<Mutex<deadpool_postgres::ClientWrapper>>,
}

impl SameTransaction {
    pub async fn connect(dsn: &str, clients: usize, store: PostgresStore) -> Self {
        let mut all = Vec::new();
        for _ in 0..clients {
            let mut config: tokio_postgres::Config = dsn.parse().unwrap();
            config.target_session_attrs(tokio_postgres::config::TargetSessionAttrs::ReadWrite);
            let (client, connection) = config.connect(NoTls).await.unwrap();
            let driver = tokio::spawn(async move { drop(connection.await) });
            all.push(Mutex::new(deadpool_postgres::ClientWrapper::new(client, driver)));
        }
        SameTransaction { store, clients: all }
    }
}

impl Contender for SameTransaction {
    fn run(&self, client: usize) -> Boxed<'_> {
        Box::pin(async move {
            let (scope, name) = (scope(), fresh());
            let key = KeyRef::new(&scope, &name).unwrap();
            let mut mine = self.clients[client].lock().await;
            let mut tx = mine.transaction().await.unwrap();
            let print = Fingerprint::of(["book", "1"]);
            let found = self.store.begin_in(&mut tx, key, print, Terms::default()).await.unwrap();
            let BeginIn::Execute(claim) = found else { panic!("a fresh key is not free") };
            let order = tx.prepare_cached(ORDER).await.unwrap();
            tx.execute(&order, &[&name]).await.unwrap();
            let done = Completion { response: Some(&RESPONSE), ..Completion::default() };
            self.store.complete_in(&mut tx, &claim, done).await.unwrap();
            tx.commit().await.unwrap();
        })
    }
}
