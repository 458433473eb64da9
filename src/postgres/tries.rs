//! Repeating a call until it has an answer, a permanent error, or no time left.

use super::{
    inner::Inner,
    options::Replication,
    pool::{Borrowed, Session},
    trouble::DbError,
};
use std::time::Duration;
use tokio::time::{Instant, error::Elapsed, sleep, timeout_at};
use tokio_postgres::{error::SqlState, types::ToSql};

/// Parameters of a statement.
pub(super) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// The tries of one call.
pub(super) struct Backoff {
    until: Instant,
    limit: Duration,
    count: u32,
    /// An earlier try may have taken effect.
    pub unknown: bool,
}

impl Backoff {
    pub fn new(deadline: Duration, limit: Duration) -> Self {
        Backoff { until: Instant::now() + deadline, limit, count: 0, unknown: false }
    }

    /// When the call is over.
    pub fn until(&self) -> Instant {
        self.until
    }

    /// When a statement that is sent now is over.
    pub fn this_one(&self) -> Instant {
        self.until.min(Instant::now() + self.limit)
    }

    /// Waits for the next try, longer each time; an error if there is no time for one.
    pub async fn again(&mut self, trouble: DbError) -> Result<(), DbError> {
        self.unknown |= trouble.is_unknown();
        let pause = pause(self.count);
        self.count += 1;
        if !trouble.is_transient() || Instant::now() + pause >= self.until {
            return Err(match trouble {
                DbError::Lost(_) | DbError::Closed => trouble,
                // An earlier try may have taken effect.
                trouble if self.unknown => DbError::Lost(trouble.what()),
                trouble => trouble,
            });
        }
        tracing::debug!(why = trouble.what(), "trying again");
        sleep(pause).await;
        Ok(())
    }
}

/// 10 ms, doubled each time up to 640 ms, of which a half is random, so that calls that failed
/// together don't try again together.
fn pause(count: u32) -> Duration {
    let most = 10_u64 << count.min(6);
    let mut random = [0; 8];
    getrandom::fill(&mut random).expect("the system gives random bytes");
    let random = u64::from_le_bytes(random) % (most * 500);
    Duration::from_micros(most * 500 + random)
}

impl Inner {
    /// The tries of a call that begins now.
    pub fn tries(&self) -> Backoff {
        Backoff::new(self.options.deadline, self.options.statement_limit)
    }

    /// One try of a statement that returns rows, on any connection. Its time starts when it has
    /// one: that all are in use says nothing of the server.
    pub async fn query(
        &self,
        tries: &Backoff,
        sql: &str,
        params: Params<'_>,
    ) -> Result<Vec<tokio_postgres::Row>, DbError> {
        let session = self.session(tries.until()).await?;
        let until = tries.this_one();
        let asked = async {
            let statement = session.prepare_cached(sql).await?;
            session.query(&statement, params).await
        };
        let answered = timeout_at(until, asked).await;
        self.answered(session, answered, until).await
    }

    /// One try of a statement that changes rows; returns how many.
    pub async fn execute(
        &self,
        tries: &Backoff,
        sql: &str,
        params: Params<'_>,
    ) -> Result<u64, DbError> {
        let session = self.session(tries.until()).await?;
        let until = tries.this_one();
        let asked = async {
            let statement = session.prepare_cached(sql).await?;
            session.execute(&statement, params).await
        };
        let answered = timeout_at(until, asked).await;
        self.answered(session, answered, until).await
    }

    /// A connection for a caller that gives it back in order.
    pub async fn session(&self, until: Instant) -> Result<Borrowed, DbError> {
        self.check_open()?;
        self.pool.get(until).await
    }

    /// Judges an answer, also for the connection it came from.
    async fn answered<T>(
        &self,
        session: Borrowed,
        answered: Result<Result<T, tokio_postgres::Error>, Elapsed>,
        until: Instant,
    ) -> Result<T, DbError> {
        match answered {
            Ok(Ok(answer)) => {
                if session.take_unsynced() {
                    self.synced(&session, until).await?;
                }
                session.give_back();
                Ok(answer)
            }
            Ok(Err(error)) => {
                let trouble = DbError::of(&error);
                if matches!(error.code().map(SqlState::code), Some("26000" | "42P05")) {
                    self.pool.sessions.doubt();
                }
                match &trouble {
                    trouble if trouble.leaves_connection() => session.give_back(),
                    // It has become a standby: the pool's other connections lead there too.
                    DbError::ReadOnly(_) => self.pool.forget(),
                    _ => {}
                }
                Err(trouble)
            }
            Err(_) => {
                self.pool.ask_again();
                Err(DbError::Lost("the server did not answer in time".into()))
            }
        }
    }

    /// Waits, on a cluster that replicates, until the standbys have everything that was committed
    /// so far: the wait of a commit was cancelled, which the server reports as a success.
    pub async fn synced(&self, session: &Session, until: Instant) -> Result<(), DbError> {
        if self.options.replication != Replication::Replicated {
            return Ok(());
        }
        loop {
            match timeout_at(until, session.batch_execute(BARRIER)).await {
                Ok(Ok(())) if session.take_unsynced() => {}
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => return Err(DbError::Lost(DbError::of(&error).what())),
                Err(_) => {
                    let what = "its wait for the standbys was cancelled, and they don't answer";
                    return Err(DbError::Lost(what.into()));
                }
            }
        }
    }

    /// Before a call is answered by what it finds of its own earlier try, whose outcome was unknown:
    /// that may be a commit whose wait for the standbys has been ended, and that none of them has.
    pub async fn confirm(&self, tries: &mut Backoff) -> Result<(), DbError> {
        if tries.unknown && self.options.replication == Replication::Replicated {
            while let Err(trouble) = self.execute(tries, BARRIER, &[]).await {
                tries.again(trouble).await?;
            }
        }
        Ok(())
    }
}

/// A commit that waits for the quorum, and so for all commits before it.
const BARRIER: &str = "SELECT pg_logical_emit_message(true, 'onlyonce', '')";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_stay_bounded() {
        for count in [0, 3, 6, 60] {
            let most = Duration::from_millis(10 << count.min(6));
            for _ in 0..100 {
                assert!((most / 2..=most).contains(&pause(count)));
            }
        }
    }
}
