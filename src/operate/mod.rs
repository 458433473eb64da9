//! What operators need of a store, whatever keeps it: figures, keys page by page, decisions. The
//! admin service, the publisher of metrics and the command know a store by this alone.
//!
//! The calls block, on threads that may wait. What a backend can't say is absent.

mod embedded;
pub(crate) mod figures;

use crate::{
    decisions::Decision,
    engine::entries::{Entry, Filter, State},
    engine::resolve::{Resolution, ResolveOptions},
    error::StoreError,
    key::{KeyRef, OwnedKey, Scope},
    observe::Timings,
    record::Reason,
    spi::Erased,
    stats::{ScopesByUse, Stats},
};
use std::{fmt, sync::Arc, time::Duration};

/// A store as the admin service and the publisher of metrics see it. It doesn't keep the store
/// open. Made from `&Store` or, with the feature `postgres`, from `&PostgresStore`.
#[derive(Clone)]
pub struct Operators(Arc<dyn Door>);

impl fmt::Debug for Operators {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Operators")
    }
}

impl Operators {
    pub(crate) fn of(door: impl Door + 'static) -> Self {
        Operators(Arc::new(door))
    }

    /// The store, if a handle of it still exists.
    pub(crate) fn open(&self) -> Option<Box<dyn Operated>> {
        self.0.open()
    }
}

type Watch = dyn Fn() -> Option<Box<dyn Watched>> + Send + Sync;

/// A store as the publisher of metrics sees it. It doesn't keep the store open. Made from `&Store`,
/// `&PostgresStore`, `&SqlStore`, or from [`Operators`].
#[derive(Clone)]
pub struct Source(Arc<Watch>);

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Source")
    }
}

#[cfg_attr(not(feature = "metrics"), allow(dead_code))]
impl Source {
    /// `open` returns the store, if a handle of it still exists.
    pub(crate) fn of(open: impl Fn() -> Option<Box<dyn Watched>> + Send + Sync + 'static) -> Self {
        Source(Arc::new(open))
    }

    pub(crate) fn open(&self) -> Option<Box<dyn Watched>> {
        (self.0)()
    }
}

impl From<Operators> for Source {
    fn from(store: Operators) -> Self {
        Source::of(move || store.open().map(|open| open as Box<dyn Watched>))
    }
}

impl From<&crate::store::Store> for Source {
    fn from(store: &crate::store::Store) -> Self {
        Operators::from(store).into()
    }
}

/// A handle that doesn't keep its store open.
pub(crate) trait Door: Send + Sync {
    fn open(&self) -> Option<Box<dyn Operated>>;
}

/// A store that is watched.
pub(crate) trait Watched: Send + Sync {
    fn timings(&self) -> &Timings;

    /// An error if there is nothing to be watched: in a forked child.
    fn check(&self) -> Result<(), StoreError>;

    /// The figures as they are known without waiting, on any thread.
    fn figures_at_hand(&self) -> Figures;
}

/// A store, as operators know it.
pub(crate) trait Operated: Watched {
    /// What it is called where it has no other name. Without secrets.
    fn place(&self) -> String;

    fn settings(&self) -> Settings;

    /// The figures now; those that take long to find out may be of a moment ago.
    fn figures(&self) -> Figures;

    /// Whether what keeps the store answers; waits for that, and not for figures.
    fn answers(&self) -> bool;

    /// The store's time in milliseconds since 1970, as well as it is known here.
    fn now_ms(&self) -> u64;

