//! R14: `Recovery::Salvage` says in how many places something was lost: one for each file that had
//! to be made anew or left out, and one for each claim, decision or torn end that doesn't read.

use crate::common::*;
use onlyonce::storage::SimStorage;
use onlyonce::*;
use std::collections::BTreeMap;

type Files = BTreeMap<String, Vec<u8>>;

fn options() -> Options {
    small(&ManualClock::at(T0)).segment_bytes(64 << 10)
}

/// Opens by salvage; how much was lost, and the store.
fn salvage(files: &Files) -> (u64, Store) {
    let disk = SimStorage::from_files(1, files.clone());
    let store = options().recovery(Recovery::Salvage).open_on(std::sync::Arc::new(disk)).unwrap();
    (store.stats().damaged_places, store)
}

/// The files of a store with some segments, closed or killed, after `live`.
fn files(closed: bool, live: impl FnOnce(&Store)) -> Files {
    let disk = SimStorage::new(1);
    let store = options().open_on(std::sync::Arc::new(disk.clone())).unwrap();
    live(&store);
    match closed {
        true => drop(store.close().unwrap()),
        false => return disk.kill().snapshot(),
    }
    disk.snapshot()
}

/// Flips a bit of the last place where `what` stands.
fn flip(files: &mut Files, file: &str, what: &[u8]) {
    let bytes = files.get_mut(file).unwrap();
    let at = last(bytes, what);
    bytes[at] ^= 1;
}

/// Where the bytes stand for the last time.
fn last(bytes: &[u8], what: &[u8]) -> usize {
    bytes.windows(what.len()).rposition(|window| window == what).unwrap()
}

fn segment_with(files: &Files, what: &[u8]) -> String {
    let holds = |bytes: &[u8]| bytes.windows(what.len()).any(|window| window == what);
    let found = files.iter().find(|(name, bytes)| name.starts_with("segment") && holds(bytes));
    found.unwrap().0.clone()
}

#[test]
fn nothing_where_nothing_is_damaged() {
    for closed in [true, false] {
        let files = files(closed, |store| store.finish("k", b"order 1"));
        let (lost, store) = salvage(&files);
        assert_eq!((lost, store.answer("k")), (0, b"order 1".to_vec()));
    }
}

#[test]
fn one_for_each_file_that_is_missing() {
    let whole = files(true, |store| {
        for n in 0..60 {
            store.finish(&n.to_string(), &[7; 4000]);
        }
    });
    let segments: Vec<_> = whole.keys().filter(|name| name.starts_with("segment")).collect();
    assert!(segments.len() >= 3);
    let without = |names: &[&str]| {
        let mut files = whole.clone();
        names.iter().for_each(|name| drop(files.remove(*name)));
        salvage(&files).0
    };
    assert_eq!(without(&["claims"]), 1);
    assert_eq!(without(&["ring"]), 1);
    assert_eq!(without(&["claims", "ring"]), 2);
    assert_eq!(without(&[segments[0], segments[2]]), 2);
    assert_eq!(without(&[segments[0], segments[2], "ring", "claims"]), 4);
}

#[test]
fn one_for_each_claim() {
    let mut files = files(true, |store| {
        for name in ["first claim", "second claim", "third claim"] {
            drop(store.claim(name));
        }
    });
    flip(&mut files, "claims", b"first claim");
    flip(&mut files, "claims", b"third claim");
    let (lost, store) = salvage(&files);
    assert_eq!(lost, 2);
    assert_eq!(store.stuck("second claim").attempts(), 1);
    files.remove("ring");
    assert_eq!(salvage(&files).0, 3);
}

