//! Keys in the SQLite database of the service itself, by rusqlite and by sqlx.

mod counted;
mod power;

use onlyonce::{
    conformance::{Facts, Subject},
    sql::*,
    *,
};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use std::{path::Path, time::Duration};

const PATIENCE: Duration = Duration::from_secs(60);

fn key(name: &str) -> KeyRef<'_> {
    static SCOPE: std::sync::LazyLock<Scope> =
        std::sync::LazyLock::new(|| Scope::of(["tenant", "orders"]));
    KeyRef::new(&SCOPE, name).unwrap()
}

fn print() -> Fingerprint {
    Fingerprint::of(["POST", "/orders", "book"])
}

fn done(response: &[u8]) -> spi::Completion<'_> {
    spi::Completion { response: Some(response), ..Default::default() }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let limit = Duration::from_secs(300);
    runtime.block_on(async { tokio::time::timeout(limit, future).await.expect("it hangs") })
}

const SETTINGS: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;";
const INSERT: &str = "INSERT INTO orders VALUES ('k')";

fn open(file: &Path) -> rusqlite::Result<rusqlite::Connection> {
    let database = rusqlite::Connection::open(file)?;
    database.busy_timeout(Duration::from_secs(20))?;
    database.execute_batch(SETTINGS)?;
    Ok(database)
}

fn shared(file: &Path) -> SharedSqlite {
    let file = file.to_owned();
    SharedSqlite::new(move || open(&file))
}

fn sqlx_pool(file: &Path) -> sqlx::SqlitePool {
    let options = SqliteConnectOptions::new()
        .filename(file)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::from_secs(20));
    SqlitePoolOptions::new().max_connections(8).connect_lazy_with(options)
}

/// A database with the tables in it, orders, and a clock that stands still until it is told to move.
fn database() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("service.db");
    let mut database = open(&file).unwrap();
    let clock = "CREATE TABLE test_clock (us INTEGER); \
                 INSERT INTO test_clock VALUES (1800000000000000); \
                 CREATE TABLE orders (request TEXT UNIQUE)";
    database.execute_batch(clock).unwrap();
    let keys = SqlOptions::sqlite().keys().unwrap();
    let missing = blocking(keys.check_in(&mut database));
    assert!(matches!(missing, Err(OpenError::NotMigrated { found: 0, .. })), "{missing:?}");
    blocking(keys.create_in(&mut database)).unwrap();
    // Repeatable.
    blocking(keys.create_in(&mut database)).unwrap();
    (dir, file)
}

fn advance(file: &Path, by: Duration) {
    let set = "UPDATE test_clock SET us = us + ?1";
    open(file).unwrap().execute(set, [by.as_micros() as i64]).unwrap();
}

fn orders(file: &Path) -> i64 {
    let count = "SELECT count(*) FROM orders";
    open(file).unwrap().query_row(count, [], |row| row.get(0)).unwrap()
}

fn manual() -> SqlOptions {
    let options = SqlOptions::sqlite().clock_us("(SELECT us FROM test_clock)");
    options.max_response(4096).deadline(PATIENCE)
}

struct InFile<P: Pool> {
    store: SqlStore<P>,
    file: std::path::PathBuf,
}

impl<P: Pool> Subject for InFile<P> {
    type Store = SqlStore<P>;

    fn store(&self) -> &SqlStore<P> {
        &self.store
    }

    async fn advance(&self, by: Duration) {
        advance(&self.file, by);
    }

    async fn settle(&self) {
        assert_eq!(self.store.drain(PATIENCE).await, 0);
    }

    async fn resolve(
        &self,
        key: KeyRef<'_>,
        resolution: Resolution<'_>,
        options: ResolveOptions<'_>,
    ) -> Option<Result<(), StoreError>> {
        Some(self.store.resolve_with(key, resolution, options).await)
    }

    fn facts(&self) -> Facts {
        Facts { max_response: 4096, knows_handles: false, callers: 40, ..Facts::default() }
    }
}

async fn conforms<P: Pool>(pool: P, file: &Path) {
    let store = manual().connect_with(pool).await.unwrap();
    let ran = conformance::run(&InFile { store, file: file.to_owned() }).await;
    assert!(ran.len() > 40, "{ran:?}");
}

#[test]
fn the_suite_on_rusqlite() {
    let (_dir, file) = database();
    block_on(async { conforms(shared(&file), &file).await });
}

