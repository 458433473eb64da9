//! The index: which shard a key belongs to, and when the next deadline is.

mod entry;
mod shard;
mod undecided;

pub(crate) use entry::Entry;
use entry::Tag;
pub(crate) use shard::Shard;
pub(crate) use undecided::{
    Answer, Before, Ended, HeldTerms, KEPT_IN_MEMORY, Replacing, Undecided,
};

use crate::{
    key::{KeyRef, OwnedKey},
    limits::SHARDS,
    location::Location,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};
use crossbeam_utils::CachePadded;
use siphasher::sip::SipHasher13;
use std::{hash::Hasher, ops::Range};

const SHARD_BITS: u32 = SHARDS.trailing_zeros();

/// Entries that are removed under one lock: tens of microseconds.
const REMOVED_AT_ONCE: usize = 1024;

/// The hash of a key: keyed by a secret of the store, so that clients can't choose keys that
/// collide, and the same in every life, so that footers can keep it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyHasher {
    seeded: SipHasher13,
    mask: u64,
}

impl KeyHasher {
    /// `bits` below 64 make collisions, for tests.
    pub fn new(seed: [u8; 16], bits: u32) -> Self {
        let seeded = SipHasher13::new_with_key(&seed);
        KeyHasher { seeded, mask: u64::MAX.checked_shr(64 - bits).unwrap_or(0) }
    }

    /// The same as [`hash`](Self::hash), in half the instructions.
    #[inline]
    pub fn hash_owned(&self, key: &OwnedKey) -> u64 {
        self.seeded.hash(key.joined()) & self.mask
    }

    pub fn hash(&self, key: KeyRef<'_>) -> u64 {
        let mut hasher = self.seeded;
        hasher.write(key.scope());
        hasher.write(key.key());
        // Where the scope ends.
        hasher.write_u8(key.scope().len() as u8);
        hasher.finish() & self.mask
    }

    /// The hash of a scope.
    pub fn scope(&self, scope: &[u8]) -> u64 {
        self.seeded.hash(scope)
    }
}

/// The entries of many records, sorted by the shards that they belong to: by counting, because
/// comparing would cost more than what is done with them.
pub(crate) struct Sorted {
    entries: Vec<Entry>,
    /// Where those of each shard end.
    ends: Vec<usize>,
}

impl Sorted {
    /// Of these records those of some shards, in the order in which they come.
    pub fn new(
        shards: Range<usize>,
        records: impl Iterator<Item = (u64, Location)> + Clone,
    ) -> Self {
        let count = shards.len();
        let shard_of = move |hash| Index::shard_of(hash).wrapping_sub(shards.start);
        // One more, so that what starts as the end of the shard before becomes the end of its own.
        let mut ends = vec![0; count + 1];
        let mine = records.filter(|(hash, _)| shard_of(*hash) < count);
        mine.clone().for_each(|(hash, _)| ends[shard_of(hash) + 1] += 1);
        (0..count).for_each(|shard| ends[shard + 1] += ends[shard]);
        let mut entries = vec![Entry::default(); ends[count]];
        mine.for_each(|(hash, location)| {
            let end = &mut ends[shard_of(hash)];
            entries[*end] = Entry::new(Tag::of(hash, SHARD_BITS), location);
            *end += 1;
        });
        ends.truncate(count);
        Sorted { entries, ends }
    }

    /// Shard by shard.
    pub fn shards(&self) -> impl Iterator<Item = &[Entry]> {
        let mut from = 0;
        self.ends.iter().map(move |end| &self.entries[std::mem::replace(&mut from, *end)..*end])
    }
}

/// Lock-striped: each shard is a lock over small tables.
pub(crate) struct Index {
    shards: Box<[CachePadded<Mutex<Shard>>]>,
    hasher: KeyHasher,
    /// Not later than any shard's next deadline.
    next_due: AtomicU64,
}

impl Index {
    pub fn new(hasher: KeyHasher, now: u64) -> Self {
        let shard = || CachePadded::new(Mutex::new(Shard::new(SHARD_BITS, now)));
        Index {
            shards: (0..SHARDS).map(|_| shard()).collect(),
            hasher,
            next_due: AtomicU64::new(u64::MAX),
        }
    }

