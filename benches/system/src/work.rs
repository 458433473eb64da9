//! The work that every program here does: keys, responses, a claim and its completion.

use onlyonce::{Begin, Durability, Fingerprint, KeyRef, Scope, Store};
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

pub const RESPONSE_BYTES: usize = 1024;
/// Key, fingerprint and response: what a user asked to be kept of one pair.
pub const PAYLOAD_BYTES: u64 = 36 + 16 + RESPONSE_BYTES as u64;
pub const BUFFERED: Durability = Durability::Buffered { max_delay: Duration::from_secs(1) };

pub type Key = [u8; 36];

/// The `i`th key of a series, in no order.
pub fn key(series: u64, i: u64) -> Key {
    let mut key = *b"........-...-....-....-...-.........";
    key[..8].copy_from_slice(&mixed(i ^ series << 40).to_be_bytes());
    key[20..28].copy_from_slice(&i.to_le_bytes());
    key[28..].copy_from_slice(&series.to_le_bytes());
    key
}

/// The finalizer of splitmix64: neighbours become far apart.
pub fn mixed(i: u64) -> u64 {
    let mut z = i.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A series of keys that no other caller in this process has.
pub fn new_series() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A response that no compression makes smaller.
pub fn response(series: u64) -> [u8; RESPONSE_BYTES] {
    let mut response = [0; RESPONSE_BYTES];
    let words = response.chunks_exact_mut(8).zip(0..);
    words.for_each(|(word, i)| word.copy_from_slice(&mixed(series << 20 | i).to_le_bytes()));
    response
}

pub fn print() -> Fingerprint {
    Fingerprint::from_bytes([1; 16])
}

pub fn scope() -> Scope {
    Scope::global()
}

/// Claims a new key.
pub fn execute(store: &Store, scope: &Scope, key: &Key) -> onlyonce::Claim {
    match begin(store, scope, key) {
        Begin::Execute(claim) => claim,
        other => panic!("a new key was found to be {other:?}"),
    }
}

pub fn begin(store: &Store, scope: &Scope, key: &Key) -> Begin {
    store.begin(KeyRef::new(scope, key).expect("36 bytes"), print()).expect("the store works")
}

/// Claims and completes a new key.
pub fn pair(store: &Store, scope: &Scope, key: &Key, response: &[u8]) {
    execute(store, scope, key).complete(response).expect("the store works");
}
