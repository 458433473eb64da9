//! The orders database: what must not get an order twice. SQLite in one file, or a table beside the
//! keys in PostgreSQL.

mod postgres;
mod sqlite;

use onlyonce::{
    http::Attempt,
    postgres::TransactionStore,
    sql::{SharedSqlite, SqlTransactions},
};
use postgres::Postgres;
use serde::{Deserialize, Serialize};
pub use sqlite::{Sqlite, SqliteTx, connection as sqlite_connection};
use std::{
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

/// What a client asks for.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NewOrder {
    /// What.
    pub item: String,
    /// How many.
    pub quantity: u32,
    /// Makes the handler slow, for trying things.
    #[serde(default)]
    pub delay_ms: u32,
}

impl NewOrder {
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), &'static str> {
        match self {
            NewOrder { item, .. } if !(1..=200).contains(&item.len()) => {
                Err("item has 1 to 200 bytes")
            }
            NewOrder { quantity: 0, .. } => Err("quantity is at least 1"),
            NewOrder { delay_ms, .. } if *delay_ms > 600_000 => {
                Err("delay_ms is at most 600000, ten minutes")
            }
            _ => Ok(()),
        }
    }
}

/// An order that was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Order {
    /// Its number.
    pub id: i64,
    /// What.
    pub item: String,
    /// How many.
    pub quantity: u32,
    /// When, in milliseconds since 1970.
    pub created_at: i64,
}

/// A handle of the database; clones are handles of the same one.
#[derive(Clone)]
pub enum Orders {
    /// Beside an embedded store: an attempt that died is found by the key that is derived for it.
    Sqlite(Sqlite),
    /// In the transactions of a store on the same database: an attempt that died has done nothing.
    Postgres(Postgres),
    /// The same in SQLite.
    SqliteTx(SqliteTx),
}

impl Orders {
    /// Opens (or creates) a database in a file.
    pub fn open(file: &Path) -> anyhow::Result<Self> {
        Ok(Orders::Sqlite(Sqlite::open(file)?))
    }

    /// Opens (or creates) the table in PostgreSQL; orders are taken in transactions of `store`, if
    /// there is one.
    pub async fn connect(dsn: &str, store: Option<TransactionStore>) -> anyhow::Result<Self> {
        Ok(Orders::Postgres(Postgres::open(dsn, store).await?))
    }

    /// Opens the database that has the keys, too; orders are taken in transactions of `claims`.
    pub fn beside(file: &Path, claims: SqlTransactions<SharedSqlite>) -> anyhow::Result<Self> {
        Ok(Orders::SqliteTx(SqliteTx::new(file, claims)?))
    }

    /// Takes an order for a request. Durable when this returns, or when its attempt's transaction
    /// is completed. A second one for the same request is an error.
    pub async fn insert(&self, attempt: &Attempt, new: &NewOrder) -> anyhow::Result<Order> {
        match self {
            Orders::Sqlite(orders) => Ok(orders.insert(attempt.derive_key("order"), new).await?),
            Orders::Postgres(orders) => orders.insert(attempt, new).await,
            Orders::SqliteTx(orders) => orders.insert(attempt, new).await,
        }
    }

    /// The order of a request, if it was taken.
    pub async fn of_request(&self, request: String) -> anyhow::Result<Option<Order>> {
        match self {
            Orders::Sqlite(orders) => Ok(orders.of_request(request).await?),
            Orders::Postgres(orders) => orders.of_request(request).await,
            Orders::SqliteTx(orders) => Ok(orders.reader().of_request(request).await?),
        }
    }

    /// The order with this number.
    pub async fn with_id(&self, id: i64) -> anyhow::Result<Option<Order>> {
        match self {
            Orders::Sqlite(orders) => Ok(orders.with_id(id).await?),
            Orders::Postgres(orders) => orders.with_id(id).await,
            Orders::SqliteTx(orders) => Ok(orders.reader().with_id(id).await?),
        }
    }

    /// All orders whose item starts so, by number.
    pub async fn all(&self, item_prefix: &str) -> anyhow::Result<Vec<Order>> {
        match self {
            Orders::Sqlite(orders) => Ok(orders.all(item_prefix).await?),
            Orders::Postgres(orders) => orders.all(item_prefix).await,
            Orders::SqliteTx(orders) => Ok(orders.reader().all(item_prefix).await?),
        }
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_millis() as i64
}
