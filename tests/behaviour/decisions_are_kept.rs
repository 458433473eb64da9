//! Who decided what, when and why, with what was there before: durable before the decision is
//! carried out, and for longer than its key.

use crate::common::*;
use onlyonce::{
    decisions::{By, Decision, Outcome, Verdict, WasState},
    inspect::Inspection,
    storage::Storage,
    *,
};
use std::sync::Arc;

const KIM: By<'static> = By { actor: "kim", note: "INC-7: no charge at the provider" };

fn completed(response: &[u8]) -> Resolution<'_> {
    let completion = Completion { response: Some(response), ..Completion::default() };
    Resolution::Complete { fingerprint: None, completion }
}

/// One decision of each kind.
fn decide_all(store: &Store) {
    let mut stuck = store.claim("completed");
    stuck.save_checkpoint(b"charged?").unwrap();
    stuck.fail(b"504").unwrap();
    drop(stuck);
    store
        .resolve_with(key("completed"), completed(b"wrong"), ResolveOptions::new().by(KIM))
        .unwrap();
    let replace = Resolution::Replace { head: b"h", response: Some(b"right") };
    store.resolve_with(key("completed"), replace, ResolveOptions::new().by(KIM)).unwrap();
    store
        .resolve_with(key("completed"), Resolution::Forget, ResolveOptions::forced().by(KIM))
        .unwrap();
    let _held = store.claim("freed");
    store.resolve_with(key("freed"), Resolution::Free, ResolveOptions::forced()).unwrap();
}

fn check(decisions: &[Decision]) {
    let verdicts: Vec<_> = decisions.iter().map(|decision| decision.verdict).collect();
    assert_eq!(verdicts, [Verdict::Complete, Verdict::Replace, Verdict::Forget, Verdict::Free]);
    let [first, second, third, fourth] = decisions else { panic!() };
    assert_eq!((&*first.actor, &*first.note), (KIM.actor, KIM.note));
    assert_eq!((first.at_ms, first.key.key()), (T0, &b"completed"[..]));
    assert_eq!(first.was.state, WasState::Interrupted(Reason::Failed));
    assert_eq!(first.was.checkpoint.as_deref(), Some(&b"charged?"[..]));
    assert_eq!((first.was.answer.as_deref(), first.was.attempts), (Some(&b"504"[..]), 1));
    assert_eq!(first.answer.as_deref(), Some(&b"wrong"[..]));
    assert_eq!(second.was.answer, first.answer);
    assert_eq!((&*second.head, second.answer.as_deref()), (&b"h"[..], Some(&b"right"[..])));
    assert!(second.was.token > first.was.token);
    assert_eq!((third.was.state, &*third.was.head), (WasState::Completed, &b"h"[..]));
    assert_eq!(third.was.answer.as_deref(), Some(&b"right"[..]));
    assert_eq!((fourth.was.state, &*fourth.actor), (WasState::InFlight, ""));
    assert!(decisions.iter().all(|decision| decision.was.fingerprint == print()));
    assert!(decisions.windows(2).all(|two| two[0].number < two[1].number));
}

#[test]
fn each_kind_with_what_was_there_before() {
    for durability in [Durability::Synced, Durability::Buffered { max_delay: HOUR }] {
        let mut sim = Sim::with(|options| options.durability(durability));
        let store = sim.open();
        assert_eq!(store.decisions(), Ok(vec![]));
        decide_all(&store);
        check(&store.decisions().unwrap());
        assert!(store.decisions().unwrap().iter().all(|d| d.outcome == Outcome::Done));
        let store = sim.power_cut_and_open();
        check(&store.decisions().unwrap());
        // The next ones follow.
        drop(store.claim("more"));
        store.resolve(key("more"), Resolution::Free).unwrap();
        let store = sim.kill_and_open();
        check(&store.decisions().unwrap()[..4]);
        assert_eq!(store.decisions().unwrap().len(), 5);
        // Those who look from outside see them too.
        let disk = Arc::new(sim.disk.clone());
        let seen = Inspection::open_on(disk, sim.clock.clone(), None).unwrap();
        assert_eq!(seen.decisions().unwrap(), store.decisions().unwrap());
    }
}

#[test]
fn they_have_a_time_of_their_own() {
    let window = 30 * DAY;
    let sim = Sim::with(|options| options.retention(HOUR).decisions_kept(window));
    let store = sim.open();
    decide_all(&store);
    sim.clock.advance(window - MS);
    store.housekeep().unwrap();
    assert_eq!(store.decisions().unwrap().len(), 4);
    sim.clock.advance(MS);
    assert_eq!(store.decisions(), Ok(vec![]));
    // A file goes when its youngest has been kept long enough and there is a next one.
    let large = vec![7; 4000];
    let replace_many = |from: usize| {
        for n in from..from + 70 {
            let name = n.to_string();
            store.finish(&name, &large);
            let replace = Resolution::Replace { head: b"", response: Some(&large) };
            store.resolve(key(&name), replace).unwrap();
        }
    };
    replace_many(0);
    assert_eq!(store.decisions().unwrap().len(), 70);
    sim.clock.advance(window);
    store.housekeep().unwrap();
    replace_many(70);
    let files = sim.disk.list().unwrap();
    let files: Vec<_> = files.iter().filter(|name| name.starts_with("decisions-")).collect();
    assert!(!files.is_empty() && !files.contains(&&"decisions-000001".to_owned()), "{files:?}");
    assert_eq!(store.decisions().unwrap().len(), 70);
}

