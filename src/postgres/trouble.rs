//! What can go wrong between here and the server, and what each error of the server's means.

use crate::error::{BeginError, ClaimError, Full, OpenError};
use tokio_postgres::error::SqlState;

/// Why a try had no answer.
#[derive(Clone, Debug)]
pub(super) enum Trouble {
    /// The connection broke or was given up: what was sent may have taken effect.
    Lost(String),
    /// It did not take effect, and may when tried again.
    Again(String),
    /// Somebody else's transaction has the key in its hands. It did not take effect.
    Locked,
    /// No server was reached that may be written to.
    Unreachable(String),
    /// Every server refused the credentials or the database.
    Denied(String),
    /// A server was reached that takes no writes.
    ReadOnly(String),
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

impl Trouble {
    /// What an error of the driver means.
    pub fn of(error: &tokio_postgres::Error) -> Trouble {
        let Some(db) = error.as_db_error() else {
            // Among these are errors of decoding, which a repetition does not mend; the deadline
            // ends it.
            return Trouble::Lost(spelled(error));
        };
        let what = format!("{} ({})", db.message(), db.code().code());
        let code = db.code();
        match code.code() {
            _ if *code == SqlState::LOCK_NOT_AVAILABLE => Trouble::Locked,
            _ if *code == SqlState::DISK_FULL => Trouble::Full,
            _ if *code == SqlState::READ_ONLY_SQL_TRANSACTION => Trouble::ReadOnly(what),
            _ if *code == SqlState::TOO_MANY_CONNECTIONS => Trouble::Again(what),
            // Cancelled by somebody before it took effect.
            _ if *code == SqlState::QUERY_CANCELED => Trouble::Again(what),
            // The server is starting up: nothing ran.
            _ if *code == SqlState::CANNOT_CONNECT_NOW => Trouble::Again(what),
            "40001" | "40P01" => Trouble::Again(what),
            "42P01" | "42703" | "42P10" | "3F000" | "42883" => Trouble::Schema(what),
            // Shutting down, also while a commit waits for its standbys.
            code if code.starts_with("57P") || code.starts_with("08") => Trouble::Lost(what),
            code if code.starts_with("28") || code == "3D000" => Trouble::Denied(what),
            _ => Trouble::Refused(what),
        }
    }

    /// The same from a try to connect, where nothing can have taken effect.
    pub fn of_connecting(error: &tokio_postgres::Error) -> Trouble {
        let refused_writes = std::error::Error::source(error)
            .and_then(|source| source.downcast_ref::<std::io::Error>())
            .is_some_and(|io| io.kind() == std::io::ErrorKind::PermissionDenied);
        match Trouble::of(error) {
            Trouble::Lost(what) if refused_writes => Trouble::ReadOnly(what),
            Trouble::Lost(what) | Trouble::Again(what) => Trouble::Unreachable(what),
            trouble => trouble,
        }
    }

    /// Whether the try may have taken effect.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Trouble::Lost(_))
    }

    /// Whether another try may fare better: with the same server, or with another one after a
    /// failover.
    pub fn is_transient(&self) -> bool {
        use Trouble::*;
        matches!(
            self,
            Lost(_) | Again(_) | Locked | Unreachable(_) | ReadOnly(_) | NotReplicated(_)
        )
    }

    /// Whether the connection can be used again.
    pub fn leaves_connection(&self) -> bool {
        matches!(self, Trouble::Locked | Trouble::Full | Trouble::Schema(_) | Trouble::Refused(_))
    }

    /// How much it tells of a cluster whose hosts were all tried in vain.
    pub fn tells(&self) -> u8 {
        match self {
            Trouble::Unreachable(_) => 0,
            Trouble::ReadOnly(_) => 1,
            _ => 2,
        }
    }

    /// In words.
    pub fn what(&self) -> String {
        match self {
            Trouble::Lost(what) => format!("the outcome of the last try is unknown: {what}"),
            Trouble::Locked => "another transaction holds the key".into(),
            Trouble::Full => "the server's disk is full".into(),
            Trouble::Closed => "the store is closed".into(),
            Trouble::NotReplicated(what)
            | Trouble::Again(what)
            | Trouble::Unreachable(what)
            | Trouble::Denied(what)
            | Trouble::ReadOnly(what)
            | Trouble::Schema(what)
            | Trouble::Refused(what) => what.clone(),
        }
    }
}

/// An error with all that it was caused by.
fn spelled(error: &dyn std::error::Error) -> String {
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

impl From<Trouble> for BeginError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Full => BeginError::StoreFull(Full::Space),
            Trouble::Closed => BeginError::Closed,
            trouble => BeginError::Unavailable { what: trouble.what() },
        }
    }
}

impl From<Trouble> for ClaimError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Full => ClaimError::StoreFull(Full::Space),
            Trouble::Closed => ClaimError::Closed,
            trouble => ClaimError::Unavailable { what: trouble.what() },
        }
    }
}

impl Trouble {
    /// As an error of opening a store at `place`.
    pub fn opening(self, place: &str) -> OpenError {
        let place = place.to_owned();
        match self {
            Trouble::Full => OpenError::NoSpace { place, bytes: 0 },
            Trouble::Denied(what) => OpenError::Denied { place, what },
            Trouble::ReadOnly(what) => OpenError::ReadOnly { place, what },
            Trouble::NotReplicated(what) => OpenError::NotReplicated { place, what },
            trouble => OpenError::Unreachable { place, what: trouble.what() },
        }
    }
}
