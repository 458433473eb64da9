//! Slots of a [`ShardedStore`](crate::ShardedStore) move from one table to another.

use super::{inner::Inner, store::PostgresStore, trouble::DbError};
use crate::error::BeginError;
use std::ops::RangeInclusive;

/// Rows of one step. A row is at most a little more than its response, twice as long in JSON.
const BATCH: i64 = 200;

impl PostgresStore {
    /// Copies the rows of slots to another store's table, undecided keys with their tokens and
    /// owners included, and returns how many there were. Nothing may change in the slots during the
    /// copy ([`Phase::Still`](crate::Phase::Still) in every process, see
    /// [`ShardedStore`](crate::ShardedStore)).
    ///
    /// It can be repeated: of two rows for a key the one with the higher token stays.
    ///
    /// # Errors
    /// [`BeginError::Unavailable`] if a server gives no answer before the deadline; then a part of
    /// the rows is copied.
    pub async fn copy_slots(
        &self,
        to: &PostgresStore,
        slots: RangeInclusive<u16>,
    ) -> Result<u64, BeginError> {
        let (from, to) = (self.inner().clone(), to.inner().clone());
        self.spawn(async move { copy(&from, &to, slots).await }).await
    }

    /// Deletes the rows of slots that another store has now, and returns how many there were.
    ///
    /// # Errors
    /// [`BeginError::Unavailable`] as with [`copy_slots`](Self::copy_slots).
    pub async fn delete_slots(&self, slots: RangeInclusive<u16>) -> Result<u64, BeginError> {
        let inner = self.inner().clone();
        self.spawn(async move { delete(&inner, slots).await }).await
    }
}

async fn copy(from: &Inner, to: &Inner, slots: RangeInclusive<u16>) -> Result<u64, BeginError> {
    let (first, last) = (*slots.start() as i16, *slots.end() as i16);
    let (mut scope, mut key) = (Vec::<u8>::new(), Vec::<u8>::new());
    let mut copied = 0;
    loop {
        let mut tries = from.tries();
        let rows = loop {
            let after: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
                [&first, &last, &scope, &key, &BATCH];
            match from.query(&tries, &from.sql.slots, &after).await {
                Ok(rows) => break rows,
                Err(trouble) => tries.again(trouble).await?,
            }
        };
        let Some(end) = rows.last() else { return Ok(copied) };
        let bad = |error: tokio_postgres::Error| DbError::Refused(error.to_string());
        let next = (end.try_get(0).map_err(bad)?, end.try_get(1).map_err(bad)?);
        let mut json = Vec::with_capacity(rows.len());
        for row in &rows {
            json.push(row.try_get::<_, String>(2).map_err(bad)?);
        }
        let json = format!("[{}]", json.join(","));
        let mut tries = to.tries();
        loop {
            match to.execute(&tries, &to.sql.put, &[&json]).await {
                Ok(_) => break,
                Err(trouble) => tries.again(trouble).await?,
            }
        }
        to.confirm(&mut tries).await?;
        copied += rows.len() as u64;
        (scope, key) = next;
    }
}

async fn delete(inner: &Inner, slots: RangeInclusive<u16>) -> Result<u64, BeginError> {
    let (first, last) = (*slots.start() as i16, *slots.end() as i16);
    let mut deleted = 0;
    loop {
        let mut tries = inner.tries();
        let rows = loop {
            match inner.execute(&tries, &inner.sql.delete_slots, &[&first, &last, &BATCH]).await {
                Ok(rows) => break rows,
                Err(trouble) => tries.again(trouble).await?,
            }
        };
        if rows == 0 {
            inner.confirm(&mut tries).await?;
            return Ok(deleted);
        }
        deleted += rows;
    }
}
