//! Orders in SQLite, in one file.

use super::{NewOrder, Order, now_ms};
use onlyonce::{
    http::Attempt,
    sql::{SharedSqlite, SqlTransactions},
};
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::{path::Path, sync::Arc, time::Duration};
use tokio::sync::Mutex;

/// A handle of the database; clones share its connection.
#[derive(Clone)]
pub struct Sqlite(Arc<Mutex<Connection>>);

/// The same database with the keys in it: an order is taken in its attempt's transaction.
#[derive(Clone)]
pub struct SqliteTx {
    claims: SqlTransactions<SharedSqlite>,
    reader: Sqlite,
}

impl SqliteTx {
    /// Orders in the database of the claims.
    pub fn new(file: &Path, claims: SqlTransactions<SharedSqlite>) -> rusqlite::Result<Self> {
        Ok(SqliteTx { claims, reader: Sqlite::open(file)? })
    }

    /// For reading.
    pub fn reader(&self) -> &Sqlite {
        &self.reader
    }

    /// Takes an order in its attempt's transaction: it exists when the attempt's answer does.
    pub async fn insert(&self, attempt: &Attempt, new: &NewOrder) -> anyhow::Result<Order> {
        let (request, new) = (attempt.derive_key("order"), new.clone());
        let mut transaction = attempt.transaction(&self.claims).await?;
        transaction.call(move |database| Ok(insert(database, request, new)?)).await
    }
}

/// `request` is the key that the idempotency store derives for the step "insert the order", the
/// same at every attempt: by it an attempt that died half way is found, and a second order for
/// one request is refused even if everything else fails.
const SCHEMA: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    CREATE TABLE IF NOT EXISTS orders (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        request TEXT NOT NULL UNIQUE,
        item TEXT NOT NULL,
        quantity INTEGER NOT NULL,
        created_at INTEGER NOT NULL
    ) STRICT;";

const COLUMNS: &str = "SELECT id, item, quantity, created_at FROM orders";

/// Opens (or creates) the database.
pub fn connection(file: &Path) -> rusqlite::Result<Connection> {
    let database = Connection::open(file)?;
    database.busy_timeout(Duration::from_secs(10))?;
    database.execute_batch(SCHEMA)?;
    Ok(database)
}

fn insert(database: &Connection, request: String, new: NewOrder) -> rusqlite::Result<Order> {
    let NewOrder { item, quantity, .. } = new;
    let created_at = now_ms();
    database
        .prepare_cached(
            "INSERT INTO orders (request, item, quantity, created_at)
             VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![request, item, quantity, created_at])?;
    Ok(Order { id: database.last_insert_rowid(), item, quantity, created_at })
}

impl Sqlite {
    /// Opens (or creates) the database.
    pub fn open(file: &Path) -> rusqlite::Result<Self> {
        Ok(Sqlite(Arc::new(Mutex::new(connection(file)?))))
    }

    /// Takes an order for a request. Durable when this returns. A second one for the same
    /// request is an error.
    pub async fn insert(&self, request: String, new: &NewOrder) -> rusqlite::Result<Order> {
        let new = new.clone();
        self.call(move |database| insert(database, request, new)).await
    }

    /// The order of a request, if it was taken. Waits for an insert that is still at it.
    pub async fn of_request(&self, request: String) -> rusqlite::Result<Option<Order>> {
        self.call(move |database| {
            let mut find = database.prepare_cached(&format!("{COLUMNS} WHERE request = ?1"))?;
            find.query_row([request], order).optional()
        })
        .await
    }

    /// The order with this number.
    pub async fn with_id(&self, id: i64) -> rusqlite::Result<Option<Order>> {
        self.call(move |database| {
            let mut find = database.prepare_cached(&format!("{COLUMNS} WHERE id = ?1"))?;
            find.query_row([id], order).optional()
        })
        .await
    }

    /// All orders whose item starts so, by number.
    pub async fn all(&self, item_prefix: &str) -> rusqlite::Result<Vec<Order>> {
        let prefix = item_prefix.to_owned();
        self.call(move |database| {
            database
                .prepare_cached(&format!(
                    "{COLUMNS} WHERE substr(item, 1, length(?1)) = ?1 ORDER BY id"
                ))?
                .query_map([prefix], order)?
                .collect()
        })
        .await
    }

    /// Runs `work` where blocking is allowed, one call at a time. It runs to its end even if the
    /// future is dropped.
    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> rusqlite::Result<T> {
        let database = self.0.clone().lock_owned().await;
        match tokio::task::spawn_blocking(move || work(&database)).await {
            Ok(done) => done,
            Err(failed) => std::panic::resume_unwind(failed.into_panic()),
        }
    }
}

fn order(row: &Row<'_>) -> rusqlite::Result<Order> {
    Ok(Order { id: row.get(0)?, item: row.get(1)?, quantity: row.get(2)?, created_at: row.get(3)? })
}
