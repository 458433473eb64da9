//! What a store does, a file a behaviour, through the public calls; docs/testing.md lists them.
//! One program, which is linked once: `cargo test --test behaviour takeover` runs one file of it.

#[path = "../common/mod.rs"]
mod common;

mod a_store_must_be_there;
mod an_idle_store_forgets;
mod answers_outlive_their_segment;
mod any_backend_as_one_type;
mod backup_and_restore;
mod backup_is_a_cut;
mod bytes_are_pinned;
mod claims_file_is_full;
mod claims_reserve_their_space;
mod clock_steps;
mod completing_twice_joins;
#[cfg(feature = "conformance")]
mod conformance_embedded;
mod decisions_are_kept;
mod drain_and_close;
mod dropped_claims_are_interrupted;
mod expiry_is_decided_at_read;
mod failures_wait_for_the_disk;
mod first_caller_executes;
mod forgetting_is_seen_when_durable;
mod futures_dropped_at_every_poll;
mod hash_collisions;
mod holders_outlive_closings;
mod hot_key;
mod inspecting_a_live_store;
mod keys_are_exact;
mod late_holder_is_fenced;
mod listing_while_writing;
mod looking_writes_nothing;
mod many_at_once;
mod many_retentions;
#[cfg(feature = "metrics")]
mod metrics_are_published;
mod mismatch_reveals_nothing;
mod once_async;
mod once_blocking;
#[cfg(feature = "json")]
mod once_in_json;
mod once_loses_takeovers;
mod once_settles;
mod one_time;
mod operators_decide;
mod options_are_checked;
mod places_that_cannot_be_opened;
mod rejections_write_nothing;
mod release_keeps_history;
mod renewal_keeps_a_claim;
mod replays_are_exact;
mod scopes_are_apart;
mod scopes_share;
mod segments_are_written_by_pages;
#[cfg(feature = "conformance")]
mod sharded;
mod sizes_fit_each_other;
mod sizing_is_as_documented;
mod slots_move;
mod sweep_races_begin;
mod takeover;
mod tasks_leave_the_disk_alone;
mod terms_are_checked;
mod tokens_rise_for_ever;
mod waiters_are_told;
mod waiting_futures;
mod wakers_are_code_of_others;
