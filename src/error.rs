//! The errors, in three families: a store that cannot be opened ([`OpenError`]), a call after
//! which nothing ran ([`BeginError`]), a call after which something may have ([`ClaimError`]).

use crate::limits::*;
use std::{io, sync::Arc, time::Duration};

/// A scope or key that no store accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The key has no bytes.
    #[error("the idempotency key is empty; a key has 1 to {KEY_BYTES_MAX} bytes")]
    Empty,
    /// The key is longer than 255 bytes.
    #[error("the idempotency key has {len} bytes; a key has 1 to {KEY_BYTES_MAX}")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// The scope is longer than 255 bytes.
    #[error(
        "the scope has {len} bytes, the longest is {SCOPE_BYTES_MAX}; Scope::of hashes long ones"
    )]
    ScopeTooLong {
        /// Its length in bytes.
        len: usize,
    },
}

/// Why a store could not be opened. Except for [`OpenError::Io`] and [`OpenError::NoSpace`], which
/// can come from any step, nothing was written.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// An option has a value that cannot be kept.
    #[error("{what}")]
    Options {
        /// Which, and what would do.
        what: String,
    },
    /// Another store, of this process or of another, has the directory open.
    #[error("{place} is in use by another store; one directory serves one store at a time")]
    InUse {
        /// The directory.
        place: String,
    },
    /// The operating system refused something.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done, with the file's name.
        doing: String,
        /// Its answer.
        source: Arc<io::Error>,
    },
    /// There is no room to create what the store needs.
    #[error(
        "{place} has no room for the {bytes} bytes that the store needs; free some space and open again"
    )]
    NoSpace {
        /// The directory.
        place: String,
        /// Bytes needed at the least.
        bytes: u64,
    },
    /// A file that belongs to the store is not there.
    #[error("{file} is missing; restore it, or open with Recovery::Salvage to go on without it")]
    Missing {
        /// Its name.
        file: String,
    },
    /// Bytes that had been made durable do not read back.
    #[error(
        "{file} is damaged at byte {offset}: {what}; restore a backup, or open with Recovery::Salvage"
    )]
    Damaged {
        /// The file's name.
        file: String,
        /// Where, in bytes from its start.
        offset: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// A file that belongs to another store, or to another place in this one.
    #[error("{file} belongs to another store or place; put back the store's own file")]
    Foreign {
        /// Its name.
        file: String,
    },
    /// Written by a later version of this library.
    #[error(
        "{file} has format {found}, this version knows up to {known}; open it with a newer one"
    )]
    Newer {
        /// Its name.
        file: String,
        /// Its format version.
        found: u32,
        /// The newest version known here.
        known: u32,
    },
    /// There is no store there, and none was to be created: see
    /// [`Options::create`](crate::Options::create). Nothing was, not even a directory.
    #[error(
        "{place} holds no store; name the directory that a store was opened in, and mount its volume"
    )]
    NoStore {
        /// The directory.
        place: String,
    },
    /// The directory holds files of a store but no superblock.
    #[error(
        "{place} holds {file} but no superblock: not a whole store; restore it, or choose an empty directory"
    )]
    NotAStore {
        /// The directory.
        place: String,
        /// One of the files found.
        file: String,
    },
    /// The process has forked since the store was opened, which is the parent's: the answer of
    /// [`Store::verify`](crate::Store::verify) in the child.
    #[error("this store was opened before a fork; open one in this process")]
    Forked,
    /// The tables of a store in a database are missing, or of an older version.
    #[error("{file} has version {found}, this library needs {known}; run migrate()")]
    NotMigrated {
        /// Its name.
        file: String,
        /// Its version; 0 if there is none.
        found: u32,
        /// The version known here.
        known: u32,
    },
    /// No server answers.
    #[error("{place} can't be reached: {what}")]
    Unreachable {
        /// The servers.
        place: String,
        /// What was the last thing heard.
        what: String,
    },
    /// The server refuses the credentials, the database or the right to create the tables.
    #[error("{place} refuses: {what}")]
    Denied {
        /// The servers.
        place: String,
        /// What it said.
        what: String,
    },
    /// No server of the cluster takes writes.
    #[error("{place} is read-only: {what}")]
    ReadOnly {
        /// The servers.
        place: String,
        /// What it said.
        what: String,
    },
    /// The cluster was said to replicate synchronously, and does not.
    #[error("{place} does not replicate synchronously: {what}")]
    NotReplicated {
        /// The servers.
        place: String,
        /// What is missing.
        what: String,
    },
}

