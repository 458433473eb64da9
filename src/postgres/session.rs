//! A session on the server that shows whether a store is alive: while it lasts the store's holders
//! are alive, and when it has ended they are gone.
//!
//! The session holds an advisory lock under a random number of the store, and the store's claims
//! carry that number. A call that finds a claim whose lease has passed tries the lock. If the lock
//! is held, the holder's store is alive. If it is free, that means something only in the *era* in
//! which the session was made: an advisory lock is in one server's memory, so a restart, the crash
//! of any of its processes and a failover end all of them, whether or not the holders are alive.
//! Each session therefore notes its era in a table when it has its lock, and an absent lock means
//! that the holder is gone only while that era lasts. In all other cases it is not known.
//!
//! An era is named by the time of the server's start and the time of the last reset of its
//! statistics: all processes of a server are started again when one of them crashes, without a new
//! time of start, and that recovery resets the statistics. (A reset by an administrator makes more
//! unknown, and nothing wrong.)
//!
//! A store whose session ends makes another one under the same number at once, wherever the
//! writable server is then.

use super::{inner::Inner, pool::Session, trouble::DbError};
use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

/// How often the session is checked. A server that is silent for as long is left.
const BEAT: Duration = Duration::from_secs(5);
/// The longest time that the server keeps a session whose machine is silent.
const SILENT_MS: u32 = 25_000;
/// How long an ended session is remembered: its claims are decided long before.
const REMEMBERED_MS: i64 = 90 * 24 * 3_600_000;
/// Pause before a session that could not be made is tried again.
const PAUSE: Duration = Duration::from_millis(200);

/// The session of one store.
#[derive(Debug)]
pub(super) struct Standing {
    /// The number of its lock: random.
    pub id: i64,
    /// It has its lock, as far as is known.
    held: AtomicBool,
}

impl Standing {
    pub fn new() -> Self {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).expect("the system gives random bytes");
        let id = i64::from_le_bytes(bytes);
        Standing { id, held: AtomicBool::new(false) }
    }

    pub fn is_held(&self) -> bool {
        self.held.load(Ordering::SeqCst)
    }
}

/// SQL: this lock is free. Leaves nothing behind, and writes nothing.
fn is_free(lock: &str) -> String {
    format!(
        "CASE WHEN pg_try_advisory_lock_shared({lock}) \
         THEN pg_advisory_unlock_shared({lock}) ELSE false END"
    )
}

/// SQL: the name of this server's present era.
const ERA: &str = "(SELECT (date_part('epoch', pg_postmaster_start_time()) * 1e6)::bigint || '-' \
    || coalesce((date_part('epoch', stats_reset) * 1e6)::bigint, 0) FROM pg_stat_archiver)";

/// SQL: the session that a claim of this store carries. None while it is lost, so that others don't
/// treat its holders as gone.
pub(super) fn recorded(own: Option<i64>) -> String {
    match own {
        Some(id) => {
            let id = format!("({id})::bigint");
            format!("CASE WHEN {} THEN NULL ELSE {id} END", is_free(&id))
        }
        None => "NULL::bigint".into(),
    }
}

/// SQL: what is known of the holder of row `t`, as `Life::of` reads it. The lock is tried only
/// where it matters: of an undecided key that is held, whose lease has passed.
pub(super) fn life(sessions: &str, now: &str) -> String {
    let free = is_free("t.session");
    format!(
        "CASE WHEN t.session IS NULL OR NOT t.holder OR t.state NOT IN (1, 2) \
             OR (t.state = 1 AND t.lease_until > {now}) THEN 0 \
         WHEN NOT ({free}) THEN 1 \
         WHEN EXISTS (SELECT FROM {sessions} AS s WHERE s.id = t.session AND s.era = {ERA}) THEN 2 \
         ELSE 0 END"
    )
}

/// SQL: notes that a session (`$1`) has its lock in this era.
pub(super) fn register(sessions: &str) -> String {
    format!(
        "INSERT INTO {sessions} (id, era) VALUES ($1, {ERA}) \
         ON CONFLICT (id) DO UPDATE SET era = excluded.era, ended_at = NULL"
    )
}

/// SQL: sessions that have ended are noted, and forgotten much later.
pub(super) fn sweep(sessions: &str, now: &str) -> String {
    let free = is_free("id");
    format!(
        "UPDATE {sessions} SET ended_at = {now} WHERE ended_at IS NULL AND ({free}); \
         DELETE FROM {sessions} WHERE ended_at + {REMEMBERED_MS} <= {now}"
    )
}

/// A session that has its lock, and the signal that its connection has ended.
struct SessionState {
    session: Session,
    pid: i32,
    over: Arc<Notify>,
}

