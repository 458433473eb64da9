//! Errors in four families: the store could not be opened ([`OpenError`]); a claim failed before
//! anything was executed ([`BeginError`]); a holder's call failed after something may have been
//! executed ([`ClaimError`]); a call that claims nothing failed ([`StoreError`]).

use crate::limits::*;
use std::{io, sync::Arc, time::Duration};

/// Why a scope or a key is not accepted by any store.
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

/// Why a store could not be opened.
///
/// Nothing was written, with these exceptions: [`OpenError::Io`] and [`OpenError::NoSpace`] can
/// come from any step, and [`Recovery::Salvage`](crate::Recovery::Salvage) creates a missing ring
/// or claims file before it reads the rest.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// An option has a value that is out of bounds, or doesn't fit another one.
    #[error("{what}")]
    Options {
        /// The option, and the values that are allowed.
        what: String,
    },
    /// The directory is open already, in this process or in another one.
    #[error(
        "{place} is open already{}; a directory can be open once at a time, close the other store",
        by(*.owner)
    )]
    InUse {
        /// The directory.
        place: String,
        /// The process that has it open, this one perhaps; `None` if the system doesn't show it (a
        /// process of another container, for instance).
        owner: Option<u32>,
    },
    /// A call to the operating system failed.
    #[error("{doing}: {source}")]
    Io {
        /// The failed step, with the file's name.
        doing: String,
        /// The operating system's error.
        source: Arc<io::Error>,
    },
    /// There is no space to create the files that the store needs.
    #[error(
        "{place} has no space for the {bytes} bytes that the store needs; free some and open again"
    )]
    NoSpace {
        /// The directory.
        place: String,
        /// The least number of bytes that is needed.
        bytes: u64,
    },
    /// A file that belongs to the store is missing.
    #[error("{file} is missing; restore it, or open without it with Recovery::Salvage")]
    Missing {
        /// The file's name.
        file: String,
    },
    /// Bytes that had been made durable do not read back as they were written.
    #[error(
        "{file} is damaged at byte {offset}: {what}; restore a backup, or open with Recovery::Salvage"
    )]
    Damaged {
        /// The file's name.
        file: String,
        /// Where, in bytes from its start.
        offset: u64,
        /// The fault at that place.
        what: &'static str,
    },
    /// A file belongs to another store, or to another place in this one.
    #[error("{file} belongs to another store or place; put back the store's own file")]
    Foreign {
        /// The file's name.
        file: String,
    },
    /// A file was written by a later version of this library.
    #[error(
        "{file} has format {found}, this version knows up to {known}; open it with a newer version"
    )]
    Newer {
        /// The file's name.
        file: String,
        /// Its format version.
        found: u32,
        /// The newest version that this library knows.
        known: u32,
    },
    /// The directory holds no store, and [`Options::create`](crate::Options::create) is `false`.
    /// Nothing was created, not even a directory.
    #[error(
        "{place} holds no store; name the directory that a store was opened in, and mount its volume"
    )]
    NoStore {
        /// The directory.
        place: String,
    },
    /// The directory holds files of a store but no superblock.
    #[error(
        "{place} holds {file} but no superblock, so it is not a whole store; restore it, or choose \
         an empty directory"
    )]
    NotAStore {
        /// The directory.
        place: String,
        /// One of the files found.
        file: String,
    },
    /// This process was forked after the store was opened, so the store is its parent's.
    /// [`Store::verify`](crate::Store::verify) returns this in the child.
    #[error("this store was opened before a fork; open one in this process")]
    Forked,
    /// The tables of a store in a database are missing, or of an older version.
    #[error("{file} has version {found}, this library needs {known}; run migrate()")]
    NotMigrated {
        /// The table's name.
        file: String,
        /// Its version; 0 if there is none.
        found: u32,
        /// The version that this library needs.
        known: u32,
    },
    /// No server answers.
    #[error("{place} can't be reached: {what}")]
    Unreachable {
        /// The servers.
        place: String,
        /// The last error that was received.
        what: String,
    },
    /// The server refuses the credentials, the database or the right to create the tables.
    #[error("{place} refuses access: {what}")]
    Denied {
        /// The servers.
        place: String,
        /// The server's message.
        what: String,
    },
    /// No server of the cluster accepts writes.
    #[error("{place} is read-only: {what}")]
    ReadOnly {
        /// The servers.
        place: String,
        /// The server's message.
        what: String,
    },
    /// The cluster was declared to replicate synchronously, and does not.
    #[error("{place} does not replicate synchronously: {what}")]
    NotReplicated {
        /// The servers.
        place: String,
        /// The missing object.
        what: String,
    },
}

