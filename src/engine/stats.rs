//! A store's figures at a moment, gathered from where they are kept.

use crate::{
    claim::Phase,
    engine::Engine,
    stats::{Count, Stats},
};
use std::sync::atomic::Ordering;

impl Engine {
    /// The figures now.
    pub fn stats(&self) -> Stats {
        let now = self.now();
        let mut stats = Stats::default();
        for mut shard in self.index.shards() {
            self.end_replacing(&mut shard, None);
            stats.records += shard.len() as u64;
            stats.index_bytes += shard.table_bytes() as u64;
            for (_, undecided) in shard.undecided.iter() {
                stats.waiters += undecided.waiters.len() as u64;
                match undecided.held.phase_at(now) {
                    Phase::InFlight { .. } => {
                        let age = now.saturating_sub(undecided.held.started_ms);
                        stats.in_flight += 1;
                        stats.oldest_in_flight_ms = stats.oldest_in_flight_ms.max(age);
                    }
                    Phase::Interrupted { at, .. } => {
                        let age = now.saturating_sub(at);
                        stats.interrupted += 1;
                        stats.oldest_interrupted_ms = stats.oldest_interrupted_ms.max(age);
                    }
                }
            }
        }
        let count = |count| self.counters.get(count);
        let space = &self.log.shared.space;
        let free = space.pooled_slots();
        for slot in self.log.slots.iter() {
            stats.segments += 1;
            stats.segment_bytes += slot.bytes;
            if !free.contains(&slot.number) {
                match slot.drop_ms() > now {
                    true => stats.bytes_live += slot.record_bytes(),
                    false => stats.bytes_dead += slot.record_bytes(),
                }
            }
        }
        let full = self.why_full();
        Stats {
            holders: self.holders.count(),
            granted: count(Count::Granted),
            taken_over: count(Count::TakenOver),
            replayed: count(Count::Replayed),
            saw_in_flight: count(Count::SawInFlight),
            saw_interrupted: count(Count::SawInterrupted),
            mismatched: count(Count::Mismatched),
            completed: count(Count::Completed),
            failed: count(Count::Failed),
            released: count(Count::Released),
            fenced: count(Count::Fenced),
            undone: count(Count::Undone),
            exhausted: count(Count::Exhausted),
            late_calls: count(Count::Late),
            abandoned: count(Count::Abandoned),
            leases_passed: count(Count::LeasePassed),
            interrupted_expired: count(Count::InterruptedExpired),
            began_after_expiry: count(Count::BeganAfterExpiry),
            refused_full: count(Count::RefusedFull),
            refused_scope: count(Count::RefusedScope),
            full_since_ms: full.as_ref().map_or(0, |(since, _)| *since),
            full: full.map(|(_, why)| why),
            segments_free: free.len() as u64,
            segments_recycled: count(Count::Recycled),
            capacity: self.config.capacity,
            space_free: space.free().max(0) as u64,
            claims_max: crate::claims::Cells::claims_in(self.cells.bytes()),
            cells_free: self.cells.free() as u64,
            recovery_ms: self.recovery_ms.load(Ordering::Relaxed),
            life: self.log.shared.life,
            created: self.log.shared.life == 1,
            now_ms: self.time.shown(now),
            clock_held: self.time.held,
            damaged_places: self.damaged_places,
            torn_claims: self.torn_claims,
            poisoned: self.poison.why(),
            ..stats
        }
    }
}
