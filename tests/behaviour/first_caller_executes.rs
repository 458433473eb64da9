//! S1 and rule 1: among any number of concurrent callers exactly one gets the claim, and after
//! its completion all get the same answer.

use crate::common::*;
use onlyonce::*;
use std::{
    collections::BTreeSet,
    sync::{Barrier, Mutex},
    thread,
};

#[test]
fn an_absent_key_is_granted_as_a_first_attempt() {
    let (store, _) = store();
    let claim = store.claim("k");
    assert_eq!((claim.attempt(), claim.checkpoint(), claim.after()), (1, None, None));
    assert_eq!(store.stats().granted, 1);
    assert_eq!(store.stats().holders, 1);
}

#[test]
fn a_thousand_threads_begin_one_key_and_one_executes() {
    must_end(|| {
        let (store, _) = threaded();
        let barrier = Barrier::new(1000);
        let claims = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..1000 {
                scope.spawn(|| {
                    barrier.wait();
                    match store.ask("k") {
                        Begin::Execute(claim) => claims.lock().unwrap().push(claim),
                        Begin::InFlight(_) => {}
                        other => panic!("{other:?}"),
                    }
                });
            }
        });
        let mut claims = claims.into_inner().unwrap();
        assert_eq!(claims.len(), 1);
        assert_eq!(store.stats().saw_in_flight, 999);
        claims[0].complete(b"order 1").unwrap();
        thread::scope(|scope| {
            for _ in 0..1000 {
                scope.spawn(|| assert_eq!(store.answer("k"), b"order 1"));
            }
        });
        assert_eq!(store.stats().granted, 1);
    });
}

#[test]
fn of_racing_callers_one_executes_key_after_key() {
    must_end(|| {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::new().durability(Durability::Buffered { max_delay: SECOND });
        let store = options.open(dir.path()).unwrap();
        let barrier = Barrier::new(4);
        let executed = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..500 {
                        let name = round.to_string();
                        barrier.wait();
                        match store.ask(&name) {
                            Begin::Execute(mut claim) => {
                                executed.lock().unwrap().push((round, claim.token()));
                                claim.complete(name.as_bytes()).unwrap();
                            }
                            Begin::InFlight(_) => {}
                            Begin::Replay(record) => {
                                assert_eq!(record.response(), Some(name.as_bytes()));
                            }
                            other => panic!("{other:?}"),
                        }
                    }
                });
            }
        });
        let executed = executed.into_inner().unwrap();
        let rounds: BTreeSet<_> = executed.iter().map(|(round, _)| round).collect();
        let tokens: BTreeSet<_> = executed.iter().map(|(_, token)| token).collect();
        assert_eq!((executed.len(), rounds.len(), tokens.len()), (500, 500, 500));
    });
}

#[test]
fn a_store_in_memory_is_a_whole_one() {
    let store = Store::in_memory().unwrap();
    store.finish("k", b"order 1");
    assert_eq!(store.answer("k"), b"order 1");
    // Each is one of its own.
    let other = Store::in_memory().unwrap();
    assert!(other.is_absent("k"));
    let refused = Options::new().retention(MS).open_in_memory();
    assert!(matches!(refused, Err(OpenError::Options { .. })));
    drop(store.claim("stuck"));
    assert_eq!(store.stuck("stuck").reason(), Reason::Dropped);
    store.close().unwrap();
}
