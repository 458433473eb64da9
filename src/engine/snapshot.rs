//! The store as it is at one moment, for a copy of it.

use crate::{
    claim::Phase,
    claims::{Chain, Found},
    engine::Engine,
    index::{Shard, Undecided},
    log::{Slot, Use},
    recover::segments::Until,
    superblock::Superblock,
};
use std::sync::{Arc, atomic::Ordering};

/// While it lives no segment is used again.
pub(crate) struct Pins<'a>(&'a Engine);

impl Drop for Pins<'_> {
    fn drop(&mut self) {
        self.0.copying.fetch_sub(1, Ordering::SeqCst);
        self.0.notifiers.keep.notify();
    }
}

/// The moment: taken with everything locked, read afterwards.
pub(crate) struct Moment {
    pub superblock: Superblock,
    pub taken_ms: u64,
    pub claims: Vec<Found>,
    pub slots: Vec<(Arc<Slot>, Until)>,
}

impl Engine {
    /// Where everything is, at one moment. No record is in the middle of being appended, because
    /// that is done under the lock of a shard.
    pub fn moment(&self) -> (Moment, Pins<'_>) {
        // No segment is created, sealed or recycled while the moment is taken.
        let _one = self.keeping.lock();
        let superblock = self.superblock.lock().1;
        let shards: Vec<_> = self.index.shards().collect();
        let taken_ms = self.now();
        let claims = shards.iter().flat_map(|shard| self.claims_of(shard, taken_ms)).collect();
        let tails: Vec<_> =
            self.log.appenders().filter_map(|(_, appender)| appender.open_at()).collect();
        let slots = self.log.slots.iter().map(|slot| {
            let until = match slot.used_as() {
                Use::Free => Until::Free,
                Use::Sealed | Use::Retired => Until::Sealed,
                Use::Filling => {
                    let tail = tails.iter().find(|(number, _)| *number == slot.number);
                    Until::Offset(tail.map_or(slot.bytes, |(_, at)| *at))
                }
            };
            (slot.clone(), until)
        });
        let slots = slots.collect();
        self.copying.fetch_add(1, Ordering::SeqCst);
        (Moment { superblock, taken_ms, claims, slots }, Pins(self))
    }

    /// The undecided claims of a shard.
    fn claims_of(&self, shard: &Shard, now: u64) -> Vec<Found> {
        let found = |undecided: &Undecided| {
            let Undecided { held, terms, .. } = undecided;
            if held.expired(now, self.interrupted_ms(terms.remember_ms)) {
                return None;
            }
            let interrupted = match held.phase_at(now) {
                Phase::InFlight { .. } => None,
                Phase::Interrupted { reason, at } => Some((reason, at)),
            };
            Some(Found {
                token: held.token,
                version: undecided.version,
                used: undecided.version,
                attempt: held.attempt,
                started_ms: held.started_ms,
                lease_ms: held.lease_ms,
                replay_ms: terms.replay_ms,
                remember_ms: terms.remember_ms,
                reserve: terms.reserve,
                fingerprint: held.fingerprint,
                history: held.history,
                interrupted,
                key: undecided.key.clone(),
                checkpoint: undecided.checkpoint.clone(),
                answer_of: undecided.answer_of(),
                chain: Chain::default(),
            })
        };
        shard.undecided.iter().filter_map(|(_, undecided)| found(undecided)).collect()
    }

    /// Size of the claims file.
    pub fn claims_bytes(&self) -> u64 {
        self.cells.bytes()
    }
}
