//! Whole stores under schedules that shuttle chooses: each meeting of two threads (a lock, an
//! atomic, 64 bytes of a copy) is a place where another one may go on. The simulated disk, the
//! store's own threads and its callers all run one at a time, so a schedule can be repeated.
//!
//! ```sh
//! RUSTFLAGS='--cfg onlyonce_shuttle --cfg onlyonce_broken' cargo test --release \
//!     --target-dir target/shuttle --test schedules
//! ```
//!
//! `SCHEDULES=<n>` tries more of each kind; `SEED=<n>` tries others. A failure prints the
//! schedule; `SCHEDULE=<file>` with its text repeats it.

#![cfg(onlyonce_shuttle)]
mod common;

use common::{
    schedules::{number, polled, run},
    *,
};
use onlyonce::*;
use shuttle::{
    future::block_on,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// As many schedules as `SCHEDULES` says.
fn check(test: fn()) {
    run(number("SCHEDULES", 300) as usize, number("SEED", 1), false, test);
}

/// A store with its threads on a disk of its own.
fn threaded_sim(durability: Durability) -> (Store, Sim) {
    let sim = Sim::with(|options| {
        let options = options.background(true).durability(durability);
        options.segment_bytes(64 << 10).capacity(256 << 10)
    });
    (sim.open(), sim)
}

/// How a holder ends, and what those who waited find.
fn ends(how: fn(Claim), found: fn(&Begin) -> bool, durability: Durability) {
    let (store, _sim) = threaded_sim(durability);
    let claim = store.claim("k");
    let waiters = [(); 2].map(|()| {
        let store = store.clone();
        thread::spawn(move || match store.ask("k") {
            Begin::InFlight(pending) => pending.wait(HOUR).unwrap(),
            begin => begin,
        })
    });
    let task = {
        let store = AsyncStore::new(store.clone());
        thread::spawn(move || {
            block_on(async {
                match store.begin(key("k"), print()).await.unwrap() {
                    // Dropped after a poll, or told in time.
                    Begin::InFlight(pending) => drop(polled(pending.wait(HOUR), 1)),
                    begin => drop(begin),
                }
            })
        })
    };
    how(claim);
    task.join().unwrap();
    for waiter in waiters {
        let begin = waiter.join().unwrap();
        assert!(found(&begin), "{begin:?}");
    }
    assert_eq!(store.stats().waiters, 0);
    store.close().unwrap();
}

#[test]
fn a_completion_is_told_to_all_who_wait() {
    check(|| {
        let how = |mut claim: Claim| claim.complete(b"one").unwrap();
        ends(how, |begin| matches!(begin, Begin::Replay(_)), Durability::Synced);
    });
}

#[test]
fn a_dropped_claim_is_told_to_all_who_wait() {
    check(|| {
        ends(drop, |begin| matches!(begin, Begin::Interrupted(_)), Durability::SyncedCompletions)
    });
}

/// Two records of one holder, one after the other.
#[test]
fn a_failure_and_the_completion_after_it_are_told_to_all_who_wait() {
    check(|| {
        let how = |mut claim: Claim| {
            claim.fail(b"500").unwrap();
            claim.complete(b"one").unwrap();
        };
        let found = |begin: &Begin| matches!(begin, Begin::Replay(_) | Begin::Interrupted(_));
        ends(how, found, Durability::Synced);
    });
}

/// Whoever gets the claim completes it; so each waiter ends with an answer, and one executed.
#[test]
fn of_those_who_wait_for_a_release_one_executes() {
    check(|| {
        let (store, _sim) = threaded_sim(Durability::SyncedCompletions);
        let claim = store.claim("k");
        let executed = Arc::new(AtomicUsize::new(0));
        let waiters = [(); 3].map(|()| {
            let (store, executed) = (store.clone(), executed.clone());
            thread::spawn(move || {
                let mut begin = store.ask("k");
                loop {
                    begin = match begin {
                        Begin::InFlight(pending) => pending.wait(HOUR).unwrap(),
                        Begin::Execute(mut claim) => {
                            executed.fetch_add(1, SeqCst);
                            return claim.complete(b"once").unwrap();
                        }
                        Begin::Replay(_) => return,
                        other => panic!("{other:?}"),
                    }
                }
            })
        });
        claim.release().unwrap();
        waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
        assert_eq!(executed.load(SeqCst), 1);
        store.close().unwrap();
    });
}

/// A lease that passes, a failed sync and a closing store end every wait, too.
#[test]
fn time_failure_and_closing_end_every_wait() {
    check(|| {
        for case in 0..3 {
            let (store, sim) = threaded_sim(Durability::Synced);
            let mut claim = store.claim("k");
            let waiter = {
                let store = store.clone();
                thread::spawn(move || match store.begin(key("k"), print()) {
                    Ok(Begin::InFlight(pending)) => pending.wait(HOUR),
                    begin => begin,
                })
            };
            match case {
                0 => sim.clock.advance(HOUR),
                1 => {
                    let next = sim.disk.calls();
                    for call in next..next + 40 {
                        let error = std::io::ErrorKind::Other;
                        sim.disk.fault_at(call, storage::Fault::Error(error));
                    }
                    assert!(claim.complete(b"lost").is_err());
                }
                _ => drop(store.close().unwrap()),
            }
            let ended = waiter.join().unwrap();
            let (closed, poisoned) = (BeginError::Closed, BeginError::Poisoned);
            match (case, &ended) {
                (0, Ok(Begin::Interrupted(_))) => {}
                (1, Ok(Begin::InFlight(_))) => {}
                (1, Err(error)) if *error == poisoned => {}
                (2, Err(error)) if *error == closed => {}
                (2, Ok(Begin::InFlight(_))) => {}
                other => panic!("{other:?}"),
            }
        }
    });
}

/// The response of the `n`th completion: each of its words tells which.
fn response(n: usize) -> Vec<u8> {
    (n as u64).to_le_bytes().repeat(40 + n % 3)
}

/// A key is asked for while its record expires, its segment is swept and used again, and new
/// records of the same key are written. What is served is whole, has been acknowledged or is
/// durable, and has not expired.
fn recycled_while_read() {
    let sim = Sim::with(|options| {
        options.retention(SECOND).lease(SECOND).segment_bytes(64 << 10).capacity(256 << 10)
    });
    let store = sim.open();
    store.finish("k", &response(0));
    let acknowledged = Arc::new(Mutex::new(BTreeSet::from([0])));
    let writer = {
        let (store, clock) = (store.clone(), sim.clock.clone());
        let acknowledged = acknowledged.clone();
        // No scoped thread: the end of one would wake who waits for another, when it opens a store.
        thread::spawn(move || {
            for n in 1..7 {
                clock.advance(2 * SECOND);
                if (0..3).any(|_| store.housekeep().is_err()) {
                    return;
                }
                let Ok(begin) = store.begin(key("k"), print()) else { return };
                match begin {
                    Begin::Execute(mut claim) => match claim.complete(&response(n)) {
                        Ok(()) => drop(acknowledged.lock().unwrap().insert(n)),
                        // The reader has cut the power.
                        Err(ClaimError::Poisoned) => return,
                        other => panic!("{other:?}"),
                    },
                    // The reader has claimed it.
                    Begin::Replay(_) | Begin::InFlight(_) | Begin::Interrupted(_) => {}
                    other => panic!("{other:?}"),
                }
            }
        })
    };
    for n in 100..103 {
        let before = sim.clock.wall_ms();
        match store.ask("k") {
            Begin::Replay(record) => {
                let bytes = record.response().expect("retained");
                let found = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
                assert_eq!(bytes, response(found), "mixed");
                assert!(record.expires_at() > before, "served after it had expired");
                if !acknowledged.lock().unwrap().contains(&found) {
                    // Its writer is still in the call, and until then the clock stands still.
                    let cut = sim.disk.power_cut();
                    if !acknowledged.lock().unwrap().contains(&found) {
                        let options = sim.options.clone().clock(ManualClock::at(before));
                        let survivor = options.open_on(Arc::new(cut)).unwrap();
                        assert_eq!(survivor.answer("k"), bytes, "served, and not durable");
                    }
                    break;
                }
            }
            Begin::Execute(mut claim) => match claim.complete(&response(n)) {
                Ok(()) => drop(acknowledged.lock().unwrap().insert(n)),
                Err(error) => assert!(matches!(error, ClaimError::Fenced { .. }), "{error:?}"),
            },
            Begin::InFlight(_) | Begin::Interrupted(_) => {}
            other => panic!("{other:?}"),
        }
    }
    writer.join().unwrap();
}

#[test]
fn a_record_is_served_whole_while_its_segment_is_recycled() {
    check(recycled_while_read);
}

const LAST: usize = 6;

/// A store with one record, which has expired: the next round of housekeeping sweeps it, and the
/// next record that is written lies where it lay.
fn about_to_be_recycled() -> (Store, Sim) {
    let sim = Sim::with(|options| {
        options
            .retention(SECOND)
            .interrupted_retention(SECOND)
            .lease(SECOND)
            .segment_bytes(64 << 10)
            .capacity(256 << 10)
    });
    let store = sim.open();
    // Until there are as many segments as there may be: then the next to be used is the one that
    // was given back last.
    for n in 0..LAST {
        store.finish("k", &response(n));
        sim.clock.advance(2 * SECOND);
        // Closed and sealed the first time, swept the second.
        (0..if n + 1 < LAST { 3 } else { 1 }).for_each(|_| store.housekeep().unwrap());
    }
    (store, sim)
}

/// The same, narrowed to what is rarest: the place that a caller is about to read holds, when it
/// does, a newer record of the same key that isn't durable yet.
fn replaced_while_looked_up() {
    let (store, sim) = about_to_be_recycled();
    let acknowledged = Arc::new(AtomicBool::new(false));
    let writer = {
        let (store, acknowledged) = (store.clone(), acknowledged.clone());
        thread::spawn(move || {
            if store.housekeep().is_err() {
                return;
            }
            let Ok(Begin::Execute(mut claim)) = store.begin(key("k"), print()) else { return };
            match claim.complete(&response(LAST)) {
                // The reader has cut the power.
                Err(ClaimError::Poisoned) => {}
                done => acknowledged.store(done.is_ok(), SeqCst),
            }
        })
    };
    if let Begin::Replay(record) = store.ask("k") {
        let served = record.response() == Some(&response(LAST)[..]);
        assert!(served, "torn, or an earlier one, which has expired");
        if !acknowledged.load(SeqCst) {
            let survivor = sim.options.open_on(Arc::new(sim.disk.power_cut())).unwrap();
            assert_eq!(survivor.answer("k"), response(LAST), "served, and not durable");
        }
    }
    writer.join().unwrap();
}

/// What a list is about to read is replaced by what another holder left when it failed.
#[test]
fn what_replaces_a_listed_record_is_not_listed_in_its_place() {
    check(|| {
        let (store, _sim) = about_to_be_recycled();
        let writer = {
            let store = store.clone();
            thread::spawn(move || {
                store.housekeep().unwrap();
                store.claim("other").fail(b"500").unwrap();
            })
        };
        let listed: Vec<_> = store.entries(Filter::ALL).map(Result::unwrap).collect();
        assert!(listed.len() <= 1, "{listed:?}");
        let completed = listed.iter().any(|entry| matches!(entry.state, State::Completed(_)));
        assert!(!completed, "{listed:?}");
        writer.join().unwrap();
    });
}

#[test]
fn a_record_that_is_looked_up_is_not_replaced_by_one_that_is_not_durable() {
    check(replaced_while_looked_up);
}

/// When `drain` says that nobody holds a claim, nobody will.
#[test]
fn a_drained_store_has_no_holders_and_gets_none() {
    check(|| {
        let (store, _sim) = threaded_sim(Durability::Buffered { max_delay: SECOND });
        let drained = Arc::new(AtomicBool::new(false));
        let holders = ["a", "b"].map(|name| {
            let (store, drained) = (store.clone(), drained.clone());
            thread::spawn(move || match store.begin(key(name), print()) {
                Ok(Begin::Execute(mut claim)) => {
                    assert!(!drained.load(SeqCst), "granted after the last holder had gone");
                    claim.complete(b"done").unwrap();
                }
                Ok(found) => panic!("{found:?}"),
                Err(error) => assert_eq!(error, BeginError::Closed),
            })
        });
        if store.drain(MINUTE) == 0 {
            drained.store(true, SeqCst);
        }
        holders.into_iter().for_each(|holder| holder.join().unwrap());
    });
}

/// Three callers of one key in each setting, the store's threads among them: one executes.
#[test]
fn one_of_many_executes() {
    check(|| {
        let buffered = Durability::Buffered { max_delay: 10 * MS };
        for durability in [Durability::Synced, Durability::SyncedCompletions, buffered] {
            let (store, _sim) = threaded_sim(durability);
            let executed = Arc::new(AtomicUsize::new(0));
            let callers = [(); 3].map(|()| {
                let (store, executed) = (store.clone(), executed.clone());
                thread::spawn(move || {
                    let ran = store.once(key("k"), print()).wait(HOUR).run(|_| {
                        executed.fetch_add(1, SeqCst);
                        Ok::<_, WorkError<()>>(b"once".to_vec())
                    });
                    assert!(ran.is_ok(), "{ran:?}");
                })
            });
            callers.into_iter().for_each(|caller| caller.join().unwrap());
            assert_eq!(executed.load(SeqCst), 1);
            store.close().unwrap();
        }
    });
}

/// The ring holds a fifth of all records: tasks that wait for room are polled until they have it, or
/// dropped when they have waited for a while, beside a thread that makes room by itself. Of the
/// other class a task waits for what is drained. Segments fill as well.
fn all_have_their_turn(retention: Option<Duration>) {
    let sim = Sim::with(|options| {
        let durability = Durability::Buffered { max_delay: HOUR };
        let options = options.background(true).durability(durability).ring_bytes(0);
        options.segment_bytes(64 << 10).capacity(512 << 10)
    });
    let store = sim.open();
    let callers = [0, 1, 2].map(|caller| {
        let store = store.clone();
        thread::spawn(move || {
            for n in 0..20 {
                let name = format!("{caller}-{n}");
                let response = &[caller; 4000][..];
                let retention = retention.map(Retention::from);
                let completion = Completion { response: Some(response), retention, head: b"" };
                if caller == 0 {
                    store.claim(&name).complete_with(completion).unwrap();
                    continue;
                }
                let face = AsyncStore::new(store.clone());
                let begun = block_on(face.begin(key(&name), print())).unwrap();
                let mut claim = granted(begun);
                let polls = if caller == 1 { u64::MAX } else { n % 4 };
                let ended = polled(claim.complete_with(completion), polls);
                assert!(ended.is_none_or(|ended| ended.is_ok()));
            }
        })
    });
    callers.into_iter().for_each(|caller| caller.join().unwrap());
    for n in 0..20 {
        assert_eq!(store.answer(&format!("0-{n}")), [0; 4000]);
        assert_eq!(store.answer(&format!("1-{n}")), [1; 4000]);
    }
    store.close().unwrap();
}

#[test]
fn all_who_find_the_ring_full_have_their_turn() {
    check(|| all_have_their_turn(None));
}

#[test]
fn all_who_find_the_ring_of_another_class_full_have_their_turn() {
    check(|| all_have_their_turn(Some(2 * HOUR)));
}

/// Each of these mistakes of `src/broken.rs` is met by the schedules.
#[cfg(onlyonce_broken)]
#[test]
fn known_mistakes_are_met() {
    const CAUGHT_BY: &[(&str, &str)] = &[
        ("VisibleBeforeDurable", "a_record_is_served_whole_while_its_segment_is_recycled"),
        ("ReuseBeforeSweep", "a_record_is_served_whole_while_its_segment_is_recycled"),
    ];
    if std::env::var_os("ONLYONCE_BROKEN").is_some() {
        return;
    }
    for (variant, test) in CAUGHT_BY {
        let ended = std::process::Command::new(std::env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture"])
            .current_dir(tempfile::tempdir().unwrap().path())
            .env("ONLYONCE_BROKEN", variant)
            .env("SCHEDULES", "20000")
            .env("RUST_BACKTRACE", "0")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ended.stdout);
        assert!(said.contains("running 1 test"), "there is no test {test}");
        assert!(!ended.status.success(), "{variant} is not caught by {test}");
    }
}
