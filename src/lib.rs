//! An embedded idempotency store: a retried request executes once, and its answer is replayed.
//!
//! Clients retry. A server that runs a retried `POST` twice charges twice. The cure: the client
//! sends an idempotency key; the server **claims** the key atomically, executes once, **persists
//! key and response before it answers**, and **replays** that response to every retry inside the
//! deduplication window. This crate is the store for that, embedded in the service.
//!
//! ```
//! use onlyonce::{Begin, Fingerprint, KeyRef, Scope, Store};
//!
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path();
//! # fn charge(_idempotency_key: &str) -> Vec<u8> { b"charged".to_vec() }
//! let store = Store::open(path)?;
//! let scope = Scope::of(["tenant-7", "payments"]);
//! let key = KeyRef::new(&scope, "8e03978e-40d5-43e8-bc93-6894a57f9324")?;
//! let request = Fingerprint::of(["POST", "/payments", "{\"amount\":42}"]);
//!
//! match store.begin(key, request)? {
//!     Begin::Execute(mut claim) => {
//!         let response = charge(&claim.derive_key("charge"));
//!         claim.complete(&response)?; // on the disk before the client gets an answer
//!     }
//!     Begin::Replay(record) => println!("as before: {:?}", record.response()),
//!     Begin::InFlight(pending) => println!("409, retry after {:?}", pending.retry_after()),
//!     Begin::Interrupted(stuck) => println!("unknown: {}", stuck.reason()),
//!     Begin::Mismatch { .. } => println!("422: the key was used for another request"),
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The path of a request
//!
//! `begin` finds the key in the index or grants a claim, which is stored in a cell of the claims
//! file. The holder completes it: the record is appended to the log (to a mapped ring, which is
//! drained into segments), becomes durable with its group commit, and is visible from then on. A
//! replay reads it. A store's threads end leases that have passed, and use segments again whose
//! records have expired. After a crash the opening finds out what was promised. [`guide::design`]
//! follows each of these through the code.
//!
//! # Where things are
//!
//! | to | look at |
//! |---|---|
//! | open a store | [`Store::open`], [`Options`], [`Durability`] |
//! | claim, complete, replay, in single steps | [`Store::begin`], [`Begin`], [`Claim`], [`Record`] |
//! | run a whole request in one call | [`Store::once`], [`Once`] |
//! | wait for a key that is in flight | [`Pending::wait`] |
//! | find out what became of an attempt that died | [`Once::settle`], [`Interrupted`], [`Reason`] |
//! | await instead of block, on any runtime | [`AsyncStore`] |
//! | identify requests | [`Scope`], [`KeyRef`], [`Fingerprint`] |
//! | look at keys | [`Store::entries`], [`Store::get`], [`Entry`] |
//! | decide about them, as an operator | [`Store::resolve`], [`Resolution`] |
//! | watch a store | [`Store::stats`], [`Stats`]; features `metrics`, `tracing`, `admin` |
//! | back up, and look at a directory | [`Store::backup`], [`backup`], [`inspect`] |
//! | test without sleeping, and without a disk | [`ManualClock`], [`storage`] |
//! | write another backend | [`spi`] |
//!
//! | feature | what it adds |
//! |---|---|
//! | `tower`, `axum`, `actix` | `http`: a layer that makes any `http` service's retries safe |
//! | `sql`, `sqlx`, `sqlx-sqlite`, `rusqlite` | `sql`: claims in the caller's own transactions |
//! | `postgres` | `postgres`: a store on a PostgreSQL cluster, for several machines |
//! | `ring` | the provider of its TLS, where the process installs none |
//! | `pure` | nothing; it takes away the need for a C compiler |
//! | `metrics` | `metrics`: counters, gauges and histograms for the crate of that name |
//! | `tracing` | events and spans |
//! | `admin` | `admin`: a service with an API and a page, over an open store |
//! | `testing` | `testing`: checks a service's own handlers |
//! | `conformance` | `conformance`: checks a backend |
//! | `json` | `Once::run_json`: answers that are values |
//!
//! The guides, from idempotency itself to the files byte by byte, are in [`guide`].
//!
//! # What survives
//!
//! See [`Durability`]. In short: with the default, claims, takeovers, checkpoints, completions and
//! releases survive a loss of power when their call has returned. A claim whose holder's process
//! died is [`Begin::Interrupted`] from the next opening on, and is never silently granted again.
//! Renewals are not stored: the end of a process ends its leases.

#![deny(missing_docs, unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(not(unix))]
compile_error!(
    "onlyonce keeps its files by the calls of Unix systems; there is no other storage yet"
);
#[cfg(any(target_os = "openbsd", target_os = "netbsd"))]
compile_error!(
    "onlyonce needs a file's map and calls to the same file to see the same bytes at once; \
     OpenBSD keeps them in two caches, and NetBSD has not been tried"
);
#[cfg(not(target_pointer_width = "64"))]
compile_error!("onlyonce maps its files whole: it needs addresses of 64 bits");

#[cfg(feature = "admin")]
pub mod admin;
pub mod backup;
mod broken;
mod claim;
mod claims;
mod clock;
#[cfg(feature = "conformance")]
pub mod conformance;
mod crc;
pub mod decisions;
mod engine;
mod error;
mod fingerprint;
mod group_commit;
#[cfg(doc)]
pub mod guide;
#[cfg(feature = "tower")]
pub mod http;
mod index;
pub mod inspect;
#[cfg(feature = "__internals")]
#[doc(hidden)]
pub mod internals;
mod key;
mod limits;
mod location;
mod log;
#[cfg(feature = "metrics")]
pub mod metrics;
pub mod names;
mod observe;
#[cfg(any(feature = "admin", feature = "metrics"))]
#[cfg_attr(not(feature = "admin"), allow(dead_code))]
mod operate;
mod options;
mod poison;
#[cfg(feature = "postgres")]
pub mod postgres;
mod record;
mod recover;
#[cfg(feature = "sql")]
pub mod sql;
mod stats;
pub mod storage;
mod store;
mod superblock;
mod sync;
#[cfg(feature = "testing")]
pub mod testing;
mod token;
mod wheel;

pub use clock::{AcceptClock, Clock, ManualClock, SystemClock};
pub use engine::entries::{Entry, Filter, State};
pub use engine::resolve::{Resolution, ResolveOptions};
pub use error::{BeginError, ClaimError, Full, KeyError, KeyState, OpenError, Retry, StoreError};
pub use fingerprint::Fingerprint;
pub use key::{KeyRef, OwnedKey, Scope};
pub use limits::RESPONSE_BYTES_MAX;
#[cfg(any(feature = "admin", feature = "metrics"))]
pub use operate::{Operators, Source};
pub use options::{Durability, Options, Recovery};
pub use record::{ByReason, Reason, Record, Retention};
pub use spi::{Completion, Erased, IdempotencyStore, Terms};
pub use stats::{ScopeUse, Stats};
pub use store::any::AnyStore;
pub use store::async_store::AsyncStore;
pub use store::claim::{Begin, Claim, Interrupted, Pending};
#[cfg(feature = "json")]
pub use store::json::Answered;
pub use store::once::{Once, OnceError, Outcome, Settled, WorkError};
pub use store::sharded::{Phase, SLOTS, ShardedStore, SlotMap, slot_of};
pub use store::{Closed, Store};
pub use token::Token;

pub mod spi;

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
