//! What the rest of the crate sees of an engine: its fields are visible to its own modules alone.

use crate::{
    clock::Clock,
    engine::{Config, Engine},
    index::KeyHasher,
    key::KeyRef,
    observe::Timings,
    storage::Storage,
};
use std::sync::{Arc, atomic::Ordering};

// Not all are used with each choice of features.
#[allow(dead_code)]
impl Engine {
    /// The store's number, the same in all its lives.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The directory, as messages name it.
    pub fn place(&self) -> String {
        self.storage.place()
    }

    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn timings(&self) -> &Timings {
        &self.timings
    }

    pub fn clock(&self) -> &Arc<dyn Clock> {
        self.time.clock()
    }

    pub fn hasher(&self) -> KeyHasher {
        self.index.hasher()
    }

    /// The hash by which events and figures name a key.
    pub fn hash(&self, key: KeyRef<'_>) -> u64 {
        self.index.hash(key)
    }

    /// A time of the store's as it is shown to others.
    pub fn shown(&self, at_ms: u64) -> u64 {
        self.time.shown(at_ms)
    }

    /// How many handles of claims exist.
    pub fn holders(&self) -> u64 {
        self.holders.count()
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Whether the calling thread is one of the store's.
    pub fn is_own_thread(&self) -> bool {
        self.notifiers.is_answered_here()
    }
}
