//! Forgetting all keys of a scope, and the decisions about them.

use super::{inner::Inner, store::PostgresStore, tries::Backoff};
use crate::{error::StoreError, key::Scope, spi::Erased};
use std::time::Duration;

/// Rows of one statement.
const BATCH: i64 = 2000;
/// How long one statement may take.
const LIMIT: Duration = Duration::from_secs(60);

impl PostgresStore {
    /// Forgets all keys of a scope, whatever their state, and the decisions about them; their retries
    /// execute again. Keys in flight are left, unless `force`: then their holders are fenced. It
    /// works in small transactions, and can be repeated when it was interrupted. It is committed when
    /// this returns.
    ///
    /// The rows are deleted, not overwritten: `docs/operations.md` says what the server's files, its
    /// log and its backups still have of them, and for how long.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if no server answers before the deadline; part of the scope may
    /// have been erased by then.
    pub async fn erase_scope(&self, scope: &Scope, force: bool) -> Result<Erased, StoreError> {
        let (inner, scope) = (self.inner().clone(), scope.as_bytes().to_vec());
        self.spawn(async move { inner.erase(&scope, force).await }).await
    }
}

impl Inner {
    async fn erase(&self, scope: &[u8], force: bool) -> Result<Erased, StoreError> {
        let mut erased = Erased::default();
        loop {
            let gone = self.deleted(&self.sql.erase, scope, force).await?;
            erased.keys += gone;
            if gone < BATCH as u64 {
                break;
            }
        }
        // After the keys: a decision that is taken meanwhile is about one of them.
        loop {
            let gone = self.deleted(&self.sql.erase_decisions, scope, force).await?;
            erased.decisions += gone;
            if gone < BATCH as u64 {
                break;
            }
        }
        let mut tries = Backoff::new(LIMIT, LIMIT);
        erased.held = loop {
            match self.query(&tries, &self.sql.held_in, &[&scope]).await {
                Ok(rows) => break rows.first().map_or(0, |row| row.get::<_, i64>(0)) as u64,
                Err(trouble) => tries.again(trouble).await?,
            }
        };
        self.changes.wake_all();
        Ok(erased)
    }

    /// One batch. A try whose outcome is unknown is repeated: what it has deleted isn't counted.
    async fn deleted(&self, sql: &str, scope: &[u8], force: bool) -> Result<u64, StoreError> {
        let mut tries = Backoff::new(self.options.deadline.max(LIMIT), LIMIT);
        loop {
            match self.execute(&tries, sql, &[&scope, &BATCH, &force]).await {
                Ok(gone) => {
                    self.confirm(&mut tries).await?;
                    return Ok(gone);
                }
                Err(trouble) => tries.again(trouble).await?,
            }
        }
    }
}
