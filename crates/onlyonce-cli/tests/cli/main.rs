//! The `onlyonce` command, by running it. `cargo test -p onlyonce-cli --all-features looks` runs one file.

#[path = "../../../../tests/http/admin_client/mod.rs"]
mod admin_client;
mod command;
#[cfg(feature = "postgres")]
#[path = "../../../../tests/postgres/servers/mod.rs"]
mod servers;
#[path = "../../../../tests/http/service.rs"]
mod service;

mod asks_a_running_store;
#[cfg(feature = "postgres")]
mod asks_a_table;
mod backs_up;
mod bad_input;
mod bench_and_completions;
mod http_answers;
mod looks;
mod moves_keys;
mod resolves;
mod resolves_many;
mod verifies_and_salvages;
mod writes_nothing;
