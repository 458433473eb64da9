//! The store as operators know it. Their threads wait for tasks on the store's runtime.

use super::{
    decided,
    operator::Decision as Decided,
    options::Replication,
    store::{PostgresStore, WeakPostgres},
    survey::{Completed, Undecided},
};
use crate::{
    decisions::Decision,
    engine::entries::{Entry, State},
    engine::resolve::{Resolution, ResolveOptions},
    error::StoreError,
    key::{KeyRef, OwnedKey, Scope},
    observe::Timings,
    operate::{
        Asked, AskedDecisions, Door, Earlier, Figures, KeysPage, Operated, Operators, Settings,
        Source, TableFigures, Unanswered, Watched,
    },
    record::Reason,
    spi::Erased,
    stats::Stats,
};
use std::{
    future::Future,
    sync::{atomic::Ordering, mpsc::sync_channel},
    time::Duration,
};

impl From<&PostgresStore> for Operators {
    fn from(store: &PostgresStore) -> Self {
        Operators::of(store.downgrade())
    }
}

impl From<&PostgresStore> for Source {
    fn from(store: &PostgresStore) -> Self {
        Operators::from(store).into()
    }
}

impl Door for WeakPostgres {
    fn open(&self) -> Option<Box<dyn Operated>> {
        self.upgrade().map(|store| Box::new(store) as Box<dyn Operated>)
    }
}

impl PostgresStore {
    /// The result of a call on the store's runtime; `None` if that has ended.
    fn wait<T: Send + 'static>(&self, call: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let (tell, told) = sync_channel(1);
        self.inner().runtime.spawn(async move {
            let _ = tell.send(call.await);
        });
        told.recv().ok()
    }

    fn ask<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.wait(call).unwrap_or(Err(StoreError::Closed))
    }

    fn table_figures(&self) -> Figures {
        let inner = self.inner();
        let (counts, surveyed) = (inner.counting.counts(), &inner.surveyed);
        let census = surveyed.last().unwrap_or_default();
        let [connections, idle, most, waited_for] = inner.pool.figures();
        let stats = Stats {
            in_flight: census.in_flight,
            interrupted: census.interrupted,
            records: census.completed,
            oldest_in_flight_ms: census.oldest_in_flight_ms,
            oldest_interrupted_ms: census.oldest_interrupted_ms,
            exhausted_keys: census.exhausted,
            now_ms: surveyed.now_ms(),
            ..inner.counting.stats()
        };
        let table = TableFigures {
            counted_ms: census.at_ms,
            unreachable: surveyed.silent.load(Ordering::SeqCst),
            bytes: census.bytes,
            connections,
            connections_idle: idle,
            connections_max: most,
            connections_waited_for: waited_for,
            ends_under_way: inner.ending(),
            swept: counts.rows_swept,
            postponed: counts.rows_postponed,
        };
        Figures { stats, scopes: Vec::new(), table: Some(table) }
    }

    fn undecided_page(&self, asked: &Asked) -> Result<KeysPage, Unanswered> {
        let from = asked.cursor.as_deref().unwrap_or("0");
        let from: u32 = from.parse().map_err(|_| Unanswered::Cursor)?;
        let states = [(asked.filter.in_flight, 1), (asked.filter.interrupted, 2)];
        let reason = asked.reason.as_ref().map(|wanted| {
            let named = |byte: &i16| {
                let reason = Reason::from_byte(*byte as u8);
                reason.is_some_and(|reason| reason.to_string() == *wanted)
            };
            (1..=255).find(named).unwrap_or(0)
        });
        let wanted = Undecided {
            scope: asked.scope.as_ref().map(|scope| scope.as_bytes().to_vec()),
            prefix: asked.prefix.clone(),
            states: states.iter().filter(|(is, _)| *is).map(|(_, state)| *state).collect(),
            older_than: asked.older_than,
            reason,
            limit: asked.limit as i64,
            from: i64::from(from),
        };
        let store = self.clone();
        let found = self.ask(async move { store.undecided(wanted).await })?;
        let end = u64::from(from) + found.entries.len() as u64;
        let next = (end < found.total && !found.entries.is_empty()).then(|| end.to_string());
        // Past the last one there is none to say how many there are.
        let total = (from == 0 || found.total > 0).then_some(found.total);
        let (entries, now_ms) = (found.entries, found.now_ms);
        Ok(KeysPage { entries, total, next, damaged: 0, now_ms })
    }
}

impl Watched for PostgresStore {
    fn timings(&self) -> &Timings {
        &self.inner().counting.timings
    }

    fn check(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn figures_at_hand(&self) -> Figures {
        self.inner().survey_behind();
        self.table_figures()
    }
}

impl Operated for PostgresStore {
    fn place(&self) -> String {
        format!("{} at {}", self.inner().names.table, PostgresStore::place(self))
    }

    fn settings(&self) -> Settings {
        let options = &self.inner().options;
        let ms = |window: Duration| window.as_millis() as u64;
        let durability = match options.replication {
            Replication::Replicated => "Replicated",
            Replication::SingleServer => "SingleServer",
        };
        Settings {
            backend: "postgres",
            durability: durability.into(),
            lease_ms: ms(options.lease),
            replay_ms: ms(options.retention.replay_for),
            remember_ms: ms(options.retention.remember_for),
            max_response: options.max_response,
            max_attempts: options.max_attempts,
            draining: false,
            closed: self.inner().check_open().is_err(),
            can_drain: false,
        }
    }