impl Inner {
    /// Makes the store's session, if it is to have one, and keeps it from now on.
    pub async fn start_standing(self: &Arc<Self>) -> Result<(), DbError> {
        let Some(standing) = &self.standing else { return Ok(()) };
        let limit = self.options.deadline;
        let stands = timeout(limit, self.stand(standing.id)).await;
        let stands = stands.map_err(|_| DbError::Unreachable("no session in time".into()))??;
        standing.held.store(true, Ordering::SeqCst);
        let keeping = self.runtime.spawn(keep(Arc::downgrade(self), stands));
        self.tasks.lock().push(keeping.abort_handle());
        Ok(())
    }

    /// A session that has the lock `id`, noted on the server.
    async fn stand(&self, id: i64) -> Result<SessionState, DbError> {
        let over = Arc::new(Notify::new());
        let told = over.clone();
        let heard = move |payload: &str| {
            if payload.is_empty() {
                told.notify_one();
            }
        };
        let session = self.pool.sessions.connect_and_hear(Some(Arc::new(heard))).await?;
        let of = |error: tokio_postgres::Error| DbError::of(&error);
        // An earlier session of this store may still have the lock on a server that has not
        // noticed its end. The next one in the queue gets it in the same moment.
        let setup = format!(
            "SET lock_timeout = {SILENT_MS}; SET tcp_keepalives_idle = 10; \
             SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3; \
             SELECT set_config(name, '0', false) FROM pg_settings \
                 WHERE name IN ('idle_session_timeout', 'idle_in_transaction_session_timeout'); \
             SELECT set_config(name, '{SILENT_MS}', false) FROM pg_settings \
                 WHERE name = 'tcp_user_timeout'; \
             SELECT pg_advisory_lock({id})"
        );
        session.batch_execute(&setup).await.map_err(of)?;
        session.execute(&self.sql.register, &[&id]).await.map_err(of)?;
        let pid = session.query_one("SELECT pg_backend_pid()", &[]).await.map_err(of)?.get(0);
        let stands = SessionState { session, pid, over };
        match stands.has(id).await? {
            true => Ok(stands),
            false => Err(DbError::Pooled),
        }
    }
}

impl SessionState {
    /// Checks that this is still the same session, and has its lock.
    async fn has(&self, id: i64) -> Result<bool, DbError> {
        let has = "SELECT pg_backend_pid() = $2 AND EXISTS (SELECT FROM pg_locks \
            WHERE locktype = 'advisory' AND pid = $2 AND granted AND objsubid = 1 \
            AND classid = ($1::bigint >> 32 & 4294967295)::oid \
            AND objid = ($1::bigint & 4294967295)::oid)";
        let row = self.session.query_one(has, &[&id, &self.pid]).await;
        Ok(row.map_err(|error| DbError::of(&error))?.get(0))
    }
}

/// Checks the session at intervals, and makes another one when it has ended.
async fn keep(inner: Weak<Inner>, mut stands: SessionState) {
    loop {
        if timeout(BEAT, stands.over.notified()).await.is_err() {
            let Some(id) = inner.upgrade().and_then(|inner| Some(inner.standing.as_ref()?.id))
            else {
                return;
            };
            match timeout(BEAT, stands.has(id)).await {
                Ok(Ok(true)) => continue,
                Ok(Ok(false)) => tracing::warn!(why = DbError::Pooled.what(), "session lost"),
                Ok(Err(trouble)) => tracing::warn!(why = trouble.what(), "session lost"),
                Err(_) => tracing::warn!(why = "the server is silent", "session lost"),
            }
        } else {
            tracing::warn!(why = "its connection has ended", "session lost");
        }
        drop(stands);
        let Some(again) = again(&inner).await else { return };
        stands = again;
    }
}

/// Another session after the last one; `None` when the store is no more.
async fn again(inner: &Weak<Inner>) -> Option<SessionState> {
    {
        let inner = inner.upgrade()?;
        let standing = inner.standing.as_ref()?;
        standing.held.store(false, Ordering::SeqCst);
    }
    loop {
        let inner = inner.upgrade()?;
        let standing = inner.standing.as_ref()?;
        let limit = Duration::from_millis(u64::from(SILENT_MS)) + BEAT;
        match timeout(limit, inner.stand(standing.id)).await {
            Ok(Ok(stands)) => {
                standing.held.store(true, Ordering::SeqCst);
                tracing::info!("there is a session again");
                return Some(stands);
            }
            Ok(Err(trouble)) => tracing::debug!(why = trouble.what(), "no session yet"),
            Err(_) => tracing::debug!("no session in time"),
        }
        drop(inner);
        sleep(PAUSE).await;
    }
}
