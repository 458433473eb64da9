//! The options of a table of keys: which database, which table, the terms of its claims.

use super::{
    connection::Pool,
    dialect::{Dialect, POSTGRES_US, SQLITE_US},
    keys::Keys,
    schema::Names,
    store::SqlStore,
    terms::Bounds,
};
use crate::{
    error::OpenError,
    limits::{LEASE_MAX_MS, RESPONSE_BYTES_MAX, RETENTION_MAX_MS},
    options::{check_retention, lease_out_of_bounds},
    record::Retention,
};
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Engine {
    Postgres,
    Portable,
    Sqlite,
}

/// The options of a table of keys in a database of the caller's.
#[derive(Clone, Debug)]
#[must_use]
pub struct SqlOptions {
    engine: Engine,
    schema: Option<String>,
    table: String,
    clock_us: String,
    lock_timeout: Duration,
    unsynced: bool,
    bounds: Bounds,
    pub(super) deadline: Duration,
    pub(super) execution_limit: Duration,
}

impl SqlOptions {
    /// Makes the options of a table in PostgreSQL, the same that
    /// `postgres::PostgresStore` uses. Connections must keep sessions, or
    /// use no prepared statements.
    pub fn postgres() -> Self {
        Self::of(Engine::Postgres, POSTGRES_US)
    }

    /// Makes the options of a table in an engine that speaks PostgreSQL's language: statements that
    /// use nothing beyond the common subset, each of which names one key. Sweeping goes key by key.
    pub fn portable() -> Self {
        Self::of(Engine::Portable, POSTGRES_US)
    }

    /// Makes the options of a table in SQLite (3.35 or later).
    pub fn sqlite() -> Self {
        Self::of(Engine::Sqlite, SQLITE_US)
    }

    fn of(engine: Engine, clock_us: &str) -> Self {
        SqlOptions {
            engine,
            schema: None,
            table: "onlyonce".into(),
            clock_us: clock_us.into(),
            lock_timeout: Duration::from_millis(500),
            unsynced: false,
            bounds: Bounds {
                lease: Duration::from_secs(60),
                retention: Retention::of(Duration::from_secs(24 * 3600)),
                interrupted_retention: None,
                max_attempts: 5,
                max_response: 256 << 10,
            },
            deadline: Duration::from_secs(10),
            execution_limit: Duration::from_secs(15 * 60),
        }
    }

    /// Sets the schema that holds the table. Default: the one that the connection finds first.
    pub fn schema(mut self, name: impl Into<String>) -> Self {
        self.schema = Some(name.into());
        self
    }

    /// Sets the table's name. Default: `onlyonce`; `onlyonce_schema` and `onlyonce_sessions` are
    /// beside it.
    pub fn table(mut self, name: impl Into<String>) -> Self {
        self.table = name.into();
        self
    }

