//! Where the keys are kept: a directory of this process, or a PostgreSQL cluster that several
//! gateways share.

use anyhow::Context;
use clap::Args;
use onlyonce::{
    AnyStore, Options, Store,
    postgres::{PostgresOptions, PostgresStore, Replication},
};
use std::{path::PathBuf, time::Duration};

/// Which store, and how it keeps things.
#[derive(Args)]
pub struct Choice {
    /// The directory of the store.
    #[arg(long, default_value = "onlyonce-gateway")]
    dir: PathBuf,
    /// Creates the directory, which must else be there: a directory that is missing at a later start
    /// is a volume that is not mounted, and a new store would let every retry through.
    #[arg(long)]
    create: bool,
    /// Keeps the keys on PostgreSQL instead, for several gateways: the connection string, with all
    /// hosts of the cluster.
    #[arg(long, env = "ONLYONCE_DSN", hide_env_values = true)]
    dsn: Option<String>,
    /// With --dsn: it is one server, without replicas.
    #[arg(long)]
    single_server: bool,
    /// With --dsn: a file with the authorities that certify the servers, for TLS.
    #[arg(long)]
    dsn_roots: Option<PathBuf>,
    /// With --dsn: seconds after which the keys of a gateway that was killed are no longer taken for in
    /// flight. One that lives renews them.
    #[arg(long, default_value_t = 15)]
    lease: u64,
    /// Hours that an answer is replayed.
    #[arg(long, default_value_t = 24)]
    retention: u64,
    /// The largest answer that is kept, in bytes.
    #[arg(long, default_value_t = 256 << 10)]
    max_response: usize,
    /// How often a request may be tried before only an operator can decide about it.
    #[arg(long, default_value_t = 5)]
    max_attempts: u32,
}

/// An open store.
pub enum Keys {
    Embedded(Store),
    Postgres(PostgresStore),
}

impl Choice {
    /// Opens the store.
    pub async fn open(&self) -> anyhow::Result<Keys> {
        let retention = Duration::from_secs(self.retention.saturating_mul(3600));
        let Some(dsn) = &self.dsn else {
            let store = Options::new()
                .create(self.create)
                .retention(retention)
                .max_response(self.max_response)
                .max_attempts(self.max_attempts)
                // One that was killed a moment ago may still hold the directory.
                .wait_for_owner(Duration::from_secs(5))
                .open(&self.dir)
                .context("opening the store (--create makes a new one)")?;
            return Ok(Keys::Embedded(store));
        };
        let replication = match self.single_server {
            true => Replication::SingleServer,
            false => Replication::Replicated,
        };
        let mut options = PostgresOptions::new(dsn, replication)
            .retention(retention)
            .max_response(self.max_response)
            .max_attempts(self.max_attempts)
            .lease(Duration::from_secs(self.lease))
            // So that another gateway knows that the one which held a key is gone.
            .holder_session(true);
        if let Some(roots) = &self.dsn_roots {
            let pem = std::fs::read(roots);
            options =
                options.tls_roots(pem.with_context(|| format!("reading {}", roots.display()))?);
        }
        options.migrate().await.context("creating the table of keys")?;
        Ok(Keys::Postgres(options.connect().await.context("opening the store")?))
    }
}

impl Keys {
    /// The store, for the layer.
    pub fn any(&self) -> AnyStore {
        match self {
            Keys::Embedded(store) => AnyStore::new(store.clone()),
            Keys::Postgres(store) => AnyStore::new(store.clone()),
        }
    }

    /// Ends the store in good order.
    pub async fn close(self) -> anyhow::Result<()> {
        match self {
            Keys::Embedded(store) => {
                tokio::task::spawn_blocking(move || store.close()).await??;
            }
            Keys::Postgres(store) => store.close(),
        }
        Ok(())
    }
}
