//! Copies of a store, and how they become stores again.
//!
//! A backup is a directory with a store's files and a `manifest`, which is written last: a
//! directory without a whole manifest is not a finished backup, and is refused. A backup that was
//! made against an earlier one lacks the segments that had not changed since; [`restore`] puts them
//! together, checks everything against the manifest's checksums, and leaves the backup as it is.
//!
//! A full backup has all files of a store, and could be opened as it is. But opening changes the
//! files: after that the backup can't be restored any more, and later backups that build on it
//! perhaps neither.
//!
//! **The snapshot.** [`Store::backup`](crate::Store::backup) holds every shard's lock for as long as
//! it takes to note the tails of the log and to copy the undecided claims. What was acknowledged
//! before the call is in the backup; what was begun after it has returned is not; if something is
//! in it, so is everything that had been acknowledged before that was begun. The copying comes
//! later, without locks. Segments are not used again during a backup, so a store that is nearly
//! full may be full for as long as the backup takes.
//!
//! [`Inspection::backup`](crate::inspect::Inspection::backup) is for a store that another process
//! has open, or none. It takes no lock. Each key is then as it was at some moment between the
//! start of the inspection and the end of the backup, not all at the same moment.
//!
//! **What a copy is.** The keys that were in flight are interrupted in it (crashed), as after a
//! crash. It has the name (the random number) of its original. It doesn't know what happened after
//! it: compare it with the effects. Opened, it begins a new life, whose tokens are above all that
//! the original gave out until then: by the wall clock, as always, and by a margin of a day's worth
//! beyond the superblock's limit, for a clock that is behind. Stored answers are in it as in the
//! store, and its files are readable by their owner only.
//!
//! **Blocks.** Where the file system can share blocks between files (btrfs, XFS with reflinks),
//! sealed segments are shared instead of copied, unless [`BackupOptions::share`] says otherwise.
//! The store then needs new space when it uses such a segment again, and a write that finds none
//! poisons it: see `docs/durability.md`. Files are never hard-linked, because segments are written
//! again in place.

mod cut;
mod manifest;
mod restore;
mod write;

pub use restore::restore;

use crate::{
    error::{OpenError, StoreError},
    inspect::Problem,
};
use std::{io, path::PathBuf, sync::Arc};

/// The file that makes a directory a finished backup.
pub const MANIFEST: &str = "manifest";

/// Options of a backup.
#[derive(Clone, Debug)]
#[must_use]
pub struct BackupOptions {
    pub(crate) since: Option<PathBuf>,
    pub(crate) share: bool,
}

impl Default for BackupOptions {
    fn default() -> Self {
        BackupOptions { since: None, share: true }
    }
}

impl BackupOptions {
    /// Returns the options of a full backup that shares blocks where the file system can.
    pub fn new() -> Self {
        Self::default()
    }

    /// Leaves out segments that have not changed since the backup in `earlier`, which is then
    /// needed to restore this one.
    pub fn since(mut self, earlier: impl Into<PathBuf>) -> Self {
        self.since = Some(earlier.into());
        self
    }

    /// Sets whether blocks may be shared with the store, where the file system can. Default: true.
    pub fn share(mut self, share: bool) -> Self {
        self.share = share;
        self
    }
}

/// The result of a backup. Sizes are bytes of files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backup {
    /// Store time of the snapshot, in milliseconds since 1970.
    pub taken_ms: u64,
    /// Undecided claims in it.
    pub claims: u64,
    /// Segments with records in it.
    pub segments: u64,
    /// Segments that an earlier backup has.
    pub unchanged: u64,
    /// Bytes that were written.
    pub copied_bytes: u64,
    /// Bytes whose blocks are shared with the store.
    pub shared_bytes: u64,
    /// Damage that was found. A damaged record is copied as it is, and its key returns
    /// [`BeginError::Damaged`](crate::BeginError::Damaged) in the copy too. After a salvage this
    /// also lists what was left out.
    pub problems: Vec<Problem>,
}

/// Why a backup was not made, or not restored. The source is unchanged. The files at the
/// destination are not a finished backup, and can be removed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The source, or the directory to write to, can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store was closed, or is poisoned.
    #[error("the store to be copied: {0}")]
    Store(#[from] StoreError),
    /// The directory is not empty.
    #[error("{place} is not empty: it holds {file}; choose a new directory")]
    NotEmpty {
        /// The directory.
        place: String,
        /// One of its files.
        file: String,
    },
    /// There is no whole manifest: the backup was interrupted, or the directory is not a backup.
    #[error("{place} is not a finished backup: its manifest {what}; remove it and make another")]
    Unfinished {
        /// The directory.
        place: String,
        /// The fault.
        what: String,
    },
    /// Damage in the store that would be missing in the copy.
    #[error("the store is damaged: {0}; verify names all damage, salvage copies what can be read")]
    Damaged(Box<Problem>),
    /// A file of a backup differs from the manifest.
    #[error("{file} in {place} is not what was backed up: {what}")]
    Changed {
        /// The backup's directory.
        place: String,
        /// The file's name.
        file: String,
        /// How it differs.
        what: &'static str,
    },
    /// The earlier backup is of another store.
    #[error("{place} is a backup of another store")]
    OtherStore {
        /// Its directory.
        place: String,
    },
    /// A call to the operating system failed.
    #[error("{doing}: {source}")]
    Io {
        /// The failed step.
        doing: String,
        /// The operating system's error.
        source: Arc<io::Error>,
    },
}

impl BackupError {
    fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> BackupError {
        let doing = doing.into();
        move |source| BackupError::Io { doing, source: Arc::new(source) }
    }
}
