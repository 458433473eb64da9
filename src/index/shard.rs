//! One stripe of the index: what its lock protects.
//!
//! A key is undecided (its state is here), or has an entry (its record is in the log), or is
//! absent. An expired record may still have an entry, beside an undecided key or a newer entry
//! of the same key, until its segment is swept. A record that is being forgotten or replaced keeps
//! its entry until its tombstone or replacement is durable; only then a replacement gets its own.

use super::{
    entry::{Entry, Tag},
    undecided::{Ended, Orphans, Replacing, Slab, Undecided},
};
use crate::{key::KeyRef, location::Location, token::Token, wheel::TimingWheel};
use hashbrown::HashTable;
use std::hint::black_box;

/// A timer's message: this key, if it is still this attempt.
pub(crate) type Due = (u32, Token);

pub(crate) struct Shard {
    shard_bits: u32,
    entries: HashTable<Entry>,
    names: HashTable<u32>,
    pub undecided: Slab,
    pub orphans: Orphans,
    /// Records whose tombstones or replacements were not durable at the last check: nearly always
    /// none.
    pub replacing: Vec<Replacing>,
    wheel: TimingWheel<Due>,
}

impl Shard {
    pub fn new(shard_bits: u32, now: u64) -> Self {
        Shard {
            shard_bits,
            entries: HashTable::new(),
            names: HashTable::new(),
            undecided: Slab::default(),
            orphans: Orphans::default(),
            replacing: Vec::new(),
            wheel: TimingWheel::new(now),
        }
    }

    /// The locations of records that may be this key's: usually none, or one.
    pub fn candidates(&self, hash: u64) -> impl Iterator<Item = Location> {
        self.of_tag(Tag::of(hash, self.shard_bits))
    }

    /// As `candidates`, for a caller that will read or add an entry: its place is fetched while the
    /// caller looks for it. A caller that finds and adds none should not wait for that.
    pub fn candidates_and_place(&self, hash: u64) -> impl Iterator<Item = Location> {
        // Nothing depends on the value that is read, so the processor doesn't wait for it.
        black_box(self.nearby(Tag::of(hash, self.shard_bits)));
        self.candidates(hash)
    }

    /// The locations of records that may be this key's, as far as the index shows.
    pub fn like(&self, entry: Entry) -> impl Iterator<Item = Location> {
        self.of_tag(entry.tag())
    }

    fn of_tag(&self, tag: Tag) -> impl Iterator<Item = Location> {
        let same = self.entries.iter_hash(tag.spread());
        same.filter(move |entry| entry.tag() == tag).map(|entry| entry.location())
    }

    /// Makes room for `more` entries, so that a granted claim's completion needs none.
    pub fn reserve(&mut self, more: usize) {
        self.entries.reserve(more, |entry| entry.tag().spread());
    }

    pub fn insert(&mut self, hash: u64, location: Location) {
        self.insert_entry(Entry::new(Tag::of(hash, self.shard_bits), location));
    }

    pub fn insert_entry(&mut self, entry: Entry) {
        self.entries.insert_unique(entry.tag().spread(), entry, |entry| entry.tag().spread());
    }

    pub fn contains(&self, hash: u64, location: Location) -> bool {
        let entry = Entry::new(Tag::of(hash, self.shard_bits), location);
        self.entries.find(entry.tag().spread(), |known| *known == entry).is_some()
    }

    pub fn remove(&mut self, hash: u64, location: Location) -> bool {
        self.remove_entry(Entry::new(Tag::of(hash, self.shard_bits), location))
    }

    /// Removes those of these that are there.
    pub(super) fn remove_all(&mut self, entries: &[Entry]) {
        // Their probable places, only to have them in the cache. These reads don't depend on each
        // other, so the processor waits for many of them at a time; a removal it would wait for.
        let read = entries
            .iter()
            .fold(Entry::default(), |last, entry| self.nearby(entry.tag()).unwrap_or(last));
        black_box(read);
        entries.iter().for_each(|entry| {
            self.remove_entry(*entry);
        });
    }

    /// Reads the probable place of an entry of this tag, to have it in the cache.
    #[inline]
    fn nearby(&self, tag: Tag) -> Option<Entry> {
        let mask = self.entries.num_buckets().wrapping_sub(1);
        self.entries.get_bucket(tag.spread() as usize & mask).copied()
    }

