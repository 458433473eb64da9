//! Keys of which each is told only by the response of the one before.

use crate::work::{Key, RESPONSE_BYTES, key, mixed};

/// One circle through all keys in random order: each response begins with the next key, so that
/// no lookup can begin before the one before it has ended.
pub struct Circle {
    next: Vec<u32>,
}

impl Circle {
    /// No series that [`new_series`](crate::work::new_series) gives out.
    const SERIES: u64 = 0;

    /// The same for the same number of keys, in whichever process.
    pub fn new(keys: u64) -> Circle {
        let mut next: Vec<u32> = (0..u32::try_from(keys).expect("fewer keys")).collect();
        // Sattolo's shuffle, whose only result is one circle.
        (1..next.len()).rev().for_each(|i| next.swap(i, (mixed(i as u64) % i as u64) as usize));
        Circle { next }
    }

    /// A key to begin with.
    pub fn start() -> Key {
        key(Self::SERIES, 0)
    }

    pub fn each(&self, mut record: impl FnMut(&Key, &[u8; RESPONSE_BYTES])) {
        let mut response = [7; RESPONSE_BYTES];
        for (i, next) in self.next.iter().enumerate() {
            let told = key(Self::SERIES, u64::from(*next));
            response[..told.len()].copy_from_slice(&told);
            record(&key(Self::SERIES, i as u64), &response);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn it_comes_by_all_keys_before_it_closes() {
        let mut told = HashMap::new();
        Circle::new(1000).each(|key, response| {
            told.insert(*key, Key::try_from(&response[..36]).unwrap());
        });
        let mut key = Circle::start();
        for _ in 0..1000 {
            key = told.remove(&key).expect("each key once");
        }
        assert_eq!(key, Circle::start());
    }
}
