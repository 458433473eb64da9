//! A connection of the caller's own: one statement at a time, in whatever transaction it is.

use crate::error::{BeginError, ClaimError, Full, OpenError, StoreError};
use std::{borrow::Cow, fmt, future::Future};

/// A parameter, or a cell of an answer, with its type.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)]
pub enum Value<'a> {
    /// A 64-bit integer: `bigint`, in SQLite `INTEGER`.
    Int(Option<i64>),
    /// Bytes: `bytea`, in SQLite `BLOB`.
    Bytes(Option<Cow<'a, [u8]>>),
    /// Text: `text`, in SQLite `TEXT`.
    Text(Option<Cow<'a, str>>),
}

impl<'a> From<i64> for Value<'a> {
    fn from(value: i64) -> Self {
        Value::Int(Some(value))
    }
}

impl<'a> From<&'a [u8]> for Value<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Value::Bytes(Some(Cow::Borrowed(bytes)))
    }
}

impl<'a> From<Option<&'a [u8]>> for Value<'a> {
    fn from(bytes: Option<&'a [u8]>) -> Self {
        Value::Bytes(bytes.map(Cow::Borrowed))
    }
}

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums)]
pub enum Kind {
    /// [`Value::Int`].
    Int,
    /// [`Value::Bytes`].
    Bytes,
    /// [`Value::Text`].
    Text,
}

/// One statement, with its parameters and the columns that it answers with.
#[derive(Clone, Copy, Debug)]
pub struct Statement<'a> {
    text: &'a str,
    params: &'a [Value<'a>],
    columns: &'a [Kind],
}

impl<'a> Statement<'a> {
    /// Makes a statement.
    pub fn new(text: &'a str, params: &'a [Value<'a>], columns: &'a [Kind]) -> Self {
        Statement { text, params, columns }
    }

    /// Returns its text. Parameters are `$1`, `$2` and so on (for SQLite `?1`, `?2`). There are few
    /// different ones, so that prepared statements may be kept.
    pub fn text(&self) -> &'a str {
        self.text
    }

    /// Returns the parameters, in order.
    pub fn params(&self) -> &'a [Value<'a>] {
        self.params
    }

    /// Returns the types of the columns of its answer, in order; any may be null.
    pub fn columns(&self) -> &'a [Kind] {
        self.columns
    }
}

/// The rows of an answer, each with a cell for each of the statement's
/// [`columns`](Statement::columns).
pub type Rows = Vec<Vec<Value<'static>>>;

/// A connection on which the caller may have begun a transaction.
///
/// With the features named there, the connections and transactions of tokio-postgres and
/// deadpool-postgres (`postgres`), of sqlx (`sqlx` for PostgreSQL, `sqlx-sqlite`) and of rusqlite
/// (`rusqlite`) are one. For any other library it is about twenty lines; the repository's
/// `examples/transactions` has them for diesel-async and SeaORM.
pub trait Connection {
    /// Runs one statement, and returns the rows that it answers with. A null may be one of any type.
    fn run(
        &mut self,
        statement: Statement<'_>,
    ) -> impl Future<Output = Result<Rows, SqlError>> + Send;
}

impl<C: Connection> Connection for &mut C {
    fn run(
        &mut self,
        statement: Statement<'_>,
    ) -> impl Future<Output = Result<Rows, SqlError>> + Send {
        (**self).run(statement)
    }
}

/// Where a store gets connections that are in no transaction: a pool of the caller's.
pub trait Pool: Clone + Send + Sync + 'static {
    /// A connection; dropped, it goes back to the pool.
    type Connection: Connection + Send + 'static;

    /// Takes a connection. The store bounds the time that it waits for one.
    fn get(&self) -> impl Future<Output = Result<Self::Connection, SqlError>> + Send;

    /// Ends a connection that may be in the middle of a statement or a transaction: it must not be
    /// used again, and what it had not committed is rolled back.
    fn end(&self, connection: Self::Connection);
}

/// What an error of a database means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SqlErrorKind {
    /// The connection is lost: what was sent may have taken effect.
    Lost,
    /// It had no effect, and may succeed when the transaction is repeated: a serialization failure
    /// (40001), a deadlock, a prepared statement that is gone (26000) or has other columns now
    /// (0A000), a database that is busy.
    Again,
    /// Another transaction has locked the key for longer than this one waits.
    Locked,
    /// A unique column has the value already (23505).
    Unique,
    /// No space is left.
    Full,
    /// The server accepts no writes.
    ReadOnly,
    /// Tables are missing or have another shape.
    Schema,
    /// The credentials don't allow it.
    Denied,
    /// Anything else; it will be refused again.
    Refused,
}

