//! diesel-async: `&mut AsyncPgConnection`, also inside of `connection.transaction(..)`.

use diesel::{
    pg::{Pg, PgValue},
    result::{DatabaseErrorKind, Error},
    row::{Field, NamedRow, Row},
    sql_types::{BigInt, Binary, Nullable, Text},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use onlyonce::sql::{Connection, Rows, SqlError, SqlErrorKind, Statement, Value};

/// Wraps a connection for the time of a claim: `OnDiesel(&mut *connection)`.
pub struct OnDiesel<'a>(pub &'a mut AsyncPgConnection);

impl Connection for OnDiesel<'_> {
    async fn run(&mut self, statement: Statement<'_>) -> Result<Rows, SqlError> {
        let mut query = diesel::sql_query(statement.text()).into_boxed::<Pg>();
        for value in statement.params() {
            query = match value {
                Value::Int(value) => query.bind::<Nullable<BigInt>, _>(*value),
                Value::Bytes(bytes) => {
                    query.bind::<Nullable<Binary>, _>(bytes.as_deref().map(<[u8]>::to_vec))
                }
                Value::Text(text) => {
                    query.bind::<Nullable<Text>, _>(text.as_deref().map(str::to_owned))
                }
            };
        }
        let rows: Vec<AnyRow> = query.load(&mut *self.0).await.map_err(of)?;
        Ok(rows.into_iter().map(|row| row.0).collect())
    }
}

/// A row of any columns, by the types that the server names.
struct AnyRow(Vec<Value<'static>>);

impl diesel::deserialize::QueryableByName<Pg> for AnyRow {
    fn build<'a>(row: &impl NamedRow<'a, Pg>) -> diesel::deserialize::Result<Self> {
        let cell = |at| {
            let field = Row::get(row, at).ok_or("a column is missing")?;
            let value: Option<PgValue<'_>> = field.value();
            let bytes = value.as_ref().map(|value| value.as_bytes().to_vec());
            // int8, bytea; anything else here is text. A null has no type that could be seen.
            Ok(match value.map(|value| value.get_oid().get()) {
                Some(20) => {
                    let bytes = bytes.unwrap_or_default();
                    Value::Int(Some(i64::from_be_bytes(bytes.as_slice().try_into()?)))
                }
                Some(17) => Value::Bytes(bytes.map(Into::into)),
                Some(_) => Value::Text(Some(String::from_utf8(bytes.unwrap_or_default())?.into())),
                None => Value::Text(None),
            })
        };
        (0..row.field_count()).map(cell).collect::<diesel::deserialize::Result<_>>().map(AnyRow)
    }
}

fn of(error: Error) -> SqlError {
    let kind = match &error {
        Error::DatabaseError(kind, _) => match kind {
            DatabaseErrorKind::SerializationFailure => SqlErrorKind::Again,
            DatabaseErrorKind::UniqueViolation => SqlErrorKind::Unique,
            DatabaseErrorKind::ReadOnlyTransaction => SqlErrorKind::ReadOnly,
            DatabaseErrorKind::ClosedConnection => SqlErrorKind::Lost,
            // Diesel keeps no code: what it doesn't know by name is known by its words.
            _ if error.to_string().contains("lock timeout") => SqlErrorKind::Locked,
            _ if error.to_string().contains("deadlock") => SqlErrorKind::Again,
            _ => SqlErrorKind::Refused,
        },
        Error::BrokenTransactionManager => SqlErrorKind::Lost,
        _ => SqlErrorKind::Refused,
    };
    SqlError::new(kind, error)
}
