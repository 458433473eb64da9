//! The embedded store.

use super::{
    Asked, AskedDecisions, Door, Earlier, Figures, KeysPage, Operated, Operators, Settings,
    Unanswered, Watched, age,
};
use crate::{
    decisions::Decision,
    engine::entries::Entry,
    engine::resolve::{Resolution, ResolveOptions},
    error::StoreError,
    key::{KeyRef, Scope},
    limits::SHARDS,
    observe::Timings,
    spi::Erased,
    store::{Store, WeakStore},
};
use std::{cmp::Reverse, time::Duration};

impl From<&Store> for Operators {
    fn from(store: &Store) -> Self {
        Operators::of(store.downgrade())
    }
}

impl Door for WeakStore {
    fn open(&self) -> Option<Box<dyn Operated>> {
        self.upgrade().map(|store| Box::new(store) as Box<dyn Operated>)
    }
}

impl Watched for Store {
    fn timings(&self) -> &Timings {
        self.same_engine().timings()
    }

    fn check(&self) -> Result<(), StoreError> {
        self.engine().map(drop).map_err(StoreError::from)
    }

    fn figures_at_hand(&self) -> Figures {
        Operated::figures(self)
    }
}

impl Operated for Store {
    fn place(&self) -> String {
        self.same_engine().place()
    }

    fn settings(&self) -> Settings {
        let engine = self.same_engine();
        let config = engine.config();
        Settings {
            backend: "embedded",
            durability: format!("{:?}", config.durability),
            lease_ms: config.lease_ms,
            replay_ms: config.replay_ms,
            remember_ms: config.remember_ms,
            max_response: config.max_response,
            max_attempts: config.max_attempts,
            draining: engine.is_draining(),
            closed: engine.is_closed(),
            can_drain: true,
        }
    }

    fn figures(&self) -> Figures {
        let figures = self.engine().map(|engine| engine.figures());
        let (stats, scopes) = figures.unwrap_or_else(|_| (self.stats(), Vec::new()));
        Figures { stats, scopes, table: None }
    }

    fn answers(&self) -> bool {
        true
    }

    fn now_ms(&self) -> u64 {
        let engine = self.same_engine();
        engine.shown(engine.now())
    }

    fn hash(&self, key: KeyRef<'_>) -> u64 {
        self.same_engine().hash(key)
    }

    fn with_hash(&self, hash: u64) -> Result<Option<Entry>, StoreError> {
        Ok(self.engine()?.with_hash(hash).into_iter().next())
    }

    fn get(&self, key: KeyRef<'_>) -> Result<Option<Entry>, StoreError> {
        Store::get(self, key)
    }

    fn earlier(&self, key: KeyRef<'_>) -> Result<Option<Earlier>, StoreError> {
        let before = self.engine()?.before_takeover(key);
        Ok(before.map(|(attempt, reason, at_ms, answer)| Earlier {
            attempt,
            reason,
            at_ms,
            answer,
        }))
    }

    fn page(&self, asked: &Asked) -> Result<KeysPage, Unanswered> {
        let cursor = asked.cursor.as_deref().unwrap_or("0");
        let cursor: usize = cursor.parse().map_err(|_| Unanswered::Cursor)?;
        let engine = self.engine().map_err(StoreError::from)?;
        let now_ms = self.now_ms();
        if !asked.filter.completed {
            let mut keys: Vec<_> = (0..SHARDS)
                .flat_map(|shard| engine.undecided_of_shard(shard, &asked.filter))
                .filter(|entry| asked.has(entry, now_ms))
                .collect();
            // Keys of one age stay in one order, so that pages neither repeat nor leave out any.
            keys.sort_by_cached_key(|entry| (Reverse(age(entry, now_ms)), entry.token));
            let total = keys.len();
            let entries: Vec<_> = keys.into_iter().skip(cursor).take(asked.limit).collect();
            let next = cursor.saturating_add(entries.len());
            let next = (next < total && !entries.is_empty()).then(|| next.to_string());
            return Ok(KeysPage { entries, total: Some(total as u64), next, damaged: 0, now_ms });
        }
        // Shard by shard, until there are enough; no shard is split.
        let (mut entries, mut damaged, mut shard) = (Vec::new(), 0, cursor);
        while shard < SHARDS && entries.len() < asked.limit {
            for entry in engine.entries_of_shard(shard, &asked.filter) {
                match entry {
                    Ok(entry) if asked.has(&entry, now_ms) => entries.push(entry),
                    Ok(_) => {}
                    Err(StoreError::Damaged { .. }) => damaged += 1,
                    Err(error) => return Err(error.into()),
                }
            }
            shard += 1;
        }
        let next = (shard < SHARDS).then(|| shard.to_string());
        Ok(KeysPage { entries, total: None, next, damaged, now_ms })
    }

    fn resolve_with(
        &self,
        key: KeyRef<'_>,
        resolution: Resolution<'_>,
        options: ResolveOptions<'_>,
    ) -> Result<(), StoreError> {
        Store::resolve_with(self, key, resolution, options)
    }

    fn decisions(&self, asked: &AskedDecisions) -> Result<Vec<Decision>, StoreError> {
        let kept = Store::decisions(self)?;
        let wanted = kept.into_iter().rev().filter(|one| asked.has(one.number, &one.key));
        Ok(wanted.take(asked.limit).collect())
    }

    fn erase_scope(&self, scope: &Scope, force: bool) -> Result<Erased, StoreError> {
        Store::erase_scope(self, scope, force)
    }

    fn drain(&self, at_most: Duration) -> Option<u64> {
        Some(Store::drain(self, at_most))
    }
}