/// This process was forked after the store was opened, so the store is its parent's. Translated
/// into each family of errors.
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

impl From<Forked> for StoreError {
    fn from(_: Forked) -> Self {
        StoreError::Forked
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

/// The state of a key after an error, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyState {
    /// The key is as it was before the call.
    Unchanged,
    /// The key is held by another holder now, or was ended by another holder or an operator. Look
    /// the key up.
    NotYours,
    /// The key is completed, with the response of the first completion.
    Completed,
    /// The key's state is not known. In an embedded store: until it has been opened again, because
    /// the disk refused to confirm a write. In another backend: until the key is looked up there.
    Unknown,
}

/// Whether the same call is worth repeating.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Retry {
    /// The call may succeed after about this long.
    After(Duration),
    /// The call may succeed once the store has been opened again.
    AfterReopen,
    /// The call will fail the same way.
    Never,
}

/// The owner of a directory, for a message.
fn by(owner: Option<u32>) -> String {
    match owner {
        None => String::new(),
        Some(owner) if owner == std::process::id() => " in this process".into(),
        Some(owner) => format!(" by process {owner}"),
    }
}

/// The resource that is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Full {
    /// `Options::capacity`: the largest response that the claim may store doesn't fit the segments,
    /// which take all that it allows.
    Space,
    /// The disk, a quota, or the largest file that the system allows: another segment is needed,
    /// and there is no room for it. Records that expire make room too.
    Disk,
    /// The claims file: as many keys are undecided as it has room for.
    Claims,
    /// The scope's share of the keys that can be undecided or interrupted, or of the space that can
    /// be reserved. Other scopes still have room. See [`Terms::shared`](crate::Terms::shared).
    Scope,
}

impl std::fmt::Display for Full {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Full::Space => "the capacity has no room for another response",
            Full::Disk => "the disk has no room for another segment",
            Full::Claims => "the claims file has no room: too many keys are undecided",
            Full::Scope => "this scope has its share: too many of its keys are undecided",
        })
    }
}

/// Why `begin` or `take_over` failed. **Nothing was executed.**
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BeginError {
    /// The store can't reserve what the claim needs to be completed. Nothing is evicted to make
    /// room: answer 503 and let records expire, or raise `Options::capacity` or
    /// `Options::max_claims`.
    #[error("the store is full: {0}")]
    StoreFull(Full),
    /// The record of this key, or one that may be this key's, does not read back as it was written.
    #[error("the record in segment {segment} at byte {offset} is damaged; it may be this key's")]
    Damaged {
        /// The segment's number.
        segment: u32,
        /// The record's offset in the segment, in bytes.
        offset: u64,
    },
    /// A write or a sync failed earlier; see [`ClaimError::Poisoned`].
    #[error("the store is poisoned by a failed write; open it again")]
    Poisoned,
    /// The store was closed, or is draining.
    #[error("the store is closed or draining; open it again")]
    Closed,
    /// `Options::max_attempts` attempts at this key have been made. Only an operator can end the
    /// key now.
    #[error("{attempts} attempts were interrupted; an operator must resolve this key")]
    AttemptsExhausted {
        /// The number of attempts.
        attempts: u32,
    },
    /// The claim's terms are out of bounds.
    #[error("{what}")]
    Terms {
        /// The term with its value, and the values that are allowed.
        what: String,
    },
    /// This process was forked after the store was opened, so the store is its parent's. The call
    /// changed nothing.
    #[error("this store was opened before a fork; open one in this process")]
    Forked,
    /// A backend beyond this process gave no usable answer; it may hold a claim for this call,
    /// which ends with its lease. Or an embedded store could not create a further segment, for
    /// another reason than lack of space; then nothing was granted.
    #[error("the store is unavailable: {what}")]
    Unavailable {
        /// The error of the backend or of the operating system.
        what: String,
    },
}

impl BeginError {
    /// Returns whether the same call is worth repeating.
    pub fn retry(&self) -> Retry {
        match self {
            BeginError::StoreFull(_) => Retry::After(Duration::from_secs(1)),
            BeginError::Unavailable { .. } => Retry::After(Duration::from_secs(1)),
            BeginError::Poisoned | BeginError::Closed | BeginError::Forked => Retry::AfterReopen,
            _ => Retry::Never,
        }
    }

    /// Returns what is known of the key's state. It is unchanged, unless the disk or the backend
    /// refused to confirm a claim: then the key may turn out to be interrupted. Nothing was
    /// executed in either case.
    pub fn key_state(&self) -> KeyState {
        match self {
            BeginError::Poisoned | BeginError::Unavailable { .. } => KeyState::Unknown,
            _ => KeyState::Unchanged,
        }
    }
}

