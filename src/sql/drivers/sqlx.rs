//! sqlx, with PostgreSQL and with SQLite: the same, but for the types and for what its errors say.

/// Implements [`Connection`](super::Connection) and [`Pool`](super::Pool) for a database of sqlx.
macro_rules! database {
    (
        $database:ty, $connection:ty, $pool:ty, $row:ty, $arguments:ty,
        $error:expr
    ) => {
        use crate::sql::connection::{
            Connection, Kind, Pool, Rows, SqlError, SqlErrorKind, Statement, Value,
        };
        use sqlx::{Row, Transaction, pool::PoolConnection};
        use std::{borrow::Cow, future::Future};

        impl Connection for $connection {
            async fn run(&mut self, statement: Statement<'_>) -> Result<Rows, SqlError> {
                let mut query = sqlx::query::<$database>(statement.text());
                for value in statement.params() {
                    query = bind(query, value);
                }
                let answer = query.fetch_all(&mut *self).await.map_err(of)?;
                let kinds = statement.columns();
                let row =
                    |row: &$row| kinds.iter().enumerate().map(|kind| cell(row, kind)).collect();
                answer.iter().map(row).collect::<Result<_, _>>().map_err(of)
            }
        }

        type Query<'a> = sqlx::query::Query<'a, $database, $arguments>;

        fn bind<'a>(query: Query<'a>, value: &Value<'_>) -> Query<'a> {
            match value {
                Value::Int(value) => query.bind(*value),
                Value::Bytes(bytes) => query.bind(bytes.as_deref().map(<[u8]>::to_vec)),
                Value::Text(text) => query.bind(text.as_deref().map(str::to_owned)),
            }
        }

        fn cell(row: &$row, (at, kind): (usize, &Kind)) -> Result<Value<'static>, sqlx::Error> {
            Ok(match kind {
                Kind::Int => Value::Int(row.try_get(at)?),
                Kind::Bytes => Value::Bytes(row.try_get::<Option<Vec<u8>>, _>(at)?.map(Cow::Owned)),
                Kind::Text => Value::Text(row.try_get::<Option<String>, _>(at)?.map(Cow::Owned)),
            })
        }

        fn of(error: sqlx::Error) -> SqlError {
            let told: fn(&dyn sqlx::error::DatabaseError) -> SqlError = $error;
            match &error {
                sqlx::Error::Database(database) => told(&**database),
                sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => {
                    SqlError::new(SqlErrorKind::Again, error)
                }
                _ => SqlError::lost(error),
            }
        }

        impl Connection for Transaction<'_, $database> {
            fn run(
                &mut self,
                statement: Statement<'_>,
            ) -> impl Future<Output = Result<Rows, SqlError>> + Send {
                Connection::run(&mut **self, statement)
            }
        }

        impl Connection for PoolConnection<$database> {
            fn run(
                &mut self,
                statement: Statement<'_>,
            ) -> impl Future<Output = Result<Rows, SqlError>> + Send {
                Connection::run(&mut **self, statement)
            }
        }

        impl Pool for $pool {
            type Connection = PoolConnection<$database>;

            async fn get(&self) -> Result<PoolConnection<$database>, SqlError> {
                self.acquire().await.map_err(|error| match of(error) {
                    // Nothing was sent that could have taken effect.
                    lost if lost.kind() == SqlErrorKind::Lost => {
                        SqlError::new(SqlErrorKind::Again, lost)
                    }
                    error => error,
                })
            }

            fn end(&self, connection: PoolConnection<$database>) {
                // Out of the pool; it closes with this, which rolls back.
                drop(connection.detach());
            }
        }
    };
}

#[cfg(feature = "sqlx")]
mod postgres {
    use sqlx::postgres::{PgArguments, PgConnection, PgPool, PgRow, Postgres};

    database!(Postgres, PgConnection, PgPool, PgRow, PgArguments, |error| {
        SqlError::sqlstate(error.code().as_deref().unwrap_or_default(), error.message())
    });
}

#[cfg(feature = "sqlx-sqlite")]
mod sqlite {
    use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteConnection, SqlitePool, SqliteRow};

    database!(Sqlite, SqliteConnection, SqlitePool, SqliteRow, SqliteArguments<'a>, |error| {
        let code = error.code().and_then(|code| code.parse().ok());
        SqlError::sqlite(code.unwrap_or(0), error.message())
    });
}
