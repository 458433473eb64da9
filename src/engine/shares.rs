//! Bounds for each scope, so that none uses up what the others need: cells of the claims file, the
//! half of them that interrupted keys may take, and reserved space. A scope's part of the remainder
//! is at most the remainder's part of the whole: a scope that takes all it can ends with 38 of 100;
//! after `n` such scopes, one after the other, about an `n`th is left for all others.
//!
//! Nothing is counted by scope while there is plenty: each claim takes one off a number of claims
//! that may be granted before the next check. When it is used up, the free cells are counted; if
//! many are in use, all undecided keys are counted by their scopes. That is repeated when the
//! counts may have become wrong, so a claim costs a look at a few dozen keys at most, on average.

use crate::{
    claim::Phase,
    engine::{Engine, begin::Begin},
    error::{BeginError, Full},
    log::claim_bytes,
    observe::events,
    stats::Count,
    sync::{
        Mutex,
        atomic::{AtomicI64, Ordering},
    },
};
use std::collections::HashMap;

/// A count is taken again after so long, whatever has happened.
const STALE_MS: u64 = 1000;

/// The use of the store by each scope.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    /// The number of claims that may be granted before the next check.
    unchecked: AtomicI64,
    census: Mutex<Option<Census>>,
}

/// All undecided keys, counted.
#[derive(Debug)]
struct Census {
    at: u64,
    scopes: HashMap<u64, Part>,
    interrupted: u64,
    /// Bytes that are promised.
    promised: u64,
    /// Cells that were free.
    free: u64,
    /// Bytes that could still be promised.
    room: u64,
    /// Claims that have been granted since.
    granted: u64,
}

/// The use of the store by one scope.
#[derive(Clone, Copy, Debug, Default)]
struct Part {
    cells: u64,
    interrupted: u64,
    promised: u64,
    granted: u64,
    /// Whether an event has reported that the scope is refused.
    told: bool,
}

impl Engine {
    /// Refuses another key of a scope that has its share. With no lock held.
    pub fn check_share(&self, begin: &Begin<'_>) -> Result<(), BeginError> {
        if self.shares.unchecked.fetch_sub(1, Ordering::Relaxed) > 0 {
            return Ok(());
        }
        let mut census = self.shares.census.lock();
        let most = crate::claims::Cells::claims_in(self.cells.bytes());
        let (free, bytes) = (self.cells.free() as u64, claim_bytes(begin.reserve()));
        let room = self.room();
        // A claim takes up to four cells.
        let spare = (free.saturating_sub(most - most / 8) / 4)
            .min((room / bytes).saturating_sub(2 * self.holders.count()) / 4);
        if spare > 0 {
            *census = None;
            self.shares.unchecked.store(spare as i64, Ordering::Relaxed);
            return Ok(());
        }
        let hash = self.index.hasher().scope(begin.request.key.scope());
        let now = self.now();
        let slack = (most / 64).max(1);
        let mut counted = match census.take() {
            Some(counted) if !counted.is_stale(free, slack, now) => counted,
            earlier => self.count_scopes(earlier, free, room, now),
        };
        if counted.refuses(hash, most, bytes) && counted.part(hash).granted > 0 {
            // What it was granted may have ended, or be interrupted.
            counted = self.count_scopes(Some(counted), free, room, now);
        }
        let refused = counted.refuses(hash, most, bytes);
        let part = counted.scopes.entry(hash).or_default();
        if refused {
            if !std::mem::replace(&mut part.told, true) {
                events::share_used(hash);
            }
        } else {
            part.granted += 1;
            counted.granted += 1;
        }
        *census = Some(counted);
        drop(census);
        if refused {
            self.count(begin.hash, Count::RefusedScope);
            return Err(BeginError::StoreFull(Full::Scope));
        }
        Ok(())
    }

    /// Bytes that could still be promised.
    fn room(&self) -> u64 {
        let made: u64 = self.log.slots.iter().map(|slot| slot.bytes).sum();
        let free = self.log.shared.space.free().max(0) as u64;
        free + self.config.capacity.saturating_sub(made)
    }

    fn count_scopes(&self, earlier: Option<Census>, free: u64, room: u64, now: u64) -> Census {
        let mut scopes: HashMap<u64, Part> = HashMap::new();
        let (mut interrupted, mut promised) = (0, 0);
        for shard in self.index.shards() {
            for (_, undecided) in shard.undecided.iter() {
                let scope = self.index.hasher().scope(undecided.key.scope());
                let part = scopes.entry(scope).or_default();
                part.cells += undecided.chain.cells.len() as u64;
                if undecided.held.holder_lives {
                    part.promised += Self::promise_of(undecided);
                    promised += Self::promise_of(undecided);
                }
                if matches!(undecided.held.phase_at(now), Phase::Interrupted { .. }) {
                    part.interrupted += 1;
                    interrupted += 1;
                }
            }
        }
        for (scope, before) in earlier.into_iter().flat_map(|census| census.scopes) {
            if let Some(part) = scopes.get_mut(&scope) {
                part.told = before.told;
            }
        }
        Census { at: now, scopes, interrupted, promised, free, room, granted: 0 }
    }
}

impl Census {
    fn part(&self, scope: u64) -> Part {
        self.scopes.get(&scope).copied().unwrap_or_default()
    }

    /// Whether so much has been granted or has ended since that it should be counted again.
    fn is_stale(&self, free: u64, slack: u64, now: u64) -> bool {
        let expected = self.free.saturating_sub(self.granted);
        self.granted >= slack
            || free.abs_diff(expected) >= slack
            || now.saturating_sub(self.at) >= STALE_MS
    }

    /// Whether a scope has all that it may have. One that has nothing gets something.
    fn refuses(&self, scope: u64, most: u64, bytes: u64) -> bool {
        let Part { cells, interrupted, promised, granted, .. } = self.part(scope);
        let all = self.promised + self.room;
        let free = self.free.saturating_sub(self.granted);
        let interruptible = (most / 2).saturating_sub(self.interrupted + self.granted);
        let room = self.room.saturating_sub(self.granted * bytes);
        cells + granted >= share(free, most).max(1)
            || interrupted + granted >= share(interruptible, most / 2).max(1)
            || promised + granted * bytes >= share(room, all).max(bytes)
    }
}

/// How much one may have when so much is left of the whole.
pub(crate) fn share(left: u64, whole: u64) -> u64 {
    let (left, whole) = (u128::from(left.min(whole)), u128::from(whole.max(1)));
    (left * left / whole) as u64
}
