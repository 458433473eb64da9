//! An opening that loses power at any of its calls, after a life whose last writes no sync had
//! covered: what was durable before it began is there after it.

use crate::common::*;
use onlyonce::{
    storage::{Fault, SimStorage},
    *,
};

/// Lets the power go at each call of an opening of what `live` leaves, several times, and looks at
/// what the next one finds.
fn at_each_call(durability: Durability, live: impl Fn(&Store), look: impl Fn(&Store)) {
    let mut strikes = 0;
    for strike in 1.. {
        let sim = Sim::with(|options| options.durability(durability).segment_bytes(64 << 10));
        let mut sim = Sim { disk: SimStorage::new(strike), ..sim };
        let store = sim.open();
        live(&store);
        sim.disk = sim.disk.kill();
        drop(store);
        sim.disk.fault_at(sim.disk.calls() + strike, Fault::Crash);
        if sim.try_open().is_ok() {
            break;
        }
        strikes = strike;
        let struck = sim.disk.clone();
        for _ in 0..10 {
            sim.disk = struck.power_cut();
            look(&sim.open());
        }
    }
    assert!(strikes > 20, "{strikes}");
}

/// The older version of the claim is durable, the newer one in the page cache.
#[test]
fn a_claim_of_two_versions() {
    let live = |store: &Store| {
        let mut claim = store.claim("k");
        // In sectors of its own.
        claim.save_checkpoint(&[7; 700]).unwrap();
        store.flush().unwrap();
        // Not waited for in this setting.
        claim.release().unwrap();
    };
    at_each_call(Durability::SyncedCompletions, live, |store| {
        assert_eq!(store.stuck("k").checkpoint(), Some(&[7; 700][..]));
    });
}

/// The records are in the ring and in the page cache.
#[test]
fn records_that_no_sync_has_covered() {
    let live = |store: &Store| (0..9).for_each(|n| store.finish(&n.to_string(), &[n; 2000]));
    at_each_call(Durability::Buffered { max_delay: HOUR }, live, |store| {
        for n in 0..9 {
            // It may be lost, and is not damaged.
            match store.ask(&n.to_string()) {
                Begin::Replay(record) => assert_eq!(record.response(), Some(&[n; 2000][..])),
                Begin::Execute(_) | Begin::Interrupted(_) => {}
                other => panic!("{other:?}"),
            }
        }
    });
}