    #[inline]
    pub fn remove_entry(&mut self, entry: Entry) -> bool {
        match self.entries.find_entry(entry.tag().spread(), |known| *known == entry) {
            Ok(found) => {
                found.remove();
                true
            }
            Err(_) => false,
        }
    }

    /// Removes every entry of a slot. Slow: for a segment whose footer doesn't read.
    pub fn remove_slot(&mut self, slot: u32) {
        self.entries.retain(|entry| entry.location().slot() != slot);
    }

    pub fn locations(&self) -> impl Iterator<Item = Location> + '_ {
        self.entries.iter().map(|entry| entry.location())
    }

    pub fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        self.entries.iter().copied()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes that the table takes.
    pub fn table_bytes(&self) -> usize {
        self.entries.allocation_size()
    }

    pub fn find(&self, hash: u64, key: KeyRef<'_>) -> Option<u32> {
        if self.names.is_empty() {
            // Mostly; and the table's memory needn't be fetched to see it.
            return None;
        }
        let same = |at: &u32| {
            self.undecided.get(*at).is_some_and(|u| u.hash == hash && u.key.as_ref() == key)
        };
        self.names.find(hash, same).copied()
    }

    /// Adds an undecided key, which must not be there yet.
    #[inline]
    pub fn hold(&mut self, hash: u64, make: impl FnOnce() -> Undecided) -> u32 {
        let at = self.undecided.insert(make);
        let Shard { names, undecided, .. } = self;
        names.insert_unique(hash, at, |at| undecided.get(*at).map_or(0, |u| u.hash));
        self.reserve(self.undecided.len());
        at
    }

    /// Removes an undecided key and its timer.
    pub fn decide(&mut self, at: u32) -> Option<Ended> {
        let (ended, timer) = self.undecided.end(at)?;
        if let Ok(name) = self.names.find_entry(ended.hash, |known| *known == at) {
            name.remove();
        }
        if let Some(timer) = timer {
            self.wheel.cancel(timer);
        }
        Some(ended)
    }

    /// The undecided key at `at`, if it is still this attempt's.
    pub fn attempt(&mut self, at: u32, token: Token) -> Option<&mut Undecided> {
        self.undecided.get_mut(at).filter(|u| u.held.token == token)
    }

    /// Sets the one timer of an undecided key; `None` stops it.
    pub fn set_timer(&mut self, at: u32, deadline: Option<u64>) {
        let Some(undecided) = self.undecided.get_mut(at) else {
            return;
        };
        if let Some(timer) = undecided.timer.take() {
            self.wheel.cancel(timer);
        }
        let token = undecided.held.token;
        undecided.timer = deadline.map(|deadline| self.wheel.insert(deadline, (at, token)));
    }

    /// Keys whose deadlines have passed.
    pub fn due(&mut self, now: u64) -> Vec<Due> {
        let mut due = Vec::new();
        self.wheel.advance(now, &mut |message| due.push(message));
        for (at, token) in &due {
            if let Some(undecided) = self.attempt(*at, *token) {
                undecided.timer = None;
            }
        }
        due
    }

    pub fn next_due(&self) -> Option<u64> {
        self.wheel.next_wakeup()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(n: u64) -> Location {
        Location::new(1, n * 8)
    }

    #[test]
    fn equal_hashes_live_side_by_side() {
        let mut shard = Shard::new(10, 0);
        (0..50).for_each(|n| shard.insert(7 << 10, place(n)));
        shard.insert(8 << 10, place(50));
        assert_eq!(shard.candidates(7 << 10).count(), 50);
        assert!(shard.candidates(8 << 10).eq([place(50)]));
        assert!(shard.remove(7 << 10, place(3)));
        assert!(!shard.remove(7 << 10, place(3)));
        assert!(!shard.contains(7 << 10, place(3)));
        assert_eq!(shard.candidates(7 << 10).count(), 49);
    }

    #[test]
    fn entries_survive_growth() {
        let mut shard = Shard::new(10, 0);
        let hash = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (0..20_000).for_each(|n| shard.insert(hash(n), place(n)));
        assert!((0..20_000).all(|n| shard.candidates(hash(n)).any(|found| found == place(n))));
        assert!(shard.table_bytes() <= 20_000 * 21);
        shard.remove_slot(1);
        assert_eq!(shard.len(), 0);
    }
}
