//! Housekeeping that may wait for the disk: raise the token limit, prepare segments ahead of
//! need, seal full ones, and bring expired ones back to the pool.

use crate::{
    broken::{self, Broken},
    engine::Engine,
    error::Full as FullOf,
    location::Location,
    log::{Full, Retired, Slot, Use, claim_bytes},
    observe::events,
    poison::Poisoned,
    stats::Count,
    storage::{is_failed_sync, is_no_room, leave_descriptors},
    sync::atomic::Ordering,
};
use std::{fmt, io, sync::Arc};

/// How soon an expired segment is checked again whose room is reserved for claims.
const PROMISED_MS: u64 = 1000;

/// Descriptors that are not used for segments: an opening needs some beside those of the files, and
/// so does the process that opens the store.
const DESCRIPTORS_LEFT: u64 = 32;

/// Bytes of footers that are worked through together.
const SWEPT_AT_ONCE: usize = 16 << 20;

/// Why the system gives no further segment.
#[derive(Clone, Debug)]
pub(crate) struct Lacking {
    /// There is no room for it.
    pub no_room: bool,
    /// The operating system's message.
    pub what: String,
}

impl fmt::Display for Lacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let doing = if self.no_room { "no room for" } else { "cannot create" };
        write!(f, "{doing} another segment: {}", self.what)
    }
}

enum Lack {
    Segment(Lacking),
    Poisoned(Poisoned),
}

impl Engine {
    /// Whether another segment could be created.
    pub fn can_grow(&self) -> bool {
        self.next_segment_bytes().is_some()
    }

    /// Whether the last try to create one failed.
    pub fn is_starved(&self) -> bool {
        self.starved.load(Ordering::Acquire)
    }

    /// Size of the segment to create next. The total doubles with each, up to the size of the
    /// largest, so that the first segments are small.
    fn next_segment_bytes(&self) -> Option<u64> {
        let sizes = &self.config.sizes;
        let total: u64 = self.log.slots.iter().map(|slot| slot.bytes).sum();
        let left = self.config.capacity.checked_sub(total)?;
        let wanted = total.clamp(sizes.segment_min, sizes.segment_max);
        let bytes = wanted.min(left) / 4096 * 4096;
        (bytes >= sizes.segment_min).then_some(bytes)
    }

    /// Provides what is running short: tokens and space. Waiters look again afterwards.
    pub fn provide_now(&self) {
        let _ = self.keep_alone(|| {
            // A failure is in the latch, and waiters find it there.
            let _ = self.raise_tokens();
            self.prepare_segments()
        });
        self.resources.notify();
    }

    /// Does one step of housekeeping, one thread at a time; nothing on a closed store, whose files
    /// may be another's by now. No waker is called in it, because one may close the store, or drop
    /// the last handle, and closing takes the same lock.
    fn keep_alone(&self, what: impl FnOnce() -> Result<(), Poisoned>) -> Result<(), Poisoned> {
        let _one = self.keeping.lock();
        if self.closed.load(Ordering::SeqCst) { Ok(()) } else { what() }
    }

    fn raise_tokens(&self) -> Result<(), Poisoned> {
        let Some(limit) = self.tokens.wanted_limit() else {
            return Ok(());
        };
        self.poison.check()?;
        if broken::is(Broken::TokensRaisedFirst) {
            self.tokens.raise(limit);
            return Ok(());
        }
        self.write_superblock(|superblock| superblock.token_limit = limit)?;
        self.tokens.raise(limit);
        Ok(())
    }

    /// Changes the superblock; durable when this returns.
    pub fn write_superblock(
        &self,
        change: impl FnOnce(&mut crate::superblock::Superblock),
    ) -> Result<(), Poisoned> {
        self.poison.check_writer()?;
        let mut held = self.superblock.lock();
        let (file, superblock) = &mut *held;
        let mut next = *superblock;
        change(&mut next);
        next.number = next.next_number();
        next.time_ms = next.time_ms.max(self.now());
        file.write(&next).map_err(|e| self.poison.trip("writing the superblock", &e))?;
        *superblock = next;
        Ok(())
    }

    /// Creates segments until there is a free one and as much space as callers wait for.
    fn prepare_segments(&self) -> Result<(), Poisoned> {
        let wanted = self.wanted_space.swap(0, Ordering::AcqRel) as i64;
        let enough = |space: &crate::log::Space| {
            space.pooled() > 0 && space.free() >= wanted.max(2 * self.config.sizes.frame_max as i64)
        };
        let space = &self.log.shared.space;
        while !enough(space) {
            let Some(bytes) = self.next_segment_bytes() else {
                break;
            };
            self.poison.check_writer()?;
            match self.create_segment(bytes) {
                Ok(slot) => {
                    self.starved.store(false, Ordering::Release);
                    let usable = slot.usable(self.config.sizes.frame_max);
                    self.log.slots.add(slot.clone());
                    events::created(slot.number, bytes);
                    space.give(slot, usable);
                }
                // That the system refuses another file is no failure of the store: it is asked
                // again with the next call that needs space.
                Err(Lack::Segment(lacking)) => {
                    *self.lacking.lock() = Some(lacking.clone());
                    if !self.starved.swap(true, Ordering::AcqRel) {
                        events::starved(bytes, lacking.no_room, &lacking.what);
                    }
                    break;
                }
                Err(Lack::Poisoned(poisoned)) => return Err(poisoned),
            }
        }
        Ok(())
    }