/// Why a statement had no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqlError {
    kind: SqlErrorKind,
    what: String,
}

impl SqlError {
    /// Makes an error of this kind; `what` is what the database said.
    pub fn new(kind: SqlErrorKind, what: impl fmt::Display) -> Self {
        SqlError { kind, what: what.to_string() }
    }

    /// Makes an error of the connection, of which it isn't known what took effect.
    pub fn lost(what: impl fmt::Display) -> Self {
        SqlError::new(SqlErrorKind::Lost, what)
    }

    /// Makes the error that a server of PostgreSQL's protocol names by this code.
    pub fn sqlstate(code: &str, message: impl fmt::Display) -> Self {
        use SqlErrorKind::*;
        let kind = match code {
            "40001" | "40P01" | "26000" | "42P05" | "0A000" | "57014" | "53300" | "57P03" => Again,
            "55P03" => Locked,
            "23505" => Unique,
            "53100" => Full,
            "25006" => ReadOnly,
            "42P01" | "42703" | "42P10" | "3F000" | "42883" => Schema,
            "42501" | "3D000" => Denied,
            code if code.starts_with("28") => Denied,
            code if code.starts_with("57P") || code.starts_with("08") => Lost,
            _ => Refused,
        };
        SqlError { kind, what: format!("{message} ({code})") }
    }

    /// Makes the error that SQLite names by this (extended) result code.
    pub fn sqlite(code: i32, message: impl fmt::Display) -> Self {
        use SqlErrorKind::*;
        let message = message.to_string();
        let kind = match (code & 0xff, code) {
            // Busy, locked by a connection that shares its cache, another schema meanwhile.
            (5 | 6 | 17, _) => Again,
            (8, _) => ReadOnly,
            // A failed write or sync: a commit may have it or not.
            (10, _) => Lost,
            (13, _) => Full,
            (3 | 14 | 23, _) => Denied,
            (_, 1555 | 2067 | 2579) => Unique,
            (1, _) if message.contains("no such") || message.contains("has no column") => Schema,
            _ => Refused,
        };
        SqlError { kind, what: format!("{message} ({code})") }
    }

    /// Returns what it means.
    pub fn kind(&self) -> SqlErrorKind {
        self.kind
    }

    /// Whether a call may succeed when it is repeated.
    pub(crate) fn is_transient(&self) -> bool {
        use SqlErrorKind::*;
        matches!(self.kind, Lost | Again | Locked | Unique)
    }

    pub(crate) fn opening(self, place: &str) -> OpenError {
        let (place, what) = (place.to_owned(), self.what);
        match self.kind {
            SqlErrorKind::Denied => OpenError::Denied { place, what },
            SqlErrorKind::ReadOnly => OpenError::ReadOnly { place, what },
            SqlErrorKind::Full => OpenError::NoSpace { place, bytes: 0 },
            _ => OpenError::Unreachable { place, what },
        }
    }
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            SqlErrorKind::Lost => write!(f, "the outcome is unknown: {}", self.what),
            _ => f.write_str(&self.what),
        }
    }
}

impl std::error::Error for SqlError {}

impl From<SqlError> for StoreError {
    fn from(error: SqlError) -> Self {
        BeginError::from(error).into()
    }
}

impl From<SqlError> for BeginError {
    fn from(error: SqlError) -> Self {
        match error.kind {
            SqlErrorKind::Full => BeginError::StoreFull(Full::Disk),
            _ => BeginError::Unavailable { what: error.to_string() },
        }
    }
}

impl From<SqlError> for ClaimError {
    fn from(error: SqlError) -> Self {
        match error.kind {
            SqlErrorKind::Full => ClaimError::StoreFull(Full::Disk),
            _ => ClaimError::Unavailable { what: error.to_string() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_keep_their_meaning() {
        use SqlErrorKind::*;
        for (code, kind) in [
            ("40001", Again),
            ("26000", Again),
            ("0A000", Again),
            ("23505", Unique),
            ("55P03", Locked),
            ("57P01", Lost),
            ("08006", Lost),
            ("53100", Full),
            ("42P01", Schema),
            ("28P01", Denied),
            ("22012", Refused),
        ] {
            assert_eq!(SqlError::sqlstate(code, "x").kind(), kind, "{code}");
        }
        for (code, kind) in [(5, Again), (517, Again), (13, Full), (2067, Unique), (1555, Unique)] {
            assert_eq!(SqlError::sqlite(code, "x").kind(), kind, "{code}");
        }
        assert_eq!(SqlError::sqlite(1, "no such table: onlyonce").kind(), Schema);
        let lost = BeginError::from(SqlError::lost("broken pipe")).to_string();
        assert!(lost.contains("unknown") && lost.contains("broken pipe"), "{lost}");
    }
}
