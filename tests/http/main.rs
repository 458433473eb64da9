//! The HTTP layer, and the admin service, over real sockets. `cargo test --all-features --test http
//! late_holders` runs one file.

#[cfg(feature = "admin")]
mod admin_client;
#[cfg(feature = "admin")]
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/listener.rs"]
mod listener;
mod service;

#[cfg(feature = "admin")]
mod admin_api;
#[cfg(feature = "admin")]
mod admin_page;
mod answers_cut_short;
#[cfg(feature = "testing")]
mod assert_idempotent;
mod bounds_hold;
mod clients_disconnect;
mod draft_examples;
mod frameworks;
mod grpc;
mod hooks;
#[cfg(feature = "admin")]
mod in_a_browser;
mod interrupted_keys;
mod key_sources;
mod keys_are_required;
mod late_holders;
mod on_the_wire;
mod other_requests_are_refused;
mod outcomes;
mod readiness;
mod remembering;
mod retries_are_replayed;
mod settings;
mod shares;
mod slow_clients;
mod store_fails;
mod stripe_clients;
mod two;
mod verdicts;
mod what_clients_are_told;
#[cfg(feature = "actix")]
mod with_actix;
#[cfg(feature = "axum")]
mod with_axum;
