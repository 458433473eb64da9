//! Erasing a scope while the store works: its keys are forgotten, and their bytes overwritten.
//!
//! 1. Each key is forgotten as an operator forgets it, by a tombstone or by clearing its cells, and
//!    that is made durable. From here on all frames of the scope are dead, but for those of keys that
//!    a holder has, or that are new.
//! 2. The dead frames are found by reading all segments. Everything by now is made durable, and what
//!    the ring has of frames that are in their segments is overwritten: an opening would put it back
//!    into them.
//! 3. The first word of each dead frame is replaced by a mark
//!    ([`erased`](crate::log::erased)), durably, and then the rest by zeros. **First everything that a
//!    tombstone may end, in all segments, and only then the tombstones**: whatever a crash leaves, no
//!    record is there without the tombstone that has ended it. A footer continues to list them: a
//!    place that has a mark is passed over.
//! 4. Bytes that belong to nothing are overwritten: behind the frames of a segment, in free segments
//!    and free cells, and behind what a cell says. They may be of earlier keys.
//! 5. The decisions about the scope's keys are erased.
//!
//! Everything may be repeated, and is, by the next call, after a crash or a failure. Marks that are
//! there already are written again: after a sync that failed they may be in the page cache alone.
//!
//! No copy of the store is made at the same time: a backup holds a dead record with its tombstone, or
//! neither. A segment whose frames were erased says so in its header, so that a later backup doesn't
//! take an earlier one's copy of it.

use crate::{
    engine::driver,
    engine::entries::{Entry, Filter, State},
    engine::resolve::Resolution,
    engine::{Blocked, Engine},
    error::StoreError,
    index::Undecided,
    key::{KeyRef, OwnedKey, Scope},
    limits::SHARDS,
    location::Location,
    log::{DATA_START, Kind, SEGMENT_HEADER_BYTES, SegmentHeader, Slot, Use, erased, scan},
    observe::Call,
    poison::Poisoned,
    recover::RING_FILE,
    spi::Erased,
    storage::is_zero,
    sync::atomic::Ordering,
    sync::wait::WakeList,
};
use std::{collections::HashSet, io, sync::Arc};

/// Bytes that are overwritten by one call.
const PIECE: u64 = 1 << 20;
/// How often the keys are gone over, while some are not what they were when they were looked at.
const FORGETS: usize = 3;
/// How often the cells are gone over, so that each is met when it is free or a claim's that stays.
const PASSES: usize = 16;

/// Dead frames of one segment, in one use of it.
struct Dead {
    slot: Arc<Slot>,
    epoch: u32,
    /// Offset and length.
    frames: Vec<(u64, u32)>,
    tombstones: Vec<(u64, u32, u64)>,
}

/// What is found by reading the segments.
struct Plan {
    /// What has expired by then is dead: it has been noted durably.
    now: u64,
    dead: Vec<Dead>,
    /// Hashes of keys of which something stays.
    kept: HashSet<u64>,
}

/// Whether a holder may be working on a key.
fn may_be_held(state: &State) -> bool {
    match state {
        State::InFlight { .. } => true,
        State::Interrupted { holder_gone, .. } => !holder_gone,
        State::Completed(_) => false,
    }
}

impl Engine {
    /// Forgets all keys of a scope, and overwrites what the files hold of them.
    pub fn erase_scope(self: &Arc<Self>, scope: &Scope, force: bool) -> Result<Erased, StoreError> {
        self.check_claim()?;
        let _one = self.erasing.lock();
        let done = self.erase_one_scope(scope, force);
        self.tell_if_poisoned();
        done
    }

