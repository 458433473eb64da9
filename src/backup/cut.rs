//! The state to copy, as of one moment.

use super::{Backup, BackupError, BackupOptions, write::Writer};
use crate::{
    claim::Phase,
    claims::{Cells, Chain, Found},
    clock::shifted,
    decisions,
    engine::Engine,
    engine::tokens,
    index::{Shard, Undecided},
    inspect::{Inspection, Problem},
    log::{Slot, Use},
    recover::segments::{Segment, Until, read_until},
    storage::Storage,
    superblock::Superblock,
};
use std::sync::{Arc, atomic::Ordering};

/// Everything that a copy is made of.
pub(super) struct Snapshot<'a> {
    pub superblock: Superblock,
    pub taken_ms: u64,
    pub claims: Vec<Found>,
    pub claims_bytes: u64,
    pub segments: &'a [Segment],
    /// The operators' decisions: files and what they hold.
    pub decisions: Vec<(String, Vec<u8>)>,
    /// Leave out what doesn't read.
    pub salvage: Option<&'a Inspection>,
}

/// While it lives no segment is used again.
struct Pins<'a>(&'a Engine);

impl Drop for Pins<'_> {
    fn drop(&mut self) {
        self.0.copying.fetch_sub(1, Ordering::SeqCst);
        self.0.notifiers.keep.notify();
    }
}

/// The moment: taken with everything locked, read afterwards.
struct Moment {
    superblock: Superblock,
    taken_ms: u64,
    claims: Vec<Found>,
    slots: Vec<(Arc<Slot>, Until)>,
}

impl Engine {
    /// Copies the store to `dst`.
    pub fn backup(
        &self,
        dst: &dyn Storage,
        options: &BackupOptions,
    ) -> Result<Backup, BackupError> {
        self.check_claim()?;
        // An unusable destination is found out before anything waits.
        let writer = Writer::new(dst, options)?;
        let (moment, _pins) = self.moment();
        // Everything written before the cut is in the files from here on.
        let committed = self.commit_all();
        self.tell_if_poisoned();
        committed.map_err(crate::error::ClaimError::from)?;
        let Moment { superblock, taken_ms, claims, slots } = moment;
        let mut segments = Vec::new();
        for (slot, until) in slots {
            let number = slot.number;
            let read = read_until(slot, until, self.index.hasher())?;
            let offset = 0;
            segments.push(read.ok_or_else(|| {
                let what = "a segment does not read back";
                let file = crate::log::file_name(number);
                crate::error::OpenError::Damaged { file, offset, what }
            })?);
        }
        segments.sort_by_key(|segment| segment.slot.number);
        let claims_bytes = self.cells.bytes();
        let segments = &segments[..];
        let decisions = decisions_of(&*self.storage)?;
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
        writer.write(cut, &mut || Ok(self.check_claim()?))
    }

    /// Where everything is, at one moment. No record is in the middle of being appended, because
    /// that is done under the lock of a shard.
    fn moment(&self) -> (Moment, Pins<'_>) {
        // No segment is created, sealed or recycled while the moment is taken.
        let _one = self.keeping.lock();
        let superblock = self.superblock.lock().1;
        let shards: Vec<_> = self.index.shards().collect();
        let taken_ms = self.now();
        let claims = shards.iter().flat_map(|shard| self.claims_of(shard, taken_ms)).collect();
        let tails: Vec<_> =
            self.log.appenders().filter_map(|(_, appender)| appender.open_at()).collect();
        let slots = self.log.slots.iter().map(|slot| {
            let until = match slot.used_as() {
                Use::Free => Until::Free,
                Use::Sealed | Use::Retired => Until::Sealed,
                Use::Filling => {
                    let tail = tails.iter().find(|(number, _)| *number == slot.number);
                    Until::Offset(tail.map_or(slot.bytes, |(_, at)| *at))
                }
            };
            (slot.clone(), until)
        });
        let slots = slots.collect();
        self.copying.fetch_add(1, Ordering::SeqCst);
        (Moment { superblock, taken_ms, claims, slots }, Pins(self))
    }

    /// The undecided claims of a shard.
    fn claims_of(&self, shard: &Shard, now: u64) -> Vec<Found> {
        let found = |undecided: &Undecided| {
            let Undecided { held, terms, .. } = undecided;
            if held.expired(now, self.interrupted_ms(terms.remember_ms)) {
                return None;
            }
            let interrupted = match held.phase_at(now) {
                Phase::InFlight { .. } => None,
                Phase::Interrupted { reason, at } => Some((reason, at)),
            };
            Some(Found {
                token: held.token,
                version: undecided.version,
                used: undecided.version,
                attempt: held.attempt,
                started_ms: held.started_ms,
                lease_ms: held.lease_ms,
                replay_ms: terms.replay_ms,
                remember_ms: terms.remember_ms,
                reserve: terms.reserve,
                fingerprint: held.fingerprint,
                history: held.history,
                interrupted,
                key: undecided.key.clone(),
                checkpoint: undecided.checkpoint.clone(),
                answer_of: undecided.answer_of(),
                chain: Chain::default(),
            })
        };
        shard.undecided.iter().filter_map(|(_, undecided)| found(undecided)).collect()
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
        let mut backup = Writer::new(dst, options)?.write(cut, &mut || Ok(()))?;
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

/// The superblock of the copy: time continues from the snapshot, tokens from above what the
/// original can have given out by then, with a day's worth more for a clock that is behind.
pub(super) fn superblock_of_copy(cut: &Snapshot<'_>) -> Superblock {
    let Snapshot { superblock: original, taken_ms, claims, .. } = cut;
    // A salvaged copy may have claims that its superblock doesn't allow.
    let limit = original.token_limit.max(Found::above_all(claims));
    // Tokens go by the wall clock.
    let by_time = tokens::Tokens::first(limit, shifted(*taken_ms, original.shift_ms));
    Superblock {
        token_limit: tokens::a_day_later(by_time),
        time_ms: original.time_ms.max(*taken_ms),
        // The copied files are written and synced before the superblock is.
        closed: true,
        number: original.next_number(),
        ..*original
    }
}
