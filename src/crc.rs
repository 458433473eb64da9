//! Seeds for checksums.

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
    use std::collections::HashSet;

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