    /// Sets how long a holder may be silent. Default: 60 s.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.bounds.lease = lease;
        self
    }

    /// Sets how long completed records are kept. Default: 24 h.
    pub fn retention(mut self, retention: impl Into<Retention>) -> Self {
        self.bounds.retention = retention.into();
        self
    }

    /// Sets how long an interrupted key is kept. Default: as long as its record would be, at least
    /// a week.
    pub fn interrupted_retention(mut self, window: Duration) -> Self {
        self.bounds.interrupted_retention = Some(window);
        self
    }

    /// Sets how many attempts at one key are granted. Default: 5.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.bounds.max_attempts = attempts;
        self
    }

    /// Sets the size of the largest response in bytes. Default: 256 KiB.
    pub fn max_response(mut self, bytes: usize) -> Self {
        self.bounds.max_response = bytes;
        self
    }

    /// Sets how long a claim waits for a transaction that has the same key. Default: 0.5 s. Only
    /// with [`postgres`](Self::postgres): elsewhere the connection's own setting counts. A store's
    /// claims don't use a connection all the while, [`Keys`]' do.
    pub fn lock_timeout(mut self, limit: Duration) -> Self {
        self.lock_timeout = limit;
        self
    }

    /// Allows connections of SQLite whose commits are not synced (`PRAGMA synchronous = NORMAL` or
    /// `OFF`): a loss of power can then take back completions that were acknowledged, and a retry
    /// executes again. Default: they are refused.
    pub fn unsynced_commits(mut self, allow: bool) -> Self {
        self.unsynced = allow;
        self
    }

    /// Sets how long a call of a store may take, with its tries and its wait for a connection.
    /// Default: 10 s.
    pub fn deadline(mut self, limit: Duration) -> Self {
        self.deadline = limit;
        self
    }

    /// Sets how long a claim is kept alive by itself (`Terms::keep_alive`), and how long a claim
    /// that is a transaction may last before its connection is ended; one in which a statement runs
    /// is ended after it. Default: 15 minutes.
    pub fn execution_limit(mut self, limit: Duration) -> Self {
        self.execution_limit = limit;
        self
    }

    /// Sets the SQL expression of the present time in microseconds since 1970: for tests, and for
    /// engines that don't allow the default one.
    pub fn clock_us(mut self, expression: impl Into<String>) -> Self {
        self.clock_us = expression.into();
        self
    }

    /// Returns the table, for transactions of the caller's own.
    ///
    /// # Errors
    /// [`OpenError::Options`] for options out of bounds.
    pub fn keys(&self) -> Result<Keys, OpenError> {
        self.keys_waiting(self.lock_timeout)
    }

    /// The table, with claims that wait for a lock for so long.
    pub(super) fn keys_waiting(&self, lock_timeout: Duration) -> Result<Keys, OpenError> {
        let bounds = &self.bounds;
        let lease = bounds.lease.as_millis();
        if !(1..=u128::from(LEASE_MAX_MS)).contains(&lease) {
            return Err(OpenError::options(lease_out_of_bounds(bounds.lease)));
        }
        check_retention(bounds.retention, lease as u64).map_err(OpenError::options)?;
        if !(1..=RESPONSE_BYTES_MAX).contains(&bounds.max_response) {
            let what = format!("max_response is 1 to {RESPONSE_BYTES_MAX} bytes");
            return Err(OpenError::options(what));
        }
        let window = bounds.interrupted_retention.unwrap_or(Duration::from_millis(1)).as_millis();
        if !(1..=u128::from(RETENTION_MAX_MS)).contains(&window) {
            let what = "interrupted_retention is 1 ms to ten years";
            return Err(OpenError::options(what.to_owned()));
        }
        let dialect = match self.engine {
            Engine::Postgres => {
                Dialect::postgres(&self.clock_us, Some(lock_timeout), "'off', 'local'")
            }
            Engine::Portable => Dialect::portable(&self.clock_us),
            Engine::Sqlite => Dialect::sqlite(&self.clock_us, self.unsynced),
        };
        let names = Names::new(self.schema.as_deref(), &self.table);
        Ok(Keys::of(names, *bounds, dialect))
    }

    /// How long a store's call waits for a key that is locked, in tries; zero where the connection's
    /// own setting is all that counts.
    pub(super) fn patience(&self) -> Duration {
        match self.engine {
            Engine::Postgres => self.lock_timeout,
            Engine::Portable | Engine::Sqlite => Duration::ZERO,
        }
    }

    /// Opens a store on a pool of the caller's. Must be called on a tokio runtime with time, on
    /// which the store's tasks run; its futures can be polled anywhere.
    ///
    /// # Errors
    /// As with [`keys`](Self::keys); [`OpenError::NotMigrated`] or [`OpenError::Newer`] if the
    /// tables are missing or have another version ([`Keys::create_in`] creates them);
    /// [`OpenError::Unreachable`] if there is no connection; [`OpenError::Options`] if SQLite doesn't
    /// sync the connection's commits ([`unsynced_commits`](Self::unsynced_commits)).
    pub async fn connect_with<P: Pool>(&self, pool: P) -> Result<SqlStore<P>, OpenError> {
        SqlStore::open(self, pool).await
    }
}