/// This process is a child that was forked after the store was opened: the store is its
/// parent's. Translated into each family of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Forked;

impl From<Forked> for OpenError {
    fn from(_: Forked) -> Self {
        OpenError::Forked
    }
}

impl From<Forked> for BeginError {
    fn from(_: Forked) -> Self {
        BeginError::Forked
    }
}

impl From<Forked> for ClaimError {
    fn from(_: Forked) -> Self {
        ClaimError::Forked
    }
}

impl OpenError {
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> OpenError {
        let doing = doing.into();
        move |source| OpenError::Io { doing, source: Arc::new(source) }
    }

    pub(crate) fn options(what: impl Into<String>) -> OpenError {
        OpenError::Options { what: what.into() }
    }
}

/// What is known of the key's state after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyState {
    /// As it was before the call.
    Unchanged,
    /// Held by somebody else now, or finished by them: see the key.
    NotYours,
    /// Completed, with the response of the first completion.
    Completed,
    /// Not known until the store has been opened again: the disk refused to confirm a write.
    Unknown,
}

/// Whether the same call is worth trying again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Retry {
    /// Yes, after about this long.
    After(Duration),
    /// Yes, once the store has been opened again.
    AfterReopen,
    /// No: it will fail the same way.
    Never,
}

/// What there is no room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Full {
    /// Segments: no space for the largest response that the claim may store.
    Space,
    /// The claims file: as many claims are undecided as it has room for.
    Claims,
}

/// Why `begin`, `take_over`, `get` or `entries` has no answer. **Nothing ran.**
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BeginError {
    /// No room to promise that the claim can be completed. Nothing is evicted to make some:
    /// answer 503 and let records expire, or raise `Options::capacity`.
    #[error("the store is full ({0:?}): no room is left to keep another answer")]
    StoreFull(Full),
    /// The record of this key, or one that may be this key's, does not read back.
    #[error("the record in segment {segment} at byte {offset} is damaged; it may be this key's")]
    Damaged {
        /// Number of the segment.
        segment: u32,
        /// Byte in it.
        offset: u64,
    },
    /// A write or sync failed earlier; see [`ClaimError::Poisoned`].
    #[error("the store is poisoned by a failed write: open it again")]
    Poisoned,
    /// The store was closed, or is draining.
    #[error("the store is closed")]
    Closed,
    /// As many attempts were made as `Options::max_attempts` allows; only an operator goes on.
    #[error("{attempts} attempts were interrupted; an operator must resolve this key")]
    AttemptsExhausted {
        /// How many.
        attempts: u32,
    },
    /// The terms cannot be kept.
    #[error("{what}")]
    Terms {
        /// Which, and what would do.
        what: &'static str,
    },
    /// The process has forked since the store was opened. It is the parent's: nothing of it was
    /// touched.
    #[error("this store was opened before a fork; open one in this process")]
    Forked,
    /// A backend beyond this process gave no usable answer; whether it holds a claim for this
    /// call is settled by the lease. Or, in an embedded store, the system refuses the file of a
    /// further segment for another reason than want of room: then nothing was granted.
    #[error("the store is unavailable: {what}")]
    Unavailable {
        /// What it said.
        what: String,
    },
}

impl BeginError {
    /// Whether the same call is worth trying again.
    pub fn retry(&self) -> Retry {
        match self {
            BeginError::StoreFull(_) => Retry::After(Duration::from_secs(1)),
            BeginError::Unavailable { .. } => Retry::After(Duration::from_secs(1)),
            BeginError::Poisoned | BeginError::Closed | BeginError::Forked => Retry::AfterReopen,
            _ => Retry::Never,
        }
    }

