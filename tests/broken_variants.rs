//! A proof that catches nothing proves nothing: stores that make one known mistake each
//! (`src/broken.rs`), and the tests of the other programs, run on each of them, must fail.
//!
//! ```sh
//! RUSTFLAGS='--cfg onlyonce_broken' cargo test --release --target-dir target/broken \
//!     --test broken_variants
//! ```
//!
//! `CATCHERS=1` lets only the first of a mistake's tests look for it.
//!
//! Without a chosen mistake the tests in here must pass, so that what a mistake fails by is the
//! mistake. `ONLYONCE_BROKEN=<name>` with any test of a build like this shows how it fails.

#![cfg(onlyonce_broken)]
#![allow(clippy::duplicate_mod)]

#[path = "crash/checkpoints_are_never_mixed.rs"]
mod checkpoints_are_never_mixed;
#[path = "behaviour/completing_twice_joins.rs"]
mod completing_twice_joins;
#[path = "crash/damaged_store.rs"]
mod damaged_store;
#[path = "linearizable.rs"]
mod linearizable;
#[path = "crash/model.rs"]
mod model;
#[path = "power_cut_everywhere.rs"]
mod power_cut_everywhere;
#[path = "crash/rare_meetings.rs"]
mod rare_meetings;
#[path = "crash/three_lives.rs"]
mod three_lives;
#[path = "crash/tokens_after_crashes.rs"]
mod tokens_after_crashes;

mod common;
mod reference;

