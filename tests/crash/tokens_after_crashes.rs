//! R15: a token that was given out, acknowledged or not, is never given out again: not after a
//! crash of any kind, and not by a store that was restored from an older copy.

use crate::reference::{Rng, begin, claim, open, small};
use onlyonce::{
    Begin, Durability, ManualClock, OpenError, Store,
    storage::{Fault, SimStorage},
};
use std::time::Duration;

/// Gives out tokens until something fails; returns the highest.
fn give_out(store: &Store, rng: &mut Rng, above: u64) -> u64 {
    let mut highest = above;
    for _ in 0..1 + rng.below(30) {
        let key = format!("key-{}", rng.next());
        let token = match begin(store, &key) {
            Ok(Begin::Execute(claim)) => claim.token().get(),
            _ => return highest,
        };
        assert!(token > highest, "{token} is not above {highest}");
        highest = token;
        if rng.one_in(3) {
            let Ok(Begin::Interrupted(stuck)) = begin(store, &key) else { return highest };
            let Ok(Begin::Execute(second)) = stuck.take_over() else { return highest };
            assert!(second.token().get() > highest);
            highest = second.token().get();
            drop(second);
        }
    }
    highest
}

#[test]
fn any_crash_at_any_call() {
    let buffered = Durability::Buffered { max_delay: Duration::from_secs(1) };
    for (wall, seed) in [(1_000, 1), (crate::reference::T0, 2)] {
        for durability in [Durability::Synced, Durability::SyncedCompletions, buffered] {
            let clock = ManualClock::at(wall);
            let options = small(&clock).durability(durability).max_claims(4000);
            let mut rng = Rng(seed);
            let mut disk = SimStorage::new(seed);
            let mut highest = 0;
            for life in 0..60 {
                if rng.one_in(2) {
                    disk.fault_at(1 + rng.below(70) as u64, Fault::Crash);
                }
                match open(&options, &disk) {
                    Ok(store) => {
                        highest = give_out(&store, &mut rng, highest);
                        if rng.one_in(4) {
                            let _ = store.close();
                        }
                    }
                    // A crash leaves nothing behind that can't be.
                    Err(error @ OpenError::Damaged { .. }) => panic!("{error}"),
                    Err(_) => {}
                }
                disk = if rng.one_in(2) { disk.kill() } else { disk.power_cut() };
                if life % 10 == 9 {
                    clock.advance(Duration::from_secs(1));
                }
            }
        }
    }
}

#[test]
fn a_restored_copy_goes_on_above_what_it_has_never_seen() {
    let clock = ManualClock::at(crate::reference::T0);
    let options = small(&clock);
    let disk = SimStorage::new(4);
    let store = open(&options, &disk).unwrap();
    let before = claim(&store, "before").token();
    store.close().unwrap();
    let copy = disk.snapshot();
    let mut highest = before;
    for life in 0..5 {
        clock.advance(Duration::from_secs(2));
        let store = open(&options, &disk).unwrap();
        for number in 0..20 {
            let token = claim(&store, &format!("life {life}, {number}")).token();
            assert!(token > highest);
            highest = token;
        }
        store.close().unwrap();
    }
    clock.advance(Duration::from_secs(2));
    let store = open(&options, &SimStorage::from_files(5, copy)).unwrap();
    assert!(claim(&store, "after").token() > highest);
}
