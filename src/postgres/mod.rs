//! A store on a PostgreSQL cluster, for services that run on several machines.
//!
//! A service that has outgrown one process changes the line that opens its store, and uses
//! [`AsyncStore`](crate::AsyncStore), [`once`](crate::Once) and the HTTP layer as before:
//!
//! ```no_run
//! # async fn open() -> Result<(), Box<dyn std::error::Error>> {
//! use onlyonce::{AsyncStore, postgres::{PostgresOptions, Replication}};
//! let options = PostgresOptions::new("host=db1,db2 user=shop dbname=shop", Replication::Replicated);
//! options.migrate().await?;
//! let store = AsyncStore::new(options.connect().await?);
//! # Ok(()) }
//! ```
//!
//! # What is different
//!
//! - Time is the server's. Only its lease shows that a holder is alive: a claim whose process has
//!   died is in flight until its lease passes, and then interrupted, with a holder that is silent
//!   and perhaps alive. So nothing settles or resumes by itself, unless each store keeps a session
//!   for its holders ([`PostgresOptions::holder_session`]), or the caller allows to treat silent
//!   holders as dead (`once(..).even_if_holder_lives()`, the HTTP layer's `even_if_holder_lives`).
//! - Leases are renewed on the server (`Terms::keep_alive` renews them in the background), so a
//!   claim outlives the connection it was made on.
//! - Space is not reserved: a full disk can refuse a completion, which can then be tried again.
//! - The end of a dropped claim is sent to the server in the background, again and again until it is
//!   known to be there. If the process ends before, the lease ends the claim. See
//!   [`PostgresStore::drain`].
//! - What this process has done and found is counted ([`PostgresStore::counts`]) and told by the
//!   same events as with an embedded store; events about connections and sessions are under the
//!   target `onlyonce::postgres`. `admin::Admin::new(&store)` and `metrics::Publisher::new(&store)`
//!   take this store as they take the embedded one, and the command takes it by `--dsn`. Backups
//!   are the database's.
//!
//! # One transaction
//!
//! An operation whose whole effect is in the same database needs no settling: with
//! [`PostgresStore::begin_in`] and [`complete_in`](PostgresStore::complete_in) claim, effect and
//! completion are one transaction of the caller's, by whichever library ([`sql`](crate::sql)).
//! [`TransactionStore`] is the same as a backend, for the HTTP layer: the handler writes in its
//! attempt's transaction (`http::Attempt::transaction`).
//!
//! # What survives
//!
//! When a call returns, its changes have been committed and are on the server's disk (if the server
//! runs with `fsync`; the store's sessions never commit with `synchronous_commit = off`). If the
//! cluster is [`Replication::Replicated`], the commit has also waited for the standbys that
//! `synchronous_standby_names` names. `remote_write` is accepted: a standby has the commit then,
//! but may lose it if its operating system crashes. A call whose answer is lost is repeated, and
//! returns what its first try did. A commit whose wait for the standbys was cancelled on the
//! server, which reports it as a success, is confirmed by a further one. Where that can't be found
//! out before the deadline, the error says so ([`BeginError::Unavailable`],
//! [`ClaimError::Unavailable`]), and a later call for the key shows its state.
//!
//! `docs/backends.md` compares this backend with the embedded store, case by case.
//!
//! [`BeginError::Unavailable`]: crate::BeginError::Unavailable
//! [`ClaimError::Unavailable`]: crate::ClaimError::Unavailable

mod begin;
mod changes;
mod commit;
mod decided;
mod erase;
mod in_order;
mod inner;
mod keep_alive;
#[cfg(any(feature = "metrics", feature = "admin"))]
mod operated;
mod operator;
mod options;
mod pool;
mod schema;
mod session;
mod slots;
mod statements;
mod store;
#[cfg_attr(not(feature = "admin"), allow(dead_code))]
mod survey;
mod sweep;
mod tls;
mod transactions;
mod tries;
mod trouble;
mod write;

pub use crate::sql::{BeginIn, ClaimIn, Counts, InterruptedIn};
use crate::sql::{counts, crowd, here, op, row, terms};
pub use operator::Page;
pub use options::{PostgresOptions, Replication};
pub use slots::SlotsMoved;
pub use store::PostgresStore;
pub use sweep::Swept;
pub use tls::Tls;
/// The driver.
pub use tokio_postgres;
pub use transactions::{OpenTransaction, TransactionStore};
