//! S18: ten thousand retries of one completed key get the same answer while other keys go on.

use crate::common::*;
use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

#[test]
fn it_is_replayed_to_all_while_others_are_executed() {
    must_end(|| {
        let dir = tempfile::tempdir().unwrap();
        let store = onlyonce::Options::new().max_response(4096).open(dir.path()).unwrap();
        store.finish("hot", &[7; 1024]);
        let hot_over = AtomicBool::new(false);
        let others = thread::scope(|scope| {
            let retries: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        (0..2500).for_each(|_| assert_eq!(store.answer("hot"), [7; 1024]));
                    })
                })
                .collect();
            let others = scope.spawn(|| {
                let mut done = 0;
                while !hot_over.load(Ordering::Relaxed) || done < 20 {
                    store.finish(&done.to_string(), b"cold");
                    done += 1;
                }
                done
            });
            retries.into_iter().for_each(|retry| retry.join().unwrap());
            hot_over.store(true, Ordering::Relaxed);
            others.join().unwrap()
        });
        let stats = store.stats();
        assert_eq!(stats.replayed, 10_000);
        assert_eq!((stats.granted, stats.records), (others + 1, others + 1));
    });
}

#[test]
fn it_is_in_flight_to_all_while_it_runs() {
    must_end(|| {
        let (store, _) = threaded();
        let mut claim = store.claim("hot");
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..2500).for_each(|_| assert!(store.is_in_flight("hot"))));
            }
        });
        assert_eq!((store.stats().saw_in_flight, store.stats().waiters), (10_000, 0));
        claim.complete(b"done").unwrap();
        assert_eq!(store.answer("hot"), b"done");
    });
}