use common::{gate::Gated, *};
use onlyonce::*;
use std::{
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

/// How long a test may take. What it looks at before it gives up is a number of points, cases or
/// seeds, so that a slow machine finds what a quick one finds.
const LIMIT: Duration = Duration::from_secs(600);

const CRASH: &str = "power_cut_everywhere::a_crash_at_any_call_loses_nothing_acknowledged";
const FAILURE: &str = "power_cut_everywhere::a_failure_at_any_call_acknowledges_nothing_wrong";
const CRASHES: &str = "model::store_and_model_agree_through_many_crashes";
const MODEL: &str = "model::store_and_model_agree";
const LIVES: &str = "three_lives::each_ends_in_another_kind_of_crash";
const TOKENS: &str = "tokens_after_crashes::any_crash_at_any_call";
const RACES: &str = "linearizable::when_nothing_waits_for_the_disk";
const COMPLETING: &str = "completing_twice_joins::others_see_it_in_flight_until_it_is_durable";

/// Each mistake, and the tests that each have to notice it, the quickest first.
const CAUGHT_BY: &[(&str, &[&str])] = &[
    ("SkipSegmentSync", &[CRASH, FAILURE, CRASHES, LIVES]),
    ("SkipClaimsSync", &[CRASH, FAILURE, CRASHES, LIVES]),
    ("SkipSuperblockSync", &[CRASH, FAILURE, CRASHES, LIVES, TOKENS]),
    ("SkipRecycleSync", &[CRASH]),
    ("SkipSealSync", &[CRASH, FAILURE, LIVES]),
    ("AckBeforeSync", &[CRASH, FAILURE, CRASHES, LIVES]),
    ("VisibleBeforeDurable", &[FAILURE, COMPLETING]),
    ("ReuseWhileServed", &["a_record_that_is_being_looked_up_is_not_swapped"]),
    ("ReuseBeforeSweep", &[MODEL, LIVES]),
    ("LifeNotSeeded", &["rare_meetings::what_an_earlier_life_left_in_a_free_segment_stays_gone"]),
    ("EpochNotSeeded", &[LIVES, CRASHES]),
    ("SlotNotSeeded", &["damaged_store::a_page_that_was_written_to_another_segment"]),
    ("LowestTokenWins", &[CRASH, CRASHES, LIVES]),
    ("KeyBeforeChecksum", &["damaged_store::every_byte_of_one_record_and_of_its_footer"]),
    ("TokensNotDurable", &[CRASH, CRASHES, LIVES, TOKENS]),
    ("TokensRaisedFirst", &[TOKENS]),
    ("LapUndrained", &["rare_meetings::a_full_ring_waits_until_it_is_drained"]),
    ("ServeLapped", &[CRASH, FAILURE, CRASHES, LIVES]),
    ("AppendToUnprepared", &[CRASH, FAILURE, CRASHES, LIVES]),
    ("ClearBeforeDurable", &[FAILURE]),
    (
        "RecycleBeforeClaimsSync",
        &["rare_meetings::a_completed_claim_is_gone_for_good_before_its_record_goes"],
    ),
    ("SyncInsteadOfWriting", &[FAILURE]),
    (
        "TrustFreeHeader",
        &["rare_meetings::a_segment_is_freed_on_the_disk_before_a_new_life_begins"],
    ),
    ("FooterBeforeContent", &[FAILURE]),
    ("ReleaseErasesHistory", &[MODEL, RACES, FAILURE]),
    ("LeaseLapsesInCompleting", &["completing_twice_joins::its_lease_cannot_pass"]),
    (
        "ForgetUnsettled",
        &["rare_meetings::an_expired_key_does_not_come_back_as_an_earlier_attempt"],
    ),
    ("ReuseVersions", &["checkpoints_are_never_mixed::in_synced"]),
];

fn start(variant: &str, test: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env("ONLYONCE_BROKEN", variant)
        .env("SECONDS", "40")
        .env("POINTS", "20000")
        .env("ROWS", "2000")
        .env("PROPTEST_CASES", "12000")
        .env("PROPTEST_RNG_SEED", "7")
        .env("PROPTEST_MAX_SHRINK_ITERS", "0")
        .env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1")
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// How a test fails on a broken store; `None` if it doesn't.
fn failure(variant: &str, test: &str) -> Option<String> {
    let mut child = start(variant, test);
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > LIMIT {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{variant}: {test} hangs instead of failing");
        }
        thread::sleep(Duration::from_millis(5));
    }
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert!(said.contains("running 1 test"), "there is no test {test}");
    if ended.status.success() {
        return None;
    }
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    let mut lines = said.lines().skip_while(|line| !line.contains("panicked at"));
    let place = lines.next().and_then(|line| line.split("panicked at ").nth(1));
    let why = lines.next().unwrap_or_default();
    Some(format!("{} {}", place.unwrap_or("it aborts"), why.chars().take(90).collect::<String>()))
}

#[test]
fn each_mistake_is_caught() {
    if std::env::var_os("ONLYONCE_BROKEN").is_some() {
        return;
    }
    let most = std::env::var("CATCHERS").map_or(usize::MAX, |count| count.parse().unwrap());
    let runs = CAUGHT_BY
        .iter()
        .flat_map(|(variant, tests)| tests.iter().take(most).map(move |test| (*variant, *test)));
    // A test runs in one thread, mostly.
    let (runs, missed) = (Mutex::new(runs), Mutex::new(Vec::new()));
    let run_all = || {
        loop {
            let next = runs.lock().unwrap().next();
            let Some((variant, test)) = next else { return };
            let started = Instant::now();
            match failure(variant, test) {
                Some(how) => {
                    let took = started.elapsed().as_secs_f32();
                    println!("{variant}: {test} in {took:.1} s: {how}");
                }
                None => missed.lock().unwrap().push(format!("{variant} by {test}")),
            }
        }
    };
    thread::scope(|scope| {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        (0..processors).for_each(|_| drop(scope.spawn(run_all)));
    });
    let missed = missed.into_inner().unwrap();
    assert!(missed.is_empty(), "not caught: {missed:#?}");
}

/// A caller looks up a record; before it reads it, that expires, its segment is used again, and
/// a record of the same key that isn't durable yet lies in its place.
#[test]
fn a_record_that_is_being_looked_up_is_not_swapped() {
    for rounds in 0..12 {
        must_end(move || {
            let sim = Sim::with(|options| {
                options.retention(SECOND).lease(SECOND).segment_bytes(64 << 10).capacity(256 << 10)
            });
            let disk = Gated::new(&sim.disk);
            let store = sim.options.open_on(Arc::new(disk.clone())).unwrap();
            store.finish("k", b"first");
            let begins = AtomicBool::new(false);
            thread::scope(|scope| {
                let reader = scope.spawn(|| {
                    begins.store(true, SeqCst);
                    store.ask("k")
                });
                until(|| begins.load(SeqCst));
                let since = Instant::now();
                until(|| since.elapsed() > Duration::from_millis(2));
                // As many uses of the segments as it takes to come round to the first one.
                for _ in 0..rounds % 6 {
                    sim.clock.advance(2 * SECOND);
                    (0..3).for_each(|_| store.housekeep().unwrap());
                    store.finish("k", b"second");
                }
                sim.clock.advance(2 * SECOND);
                (0..3).for_each(|_| store.housekeep().unwrap());
                let Begin::Execute(mut claim) = store.ask("k") else { return };
                let shut = disk.shut("segment-");
                let last = scope.spawn(move || claim.complete(b"last"));
                shut.until_reached();
                let found = reader.join().unwrap();
                if let Begin::Replay(record) = &found {
                    assert_ne!(record.response(), Some(&b"last"[..]), "it isn't durable yet");
                }
                drop(shut);
                assert_eq!(last.join().unwrap(), Ok(()));
            });
        });
    }
}