#[test]
fn what_is_refused_is_not_noted() {
    let (store, _) = store();
    store.finish("done", b"x");
    let _held = store.claim("held");
    let seen = store.get(key("done")).unwrap().unwrap().token;
    assert!(store.resolve(key("done"), Resolution::Forget).is_err());
    assert!(store.resolve_with(key("done"), completed(b"y"), ResolveOptions::forced()).is_err());
    assert!(store.resolve(key("held"), Resolution::Free).is_err());
    assert!(store.resolve_with(key("never"), Resolution::Free, ResolveOptions::forced()).is_err());
    assert!(
        store
            .resolve_with(
                key("held"),
                Resolution::Free,
                ResolveOptions::forced().seen(seen).by(KIM)
            )
            .is_err()
    );
    // An import is no decision about a key that is there.
    let import = Resolution::Complete {
        fingerprint: Some(print()),
        completion: Completion { response: Some(b"x"), ..Completion::default() },
    };
    store.resolve(key("imported"), import).unwrap();
    assert_eq!(store.decisions(), Ok(vec![]));
}

/// What a loss of power has torn, and what stood behind it, was never promised.
#[test]
fn a_torn_entry_ends_the_file_and_the_next_ones_follow() {
    let mut sim = Sim::new();
    let store = sim.open();
    decide_all(&store);
    store.close().unwrap();
    let file = sim.disk.open("decisions-000001").unwrap();
    let mut bytes = vec![0; file.size() as usize];
    file.read_at(0, &mut bytes).unwrap();
    // The third entry: each has a length and a checksum before it.
    let mut at = 32;
    for _ in 0..4 {
        at += 8 + u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    }
    file.write_at(at as u64 + 20, &[0xff; 4]).unwrap();
    file.sync().unwrap();
    let store = sim.kill_and_open();
    assert_eq!(store.decisions().unwrap().len(), 2);
    drop(store.claim("more"));
    store.resolve_with(key("more"), Resolution::Free, ResolveOptions::new().by(KIM)).unwrap();
    let decisions = sim.power_cut_and_open().decisions().unwrap();
    assert_eq!(decisions.len(), 3);
    assert_eq!(decisions[2].key.key(), b"more");
}

/// A verification reads them, and tells what was synced from what a loss of power can have torn.
#[test]
fn a_verification_reads_them() {
    let sim = Sim::new();
    let store = sim.open();
    decide_all(&store);
    let kept = store.decisions().unwrap().len() as u64;
    let report = store.verify(|_| ()).unwrap();
    assert_eq!((report.decisions, report.problems), (kept, vec![]));
    let file = sim.disk.open("decisions-000001").unwrap();
    let mut bytes = vec![0; file.size() as usize];
    file.read_at(0, &mut bytes).unwrap();
    let mut places = vec![32];
    while let len @ 1.. = {
        let at = *places.last().unwrap();
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    } {
        places.push(places.last().unwrap() + 8 + len as usize);
    }
    // A decision and its outcome, one after the other.
    let entries = places.len() - 1;
    assert_eq!(entries as u64, 2 * kept);
    for (entry, at) in places[..entries].iter().enumerate() {
        let at = *at as u64 + 9;
        file.write_at(at, &[!bytes[at as usize]]).unwrap();
        let report = store.verify(|_| ()).unwrap();
        // Of the last decision the outcome is not synced: without it, so may be nothing.
        let is_synced = entry < entries - 1;
        assert_eq!(report.problems.len(), usize::from(is_synced), "{entry}: {report:?}");
        assert_eq!(report.decisions, (entry as u64).div_ceil(2));
        file.write_at(at, &[bytes[at as usize]]).unwrap();
    }
}

#[test]
fn many_at_once_are_each_kept() {
    let (store, _) = threaded();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let store = &store;
            scope.spawn(move || {
                for n in 0..50 {
                    let name = format!("{thread}-{n}");
                    drop(store.claim(&name));
                    store
                        .resolve_with(key(&name), Resolution::Free, ResolveOptions::new().by(KIM))
                        .unwrap();
                }
            });
        }
    });
    let decisions = store.decisions().unwrap();
    assert_eq!(decisions.len(), 400);
    assert!(decisions.iter().all(|decision| decision.outcome == Outcome::Done));
    assert!(decisions.windows(2).all(|two| two[0].number < two[1].number));
}

#[test]
fn a_backup_has_them() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let store = small(&ManualClock::at(T0)).background(true).open(dirs[0].path()).unwrap();
    decide_all(&store);
    let copy = dirs[1].path().join("copy");
    store.backup(&copy).unwrap();
    let restored = dirs[1].path().join("restored");
    backup::restore(&copy, &restored).unwrap();
    let store = small(&ManualClock::at(T0)).open(&restored).unwrap();
    check(&store.decisions().unwrap());
}

/// An operator has to be able to make room first.
#[test]
fn without_room_for_its_record_nothing_is_decided() {
    let sim = Sim::new();
    let store = sim.open();
    drop(store.claim("stuck"));
    sim.disk.set_capacity(Some(sim.disk.len_total()));
    let refused = store.resolve(key("stuck"), Resolution::Free);
    assert_eq!(refused, Err(StoreError::StoreFull(Full::Disk)));
    assert_eq!(store.stuck("stuck").reason(), Reason::Dropped);
    sim.disk.set_capacity(None);
    store.resolve(key("stuck"), Resolution::Free).unwrap();
    assert_eq!(store.decisions().unwrap().len(), 1);
}