#[test]
fn the_suite_on_a_pool_of_sqlx() {
    let (_dir, file) = database();
    block_on(async { conforms(sqlx_pool(&file), &file).await });
}

#[test]
fn outcomes_and_alarms_are_counted() {
    let (_dir, file) = database();
    block_on(async {
        let (options, pool) = (manual().max_attempts(2), shared(&file));
        let (one, two) = (options.connect_with(pool.clone()), options.connect_with(pool));
        let (one, two) = (one.await.unwrap(), two.await.unwrap());
        let advance = async |by| advance(&file, by);
        counted::outcomes_and_alarms_are_counted(one, two, advance).await;
    });
}

async fn send(connection: &mut impl Connection, text: &str) -> Result<Rows, SqlError> {
    connection.run(Statement::new(text, &[], &[])).await
}

fn executing(found: BeginIn) -> ClaimIn {
    match found {
        BeginIn::Execute(claim) => claim,
        other => panic!("no claim, but {other:?}"),
    }
}

/// Claim, effect and completion in transactions on this connection.
async fn in_transactions(keys: &Keys, file: &Path, one: &mut impl Connection) {
    send(one, "BEGIN IMMEDIATE").await.unwrap();
    let first = executing(keys.begin_in(one, key("k"), print(), Terms::default()).await.unwrap());
    send(one, INSERT).await.unwrap();
    keys.complete_in(one, &first, done(b"lost")).await.unwrap();
    // One transaction writes at a time: another one is told to try again.
    let mut other = rusqlite::Connection::open(file).unwrap();
    other.busy_timeout(Duration::from_millis(1)).unwrap();
    let busy = keys.begin_in(&mut other, key("other"), print(), Terms::default()).await;
    let Err(busy @ BeginError::Unavailable { .. }) = busy else { panic!("{busy:?}") };
    assert!(matches!(busy.retry(), Retry::After(_)), "{busy}");
    send(one, "ROLLBACK").await.unwrap();
    send(one, "BEGIN IMMEDIATE").await.unwrap();
    let again = executing(keys.begin_in(one, key("k"), print(), Terms::default()).await.unwrap());
    assert!(again.attempt() == 1 && again.after().is_none());
    assert_eq!(again.derive_key("order"), first.derive_key("order"));
    send(one, INSERT).await.unwrap();
    assert_eq!(send(one, INSERT).await.unwrap_err().kind(), SqlErrorKind::Unique);
    keys.complete_in(one, &again, done(b"order 1")).await.unwrap();
    keys.complete_in(one, &again, done(b"order 1")).await.unwrap();
    let differs = keys.complete_in(one, &again, done(b"order 2")).await;
    assert_eq!(differs, Err(ClaimError::DifferentResponse));
    send(one, "COMMIT").await.unwrap();
    assert_eq!(orders(file), 1);
    let found = keys.begin_in(one, key("k"), print(), Terms::default()).await.unwrap();
    let BeginIn::Replay(record) = found else { panic!("{found:?}") };
    assert_eq!(record.response(), Some(&b"order 1"[..]));
    let found = keys.begin_in(one, key("k"), Fingerprint::of(["x"]), Terms::default()).await;
    assert!(matches!(found, Ok(BeginIn::Mismatch { .. })), "{found:?}");
    let late = keys.complete_in(one, &first, done(b"late")).await;
    assert!(matches!(late, Err(ClaimError::Fenced | ClaimError::DifferentResponse)), "{late:?}");
}

#[test]
fn transactions_of_rusqlite() {
    let (_dir, file) = database();
    let keys = manual().keys().unwrap();
    let mut database = open(&file).unwrap();
    blocking(in_transactions(&keys, &file, &mut database));
    let immediate = rusqlite::TransactionBehavior::Immediate;
    let mut tx = database.transaction_with_behavior(immediate).unwrap();
    let found = blocking(keys.begin_in(&mut tx, key("k"), print(), Terms::default())).unwrap();
    assert!(matches!(found, BeginIn::Replay(_)), "{found:?}");
    tx.rollback().unwrap();
    // Long after: swept.
    assert_eq!(blocking(keys.sweep_in(&mut database)).unwrap(), 0);
    advance(&file, Duration::from_secs(27 * 3600));
    assert_eq!(blocking(keys.sweep_in(&mut database)).unwrap(), 1);
}

