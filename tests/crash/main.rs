//! What is left of a store after kills, losses of power, failures of the disk and damage; and who
//! may open it then. `cargo test --test crash rare_meetings` runs one file.

#[path = "../common/mod.rs"]
mod common;
#[path = "../reference/mod.rs"]
mod reference;

mod backup_dies;
mod batches_die;
mod checkpoints_are_never_mixed;
mod claims_file_grows;
mod crashes_interrupt;
mod damaged_store;
mod erased_scopes;
mod expired_stays_expired;
mod failed_sync_poisons;
mod file_cut_short;
mod flushes_cover_what_was_before;
mod foreign_files;
mod full_disk;
mod golden_store;
mod model;
mod names_are_durable;
mod one_superblock_copy_is_enough;
mod open_files_run_out;
mod opening_dies_and_is_repeated;
mod openings_lose_power;
mod openings_read_what_they_need;
mod poisoned_store;
mod promised_claims;
mod rare_meetings;
mod read_only_places;
mod restarts_take_no_space;
mod ring_grows;
mod salvage_counts;
mod second_opener_is_refused;
mod three_lives;
mod tokens_after_crashes;
mod torn_claims;
mod verify_names_the_damage;
mod what_survives_what;
