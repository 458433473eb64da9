//! sqlx, with PostgreSQL.

use crate::sql::connection::{
    Connection, Kind, Pool, Rows, SqlError, SqlErrorKind, Statement, Value,
};
use sqlx::{
    PgConnection, PgPool, Postgres, Row, Transaction,
    pool::PoolConnection,
    postgres::{PgArguments, PgRow},
};
use std::{borrow::Cow, future::Future};

impl Connection for PgConnection {
    async fn run(&mut self, statement: Statement<'_>) -> Result<Rows, SqlError> {
        let mut query = sqlx::query::<Postgres>(statement.text());
        for value in statement.params() {
            query = bind(query, value);
        }
        let answer = query.fetch_all(&mut *self).await.map_err(of)?;
        let kinds = statement.columns();
        let row = |row: &PgRow| kinds.iter().enumerate().map(|kind| cell(row, kind)).collect();
        answer.iter().map(row).collect::<Result<_, _>>().map_err(of)
    }
}

type Query<'a> = sqlx::query::Query<'a, Postgres, PgArguments>;

fn bind<'a>(query: Query<'a>, value: &Value<'_>) -> Query<'a> {
    match value {
        Value::Int(value) => query.bind(*value),
        Value::Bytes(bytes) => query.bind(bytes.as_deref().map(<[u8]>::to_vec)),
        Value::Text(text) => query.bind(text.as_deref().map(str::to_owned)),
    }
}

fn cell(row: &PgRow, (at, kind): (usize, &Kind)) -> Result<Value<'static>, sqlx::Error> {
    Ok(match kind {
        Kind::Int => Value::Int(row.try_get(at)?),
        Kind::Bytes => Value::Bytes(row.try_get::<Option<Vec<u8>>, _>(at)?.map(Cow::Owned)),
        Kind::Text => Value::Text(row.try_get::<Option<String>, _>(at)?.map(Cow::Owned)),
    })
}

fn of(error: sqlx::Error) -> SqlError {
    match &error {
        sqlx::Error::Database(db) => {
            SqlError::sqlstate(db.code().as_deref().unwrap_or_default(), db.message())
        }
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => {
            SqlError::new(SqlErrorKind::Again, error)
        }
        _ => SqlError::lost(error),
    }
}

impl Connection for Transaction<'_, Postgres> {
    fn run(
        &mut self,
        statement: Statement<'_>,
    ) -> impl Future<Output = Result<Rows, SqlError>> + Send {
        Connection::run(&mut **self, statement)
    }
}

impl Connection for PoolConnection<Postgres> {
    fn run(
        &mut self,
        statement: Statement<'_>,
    ) -> impl Future<Output = Result<Rows, SqlError>> + Send {
        Connection::run(&mut **self, statement)
    }
}

impl Pool for PgPool {
    type Connection = PoolConnection<Postgres>;

    async fn get(&self) -> Result<PoolConnection<Postgres>, SqlError> {
        self.acquire().await.map_err(|error| match of(error) {
            // Nothing was sent that could have taken effect.
            lost if lost.kind() == SqlErrorKind::Lost => SqlError::new(SqlErrorKind::Again, lost),
            error => error,
        })
    }

    fn end(&self, connection: PoolConnection<Postgres>) {
        // Out of the pool; its socket closes with it.
        drop(connection.detach());
    }
}
