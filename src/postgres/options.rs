//! The options of a store on a cluster: how to reach it, and the terms of its claims.

use super::{tls::Tls, trouble::spelled};
use crate::{
    error::OpenError,
    limits::{LEASE_MAX_MS, RESPONSE_BYTES_MAX, RETENTION_MAX_MS},
    options::{check_retention, lease_out_of_bounds},
    record::Retention,
    sql::{dialect::Dialect, terms::Bounds},
};
use std::{sync::Arc, time::Duration};
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

/// How the cluster replicates. There is no default, because it decides what survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replication {
    /// A commit waits for standbys (`synchronous_standby_names` is set, and `synchronous_commit`
    /// is neither `off` nor `local`): nothing acknowledged is lost with the primary. A server that
    /// doesn't do so is refused, at the start and after each failover.
    Replicated,
    /// One server. What it has acknowledged survives its crash and a loss of power, as far as its
    /// own settings say, and is lost with its disk; a failover to an asynchronous standby can lose
    /// records and grant keys twice.
    SingleServer,
}

impl Replication {
    /// SQL: this transaction's commit is as durable as promised, whatever was set in it before.
    pub(super) fn raise_commit(self) -> &'static str {
        match self {
            Replication::Replicated => {
                "SELECT set_config('synchronous_commit', 'on', true) \
                 WHERE current_setting('synchronous_commit') IN ('off', 'local')"
            }
            Replication::SingleServer => {
                "SELECT set_config('synchronous_commit', 'on', true) \
                 WHERE current_setting('synchronous_commit') = 'off'"
            }
        }
    }
}

/// The options with which a store on a PostgreSQL cluster is opened. Tested with PostgreSQL 15.
///
/// ```no_run
/// # async fn open() -> Result<(), onlyonce::OpenError> {
/// use onlyonce::postgres::{PostgresOptions, Replication};
/// let options = PostgresOptions::new(
///     "host=db1,db2,db3 user=shop dbname=shop sslmode=require",
///     Replication::Replicated,
/// )
/// .tls_roots(std::fs::read("/etc/ssl/cluster-ca.pem").expect("the authority's certificate"));
/// options.migrate().await?;
/// let store = options.connect().await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use]
pub struct PostgresOptions {
    pub(super) dsn: String,
    pub(super) replication: Replication,
    pub(super) schema: String,
    pub(super) table: String,
    pub(super) tls: Option<Arc<rustls::ClientConfig>>,
    pub(super) tls_roots: Option<Vec<u8>>,
    pub(super) connections: usize,
    pub(super) connect_timeout: Duration,
    pub(super) statement_limit: Duration,
    pub(super) deadline: Duration,
    pub(super) lock_timeout: Duration,
    pub(super) lease: Duration,
    pub(super) retention: Retention,
    pub(super) interrupted_retention: Option<Duration>,
    pub(super) decisions_kept: Duration,
    pub(super) execution_limit: Duration,
    pub(super) max_attempts: u32,
    pub(super) max_response: usize,
    pub(super) strict_read: bool,
    pub(super) notify: bool,
    pub(super) holder_session: bool,
    pub(super) sweep_every: Option<Duration>,
    pub(super) clock_us: String,
}

impl PostgresOptions {
    /// Makes the options of a store at `dsn`, a connection string in libpq's form (`host=a,b
    /// port=5432 user=… dbname=…`) or as a URL, with all hosts of the cluster: the one that accepts
    /// writes is found. The other defaults are named at each method.
    ///
    /// An unknown parameter, or an unknown `sslmode`, is refused. Used are `host`, `hostaddr`,
    /// `port`, `user`, `password`, `dbname`, `options`, `application_name`, `sslmode`,
    /// `sslnegotiation` and `channel_binding`. Other parameters, such as `connect_timeout`,
    /// `keepalives` and `target_session_attrs`, have no effect: the store sets them itself.
    pub fn new(dsn: impl Into<String>, replication: Replication) -> Self {
        PostgresOptions {
            dsn: dsn.into(),
            replication,
            schema: "public".into(),
            table: "onlyonce".into(),
            tls: None,
            tls_roots: None,
            connections: 16,
            connect_timeout: Duration::from_secs(2),
            statement_limit: Duration::from_secs(3),
            deadline: Duration::from_secs(10),
            lock_timeout: Duration::from_millis(500),
            lease: Duration::from_secs(60),
            retention: Retention::of(Duration::from_secs(24 * 3600)),
            interrupted_retention: None,
            decisions_kept: Duration::from_secs(366 * 24 * 3600),
            execution_limit: Duration::from_secs(15 * 60),
            max_attempts: 5,
            max_response: 256 << 10,
            strict_read: false,
            notify: true,
            holder_session: false,
            sweep_every: Some(Duration::from_secs(60)),
            clock_us: "(date_part('epoch', clock_timestamp()) * 1e6)::bigint".into(),
        }
    }

