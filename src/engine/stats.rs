//! A store's figures at a moment, gathered from where they are kept.

use crate::{
    claim::Phase,
    engine::Engine,
    stats::{CLAIMS_LOW, Count, SCOPES_SHOWN, ScopeUse, ScopesByUse, Stats},
};
use std::{collections::HashMap, sync::atomic::Ordering};

impl Engine {
    /// The figures now.
    pub fn stats(&self) -> Stats {
        self.figures().0
    }

    /// The figures, and the scopes that have the most undecided keys, most first; none of these
    /// unless claims are nearly used up. One walk over the undecided keys.
    pub fn figures(&self) -> (Stats, ScopesByUse) {
        let now = self.now();
        let mut stats = Stats::default();
        let claims_max = crate::claims::Cells::claims_in(self.cells.bytes());
        let cells_free = self.cells.free() as u64;
        let claims_low = cells_free < claims_max / CLAIMS_LOW;
        let mut scopes: HashMap<Box<[u8]>, ScopeUse> = HashMap::new();
        for mut shard in self.index.shards() {
            self.end_replacing(&mut shard, None);
            stats.records += shard.len() as u64;
            stats.index_bytes += shard.table_bytes() as u64;
            for (_, undecided) in shard.undecided.iter() {
                stats.waiters += undecided.waiters.len() as u64;
                let phase = undecided.held.phase_at(now);
                if claims_low {
                    let scope = undecided.key.scope();
                    if !scopes.contains_key(scope) {
                        scopes.insert(scope.into(), ScopeUse::default());
                    }
                    let of = scopes.get_mut(scope).expect("it is there now");
                    of.undecided += 1;
                    of.interrupted += u64::from(matches!(phase, Phase::Interrupted { .. }));
                }
                match phase {
                    Phase::InFlight { .. } => {
                        let age = now.saturating_sub(undecided.held.started_ms);
                        stats.in_flight += 1;
                        stats.oldest_in_flight_ms = stats.oldest_in_flight_ms.max(age);
                    }
                    Phase::Interrupted { reason, at } => {
                        stats.interrupted_by.add(reason);
                        let used_up = undecided.held.attempt >= self.config.max_attempts;
                        stats.exhausted_keys += u64::from(used_up);
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
        let scopes = self.most_used(scopes);
        let stats = Stats {
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
            undelivered: count(Count::Undelivered),
            exhausted: count(Count::Exhausted),
            late_calls: count(Count::Late),
            abandoned: count(Count::Abandoned),
            leases_passed: count(Count::LeasePassed),
            interrupted_expired: count(Count::InterruptedExpired),
            began_after_expiry: count(Count::BeganAfterExpiry),
            refused_full: count(Count::RefusedFull),
            refused_scope: count(Count::RefusedScope),
            full_since_ms: full.as_ref().map_or(0, |(since, ..)| *since),
            full_of: full.as_ref().and_then(|(_, of, _)| *of),
            full: full.map(|(.., why)| why),
            claims_low,
            scopes: scopes.iter().map(|(_, of)| *of).collect(),
            segments_free: free.len() as u64,
            segments_recycled: count(Count::Recycled),
            capacity: self.config.capacity,
            space_free: space.free().max(0) as u64,
            claims_max,
            cells_free,
            recovery_ms: self.recovery_ms.load(Ordering::Relaxed),
            life: self.log.shared.life,
            created: self.log.shared.life == 1,
            now_ms: self.time.shown(now),
            clock_held: self.time.held,
            damaged_places: self.damaged_places,
            torn_claims: self.torn_claims,
            poisoned: self.poison.why(),
            ..stats
        };
        (stats, scopes)
    }

    /// The scopes with the most undecided keys, with their hashes.
    fn most_used(&self, scopes: HashMap<Box<[u8]>, ScopeUse>) -> ScopesByUse {
        let mut scopes: Vec<_> = scopes.into_iter().collect();
        scopes.sort_by(|a, b| b.1.undecided.cmp(&a.1.undecided).then_with(|| a.0.cmp(&b.0)));
        scopes.truncate(SCOPES_SHOWN);
        scopes.iter_mut().for_each(|(scope, of)| of.scope = self.index.hasher().scope(scope));
        scopes
    }
}
