//! S7: callers, the sweeper and the clock meet at an expiring key. Each caller gets the old
//! answer or there is one fresh claim; never two, never an execution without one.

use crate::common::*;
use onlyonce::*;
use std::{
    sync::{
        Barrier,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

const CALLERS: usize = 3;

/// One round: `CALLERS` begin, one sweeps, one lets the last instant pass.
fn round(sim: &Sim, store: &Store, name: &str) -> (u64, u64) {
    store.finish(name, b"old");
    sim.clock.advance(MINUTE - MS);
    let (claims, replays) = (AtomicU64::new(0), AtomicU64::new(0));
    let (start, end) = (Barrier::new(CALLERS + 2), Barrier::new(CALLERS + 2));
    thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                start.wait();
                let begin = store.ask(name);
                match &begin {
                    Begin::Execute(claim) => {
                        assert_eq!((claim.attempt(), claim.after()), (1, None));
                        claims.fetch_add(1, Ordering::SeqCst);
                    }
                    Begin::Replay(record) => {
                        assert_eq!(record.response(), Some(&b"old"[..]));
                        replays.fetch_add(1, Ordering::SeqCst);
                    }
                    Begin::InFlight(_) => {}
                    other => panic!("{other:?}"),
                }
                end.wait();
            });
        }
        scope.spawn(|| {
            start.wait();
            store.housekeep().unwrap();
            store.housekeep().unwrap();
            end.wait();
        });
        start.wait();
        sim.clock.advance(MS);
        end.wait();
    });
    (claims.into_inner(), replays.into_inner())
}

#[test]
fn one_fresh_claim_or_the_old_answer() {
    must_end(|| {
        let sim = Sim::with(|options| {
            options.retention(MINUTE).durability(Durability::Buffered { max_delay: HOUR })
        });
        let store = sim.open();
        let (mut fresh, mut all_replayed) = (0, 0);
        for n in 0..400 {
            let name = format!("key {n}");
            let (claims, replays) = round(&sim, &store, &name);
            assert!(claims <= 1, "two fresh claims");
            assert!(claims == 1 || replays == CALLERS as u64, "no claim and no answer");
            fresh += claims;
            all_replayed += u64::from(claims == 0);
            // Whoever comes after the sweep finds what the race left.
            if claims == 0 {
                assert_eq!(store.claim(&name).attempt(), 1);
            } else {
                assert_eq!(store.stuck(&name).reason(), Reason::Dropped);
            }
            store.resolve(key(&name), Resolution::Free).unwrap();
        }
        assert_eq!(fresh + all_replayed, 400);
        assert!(store.stats().segment_bytes <= 3 << 20, "swept segments are used again");
    });
}
