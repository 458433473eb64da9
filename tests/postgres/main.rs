//! The PostgreSQL backend, on real servers. `cargo test --all-features --test postgres table` runs
//! one file.

mod servers;

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
mod migrating;
mod operators;
mod patroni;
mod poolers;
mod quorum;
mod server_dies;
mod sessions;
mod slots;
mod table;
mod transactions;
