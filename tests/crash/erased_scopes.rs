//! A scope is erased while the store works: nothing of it is left in any file, whatever state its keys
//! had; and at whichever call the process dies, the power goes or the disk fails, each of its keys is
//! still what it was, or gone, and no other key has lost anything. Erased again, it is gone.

use crate::common::*;
use onlyonce::{
    backup::{BackupOptions, restore},
    decisions::By,
    inspect::Inspection,
    storage::{Fault, SimStorage},
    *,
};
use std::{
    collections::BTreeMap,
    io::ErrorKind,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

const ALL: [Durability; 3] =
    [Durability::Synced, Durability::SyncedCompletions, Durability::Buffered { max_delay: SECOND }];

/// Is in the scope, in all keys and in all answers of the customer.
const NEEDLE: &[u8] = b"ALICE";
const KEYS: usize = 12;

fn alice() -> Scope {
    Scope::new("of ALICE").unwrap()
}

fn bob() -> Scope {
    Scope::new("of bob").unwrap()
}

fn answer(scope: &Scope, n: usize) -> Vec<u8> {
    let mut answer = scope.as_bytes().repeat(10 + 17 * n);
    answer.truncate(2500);
    answer
}

fn name(scope: &Scope, n: usize) -> String {
    format!("{} {n}", String::from_utf8_lossy(scope.as_bytes()))
}

fn begin(store: &Store, scope: &Scope, name: &str, terms: Terms) -> Claim {
    granted(store.begin_with(KeyRef::new(scope, name).unwrap(), print(), terms).unwrap())
}

fn finish(store: &Store, scope: &Scope, n: usize, terms: Terms) {
    let mut claim = begin(store, scope, &name(scope, n), terms);
    claim.complete(&answer(scope, n)).unwrap();
}

fn short() -> Terms {
    let minute = Retention { replay_for: MINUTE, remember_for: MINUTE };
    Terms { retention: Some(minute), ..Terms::default() }
}

/// Everything that a scope's keys can be, under names that end in a number.
fn fill(store: &Store, scope: &Scope, first: usize) {
    let forget = |n: usize| {
        let name = name(scope, n);
        let by = By { actor: "kim", note: "was asked to" };
        let forget = Resolution::Forget;
        store
            .resolve_with(
                KeyRef::new(scope, &name).unwrap(),
                forget,
                ResolveOptions::forced().by(by),
            )
            .unwrap();
    };
    for n in first..first + KEYS {
        finish(store, scope, n, Terms::default());
    }
    // Completed, forgotten, and completed again; or not; or half way.
    for (n, then) in [(first, 2), (first + 1, 1), (first + 2, 0)] {
        forget(n);
        match then {
            2 => finish(store, scope, n, Terms::default()),
            1 => drop(begin(store, scope, &name(scope, n), Terms::default())),
            _ => {}
        }
    }
    let other = answer(scope, 3);
    let replaced = Resolution::Replace { head: b"head", response: Some(&other) };
    store
        .resolve_with(
            KeyRef::new(scope, &name(scope, first + 3)).unwrap(),
            replaced,
            ResolveOptions::forced(),
        )
        .unwrap();
    // Undecided, with a checkpoint, which has been replaced; failed; given back.
    let mut claim = begin(store, scope, &name(scope, first + 100), Terms::default());
    claim.save_checkpoint(&answer(scope, 20)).unwrap();
    claim.save_checkpoint(&answer(scope, 5)).unwrap();
    drop(claim);
    let mut claim = begin(store, scope, &name(scope, first + 101), Terms::default());
    claim.fail(&answer(scope, 9)).unwrap();
    let long = format!("{}{}", name(scope, first + 102), "x".repeat(200));
    begin(store, scope, &long, Terms::default()).release().unwrap();
    finish(store, scope, first + 103, short());
}

/// A disk with both customers' keys, of three lives, the last of which was killed. Some have expired.
fn filled(durability: Durability) -> Sim {
    let mut sim = Sim::with(|options| {
        options.durability(durability).max_attempts(9).interrupted_retention(30 * DAY)
    });
    for life in 0..3 {
        let store = sim.open();
        for scope in [alice(), bob()] {
            fill(&store, &scope, 1000 * life);
        }
        sim.clock.advance(2 * MINUTE);
        store.housekeep().unwrap();
        finish(&store, &alice(), 1000 * life + 104, short());
        if life == 1 {
            store.close().unwrap();
        } else {
            store.flush().unwrap();
            sim.disk = sim.disk.kill();
        }
    }
    sim
}

/// What is known of all keys.
fn states(store: &Store) -> BTreeMap<(Vec<u8>, Vec<u8>), String> {
    let shown = |entry: &Entry| match &entry.state {
        State::Completed(record) => format!("{:?} {:?}", record.head(), record.response()),
        State::Interrupted { reason, checkpoint, answer, .. } => {
            format!("{reason} {checkpoint:?} {answer:?}")
        }
        other => panic!("{other:?}"),
    };
    let entries = store.entries(Filter::ALL).map(|entry| entry.unwrap());
    entries.map(|e| ((e.key.scope().to_vec(), e.key.key().to_vec()), shown(&e))).collect()
}

fn of(scope: &Scope, all: &BTreeMap<(Vec<u8>, Vec<u8>), String>) -> BTreeMap<Vec<u8>, String> {
    let those = all.iter().filter(|((of, _), _)| of == scope.as_bytes());
    those.map(|((_, key), state)| (key.clone(), state.clone())).collect()
}

#[track_caller]
fn has_nothing_of(needle: &[u8], disk: &SimStorage) {
    const PAGE: usize = 4096;
    for (file, bytes) in disk.snapshot() {
        for (at, page) in bytes.chunks(PAGE).enumerate() {
            // Most of a small store's files is blank.
            if *page != [0; PAGE][..page.len()] {
                let from = at * PAGE;
                let page = &bytes[from..bytes.len().min(from + PAGE + needle.len() - 1)];
                let found = page.windows(needle.len()).position(|window| window == needle);
                assert_eq!(found, None, "{file} has it, behind {from}");
            }
        }
    }
}

#[track_caller]
fn verifies(sim: &Sim, disk: &SimStorage) {
    let seen = Inspection::open_on(Arc::new(disk.clone()), sim.clock.clone(), None).unwrap();
    assert_eq!(seen.problems(), []);
    assert_eq!(seen.verify(|_| {}).problems, []);
    assert!(seen.items().all(|item| item.is_ok()));
}

fn open(sim: &Sim, disk: &SimStorage) -> Store {
    sim.options.open_on(Arc::new(disk.clone())).unwrap()
}

/// Of the customer nothing is left, and of the other everything, now and after everything that may
/// happen to the disk.
#[track_caller]
fn is_erased(sim: &Sim, disk: &SimStorage, store: Store, before: &BTreeMap<Vec<u8>, String>) {
    let check = |store: &Store, disk: &SimStorage| {
        has_nothing_of(NEEDLE, disk);
        assert_eq!(of(&alice(), &states(store)), BTreeMap::new());
        assert_eq!(of(&bob(), &states(store)), *before);
        assert_eq!(store.decisions().unwrap().len(), 12);
        assert!(store.get(KeyRef::new(&alice(), &name(&alice(), 5)).unwrap()).unwrap().is_none());
    };
    check(&store, disk);
    let copy = SimStorage::new(1);
    store.backup_on(&copy).unwrap();
    check(&open(sim, &copy), &copy);
    drop(store);
    for left in [disk.kill(), disk.power_cut()] {
        verifies(sim, &left);
        let store = open(sim, &left);
        check(&store, &left);
        // The keys are free again.
        finish(&store, &alice(), 5, Terms::default());
        let replay = store.begin(KeyRef::new(&alice(), &name(&alice(), 5)).unwrap(), print());
        assert!(matches!(replay, Ok(Begin::Replay(_))));
        store.close().unwrap();
        let store = open(sim, &left);
        assert_eq!(of(&alice(), &states(&store)).len(), 1);
        assert_eq!(of(&bob(), &states(&store)), *before);
    }
}

#[test]
fn nothing_of_a_customer_is_left_and_all_of_the_others() {
    for durability in ALL {
        let sim = filled(durability);
        let disk = sim.disk.kill();
        let store = open(&sim, &disk);
        let before = states(&store);
        assert!(of(&alice(), &before).len() > 3 * KEYS);
        let erased = store.erase_scope(&alice(), false).unwrap();
        assert_eq!(erased.keys, of(&alice(), &before).len() as u64);
        assert_eq!((erased.decisions, erased.held), (12, 0));
        is_erased(&sim, &disk, store, &of(&bob(), &before));
    }
}

/// Strikes at every call if `POINTS` is set, and else at some.
fn struck(durability: Durability, faults: &[Fault], step: usize) {
    let step = if std::env::var("POINTS").is_ok() { 1 } else { step };
    let sim = filled(durability);
    let calls = {
        let disk = sim.disk.kill();
        let store = open(&sim, &disk);
        let before = disk.calls();
        store.erase_scope(&alice(), false).unwrap();
        disk.calls() - before
    };
    for call in (1..=calls).step_by(step) {
        for (at, fault) in faults.iter().enumerate() {
            let disk = sim.disk.kill();
            let store = open(&sim, &disk);
            let before = states(&store);
            disk.fault_at(disk.calls() + call, *fault);
            let told = store.erase_scope(&alice(), false);
            assert!(told.is_err() || *fault != Fault::Crash, "{call}");
            drop(store);
            let left =
                if (at + call as usize).is_multiple_of(2) { disk.kill() } else { disk.power_cut() };
            verifies(&sim, &left);
            let store = open(&sim, &left);
            let after = states(&store);
            assert_eq!(of(&bob(), &after), of(&bob(), &before), "call {call}, {fault:?}");
            for (key, state) in of(&alice(), &after) {
                let then = of(&alice(), &before).remove(&key);
                assert_eq!(then, Some(state), "call {call}, {fault:?}");
            }
            store.erase_scope(&alice(), false).unwrap();
            is_erased(&sim, &left, store, &of(&bob(), &before));
        }
    }
}

#[test]
fn dying_or_losing_power_at_each_call() {
    struck(Durability::Synced, &[Fault::Crash, Fault::Crash], 31);
}

#[test]
fn dying_or_losing_power_where_claims_are_not_synced() {
    struck(Durability::SyncedCompletions, &[Fault::Crash, Fault::Crash], 97);
    struck(Durability::Buffered { max_delay: SECOND }, &[Fault::Crash, Fault::Crash], 89);
}

#[test]
fn a_disk_that_fails() {
    struck(Durability::Synced, &[Fault::Error(ErrorKind::Other), Fault::ShortWrite], 83);
}

/// A key that is held stays, with all that there is of it, and is counted.
#[test]
fn holders_are_left_in_peace_unless_it_is_said_aloud() {
    let sim = Sim::new();
    let store = sim.open();
    finish(&store, &alice(), 0, Terms::default());
    let long = Terms { lease: Some(2 * HOUR), ..Terms::default() };
    let mut claim = begin(&store, &alice(), &name(&alice(), 1), long);
    // Its lease has passed, and its handle lives.
    let mut lapsed = begin(&store, &alice(), &name(&alice(), 2), Terms::default());
    sim.clock.advance(HOUR);
    claim.save_checkpoint(b"ALICE was here").unwrap();
    let erased = store.erase_scope(&alice(), false).unwrap();
    assert_eq!((erased.keys, erased.held), (1, 2), "{erased:?}");
    claim.complete(b"done").unwrap();
    let erased = store.erase_scope(&alice(), true).unwrap();
    assert_eq!(erased.held, 0, "{erased:?}");
    assert!(matches!(lapsed.complete(b"late"), Err(ClaimError::Fenced)));
    has_nothing_of(NEEDLE, &sim.disk);
    assert_eq!(store.stats().interrupted + store.stats().in_flight, 0);
    store.close().unwrap();
    verifies(&sim, &sim.disk);
    assert!(states(&sim.open()).is_empty());
}

#[track_caller]
fn directory_has_nothing(path: &Path) {
    for file in std::fs::read_dir(path).unwrap() {
        let file = file.unwrap().path();
        let bytes = std::fs::read(&file).unwrap();
        let found = bytes.windows(NEEDLE.len()).position(|window| window == NEEDLE);
        assert_eq!(found, None, "{}", file.display());
    }
}

/// What a segment had before something in it was erased is not taken from an earlier backup.
#[test]
fn a_later_backup_takes_no_copy_of_before() {
    let (place, backups) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let options = small(&ManualClock::at(T0));
    let fill_all = |store: &Store, first| {
        fill(store, &alice(), first);
        fill(store, &bob(), first);
    };
    let store = options.open(place.path()).unwrap();
    fill_all(&store, 0);
    store.close().unwrap();
    let store = options.open(place.path()).unwrap();
    fill_all(&store, 1000);
    let before = states(&store);
    let [first, second, restored] = ["first", "second", "restored"].map(|n| backups.path().join(n));
    store.backup(&first).unwrap();
    store.erase_scope(&alice(), false).unwrap();
    directory_has_nothing(place.path());
    store.backup_with(&second, &BackupOptions::new().since(&first)).unwrap();
    directory_has_nothing(&second);
    restore(&second, &restored).unwrap();
    directory_has_nothing(&restored);
    let copy = options.open(&restored).unwrap();
    assert_eq!(of(&bob(), &states(&copy)), of(&bob(), &before));
    assert_eq!(of(&alice(), &states(&copy)), BTreeMap::new());
}

/// Others complete, replay, and use the same customer's keys at the same time.
#[test]
fn while_others_work() {
    let place = tempfile::tempdir().unwrap();
    let options = small(&ManualClock::at(T0)).background(true).capacity(32 << 20);
    let store = options.open(place.path()).unwrap();
    fill(&store, &alice(), 0);
    let stop = AtomicBool::new(false);
    let done = std::thread::scope(|threads| {
        let workers: Vec<_> = [bob(), bob(), alice()]
            .into_iter()
            .enumerate()
            .map(|(nth, scope)| {
                let (store, stop) = (&store, &stop);
                threads.spawn(move || {
                    let mut done = Vec::new();
                    for n in (1..2000).map(|n| 10_000 * (nth + 1) + n) {
                        if stop.load(Ordering::SeqCst) {
                            break;
                        }
                        let body = answer(&scope, n % 50);
                        let mut claim = begin(store, &scope, &name(&scope, n), Terms::default());
                        claim.complete(&body).unwrap();
                        done.push((n, body));
                        let (n, body) = &done[n * 7 % done.len()];
                        let name = name(&scope, *n);
                        let found = store.get(KeyRef::new(&scope, &name).unwrap()).unwrap();
                        match found.map(|entry| entry.state) {
                            Some(State::Completed(record)) => {
                                assert_eq!(record.response(), Some(&body[..]));
                            }
                            None if scope == alice() => {}
                            other => panic!("{other:?}"),
                        }
                    }
                    (scope, done)
                })
            })
            .collect();
        for _ in 0..5 {
            store.erase_scope(&alice(), false).unwrap();
        }
        stop.store(true, Ordering::SeqCst);
        let done = workers.into_iter().map(|worker| worker.join().unwrap());
        done.collect::<Vec<_>>()
    });
    assert_eq!(store.erase_scope(&alice(), false).unwrap().held, 0);
    directory_has_nothing(place.path());
    assert_eq!(store.verify(|_| {}).unwrap().problems, []);
    store.close().unwrap();
    directory_has_nothing(place.path());
    let store = options.open(place.path()).unwrap();
    for (scope, n, body) in
        done.iter().flat_map(|(s, done)| done.iter().map(move |d| (s, d.0, &d.1)))
    {
        let name = name(scope, n);
        let found = store.get(KeyRef::new(scope, &name).unwrap()).unwrap();
        match found.map(|entry| entry.state) {
            Some(State::Completed(record)) if *scope == bob() => {
                assert_eq!(record.response(), Some(&body[..]));
            }
            None if *scope == alice() => {}
            other => panic!("{other:?}"),
        }
    }
}
