//! Connections: found among the hosts of a cluster, checked, kept in a pool, and given up rather
//! than cancelled.
//!
//! A statement is never cancelled on the server: a commit whose wait for the standbys is cancelled
//! stays, visible to others, on a server that may be lost. A connection that takes too long is
//! closed instead, and the statement is repeated on another one.

use super::{
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
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::{AsyncMessage, NoTls, SimpleQueryMessage, tls::MakeTlsConnect};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Called with each notification's payload.
pub(super) type Heard = Arc<dyn Fn(&str) + Send + Sync>;

/// The query for a server's settings of replication.
const SETTINGS: &str = "SELECT current_setting('synchronous_standby_names'), \
    current_setting('synchronous_commit'), pg_is_in_recovery()";
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
}

/// A connection.
pub(super) type Session = ClientWrapper;

impl Sessions {
    pub fn new(options: &PostgresOptions) -> Result<Self, OpenError> {
        let setup = format!(
            "SET lock_timeout = {}; SET statement_timeout = 0; \
             SET default_transaction_isolation = 'read committed'; {SETTINGS}",
            options.lock_timeout.as_millis()
        );
        Ok(Sessions {
            hosts: options.check()?,
            replication: options.replication,
            setup,
            connect_timeout: options.connect_timeout,
            first: AtomicUsize::new(0),
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

    /// A call has failed on the host in use: another one is tried first from now on.
    pub fn suspect(&self) {
        let first = self.first.load(Ordering::Relaxed);
        self.first.store((first + 1) % self.hosts.hosts.len(), Ordering::Relaxed);
    }

    /// Checks that a connection in use still leads to a server that replicates as declared, because
    /// its configuration can change under its connections.
    async fn check_again(&self, session: &Session) -> Result<(), DbError> {
        let checked = timeout(self.connect_timeout, session.simple_query(SETTINGS)).await;
        let answers = checked.map_err(|_| DbError::Unreachable("no answer in time".into()))?;
        let answers = answers.map_err(|error| DbError::of_connecting(&error))?;
        self.check_all(answers)
    }

    fn check_all(&self, answers: Vec<SimpleQueryMessage>) -> Result<(), DbError> {
        for answer in answers {
            if let SimpleQueryMessage::Row(row) = answer {
                let column = |i| row.get(i).unwrap_or_default().to_owned();
                self.check(&column(0), &column(1), &column(2))?;
            }
        }
        Ok(())
    }

    async fn connect_to(&self, host: usize, heard: Option<Heard>) -> Result<Session, DbError> {
        let config = &self.hosts.hosts[host];
        let session = match &self.hosts.tls {
            Some(tls) => connect(config, MakeRustlsConnect::new((**tls).clone()), heard).await,
            None => connect(config, NoTls, heard).await,
        };
        let session = session.map_err(|error| DbError::of_connecting(&error))?;
        let answers = session.simple_query(&self.setup).await;
        let answers = answers.map_err(|error| DbError::of_connecting(&error))?;
        self.check_all(answers)?;
        if self.replication == Replication::SingleServer {
            // Whatever the server's setting: what is acknowledged is on its disk.
            let on = "SELECT set_config('synchronous_commit', 'on', false) \
                      WHERE current_setting('synchronous_commit') = 'off'";
            session.batch_execute(on).await.map_err(|error| DbError::of_connecting(&error))?;
        }
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
    let driver = tokio::spawn(async move {
        loop {
            match std::future::poll_fn(|context| connection.poll_message(context)).await {
                Some(Ok(AsyncMessage::Notification(told))) => {
                    if let Some(heard) = &heard {
                        heard(told.payload());
                    }
                }
                Some(Ok(AsyncMessage::Notice(notice))) => {
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
    Ok(ClientWrapper::new(client, driver))
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
        let session = Box::pin(self.0.connect()).await?;
        Ok(Kept { session, checked: Instant::now() })
    }

    async fn recycle(&self, kept: &mut Kept, _: &Metrics) -> RecycleResult<DbError> {
        if kept.session.is_closed() {
            return Err(RecycleError::message("closed"));
        }
        if self.0.replication == Replication::Replicated && kept.checked.elapsed() > BELIEVED {
            let checked = Box::pin(self.0.check_again(&kept.session)).await;
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
}

impl Pool {
    pub fn new(sessions: Sessions, connections: usize) -> Self {
        let sessions = Arc::new(sessions);
        let pool = managed::Pool::builder(Keeper(sessions.clone()))
            .max_size(connections)
            .build()
            .expect("without time-outs of its own a pool needs no runtime");
        Pool { sessions, pool }
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

    /// Closes the connections that are not in use: they lead to a server on which a call has
    /// failed, and another one is tried first from now on.
    pub fn forget(&self) {
        self.pool.retain(|_, _| false);
        self.sessions.suspect();
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
