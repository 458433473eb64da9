//! An index entry: eight bytes, 24 of hash and 40 of location.

use crate::location::Location;

const HASH_BITS: u32 = 24;
const _: () = assert!(HASH_BITS + Location::BITS == 64);

/// The bits of a key's hash that its shard doesn't already say, reduced to what an entry keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag(u32);

impl Tag {
    pub fn of(hash: u64, shard_bits: u32) -> Self {
        Tag((hash >> shard_bits) as u32 & ((1 << HASH_BITS) - 1))
    }

    /// What the table hashes by: its control bytes take the seven highest bits of 64, its
    /// buckets the lowest; a tag has both, so a growing table needs nothing else.
    pub fn spread(self) -> u64 {
        u64::from(self.0) << (64 - HASH_BITS) | u64::from(self.0)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry(u64);

const _: () = assert!(size_of::<Entry>() == 8);

impl Entry {
    pub fn new(tag: Tag, location: Location) -> Self {
        Entry(u64::from(tag.0) << Location::BITS | location.bits())
    }

    pub fn tag(self) -> Tag {
        Tag((self.0 >> Location::BITS) as u32)
    }

    /// One that looks like this, of another place.
    pub fn at(self, location: Location) -> Self {
        Entry::new(self.tag(), location)
    }

    pub fn location(self) -> Location {
        Location::from_bits(self.0)
    }
}
