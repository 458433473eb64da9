//! rusqlite, whose calls block.

use crate::sql::connection::{
    Connection, Kind, Pool, Rows, SqlError, SqlErrorKind, Statement, Value,
};
use rusqlite::{
    ToSql,
    types::{Null, ToSqlOutput, ValueRef},
};
use std::{
    borrow::Cow,
    fmt,
    future::{Future, ready},
    sync::Arc,
};
use tokio::sync::{Mutex, OwnedMutexGuard};

impl ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Value::Int(Some(value)) => ToSqlOutput::from(*value),
            Value::Bytes(Some(bytes)) => ToSqlOutput::Borrowed(ValueRef::Blob(bytes)),
            Value::Text(Some(text)) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            Value::Int(None) | Value::Bytes(None) | Value::Text(None) => ToSqlOutput::from(Null),
        })
    }
}

fn answer(connection: &rusqlite::Connection, statement: Statement<'_>) -> Result<Rows, SqlError> {
    let all = || {
        let mut prepared = connection.prepare_cached(statement.text())?;
        let mut answer = prepared.query(rusqlite::params_from_iter(statement.params()))?;
        let mut rows = Rows::new();
        // To the end, also of a statement without an answer.
        while let Some(row) = answer.next()? {
            let cells = statement.columns().iter().enumerate().map(|(at, kind)| {
                Ok(match kind {
                    Kind::Int => Value::Int(row.get(at)?),
                    Kind::Bytes => Value::Bytes(row.get::<_, Option<Vec<u8>>>(at)?.map(Cow::Owned)),
                    Kind::Text => Value::Text(row.get::<_, Option<String>>(at)?.map(Cow::Owned)),
                })
            });
            rows.push(cells.collect::<rusqlite::Result<_>>()?);
        }
        Ok(rows)
    };
    all().map_err(|error: rusqlite::Error| match &error {
        rusqlite::Error::SqliteFailure(code, what) => {
            let what = what.clone().unwrap_or_else(|| code.to_string());
            SqlError::sqlite(code.extended_code, what)
        }
        _ => SqlError::new(SqlErrorKind::Refused, error),
    })
}

/// Blocks its thread; the future is ready at once.
impl Connection for rusqlite::Connection {
    fn run(
        &mut self,
        statement: Statement<'_>,
    ) -> impl Future<Output = Result<Rows, SqlError>> + Send {
        ready(answer(self, statement))
    }
}

/// Blocks its thread; the future is ready at once.
impl Connection for rusqlite::Transaction<'_> {
    fn run(
        &mut self,
        statement: Statement<'_>,
    ) -> impl Future<Output = Result<Rows, SqlError>> + Send {
        ready(answer(self, statement))
    }
}

/// One connection of rusqlite as a pool: its users take turns, and block no thread of the runtime.
/// SQLite writes one transaction at a time anyway. Clones are handles of the same connection.
#[derive(Clone)]
pub struct SharedSqlite(Arc<Mutex<Option<rusqlite::Connection>>>, Arc<dyn Opener>);

trait Opener: Send + Sync {
    fn open(&self) -> rusqlite::Result<rusqlite::Connection>;
}

impl<F: Fn() -> rusqlite::Result<rusqlite::Connection> + Send + Sync> Opener for F {
    fn open(&self) -> rusqlite::Result<rusqlite::Connection> {
        self()
    }
}

impl SharedSqlite {
    /// Makes a pool of the connection that `open` makes, with its settings (`journal_mode`,
    /// `synchronous`, a busy time-out). It is called again when a transaction was left half way.
    pub fn new(
        open: impl Fn() -> rusqlite::Result<rusqlite::Connection> + Send + Sync + 'static,
    ) -> Self {
        SharedSqlite(Arc::default(), Arc::new(open))
    }
}

impl fmt::Debug for SharedSqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedSqlite")
    }
}

/// The connection of a [`SharedSqlite`], as long as it is lent.
#[derive(Debug)]
pub struct SharedSqliteConnection(Option<OwnedMutexGuard<Option<rusqlite::Connection>>>);

impl SharedSqliteConnection {
    /// Runs `work` where blocking is allowed.
    ///
    /// # Errors
    /// Those of `work`; [`SqlErrorKind::Lost`] if an earlier call was dropped half way or panicked.
    pub async fn call<T: Send + 'static, E: From<SqlError> + Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut rusqlite::Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let lost = || SqlError::lost("an earlier call on this connection was left half way");
        let Some(mut guard) = self.0.take() else { return Err(lost().into()) };
        let working = tokio::task::spawn_blocking(move || {
            let done = guard.as_mut().map(work);
            (guard, done)
        });
        let (guard, done) = working.await.map_err(|_| SqlError::lost("a call panicked"))?;
        self.0 = Some(guard);
        done.unwrap_or_else(|| Err(lost().into()))
    }
}

impl Connection for SharedSqliteConnection {
    async fn run(&mut self, statement: Statement<'_>) -> Result<Rows, SqlError> {
        let text = statement.text().to_owned();
        let columns = statement.columns().to_vec();
        let owned = statement.params().iter().map(|value| match value {
            Value::Int(value) => Value::Int(*value),
            Value::Bytes(bytes) => {
                Value::Bytes(bytes.as_deref().map(|bytes| Cow::Owned(bytes.to_vec())))
            }
            Value::Text(text) => {
                Value::Text(text.as_deref().map(|text| Cow::Owned(text.to_owned())))
            }
        });
        let params: Vec<Value<'static>> = owned.collect();
        self.call(move |connection| answer(connection, Statement::new(&text, &params, &columns)))
            .await
    }
}

impl Pool for SharedSqlite {
    type Connection = SharedSqliteConnection;

    async fn get(&self) -> Result<SharedSqliteConnection, SqlError> {
        let mut guard = self.0.clone().lock_owned().await;
        // A transaction that was left half way ends with its connection.
        if guard.as_ref().is_none_or(|connection| !connection.is_autocommit()) {
            *guard = None;
            let opener = self.1.clone();
            let opened = tokio::task::spawn_blocking(move || opener.open()).await;
            let opened = opened.map_err(|_| SqlError::new(SqlErrorKind::Refused, "panicked"))?;
            *guard = Some(opened.map_err(|error| SqlError::new(SqlErrorKind::Again, error))?);
        }
        Ok(SharedSqliteConnection(Some(guard)))
    }

    fn end(&self, mut connection: SharedSqliteConnection) {
        if let Some(guard) = &mut connection.0 {
            **guard = None;
        }
    }
}
