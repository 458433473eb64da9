//! Keys whose takeovers were undone because nothing was learned: how long they had better rest.
//! Known to this store's process; another one finds out by itself.

use crate::{key::OwnedKey, limits::settle_delay_ms};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// The number of keys that are remembered; beyond it, those whose delay is over are forgotten.
const REMEMBERED: usize = 10_000;

#[derive(Debug, Default)]
pub(crate) struct Unsure(Mutex<HashMap<OwnedKey, (u32, Instant)>>);

impl Unsure {
    pub fn again(&self, key: &OwnedKey) {
        let mut keys = self.0.lock();
        if keys.len() >= REMEMBERED {
            keys.retain(|_, (times, at)| !rest(*times, *at).is_zero());
        }
        if keys.len() < REMEMBERED || keys.contains_key(key) {
            let known = keys.entry(key.clone()).or_insert((0, Instant::now()));
            *known = (known.0.saturating_add(1), Instant::now());
        }
    }

    pub fn forget(&self, key: &OwnedKey) {
        self.0.lock().remove(key);
    }

    pub fn rest(&self, key: &OwnedKey) -> Duration {
        let keys = self.0.lock();
        keys.get(key).map_or(Duration::ZERO, |(times, at)| rest(*times, *at))
    }
}

fn rest(times: u32, at: Instant) -> Duration {
    Duration::from_millis(settle_delay_ms(times)).saturating_sub(at.elapsed())
}