#[test]
fn transactions_of_sqlx() {
    let (_dir, file) = database();
    let keys = manual().keys().unwrap();
    block_on(async {
        let pool = sqlx_pool(&file);
        let mut one = pool.acquire().await.unwrap();
        in_transactions(&keys, &file, &mut *one).await;
        let mut tx = pool.begin().await.unwrap();
        let found = keys.begin_in(&mut tx, key("k"), print(), Terms::default()).await.unwrap();
        assert!(matches!(found, BeginIn::Replay(_)), "{found:?}");
    });
}

/// An interrupted key of the store is taken over in a transaction.
#[test]
fn an_interrupted_key_is_taken_over() {
    let (_dir, file) = database();
    block_on(async {
        let store = manual().connect_with(shared(&file)).await.unwrap();
        let face = AsyncStore::new(store.clone());
        let Begin::Execute(mut outside) = face.begin(key("k"), print()).await.unwrap() else {
            panic!("not granted")
        };
        outside.save_checkpoint(b"half").await.unwrap();
        drop(outside);
        assert_eq!(store.drain(PATIENCE).await, 0);
        let (keys, mut one) = (store.keys(), open(&file).unwrap());
        send(&mut one, "BEGIN IMMEDIATE").await.unwrap();
        let found = keys.begin_in(&mut one, key("k"), print(), Terms::default()).await.unwrap();
        let BeginIn::Interrupted(stuck) = found else { panic!("{found:?}") };
        assert_eq!((stuck.reason(), stuck.attempts()), (Reason::Dropped, 1));
        assert!(stuck.holder_gone() && stuck.checkpoint() == Some(b"half"));
        let claim = executing(keys.take_over_in(&mut one, stuck).await.unwrap());
        assert_eq!((claim.attempt(), claim.checkpoint()), (2, Some(&b"half"[..])));
        keys.complete_in(&mut one, &claim, done(b"order 1")).await.unwrap();
        send(&mut one, "COMMIT").await.unwrap();
        let found = face.begin(key("k"), print()).await.unwrap();
        assert!(matches!(found, Begin::Replay(_)), "{found:?}");
    });
}

/// Claims that are transactions.
async fn claims_are_transactions<P: Pool>(
    pool: P,
    file: &Path,
    insert: impl AsyncFn(&mut P::Connection) -> bool,
) {
    let store = manual().connect_with(pool).await.unwrap();
    let shop = AsyncStore::new(store.in_transactions());
    let claim = async || match shop.begin(key("k"), print()).await.unwrap() {
        Begin::Execute(claim) => claim,
        other => panic!("no claim, but {other:?}"),
    };
    let mut failed = claim().await;
    assert!(insert(&mut failed.transaction().await.unwrap()).await);
    failed.fail(b"500").await.unwrap();
    let dropped = claim().await;
    assert!(insert(&mut dropped.transaction().await.unwrap()).await);
    drop(dropped);
    assert_eq!(store.drain(PATIENCE).await, 0);
    assert_eq!(orders(file), 0);
    let mut held = claim().await;
    assert!(insert(&mut held.transaction().await.unwrap()).await);
    // The answer alone, then both.
    held.undo_effects().await.unwrap();
    let found = shop.begin(key("k"), print()).await.unwrap();
    let Begin::InFlight(pending) = found else { panic!("{found:?}") };
    let waiting = tokio::spawn(pending.wait(PATIENCE));
    assert!(insert(&mut held.transaction().await.unwrap()).await);
    held.complete(b"order 1").await.unwrap();
    held.complete(b"order 1").await.unwrap();
    assert_eq!(held.complete(b"other").await, Err(ClaimError::DifferentResponse));
    let found = waiting.await.unwrap().unwrap();
    assert!(matches!(found, Begin::Replay(_)), "{found:?}");
    assert_eq!(orders(file), 1);
}

#[test]
fn claims_are_transactions_of_rusqlite() {
    let (_dir, file) = database();
    block_on(claims_are_transactions(shared(&file), &file, async |connection| {
        let inserting =
            connection.call(|database| database.execute(INSERT, []).map_err(SqlError::lost));
        inserting.await.is_ok()
    }));
}

#[test]
fn claims_are_transactions_of_sqlx() {
    let (_dir, file) = database();
    block_on(async {
        claims_are_transactions(sqlx_pool(&file), &file, async |connection| {
            sqlx::query(INSERT).execute(&mut **connection).await.is_ok()
        })
        .await
    });
}
