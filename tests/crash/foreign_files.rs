//! R4: a file that is missing, empty, cut short, swapped with another's, from another store, or
//! from a newer version: each its own clear error that names it, and nothing is written.

use crate::reference::{begin, complete, open, replays, response, small};
use onlyonce::{Begin, ManualClock, OpenError, Options, Recovery, storage::SimStorage};
use std::{collections::BTreeMap, time::Duration};

type Files = BTreeMap<String, Vec<u8>>;

const KEYS: usize = 40;

fn key(number: usize) -> String {
    format!("key-{number}")
}

fn options() -> Options {
    small(&ManualClock::at(crate::reference::T0))
}

/// The files of a store with several full segments.
fn files(seed: u64) -> Files {
    let disk = SimStorage::new(seed);
    let store = open(&options(), &disk).unwrap();
    for number in 0..KEYS {
        complete(&store, &key(number), &response(number, 4000));
    }
    drop(crate::reference::claim(&store, "undecided"));
    store.close().unwrap();
    let files = disk.snapshot();
    assert!(files.len() >= 6, "{:?}", files.keys());
    files
}

/// Opens; a refusal has changed nothing.
fn refused(files: &Files, what: &str) -> OpenError {
    let disk = SimStorage::from_files(1, files.clone());
    match open(&options(), &disk) {
        Ok(_) => panic!("{what}: it opens"),
        Err(error) => {
            assert!(disk.snapshot() == *files, "a refused opening has written: {error}");
            error
        }
    }
}

