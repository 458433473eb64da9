//! Connections: found among the hosts of a cluster, checked, kept in a pool, and given up rather
//! than cancelled.
//!
//! A statement is never cancelled on the server: a commit whose wait for the standbys is cancelled
//! stays, visible to others, on a server that may be lost. A connection that takes too long is
//! closed instead, and the statement is repeated on another one.

use super::{
    crowd::LOCK_FIRST,
    options::{Hosts, PostgresOptions, Replication},
    trouble::DbError,
};
use crate::error::OpenError;
use deadpool::managed::{self, Metrics, Object, PoolError, RecycleError, RecycleResult, Timeouts};
use deadpool_postgres::ClientWrapper;
use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    task::AbortHandle,
    time::{Instant, timeout, timeout_at},
};
use tokio_postgres::{AsyncMessage, NoTls, SimpleQueryMessage, tls::MakeTlsConnect};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Called with each notification's payload.
pub(super) type Heard = Arc<dyn Fn(&str) + Send + Sync>;

/// The query for a server's settings of replication, and for what tells sessions apart.
const SETTINGS: &str = "SELECT current_setting('synchronous_standby_names'), \
    current_setting('synchronous_commit'), pg_is_in_recovery(), pg_backend_pid(), \
    current_setting('onlyonce.session', true), \
    EXISTS (SELECT FROM pg_prepared_statements WHERE from_sql)";
/// Ends all that a caller's statements can have left in a session, but for the statements that the
/// driver has prepared.
const RESET: &str = "CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ROLE; RESET ALL; \
    UNLISTEN *; SELECT pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES; ";
/// The place in the server from which it warns that a commit does not wait for the standbys any
/// longer. The text of the warning is translated, and its code can be a general one.
const WAIT_CANCELLED: &str = "SyncRepWaitForLSN";
/// How long a check of a connection's server is relied on.
const BELIEVED: Duration = Duration::from_secs(5);

/// Makes connections to the host that accepts writes.
pub(super) struct Sessions {
    hosts: Hosts,
    replication: Replication,
    setup: String,
    connect_timeout: Duration,
    /// The host to try first.
    first: AtomicUsize,
    /// A connection was found not to be one session, or may not be one: none is made until that is
    /// refuted.
    pooled: AtomicBool,
}

/// A connection, and what its server has said beside its answers.
pub(super) struct Session {
    client: ClientWrapper,
    /// A random name, which the server keeps for the session.
    mark: String,
    /// The server's process.
    pid: AtomicI32,
    /// A commit has not waited for the standbys to the end.
    unsynced: Arc<AtomicBool>,
    driver: AbortHandle,
}

impl Session {
    /// Whether a commit since the last call of this was made without waiting for the standbys to
    /// the end, because the wait was cancelled. The server reports such a commit as a success.
    pub fn take_unsynced(&self) -> bool {
        self.unsynced.load(Ordering::SeqCst) && self.unsynced.swap(false, Ordering::SeqCst)
    }

    /// Ends the connection under a statement that may be running on it.
    pub fn cut(&self) -> AbortHandle {
        self.driver.clone()
    }
}

impl Deref for Session {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        &self.client
    }
}

impl Sessions {
    pub fn new(options: &PostgresOptions) -> Result<Self, OpenError> {
        // Whatever a single server's setting is: what is acknowledged is on its disk.
        let commit = match options.replication {
            Replication::SingleServer => {
                "SELECT set_config('synchronous_commit', 'on', false) \
                 WHERE current_setting('synchronous_commit') = 'off'; "
            }
            Replication::Replicated => "",
        };
        let setup = format!(
            "SET lock_timeout = {}; SET statement_timeout = 0; {commit}\
             SET default_transaction_isolation = 'read committed'; ",
            options.lock_timeout.min(LOCK_FIRST).as_millis()
        );
        Ok(Sessions {
            hosts: options.check()?,
            replication: options.replication,
            setup,
            connect_timeout: options.connect_timeout,
            first: AtomicUsize::new(0),
            pooled: AtomicBool::new(false),
        })
    }

    /// The hosts, for messages.
    pub fn place(&self) -> &str {
        &self.hosts.place
    }

