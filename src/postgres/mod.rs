//! Beyond one machine: the same store on a PostgreSQL cluster.
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
//! - Time is the server's. A holder is known to live by its lease alone: a claim whose process
//!   has died is in flight until its lease passes, and then interrupted by a holder that is
//!   silent, perhaps alive. So nothing settles or resumes by itself unless each store keeps a
//!   session that stands for its holders ([`PostgresOptions::holder_session`]), or it is told that
//!   silent holders may be taken for dead (`once(..).even_if_holder_lives()`, the HTTP layer's
//!   `even_if_holder_lives`).
//! - Leases are renewed on the server (`Terms::keep_alive` renews them in the background), so a
//!   claim outlives the connection it was made on.
//! - Space is not reserved: a full disk can refuse a completion, which can then be tried again.
//! - The end of a dropped claim is sent to the server behind the caller's back, and may be lost:
//!   then the lease ends it. See [`PostgresStore::drain`].
//!
//! # One transaction
//!
//! An operation whose whole effect lies in the same database needs no settling: with
//! [`PostgresStore::begin_in`] and [`complete_in`](PostgresStore::complete_in) claim, effect and
//! completion are one transaction of the caller's. [`TransactionStore`] is the same as a backend,
//! for the HTTP layer: the handler writes in its attempt's transaction (`http::Attempt::transaction`).
//!
//! # What survives
//!
//! Everything that a call has returned from has been committed, with `synchronous_commit` at
//! least `on` and, if the cluster is [`Replication::Replicated`], by a quorum of standbys as well.
//! A call whose answer is lost is repeated, and answered by what its first try did. Where that
//! can't be found out before the deadline the error says so ([`BeginError::Unavailable`],
//! [`ClaimError::Unavailable`]): the key is what it is, and will say so when it is asked again.
//!
//! `docs/backends.md` compares this backend with the embedded store, case by case.
//!
//! [`BeginError::Unavailable`]: crate::BeginError::Unavailable
//! [`ClaimError::Unavailable`]: crate::ClaimError::Unavailable

mod begin;
mod changes;
mod in_order;
mod inner;
mod keep_alive;
mod operator;
mod options;
mod pool;
mod row;
mod schema;
mod session;
mod slots;
mod statements;
mod store;
mod sweep;
mod transaction;
mod transactions;
mod tries;
mod trouble;
mod write;

pub use operator::Page;
pub use options::{PostgresOptions, Replication};
pub use store::PostgresStore;
pub use sweep::Swept;
/// The driver, whose transactions [`PostgresStore::begin_in`] takes.
pub use tokio_postgres;
pub use transaction::{BeginIn, ClaimIn, InTransaction, InterruptedIn};
pub use transactions::{OpenTransaction, TransactionStore};