    /// Sets the schema that holds the table; it must exist. Default: `public`.
    pub fn schema(mut self, name: impl Into<String>) -> Self {
        self.schema = name.into();
        self
    }

    /// Sets the table's name, at most 48 bytes. Names that begin with it are used for its index and
    /// for the tables of its version and its sessions. Default: `onlyonce`.
    pub fn table(mut self, name: impl Into<String>) -> Self {
        self.table = name.into();
        self
    }

    /// Sets the TLS of connections. It is required then, unless the connection string says
    /// otherwise: with `sslmode=prefer` a server that offers none gets the password all the same,
    /// with `disable` there is none. Without this and [`tls_roots`](Self::tls_roots) there is no TLS,
    /// and `require` and `verify-full` are refused.
    pub fn tls(mut self, config: impl Into<Tls>) -> Self {
        self.tls = Some(config.into().0);
        self
    }

    /// Sets TLS that accepts servers certified by one of these authorities (PEM), under the name in
    /// the connection string.
    ///
    /// Its cryptography is the process's: the provider that `rustls` has as its default when the
    /// store is opened (`CryptoProvider::install_default`). If there is none, it is that of the
    /// crate's feature `ring`; without that feature too, opening is refused with
    /// [`OpenError::Options`].
    pub fn tls_roots(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.tls_roots = Some(pem.into());
        self
    }

    /// Sets how many connections calls may use at a time, at least 1. Listening for changes, the
    /// sweeper and the [holders' session](Self::holder_session) use one more each. Default: 16.
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// Sets how long one host may take to accept a connection. Default: 2 s.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// Sets how long one try of a statement may take before its connection is given up and the
    /// statement is repeated on another one. Default: 3 s; more than
    /// [`lock_timeout`](Self::lock_timeout).
    pub fn statement_limit(mut self, limit: Duration) -> Self {
        self.statement_limit = limit;
        self
    }

    /// Sets how long a call is repeated, failovers included, before it returns `Unavailable`.
    /// Default: 10 s; at least the statement limit.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sets how long a `begin` waits for another transaction that has locked the key before it
    /// returns "in flight". Default: 500 ms; at least 1 ms.
    pub fn lock_timeout(mut self, limit: Duration) -> Self {
        self.lock_timeout = limit;
        self
    }

    /// Sets how long a holder may be silent. Default: 60 s; 1 ms to 30 days.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// Sets how long completed records are kept. Default: 24 h for both windows; at least the
    /// lease, at most ten years. Rows are removed one to two hours after they have expired, rows of
    /// released claims when the claim's retention has passed.
    pub fn retention(mut self, retention: impl Into<Retention>) -> Self {
        self.retention = retention.into();
        self
    }

    /// Sets how long an interrupted key is kept for a decision, after which it is forgotten and a
    /// retry executes again. Default: the longer of the claim's retention and seven days; 1 ms to
    /// ten years.
    pub fn interrupted_retention(mut self, window: Duration) -> Self {
        self.interrupted_retention = Some(window);
        self
    }

    /// Sets how long operators' decisions are kept
    /// ([`decisions`](super::PostgresStore::decisions)): a time of their own, whatever becomes of
    /// their keys.
    /// Default: 366 days; at most ten years; zero: they are not shown, and the sweeper removes them.
    pub fn decisions_kept(mut self, window: Duration) -> Self {
        self.decisions_kept = window;
        self
    }

    /// Sets how long `once` and the HTTP layer keep a claim alive by themselves. Default: 15 min;
    /// from the lease to 30 days. With [`TransactionStore`](super::TransactionStore) also how long a
    /// transaction may stay open.
    pub fn execution_limit(mut self, limit: Duration) -> Self {
        self.execution_limit = limit;
        self
    }

    /// Sets how many attempts at one key `take_over` grants, the first included. Default: 5; at
    /// least 1.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// Sets the size of the largest response in bytes, head included. Default: 256 KiB; at most
    /// [`RESPONSE_BYTES_MAX`], as with an embedded store.
    pub fn max_response(mut self, bytes: usize) -> Self {
        self.max_response = bytes;
        self
    }

