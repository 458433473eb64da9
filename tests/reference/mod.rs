//! The reference model, and a world in which a store is run against it.
//!
//! The model is table 1.2 of the design: what a key is, a few lines a rule. Beside each key's
//! present state it keeps the states that a loss of power may bring back (`past`), and, when a
//! call was cut short by a fault, the state that it would have led to (`maybe`). After a crash
//! the store's answer must be one of them; from then on the model believes the store.

#![allow(dead_code, unused_imports)]

mod after;
mod holder;
mod model;
mod op;
mod operator;
mod plain;
mod world;

pub use model::*;
pub use op::*;
pub use plain::*;
pub use world::*;

pub use onlyonce::{
    Begin, BeginError, Claim, ClaimError, Clock, Completion, Durability, Entry, Filter,
    Fingerprint, Interrupted, KeyRef, ManualClock, OpenError, Options, Reason, Record, Recovery,
    Resolution, ResolveOptions, Retention, Scope, State, Store, StoreError, Terms,
    inspect::Inspection,
    storage::{SimStorage, Storage},
};
pub use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
    time::Duration,
};

/// At most so much of what something says of itself.
pub fn short(what: &impl std::fmt::Debug) -> String {
    let text = format!("{what:?}");
    text.chars().take(400).collect()
}

pub const KEYS: usize = 5;
pub const T0: u64 = 1_800_000_000_000;
pub const LEASE_MS: u64 = 60_000;
pub const RETENTION_MS: u64 = 3_600_000;
pub const INTERRUPTED_MS: u64 = 3 * 3_600_000;
pub const MAX_ATTEMPTS: u32 = 3;
pub const MAX_RESPONSE: usize = 4096;

/// A small generator, so that a printed number is all that is needed to repeat a run.
#[derive(Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// How the store is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// 0 `Synced`, 1 `SyncedCompletions`, 2 `Buffered`.
    pub durability: u8,
    /// Bits of the keys' hashes: 0 makes all keys collide.
    pub hash_bits: u32,
    /// Little space and few cells: calls may be refused as full.
    pub tight: bool,
}

impl Setting {
    pub fn options(&self, clock: &ManualClock) -> Options {
        let (capacity, claims) = if self.tight { (256 << 10, 6) } else { (4 << 20, 200) };
        Options::new()
            .durability(match self.durability {
                0 => Durability::Synced,
                1 => Durability::SyncedCompletions,
                _ => Durability::Buffered { max_delay: Duration::from_millis(50) },
            })
            .lease(ms(LEASE_MS))
            .retention(ms(RETENTION_MS))
            .interrupted_retention(ms(INTERRUPTED_MS))
            .max_attempts(MAX_ATTEMPTS)
            .max_response(MAX_RESPONSE)
            .max_claims(claims)
            .capacity(capacity)
            .segment_bytes(64 << 10)
            .ring_bytes(64 << 10)
            .clock(clock.clone())
            .clock_jump_max(ms(365 * 24 * 3_600_000))
            .background(false)
            .hash_bits(self.hash_bits)
            .recovery(Recovery::Strict)
    }

    pub fn syncs_claims(&self) -> bool {
        self.durability == 0
    }

    pub fn syncs_completions(&self) -> bool {
        self.durability <= 1
    }
}

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// What a key is, as of the last change; time passes when it is looked at.
/// Bytes that print in a few letters.
#[derive(Clone, PartialEq)]
pub struct Bytes(pub Vec<u8>);

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (len, sum) = (self.0.len(), crc32fast::hash(&self.0));
        write!(f, "{len} bytes #{sum:x}")
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

pub fn scope() -> Scope {
    Scope::of(["tenant-7", "model"])
}