    /// Creates the next slot: file, header and directory entry durable first, then counted.
    ///
    /// A sync that fails poisons the store: a second one that succeeds would prove nothing of what
    /// the first was to cover, the names of other files included. (Not for want of room in the new
    /// file: it is made again from the start.)
    fn create_segment(&self, bytes: u64) -> Result<Arc<Slot>, Lack> {
        let store = self.superblock.lock().1.store;
        let number = self.superblock.lock().1.slots + 1;
        if number > crate::limits::SLOTS_MAX {
            let what = format!("a store has at most {} segments", crate::limits::SLOTS_MAX);
            return Err(Lack::Segment(Lacking { no_room: true, what }));
        }
        let poisoned =
            |doing: &str, error: &io::Error| Lack::Poisoned(self.poison.trip(doing, error));
        let refused = |error: io::Error| {
            let no_room = is_no_room(&error);
            match is_failed_sync(&error) && !no_room {
                true => poisoned("creating a segment", &error),
                false => Lack::Segment(Lacking { no_room, what: error.to_string() }),
            }
        };
        leave_descriptors(self.superblock.lock().0.file(), DESCRIPTORS_LEFT).map_err(&refused)?;
        let slot = Slot::create_unsynced(&*self.storage, number, bytes, store).map_err(&refused)?;
        if !broken::is(Broken::AppendToUnprepared) {
            slot.file.sync().map_err(|error| match is_no_room(&error) {
                true => refused(error),
                false => poisoned("syncing a new segment", &error),
            })?;
            self.storage.sync_dir().map_err(|error| poisoned("syncing the directory", &error))?;
        }
        self.write_superblock(|superblock| superblock.slots = number).map_err(Lack::Poisoned)?;
        Ok(Arc::new(slot))
    }

    /// Why another segment cannot be created, as text, and whether that is for lack of room.
    pub fn why_starved(&self) -> Option<Lacking> {
        self.is_starved().then(|| self.lacking.lock().clone())?
    }

    /// A claim or a write is refused because there is no segment. Returns the system's message, if
    /// another segment is allowed and the system refuses it for another reason than lack of room;
    /// otherwise the store is full.
    pub fn refuse_for_space(&self) -> Option<String> {
        self.refused_full();
        let lacking = if self.can_grow() { self.why_starved() } else { None };
        lacking.filter(|lacking| !lacking.no_room).map(|lacking| lacking.to_string())
    }

    /// What there is too little of when no segment has room.
    pub fn full_of_space(&self) -> FullOf {
        if self.can_grow() { FullOf::Disk } else { FullOf::Space }
    }