    /// Sets whether answers that were read (replays above all) wait until a quorum of standbys has
    /// everything that was seen. Without it a commit whose wait for the standbys was ended on the
    /// server (by an administrator, by a restart, by the death of the server's first process) can
    /// be seen, answered from, and then be lost with the primary. Costs a commit for each answer.
    /// Default: false.
    pub fn strict_read(mut self, strict: bool) -> Self {
        self.strict_read = strict;
        self
    }

    /// Sets whether other processes that wait for a key are notified when it has changed, by
    /// `NOTIFY`, in batches. Without it (also behind a connection pooler) they ask again at
    /// intervals. Default: true.
    pub fn notify(mut self, notify: bool) -> Self {
        self.notify = notify;
        self
    }

    /// Sets whether the store keeps one more connection, whose session stands for it: as long as
    /// the session lasts the store's holders are known to be alive, and when it has ended they are
    /// known to be gone. A claim whose lease has passed is then `holder_gone`, so that `settle`,
    /// `resume` and the HTTP layer continue with it by themselves; and a key is not forgotten while
    /// its holder's store is alive.
    ///
    /// The end of a session is no proof that the process has stopped: a process that is cut off
    /// from the server may still be working, until its lease passes unnoticed, and after that
    /// beside another holder. The store refuses everything that it writes there, but nothing that
    /// it does elsewhere. After a restart or a failover it is not known which holders are alive
    /// until they have reconnected, and "not known" is never treated as "gone". `docs/backends.md`
    /// has the cases.
    ///
    /// Set it in every process that claims. It needs a connection of its own to the server: a
    /// pooler in between that shares connections makes `connect` fail, or the session is lost when
    /// the pooler is noticed. Default: false.
    pub fn holder_session(mut self, keep: bool) -> Self {
        self.holder_session = keep;
        self
    }

    /// Sets how often this store tries to become the one that removes expired rows; `None`: never.
    /// Default: every 60 s.
    pub fn sweep_every(mut self, every: Option<Duration>) -> Self {
        self.sweep_every = every;
        self
    }

    /// Sets the source of time: an SQL expression in microseconds since 1970. For tests.
    #[doc(hidden)]
    pub fn clock_us(mut self, expression: impl Into<String>) -> Self {
        self.clock_us = expression.into();
        self
    }

    /// Returns the statements that create the tables under the chosen names.
    pub fn schema_sql(&self) -> String {
        super::schema::Names::of(self).create()
    }

    /// Checks the options against each other, and takes the connection string apart.
    pub(super) fn check(&self) -> Result<Hosts, OpenError> {
        let ms = |d: Duration| d.as_millis().min(u128::from(u64::MAX)) as u64;
        let lease = ms(self.lease);
        if !(1..=LEASE_MAX_MS).contains(&lease) {
            return Err(OpenError::options(lease_out_of_bounds(self.lease)));
        }
        check_retention(self.retention, lease).map_err(OpenError::options)?;
        if let Some(window) = self.interrupted_retention
            && !(1..=RETENTION_MAX_MS).contains(&ms(window))
        {
            return Err(OpenError::options("interrupted_retention must be 1 ms to ten years"));
        }
        if ms(self.decisions_kept) > RETENTION_MAX_MS {
            return Err(OpenError::options("decisions_kept must be at most ten years"));
        }
        if self.execution_limit < self.lease || ms(self.execution_limit) > LEASE_MAX_MS {
            return Err(OpenError::options("execution_limit must be from the lease to 30 days"));
        }
        if self.max_attempts == 0 || self.connections == 0 {
            return Err(OpenError::options("max_attempts and connections must be 1 or more"));
        }
        if self.max_response > RESPONSE_BYTES_MAX {
            return Err(OpenError::options(format!(
                "max_response must be at most {RESPONSE_BYTES_MAX} bytes (RESPONSE_BYTES_MAX), a \
                 little less than 16 MiB",
            )));
        }
        if self.lock_timeout < Duration::from_millis(1)
            || self.lock_timeout >= self.statement_limit
            || self.statement_limit > self.deadline
        {
            return Err(OpenError::options(
                "lock_timeout must be 1 ms or more and less than statement_limit, which must be \
                 at most the deadline",
            ));
        }
        if self.sweep_every.is_some_and(|every| every < Duration::from_millis(1)) {
            return Err(OpenError::options("sweep_every must be 1 ms or more"));
        }
        for name in [&self.schema, &self.table] {
            if name.is_empty() || name.len() > 48 || name.contains('\0') {
                return Err(OpenError::options("schema and table have 1 to 48 bytes"));
            }
        }
        self.hosts()
    }

