//! Checksums (CRC-32, IEEE) and their seeds.
//!
//! A new hasher of the crate asks which instructions the processor has, each time: some forty
//! instructions, a quarter of the checksum of a header. Here it is asked once.

use crc32fast::Hasher;
use std::sync::LazyLock;

static PLAIN: LazyLock<Hasher> = LazyLock::new(Hasher::new);

/// The checksum of some bytes.
#[inline]
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    let mut hasher = PLAIN.clone();
    hasher.update(bytes);
    hasher.finalize()
}

/// The checksum of some bytes, at least four, that starts from `seed`: what a new hasher with this
/// initial value makes of them. A checksum adds its start value to the first four bytes and uses it
/// for nothing else, so it is added to them for the time of the call.
#[inline]
pub(crate) fn crc32_from(seed: u32, bytes: &mut [u8]) -> u32 {
    add(seed, bytes);
    let crc = crc32(bytes);
    add(seed, bytes);
    crc
}

#[inline]
fn add(seed: u32, bytes: &mut [u8]) {
    let first = bytes.first_chunk_mut::<4>().expect("at least four bytes");
    *first = (u32::from_le_bytes(*first) ^ seed).to_le_bytes();
}

/// The start value of a checksum, so that bytes of another store, place or time don't pass: the
/// fields that say which, mixed. (A CRC is a bijection of what it starts from: with another start
/// the same bytes have another checksum.)
pub(crate) fn seed_of(fields: [u64; 3]) -> u32 {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for field in fields {
        state = (state ^ field).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state ^= state >> 29;
        state = state.wrapping_mul(0x94d0_49bb_1331_11eb);
        state ^= state >> 32;
    }
    state as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    proptest! {
        #[test]
        fn checksums_are_those_of_a_new_hasher(
            seed in any::<u32>(), bytes in prop::collection::vec(any::<u8>(), 4..300),
        ) {
            let mut hasher = Hasher::new_with_initial(seed);
            hasher.update(&bytes);
            let mut copy = bytes.clone();
            prop_assert_eq!(crc32_from(seed, &mut copy), hasher.finalize());
            prop_assert_eq!(&copy, &bytes);
            prop_assert_eq!(crc32(&bytes), crc32fast::hash(&bytes));
        }
    }

    #[test]
    fn neighbouring_fields_make_other_seeds() {
        let mut seen = HashSet::new();
        for store in [0, 1, u64::MAX] {
            for place in 0..1000 {
                for life in 0..10 {
                    assert!(seen.insert(seed_of([store, place, life])), "{store} {place} {life}");
                }
            }
        }
    }
}
