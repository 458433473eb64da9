//! For tests that need no model: a small store on a simulated disk.

use super::*;

/// A small store on a simulated disk, for tests that need no model: its options.
pub fn small(clock: &ManualClock) -> Options {
    Setting { durability: 0, hash_bits: 64, tight: false }.options(clock)
}

pub fn open(options: &Options, disk: &SimStorage) -> Result<Store, OpenError> {
    options.open_on(Arc::new(disk.clone()) as Arc<dyn Storage>)
}

pub fn fingerprint() -> Fingerprint {
    Fingerprint::of(["POST", "/payments"])
}

/// Begins; the answer is the caller's to judge.
pub fn begin(store: &Store, key: &str) -> Result<Begin, BeginError> {
    let scope = scope();
    store.begin(KeyRef::new(&scope, key).unwrap(), fingerprint())
}

pub fn look(store: &Store, key: &str) -> Result<Option<Entry>, StoreError> {
    let scope = scope();
    store.get(KeyRef::new(&scope, key).unwrap())
}

#[track_caller]
pub fn claim(store: &Store, key: &str) -> Claim {
    match begin(store, key) {
        Ok(Begin::Execute(claim)) => claim,
        other => panic!("{key} is not granted: {other:?}"),
    }
}

#[track_caller]
pub fn complete(store: &Store, key: &str, response: &[u8]) {
    claim(store, key).complete(response).unwrap();
}

#[track_caller]
pub fn replays(store: &Store, key: &str, response: &[u8]) {
    match begin(store, key) {
        Ok(Begin::Replay(record)) => assert_eq!(record.response(), Some(response), "{key}"),
        other => panic!("{key} is not replayed: {}", short(&other)),
    }
}

#[track_caller]
pub fn interrupted(store: &Store, key: &str) -> Interrupted {
    match begin(store, key) {
        Ok(Begin::Interrupted(stuck)) => stuck,
        other => panic!("{key} is not interrupted: {}", short(&other)),
    }
}

/// A response that tells which it is.
pub fn response(number: usize, len: usize) -> Vec<u8> {
    let mut rng = Rng(number as u64);
    (0..len).map(|_| rng.next() as u8).collect()
}
