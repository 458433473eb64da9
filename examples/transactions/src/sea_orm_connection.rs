//! SeaORM: `&DatabaseTransaction` or `&DatabaseConnection`.

use onlyonce::sql::{Connection, Kind, Rows, SqlError, SqlErrorKind, Statement, Value};
use sea_orm::{ConnectionTrait, DbBackend, DbErr, QueryResult, RuntimeErr};

/// Wraps a transaction for the time of a claim: `OnSeaOrm(&transaction)`.
pub struct OnSeaOrm<'a, C>(pub &'a C);

impl<C: ConnectionTrait + Sync> Connection for OnSeaOrm<'_, C> {
    async fn run(&mut self, statement: Statement<'_>) -> Result<Rows, SqlError> {
        let values = statement.params().iter().map(|value| match value {
            Value::Int(value) => sea_orm::Value::BigInt(*value),
            Value::Bytes(bytes) => {
                sea_orm::Value::Bytes(bytes.as_deref().map(|bytes| Box::new(bytes.to_vec())))
            }
            Value::Text(text) => {
                sea_orm::Value::String(text.as_deref().map(|text| Box::new(text.to_owned())))
            }
        });
        let query = sea_orm::Statement::from_sql_and_values(
            DbBackend::Postgres,
            statement.text(),
            values.collect::<Vec<_>>(),
        );
        let rows = self.0.query_all(query).await.map_err(of)?;
        let cell = |row: &QueryResult, (at, kind): (usize, &Kind)| {
            Ok(match kind {
                Kind::Int => Value::Int(row.try_get_by_index(at)?),
                Kind::Bytes => {
                    Value::Bytes(row.try_get_by_index::<Option<Vec<u8>>>(at)?.map(Into::into))
                }
                Kind::Text => {
                    Value::Text(row.try_get_by_index::<Option<String>>(at)?.map(Into::into))
                }
            })
        };
        let kinds = statement.columns();
        let row = |row: &QueryResult| kinds.iter().enumerate().map(|k| cell(row, k)).collect();
        rows.iter().map(row).collect::<Result<_, DbErr>>().map_err(of)
    }
}

fn of(error: DbErr) -> SqlError {
    match &error {
        DbErr::Exec(RuntimeErr::SqlxError(sqlx)) | DbErr::Query(RuntimeErr::SqlxError(sqlx)) => {
            match sqlx {
                sea_orm::SqlxError::Database(db) => {
                    SqlError::sqlstate(db.code().as_deref().unwrap_or_default(), db.message())
                }
                _ => SqlError::lost(error),
            }
        }
        DbErr::ConnectionAcquire(_) => SqlError::new(SqlErrorKind::Again, error),
        _ => SqlError::lost(error),
    }
}