    pub fn hash(&self, key: KeyRef<'_>) -> u64 {
        self.hasher.hash(key)
    }

    pub fn hash_owned(&self, key: &OwnedKey) -> u64 {
        self.hasher.hash_owned(key)
    }

    pub fn hasher(&self) -> KeyHasher {
        self.hasher
    }

    pub fn shard_of(hash: u64) -> usize {
        hash as usize & (SHARDS - 1)
    }

    pub fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        self.shards[Self::shard_of(hash)].lock()
    }

    pub fn shards(&self) -> impl Iterator<Item = MutexGuard<'_, Shard>> {
        self.shards.iter().map(|shard| shard.lock())
    }

    /// Removes the entries of these records, shard by shard: so many go at once that what a shard
    /// has in its lines is fetched for many of them. No lock is held for more than
    /// [`REMOVED_AT_ONCE`].
    pub fn remove_all(&self, records: impl Iterator<Item = (u64, Location)> + Clone) {
        let sorted = Sorted::new(0..SHARDS, records);
        for (shard, entries) in self.shards.iter().zip(sorted.shards()) {
            for some in entries.chunks(REMOVED_AT_ONCE) {
                shard.lock().remove_all(some);
            }
        }
    }

    /// All shards, through an exclusive reference.
    pub fn shards_mut(&mut self) -> impl Iterator<Item = &mut Shard> {
        self.shards.iter_mut().map(|shard| shard.get_mut())
    }

    /// Returns whether a deadline that was set is the earliest now, so that the expiring thread
    /// must be woken.
    pub fn deadline_set(&self, deadline: u64) -> bool {
        deadline < self.next_due.load(Ordering::SeqCst)
            && deadline < self.next_due.fetch_min(deadline, Ordering::SeqCst)
    }

    /// Begins a round over all shards: only deadlines that are set from now on are noted.
    pub fn take_next_due(&self) -> u64 {
        self.next_due.swap(u64::MAX, Ordering::SeqCst)
    }

    pub fn next_due(&self) -> u64 {
        self.next_due.load(Ordering::SeqCst)
    }
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index").field("shards", &self.shards.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_hash_borrowed_and_owned() {
        let hasher = KeyHasher::new([7; 16], 64);
        for (scope, key) in [(0, 1), (0, 36), (7, 1), (40, 36), (40, 37), (255, 255), (255, 1)] {
            let (scope, key) = (vec![1; scope], vec![2; key]);
            let key = KeyRef::from_parts(&scope, &key).unwrap();
            assert_eq!(key.owned().as_ref(), key);
            assert_eq!(hasher.hash_owned(&key.owned()), hasher.hash(key));
        }
    }

    #[test]
    fn of_many_records_only_those_named_go() {
        let index = Index::new(KeyHasher::new([7; 16], 64), 0);
        let hash = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let place = |n: u64| Location::new((n % 7) as u32, n * 8);
        let count = 20 * SHARDS as u64;
        (0..count).for_each(|n| index.shard(hash(n)).insert(hash(n), place(n)));
        // One shard has more than are removed under one lock, and some have none.
        let crowd = |n: u64| (n << SHARD_BITS, Location::new(8, n * 8));
        let crowds = 0..2 * REMOVED_AT_ONCE as u64 + 5;
        crowds.clone().for_each(|n| index.shard(0).insert(crowd(n).0, crowd(n).1));
        let gone = |n: &u64| n.is_multiple_of(3) && hash(*n) as usize & 3 != 3;
        let named = (0..count).filter(gone).map(|n| (hash(n), place(n)));
        index.remove_all(named.chain(crowds.map(crowd)));
        for n in 0..count {
            assert_eq!(index.shard(hash(n)).contains(hash(n), place(n)), !gone(&n), "{n}");
        }
        let kept = (0..count).filter(|n| !gone(n)).count();
        assert_eq!(index.shards().map(|shard| shard.len()).sum::<usize>(), kept);
        index.remove_all(std::iter::empty());
    }
}