    fn erase_one_scope(self: &Arc<Self>, scope: &Scope, force: bool) -> Result<Erased, StoreError> {
        let mut left = HashSet::new();
        let keys = self.forget_scope(scope, force, &mut left)?;
        // What has expired stays so from here on, whatever the clock does.
        let now = self.now();
        self.cells.note_time(now)?;
        self.cells.touch();
        self.made_durable()?;
        let mut plan = Plan { now, dead: Vec::new(), kept: HashSet::new() };
        for slot in self.log.slots.iter() {
            self.find_dead(slot, scope.as_bytes(), &mut plan)?;
        }
        // What the dead ones depend on is on the disk, too.
        self.made_durable()?;
        self.blank_ring()?;
        for dead in &plan.dead {
            self.overwrite(dead, &dead.frames)?;
        }
        for dead in &plan.dead {
            let ended = dead.tombstones.iter().filter(|(.., hash)| !plan.kept.contains(hash));
            let ended: Vec<_> = ended.map(|(at, len, _)| (*at, *len)).collect();
            self.overwrite(dead, &ended)?;
        }
        for slot in self.log.slots.iter() {
            self.blank_unused(slot)?;
        }
        self.blank_cells()?;
        let _still = self.hold_still()?;
        let decisions = self.erase_decisions(scope.as_bytes())?;
        left.extend(plan.kept);
        Ok(Erased { keys, decisions, held: self.left_of(scope, left) })
    }

    /// Forgets the keys of a scope. Returns how many; those that holders may have are left, and their
    /// hashes are added to `left`, unless `force`.
    fn forget_scope(
        self: &Arc<Self>,
        scope: &Scope,
        force: bool,
        left: &mut HashSet<u64>,
    ) -> Result<u64, StoreError> {
        let mut keys = 0;
        let mut shards: Vec<usize> = (0..SHARDS).collect();
        let mut only: Option<HashSet<OwnedKey>> = None;
        for _ in 0..FORGETS {
            // Of these more is known when everything by now is durable. The others are not gone over
            // again: what they are by then is new.
            let (mut again, mut unsure) = (Vec::new(), HashSet::new());
            for shard in shards {
                let settled = self.forget_expired(shard, scope);
                let sure = unsure.len();
                for entry in self.entries_of_shard(shard, &Filter::ALL) {
                    let entry = match entry {
                        Ok(entry) => entry,
                        // Nothing says whose key that was. It stays as it is.
                        Err(StoreError::Damaged { .. }) => continue,
                        Err(error) => return Err(error),
                    };
                    let wanted = only.as_ref().is_none_or(|only| only.contains(&entry.key));
                    if entry.key.scope() != scope.as_bytes() || !wanted {
                        continue;
                    }
                    if may_be_held(&entry.state) && !force {
                        left.insert(self.index.hash(entry.key.as_ref()));
                        continue;
                    }
                    match self.forget_now(entry.key.as_ref(), (!force).then_some(entry.token)) {
                        Ok(()) => keys += 1,
                        // It is being completed; or it was decided, taken over or begun since.
                        Err(StoreError::NotApplicable { .. } | StoreError::NeedsForce { .. }) => {
                            unsure.insert(entry.key);
                        }
                        Err(error) => return Err(error),
                    }
                }
                if !settled || unsure.len() > sure {
                    again.push(shard);
                }
            }
            if again.is_empty() {
                break;
            }
            (shards, only) = (again, Some(unsure));
            self.made_durable()?;
        }
        Ok(keys)
    }

    /// Forgets what is absent by the clock and has not been swept. Whether all of it.
    fn forget_expired(&self, shard: usize, scope: &Scope) -> bool {
        let mut wakes = WakeList::default();
        let mut shard = self.index.shard(shard as u64);
        let now = self.now();
        let expired = |u: &Undecided| {
            u.key.scope() == scope.as_bytes()
                && u.held.expired(now, self.interrupted_ms(u.terms.remember_ms))
        };
        let all = shard.undecided.iter().filter(|(_, undecided)| expired(undecided));
        let (settled, unsettled): (Vec<_>, Vec<_>) = all
            .map(|(at, undecided)| (at, self.unsettled(undecided).is_none()))
            .partition(|(_, settled)| *settled);
        settled.iter().for_each(|(at, _)| self.forget_undecided(&mut shard, &mut wakes, *at));
        unsettled.is_empty()
    }

    /// One key; waits for what the step lacks, and not for the disk.
    fn forget_now(
        self: &Arc<Self>,
        key: KeyRef<'_>,
        seen: Option<crate::token::Token>,
    ) -> Result<(), StoreError> {
        match self.resolve(key, &Resolution::Forget, true, seen) {
            Ok(_) => Ok(()),
            Err(Blocked::Fail(error)) => Err(error),
            Err(Blocked::Wait(_)) => {
                let call = Call::plain(&self.timings, "erase", self.index.hash(key));
                driver::run(self, call, |engine| {
                    engine.resolve(key, &Resolution::Forget, true, seen)
                })
            }
        }
    }

