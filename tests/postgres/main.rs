//! The PostgreSQL backend, on real servers. `cargo test --all-features --test postgres table` runs
//! one file.

#[cfg(feature = "admin")]
#[path = "../http/admin_client/mod.rs"]
mod admin_client;
mod servers;
#[path = "../sqlite/counted.rs"]
mod sql_counted;

#[cfg(feature = "admin")]
mod admin;
mod bad_input;
mod cancelled_waits;
#[cfg(feature = "conformance")]
mod conformance;
mod counted;
mod crowds;
mod dropped_calls;
mod helpers;
mod leftovers;
mod like_embedded;
mod lost_connections;
#[cfg(feature = "metrics")]
mod metrics;
mod migrating;
mod operators;
#[cfg(feature = "conformance")]
mod own_connections;
mod patroni;
mod poolers;
mod quorum;
mod server_dies;
mod sessions;
mod slots;
mod table;
mod transactions;
