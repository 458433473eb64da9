//! The mark of an erased frame: one word in the place of its first, so that it is there whole or not
//! at all, whatever a crash leaves of the bytes behind it, which mean nothing.
//!
//! ```text
//! 0        4        8
//! | crc    | length | zeros (or what is left of the frame)
//! ```
//!
//! `length` is what the frame takes in its segment. `crc` covers the frame's offset and the length,
//! and is seeded with store, slot and epoch, and with what no life is: a frame's first word never
//! passes for a mark, nor a mark for a frame. The segment's footer continues to list the frame.

use super::frame::{HEADER_BYTES, Seed};
use crate::crc::seed_of;
use crc32fast::Hasher;

/// In the place of a life, which has 32 bits.
const ERASED: u64 = u64::from_le_bytes(*b"1ce-gone");

fn crc(seed: Seed, offset: u64, len: u32) -> u32 {
    let place = u64::from(seed.slot) << 32 | u64::from(seed.epoch);
    let mut hasher = Hasher::new_with_initial(seed_of([seed.store, place, ERASED]));
    hasher.update(&offset.to_le_bytes());
    hasher.update(&len.to_le_bytes());
    // Never zero: bytes that were never written don't pass.
    hasher.finalize().max(1)
}

/// The mark of a frame at `offset` that takes `len` bytes.
pub(crate) fn mark(seed: Seed, offset: u64, len: u32) -> [u8; 8] {
    let word = u64::from(crc(seed, offset, len)) | u64::from(len) << 32;
    word.to_le_bytes()
}

/// How many bytes the frame took whose mark this is; `None` if it is none.
pub(crate) fn len_of(seed: Seed, offset: u64, word: &[u8; 8]) -> Option<u32> {
    let word = u64::from_le_bytes(*word);
    let len = (word >> 32) as u32;
    let possible = len >= HEADER_BYTES as u32 && len.is_multiple_of(8);
    (possible && word as u32 == crc(seed, offset, len)).then_some(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_of_one_frame_of_one_segment_in_one_use() {
        let seed = Seed { store: 7, slot: 3, epoch: 9 };
        let word = mark(seed, 4096, 96);
        assert_eq!(len_of(seed, 4096, &word), Some(96));
        assert_eq!(len_of(seed, 4104, &word), None);
        for other in
            [Seed { store: 8, ..seed }, Seed { slot: 4, ..seed }, Seed { epoch: 8, ..seed }]
        {
            assert_eq!(len_of(other, 4096, &word), None);
        }
        for bit in 0..64 {
            let mut bad = word;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(len_of(seed, 4096, &bad), None, "bit {bit}");
        }
        assert_eq!(len_of(seed, 4096, &[0; 8]), None);
    }
}
