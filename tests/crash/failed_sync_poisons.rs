//! R6, R13: after a write or sync that failed nothing is acknowledged any more, what had been
//! acknowledged is served on; and what a reopened store serves survives the next loss of power,
//! though the kernel may have called pages clean that the disk never got.

use crate::reference::{begin, claim, complete, look, open, replays, response, small};
use onlyonce::{
    Begin, BeginError, ClaimError, Durability, KeyState, ManualClock, Options, Retry, State, Store,
    StoreError,
    storage::{Fault, SimStorage},
};
use std::{io::ErrorKind, time::Duration};

const BEFORE: usize = 20;

fn settings(clock: &ManualClock) -> [Options; 3] {
    let delay = Durability::Buffered { max_delay: Duration::from_millis(5) };
    [Durability::Synced, Durability::SyncedCompletions, delay]
        .map(|durability| small(clock).durability(durability))
}

fn key(number: usize) -> String {
    format!("key-{number}")
}

fn filled(options: &Options, disk: &SimStorage) -> Store {
    let store = open(options, disk).unwrap();
    for number in 0..BEFORE {
        complete(&store, &key(number), &response(number, 1000));
    }
    store.flush().unwrap();
    store
}

/// Completes one key after the other, the disk failing at its `strike`th call from now; returns
/// how many more were acknowledged, if the store was poisoned.
fn strike(store: &Store, disk: &SimStorage, strike: u64, fault: Fault) -> Option<usize> {
    disk.fault_at(disk.calls() + strike, fault);
    for number in BEFORE..BEFORE + 30 {
        let mut claim = match begin(store, &key(number)) {
            Ok(Begin::Execute(claim)) => claim,
            Err(BeginError::Poisoned) => return Some(number),
            other => panic!("{other:?}"),
        };
        let completed = claim.complete(&response(number, 1000)).map_err(StoreError::from);
        match completed.and_then(|()| store.flush()) {
            Ok(()) => {}
            Err(error @ StoreError::Poisoned) => {
                assert_eq!(error.key_state(), KeyState::Unknown);
                assert_eq!(error.retry(), Retry::AfterReopen);
                return Some(number);
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    None
}

#[test]
fn nothing_is_acknowledged_after_it_and_nothing_acknowledged_is_lost() {
    let faults = [Fault::Error(ErrorKind::Other), Fault::ShortWrite];
    let mut poisoned = 0;
    for at in 1..60 {
        for (setting, options) in
            settings(&ManualClock::at(crate::reference::T0)).into_iter().enumerate()
        {
            let disk = SimStorage::new(at);
            let store = filled(&options, &disk);
            let fault = faults[at as usize % 2];
            let Some(acknowledged) = strike(&store, &disk, at, fault) else { continue };
            poisoned += 1;
            assert!(store.stats().poisoned.is_some());
            // Served on.
            for number in 0..acknowledged {
                replays(&store, &key(number), &response(number, 1000));
            }
            // Refused from now on.
            assert_eq!(store.flush(), Err(StoreError::Poisoned));
            assert!(matches!(begin(&store, "new"), Err(BeginError::Poisoned)));
            assert!(store.close().is_err());

            // The same kernel goes on; the page cache is what it is.
            let disk = disk.kill();
            let store = open(&options, &disk)
                .unwrap_or_else(|e| panic!("call {at}, setting {setting}: {e:?}"));
            for number in 0..acknowledged {
                replays(&store, &key(number), &response(number, 1000));
            }
            let undecided = look(&store, &key(acknowledged)).unwrap();
            // Whatever it is now, it was served, so it stays.
            drop(store);
            for _ in 0..3 {
                let store = open(&options, &disk.power_cut()).unwrap();
                for number in 0..acknowledged {
                    replays(&store, &key(number), &response(number, 1000));
                }
                let now = look(&store, &key(acknowledged)).unwrap();
                match (&undecided, &now) {
                    (None, None) => {}
                    (Some(was), Some(is)) => {
                        assert_eq!(was.token, is.token);
                        let completed = |entry: &onlyonce::Entry| match &entry.state {
                            State::Completed(record) => record.response().map(<[u8]>::to_vec),
                            _ => None,
                        };
                        assert_eq!(completed(was), completed(is));
                    }
                    _ => panic!("call {at}, setting {setting}: {undecided:?} became {now:?}"),
                }
            }
        }
    }
    assert!(poisoned > 50, "only {poisoned} faults have struck");
}

#[test]
fn a_holder_learns_it_at_each_call() {
    let (clock, disk) = (ManualClock::at(crate::reference::T0), SimStorage::new(5));
    let store = filled(&small(&clock), &disk);
    let mut held = claim(&store, "held");
    let other = claim(&store, "other");
    for at in 1..8 {
        disk.fault_at(disk.calls() + at, Fault::Error(ErrorKind::Other));
    }
    assert!(held.complete(b"never acknowledged").is_err());
    assert_eq!(held.complete(b"never acknowledged"), Err(ClaimError::Poisoned));
    assert_eq!(held.save_checkpoint(b"half"), Err(ClaimError::Poisoned));
    assert_eq!(held.ensure_durable(), Err(ClaimError::Poisoned));
    assert_eq!(held.fail(b"sorry"), Err(ClaimError::Poisoned));
    assert_eq!(other.release(), Err(ClaimError::Poisoned));
}
