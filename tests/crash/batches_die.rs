//! A process or the power dies in the middle of a batch: each of its requests is where it would be
//! had it been called alone.

use crate::common::*;
use onlyonce::storage::Fault;
use onlyonce::*;

const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

fn sim(seed: u64, durability: Durability) -> Sim {
    let sim = Sim::with(|options| options.durability(durability));
    Sim { disk: storage::SimStorage::new(seed), ..sim }
}

fn begin_all(store: &Store) -> Vec<Result<Begin, BeginError>> {
    store.begin_many(NAMES.map(|name| (key(name), print())))
}

/// The call of the disk that fails is each one in turn, of a batch of claims and of their
/// completion; then the power goes.
#[test]
fn what_was_acknowledged_is_there_and_nothing_is_half() {
    for durability in [Durability::Synced, Durability::SyncedCompletions] {
        let mut seen = [false; 3];
        for nth in 1..60 {
            let mut sim = sim(nth, durability);
            let store = sim.open();
            store.finish("first", b"takes a segment into use");
            sim.disk.fault_at(sim.disk.calls() + nth, Fault::Crash);
            let mut claims: Vec<_> =
                begin_all(&store).into_iter().map(|begin| begin.map(granted)).collect();
            let granted: Vec<bool> = claims.iter().map(Result::is_ok).collect();
            let mut held: Vec<_> = claims.iter_mut().flatten().collect();
            let all = held.iter_mut().map(|claim| (&mut **claim, &b"done"[..]));
            let mut completed = store.complete_many(all).into_iter();
            let acknowledged =
                granted.iter().map(|granted| *granted && completed.next().unwrap().is_ok());
            let acknowledged: Vec<bool> = acknowledged.collect();
            let store = sim.power_cut_and_open();
            for ((name, granted), acknowledged) in NAMES.iter().zip(&granted).zip(&acknowledged) {
                match store.ask(name) {
                    Begin::Replay(record) => {
                        assert_eq!(record.response(), Some(&b"done"[..]));
                        seen[0] |= !acknowledged;
                    }
                    Begin::Interrupted(stuck) => {
                        assert!(!acknowledged, "{nth}: {name} was acknowledged");
                        assert_eq!(stuck.reason(), Reason::Crashed);
                        seen[1] = true;
                    }
                    Begin::Execute(_) => {
                        let promised = *granted && durability == Durability::Synced;
                        assert!(!acknowledged && !promised, "{nth}: the claim of {name} is gone");
                        seen[2] = true;
                    }
                    other => panic!("{nth}: {other:?}"),
                }
            }
        }
        // It was worth trying.
        assert!(seen[1] && seen[2], "{seen:?}");
    }
}

#[test]
fn a_kill_leaves_each_claim_interrupted() {
    for durability in [Durability::Synced, Durability::Buffered { max_delay: HOUR }] {
        let mut sim = sim(1, durability);
        let store = sim.open();
        let mut claims: Vec<_> =
            begin_all(&store).into_iter().map(|begin| granted(begin.unwrap())).collect();
        let some = claims[..3].iter_mut().map(|claim| (claim, &b"done"[..]));
        assert!(store.complete_many(some).iter().all(Result::is_ok));
        let again = sim.kill_and_open();
        for (at, name) in NAMES.iter().enumerate() {
            match at < 3 {
                true => assert_eq!(again.answer(name), b"done"),
                false => assert_eq!(again.stuck(name).reason(), Reason::Crashed),
            }
        }
        drop(claims);
    }
}