/// Opens by salvage; whatever is still known is what it was.
fn salvaged(files: &Files) -> Option<usize> {
    let disk = SimStorage::from_files(1, files.clone());
    let store = match open(&options().recovery(Recovery::Salvage), &disk) {
        Ok(store) => store,
        Err(
            OpenError::NotAStore { .. }
            | OpenError::Damaged { .. }
            | OpenError::Newer { .. }
            | OpenError::Foreign { .. },
        ) => {
            return None;
        }
        Err(error) => panic!("{error:?}"),
    };
    assert!(store.stats().damaged_places > 0, "nothing is reported");
    let mut kept = 0;
    for number in 0..KEYS {
        match begin(&store, &key(number)) {
            Ok(Begin::Replay(record)) => {
                assert_eq!(record.response(), Some(&response(number, 4000)[..]));
                kept += 1;
            }
            Ok(Begin::Execute(claim)) => claim.release().unwrap(),
            Err(onlyonce::BeginError::Damaged { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    store.close().unwrap();
    let store = open(&options().recovery(Recovery::Salvage), &disk).unwrap();
    complete(&store, "it goes on", b"yes");
    Some(kept)
}

fn segments(files: &Files) -> Vec<String> {
    files.keys().filter(|name| name.starts_with("segment")).cloned().collect()
}

#[test]
fn missing() {
    let whole = files(1);
    for name in whole.keys() {
        let mut files = whole.clone();
        files.remove(name);
        match refused(&files, name) {
            OpenError::Missing { file } => assert_eq!(file, *name),
            OpenError::NotAStore { .. } => assert_eq!(name, "superblock"),
            error => panic!("without {name}: {error:?}"),
        }
        if name == "superblock" {
            continue;
        }
        // What is missing is not the claims of the others.
        let kept = salvaged(&files).unwrap_or_else(|| panic!("not salvaged without {name}"));
        assert!(kept >= KEYS - 20, "without {name}: {kept}");
    }
}

#[test]
fn empty_or_cut_short() {
    let whole = files(1);
    for (name, bytes) in &whole {
        for len in
            [0, 1, 100, 512, 4096, 8192, bytes.len() / 2, bytes.len() - 4096, bytes.len() - 1]
        {
            if len >= bytes.len() {
                continue;
            }
            let mut files = whole.clone();
            files.insert(name.clone(), bytes[..len].to_vec());
            match refused(&files, name) {
                OpenError::Damaged { file, .. } => assert_eq!(file, *name),
                // The creation of a store that was never finished looks like this, but there are
                // segments.
                OpenError::NotAStore { .. } => assert_eq!((&name[..], len), ("superblock", 0)),
                // A ring of another size is one for other options.
                OpenError::Options { .. } => assert_eq!(name, "ring"),
                error => panic!("{name} cut to {len}: {error:?}"),
            }
        }
    }
}

#[test]
fn grown() {
    let whole = files(1);
    for name in segments(&whole) {
        let mut files = whole.clone();
        files.get_mut(&name).unwrap().extend_from_slice(&[0; 4096]);
        let error = refused(&files, "");
        assert!(matches!(&error, OpenError::Damaged { file, .. } if *file == name), "{error:?}");
    }
}

#[test]
fn swapped() {
    let whole = files(1);
    let names = segments(&whole);
    for pair in names.windows(2) {
        let mut files = whole.clone();
        files.insert(pair[0].clone(), whole[&pair[1]].clone());
        files.insert(pair[1].clone(), whole[&pair[0]].clone());
        let error = refused(&files, "");
        let named = matches!(&error, OpenError::Foreign { file } if pair.contains(file));
        assert!(named, "{pair:?}: {error:?}");
    }
}

#[test]
fn of_another_store() {
    let (whole, other) = (files(1), files(2));
    for name in whole.keys().filter(|name| other.contains_key(*name)) {
        let mut files = whole.clone();
        files.insert(name.clone(), other[name].clone());
        match (&name[..], refused_or_equal(&files)) {
            // Its own files are then the foreign ones.
            ("superblock", Some(OpenError::Foreign { .. })) => {}
            (_, Some(OpenError::Foreign { file })) => assert_eq!(file, *name),
            // A ring holds nothing of a store that was closed.
            ("ring", None) => {}
            (_, other) => panic!("{name}: {other:?}"),
        }
    }
}

/// The error; or, if it opens, nothing, and everything is as it was.
fn refused_or_equal(files: &Files) -> Option<OpenError> {
    let disk = SimStorage::from_files(1, files.clone());
    let store = match open(&options(), &disk) {
        Ok(store) => store,
        Err(error) => {
            assert!(disk.snapshot() == *files, "a refused opening has written: {error}");
            return Some(error);
        }
    };
    for number in 0..KEYS {
        replays(&store, &key(number), &response(number, 4000));
    }
    None
}

/// Raises the version in a header whose checksum lies at `crc_at` and covers what is before it.
fn newer(bytes: &mut [u8], header: usize, crc_at: usize) {
    bytes[header + 8..header + 12].copy_from_slice(&7u32.to_le_bytes());
    let crc = crc32fast::hash(&bytes[header..header + crc_at]);
    bytes[header + crc_at..header + crc_at + 4].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn of_a_newer_version() {
    let whole = files(1);
    let says = |name: &str, headers: &[(usize, usize)]| {
        let mut files = whole.clone();
        for (header, crc_at) in headers {
            newer(files.get_mut(name).unwrap(), *header, *crc_at);
        }
        match refused(&files, name) {
            OpenError::Newer { file, found: 7, known } => {
                assert_eq!(file, name);
                assert!(known < 7);
            }
            error => panic!("{name}: {error:?}"),
        }
    };
    says("superblock", &[(0, 84), (4096, 84)]);
    // Written by a newer version that died between its two copies: newer all the same.
    says("superblock", &[(0, 84)]);
    says("superblock", &[(4096, 84)]);
    says("claims", &[(0, 28)]);
    for name in segments(&whole) {
        says(&name, &[(0, 60)]);
    }
}

#[test]
fn somebody_elses_files_are_left_alone() {
    let mut whole = files(1);
    whole.insert("README".into(), b"mine".to_vec());
    let disk = SimStorage::from_files(1, whole);
    let store = open(&options(), &disk).unwrap();
    replays(&store, &key(0), &response(0, 4000));
    store.close().unwrap();
    assert_eq!(disk.snapshot()["README"], b"mine");
}

/// The files of a store with two lives, the second of which has left a segment open, and the
/// superblock of the first.
fn two_lives() -> (Files, Vec<u8>) {
    let disk = SimStorage::new(5);
    let clock = ManualClock::at(crate::reference::T0 - 48 * 3_600_000);
    let store = open(&small(&clock), &disk).unwrap();
    // What expires here leaves segments free for the second life.
    (0..KEYS).for_each(|number| complete(&store, &key(number), &response(number, 4000)));
    clock.advance(Duration::from_secs(48 * 3600));
    (0..3).for_each(|_| store.housekeep().unwrap());
    complete(&store, "first", b"order 1");
    store.close().unwrap();
    let superblock = disk.snapshot()["superblock"].clone();
    let store = open(&small(&clock), &disk).unwrap();
    complete(&store, "second", b"order 2");
    (disk.kill().snapshot(), superblock)
}

#[test]
fn a_superblock_of_an_earlier_life() {
    let (mut files, superblock) = two_lives();
    files.insert("superblock".into(), superblock);
    let error = refused(&files, "");
    assert!(
        matches!(&error, OpenError::Damaged { file, offset: 0, .. }
        if file.starts_with("segment")),
        "{error:?}"
    );
    assert_eq!(salvaged(&files), None);
}

#[test]
fn a_footer_of_an_earlier_life_that_is_gone() {
    let (files, _) = two_lives();
    // A third life, which has written nothing.
    let disk = SimStorage::from_files(1, files);
    drop(open(&options(), &disk).unwrap());
    let mut files = disk.kill().snapshot();
    let holds = |bytes: &[u8]| bytes.windows(7).any(|window| window == b"order 1");
    let (name, bytes) =
        files.iter_mut().find(|(name, bytes)| name.starts_with("segment") && holds(bytes)).unwrap();
    let (name, trailer) = (name.clone(), bytes.len() - 48);
    bytes[trailer..].fill(0);
    match refused(&files, "") {
        OpenError::Damaged { file, offset, .. } => {
            assert_eq!((file, offset), (name, trailer as u64))
        }
        error => panic!("{error:?}"),
    }
    // What lies before it is still read.
    let disk = SimStorage::from_files(1, files);
    let store = open(&options().recovery(Recovery::Salvage), &disk).unwrap();
    assert_eq!(store.stats().damaged_places, 1);
    replays(&store, "first", b"order 1");
    replays(&store, "second", b"order 2");
}