#[test]
fn one_for_each_decision_of_an_operator() {
    let mut files = files(true, |store| {
        for name in ["first key", "second key", "third key"] {
            store.finish(name, b"wrong");
            store.resolve_with(key(name), Resolution::Forget, ResolveOptions::forced()).unwrap();
        }
    });
    for name in [&b"first key"[..], b"third key"] {
        let segment = segment_with(&files, name);
        flip(&mut files, &segment, name);
    }
    // Without salvage nothing is passed over: the key could come back.
    let disk = SimStorage::from_files(1, files.clone());
    let error = options().open_on(std::sync::Arc::new(disk)).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
    let (lost, store) = salvage(&files);
    assert_eq!(lost, 2);
    assert!(store.is_absent("second key"));
}

/// Without the decision between them a key has two answers.
#[test]
fn of_two_answers_the_later_one_stays_when_a_decision_is_lost() {
    let names: Vec<_> = (0..20).map(|n| format!("twice {n:02}")).collect();
    let disk = SimStorage::new(1);
    let open = || options().open_on(std::sync::Arc::new(disk.clone())).unwrap();
    let store = open();
    for name in &names {
        store.finish(name, b"the first answer");
        store.resolve_with(key(name), Resolution::Forget, ResolveOptions::forced()).unwrap();
    }
    store.close().unwrap();
    // The second answers follow in the same segment: where the decisions lie is known before.
    let before = disk.snapshot();
    let segment = segment_with(&before, b"the first answer");
    let decisions = names.iter().map(|name| last(&before[&segment], name.as_bytes()));
    let store = open();
    names.iter().for_each(|name| store.finish(name, b"the second answer"));
    store.close().unwrap();
    let mut files = disk.snapshot();
    decisions.for_each(|at| files.get_mut(&segment).unwrap()[at] ^= 1);
    let (lost, store) = salvage(&files);
    assert_eq!(lost, 20);
    names.iter().for_each(|name| assert_eq!(store.answer(name), b"the second answer"));
}

#[test]
fn one_for_each_segment_whose_durable_end_is_torn() {
    let mut files = files(false, |store| {
        store.finish("main", b"the answer of the main class");
        store.housekeep().unwrap();
        let week = Terms { retention: Some((7 * DAY).into()), ..Terms::default() };
        let begin = store.begin_with(key("class"), print(), week).unwrap();
        granted(begin).complete(b"the answer of another class").unwrap();
        // With its sync the claims file notes how far the log is durable.
        drop(store.claim("later"));
    });
    // What the ring still has would repair it.
    files.get_mut("ring").unwrap().fill(0);
    let [main, class] = [&b"the main class"[..], b"another class"].map(|a| segment_with(&files, a));
    assert_ne!(main, class);
    for answer in [&b"the answer of the main class"[..], b"the answer of another class"] {
        let segment = segment_with(&files, answer);
        flip(&mut files, &segment, answer);
    }
    assert_eq!(salvage(&files).0, 2);
}

/// A damaged record may be the completion of an undecided claim whose key has the same hash.
/// Without salvage nobody guesses; salvage lets the claim go, and the key says why.
#[test]
fn a_claim_beside_a_damaged_record_of_its_hash_is_passed_over() {
    let colliding = options().hash_bits(0);
    let disk = SimStorage::new(1);
    let store = colliding.open_on(std::sync::Arc::new(disk.clone())).unwrap();
    store.finish("completed", b"the answer");
    drop(store.claim("undecided"));
    store.close().unwrap();
    let mut files = disk.snapshot();
    let segment = segment_with(&files, b"the answer");
    flip(&mut files, &segment, b"completed");
    let open = |options: Options| {
        options.open_on(std::sync::Arc::new(SimStorage::from_files(1, files.clone())))
    };
    match open(colliding.clone()).unwrap_err() {
        OpenError::Damaged { file, offset: 4096, .. } => assert_eq!(file, segment),
        error => panic!("{error:?}"),
    }
    let store = open(colliding.recovery(Recovery::Salvage)).unwrap();
    let error = store.begin(key("undecided"), print()).unwrap_err();
    assert!(matches!(error, BeginError::Damaged { .. }), "{error:?}");
}
