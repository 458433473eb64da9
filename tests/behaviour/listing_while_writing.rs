//! S23: listing by state, also while others write: a key that exists throughout is seen exactly
//! once.

use crate::common::*;
use onlyonce::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

/// How often each key is listed.
fn listed(store: &Store, filter: Filter) -> BTreeMap<Vec<u8>, u32> {
    let mut counts = BTreeMap::new();
    for entry in store.entries(filter) {
        *counts.entry(entry.unwrap().key.key().to_vec()).or_insert(0) += 1;
    }
    counts
}

#[test]
fn by_state() {
    let (store, clock) = store();
    store.finish("done", b"order 1");
    let mut running = store.claim("running");
    running.save_checkpoint(b"half").unwrap();
    clock.advance(SECOND);
    let mut failed = store.claim("failed");
    failed.fail(b"500").unwrap();
    let names = |filter| listed(&store, filter).into_keys().collect::<Vec<_>>();
    assert_eq!(names(Filter::COMPLETED), [b"done"]);
    assert_eq!(names(Filter::IN_FLIGHT), [b"running"]);
    assert_eq!(names(Filter::INTERRUPTED), [b"failed"]);
    assert_eq!(names(Filter::default()).len(), 3);

    let entry = |name| store.get(key(name)).unwrap().unwrap();
    let State::InFlight { running_for, checkpoint, .. } = entry("running").state else { panic!() };
    assert_eq!((running_for, checkpoint.as_deref()), (SECOND, Some(&b"half"[..])));
    let failed_entry = entry("failed");
    assert_eq!((failed_entry.token, failed_entry.attempts), (failed.token(), 1));
    let State::Interrupted { reason, at, holder_gone, answer, .. } = failed_entry.state else {
        panic!()
    };
    assert_eq!((reason, at, holder_gone), (Reason::Failed, T0 + 1000, false));
    assert_eq!(answer.as_deref(), Some(&b"500"[..]));
    let State::Completed(record) = entry("done").state else { panic!() };
    assert_eq!((record.response(), record.completed_at()), (Some(&b"order 1"[..]), T0));
}

#[test]
fn what_has_expired_is_not_listed() {
    let (store, clock) = store();
    store.finish("old", b"order 1");
    drop(store.claim("stuck"));
    clock.advance(DAY);
    store.finish("old", b"order 2");
    assert_eq!(listed(&store, Filter::COMPLETED), BTreeMap::from([(b"old".to_vec(), 1)]));
    clock.advance(6 * DAY);
    assert_eq!(store.entries(Filter::ALL).count(), 0);
}

/// Lists again and again while `writers` write.
fn while_writing(options: Options, rounds: usize) {
    let store = options.open_on(std::sync::Arc::new(storage::SimStorage::new(2))).unwrap();
    let fixed: BTreeSet<Vec<u8>> = (0..60).map(|n| format!("fixed {n}").into_bytes()).collect();
    let mut claims = Vec::new();
    for (n, name) in fixed.iter().enumerate() {
        let name = std::str::from_utf8(name).unwrap();
        match n % 3 {
            0 => store.finish(name, b"order"),
            1 => drop(store.claim(name)),
            _ => claims.push(store.claim(name)),
        }
    }
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for writer in 0..2 {
            let (store, over) = (&store, &over);
            scope.spawn(move || {
                for n in 0.. {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    let name = format!("{writer} {}", n % 500);
                    match store.ask(&name) {
                        Begin::Execute(mut claim) => claim.complete(name.as_bytes()).unwrap(),
                        _ => store
                            .resolve_with(key(&name), Resolution::Forget, ResolveOptions::forced())
                            .unwrap(),
                    }
                }
            });
        }
        // Some of the fixed keys change their state, too: they exist throughout all the same.
        let mut turns = claims.into_iter();
        for _ in 0..rounds {
            let counts = listed(&store, Filter::ALL);
            assert!(counts.values().all(|count| *count == 1), "listed twice");
            assert!(fixed.iter().all(|name| counts.contains_key(name)), "not listed");
            if let Some(mut claim) = turns.next() {
                claim.complete(b"order").unwrap();
            }
        }
        over.store(true, Ordering::Relaxed);
    });
}

fn options(clock: &ManualClock) -> Options {
    small(clock).background(true).capacity(64 << 20).max_claims(1000)
}

#[test]
fn every_key_that_exists_throughout_is_listed_once() {
    must_end(|| while_writing(options(&ManualClock::at(T0)), 100));
}

#[test]
fn also_with_one_hash_for_all() {
    must_end(|| while_writing(options(&ManualClock::at(T0)).hash_bits(0), 30));
}
