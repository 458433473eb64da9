//! Rows whose key has long been absent are removed. Nothing depends on it but the table's size.

use super::{inner::Inner, terms::millis, trouble::DbError};
use std::{sync::Arc, time::Duration};
use tokio::time::{sleep, timeout};

/// Rows of one statement, at first and at most. While a transaction stays open the index keeps the
/// entries of all rows that were removed since, and each statement passes over those of its hour: so
/// a backlog is taken in few large ones.
const BATCH: i64 = 2000;
const BATCH_MAX: i64 = 64_000;

/// The result of a sweep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Swept {
    /// Rows removed.
    pub removed: u64,
    /// Rows that are due later than their claim had said (a longer retention, an interruption).
    pub postponed: u64,
}

impl Inner {
    /// Removes what is due; `None` if another store is sweeping.
    pub async fn sweep(&self) -> Result<Option<Swept>, DbError> {
        self.check_open()?;
        // A session of its own: the lock ends with it, however this ends.
        let session = self.pool.sessions.connect().await?;
        let of = |error: tokio_postgres::Error| DbError::of(&error);
        let lock = self.names.lock.wrapping_add(1);
        let locked = session.query_one("SELECT pg_try_advisory_lock($1)", &[&lock]).await;
        if !locked.map_err(of)?.get::<_, bool>(0) {
            return Ok(None);
        }
        let statement = session.prepare(&self.sql.sweep).await.map_err(of)?;
        let mut swept = Swept::default();
        let (mut batch, mut hour) = (BATCH, 0_i32);
        loop {
            let row = session.query_one(&statement, &[&batch, &hour]).await.map_err(of)?;
            let [due, gone, later, stuck] = [0, 1, 2, 3].map(|i| row.get::<_, i64>(i));
            self.counting.swept(stuck as u64);
            swept.removed += gone as u64;
            swept.postponed += later as u64;
            self.counting.removed(gone as u64, later as u64);
            // Rows that other transactions have locked were skipped.
            if due < batch || gone + later == 0 {
                // The server may notice the end of the session only after the next sweep has begun.
                let unlock = format!("; SELECT pg_advisory_unlock({lock})");
                let kept = millis(self.options.decisions_kept);
                // A role of before there were decisions may not.
                if let Err(error) = session.execute(&self.sql.sweep_decisions, &[&kept]).await {
                    tracing::debug!(why = DbError::of(&error).what(), "decisions are kept longer");
                }
                let last = self.sql.sweep_sessions.clone() + &unlock;
                session.batch_execute(&last).await.map_err(of)?;
                return Ok(Some(swept));
            }
            hour = row.get::<_, Option<i32>>(4).unwrap_or(hour);
            batch = (batch * 2).min(BATCH_MAX);
        }
    }

    /// Starts the task that sweeps at intervals.
    pub fn start_sweeping(self: &Arc<Self>) {
        let Some(every) = self.options.sweep_every else { return };
        let inner = self.clone();
        let sweeping = self.runtime.spawn(async move {
            loop {
                sleep(spread(every)).await;
                // A server that hangs must not keep the lock's session for ever.
                match timeout(every.max(Duration::from_secs(60)), inner.sweep()).await {
                    Ok(Ok(Some(swept))) if swept != Swept::default() => {
                        tracing::debug!(swept.removed, swept.postponed, "expired rows removed");
                    }
                    Ok(Ok(_)) => {}
                    Ok(Err(trouble)) => tracing::debug!(why = trouble.what(), "not swept"),
                    Err(_) => tracing::debug!("not swept in time"),
                }
            }
        });
        self.tasks.lock().push(sweeping.abort_handle());
    }
}

/// Between a half and the whole of it, so that many stores don't sweep at the same time.
fn spread(every: Duration) -> Duration {
    let mut random = [0; 4];
    getrandom::fill(&mut random).expect("the system gives random bytes");
    let share = f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX);
    every.mul_f64(0.5 + share / 2.0)
}
