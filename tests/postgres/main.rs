//! The PostgreSQL backend, on real servers. `cargo test --all-features --test postgres table` runs
//! one file.

mod servers;

mod bad_input;
#[cfg(feature = "conformance")]
mod conformance;
mod dropped_calls;
mod helpers;
mod like_embedded;
mod lost_connections;
mod patroni;
mod quorum;
mod server_dies;
mod sessions;
mod slots;
mod table;
mod transactions;
