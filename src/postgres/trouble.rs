//! Errors between this process and the server, and the meaning of each error of the server.

use crate::error::{BeginError, ClaimError, Full, OpenError, StoreError};
use tokio_postgres::error::SqlState;

/// Why a try had no answer.
#[derive(Clone, Debug)]
pub(super) enum DbError {
    /// The connection broke or was given up: what was sent may have taken effect.
    Lost(String),
    /// It did not take effect, and may when tried again.
    Again(String),
    /// Another transaction has locked the key. The statement did not take effect.
    Locked,
    /// No server was reached that may be written to.
    Unreachable(String),
    /// Every server refused the credentials or the database.
    Denied(String),
    /// A server was reached that accepts no writes.
    ReadOnly(String),
    /// The connection is not one session of the server: a pooler in between shares sessions.
    Pooled,
    /// A server was reached that does not replicate synchronously.
    NotReplicated(String),
    /// The tables are missing or have another shape.
    Schema(String),
    /// The server's disk is full. It did not take effect.
    Full,
    /// Anything else that the server refused; it will do so again.
    Refused(String),
    /// The store was closed.
    Closed,
}

impl DbError {
    /// Classifies an error of the driver.
    pub fn of(error: &tokio_postgres::Error) -> DbError {
        let Some(db) = error.as_db_error() else {
            // Among these are errors of decoding, which a repetition does not mend; the deadline
            // ends it.
            return DbError::Lost(spelled(error));
        };
        let what = format!("{} ({})", db.message(), db.code().code());
        let code = db.code();
        match code.code() {
            _ if *code == SqlState::LOCK_NOT_AVAILABLE => DbError::Locked,
            _ if *code == SqlState::DISK_FULL => DbError::Full,
            _ if *code == SqlState::READ_ONLY_SQL_TRANSACTION => DbError::ReadOnly(what),
            _ if *code == SqlState::TOO_MANY_CONNECTIONS => DbError::Again(what),
            // Cancelled from outside before it took effect.
            _ if *code == SqlState::QUERY_CANCELED => DbError::Again(what),
            // The server is starting up: nothing ran.
            _ if *code == SqlState::CANNOT_CONNECT_NOW => DbError::Again(what),
            "40001" | "40P01" => DbError::Again(what),
            // What was prepared on this connection is gone (`DEALLOCATE ALL`), or another statement
            // has its name.
            "26000" | "42P05" => DbError::Again(what),
            // What was prepared returned other columns then.
            "0A000" if db.routine() == Some("RevalidateCachedQuery") => DbError::Again(what),
            "42P01" | "42703" | "42P10" | "3F000" | "42883" => DbError::Schema(what),
            // Shutting down, also while a commit waits for its standbys.
            code if code.starts_with("57P") || code.starts_with("08") => DbError::Lost(what),
            code if code.starts_with("28") || code == "3D000" => DbError::Denied(what),
            _ => DbError::Refused(what),
        }
    }

    /// The same from a try to connect, where nothing can have taken effect.
    pub fn of_connecting(error: &tokio_postgres::Error) -> DbError {
        let refused_writes = std::error::Error::source(error)
            .and_then(|source| source.downcast_ref::<std::io::Error>())
            .is_some_and(|io| io.kind() == std::io::ErrorKind::PermissionDenied);
        match DbError::of(error) {
            DbError::Lost(what) if refused_writes => DbError::ReadOnly(what),
            DbError::Lost(what) | DbError::Again(what) => DbError::Unreachable(what),
            trouble => trouble,
        }
    }

    /// Whether the try may have taken effect.
    pub fn is_unknown(&self) -> bool {
        matches!(self, DbError::Lost(_))
    }

    /// Whether another try may succeed: on the same server, or on another one after a failover.
    pub fn is_transient(&self) -> bool {
        use DbError::*;
        matches!(
            self,
            Lost(_) | Again(_) | Locked | Unreachable(_) | ReadOnly(_) | Pooled | NotReplicated(_)
        )
    }

    /// Whether a call may succeed later, however long that takes.
    pub fn may_pass(&self) -> bool {
        self.is_transient() || matches!(self, DbError::Full)
    }

    /// Whether the connection can be used again.
    pub fn leaves_connection(&self) -> bool {
        matches!(self, DbError::Locked | DbError::Full | DbError::Schema(_) | DbError::Refused(_))
    }

    /// How much the error says about a cluster whose hosts were all tried in vain.
    pub fn tells(&self) -> u8 {
        match self {
            DbError::Unreachable(_) => 0,
            DbError::ReadOnly(_) => 1,
            _ => 2,
        }
    }

    /// Returns the error's text.
    pub fn what(&self) -> String {
        match self {
            DbError::Lost(what) => format!("the outcome is unknown: {what}"),
            DbError::Locked => "another transaction holds the key".into(),
            DbError::Full => "the server's disk is full".into(),
            DbError::Closed => "the store is closed".into(),
            DbError::Pooled => "the connection is not one session of the server: a pooler in \
                between shares sessions between transactions; connect directly, or through one \
                that keeps sessions"
                .into(),
            DbError::NotReplicated(what)
            | DbError::Again(what)
            | DbError::Unreachable(what)
            | DbError::Denied(what)
            | DbError::ReadOnly(what)
            | DbError::Schema(what)
            | DbError::Refused(what) => what.clone(),
        }
    }
}

/// An error with all that it was caused by.
pub(super) fn spelled(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

impl From<DbError> for StoreError {
    fn from(error: DbError) -> Self {
        BeginError::from(error).into()
    }
}

impl From<DbError> for BeginError {
    fn from(trouble: DbError) -> Self {
        match trouble {
            DbError::Full => BeginError::StoreFull(Full::Disk),
            DbError::Closed => BeginError::Closed,
            trouble => BeginError::Unavailable { what: trouble.what() },
        }
    }
}

impl From<DbError> for ClaimError {
    fn from(trouble: DbError) -> Self {
        match trouble {
            DbError::Full => ClaimError::StoreFull(Full::Disk),
            DbError::Closed => ClaimError::Closed,
            trouble => ClaimError::Unavailable { what: trouble.what() },
        }
    }
}

impl DbError {
    /// Converts to an error of opening a store at `place`.
    pub fn opening(self, place: &str) -> OpenError {
        let place = place.to_owned();
        match self {
            DbError::Full => OpenError::NoSpace { place, bytes: 0 },
            DbError::Denied(what) => OpenError::Denied { place, what },
            DbError::ReadOnly(what) => OpenError::ReadOnly { place, what },
            DbError::NotReplicated(what) => OpenError::NotReplicated { place, what },
            trouble => OpenError::Unreachable { place, what: trouble.what() },
        }
    }
}
