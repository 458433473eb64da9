//! A claim in a transaction of the caller's own, on a connection of the caller's own.
//!
//! A service whose orders are in a database can have its idempotency keys in the same one, and
//! claim, effect and answer in one transaction, with the library that it uses anyway: sqlx,
//! diesel-async, SeaORM, tokio-postgres, deadpool-postgres, rusqlite. Then there is nothing to
//! settle: all three exist, or none.
//!
//! ```
//! # #[cfg(all(feature = "rusqlite", feature = "sqlx-sqlite"))]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use onlyonce::{Fingerprint, KeyRef, Scope, spi::{Completion, Terms}};
//! use onlyonce::sql::{BeginIn, SqlOptions, blocking};
//!
//! let mut database = rusqlite::Connection::open_in_memory()?;
//! database.execute_batch("CREATE TABLE orders (item TEXT NOT NULL)")?;
//! let keys = SqlOptions::sqlite().keys()?;
//! blocking(keys.create_in(&mut database))?;
//!
//! let scope = Scope::of(["tenant-7", "orders"]);
//! let key = KeyRef::new(&scope, "8e03978e")?;
//! let print = Fingerprint::of(["order", "book"]);
//! for _ in 0..2 {
//!     let mut tx = database.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
//!     match blocking(keys.begin_in(&mut tx, key, print, Terms::default()))? {
//!         BeginIn::Execute(claim) => {
//!             tx.execute("INSERT INTO orders VALUES ('book')", [])?;
//!             let done = Completion { response: Some(b"order 1"), ..Completion::default() };
//!             blocking(keys.complete_in(&mut tx, &claim, done))?;
//!             tx.commit()?; // all three, or none
//!         }
//!         BeginIn::Replay(record) => assert_eq!(record.response(), Some(&b"order 1"[..])),
//!         other => panic!("{other:?}"),
//!     }
//! }
//! let orders: i64 = database.query_row("SELECT count(*) FROM orders", [], |row| row.get(0))?;
//! assert_eq!(orders, 1);
//! # Ok(()) }
//! # #[cfg(not(all(feature = "rusqlite", feature = "sqlx-sqlite")))]
//! # fn main() {}
//! ```
//!
//! There are three ways, each on the same table:
//!
//! - [`Keys`]: claim and completion in a transaction that the caller has begun, as above. With
//!   `postgres::PostgresStore::begin_in` the same beside a store
//!   that has connections of its own.
//! - [`SqlStore`]: a backend on a [`Pool`] of the caller's, for [`AsyncStore`](crate::AsyncStore),
//!   `once` and the HTTP layer. Claims and completions are transactions of their own.
//! - [`SqlStore::in_transactions`]: the same with every claim in a transaction, in which the
//!   operation writes its effect.
//!
//! # Databases
//!
//! [`SqlOptions::postgres`] is for PostgreSQL, [`SqlOptions::sqlite`] for SQLite 3.35 or later.
//! [`SqlOptions::portable`] uses nothing of PostgreSQL that the engines that speak its language
//! leave out (no notifications, no advisory locks, no settings, one key in each statement):
//! `docs/portable.md` goes through CockroachDB, YugabyteDB and Citus.
//!
//! # Errors
//!
//! The connections tell what an error means ([`SqlErrorKind`]). A serialization failure (40001), a
//! deadlock, a prepared statement that is gone (26000) or has other columns (0A000), a busy SQLite
//! database: nothing was executed, the transaction is to be rolled back, and everything can be tried
//! again under the same key ([`BeginError::Unavailable`], [`ClaimError::Unavailable`], whose
//! `retry` says so). A unique column of the caller's own is the caller's own statement, and the
//! caller's own error. If the caller's `COMMIT` fails without an answer, its outcome is unknown: do
//! everything again with the same key, which replays if it was committed, and executes if not.
//!
//! # What survives
//!
//! What the database keeps of its own commits. On PostgreSQL a lowered `synchronous_commit` is
//! raised in the transactions that claim and complete. SQLite must be set by the service:
//! `journal_mode = WAL` with `synchronous = FULL` survives a kill and a loss of power; with
//! `NORMAL` a loss of power can take back the last commits, acknowledged or not; both survive a kill.
//!
//! [`BeginError::Unavailable`]: crate::BeginError::Unavailable
//! [`ClaimError::Unavailable`]: crate::ClaimError::Unavailable

mod connection;
pub(crate) mod counts;
pub(crate) mod crowd;
pub(crate) mod dialect;
pub(crate) mod drivers;
pub(crate) mod here;
pub(crate) mod keys;
pub(crate) mod op;
pub(crate) mod operator;
mod options;
pub(crate) mod row;
pub(crate) mod schema;
mod statements;
mod store;
mod sweep;
pub(crate) mod terms;
mod transactions;
mod tries;
pub(crate) mod unsure;
#[cfg(feature = "metrics")]
mod watched;

pub use connection::{Connection, Kind, Pool, Rows, SqlError, SqlErrorKind, Statement, Value};
pub use counts::Counts;
#[cfg(feature = "rusqlite")]
pub use drivers::{SharedSqlite, SharedSqliteConnection};
pub use keys::{BeginIn, ClaimIn, InterruptedIn, Keys};
pub use options::SqlOptions;
pub use store::SqlStore;
pub use transactions::{InTransaction, SqlTransactions, Transactional};

use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
};

/// The value of a future that never waits, as those of [`Keys`] on a connection of rusqlite.
///
/// # Panics
/// If it waits.
pub fn blocking<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("this future waits: it needs a runtime"),
    }
}
