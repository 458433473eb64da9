//! A record whose expiry somebody has seen (its key was claimed anew) stays expired, whatever
//! crash follows and wherever the wall clock is set back to meanwhile.

use crate::reference::{begin, claim, complete, ms, open, small};
use onlyonce::{Begin, Durability, ManualClock, storage::SimStorage};

#[test]
fn after_any_crash_with_the_clock_set_back() {
    let buffered = Durability::Buffered { max_delay: ms(5) };
    for durability in [Durability::Synced, Durability::SyncedCompletions, buffered] {
        for power in [false, true] {
            for released in [false, true] {
                let clock = ManualClock::at(crate::reference::T0);
                let options = small(&clock).durability(durability);
                let disk = SimStorage::new(3);
                let store = open(&options, &disk).unwrap();
                complete(&store, "key", b"old");
                store.flush().unwrap();
                clock.advance(ms(crate::reference::RETENTION_MS));
                let fresh = claim(&store, "key");
                if released {
                    fresh.release().unwrap();
                } else {
                    std::mem::forget(fresh);
                }
                // In the settings that don't wait, the rest of it may go with the power.
                if power && durability != Durability::Synced {
                    store.flush().unwrap();
                }
                let disk = if power { disk.power_cut() } else { disk.kill() };
                clock.set_wall(crate::reference::T0 + 1);
                let store = open(&options, &disk).unwrap();
                let found = begin(&store, "key");
                let right = match &found {
                    Ok(Begin::Execute(_)) => released,
                    Ok(Begin::Interrupted(_)) => true,
                    _ => false,
                };
                assert!(right, "{durability:?}, power {power}, released {released}: {found:?}");
            }
        }
    }
}