    /// The hash by which events name a key.
    fn hash(&self, key: KeyRef<'_>) -> u64;

    fn with_hash(&self, hash: u64) -> Result<Option<Entry>, StoreError>;

    fn get(&self, key: KeyRef<'_>) -> Result<Option<Entry>, StoreError>;

    /// The attempt before the one that holds a key, as far as it is known.
    fn earlier(&self, key: KeyRef<'_>) -> Result<Option<Earlier>, StoreError>;

    fn page(&self, asked: &Asked) -> Result<KeysPage, Unanswered>;

    fn resolve_with(
        &self,
        key: KeyRef<'_>,
        resolution: Resolution<'_>,
        options: ResolveOptions<'_>,
    ) -> Result<(), StoreError>;

    /// The decisions that are wanted, newest first.
    fn decisions(&self, asked: &AskedDecisions) -> Result<Vec<Decision>, StoreError>;

    /// Forgets all keys of a scope, and the decisions about them.
    fn erase_scope(&self, scope: &Scope, force: bool) -> Result<Erased, StoreError>;

    /// Grants nothing any more, and waits for those that are held; how many are left. `None` where
    /// a store has no such thing.
    fn drain(&self, at_most: Duration) -> Option<u64>;
}

/// How a store is set.
pub(crate) struct Settings {
    /// `embedded` or `postgres`.
    pub backend: &'static str,
    pub durability: String,
    pub lease_ms: u64,
    pub replay_ms: u64,
    pub remember_ms: u64,
    pub max_response: usize,
    pub max_attempts: u32,
    pub draining: bool,
    pub closed: bool,
    pub can_drain: bool,
}

/// A store's figures.
pub(crate) struct Figures {
    /// Fields that the backend can't say are zero. They are left out where it is not the embedded
    /// store.
    pub stats: Stats,
    /// The scopes with the most undecided keys, where claims are nearly used up.
    pub scopes: ScopesByUse,
    /// Of a store in a table.
    pub table: Option<TableFigures>,
}

/// What only a store in a database's table has.
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(not(feature = "postgres"), allow(dead_code))]
pub(crate) struct TableFigures {
    /// When keys were counted last, in milliseconds since 1970; 0: not yet.
    pub counted_ms: u64,
    /// The database did not answer when it was asked last.
    pub unreachable: bool,
    /// The table with its indexes.
    pub bytes: u64,
    /// Connections that exist, and those of them that are idle.
    pub connections: u64,
    pub connections_idle: u64,
    pub connections_max: u64,
    /// Calls that wait for a connection.
    pub connections_waited_for: u64,
    /// Ends of claims that the server is not known to have.
    pub ends_under_way: u64,
    /// Rows that this process has removed, and of how many it has put the removal off.
    pub swept: u64,
    pub postponed: u64,
}

/// An attempt that was interrupted, and whose key was taken over.
pub(crate) struct Earlier {
    /// Its number, where that is known.
    pub attempt: u32,
    pub reason: Reason,
    /// When it was interrupted, in milliseconds since 1970.
    pub at_ms: u64,
    /// The answer that its failed holder had left.
    pub answer: Option<Vec<u8>>,
}

/// Which keys are asked for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub filter: Filter,
    pub scope: Option<Scope>,
    pub prefix: Vec<u8>,
    pub older_than: Duration,
    /// Why a key is interrupted, as it is shown.
    pub reason: Option<String>,
    pub limit: usize,
    /// Where an earlier page has ended.
    pub cursor: Option<String>,
}

impl Asked {
    /// Whether a key is wanted, whatever its state.
    pub fn has(&self, entry: &Entry, now_ms: u64) -> bool {
        self.scope.as_ref().is_none_or(|scope| entry.key.scope() == scope.as_bytes())
            && entry.key.key().starts_with(&self.prefix)
            && age(entry, now_ms) >= self.older_than
            && self.reason.as_ref().is_none_or(|wanted| match &entry.state {
                State::Interrupted { reason, .. } => reason.to_string() == *wanted,
                _ => false,
            })
    }
}

/// Keys: undecided ones by age, oldest first; completed ones in an order of the store's own.
#[derive(Clone, Debug)]
pub(crate) struct KeysPage {
    pub entries: Vec<Entry>,
    /// How many there are in all, where that is known.
    pub total: Option<u64>,
    /// Where the next page begins.
    pub next: Option<String>,
    /// Records that don't read back.
    pub damaged: u64,
    /// The time by which they have their ages.
    pub now_ms: u64,
}

/// Why there is no page.
pub(crate) enum Unanswered {
    /// The cursor is none of this store's.
    Cursor,
    Store(StoreError),
}

impl From<StoreError> for Unanswered {
    fn from(error: StoreError) -> Self {
        Unanswered::Store(error)
    }
}

/// Which decisions are asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct AskedDecisions {
    pub scope: Option<Scope>,
    pub key: Option<Vec<u8>>,
    pub prefix: Vec<u8>,
    /// Only those with smaller numbers.
    pub before: Option<u64>,
    pub limit: usize,
}

impl AskedDecisions {
    pub fn has(&self, number: u64, key: &OwnedKey) -> bool {
        self.before.is_none_or(|before| number < before)
            && self.scope.as_ref().is_none_or(|scope| key.scope() == scope.as_bytes())
            && self.key.as_ref().is_none_or(|wanted| key.key() == wanted)
            && key.key().starts_with(&self.prefix)
    }
}

/// How long the key has been in its state.
pub(crate) fn age(entry: &Entry, now_ms: u64) -> Duration {
    let since = |at| Duration::from_millis(now_ms.saturating_sub(at));
    match &entry.state {
        State::InFlight { running_for, .. } => *running_for,
        State::Interrupted { at, .. } => since(*at),
        State::Completed(record) => since(record.completed_at()),
    }
}
