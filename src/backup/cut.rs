//! The state to copy, as of one moment.

use super::{
    Backup, BackupError, BackupOptions,
    write::{Snapshot, Writer},
};
use crate::{
    claims::Cells,
    decisions,
    engine::{Engine, snapshot::Moment},
    error::StoreError,
    inspect::{Inspection, Problem},
    recover::segments::read_until,
    storage::Storage,
};

impl Engine {
    /// Copies the store to `dst`.
    pub fn backup(
        &self,
        dst: &dyn Storage,
        options: &BackupOptions,
    ) -> Result<Backup, BackupError> {
        self.check_claim().map_err(StoreError::from)?;
        // An unusable destination is found out before anything waits.
        let writer = Writer::new(dst, options)?;
        let (moment, _pins) = self.moment();
        // Everything written before the cut is in the files from here on.
        let committed = self.commit_all();
        self.tell_if_poisoned();
        committed.map_err(StoreError::from)?;
        let Moment { superblock, taken_ms, claims, slots } = moment;
        let mut segments = Vec::new();
        for (slot, until) in slots {
            let number = slot.number;
            let read = read_until(slot, until, self.hasher())?;
            let offset = 0;
            segments.push(read.ok_or_else(|| {
                let what = "a segment does not read back";
                let file = crate::log::file_name(number);
                crate::error::OpenError::Damaged { file, offset, what }
            })?);
        }
        segments.sort_by_key(|segment| segment.slot.number);
        let claims_bytes = self.claims_bytes();
        let segments = &segments[..];
        let decisions = decisions_of(&**self.storage())?;
        let cut = Snapshot {
            superblock,
            taken_ms,
            claims,
            claims_bytes,
            segments,
            decisions,
            salvage: None,
        };
        // Another owner may write to the files of a store that has been closed.
        writer.write(cut, &mut || Ok(self.check_claim().map_err(StoreError::from)?))
    }
}

impl Inspection {
    /// Copies the inspected store to the directory `dst`, which must be empty or missing. See
    /// [`backup`](crate::backup) for what a copy of a store is that is written to at the same time.
    ///
    /// # Errors
    /// [`BackupError::Damaged`] if something doesn't read.
    pub fn backup(
        &self,
        dst: impl AsRef<std::path::Path>,
        options: &BackupOptions,
    ) -> Result<Backup, BackupError> {
        // Of the superblock one copy is enough, and the copy gets two whole ones.
        let harmless = |problem: &&Problem| problem.file == crate::superblock::FILE;
        if let Some(problem) = self.problems().iter().find(|problem| !harmless(problem)) {
            return Err(BackupError::Damaged(Box::new(problem.clone())));
        }
        let dst = super::write::destination(dst.as_ref())?;
        self.copy(&dst, options, false)
    }

    /// Copies what can be read to the directory `dst`, which must be empty or not be there: a store
    /// that can be opened without `Recovery::Salvage`. What was left out is in the report; a record
    /// whose key still reads stays, and answers
    /// [`BeginError::Damaged`](crate::BeginError::Damaged).
    pub fn salvage(&self, dst: impl AsRef<std::path::Path>) -> Result<Backup, BackupError> {
        let dst = super::write::destination(dst.as_ref())?;
        self.copy(&dst, &BackupOptions::new().share(false), true)
    }

    /// [`salvage`](Self::salvage) to any storage.
    #[doc(hidden)]
    pub fn salvage_on(&self, dst: &dyn Storage) -> Result<Backup, BackupError> {
        self.copy(dst, &BackupOptions::new().share(false), true)
    }

    fn copy(
        &self,
        dst: &dyn Storage,
        options: &BackupOptions,
        salvage: bool,
    ) -> Result<Backup, BackupError> {
        let claims = self.decided.undecided.iter().map(|undecided| undecided.found.clone());
        let mut superblock = self.superblock;
        if salvage {
            // Segments that are missing at the end are not missed.
            superblock.slots = self.segments.last().map_or(0, |segment| segment.slot.number);
        }
        let cut = Snapshot {
            superblock,
            taken_ms: self.now_ms,
            claims: claims.collect(),
            claims_bytes: self.claims_bytes.max(Cells::file_bytes(1)),
            segments: &self.segments,
            decisions: decisions_of(&*self.storage)?,
            salvage: salvage.then_some(self),
        };
        // A segment that was copied before something in it was erased, and one that was copied after
        // that: a record without the tombstone that had ended it.
        let mut unchanged = || {
            let erased = self.segments.iter().any(|s| s.still_holds() && !s.is_unchanged());
            let what = "keys were erased from the store while it was copied; copy it again";
            let failed = || BackupError::io("copying the store")(std::io::Error::other(what));
            if erased { Err(failed()) } else { Ok(()) }
        };
        let mut backup = Writer::new(dst, options)?.write(cut, &mut unchanged)?;
        backup.problems.extend_from_slice(self.problems());
        Ok(backup)
    }
}

/// The files of the decisions as they are at this moment: an entry that is being written is none
/// yet.
fn decisions_of(storage: &dyn Storage) -> Result<Vec<(String, Vec<u8>)>, BackupError> {
    let read = |name: String| match storage.open(&name) {
        Ok(file) => {
            let mut bytes = vec![0; file.size() as usize];
            file.read_at(0, &mut bytes).map(|()| Some((name, bytes)))
        }
        // Removed since it was listed: it had been kept long enough.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    let files = decisions::files(storage);
    let read = files.and_then(|files| files.into_iter().map(|(_, name)| read(name)).collect());
    let read: Vec<Option<_>> = read.map_err(BackupError::io("reading the decisions"))?;
    Ok(read.into_iter().flatten().collect())
}
