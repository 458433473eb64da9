//! `verify` finds nothing wrong with a whole store, and names file, place and (where it still
//! reads) key of what is wrong with a damaged one, all of it in one go.

use crate::reference::{Rng, claim, complete, open, response, small};
use onlyonce::{ManualClock, inspect::*, storage::SimStorage};
use std::{collections::BTreeMap, sync::Arc};

type Files = BTreeMap<String, Vec<u8>>;

fn clock() -> ManualClock {
    ManualClock::at(crate::reference::T0)
}

/// A closed store of several segments, with claims.
fn finished() -> Files {
    let disk = SimStorage::new(4);
    let store = open(&small(&clock()), &disk).unwrap();
    for number in 0..40 {
        complete(&store, &format!("key-{number}"), &response(number, 4000));
    }
    claim(&store, "half way").save_checkpoint(&[7; 700]).unwrap();
    claim(&store, "failed").fail(b"500").unwrap();
    store.close().unwrap();
    // A missing footer is damage when its life is over.
    open(&small(&clock()), &disk).unwrap().close().unwrap();
    disk.snapshot()
}

fn inspect(files: &Files) -> Result<Inspection, onlyonce::OpenError> {
    let disk = SimStorage::from_files(1, files.clone());
    Inspection::open_on(Arc::new(disk), clock(), None)
}

fn problems(files: &Files) -> Vec<Problem> {
    match inspect(files) {
        Ok(inspection) => inspection.verify(|_| {}).problems,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_whole_store_has_no_problems() {
    let inspection = inspect(&finished()).unwrap();
    let mut seen = Vec::new();
    let report = inspection.verify(|progress| seen.push(progress));
    assert_eq!(report.problems, []);
    assert_eq!((report.frames, report.claims), (41, 2));
    assert!(report.segments >= 3 && report.bytes > 40 * 4000, "{report:?}");
    // Progress begins at nothing, grows, and ends at everything.
    let done: Vec<_> = seen.iter().map(|progress| progress.done).collect();
    assert!(done.is_sorted() && done[0] == 0, "{done:?}");
    assert!(seen.iter().all(|progress| progress.total == report.bytes));
    assert_eq!(done.last(), Some(&report.bytes));
}

#[test]
fn a_flipped_bit_in_a_response_names_its_key() {
    let mut files = finished();
    let needle = response(17, 4000);
    let (name, at) = files
        .iter()
        .filter(|(name, _)| name.starts_with("segment"))
        .find_map(|(name, bytes)| {
            let at = bytes.windows(64).position(|window| *window == needle[..64])?;
            Some((name.clone(), at))
        })
        .expect("it is stored as it is");
    files.get_mut(&name).unwrap()[at + 2000] ^= 4;
    let found = problems(&files);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].file, name);
    assert!(found[0].offset < at as u64 && at as u64 - found[0].offset < 700, "{found:?}");
    assert_eq!(found[0].key.as_ref().unwrap().key(), b"key-17");
    assert!(found[0].to_string().contains("key-17"), "{}", found[0]);
}

#[test]
fn all_damage_is_told_in_one_go() {
    let mut files = finished();
    let sealed = |bytes: &[u8]| bytes[bytes.len() - 48..].starts_with(b"1ce-foot");
    let in_use = files.iter().filter(|(n, bytes)| n.starts_with("segment") && sealed(bytes));
    let names: Vec<_> = in_use.map(|(name, _)| name.clone()).collect();
    // A header, a footer, a record, a cell, a copy of the superblock.
    files.get_mut(&names[0]).unwrap()[20] ^= 1;
    let second = files.get_mut(&names[1]).unwrap();
    let end = second.len();
    second[end - 10] ^= 1;
    files.get_mut(&names[2]).unwrap()[5000] ^= 1;
    let claims = files.get_mut("claims").unwrap();
    let used = claims[512..].chunks(256).position(|cell| !cell.starts_with(b"freecell")).unwrap();
    claims[512 + used * 256 + 40] ^= 1;
    files.get_mut("superblock").unwrap()[40] ^= 1;
    let mut found: Vec<_> = problems(&files).into_iter().map(|p| p.file).collect();
    found.sort();
    found.dedup();
    let mut wanted = vec!["claims", &names[0], &names[1], &names[2], "superblock"];
    wanted.sort();
    assert_eq!(found, wanted);
}

