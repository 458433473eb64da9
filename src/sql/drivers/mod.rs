//! Connections of the libraries that services use. The only place that knows them.

#[cfg(feature = "postgres")]
pub(crate) mod postgres;
#[cfg(feature = "rusqlite")]
mod rusqlite;
#[cfg(any(feature = "sqlx", feature = "sqlx-sqlite"))]
mod sqlx;

#[cfg(feature = "rusqlite")]
pub use self::rusqlite::{SharedSqlite, SharedSqliteConnection};
