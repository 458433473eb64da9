//! Copies of a store that another life can begin with.
//!
//! A backup is a directory with a store's files and a `manifest`, which is written last: a
//! directory without a whole manifest is no finished backup, and is refused. A full backup is a
//! store, and can be opened as it is. One that was made against an earlier backup lacks the
//! segments that had not changed since; [`restore`] puts them together, checks everything against
//! the manifest's checksums, and leaves the backup as it is.
//!
//! **The cut.** [`Store::backup`](crate::Store::backup) holds every shard's lock for as long as it
//! takes to note where the tails of the log are and to copy the undecided claims. What was
//! acknowledged before the call is in the backup; what was begun after it has returned is not; if
//! something is in it, so is everything that had been acknowledged before that was begun. The
//! copying comes later, without locks. Segments are not used again meanwhile, so a store that
//! is nearly full may be full for as long as the backup takes.
//!
//! [`Inspection::backup`](crate::inspect::Inspection::backup) is for a store that another process
//! has open, or none. It takes no lock. Each key is then as it was at some moment between the
//! start of the inspection and the end of the backup, not all at the same moment.
//!
//! **What a copy is.** The keys that were in flight are interrupted in it (crashed), as after a
//! crash. It has the name (the random number) of its original. It has forgotten what came after
//! it: compare with where the effects are. Opened, it begins a new life, whose tokens are above
//! all that the original gave out until then: as always by the wall clock, and by a margin of a
//! day's worth beyond what the superblock said, for a clock that is behind.
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

use crate::{error::ClaimError, error::OpenError, inspect::Problem};
use std::{io, path::PathBuf, sync::Arc};

/// The file that makes a directory a finished backup.
pub const MANIFEST: &str = "manifest";

/// How a backup is made.
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
    /// A full backup that shares blocks where it can.
    pub fn new() -> Self {
        Self::default()
    }

    /// Leaves out segments that have not changed since the backup in `earlier`, which is needed
    /// to restore this one.
    pub fn since(mut self, earlier: impl Into<PathBuf>) -> Self {
        self.since = Some(earlier.into());
        self
    }

    /// Whether blocks may be shared with the store, where the file system can. Default: true.
    pub fn share(mut self, share: bool) -> Self {
        self.share = share;
        self
    }
}

/// What a backup has done. Bytes are those of files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backup {
    /// Store time of the cut, in milliseconds since 1970.
    pub taken_ms: u64,
    /// Undecided claims in it.
    pub claims: u64,
    /// Segments with records in it.
    pub segments: u64,
    /// Those of them that an earlier backup has.
    pub unchanged: u64,
    /// Bytes that were written.
    pub copied_bytes: u64,
    /// Bytes whose blocks are shared with the store.
    pub shared_bytes: u64,
    /// What does not read. A record is copied as it is, and its key answers
    /// [`BeginError::Damaged`](crate::BeginError::Damaged) in the copy too; of a salvage, also what
    /// was left out.
    pub problems: Vec<Problem>,
}

/// Why a backup was not made, or not restored. The source is as it was; what was written to the
/// destination is not a finished backup, and can be removed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The source, or the directory to write to, can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store was closed, or is poisoned.
    #[error("the store to be copied: {0}")]
    Store(#[from] ClaimError),
    /// There is something in the directory already.
    #[error("{place} is not empty: it holds {file}; choose a new directory")]
    NotEmpty {
        /// The directory.
        place: String,
        /// One of its files.
        file: String,
    },
    /// There is no whole manifest: the backup was interrupted, or it is none.
    #[error("{place} is not a finished backup: its manifest {what}; remove it and make another")]
    Unfinished {
        /// The directory.
        place: String,
        /// What is wrong.
        what: String,
    },
    /// Something in the store does not read, and would be missing in the copy.
    #[error("the store is damaged: {0}; verify names all damage, salvage copies what can be read")]
    Damaged(Box<Problem>),
    /// A file of a backup is not what the manifest says.
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
    /// The operating system refused something.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// Its answer.
        source: Arc<io::Error>,
    },
}

impl BackupError {
    fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> BackupError {
        let doing = doing.into();
        move |source| BackupError::Io { doing, source: Arc::new(source) }
    }
}