    /// A connection to the first host that accepts writes and replicates as declared.
    pub async fn connect(&self) -> Result<Session, DbError> {
        self.connect_and_hear(None).await
    }

    /// The same; `heard` is called with notifications, and once more when the connection ends.
    pub async fn connect_and_hear(&self, heard: Option<Heard>) -> Result<Session, DbError> {
        let first = self.first.load(Ordering::Relaxed);
        let count = self.hosts.hosts.len();
        let mut worst: Option<DbError> = None;
        for i in (first..first + count).map(|i| i % count) {
            let one = self.connect_to(i, heard.clone());
            let trouble = match timeout(self.connect_timeout, one).await {
                Ok(Ok(session)) => {
                    self.first.store(i, Ordering::Relaxed);
                    return Ok(session);
                }
                Ok(Err(trouble)) => trouble,
                Err(_) => DbError::Unreachable("a host did not answer in time".into()),
            };
            // The primary's message is the most useful one, and any message more useful than that
            // another server is silent.
            worst = match worst {
                Some(known) if known.tells() >= trouble.tells() => Some(known),
                _ => Some(trouble),
            };
        }
        Err(worst.expect("there is at least one host"))
    }

    /// A statement was not there that had been prepared, or another one was: perhaps the session was
    /// another one. The next connection is used only if that is refuted.
    pub fn doubt(&self) {
        self.pooled.store(true, Ordering::SeqCst);
    }

    /// A call has failed on the host in use: another one is tried first from now on.
    pub fn suspect(&self) {
        self.suspect_host(self.first.load(Ordering::Relaxed));
    }

    fn suspect_host(&self, first: usize) {
        self.first.store((first + 1) % self.hosts.hosts.len(), Ordering::Relaxed);
    }