#[test]
fn missing_files_are_problems_not_the_end() {
    let whole = finished();
    for name in whole.keys().filter(|name| *name != "superblock") {
        let mut files = whole.clone();
        files.remove(name);
        let found = problems(&files);
        assert!(found.iter().any(|p| p.file == *name && p.what.contains("missing")), "{found:?}");
    }
}

/// Wherever a bit flips that something is said of, `verify` says so of that file; what it doesn't
/// notice (unused space, hints) changes no key.
#[test]
fn flipped_bits_anywhere() {
    let whole = finished();
    let all = |files: &Files| -> Vec<String> {
        let inspection = inspect(files).unwrap();
        let items = inspection.items().map(|item| match item {
            Ok(item) => format!("{:?} {:?} {:?}", item.entry, item.at_ms, item.retention),
            Err(problem) => problem.to_string(),
        });
        let mut items: Vec<_> = items.collect();
        items.sort();
        items
    };
    let before = all(&whole);
    let mut rng = Rng(9);
    let mut noticed = 0;
    for (name, bytes) in &whole {
        for _ in 0..60 {
            let mut files = whole.clone();
            files.get_mut(name).unwrap()[rng.below(bytes.len())] ^= 1 << rng.below(8);
            let found = problems(&files);
            assert!(found.iter().all(|problem| problem.file == *name), "{name}: {found:?}");
            noticed += usize::from(!found.is_empty());
            if found.is_empty() {
                assert_eq!(all(&files), before, "{name}: changed, and not noticed");
            }
        }
    }
    assert!(noticed > 60, "only {noticed} noticed");
}

#[test]
fn an_open_store_verifies_itself() {
    let clock = clock();
    let disk = SimStorage::new(4);
    let store = open(&small(&clock), &disk).unwrap();
    let held = claim(&store, "held");
    complete(&store, "key", &response(1, 4000));
    let report = store.verify(|_| {}).unwrap();
    assert_eq!((report.frames, report.claims, &report.problems[..]), (1, 1, &[][..]));
    disk.flip_bit("segment-000001", 6000 * 8);
    disk.flip_bit("ring", 6000 * 8);
    let report = store.verify(|_| {}).unwrap();
    assert_eq!(report.problems.len(), 1, "{report:?}");
    drop(held);
}

/// A sector that can't be read is a message. (On a read that fails once: it is read again, in
/// pieces.)
#[test]
fn reads_that_fail() {
    use onlyonce::storage::Fault;
    let whole = finished();
    let calls = {
        let disk = SimStorage::from_files(1, whole.clone());
        let inspection = Inspection::open_on(Arc::new(disk.clone()), clock(), None).unwrap();
        inspection.verify(|_| {});
        disk.calls()
    };
    let mut noticed = 0;
    for call in 1..=calls {
        for failing in [1, 40] {
            let disk = SimStorage::from_files(1, whole.clone());
            let fault = || Fault::Error(std::io::ErrorKind::Other);
            (call..call + failing).for_each(|call| disk.fault_at(call, fault()));
            let Ok(inspection) = Inspection::open_on(Arc::new(disk), clock(), None) else {
                noticed += 1;
                continue;
            };
            let report = inspection.verify(|_| {});
            noticed += usize::from(!report.problems.is_empty());
            if report.problems.is_empty() {
                assert_eq!((report.frames, report.claims), (41, 2), "call {call}: unnoticed");
            }
        }
    }
    assert!(noticed > 20, "only {noticed} noticed");
}

/// What can't be read at once is read again, in pieces, and takes nothing else with it.
#[test]
fn a_read_that_fails_once_hides_nothing() {
    use onlyonce::storage::Fault;
    let whole = finished();
    let disk = SimStorage::from_files(1, whole.clone());
    let inspection = Inspection::open_on(Arc::new(disk.clone()), clock(), None).unwrap();
    let opened = disk.calls();
    inspection.verify(|_| {});
    assert!(disk.calls() > opened);
    for call in 1..=disk.calls() {
        let disk = SimStorage::from_files(1, whole.clone());
        disk.fault_at(call, Fault::Error(std::io::ErrorKind::Other));
        match Inspection::open_on(Arc::new(disk), clock(), None) {
            Ok(inspection) if call > opened => {
                let report = inspection.verify(|_| {});
                assert_eq!((report.frames, report.problems), (41, vec![]), "call {call}");
            }
            Ok(_) => {}
            // Without it nobody knows what there is.
            Err(error) => assert!(error.to_string().contains("superblock"), "{call}: {error}"),
        }
    }
}