/// Why a holder's call failed. **The operation may have been executed.**
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// The caller no longer holds the key: it was taken over, resolved, or has expired. The effect
    /// of this attempt may exist beside that of another one, so the error should raise an alarm.
    #[error("fenced: the key is no longer held with this token")]
    Fenced,
    /// The key is already completed.
    #[error("the key is already completed")]
    AlreadyCompleted,
    /// The key was completed (or failed) with other bytes under this token; those stay.
    #[error("the key already has another response")]
    DifferentResponse,
    /// The response is larger than the space that was reserved for it. The claim is still held:
    /// complete with fewer bytes, or without the response.
    #[error("the response has {len} bytes, the claim has room for {limit}")]
    ResponseTooLarge {
        /// The size of the response in bytes, head included.
        len: usize,
        /// The largest size that this claim can store, in bytes.
        limit: usize,
    },
    /// A head or a checkpoint is longer than 4 KiB. The claim is still held.
    #[error("{what} has {len} bytes, the longest is {limit}")]
    TooLong {
        /// "the head" or "the checkpoint".
        what: &'static str,
        /// Its size in bytes.
        len: usize,
        /// The greatest length that is allowed, in bytes.
        limit: usize,
    },
    /// The retention of a completion is out of bounds. The claim is still held.
    #[error("{what}")]
    Terms {
        /// The term with its value, and the values that are allowed.
        what: String,
    },
    /// There is no room for a checkpoint or for the answer of a failure. The claim is still held.
    #[error("the store is full: {0}")]
    StoreFull(Full),
    /// A write or a sync failed, now or earlier. What had been acknowledged is still served, and
    /// nothing else is acknowledged. The keys of the group commit that failed are unknown until the
    /// store is opened again.
    #[error("the store is poisoned by a failed write; open it again to learn what was kept")]
    Poisoned,
    /// The store was closed.
    #[error("the store is closed; open it again")]
    Closed,
    /// The record of this key, or one that may be this key's, does not read back as it was written.
    #[error("the record in segment {segment} at byte {offset} is damaged; it may be this key's")]
    Damaged {
        /// The segment's number.
        segment: u32,
        /// The record's offset in the segment, in bytes.
        offset: u64,
    },
    /// The call does not apply to such a claim: it is in a transaction of the caller's own, perhaps.
    #[error("the key is {state}; this does not apply")]
    NotApplicable {
        /// The key's state.
        state: &'static str,
    },
    /// What was written in the claim's transaction can't be committed: a statement in it has failed,
    /// or a deferred constraint does not hold. The claim is still held. Undo the effects
    /// (`undo_effects`) and complete, which keeps the answer alone, or end the claim otherwise,
    /// which undoes both.
    #[error("the effects can't be committed: {what}")]
    EffectsFailed {
        /// The error of the database.
        what: String,
    },
    /// This process was forked after the store was opened. The claim is its parent's, which still
    /// holds it; the call changed nothing.
    #[error("this store was opened before a fork; its claims are the parent's")]
    Forked,
    /// A backend beyond this process gave no usable answer. Or an embedded store could not create a
    /// further segment, for another reason than lack of space; then nothing was written.
    #[error("the store is unavailable: {what}")]
    Unavailable {
        /// The error of the backend or of the operating system.
        what: String,
    },
}

impl ClaimError {
    /// Returns what is known of the key's state.
    pub fn key_state(&self) -> KeyState {
        match self {
            ClaimError::Fenced => KeyState::NotYours,
            ClaimError::AlreadyCompleted | ClaimError::DifferentResponse => KeyState::Completed,
            ClaimError::Poisoned
            | ClaimError::Closed
            | ClaimError::Damaged { .. }
            | ClaimError::Unavailable { .. } => KeyState::Unknown,
            _ => KeyState::Unchanged,
        }
    }

