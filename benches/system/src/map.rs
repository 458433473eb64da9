//! What a store in memory would cost. `benches/store` measures beside it too, and has this file.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
};

type Key = [u8; 36];

/// A map of boxed responses behind 64 locks.
pub struct Map(Vec<Shard>);

/// In cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Shard(Mutex<HashMap<Key, State>>);

enum State {
    InFlight,
    Done(Box<[u8]>),
}

impl Default for Map {
    fn default() -> Self {
        Map((0..64).map(|_| Shard::default()).collect())
    }
}

impl Map {
    fn shard(&self, key: &Key) -> MutexGuard<'_, HashMap<Key, State>> {
        self.0[key[0] as usize % self.0.len()].0.lock().expect("nothing panics under it")
    }

    pub fn claim(&self, key: &Key) {
        self.shard(key).entry(*key).or_insert(State::InFlight);
    }

    pub fn complete(&self, key: &Key, response: &[u8]) {
        self.shard(key).insert(*key, State::Done(response.into()));
    }

    pub fn forget(&self, key: &Key) {
        self.shard(key).remove(key);
    }

    /// Copies and checks, as a replay does.
    pub fn replay(&self, key: &Key) -> Option<(Vec<u8>, u32)> {
        let copy = match self.shard(key).get(key)? {
            State::Done(response) => response.to_vec(),
            State::InFlight => return None,
        };
        let crc = crc32fast::hash(&copy);
        Some((copy, crc))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_what_is_complete_and_not_forgotten_is_replayed() {
        let (map, key) = (super::Map::default(), [7; 36]);
        map.claim(&key);
        assert_eq!(map.replay(&key), None);
        map.complete(&key, b"done");
        assert_eq!(map.replay(&key), Some((b"done".to_vec(), crc32fast::hash(b"done"))));
        map.forget(&key);
        assert_eq!(map.replay(&key), None);
    }
}
