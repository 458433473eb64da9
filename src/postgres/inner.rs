//! The state that all calls of a store share.

use super::{
    begin::first,
    changes::Changes,
    counts::Counting,
    crowd::{Crowds, hash},
    here::OpenHere,
    keep_alive::KeptAlive,
    options::PostgresOptions,
    pool::Pool,
    schema::Names,
    session::Standing,
    statements::Statements,
    survey::Surveyed,
    tries::Backoff,
    trouble::DbError,
};
use crate::{
    error::BeginError,
    key::{KeyRef, OwnedKey},
    record::Retention,
    spi::{Terms, Ticket},
    sql::{
        keys::Keys,
        row::{Owner, Row},
        terms::GrantTerms,
        unsure::Unsure,
    },
    token::Token,
};
use parking_lot::Mutex;
use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};
use tokio::{
    runtime::Handle,
    sync::{Notify, Semaphore},
    task::AbortHandle,
};

/// How many ends that were tried in vain are tried again at a time.
const ENDS_AT_A_TIME: usize = 2;
/// The number of ends under way beyond which one that was tried in vain is left to its lease.
const ENDS_MAX: u64 = 10_000;

/// A store's connections, statements, waiters and tasks.
pub(super) struct Inner {
    pub options: PostgresOptions,
    pub names: Names,
    pub sql: Statements,
    /// The same table in transactions of others.
    pub keys: Keys,
    pub pool: Pool,
    pub runtime: Handle,
    pub changes: Changes,
    pub kept: KeptAlive,
    pub unsure: Unsure,
    pub crowds: Crowds,
    pub counting: Counting,
    #[cfg_attr(not(any(feature = "metrics", feature = "admin")), allow(dead_code))]
    pub surveyed: Surveyed,
    pub here: Arc<OpenHere>,
    /// Ends that were tried in vain are tried again a few at a time.
    pub ends: Semaphore,
    /// The session that shows that this store is alive.
    pub standing: Option<Standing>,
    closed: AtomicBool,
    /// The number of ends of claims, and of dropped calls, that are still under way.
    ending: AtomicU64,
    ended: Notify,
    /// Tasks that end with the store.
    pub tasks: Mutex<Vec<AbortHandle>>,
}

impl Inner {
    pub fn new(options: &PostgresOptions, pool: Pool) -> Self {
        let names = Names::of(options);
        let standing = options.holder_session.then(Standing::new);
        let own = standing.as_ref().map(|standing| standing.id);
        Inner {
            sql: Statements::new(&names, options, own),
            keys: Keys::of(
                crate::sql::schema::Names::new(Some(&options.schema), &options.table),
                options.bounds(),
                options.dialect(&names.sessions),
            ),
            standing,
            names,
            pool,
            runtime: Handle::current(),
            changes: Changes::default(),
            kept: KeptAlive::default(),
            unsure: Unsure::default(),
            crowds: Crowds::default(),
            counting: Counting::new(),
            surveyed: Surveyed::default(),
            here: Arc::default(),
            ends: Semaphore::new(ENDS_AT_A_TIME),
            closed: AtomicBool::new(false),
            ending: AtomicU64::new(0),
            ended: Notify::new(),
            tasks: Mutex::default(),
            options: options.clone(),
        }
    }

    pub fn check_open(&self) -> Result<(), DbError> {
        match self.closed.load(Ordering::SeqCst) {
            true => Err(DbError::Closed),
            false => Ok(()),
        }
    }

    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.pool.close();
        self.tasks.lock().drain(..).for_each(|task| task.abort());
        self.changes.wake_all();
    }

    /// Runs an end of a claim until its outcome is known, however long the server is away, as long
    /// as the store is open. `one` is one try, within a call's deadline; it returns whether the
    /// outcome is known.
    pub fn end_for_sure<F>(
        self: &Arc<Self>,
        token: Option<Token>,
        one: impl Fn(Arc<Self>) -> F + Send + Sync + 'static,
    ) where
        F: Future<Output = bool> + Send,
    {
        let inner = self.clone();
        self.end_behind(async move {
            if one(inner.clone()).await {
                return;
            }
            // Without a bound a long outage would fill the memory.
            while inner.check_open().is_ok() && inner.ending() <= ENDS_MAX {
                let Ok(_turn) = inner.ends.acquire().await else { break };
                if one(inner.clone()).await {
                    return;
                }
            }
            let token = token.map(Token::get);
            tracing::warn!(
                token,
                "the end of a claim is not known to the server: its lease ends it"
            );
        });
    }

    /// Runs `ending` to its end, although no caller waits for it.
    pub fn end_behind(self: &Arc<Self>, ending: impl Future<Output = ()> + Send + 'static) {
        self.ending.fetch_add(1, Ordering::SeqCst);
        let inner = self.clone();
        self.runtime.spawn(async move {
            ending.await;
            inner.ending.fetch_sub(1, Ordering::SeqCst);
            inner.ended.notify_waiters();
        });
    }

    /// Resolves when no end of a claim is under way.
    pub async fn all_ended(&self) {
        loop {
            let ended = self.ended.notified();
            if self.ending.load(Ordering::SeqCst) == 0 {
                return;
            }
            ended.await;
        }
    }

    /// How many ends of claims are under way.
    pub fn ending(&self) -> u64 {
        self.ending.load(Ordering::SeqCst)
    }

    pub fn resolve(&self, terms: &Terms) -> Result<GrantTerms, BeginError> {
        self.options.bounds().resolve(terms)
    }

    /// Terms with the options where they say nothing.
    pub fn terms_in_force(&self, terms: Terms) -> Result<Terms, BeginError> {
        self.options.bounds().terms_in_force(terms)
    }

    /// How long an interrupted key with this retention is kept.
    pub fn keep_ms(&self, retention: Retention) -> i64 {
        self.options.bounds().keep_ms(retention)
    }

    /// Reads the row of a key.
    pub async fn look(&self, tries: &Backoff, key: KeyRef<'_>) -> Result<Option<Row>, DbError> {
        let rows = self.query(tries, &self.sql.look, &[&key.scope(), &key.key()]).await?;
        first(&rows)
    }

    /// Wakes the waiters for a key that has changed.
    pub fn told(&self, key: &OwnedKey) {
        self.changes.changed(hash(key.as_ref()), self.options.notify);
    }

    /// The claim has ended, or continues without renewals.
    pub fn let_go(&self, ticket: &Ticket) {
        self.kept.remove(ticket.token, Owner::of(ticket));
    }
}