    /// Returns whether the same call is worth repeating.
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

/// Why a call that claims nothing failed: a look at keys, an operator's decision, a move of keys, a
/// flush, a closing. **Nothing was executed**, and what was refused changed nothing.
///
/// [`BeginError`] and [`ClaimError`] convert into it, for a function that makes calls of each kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The decision has to be forced while the key is in this state
    /// ([`ResolveOptions::force`](crate::ResolveOptions::force)).
    #[error("the key is {state}; this needs force")]
    NeedsForce {
        /// The key's state.
        state: &'static str,
    },
    /// The call does not apply to a key in this state.
    #[error("the key is {state}; this does not apply")]
    NotApplicable {
        /// The key's state.
        state: &'static str,
    },
    /// The key is already completed.
    #[error("the key is already completed")]
    AlreadyCompleted,
    /// The response is larger than the store's `max_response`.
    #[error("the response has {len} bytes, there is room for {limit}")]
    ResponseTooLarge {
        /// The size of the response in bytes, head included.
        len: usize,
        /// The largest size that can be stored, in bytes.
        limit: usize,
    },
    /// A head is longer than 4 KiB.
    #[error("{what} has {len} bytes, the longest is {limit}")]
    TooLong {
        /// "the head".
        what: &'static str,
        /// Its size in bytes.
        len: usize,
        /// The greatest length that is allowed, in bytes.
        limit: usize,
    },
    /// A retention is out of bounds.
    #[error("{what}")]
    Terms {
        /// The term with its value, and the values that are allowed.
        what: String,
    },
    /// There is no room for what is to be stored.
    #[error("the store is full: {0}")]
    StoreFull(Full),
    /// A record that was looked at does not read back as it was written.
    #[error("the record in segment {segment} at byte {offset} is damaged")]
    Damaged {
        /// The segment's number.
        segment: u32,
        /// The record's offset in the segment, in bytes.
        offset: u64,
    },
    /// A write or a sync failed, now or earlier. See [`ClaimError::Poisoned`].
    #[error("the store is poisoned by a failed write; open it again to learn what was kept")]
    Poisoned,
    /// The store was closed.
    #[error("the store is closed; open it again")]
    Closed,
    /// This process was forked after the store was opened, so the store is its parent's.
    #[error("this store was opened before a fork; open one in this process")]
    Forked,
    /// A backend beyond this process gave no usable answer, and what was to be changed may have
    /// been. Or a file of an embedded store can't be read or created.
    #[error("the store is unavailable: {what}")]
    Unavailable {
        /// The error of the backend or of the operating system.
        what: String,
    },
}

impl StoreError {
    /// Returns what is known of the key that the call was about.
    pub fn key_state(&self) -> KeyState {
        match self {
            StoreError::AlreadyCompleted => KeyState::Completed,
            StoreError::Poisoned | StoreError::Unavailable { .. } => KeyState::Unknown,
            _ => KeyState::Unchanged,
        }
    }

    /// Returns whether the same call is worth repeating.
    pub fn retry(&self) -> Retry {
        match self {
            StoreError::StoreFull(_) | StoreError::Unavailable { .. } => {
                Retry::After(Duration::from_secs(1))
            }
            StoreError::Poisoned | StoreError::Closed | StoreError::Forked => Retry::AfterReopen,
            _ => Retry::Never,
        }
    }
}

impl From<BeginError> for StoreError {
    fn from(error: BeginError) -> Self {
        match error {
            BeginError::StoreFull(full) => StoreError::StoreFull(full),
            BeginError::Damaged { segment, offset } => StoreError::Damaged { segment, offset },
            BeginError::Poisoned => StoreError::Poisoned,
            BeginError::Closed => StoreError::Closed,
            BeginError::AttemptsExhausted { .. } => Self::NotApplicable { state: "exhausted" },
            BeginError::Terms { what } => StoreError::Terms { what },
            BeginError::Forked => StoreError::Forked,
            BeginError::Unavailable { what } => StoreError::Unavailable { what },
        }
    }
}

impl From<ClaimError> for StoreError {
    fn from(error: ClaimError) -> Self {
        match error {
            ClaimError::Fenced => StoreError::NotApplicable { state: "not held any more" },
            ClaimError::AlreadyCompleted | ClaimError::DifferentResponse => Self::AlreadyCompleted,
            ClaimError::ResponseTooLarge { len, limit } => Self::ResponseTooLarge { len, limit },
            ClaimError::TooLong { what, len, limit } => StoreError::TooLong { what, len, limit },
            ClaimError::Terms { what } => StoreError::Terms { what },
            ClaimError::StoreFull(full) => StoreError::StoreFull(full),
            ClaimError::Damaged { segment, offset } => StoreError::Damaged { segment, offset },
            ClaimError::Poisoned => StoreError::Poisoned,
            ClaimError::Closed => StoreError::Closed,
            ClaimError::NotApplicable { state } => StoreError::NotApplicable { state },
            ClaimError::Forked => StoreError::Forked,
            ClaimError::EffectsFailed { what } | ClaimError::Unavailable { what } => {
                StoreError::Unavailable { what }
            }
        }
    }
}
