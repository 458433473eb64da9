//! A failed holder whose handle lives keeps its key; the segment in which its answer lies may be
//! used again meanwhile.

use crate::common::*;
use onlyonce::*;

#[test]
fn the_key_stays_interrupted() {
    for durability in [Durability::Synced, Durability::SyncedCompletions] {
        let sim = Sim::with(|options| options.durability(durability).interrupted_retention(MINUTE));
        let store = sim.open();
        (0..10).for_each(|n| store.finish(&format!("before {n}"), &[7; 4000]));
        let mut failed = store.claim("failed");
        failed.fail(b"500").unwrap();
        for round in 0..20 {
            sim.clock.advance(DAY);
            store.housekeep().unwrap();
            // Something else in the segments that have become free, and not as much.
            store.finish(&format!("k{round}"), &[7; 40]);
            let stuck = store.stuck("failed");
            assert_eq!((stuck.reason(), stuck.holder_gone()), (Reason::Failed, false), "{round}");
            assert_eq!(stuck.answer().map(|answer| &answer[..]), Some(&b"500"[..]), "{round}");
            let entry = store.get(key("failed")).unwrap().unwrap();
            assert!(matches!(entry.state, State::Interrupted { .. }), "{round}: {entry:?}");
        }
        assert!(store.stats().segments_recycled > 0);
        failed.complete(b"done").unwrap();
        assert_eq!(store.answer("failed"), b"done");
    }
}
