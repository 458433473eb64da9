//! Orders in SQLite, in one file.

use super::{NewOrder, Order, now_ms};
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::{path::Path, sync::Arc, time::Duration};
use tokio::sync::Mutex;

/// A handle of the database; clones share its connection.
#[derive(Clone)]
pub struct Sqlite(Arc<Mutex<Connection>>);

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

impl Sqlite {
    /// Opens (or creates) the database.
    pub fn open(file: &Path) -> rusqlite::Result<Self> {
        let database = Connection::open(file)?;
        database.busy_timeout(Duration::from_secs(10))?;
        database.execute_batch(SCHEMA)?;
        Ok(Sqlite(Arc::new(Mutex::new(database))))
    }

    /// Takes an order for a request. Durable when this returns. A second one for the same
    /// request is an error.
    pub async fn insert(&self, request: String, new: &NewOrder) -> rusqlite::Result<Order> {
        let NewOrder { item, quantity, .. } = new.clone();
        self.call(move |database| {
            let created_at = now_ms();
            database
                .prepare_cached(
                    "INSERT INTO orders (request, item, quantity, created_at)
                     VALUES (?1, ?2, ?3, ?4)",
                )?
                .execute(params![request, item, quantity, created_at])?;
            Ok(Order { id: database.last_insert_rowid(), item, quantity, created_at })
        })
        .await
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