    fn hosts(&self) -> Result<Hosts, OpenError> {
        let given = sslmode(&self.dsn);
        let dsn = match given {
            None | Some("disable" | "prefer" | "require") => self.dsn.clone(),
            // The name in the certificate is checked whenever there is TLS.
            Some(mode @ "verify-full") => {
                let at = mode.as_ptr() as usize - self.dsn.as_ptr() as usize;
                format!("{}require{}", &self.dsn[..at], &self.dsn[at + mode.len()..])
            }
            Some(mode) => {
                return Err(OpenError::options(format!(
                    "the connection string: sslmode={mode} is not offered; there are disable, \
                     prefer, require and verify-full (with TLS the server's certificate and name \
                     are always checked)"
                )));
            }
        };
        let whole: tokio_postgres::Config = dsn.parse().map_err(|error| {
            OpenError::options(format!("the connection string: {}", spelled(&error)))
        })?;
        let (names, addresses) = (whole.get_hosts(), whole.get_hostaddrs());
        let count = names.len().max(addresses.len());
        if count == 0 || (!names.is_empty() && !addresses.is_empty() && names.len() != count) {
            return Err(OpenError::options("the connection string must name its hosts"));
        }
        let ports = whole.get_ports();
        if ports.len() > 1 && ports.len() != count {
            return Err(OpenError::options("the connection string must give one port, or each"));
        }
        let tls = self.tls_config()?;
        let mode = match (&tls, whole.get_ssl_mode()) {
            (None, SslMode::Require) => {
                let what = "sslmode=require and verify-full need tls or tls_roots";
                return Err(OpenError::options(what));
            }
            (None, _) => SslMode::Disable,
            // Without TLS any machine on the way could answer as the server, and be given the
            // password.
            (Some(_), _) if given.is_none() => SslMode::Require,
            (Some(_), mode) => mode,
        };
        let mut place = String::new();
        let hosts = (0..count).map(|i| {
            let mut one = tokio_postgres::Config::new();
            let port = *ports.get(i).or(ports.first()).unwrap_or(&5432);
            one.port(port);
            let name = match names.get(i) {
                #[cfg(unix)]
                Some(Host::Unix(path)) => {
                    one.host_path(path);
                    path.display().to_string()
                }
                Some(Host::Tcp(name)) => {
                    one.host(name);
                    name.clone()
                }
                None => addresses[i].to_string(),
            };
            if let Some(address) = addresses.get(i) {
                one.hostaddr(*address);
            }
            place += &format!("{}{name}:{port}", if i == 0 { "" } else { "," });
            if let Some(user) = whole.get_user() {
                one.user(user);
            }
            if let Some(password) = whole.get_password() {
                one.password(password);
            }
            if let Some(dbname) = whole.get_dbname() {
                one.dbname(dbname);
            }
            if let Some(options) = whole.get_options() {
                one.options(options);
            }
            one.application_name(whole.get_application_name().unwrap_or("onlyonce"));
            one.ssl_mode(mode);
            one.ssl_negotiation(whole.get_ssl_negotiation());
            one.channel_binding(whole.get_channel_binding());
            one.keepalives_idle(Duration::from_secs(30));
            one.target_session_attrs(TargetSessionAttrs::ReadWrite);
            one
        });
        let hosts = hosts.collect();
        Ok(Hosts { hosts, place, tls })
    }

    fn tls_config(&self) -> Result<Option<Arc<rustls::ClientConfig>>, OpenError> {
        let Some(pem) = &self.tls_roots else {
            return Ok(self.tls.clone());
        };
        use rustls::{
            crypto::CryptoProvider,
            pki_types::{CertificateDer, pem::PemObject},
        };
        let bad = |error: &dyn std::fmt::Display| OpenError::options(format!("tls_roots: {error}"));
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| bad(&error))?;
            roots.add(certificate).map_err(|error| bad(&error))?;
        }
        if roots.is_empty() {
            return Err(bad(&"no certificate in it"));
        }
        let provider = provider(CryptoProvider::get_default()).map_err(|error| bad(&error))?;
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| bad(&error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Some(Arc::new(config)))
    }
}

impl PostgresOptions {
    /// The terms of claims.
    pub(super) fn bounds(&self) -> Bounds {
        Bounds {
            lease: self.lease,
            retention: self.retention,
            interrupted_retention: self.interrupted_retention,
            max_attempts: self.max_attempts,
            max_response: self.max_response,
        }
    }

