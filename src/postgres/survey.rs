//! The table as a whole, for operators: its keys counted, and page by page.
//!
//! No index knows a key's state, so that no call has to keep one: each of these reads the table. So
//! keys are counted again only when twenty times as long has passed as counting took, and a page that
//! took long is shown again for as long, unless this process has decided about a key meanwhile.

use super::{
    counts::wall_ms,
    inner::Inner,
    operator::{entry, listed_row},
    store::PostgresStore,
    terms::millis,
    tries::Backoff,
    trouble::DbError,
};
use crate::{engine::entries::Entry, error::StoreError, key::OwnedKey};
use parking_lot::Mutex;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// How long counting, or reading a page, may take.
const LIMIT: Duration = Duration::from_secs(60);
/// The part of the time that may be spent on counting.
const SHARE: u32 = 20;
/// A page that was read in less is read again each time.
const QUICK: Duration = Duration::from_millis(250);
/// How many pages are kept.
const PAGES: usize = 16;

/// What was found last.
#[derive(Default)]
pub(super) struct Surveyed {
    last: Mutex<Option<(Instant, Duration, Census)>>,
    /// One at a time counts.
    counting: tokio::sync::Mutex<()>,
    /// Pages that took long, by what was asked.
    pages: Mutex<Vec<Slow>>,
    /// The server did not answer last.
    pub silent: AtomicBool,
}

/// A page that took long.
struct Slow {
    asked: String,
    at: Instant,
    took: Duration,
    found: Found,
}

/// The keys of a table.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Census {
    /// When, by the server's time and by this machine's.
    pub at_ms: u64,
    wall_ms: u64,
    pub in_flight: u64,
    pub interrupted: u64,
    pub completed: u64,
    pub oldest_in_flight_ms: u64,
    pub oldest_interrupted_ms: u64,
    pub exhausted: u64,
    pub bytes: u64,
}

impl Surveyed {
    pub fn last(&self) -> Option<Census> {
        self.last.lock().as_ref().map(|(.., census)| *census)
    }

    /// The server's time, as well as it is known here.
    pub fn now_ms(&self) -> u64 {
        let now = wall_ms();
        match self.last() {
            Some(census) => census.at_ms + now.saturating_sub(census.wall_ms),
            None => now,
        }
    }

    /// Pages are read again: something was decided here.
    pub fn forget_pages(&self) {
        self.pages.lock().clear();
    }

    fn page(&self, asked: &str) -> Option<Found> {
        let mut pages = self.pages.lock();
        pages.retain(|page| page.at.elapsed() < page.took * SHARE);
        pages.iter().find(|page| page.asked == asked).map(|page| page.found.clone())
    }

    fn keep(&self, asked: String, took: Duration, found: &Found) {
        if took < QUICK {
            return;
        }
        let mut pages = self.pages.lock();
        if pages.len() == PAGES {
            pages.remove(0);
        }
        pages.push(Slow { asked, at: Instant::now(), took, found: found.clone() });
    }

    fn is_due(&self) -> bool {
        match &*self.last.lock() {
            Some((at, took, _)) => at.elapsed() >= *took * SHARE,
            None => true,
        }
    }
}

impl Inner {
    /// Counts the keys, if that is due; otherwise finds out whether the server answers.
    pub async fn survey(&self) {
        let surveyed = &self.surveyed;
        // Where nothing is known yet, what another call is finding out is waited for.
        let turn = match surveyed.last() {
            Some(_) => surveyed.counting.try_lock().ok(),
            None => Some(surveyed.counting.lock().await),
        };
        let Some(_turn) = turn.filter(|_| surveyed.is_due()) else {
            self.ask_server().await;
            return;
        };
        let start = Instant::now();
        let counted = self.census().await;
        surveyed.silent.store(counted.is_err(), Ordering::SeqCst);
        match counted {
            Ok(census) => {
                *surveyed.last.lock() = Some((Instant::now(), start.elapsed(), census));
            }
            Err(trouble) => tracing::debug!(why = trouble.what(), "the keys were not counted"),
        }
    }

    /// Whether a server answers.
    pub async fn ask_server(&self) -> bool {
        let answered = self.query(&self.tries(), "SELECT 1", &[]).await;
        self.surveyed.silent.store(answered.is_err(), Ordering::SeqCst);
        answered.is_ok()
    }

    /// Begins to count in the background, if that is due.
    pub fn survey_behind(self: &Arc<Self>) {
        if self.surveyed.is_due() {
            let inner = self.clone();
            self.runtime.spawn(async move { inner.survey().await });
        }
    }