    fn figures(&self) -> Figures {
        let inner = self.inner().clone();
        let _ = self.wait(async move { inner.survey().await });
        self.table_figures()
    }

    fn answers(&self) -> bool {
        let inner = self.inner().clone();
        self.wait(async move { inner.ask_server().await }).unwrap_or(false)
    }

    fn now_ms(&self) -> u64 {
        self.inner().surveyed.now_ms()
    }

    fn hash(&self, key: KeyRef<'_>) -> u64 {
        self.inner().counting.hash(key)
    }

    /// No index knows the hashes: looked for among the undecided keys.
    fn with_hash(&self, hash: u64) -> Result<Option<Entry>, StoreError> {
        const ROWS: u32 = 1000;
        let store = self.clone();
        self.ask(async move {
            let (filter, mut after) =
                (crate::engine::entries::Filter { completed: false, ..Default::default() }, None);
            loop {
                let page = store.entries(filter, after, ROWS).await?;
                let is = |entry: &Entry| store.inner().counting.hash(entry.key.as_ref()) == hash;
                if let Some(entry) = page.entries.into_iter().find(is) {
                    return Ok(Some(entry));
                }
                after = page.next;
                if after.is_none() {
                    return Ok(None);
                }
            }
        })
    }

    fn get(&self, key: KeyRef<'_>) -> Result<Option<Entry>, StoreError> {
        let (store, key) = (self.clone(), key.owned());
        self.ask(async move { store.get(key.as_ref()).await })
    }

    fn earlier(&self, key: KeyRef<'_>) -> Result<Option<Earlier>, StoreError> {
        let (inner, key) = (self.inner().clone(), key.owned());
        let row = self.ask(async move {
            inner.look(&inner.tries(), key.as_ref()).await.map_err(StoreError::from)
        })?;
        Ok(row.and_then(|row| row.earlier()))
    }

    fn page(&self, asked: &Asked) -> Result<KeysPage, Unanswered> {
        if !asked.filter.completed {
            return self.undecided_page(asked);
        }
        let after = match &asked.cursor {
            Some(cursor) => Some(from_cursor(cursor).ok_or(Unanswered::Cursor)?),
            None => None,
        };
        let wanted = Completed {
            scope: asked.scope.as_ref().map(|scope| scope.as_bytes().to_vec()),
            prefix: asked.prefix.clone(),
            older_than: asked.older_than,
            limit: asked.limit as i64,
            after,
        };
        let store = self.clone();
        let found = self.ask(async move { store.completed(wanted).await })?;
        let last = found.entries.last().filter(|_| found.entries.len() == asked.limit);
        let next = last.map(|entry| to_cursor(&entry.key));
        let is_wanted = |entry: &Entry| matches!(entry.state, State::Completed(_));
        let entries = found.entries.into_iter().filter(is_wanted).collect();
        Ok(KeysPage { entries, total: None, next, damaged: 0, now_ms: found.now_ms })
    }

    fn resolve_with(
        &self,
        key: KeyRef<'_>,
        resolution: Resolution<'_>,
        options: ResolveOptions<'_>,
    ) -> Result<(), StoreError> {
        let ResolveOptions { force, seen, by } = options;
        let decision = Decided::of(resolution, by, self.inner().options.max_response)?;
        let (store, key) = (self.clone(), key.owned());
        let carried = async move { store.carry_out(key, decision, force, seen).await };
        self.wait(carried).unwrap_or(Err(StoreError::Closed))
    }

    fn decisions(&self, asked: &AskedDecisions) -> Result<Vec<Decision>, StoreError> {
        let wanted = decided::Wanted {
            scope: asked.scope.as_ref().map(|scope| scope.as_bytes().to_vec()),
            key: asked.key.clone(),
            prefix: asked.prefix.clone(),
            before: asked.before.map(|before| i64::try_from(before).unwrap_or(i64::MAX)),
            limit: u32::try_from(asked.limit).unwrap_or(u32::MAX),
        };
        let store = self.clone();
        self.ask(async move { store.decided(wanted).await })
    }

    fn erase_scope(&self, scope: &Scope, force: bool) -> Result<Erased, StoreError> {
        let (store, scope) = (self.clone(), scope.clone());
        self.ask(async move { store.erase_scope(&scope, force).await })
    }

    fn drain(&self, _: Duration) -> Option<u64> {
        None
    }
}

/// A key as a cursor, which begins with a letter: hexadecimal digits, the scope's length first.
fn to_cursor(key: &OwnedKey) -> String {
    let bytes = [&[key.scope().len() as u8], key.scope(), key.key()].concat();
    let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
    std::iter::once("k".to_owned()).chain(digits).collect()
}

fn from_cursor(cursor: &str) -> Option<OwnedKey> {
    let digits = cursor.strip_prefix('k')?.as_bytes();
    let digit = |digit: u8| char::from(digit).to_digit(16).map(|digit| digit as u8);
    let byte = |pair: &[u8]| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?);
    let bytes: Vec<u8> = digits.chunks(2).map(byte).collect::<Option<_>>()?;
    let (len, rest) = bytes.split_first()?;
    let (scope, key) = rest.split_at_checked(usize::from(*len))?;
    KeyRef::from_parts(scope, key).ok().map(|key| key.owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_the_last_key() {
        let key = KeyRef::from_parts(b"shop", b"k\0\xff").unwrap().owned();
        assert_eq!(from_cursor(&to_cursor(&key)), Some(key));
        for bad in ["", "0", "k", "k0", "kzz", "k05aabb"] {
            assert_eq!(from_cursor(bad), None, "{bad}");
        }
    }
}
