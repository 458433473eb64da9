//! The location of a record, packed into the forty bits that an index entry has for it.

/// A place in a segment. Composed and taken apart here and nowhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Location(u64);

const OFFSET_BITS: u32 = 23;

impl Location {
    /// Bits that a location takes.
    pub const BITS: u32 = 40;

    pub fn new(slot: u32, offset: u64) -> Self {
        debug_assert!(offset.is_multiple_of(8) && offset >> (OFFSET_BITS + 3) == 0);
        debug_assert!(slot <= crate::limits::SLOTS_MAX);
        Location((u64::from(slot) << OFFSET_BITS) | (offset / 8))
    }

    pub fn from_bits(bits: u64) -> Self {
        Location(bits & ((1 << Self::BITS) - 1))
    }

    pub fn bits(self) -> u64 {
        self.0
    }

    pub fn slot(self) -> u32 {
        (self.0 >> OFFSET_BITS) as u32
    }

    /// Bytes from the start of the segment.
    pub fn offset(self) -> u64 {
        (self.0 & ((1 << OFFSET_BITS) - 1)) * 8
    }
}

// Offsets end below the size of a segment, slots below their highest number.
const _: () = assert!(crate::limits::SEGMENT_BYTES_MAX <= 8 << OFFSET_BITS);
const _: () = assert!((crate::limits::SLOTS_MAX as u64) < 1 << (Location::BITS - OFFSET_BITS));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_round_at_its_bounds() {
        for slot in [0, 1, crate::limits::SLOTS_MAX] {
            for offset in [0, 8, (64 << 20) - 8] {
                let place = Location::from_bits(Location::new(slot, offset).bits());
                assert_eq!((place.slot(), place.offset()), (slot, offset));
            }
        }
    }
}
