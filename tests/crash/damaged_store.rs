//! R3, R14: a bit that flips, a sector or a page that is zeroed, in any file of a finished store:
//! the opening says where, or the key's begin says that it is damaged, or nothing is noticed and
//! everything is as it was. Never a wrong byte, a panic, or a fresh claim on a key that exists.
//!
//! `SEED=<n>` chooses other places; `PLACES=<n>` is how many bits of each file are tried.

use crate::reference::{Rng, begin, claim, complete, look, open, response, small};
use onlyonce::{
    Begin, BeginError, Completion, Fingerprint, ManualClock, OpenError, Options, Recovery,
    ResolveOptions, State, Store, StoreError, storage::SimStorage,
};
use std::{collections::BTreeMap, time::Duration};

type Files = BTreeMap<String, Vec<u8>>;

/// What each key answers in the undamaged store.
#[derive(Clone, Debug, PartialEq)]
enum Answer {
    Response(Option<Vec<u8>>),
    Interrupted { token: u64, checkpoint: Option<Vec<u8>>, answer: Option<Vec<u8>> },
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

fn keys() -> Vec<String> {
    let mut keys: Vec<_> = (0..60).map(|n| format!("key-{n}")).collect();
    keys.extend(["long", "tombstone", "half way", "failed", "dropped", "held"].map(String::from));
    keys.push("k".repeat(250));
    keys
}

/// Several segments, records of all kinds, claims with and without checkpoints; two lives.
fn finished(
    options: &Options,
    clock: &ManualClock,
    closed: bool,
) -> (Files, BTreeMap<String, Answer>) {
    let mut disk = SimStorage::new(21);
    for life in 0..2 {
        let store = open(options, &disk).unwrap();
        for n in (0..60).filter(|n| n % 2 == life) {
            let len = if n % 3 == 0 { 4000 } else { 50 * n };
            complete(&store, &format!("key-{n}"), &response(n, len));
        }
        if life == 0 {
            complete(&store, "tombstone", b"forgotten");
            let scope = crate::reference::scope();
            let key = onlyonce::KeyRef::new(&scope, "tombstone").unwrap();
            store
                .resolve_with(key, onlyonce::Resolution::Forget, ResolveOptions::forced())
                .unwrap();
            store.close().unwrap();
            continue;
        }
        let mut long = claim(&store, "long");
        let retention = Some(Duration::from_secs(1 << 20).into());
        long.complete_with(Completion { response: None, retention, head: b"head" }).unwrap();
        complete(&store, "tombstone", b"anew");
        claim(&store, "half way").save_checkpoint(&[7; 700]).unwrap();
        claim(&store, "failed").fail(b"500").unwrap();
        drop(claim(&store, "dropped"));
        complete(&store, &"k".repeat(250), b"a long key");
        let held = claim(&store, "held");
        if closed {
            store.close().unwrap();
            drop(held);
        } else {
            disk = disk.kill();
        }
    }
    clock.advance(Duration::from_secs(1));
    let files = disk.snapshot();
    let store = open(options, &SimStorage::from_files(1, files.clone())).unwrap();
    let answers = keys().into_iter().map(|key| {
        let answer = answer(&store, &key).unwrap().expect("it is there");
        (key, answer)
    });
    (files, answers.collect())
}

/// What a key answers; `None`: a claim was granted.
fn answer(store: &Store, key: &str) -> Result<Option<Answer>, StoreError> {
    Ok(match begin(store, key)? {
        Begin::Execute(claim) => {
            claim.release().unwrap();
            None
        }
        Begin::Replay(record) => Some(Answer::Response(record.response().map(<[u8]>::to_vec))),
        Begin::Interrupted(stuck) => {
            let entry = look(store, key)?.expect("interrupted");
            let State::Interrupted { .. } = entry.state else { panic!("{entry:?}") };
            Some(Answer::Interrupted {
                token: entry.token.get(),
                checkpoint: stuck.checkpoint().map(<[u8]>::to_vec),
                answer: stuck.answer().map(|a| a.to_vec()),
            })
        }
        other => panic!("{key}: {other:?}"),
    })
}

#[derive(Debug, Default)]
struct Tally {
    refused: u32,
    damaged_keys: u32,
    unharmed: u32,
    lost: u32,
}

/// Opens damaged files and holds every answer against what it was.
fn judge(
    options: &Options,
    files: &Files,
    wanted: &BTreeMap<String, Answer>,
    salvage: bool,
    what: &str,
    tally: &mut Tally,
) {
    let disk = SimStorage::from_files(3, files.clone());
    let recovery = if salvage { Recovery::Salvage } else { Recovery::Strict };
    let store = match open(&options.clone().recovery(recovery), &disk) {
        Ok(store) => store,
        Err(
            OpenError::Damaged { file, .. }
            | OpenError::Foreign { file }
            | OpenError::Newer { file, .. },
        ) => {
            assert!(files.contains_key(&file), "{what}: names {file}");
            if !salvage {
                // A failed opening has changed nothing.
                assert!(disk.snapshot() == *files, "{what}: a refused opening has written");
            }
            tally.refused += 1;
            return;
        }
        Err(OpenError::NotAStore { .. }) => {
            tally.refused += 1;
            return;
        }
        Err(error) => panic!("{what}: {error:?}"),
    };
    let reported = store.stats().damaged_places;
    let mut harmed = false;
    for (key, wanted) in wanted {
        match answer(&store, key) {
            Ok(Some(answer)) => {
                let same = answer == *wanted;
                // Salvaged, a key may have lost a later version, but then the place is counted.
                assert!(
                    same || salvage && reported > 0,
                    "{what}: {key:.20} answers {answer:?}, not {wanted:?}"
                );
                let wrong = matches!((&answer, wanted), (Answer::Response(a), Answer::Response(w)) if a != w);
                assert!(!wrong, "{what}: {key:.20} answers other bytes");
                harmed |= !same;
            }
            Err(StoreError::Damaged { .. }) => {
                tally.damaged_keys += 1;
                harmed = true;
            }
            Ok(None) => {
                assert!(
                    salvage && reported > 0,
                    "{what}: {key:.20} was claimed anew, {reported} places reported"
                );
                tally.lost += 1;
                harmed = true;
            }
            Err(error) => panic!("{what}: {key:.20}: {error:?}"),
        }
    }
    tally.unharmed += u32::from(!harmed);
}

/// Offsets worth trying: inside of what isn't zero, and a few elsewhere.
fn places(bytes: &[u8], rng: &mut Rng, count: usize) -> Vec<u64> {
    let used: Vec<u64> = (0..bytes.len() as u64).filter(|at| bytes[*at as usize] != 0).collect();
    let near = |rng: &mut Rng| {
        (used[rng.below(used.len())] + rng.below(9) as u64).min(bytes.len() as u64 - 1)
    };
    let mut places: Vec<u64> = (0..count).map(|_| near(rng)).collect();
    places.extend((0..count / 10).map(|_| rng.below(bytes.len()) as u64));
    places
}

fn each_file(closed: bool, damage: impl Fn(&mut Rng, &str, &[u8]) -> Vec<(String, Vec<u8>)>) {
    let clock = ManualClock::at(crate::reference::T0);
    let options = small(&clock);
    let (files, wanted) = finished(&options, &clock, closed);
    assert!(files.keys().filter(|name| name.starts_with("segment")).count() >= 3);
    let mut rng = Rng(number("SEED", 1));
    let mut tally = [Tally::default(), Tally::default()];
    for (name, bytes) in &files {
        // What a killed process left in the ring may never have been promised.
        if name == "ring" && !closed || bytes.iter().all(|b| *b == 0) {
            continue;
        }
        for (what, bytes) in damage(&mut rng, name, bytes) {
            let mut files = files.clone();
            files.insert(name.clone(), bytes);
            for salvage in [false, true] {
                let what = format!("{name}, {what}, closed {closed}, salvage {salvage}");
                judge(&options, &files, &wanted, salvage, &what, &mut tally[usize::from(salvage)]);
            }
        }
    }
    println!("strict {:?}\nsalvage {:?}", tally[0], tally[1]);
    assert!(tally[0].refused > 0 && tally[0].lost == 0);
}

fn flips(rng: &mut Rng, bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let count = number("PLACES", 60) as usize;
    places(bytes, rng, count)
        .into_iter()
        .map(|at| {
            let bit = rng.below(8);
            let mut bytes = bytes.to_vec();
            bytes[at as usize] ^= 1 << bit;
            (format!("bit {bit} of byte {at} flipped"), bytes)
        })
        .collect()
}

fn zeroed(bytes: &[u8], block: usize) -> Vec<(String, Vec<u8>)> {
    let blocks = (0..bytes.len()).step_by(block).map(|at| at..(at + block).min(bytes.len()));
    let used = blocks.filter(|range| bytes[range.clone()].iter().any(|b| *b != 0));
    used.map(|range| {
        let mut bytes = bytes.to_vec();
        bytes[range.clone()].fill(0);
        (format!("bytes {range:?} zeroed"), bytes)
    })
    .collect()
}

#[test]
fn a_flipped_bit_in_a_closed_store() {
    each_file(true, |rng, _, bytes| flips(rng, bytes));
}

#[test]
fn a_flipped_bit_in_what_a_killed_process_left() {
    each_file(false, |rng, _, bytes| flips(rng, bytes));
}

#[test]
fn a_zeroed_sector_in_a_closed_store() {
    each_file(true, |rng, _, bytes| {
        let mut zeroed = zeroed(bytes, 512);
        while zeroed.len() > 40 {
            zeroed.swap_remove(rng.below(zeroed.len()));
        }
        zeroed
    });
}

#[test]
fn a_zeroed_page_in_a_closed_store() {
    each_file(true, |_, _, bytes| zeroed(bytes, 4096));
}

/// A page that was meant for another segment of the same life, at the same offset: everything
/// about its frames is whole, and they are somebody else's.
#[test]
fn a_page_that_was_written_to_another_segment() {
    let clock = ManualClock::at(crate::reference::T0);
    let options = small(&clock);
    let disk = SimStorage::new(9);
    let store = open(&options, &disk).unwrap();
    for (key, hours) in [("k1", 24), ("k2", 240)] {
        let retention = Some(Duration::from_secs(3600 * hours).into());
        let completion = Completion { response: Some(b"answer"), retention, head: b"" };
        claim(&store, key).complete_with(completion).unwrap();
        // Prepares another segment.
        store.housekeep().unwrap();
    }
    store.close().unwrap();
    let files = disk.snapshot();
    let holds = |key: &[u8]| {
        let mut segments = files.iter().filter(|(name, _)| name.starts_with("segment"));
        let found = segments.find(|(_, bytes)| bytes[4096..8192].windows(2).any(|w| w == key));
        found.expect("its record lies in a segment").0.clone()
    };
    let (from, to) = (holds(b"k1"), holds(b"k2"));
    assert_ne!(from, to);
    let mut files = files.clone();
    let page = files[&from][4096..8192].to_vec();
    files.get_mut(&to).unwrap()[4096..8192].copy_from_slice(&page);
    let store = open(&options, &SimStorage::from_files(3, files)).unwrap();
    crate::reference::replays(&store, "k1", b"answer");
    match begin(&store, "k2") {
        Err(BeginError::Damaged { .. }) => {}
        other => panic!("k2 is {other:?}"),
    }
}

/// R14 by name: whatever lies in a record or in what lists it.
#[test]
fn every_byte_of_one_record_and_of_its_footer() {
    let clock = ManualClock::at(crate::reference::T0);
    let options = small(&clock);
    let disk = SimStorage::new(9);
    let store = open(&options, &disk).unwrap();
    complete(&store, "victim", b"the answer");
    complete(&store, "bystander", b"another answer");
    store.close().unwrap();
    let files = disk.snapshot();
    let (name, bytes) = files
        .iter()
        .find(|(_, bytes)| bytes.windows(6).any(|w| w == b"victim"))
        .filter(|(name, _)| name.starts_with("segment"))
        .or_else(|| {
            files.iter().find(|(name, bytes)| {
                name.starts_with("segment") && bytes.windows(6).any(|w| w == b"victim")
            })
        })
        .expect("the record lies in a segment");
    let used = (0..bytes.len()).filter(|at| bytes[*at] != 0 || bytes[at.saturating_sub(8)] != 0);
    let mut damaged = 0;
    for at in used {
        let mut files = files.clone();
        files.get_mut(name).unwrap()[at] ^= 1 << (at % 8);
        let disk = SimStorage::from_files(3, files);
        let store = match open(&options, &disk) {
            Ok(store) => store,
            Err(OpenError::Damaged { file, .. }) => {
                assert_eq!(file, *name);
                continue;
            }
            Err(error) => panic!("byte {at}: {error:?}"),
        };
        for (key, wanted) in [("victim", &b"the answer"[..]), ("bystander", b"another answer")] {
            match begin(&store, key) {
                Ok(Begin::Replay(record)) => assert_eq!(record.response(), Some(wanted)),
                Err(BeginError::Damaged { .. }) => damaged += 1,
                other => panic!("byte {at}: {key} is {other:?}"),
            }
            // An operator is told too, and no other fingerprint gets further.
            let scope = crate::reference::scope();
            let key = onlyonce::KeyRef::new(&scope, key).unwrap();
            match store.begin(key, Fingerprint::of(["another"])) {
                Ok(Begin::Mismatch { .. }) | Err(BeginError::Damaged { .. }) => {}
                other => panic!("byte {at}: {other:?}"),
            }
        }
    }
    assert!(damaged > 100, "{damaged}");
}