    /// How statements in transactions of others are written.
    pub(super) fn dialect(&self, sessions: &str) -> Dialect {
        let raised = match self.replication {
            Replication::Replicated => "'off', 'local'",
            Replication::SingleServer => "'off'",
        };
        let mut dialect = Dialect::postgres(&self.clock_us, Some(self.lock_timeout), raised);
        let now = dialect.now();
        dialect.life = super::session::life(sessions, &now);
        dialect
    }
}

impl std::fmt::Debug for PostgresOptions {
    /// Leaves the connection string out, which may contain a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresOptions")
            .field("replication", &self.replication)
            .field("schema", &self.schema)
            .field("table", &self.table)
            .finish_non_exhaustive()
    }
}

/// The process's choice of cryptography; the crate's own only if asked for by a feature, because a
/// second provider in a process makes `rustls` refuse to choose for the process's other parts.
fn provider(
    installed: Option<&Arc<rustls::crypto::CryptoProvider>>,
) -> Result<Arc<rustls::crypto::CryptoProvider>, &'static str> {
    if let Some(installed) = installed {
        return Ok(installed.clone());
    }
    #[cfg(feature = "ring")]
    return Ok(Arc::new(rustls::crypto::ring::default_provider()));
    #[cfg(not(feature = "ring"))]
    Err("the process has no provider of cryptography for TLS: install one at its start \
         (rustls::crypto::CryptoProvider::install_default), or pass a whole configuration by \
         PostgresOptions::tls, or build onlyonce with its feature `ring`")
}

/// The `sslmode` in a connection string.
fn sslmode(dsn: &str) -> Option<&str> {
    const NAME: &str = "sslmode";
    if dsn.starts_with("postgres://") || dsn.starts_with("postgresql://") {
        let (_, query) = dsn.split_once('?')?;
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        return pairs.find(|(name, _)| *name == NAME).map(|(_, value)| value);
    }
    // Words with an equals sign between them, and values in quotes, in which a backslash hides the
    // next character.
    let mut rest = dsn;
    loop {
        let (name, after) = rest.split_once('=')?;
        let value = after.trim_start();
        let quoted = value.starts_with('\'');
        let (mut end, mut hidden) = (value.len(), false);
        for (i, c) in value.char_indices().skip(usize::from(quoted)) {
            match c {
                _ if hidden => hidden = false,
                '\\' => hidden = true,
                '\'' if quoted => {
                    end = i;
                    break;
                }
                c if !quoted && c.is_whitespace() => {
                    end = i;
                    break;
                }
                _ => {}
            }
        }
        if name.trim() == NAME {
            return Some(&value[usize::from(quoted)..end]);
        }
        rest = value.get(end + usize::from(quoted)..)?;
    }
}

/// The hosts of a cluster, each as a configuration of its own.
#[derive(Clone)]
pub(super) struct Hosts {
    pub hosts: Vec<tokio_postgres::Config>,
    /// Their names, without secrets.
    pub place: String,
    pub tls: Option<Arc<rustls::ClientConfig>>,
}

#[cfg(test)]
mod tests {
    use super::{provider, sslmode};

    #[test]
    #[cfg(feature = "ring")]
    fn an_installed_provider_comes_before_the_own_one() {
        let own = provider(None).unwrap();
        let installed = std::sync::Arc::new(own.as_ref().clone());
        let taken = provider(Some(&installed)).unwrap();
        assert!(std::sync::Arc::ptr_eq(&taken, &installed));
    }

    #[test]
    #[cfg(not(feature = "ring"))]
    fn without_a_provider_the_error_says_what_to_do() {
        let error = provider(None).unwrap_err();
        assert!(error.contains("install_default") && error.contains("`ring`"), "{error}");
    }

    #[test]
    fn the_mode_is_found_where_it_is_one() {
        for (dsn, mode) in [
            ("host=a sslmode=require user=b", Some("require")),
            ("host=a sslmode = 'verify-full'", Some("verify-full")),
            ("host=a password='x sslmode=disable' user=b", None),
            ("password='it\\'s sslmode=disable' sslmode=prefer", Some("prefer")),
            ("password=sslmode sslmode=prefer", Some("prefer")),
            ("postgres://u:p@h/db?sslmode=require", Some("require")),
            ("postgresql://u:sslmode=disable@h/db?x=1&sslmode=prefer", Some("prefer")),
            ("postgres://u:p@h/db", None),
            ("host=a", None),
        ] {
            assert_eq!(sslmode(dsn), mode, "{dsn}");
        }
    }
}
