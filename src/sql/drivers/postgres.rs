//! tokio-postgres and deadpool-postgres.

use crate::sql::connection::{
    Connection, Kind, Pool, Rows, SqlError, SqlErrorKind, Statement, Value,
};
use std::borrow::Cow;
use tokio_postgres::{
    GenericClient,
    types::{IsNull, ToSql, Type, private::BytesMut, to_sql_checked},
};

impl ToSql for Value<'_> {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Value::Int(value) => value.to_sql(ty, out),
            Value::Bytes(bytes) => bytes.as_deref().to_sql(ty, out),
            Value::Text(text) => text.as_deref().to_sql(ty, out),
        }
    }

    fn accepts(ty: &Type) -> bool {
        matches!(*ty, Type::INT8 | Type::BYTEA | Type::TEXT | Type::VARCHAR)
    }

    to_sql_checked!();
}

fn type_of(value: &Value<'_>) -> Type {
    match value {
        Value::Int(_) => Type::INT8,
        Value::Bytes(_) => Type::BYTEA,
        Value::Text(_) => Type::TEXT,
    }
}

fn rows(statement: &Statement<'_>, rows: &[tokio_postgres::Row]) -> Result<Rows, SqlError> {
    let cell = |row: &tokio_postgres::Row, (at, kind): (usize, &Kind)| {
        Ok(match kind {
            Kind::Int => Value::Int(row.try_get(at)?),
            Kind::Bytes => Value::Bytes(row.try_get::<_, Option<Vec<u8>>>(at)?.map(Cow::Owned)),
            Kind::Text => Value::Text(row.try_get::<_, Option<String>>(at)?.map(Cow::Owned)),
        })
    };
    let kinds = statement.columns();
    let all = rows.iter().map(|row| kinds.iter().enumerate().map(|kind| cell(row, kind)).collect());
    all.collect::<Result<_, _>>().map_err(of)
}

fn of(error: tokio_postgres::Error) -> SqlError {
    match error.as_db_error() {
        Some(db) => SqlError::sqlstate(db.code().code(), db.message()),
        None => SqlError::lost(error),
    }
}

/// In one round trip, and without a name: nothing of it stays in the session.
pub(crate) async fn unnamed(
    client: &impl GenericClient,
    statement: Statement<'_>,
) -> Result<Rows, SqlError> {
    let params = statement.params().iter();
    let typed: Vec<_> =
        params.map(|value| (value as &(dyn ToSql + Sync), type_of(value))).collect();
    let answer = client.query_typed(statement.text(), &typed).await.map_err(of)?;
    rows(&statement, &answer)
}

impl Connection for tokio_postgres::Client {
    async fn run(&mut self, statement: Statement<'_>) -> Result<Rows, SqlError> {
        unnamed(self, statement).await
    }
}

impl Connection for tokio_postgres::Transaction<'_> {
    async fn run(&mut self, statement: Statement<'_>) -> Result<Rows, SqlError> {
        unnamed(self, statement).await
    }
}

/// With deadpool's cache of prepared statements. One that is gone, or has other columns now, empties
/// the cache.
macro_rules! cached {
    ($name:ty, $plain:ty) => {
        impl Connection for $name {
            async fn run(&mut self, statement: Statement<'_>) -> Result<Rows, SqlError> {
                let params = statement.params().iter();
                let params: Vec<_> = params.map(|value| value as &(dyn ToSql + Sync)).collect();
                let answer = async {
                    let prepared = self.prepare_cached(statement.text()).await?;
                    let plain: &$plain = self;
                    plain.query(&prepared, &params).await
                };
                match answer.await.map_err(of) {
                    Ok(answer) => rows(&statement, &answer),
                    Err(error) => {
                        if error.kind() == SqlErrorKind::Again {
                            self.statement_cache.clear();
                        }
                        Err(error)
                    }
                }
            }
        }
    };
}

cached!(deadpool_postgres::Client, tokio_postgres::Client);
cached!(deadpool_postgres::Transaction<'_>, tokio_postgres::Transaction<'_>);

impl Pool for deadpool_postgres::Pool {
    type Connection = deadpool_postgres::Client;

    async fn get(&self) -> Result<deadpool_postgres::Client, SqlError> {
        deadpool_postgres::Pool::get(self).await.map_err(|error| match error {
            deadpool_postgres::PoolError::Backend(error) => match of(error) {
                // Nothing was sent that could have taken effect.
                lost if lost.kind() == SqlErrorKind::Lost => {
                    SqlError::new(SqlErrorKind::Again, lost)
                }
                error => error,
            },
            error => SqlError::new(SqlErrorKind::Again, error),
        })
    }

    fn end(&self, connection: deadpool_postgres::Client) {
        // Out of the pool; the driver's connection ends with it.
        drop(deadpool_postgres::Object::take(connection));
    }
}
