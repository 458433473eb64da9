//! Connections of the libraries that services use. The only place that knows them.

#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "rusqlite")]
mod rusqlite;
#[cfg(feature = "sqlx")]
mod sqlx_postgres;
#[cfg(feature = "sqlx-sqlite")]
mod sqlx_sqlite;

#[cfg(feature = "rusqlite")]
pub use self::rusqlite::{SharedSqlite, SharedSqliteConnection};