    async fn census(&self) -> Result<Census, DbError> {
        let most = i32::try_from(self.options.max_attempts).unwrap_or(i32::MAX);
        let tries = Backoff::new(LIMIT, LIMIT);
        let rows = self.query(&tries, &self.sql.count, &[&most]).await?;
        let row = rows.first().ok_or_else(|| DbError::Again("no counts".into()))?;
        let number = |at| row.try_get::<_, Option<i64>>(at).ok().flatten();
        let count = |at| number(at).map_or(0, |count| count.max(0) as u64);
        let at_ms = count(0);
        let age = |at| number(at).map_or(0, |since| at_ms.saturating_sub(since.max(0) as u64));
        Ok(Census {
            at_ms,
            wall_ms: wall_ms(),
            in_flight: count(1),
            interrupted: count(2),
            completed: count(3),
            oldest_in_flight_ms: age(4),
            oldest_interrupted_ms: age(5),
            exhausted: count(6),
            bytes: count(7),
        })
    }
}

/// Undecided keys that are wanted.
#[derive(Clone, Debug)]
pub(super) struct Undecided {
    pub scope: Option<Vec<u8>>,
    pub prefix: Vec<u8>,
    /// 1: held, 2: interrupted.
    pub states: Vec<i32>,
    pub older_than: Duration,
    pub reason: Option<i16>,
    pub limit: i64,
    pub from: i64,
}

/// Completed keys that are wanted.
#[derive(Clone, Debug)]
pub(super) struct Completed {
    pub scope: Option<Vec<u8>>,
    pub prefix: Vec<u8>,
    pub older_than: Duration,
    pub limit: i64,
    /// The last one of the page before.
    pub after: Option<OwnedKey>,
}

/// Keys, their number in all, and the server's time.
#[derive(Clone)]
pub(super) struct Found {
    pub entries: Vec<Entry>,
    pub total: u64,
    pub now_ms: u64,
}

impl PostgresStore {
    pub(super) async fn undecided(&self, wanted: Undecided) -> Result<Found, StoreError> {
        let inner = self.inner().clone();
        let found = async move {
            let (w, asked) = (&wanted, format!("{wanted:?}"));
            if let Some(found) = inner.surveyed.page(&asked) {
                return Ok::<_, DbError>(found);
            }
            let start = Instant::now();
            let age = millis(w.older_than);
            let params: [&(dyn tokio_postgres::types::ToSql + Sync); 7] =
                [&w.scope, &w.prefix, &w.states, &age, &w.reason, &w.limit, &w.from];
            let tries = Backoff::new(LIMIT, LIMIT);
            let rows = inner.query(&tries, &inner.sql.undecided, &params).await?;
            let total = rows.first().and_then(|row| row.try_get::<_, i64>(27).ok());
            let found = inner.listed(&rows, total.unwrap_or(0) as u64)?;
            inner.surveyed.keep(asked, start.elapsed(), &found);
            Ok(found)
        };
        self.spawn(found).await.map_err(StoreError::from)
    }

    pub(super) async fn completed(&self, wanted: Completed) -> Result<Found, StoreError> {
        let inner = self.inner().clone();
        let found = async move {
            let Completed { scope, prefix, older_than, limit, after } = wanted;
            let sql = match scope {
                Some(_) => &inner.sql.completed_of,
                None => &inner.sql.completed,
            };
            // The first key after another one is that one and a zero byte.
            let (scope, key) = match after {
                Some(after) => (after.scope().to_vec(), [after.key(), &[0]].concat()),
                None => (scope.unwrap_or_default(), Vec::new()),
            };
            let age = millis(older_than);
            let params: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
                [&scope, &key, &prefix, &age, &limit];
            let rows = inner.query(&Backoff::new(LIMIT, LIMIT), sql, &params).await?;
            inner.listed(&rows, 0)
        };
        self.spawn(found).await.map_err(StoreError::from)
    }
}

impl Inner {
    fn listed(&self, rows: &[tokio_postgres::Row], total: u64) -> Result<Found, DbError> {
        let mut found = Found { entries: Vec::new(), total, now_ms: self.surveyed.now_ms() };
        for listed in rows {
            let (row, key) = listed_row(listed)?;
            found.now_ms = u64::try_from(row.now).unwrap_or(0);
            found.entries.extend(entry(row, key));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_took_long_is_shown_again() {
        let surveyed = Surveyed::default();
        let found = Found { entries: Vec::new(), total: 7, now_ms: 0 };
        surveyed.keep("quick".into(), QUICK / 2, &found);
        assert!(surveyed.page("quick").is_none());
        for n in 0..2 * PAGES {
            surveyed.keep(format!("slow {n}"), Duration::from_secs(3600), &found);
        }
        assert_eq!(surveyed.page(&format!("slow {PAGES}")).map(|found| found.total), Some(7));
        assert!(surveyed.page("slow 0").is_none() && surveyed.page("other").is_none());
        surveyed.forget_pages();
        assert!(surveyed.page(&format!("slow {PAGES}")).is_none());
    }
}
