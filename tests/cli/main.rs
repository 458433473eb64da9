//! The `onlyonce` command, by running it. `cargo test --all-features --test cli looks` runs one file.

#[cfg(feature = "admin")]
#[path = "../http/admin_client/mod.rs"]
mod admin_client;
mod command;
#[path = "../http/service.rs"]
mod service;

#[cfg(feature = "admin")]
mod asks_a_running_store;
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