    /// The store is known to be full from now on, if it wasn't.
    pub fn refused_full(&self) {
        let now = self.now().max(1);
        let _ = self.full_since.compare_exchange(0, now, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Since when, of what, and why, no claim of the largest response can be granted. Of nothing
    /// that has a name where the system refuses another file for another reason than room.
    pub fn why_full(&self) -> Option<(u64, Option<FullOf>, String)> {
        let bytes = claim_bytes(self.config.max_response as u32) as i64;
        let why = match (self.can_grow(), self.why_starved()) {
            _ if self.cells.free() == 0 => {
                let claims = crate::claims::Cells::claims_in(self.cells.bytes());
                let why = format!(
                    "undecided keys take all cells of the claims file, which has room for {claims} \
                     claims"
                );
                Some((Some(FullOf::Claims), why))
            }
            _ if self.log.shared.space.free() >= bytes => None,
            (true, lacking) => lacking
                .map(|lacking| (lacking.no_room.then_some(FullOf::Disk), lacking.to_string())),
            (false, _) => {
                let capacity = self.config.capacity;
                let why =
                    format!("the segments take all that the capacity of {capacity} bytes allows");
                Some((Some(FullOf::Space), why))
            }
        };
        match why {
            Some((of, why)) => {
                self.refused_full();
                Some((self.full_since.load(Ordering::Acquire), of, why))
            }
            None => {
                self.full_since.store(0, Ordering::Release);
                None
            }
        }
    }

    /// Writes the footers of segments that are full and durable.
    pub fn seal_full(&self) -> Result<(), Poisoned> {
        let full = std::mem::take(&mut *self.to_seal.lock());
        for Full { slot, entries, summary } in full {
            self.poison.check_writer()?;
            slot.seal(&entries, &summary).map_err(|e| self.poison.trip("sealing a segment", &e))?;
            events::sealed(slot.number);
            self.expires_at(slot.number, slot.drop_ms());
        }
        Ok(())
    }

    /// A sealed segment's records have all expired at `drop_ms`.
    pub fn expires_at(&self, slot: u32, drop_ms: u64) {
        self.expiring.lock().wheel.insert(drop_ms, slot);
        if self.index.deadline_set(drop_ms) {
            self.notifiers.expire.notify();
        }
    }

    /// Brings expired segments back: index entries first, then the claims file's sync, then the
    /// header of the next epoch, then the pool.
    fn sweep_due(&self) -> Result<(), Poisoned> {
        let mut slots = Vec::new();
        self.keep_alone(|| {
            if self.copying.load(Ordering::SeqCst) == 0 {
                // A segment that is being copied must not be overwritten. It stays due.
                self.retire_due(&mut slots);
            }
            Ok(())
        })?;
        if slots.is_empty() {
            return Ok(());
        }
        // A claim that was completed here is cleared in the claims file, perhaps not durably: it
        // must not come back, now that its completion is removed. Nor must a version of it that was
        // replaced: the first sync clears those, the second makes that durable.
        let _ = self.cells.note_time(self.now());
        self.cells.touch();
        if !broken::is(Broken::RecycleBeforeClaimsSync) {
            self.sync_claims()?;
            self.sync_claims()?;
        }
        self.keep_alone(|| {
            if self.copying.load(Ordering::SeqCst) > 0 {
                // A copy began during the syncs.
                slots.iter().for_each(|slot| slot.use_as(Use::Sealed));
                self.expiring.lock().due.extend(slots.iter().map(|slot| slot.number));
                return Ok(());
            }
            for slot in slots {
                self.poison.check_writer()?;
                slot.recycle().map_err(|e| self.poison.trip("recycling a segment", &e))?;
                events::recycled(slot.number);
                self.count(u64::from(slot.number), Count::Recycled);
                let usable = slot.usable(self.config.sizes.frame_max);
                self.log.shared.space.give(slot, usable);
            }
            Ok(())
        })?;
        self.resources.notify();
        Ok(())
    }

    /// Retires the segments that are due and sweeps them out of the index; adds them to `slots`.
    fn retire_due(&self, slots: &mut Vec<Arc<Slot>>) {
        let mut due = std::mem::take(&mut self.expiring.lock().due);
        // A segment that was filled further, or has been swept, may be named more than once.
        due.sort_unstable();
        due.dedup();
        let now = self.now();
        for slot in due.iter().filter_map(|number| self.log.slots.get(*number)) {
            match self.log.shared.space.retire(slot, now) {
                Retired::Yes => slots.push(slot.clone()),
                Retired::Reservation => self.expires_at(slot.number, now + PROMISED_MS),
                Retired::NotDue => {}
            }
        }
        if !broken::is(Broken::ReuseBeforeSweep) {
            self.sweep(slots);
        }
    }

    /// Removes the index entries of expired segments: of several at a time, which costs half as
    /// much as of one after the other.
    fn sweep(&self, slots: &[Arc<Slot>]) {
        let mut slots = slots.iter();
        while !slots.as_slice().is_empty() {
            let (mut footers, mut bytes) = (Vec::new(), 0);
            while bytes < SWEPT_AT_ONCE
                && let Some(slot) = slots.next()
            {
                let Ok(Some(footer)) = slot.read_footer() else {
                    // The footer doesn't read: look at every entry.
                    self.index.shards().for_each(|mut shard| shard.remove_slot(slot.number));
                    continue;
                };
                bytes += footer.len();
                footers.push((slot.number, footer));
            }
            self.index.remove_all(footers.iter().flat_map(|(slot, footer)| {
                let records = footer.entries().filter(|entry| entry.kind.is_record());
                records.map(|entry| (entry.hash, Location::new(*slot, entry.offset)))
            }));
        }
        for mut shard in self.index.shards() {
            self.end_replacing(&mut shard, None);
        }
    }

    /// One round of everything that may wait for the disk. With no lock held.
    pub fn keep(&self) -> Result<(), Poisoned> {
        self.keep_alone(|| self.raise_tokens())?;
        self.commit_closed()?;
        self.keep_alone(|| self.seal_full())?;
        self.sweep_due()?;
        self.keep_alone(|| self.prepare_segments())?;
        self.resources.notify();
        Ok(())
    }

    /// Closed segments wait for a commit before they get their footer; no caller may come for one.
    pub(super) fn commit_closed(&self) -> Result<(), Poisoned> {
        for (class, appender) in self.log.appenders() {
            while appender.has_closed() {
                self.poison.check()?;
                appender.group.lead_next(&self.appender_commit(class))?;
            }
        }
        Ok(())
    }

    /// Everything that was written is durable: for `flush`, and for stores without threads.
    ///
    /// The claims file comes first. In `Buffered` a claim that isn't known to be durable is cleared
    /// as soon as its record is in the log. If this sync covers that, the commits that follow must
    /// cover the record: otherwise a loss of power could take both, and leave nothing of a claim
    /// that was there before this began.
    pub fn commit_all(&self) -> Result<(), Poisoned> {
        self.sync_claims()?;
        for (class, appender) in self.log.appenders() {
            appender.group.wait(&self.appender_commit(class), appender.reserved())?;
        }
        self.poison.check()
    }

    /// Everything in the claims file by now is durable.
    pub fn sync_claims(&self) -> Result<(), Poisoned> {
        self.cells.group.wait(&self.cells, self.cells.position())
    }
}