    /// What is known of the key's state: it is as it was, unless the disk (or the backend)
    /// refused to confirm a claim; then it may turn out to be interrupted. Nothing ran either way.
    pub fn key_state(&self) -> KeyState {
        match self {
            BeginError::Poisoned | BeginError::Unavailable { .. } => KeyState::Unknown,
            _ => KeyState::Unchanged,
        }
    }
}

/// Why a holder's (or an operator's) call did not do what it says. **Something may have run.**
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// The key is not this holder's any more: it was taken over, resolved, or has expired. The
    /// effect of this attempt may exist beside another one: log it loudly.
    #[error("fenced: the key is no longer held with this token")]
    Fenced,
    /// The key is completed.
    #[error("the key is already completed")]
    AlreadyCompleted,
    /// The key has been completed (or failed) with other bytes under this token; those stay.
    #[error("the key already has another response")]
    DifferentResponse,
    /// The claim is still held: complete with less, or without the response.
    #[error("the response has {len} bytes, the claim has room for {limit}")]
    ResponseTooLarge {
        /// Its size in bytes, head included.
        len: usize,
        /// The largest that this claim can store, in bytes.
        limit: usize,
    },
    /// A head or a checkpoint is longer than 4 KiB. The claim is still held.
    #[error("{what} has {len} bytes, the longest is {limit}")]
    TooLong {
        /// Which.
        what: &'static str,
        /// Its size in bytes.
        len: usize,
        /// The longest allowed, in bytes.
        limit: usize,
    },
    /// A retention that cannot be kept. The claim is still held.
    #[error("{what}")]
    Terms {
        /// Which, and what would do.
        what: &'static str,
    },
    /// No room for a checkpoint or for the answer of a failure. The claim is still held.
    #[error("the store is full ({0:?})")]
    StoreFull(Full),
    /// A write or a sync failed, now or earlier. What had been acknowledged is still served;
    /// nothing further is, and the keys of the failing group are unknown until the store is
    /// opened again.
    #[error("the store is poisoned by a failed write: open it again to learn what was kept")]
    Poisoned,
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// The stored record does not read back.
    #[error("the key's record is damaged")]
    Damaged,
    /// The operator's call needs `force` in this state.
    #[error("the key is {state}; say force to do it nevertheless")]
    NeedsForce {
        /// Its state.
        state: &'static str,
    },
    /// The operator's call does not apply to this state.
    #[error("the key is {state}; this does not apply")]
    NotApplicable {
        /// Its state.
        state: &'static str,
    },
    /// The process has forked since the store was opened. The claim is the parent's, which still
    /// holds it; nothing of it was touched.
    #[error("this store was opened before a fork")]
    Forked,
    /// A backend beyond this process gave no usable answer.
    #[error("the store is unavailable: {what}")]
    Unavailable {
        /// What it said.
        what: String,
    },
}

impl ClaimError {
    /// What is known of the key's state.
    pub fn key_state(&self) -> KeyState {
        match self {
            ClaimError::Fenced => KeyState::NotYours,
            ClaimError::AlreadyCompleted | ClaimError::DifferentResponse => KeyState::Completed,
            ClaimError::Poisoned
            | ClaimError::Closed
            | ClaimError::Damaged
            | ClaimError::Unavailable { .. } => KeyState::Unknown,
            _ => KeyState::Unchanged,
        }
    }

    /// Whether the same call is worth trying again.
    pub fn retry(&self) -> Retry {
        match self {
            ClaimError::StoreFull(_) | ClaimError::Unavailable { .. } => {
                Retry::After(Duration::from_secs(1))
            }
            ClaimError::Poisoned | ClaimError::Closed | ClaimError::Forked => Retry::AfterReopen,
            _ => Retry::Never,
        }
    }
}