    /// A connection as by [`connect`](Self::connect), if connections lead to one session each.
    ///
    /// A pooler that gives a session of the server to one transaction at a time would run the
    /// statements that another client has prepared under the same name, under its settings.
    pub async fn connect_unshared(&self) -> Result<Session, DbError> {
        let (a, b) = (self.connect().await?, self.connect().await?);
        // The second has overwritten the first one's mark if both have the same session.
        self.check_again(&a).await?;
        // Two transactions at a time need two sessions, which are free again in this order: a pool
        // gives the one or the other of them out first.
        let both = async {
            for session in [&a, &b] {
                session.batch_execute("BEGIN").await?;
            }
            for session in [&a, &b] {
                session.batch_execute("COMMIT").await?;
            }
            Ok::<_, tokio_postgres::Error>(())
        };
        match timeout(self.connect_timeout, both).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(DbError::of_connecting(&error)),
            Err(_) => {
                // Nor may a pool of one session keep a second transaction waiting.
                return Err(DbError::Pooled);
            }
        }
        self.check_again(&b).await?;
        self.check_again(&a).await?;
        Ok(a)
    }

    /// Checks that a connection in use is the session that it was, on a server that replicates as
    /// declared: its configuration can change under its connections.
    async fn check_again(&self, session: &Session) -> Result<(), DbError> {
        let checked = timeout(self.connect_timeout, session.simple_query(SETTINGS)).await;
        let answers = checked.map_err(|_| DbError::Unreachable("no answer in time".into()))?;
        let answers = answers.map_err(|error| DbError::of_connecting(&error))?;
        self.check_all(session, answers)
    }

    /// Makes a session in which statements of a caller's have run as it was when it was new; an
    /// error if that can't be done.
    pub async fn reset(&self, session: &Session) -> Result<(), DbError> {
        let Session { mark, .. } = session;
        let reset = format!("{RESET}{}{}", self.setup, marked(mark));
        let answers = session.simple_query(&reset).await;
        let answers = answers.map_err(|error| DbError::of_connecting(&error))?;
        self.check_all(session, answers)
    }

    /// Judges the answer to [`SETTINGS`], the last row that there is.
    fn check_all(
        &self,
        session: &Session,
        answers: Vec<SimpleQueryMessage>,
    ) -> Result<(), DbError> {
        let rows = answers.into_iter().filter_map(|answer| match answer {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let row = rows.last().ok_or_else(|| DbError::Unreachable("no settings".into()))?;
        let column = |i| row.try_get(i).ok().flatten().unwrap_or_default();
        self.check(column(0), column(1), column(2))?;
        let pid = column(3).parse().unwrap_or_default();
        let known = session.pid.load(Ordering::Relaxed);
        if (known != 0 && known != pid) || column(4) != session.mark {
            return Err(DbError::Pooled);
        }
        session.pid.store(pid, Ordering::Relaxed);
        match column(5) {
            "t" => Err(DbError::Again("a caller's prepared statement is left".into())),
            _ => Ok(()),
        }
    }

    async fn connect_to(&self, host: usize, heard: Option<Heard>) -> Result<Session, DbError> {
        let config = &self.hosts.hosts[host];
        let session = match &self.hosts.tls {
            Some(tls) => connect(config, MakeRustlsConnect::new((**tls).clone()), heard).await,
            None => connect(config, NoTls, heard).await,
        };
        let session = session.map_err(|error| DbError::of_connecting(&error))?;
        let setup = format!("{}{}", self.setup, marked(&session.mark));
        let answers = session.simple_query(&setup).await;
        let answers = answers.map_err(|error| DbError::of_connecting(&error))?;
        self.check_all(&session, answers)?;
        Ok(session)
    }

    fn check(&self, standbys: &str, commit: &str, recovery: &str) -> Result<(), DbError> {
        if recovery == "t" {
            return Err(DbError::ReadOnly("the server is a standby".into()));
        }
        if self.replication == Replication::SingleServer {
            return Ok(());
        }
        if standbys.trim().is_empty() {
            let what =
                "synchronous_standby_names is empty: the server's commits wait for no standby";
            return Err(DbError::NotReplicated(what.into()));
        }
        if matches!(commit, "off" | "local") {
            let what = format!("synchronous_commit is {commit}: commits do not wait for standbys");
            return Err(DbError::NotReplicated(what));
        }
        Ok(())
    }
}

/// SQL: sets a session's mark, and reads its settings.
fn marked(mark: &str) -> String {
    format!("SELECT set_config('onlyonce.session', '{mark}', false); {SETTINGS}")
}

/// Connects to one host, and drives the connection on a task of its own.
async fn connect<T>(
    config: &tokio_postgres::Config,
    tls: T,
    heard: Option<Heard>,
) -> Result<Session, tokio_postgres::Error>
where
    T: MakeTlsConnect<tokio_postgres::Socket> + Send,
    T::Stream: Send + 'static,
{
    let (client, mut connection) = config.connect(tls).await?;
    let unsynced = Arc::new(AtomicBool::new(false));
    let seen = unsynced.clone();
    let driver = tokio::spawn(async move {
        loop {
            match std::future::poll_fn(|context| connection.poll_message(context)).await {
                Some(Ok(AsyncMessage::Notification(told))) => {
                    if let Some(heard) = &heard {
                        heard(told.payload());
                    }
                }
                Some(Ok(AsyncMessage::Notice(notice))) => {
                    // It comes before the answer that it is about has ended.
                    if notice.routine() == Some(WAIT_CANCELLED) {
                        seen.store(true, Ordering::SeqCst);
                    }
                    tracing::debug!(%notice, "notice of the server");
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    tracing::debug!(%error, "a connection ended");
                    break;
                }
                None => break,
            }
        }
        if let Some(heard) = &heard {
            heard("");
        }
    });
    let mut random = [0; 8];
    getrandom::fill(&mut random).expect("the system gives random bytes");
    let mark = format!("{:016x}", u64::from_le_bytes(random));
    let (abort, pid) = (driver.abort_handle(), AtomicI32::new(0));
    Ok(Session { client: ClientWrapper::new(client, driver), mark, pid, unsynced, driver: abort })
}

/// Keeps connections for the pool.
pub(super) struct Keeper(Arc<Sessions>);

/// A connection, and when its server was last checked.
pub(super) struct Kept {
    session: Session,
    checked: Instant,
}

impl managed::Manager for Keeper {
    type Type = Kept;
    type Error = DbError;

    async fn create(&self) -> Result<Kept, DbError> {
        // Boxed, like the next one, so that the future of a call that needs neither is small.
        let session = match self.0.pooled.load(Ordering::SeqCst) {
            true => Box::pin(self.0.connect_unshared()).await?,
            false => Box::pin(self.0.connect()).await?,
        };
        self.0.pooled.store(false, Ordering::SeqCst);
        Ok(Kept { session, checked: Instant::now() })
    }

    async fn recycle(&self, kept: &mut Kept, _: &Metrics) -> RecycleResult<DbError> {
        if kept.session.is_closed() {
            return Err(RecycleError::message("closed"));
        }
        if kept.checked.elapsed() > BELIEVED {
            let checked = Box::pin(self.0.check_again(&kept.session)).await;
            if matches!(checked, Err(DbError::Pooled)) {
                self.0.pooled.store(true, Ordering::SeqCst);
            }
            checked.map_err(RecycleError::Backend)?;
            kept.checked = Instant::now();
        }
        Ok(())
    }
}

/// The connections that calls use.
pub(super) struct Pool {
    pub sessions: Arc<Sessions>,
    pool: managed::Pool<Keeper>,
    /// Whether the server is silent is being found out.
    asking: Arc<AtomicBool>,
}

impl Pool {
    pub fn new(sessions: Sessions, connections: usize) -> Self {
        let sessions = Arc::new(sessions);
        let pool = managed::Pool::builder(Keeper(sessions.clone()))
            .max_size(connections)
            .build()
            .expect("without time-outs of its own a pool needs no runtime");
        Pool { sessions, pool, asking: Arc::default() }
    }

    /// A connection, waited for until `until`.
    pub async fn get(&self, until: Instant) -> Result<Borrowed, DbError> {
        let got = timeout_at(until, self.pool.timeout_get(&Timeouts::new())).await;
        match got {
            Ok(Ok(object)) => Ok(Borrowed(Some(object))),
            Ok(Err(PoolError::Backend(trouble))) => Err(trouble),
            Ok(Err(PoolError::Closed)) => Err(DbError::Closed),
            Ok(Err(error)) => Err(DbError::Unreachable(format!("{error:?}"))),
            Err(_) => Err(DbError::Unreachable("no connection was free in time".into())),
        }
    }

    /// A statement had no answer in time. A server that is cut off is silent on all connections,
    /// one that waits (for a standby, a disk) is not: a new connection tells them apart.
    pub fn ask_again(&self) {
        if self.asking.swap(true, Ordering::SeqCst) {
            return;
        }
        let (sessions, pool, asking) =
            (self.sessions.clone(), self.pool.clone(), self.asking.clone());
        tokio::spawn(async move {
            let first = sessions.first.load(Ordering::Relaxed);
            let asked = timeout(sessions.connect_timeout, sessions.connect_to(first, None)).await;
            if !matches!(asked, Ok(Ok(_))) {
                pool.retain(|_, _| false);
                sessions.suspect_host(first);
            }
            asking.store(false, Ordering::SeqCst);
        });
    }

    /// Closes the connections that are not in use: they lead to a server on which a call has
    /// failed, and another one is tried first from now on.
    pub fn forget(&self) {
        self.pool.retain(|_, _| false);
        self.sessions.suspect();
    }

    /// How many connections exist, are idle, and may exist, and how many calls wait for one.
    #[cfg_attr(not(any(feature = "metrics", feature = "admin")), allow(dead_code))]
    pub fn figures(&self) -> [u64; 4] {
        let status = self.pool.status();
        let all = [status.size, status.available, status.max_size, status.waiting];
        all.map(|figure| figure as u64)
    }

    pub fn close(&self) {
        self.pool.close();
    }
}

/// A connection in use. Unless it is given back it is closed when dropped, because a statement may
/// still be running on it.
pub(super) struct Borrowed(Option<Object<Keeper>>);

impl Borrowed {
    /// Gives the connection back: nothing runs on it, and other calls may use it.
    pub fn give_back(mut self) {
        self.0.take();
    }
}

impl Deref for Borrowed {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.0.as_ref().expect("taken only at its end").session
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Some(object) = self.0.take() {
            drop(Object::take(object));
        }
    }
}