    fn trips(&self, doing: &str) -> impl Fn(io::Error) -> Poisoned {
        move |error| self.poison.trip(doing, &error)
    }

    /// Overwrites what the ring has of frames that are in their segments; durable when this returns.
    fn blank_ring(&self) -> Result<(), StoreError> {
        let _still = self.hold_still()?;
        let failed = self.trips("overwriting the ring");
        self.log.appender(crate::log::MAIN_CLASS).blank_ring().map_err(&failed)?;
        let unavailable = |error: io::Error| StoreError::Unavailable { what: error.to_string() };
        let file = self.storage.open(RING_FILE).map_err(unavailable)?;
        Ok(file.sync().map_err(failed)?)
    }

    /// While it is held no segment is sealed or used again, and nothing is copied.
    fn hold_still(&self) -> Result<impl Sized + '_, StoreError> {
        let keeping = self.keeping.lock();
        self.check_claim()?;
        if self.copying.load(Ordering::SeqCst) > 0 {
            let what = "a copy of the store is being made; erase again after it".into();
            return Err(StoreError::Unavailable { what });
        }
        Ok(keeping)
    }

    /// Reads a segment, and adds what is dead in it to the plan.
    fn find_dead(&self, slot: &Arc<Slot>, scope: &[u8], plan: &mut Plan) -> Result<(), StoreError> {
        let unreadable = |error: io::Error| StoreError::Unavailable {
            what: format!("reading {}: {error}", crate::log::file_name(slot.number)),
        };
        let (epoch, seed, since, image) = {
            let _still = self.hold_still()?;
            let end = match slot.used_as() {
                Use::Free => return Ok(()),
                Use::Filling => slot.drained(),
                Use::Sealed | Use::Retired => {
                    let footer = slot.read_footer().map_err(unreadable)?;
                    let no_footer = || io::Error::other("its footer does not read back");
                    footer.ok_or_else(no_footer).map_err(unreadable)?.summary.data_end
                }
            };
            let mut image = vec![0; end as usize];
            slot.file.read_at(0, &mut image).map_err(unreadable)?;
            let header: &[u8; SEGMENT_HEADER_BYTES] = image.first_chunk().expect("a page at least");
            let since = SegmentHeader::decode(header).ok().and_then(|header| header.active);
            let not_whole = || unreadable(io::Error::other("its header is not whole"));
            (slot.epoch(), slot.seed(), since.ok_or_else(not_whole)?, image)
        };
        let found = scan::scan_segment(&image, DATA_START, seed, &since);
        let mut dead =
            Dead { slot: slot.clone(), epoch, frames: found.erased, tombstones: Vec::new() };
        for scan::Found { offset, header } in found.frames {
            let names = &image[offset as usize + crate::log::frame::HEADER_BYTES..];
            let (of, rest) = names.split_at(header.scope_len as usize);
            if header.kind == Kind::Void || of != scope {
                continue;
            }
            let Ok(key) = KeyRef::from_parts(of, &rest[..header.key_len as usize]) else {
                continue;
            };
            let hash = self.index.hash(key);
            let location = Location::new(slot.number, offset);
            let len = header.padded() as u32;
            let mut shard = self.index.shard(hash);
            self.end_replacing(&mut shard, Some(hash));
            let pending = |place: &(Location, Option<u32>)| *place == (location, Some(epoch));
            let stays = shard.find(hash, key).is_some()
                || shard.replacing.iter().any(|r| pending(&r.record) || pending(&r.by))
                || header.kind.is_record()
                    && shard.contains(hash, location)
                    && header.expires_ms > plan.now;
            if stays {
                plan.kept.insert(hash);
                continue;
            }
            // One that has expired may be listed still.
            shard.remove(hash, location);
            match header.kind {
                Kind::Tombstone => dead.tombstones.push((offset, len, hash)),
                _ => dead.frames.push((offset, len)),
            }
        }
        if !dead.frames.is_empty() || !dead.tombstones.is_empty() {
            plan.dead.push(dead);
        }
        Ok(())
    }

    /// Puts marks in the place of dead frames, and then zeros behind them; durable when this returns.
    fn overwrite(&self, dead: &Dead, frames: &[(u64, u32)]) -> Result<(), StoreError> {
        let _still = self.hold_still()?;
        let slot = &dead.slot;
        if frames.is_empty() || slot.used_as() == Use::Free || slot.epoch() != dead.epoch {
            return Ok(());
        }
        self.poison.check_writer()?;
        let seed = slot.seed();
        let marked = || {
            {
                let _rolls = self.rolling.lock();
                slot.count_erasure()?;
            }
            for (at, len) in frames {
                slot.file.write_at(*at, &erased::mark(seed, *at, *len))?;
            }
            slot.file.sync()?;
            let zeros = vec![0; frames.iter().map(|(_, len)| *len).max().unwrap_or(0) as usize];
            for (at, len) in frames {
                slot.file.write_at(at + 8, &zeros[8..*len as usize])?;
            }
            slot.file.sync()
        };
        Ok(marked().map_err(self.trips("overwriting frames"))?)
    }

    /// Overwrites what a segment has behind its frames: all of a free one's.
    fn blank_unused(&self, slot: &Arc<Slot>) -> Result<(), StoreError> {
        let mut at = DATA_START;
        let mut changed = false;
        while at < slot.bytes {
            let _still = self.hold_still()?;
            let _rolls = self.rolling.lock();
            self.poison.check_writer()?;
            let mut piece = || {
                let listed = slot.footer_extent()?;
                let unused = match slot.used_as() {
                    Use::Free => DATA_START..slot.bytes,
                    // (The footer of an earlier life counts until there is another.)
                    Use::Filling => slot.drained()..listed.map_or(slot.bytes, |(_, from)| from),
                    Use::Sealed | Use::Retired => listed.map_or(0..0, |(end, from)| end..from),
                };
                let to = (at + PIECE).min(slot.bytes);
                let (from, end) = (unused.start.max(at), unused.end.min(to));
                at = to;
                if from >= end {
                    return Ok(false);
                }
                let mut bytes = vec![0; (end - from) as usize];
                slot.file.read_at(from, &mut bytes)?;
                if is_zero(&bytes) {
                    return Ok(false);
                }
                bytes.fill(0);
                slot.file.write_at(from, &bytes).map(|()| true)
            };
            let blanked = match slot.used_as() {
                Use::Filling => self.log.appender(slot.class()).between_drains(&mut piece),
                _ => piece(),
            };
            changed |= blanked.map_err(self.trips("overwriting a segment"))?;
        }
        match changed {
            true => Ok(slot.file.sync().map_err(self.trips("syncing a segment"))?),
            false => Ok(()),
        }
    }

    /// Overwrites what cells hold that means nothing.
    fn blank_cells(&self) -> Result<(), StoreError> {
        let mut left = self.cells.unblanked();
        for _ in 0..PASSES {
            // What is replaced or decided is cleared by the first, durably by the second.
            self.made_durable()?;
            self.cells.touch();
            self.sync_claims()?;
            let _still = self.hold_still()?;
            self.cells.blank_free(&mut left)?;
            for shard in self.index.shards() {
                for (_, undecided) in shard.undecided.iter() {
                    self.cells.blank_behind_chain(&undecided.chain, &mut left)?;
                }
            }
            if left.is_empty() {
                self.cells.touch();
                return Ok(self.sync_claims()?);
            }
        }
        let what = "cells of the claims file changed all the time; erase again".into();
        Err(StoreError::Unavailable { what })
    }

    /// How many keys of the scope are left: these, and those that are there.
    fn left_of(&self, scope: &Scope, mut left: HashSet<u64>) -> u64 {
        let of_scope = |entry: &Entry| entry.key.scope() == scope.as_bytes();
        for shard in 0..SHARDS {
            let entries = self.entries_of_shard(shard, &Filter::ALL).into_iter().flatten();
            left.extend(entries.filter(of_scope).map(|entry| self.index.hash(entry.key.as_ref())));
        }
        left.len() as u64
    }
}
