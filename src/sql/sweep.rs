//! Rows whose key has long been absent are removed. Nothing depends on it but the table's size.

use super::{
    connection::{Connection, Kind, Pool, SqlError, Statement, Value},
    keys::Keys,
    store::{SqlStore, silent},
    tries::Lent,
};
use crate::error::StoreError;
use tokio::time::{Instant, timeout_at};

/// Rows of one statement.
const BATCH: i64 = 1000;

/// What a part of a sweep has done.
#[derive(Clone, Copy, Debug, Default)]
struct Part {
    removed: u64,
    postponed: u64,
    /// Interrupted keys that were forgotten unresolved.
    interrupted: u64,
}

impl Keys {
    /// Removes rows that expired at least ten minutes ago, and returns how many: some at a time,
    /// until none is left. In portable statements key by key, otherwise in batches, whose rows are
    /// locked; those that others have locked are left for the next time.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if the connection or the server fails.
    pub async fn sweep_in(&self, connection: &mut impl Connection) -> Result<u64, StoreError> {
        let mut removed = 0;
        loop {
            let part = self.sweep_part(connection).await?;
            if part.interrupted > 0 {
                crate::observe::events::interrupted_expired(part.interrupted);
            }
            removed += part.removed;
            if part.removed + part.postponed < BATCH as u64 / 2 {
                return Ok(removed);
            }
        }
    }

    async fn sweep_part(&self, connection: &mut impl Connection) -> Result<Part, SqlError> {
        let (sql, most) = (self.sql(), [BATCH.into()]);
        let mut part = Part::default();
        if !self.dialect().one_key {
            let gone = connection.run(Statement::new(&sql.sweep, &most, &[Kind::Int])).await?;
            gone.iter().for_each(|row| part.count(row));
            let later = Statement::new(&sql.sweep_later, &most, &[Kind::Int]);
            part.postponed = connection.run(later).await?.len() as u64;
        } else {
            let kinds = [Kind::Bytes, Kind::Bytes, Kind::Int];
            let due = connection.run(Statement::new(&sql.due, &most, &kinds)).await?;
            for row in due {
                let [scope, key, Value::Int(Some(expired))] = &row[..] else { continue };
                let params = [scope.clone(), key.clone()];
                let one = if *expired == 1 { &sql.remove } else { &sql.postpone };
                let rows = connection.run(Statement::new(one, &params, &[Kind::Int])).await?;
                match expired {
                    1 => rows.iter().for_each(|row| part.count(row)),
                    _ => part.postponed += rows.len() as u64,
                }
            }
        }
        Ok(part)
    }
}

impl Part {
    fn count(&mut self, removed: &[Value<'_>]) {
        self.removed += 1;
        self.interrupted += u64::from(matches!(removed, [Value::Int(Some(1 | 2))]));
    }
}

impl<P: Pool> SqlStore<P> {
    /// Removes rows that expired at least ten minutes ago, and returns how many there were. Call it
    /// at intervals, in any process; nothing depends on it but the table's size.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if there is no connection, or the server fails.
    pub async fn sweep(&self) -> Result<u64, StoreError> {
        let inner = self.0.clone();
        let sweeping = async move {
            let mut removed = 0;
            loop {
                let until = Instant::now() + inner.deadline;
                let mut connection = Lent::from(&inner.pool, until).await?;
                let part = timeout_at(until, inner.table.sweep_part(&mut *connection)).await;
                let part = part.unwrap_or_else(|_| Err(silent()));
                connection.keep_if(&part);
                let part = part?;
                inner.counting.swept(part.interrupted);
                inner.counting.removed(part.removed, part.postponed);
                removed += part.removed;
                if part.removed + part.postponed < BATCH as u64 / 2 {
                    return Ok(removed);
                }
            }
        };
        self.0.behind.call(sweeping).await
    }
}
