//! Where the service keeps its keys and its orders: files of its own, a SQLite database with both,
//! or a PostgreSQL cluster that it shares with others.

use crate::orders::{self, Orders};
use anyhow::Context;
use clap::{Args, ValueEnum};
use onlyonce::{
    AnyStore, Durability, Operators, Options, Store,
    postgres::{PostgresOptions, PostgresStore, Replication},
    sql::{Pool, SharedSqlite, SqlOptions, SqlStore},
};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// Which backend, and how.
#[derive(Args, Clone)]
pub struct Choice {
    /// Where keys and orders are kept.
    #[arg(long, value_enum, default_value_t)]
    pub backend: Kind,
    /// With the embedded store: when its writes are on the disk.
    #[arg(long, value_enum, default_value_t)]
    pub durability: Level,
    /// With the embedded store: create its directory, which must else be there. For the first start
    /// only: at any other a store that isn't there is a volume that isn't mounted, and a new one
    /// would let every retry order again.
    #[arg(long)]
    pub create: bool,
    /// With PostgreSQL: the connection string, with all hosts of the cluster.
    #[arg(long, env = "ORDERS_DSN", hide_env_values = true)]
    pub dsn: Option<String>,
    /// With PostgreSQL: it is one server, without replicas.
    #[arg(long)]
    pub single_server: bool,
}

/// The backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// The embedded store, and orders in SQLite.
    #[default]
    Embedded,
    /// Both in one PostgreSQL database, each order and its key in one transaction.
    Postgres,
    /// Both in one SQLite database, each order and its key in one transaction.
    SqliteTx,
}

/// The embedded store's three settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// Claims and completions before they take effect.
    #[default]
    Synced,
    /// Completions before they are answered, claims soon.
    SyncedCompletions,
    /// Everything within 50 ms.
    Buffered,
}

impl Level {
    fn durability(self) -> Durability {
        match self {
            Level::Synced => Durability::Synced,
            Level::SyncedCompletions => Durability::SyncedCompletions,
            Level::Buffered => Durability::Buffered { max_delay: Duration::from_millis(50) },
        }
    }
}

/// An open backend.
pub enum Backend {
    Embedded { store: Store, orders: Orders },
    Postgres { store: PostgresStore, any: AnyStore, orders: Orders },
    SqliteTx { store: SqlStore<SharedSqlite>, any: AnyStore, orders: Orders },
}

/// The orders database in a service's directory.
fn orders_file(dir: &Path) -> PathBuf {
    dir.join("orders.db")
}

impl Choice {
    /// Opens keys and orders; `dir` is where the embedded ones are.
    pub async fn open(&self, dir: &Path) -> anyhow::Result<Backend> {
        match self.backend {
            Kind::Embedded => {
                let store = Options::new()
                    .create(self.create)
                    .durability(self.durability.durability())
                    // The orders database can always tell what became of an attempt, so any
                    // number may fail.
                    .max_attempts(u32::MAX)
                    .open(dir.join("keys"))
                    .context("opening the idempotency store (--create makes a new one)")?;
                let orders = self.orders(dir).await?;
                Ok(Backend::Embedded { store, orders })
            }
            Kind::Postgres => {
                let replication = match self.single_server {
                    true => Replication::SingleServer,
                    false => Replication::Replicated,
                };
                let options = PostgresOptions::new(self.dsn()?, replication)
                    .connections(48)
                    .lock_timeout(Duration::from_millis(300));
                options.migrate().await.context("creating the table of keys")?;
                let store = options.connect().await.context("opening the idempotency store")?;
                let claims = store.in_transactions();
                let orders = Orders::connect(self.dsn()?, Some(claims.clone())).await?;
                Ok(Backend::Postgres { store, any: AnyStore::new(claims), orders })
            }
            Kind::SqliteTx => {
                std::fs::create_dir_all(dir)?;
                let file = orders_file(dir);
                let opened = file.clone();
                let pool = SharedSqlite::new(move || orders::sqlite_connection(&opened));
                let options = SqlOptions::sqlite();
                let mut connection = pool.get().await?;
                let keys = options.keys()?;
                keys.create_in(&mut connection).await.context("creating the table of keys")?;
                drop(connection);
                let store = options.connect_with(pool).await.context("opening the keys")?;
                let claims = store.in_transactions();
                let orders = Orders::beside(&file, claims.clone())?;
                Ok(Backend::SqliteTx { store, any: AnyStore::new(claims), orders })
            }
        }
    }

    /// The orders alone, for reading.
    pub async fn orders(&self, dir: &Path) -> anyhow::Result<Orders> {
        match self.backend {
            Kind::Embedded | Kind::SqliteTx => {
                let file = orders_file(dir);
                Orders::open(&file).with_context(|| format!("opening {}", file.display()))
            }
            Kind::Postgres => Orders::connect(self.dsn()?, None).await,
        }
    }

    fn dsn(&self) -> anyhow::Result<&str> {
        self.dsn.as_deref().context("--backend postgres needs --dsn")
    }
}

impl Backend {
    /// The store, for the HTTP layer.
    pub fn store(&self) -> AnyStore {
        match self {
            Backend::Embedded { store, .. } => AnyStore::new(store.clone()),
            Backend::Postgres { any, .. } | Backend::SqliteTx { any, .. } => any.clone(),
        }
    }

    /// The store, for its operators, if it is one that they can see as a whole.
    pub fn operators(&self) -> Option<Operators> {
        match self {
            Backend::Embedded { store, .. } => Some(store.into()),
            Backend::Postgres { store, .. } => Some(store.into()),
            Backend::SqliteTx { .. } => None,
        }
    }

    /// The orders.
    pub fn orders(&self) -> &Orders {
        match self {
            Backend::Embedded { orders, .. }
            | Backend::Postgres { orders, .. }
            | Backend::SqliteTx { orders, .. } => orders,
        }
    }

    /// What was found at the start: answers kept (if that is known without counting them), and
    /// requests interrupted half way. Transactions are never half way.
    pub fn found(&self) -> (Option<u64>, u64) {
        match self {
            Backend::Embedded { store, .. } => {
                let stats = store.stats();
                (Some(stats.records), stats.interrupted)
            }
            Backend::Postgres { .. } | Backend::SqliteTx { .. } => (None, 0),
        }
    }

    /// Ends in good order.
    pub async fn close(self) -> anyhow::Result<()> {
        match self {
            Backend::Embedded { store, .. } => {
                let closed = tokio::task::spawn_blocking(move || store.close()).await?;
                closed.map(drop).context("closing the idempotency store")
            }
            Backend::Postgres { store, .. } => {
                store.drain(Duration::from_secs(5)).await;
                store.close();
                Ok(())
            }
            Backend::SqliteTx { store, .. } => {
                store.drain(Duration::from_secs(5)).await;
                store.close();
                Ok(())
            }
        }
    }
}
