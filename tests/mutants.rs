//! The behaviour tests in one program, for cargo-mutants: linked once a mutant instead of fifty
//! times. Left out is what takes long, and what finds its own process by its name.
//! Not part of `cargo test`, where each of these runs by itself; see docs/testing.md, "Mutants".
#![allow(missing_docs, clippy::duplicate_mod, clippy::result_large_err)]

#[path = "any_backend_as_one_type.rs"]
mod any_backend_as_one_type;
#[path = "claims_reserve_their_space.rs"]
mod claims_reserve_their_space;
#[path = "clock_steps.rs"]
mod clock_steps;
#[path = "completing_twice_joins.rs"]
mod completing_twice_joins;
#[path = "crashes_interrupt.rs"]
mod crashes_interrupt;
#[path = "damaged_store.rs"]
mod damaged_store;
#[path = "drain_and_close.rs"]
mod drain_and_close;
#[path = "dropped_claims_are_interrupted.rs"]
mod dropped_claims_are_interrupted;
#[path = "expired_stays_expired.rs"]
mod expired_stays_expired;
#[path = "expiry_is_decided_at_read.rs"]
mod expiry_is_decided_at_read;
#[path = "failed_sync_poisons.rs"]
mod failed_sync_poisons;
#[path = "failures_wait_for_the_disk.rs"]
mod failures_wait_for_the_disk;
#[path = "first_caller_executes.rs"]
mod first_caller_executes;
#[path = "foreign_files.rs"]
mod foreign_files;
#[path = "full_disk.rs"]
mod full_disk;
#[path = "futures_dropped_at_every_poll.rs"]
mod futures_dropped_at_every_poll;
#[path = "hash_collisions.rs"]
mod hash_collisions;
#[path = "hot_key.rs"]
mod hot_key;
#[path = "keys_are_exact.rs"]
mod keys_are_exact;
#[path = "late_holder_is_fenced.rs"]
mod late_holder_is_fenced;
#[path = "listing_while_writing.rs"]
mod listing_while_writing;
#[path = "many_retentions.rs"]
mod many_retentions;
#[path = "mismatch_reveals_nothing.rs"]
mod mismatch_reveals_nothing;
#[path = "model.rs"]
mod model;
#[path = "once_async.rs"]
mod once_async;
#[path = "once_blocking.rs"]
mod once_blocking;
#[path = "once_settles.rs"]
mod once_settles;
#[path = "one_time.rs"]
mod one_time;
#[path = "opening_dies_and_is_repeated.rs"]
mod opening_dies_and_is_repeated;
#[path = "operators_decide.rs"]
mod operators_decide;
#[path = "options_are_checked.rs"]
mod options_are_checked;
#[path = "places_that_cannot_be_opened.rs"]
mod places_that_cannot_be_opened;
#[path = "poisoned_store.rs"]
mod poisoned_store;
#[path = "power_cut_everywhere.rs"]
mod power_cut_everywhere;
#[path = "rare_meetings.rs"]
mod rare_meetings;
#[path = "rejections_write_nothing.rs"]
mod rejections_write_nothing;
#[path = "release_keeps_history.rs"]
mod release_keeps_history;
#[path = "renewal_keeps_a_claim.rs"]
mod renewal_keeps_a_claim;
#[path = "replays_are_exact.rs"]
mod replays_are_exact;
#[path = "salvage_counts.rs"]
mod salvage_counts;
#[path = "scopes_are_apart.rs"]
mod scopes_are_apart;
#[path = "second_opener_is_refused.rs"]
mod second_opener_is_refused;
#[path = "sweep_races_begin.rs"]
mod sweep_races_begin;
#[path = "takeover.rs"]
mod takeover;
#[path = "terms_are_checked.rs"]
mod terms_are_checked;
#[path = "three_lives.rs"]
mod three_lives;
#[path = "tokens_after_crashes.rs"]
mod tokens_after_crashes;
#[path = "tokens_rise_for_ever.rs"]
mod tokens_rise_for_ever;
#[path = "waiters_are_told.rs"]
mod waiters_are_told;
#[path = "waiting_futures.rs"]
mod waiting_futures;
#[path = "what_survives_what.rs"]
mod what_survives_what;
