//! Slots of a [`ShardedStore`](crate::ShardedStore) move from one table to another.

use super::{in_order::in_order, inner::Inner, store::PostgresStore, trouble::DbError};
use crate::error::StoreError;
use std::ops::RangeInclusive;
use tokio_postgres::{
    Error, Row,
    types::{FromSql, ToSql, Type},
};

/// Rows and bytes of one step; a row with more bytes is a step of its own.
const ROWS: i64 = 2000;
const BYTES: i64 = 4 << 20;

/// How far a move of slots has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SlotsMoved {
    /// Rows so far.
    pub rows: u64,
    /// The slot of the last one. All slots before it are done, in ascending order: a move that was
    /// interrupted continues with this one.
    pub slot: u16,
}

impl PostgresStore {
    /// Copies the rows of slots to another store's table, undecided keys with their tokens and
    /// owners included, and returns how many there were. Nothing may change in the slots during the
    /// copy ([`Phase::Still`](crate::Phase::Still) in every process, see
    /// [`ShardedStore`](crate::ShardedStore)).
    ///
    /// It can be repeated: of two rows for a key the one with the higher token stays. Rows are taken
    /// slot by slot in bounded statements, by the index that
    /// [`PostgresOptions::index_slots`](super::PostgresOptions::index_slots) creates; without it
    /// each statement reads the whole table.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if a server gives no answer before the deadline; then a part of
    /// the rows is copied.
    pub async fn copy_slots(
        &self,
        to: &PostgresStore,
        slots: RangeInclusive<u16>,
    ) -> Result<u64, StoreError> {
        self.copy_slots_telling(to, slots, |_| {}).await
    }

    /// The same; `tell` is told after each step how far it has got.
    ///
    /// # Errors
    /// As with [`copy_slots`](Self::copy_slots).
    pub async fn copy_slots_telling(
        &self,
        to: &PostgresStore,
        slots: RangeInclusive<u16>,
        tell: impl FnMut(SlotsMoved) + Send + 'static,
    ) -> Result<u64, StoreError> {
        let (from, to) = (self.inner().clone(), to.inner().clone());
        self.spawn(async move { copy(&from, &to, slots, tell).await }).await
    }

    /// Deletes the rows of slots that another store has now, and returns how many there were. In
    /// bounded statements, as [`copy_slots`](Self::copy_slots).
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] as with [`copy_slots`](Self::copy_slots).
    pub async fn delete_slots(&self, slots: RangeInclusive<u16>) -> Result<u64, StoreError> {
        self.delete_slots_telling(slots, |_| {}).await
    }

    /// The same; `tell` is told after each step how far it has got.
    ///
    /// # Errors
    /// As with [`delete_slots`](Self::delete_slots).
    pub async fn delete_slots_telling(
        &self,
        slots: RangeInclusive<u16>,
        tell: impl FnMut(SlotsMoved) + Send + 'static,
    ) -> Result<u64, StoreError> {
        let inner = self.inner().clone();
        self.spawn(async move { delete(&inner, slots, tell).await }).await
    }
}

/// The row after which a move continues.
struct Place {
    slot: i16,
    last: i16,
    scope: Vec<u8>,
    key: Vec<u8>,
}

impl Place {
    /// Before the first row: no key is empty.
    fn before(slots: &RangeInclusive<u16>) -> Self {
        let (slot, last) = (*slots.start() as i16, *slots.end() as i16);
        Place { slot, last, scope: Vec::new(), key: Vec::new() }
    }

    /// Moves to a row that has slot, scope and key.
    fn set(&mut self, row: &Row) -> Result<(), DbError> {
        self.slot = row.try_get("slot").map_err(bad)?;
        self.scope = row.try_get("scope").map_err(bad)?;
        self.key = row.try_get("key").map_err(bad)?;
        Ok(())
    }
}

fn bad(error: Error) -> DbError {
    DbError::Refused(error.to_string())
}

type Column<'a> = Box<dyn ToSql + Send + Sync + 'a>;

/// A column of rows, as an array.
fn column(rows: &[Row], n: usize) -> Result<Column<'_>, DbError> {
    fn of<'a, T: FromSql<'a> + ToSql + Send + Sync + 'a>(
        rows: &'a [Row],
        n: usize,
    ) -> Result<Column<'a>, DbError> {
        let cells: Result<Vec<Option<T>>, Error> = rows.iter().map(|row| row.try_get(n)).collect();
        Ok(Box::new(cells.map_err(bad)?))
    }
    match *rows[0].columns()[n].type_() {
        Type::BYTEA => of::<&[u8]>(rows, n),
        Type::INT8 => of::<i64>(rows, n),
        Type::INT4 => of::<i32>(rows, n),
        Type::INT2 => of::<i16>(rows, n),
        _ => of::<bool>(rows, n),
    }
}

/// The rows of the next step.
async fn read(from: &Inner, place: &Place) -> Result<Vec<Row>, StoreError> {
    let Place { slot, last, scope, key } = place;
    let after: [&(dyn ToSql + Sync); 6] = [slot, last, scope, key, &ROWS, &BYTES];
    let mut tries = from.tries();
    loop {
        match from.query(&tries, &from.sql.slots, &after).await {
            Ok(rows) => return Ok(rows),
            Err(trouble) => tries.again(trouble).await?,
        }
    }
}

async fn put(to: &Inner, rows: &[Row]) -> Result<(), StoreError> {
    let columns: Result<Vec<Column<'_>>, DbError> =
        (0..rows[0].columns().len()).map(|n| column(rows, n)).collect();
    let columns = columns?;
    let params: Vec<&(dyn ToSql + Sync)> =
        columns.iter().map(|column| &**column as &(dyn ToSql + Sync)).collect();
    let mut tries = to.tries();
    while let Err(trouble) = to.execute(&tries, &to.sql.put, &params).await {
        tries.again(trouble).await?;
    }
    Ok(to.confirm(&mut tries).await?)
}

async fn copy(
    from: &Inner,
    to: &Inner,
    slots: RangeInclusive<u16>,
    mut tell: impl FnMut(SlotsMoved),
) -> Result<u64, StoreError> {
    let (mut place, mut copied) = (Place::before(&slots), 0);
    let mut rows = read(from, &place).await?;
    while let Some(end) = rows.last() {
        place.set(end)?;
        // The two servers work at the same time.
        let (put, next, ()) = in_order(put(to, &rows), read(from, &place), async {}).await;
        put?;
        copied += rows.len() as u64;
        tell(SlotsMoved { rows: copied, slot: place.slot as u16 });
        rows = next?;
    }
    Ok(copied)
}

async fn delete(
    inner: &Inner,
    slots: RangeInclusive<u16>,
    mut tell: impl FnMut(SlotsMoved),
) -> Result<u64, StoreError> {
    let (mut place, mut deleted) = (Place::before(&slots), 0);
    loop {
        let mut tries = inner.tries();
        let rows = loop {
            let Place { slot, last, scope, key } = &place;
            let after: [&(dyn ToSql + Sync); 5] = [slot, last, scope, key, &ROWS];
            match inner.query(&tries, &inner.sql.delete_slots, &after).await {
                Ok(rows) => break rows,
                Err(trouble) => tries.again(trouble).await?,
            }
        };
        let Some(end) = rows.first() else {
            inner.confirm(&mut tries).await?;
            return Ok(deleted);
        };
        let gone: i64 = end.try_get(3).map_err(bad)?;
        deleted += gone as u64;
        place.set(end)?;
        tell(SlotsMoved { rows: deleted, slot: place.slot as u16 });
    }
}
