//! Counts that end: what is written at the end of each can be opened, and what is beyond it is
//! refused with words.

use crate::{
    Begin, BeginError, ClaimError, Fingerprint, KeyRef, ManualClock, OpenError, Options, Scope,
    Store,
    engine::Engine,
    limits::{COUNT_MAX, SLOTS_MAX, TOKEN_MAX},
    storage::SimStorage,
    superblock::{Superblock, SuperblockFile},
};
use std::sync::{Arc, atomic::Ordering};

fn options() -> Options {
    Options::new()
        .clock(ManualClock::at(1_800_000_000_000))
        .background(false)
        .max_response(4096)
        .max_claims(6)
        .max_attempts(u32::MAX)
        .ring_bytes(64 << 10)
        .segment_bytes(1 << 20)
        .capacity(8 << 20)
}

fn open(disk: &SimStorage) -> Result<Store, OpenError> {
    options().open_on(Arc::new(disk.clone()))
}

fn begin(store: &Store, name: &str) -> Begin {
    let scope = Scope::global();
    store.begin(KeyRef::new(&scope, name).unwrap(), Fingerprint::of(["x"])).unwrap()
}

fn claim(store: &Store, name: &str) -> crate::Claim {
    match begin(store, name) {
        Begin::Execute(claim) => claim,
        other => panic!("{other:?}"),
    }
}

fn stuck(store: &Store, name: &str) -> crate::Interrupted {
    match begin(store, name) {
        Begin::Interrupted(interrupted) => interrupted,
        other => panic!("{other:?}"),
    }
}

fn is_answered(store: &Store, name: &str) -> bool {
    matches!(begin(store, name), Begin::Replay(_))
}

/// Changes what the superblock of a closed store says.
fn change(disk: &SimStorage, change: impl FnOnce(&mut Superblock)) {
    let (file, mut superblock) = SuperblockFile::open(disk).unwrap().unwrap();
    change(&mut superblock);
    file.write(&superblock).unwrap();
}

/// The undecided key's version and attempt.
fn with_undecided(engine: &Engine, name: &str, change: impl FnOnce(&mut u32, &mut u32)) {
    let scope = Scope::global();
    let key = KeyRef::new(&scope, name).unwrap();
    let hash = engine.index.hash(key);
    let mut shard = engine.index.shard(hash);
    let at = shard.find(hash, key).unwrap();
    let undecided = shard.undecided.get_mut(at).unwrap();
    change(&mut undecided.version, &mut undecided.held.attempt);
}

#[test]
fn a_store_has_as_many_lives_as_are_counted() {
    let disk = SimStorage::new(1);
    let store = open(&disk).unwrap();
    claim(&store, "k").complete(b"1").unwrap();
    store.close().unwrap();
    change(&disk, |superblock| superblock.life = COUNT_MAX - 1);
    let store = open(&disk).unwrap();
    assert_eq!(store.stats().life, COUNT_MAX);
    assert!(is_answered(&store, "k"));
    claim(&store, "last").complete(b"2").unwrap();
    let disk = disk.kill();
    drop(store);
    let before = disk.snapshot();
    let refused = open(&disk).unwrap_err().to_string();
    assert!(refused.contains("opened 4294967294 times"), "{refused}");
    assert!(disk.snapshot() == before);
    let seen =
        crate::inspect::Inspection::open_on(Arc::new(disk), ManualClock::at(0), None).unwrap();
    assert_eq!(seen.problems(), []);
}

#[test]
fn the_last_tokens_are_granted_and_openings_go_on() {
    let disk = SimStorage::new(1);
    open(&disk).unwrap().close().unwrap();
    change(&disk, |superblock| superblock.token_limit = TOKEN_MAX - 2);
    for round in 0..4 {
        let store = open(&disk).unwrap();
        let scope = Scope::global();
        for name in ["a", "b", "c"] {
            let key = KeyRef::new(&scope, name).unwrap();
            match store.begin(key, Fingerprint::of(["x"])) {
                Ok(Begin::Execute(mut claim)) => {
                    assert!(round == 0 && name != "c");
                    claim.complete(b"1").unwrap();
                }
                Ok(Begin::Replay(_)) => assert!(round > 0 && name != "c"),
                Err(BeginError::Unavailable { what }) => {
                    assert_eq!(name, "c");
                    assert!(what.contains("tokens"), "{what}");
                }
                Err(error) => panic!("{error}"),
                Ok(other) => panic!("{other:?}"),
            }
        }
        store.close().unwrap();
        let (_, superblock) = SuperblockFile::open(&disk).unwrap().unwrap();
        assert_eq!(superblock.token_limit, TOKEN_MAX);
    }
}

#[test]
fn the_last_version_is_kept_and_no_checkpoint_after_it() {
    let mut disk = SimStorage::new(1);
    let store = open(&disk).unwrap();
    let mut held = claim(&store, "k");
    with_undecided(store.engine().unwrap(), "k", |version, _| *version = COUNT_MAX - 1);
    held.save_checkpoint(b"the last").unwrap();
    let refused = held.save_checkpoint(b"one more").unwrap_err();
    assert!(matches!(refused, ClaimError::Unavailable { .. }), "{refused}");
    // Given back, it is interrupted as it was.
    held.release().unwrap();
    store.flush().unwrap();
    for round in 0..3 {
        disk = if round == 1 { disk.power_cut() } else { disk.kill() };
        let store = open(&disk).unwrap();
        assert_eq!(stuck(&store, "k").checkpoint(), Some(&b"the last"[..]));
        store.close().unwrap();
    }
    let store = open(&disk.kill()).unwrap();
    let Ok(Begin::Execute(mut taken)) = stuck(&store, "k").take_over() else { panic!() };
    taken.save_checkpoint(b"of the next attempt").unwrap();
    taken.complete(b"done").unwrap();
}

#[test]
fn the_last_attempt_is_granted_and_no_more() {
    let disk = SimStorage::new(1);
    let store = open(&disk).unwrap();
    drop(claim(&store, "k"));
    with_undecided(store.engine().unwrap(), "k", |_, attempt| *attempt = COUNT_MAX - 1);
    let Ok(Begin::Execute(taken)) = stuck(&store, "k").take_over() else { panic!() };
    assert_eq!(taken.attempt(), COUNT_MAX);
    drop(taken);
    store.flush().unwrap();
    let store = open(&disk.kill()).unwrap();
    assert_eq!(stuck(&store, "k").attempts(), COUNT_MAX);
    let refused = stuck(&store, "k").take_over().unwrap_err();
    assert_eq!(refused, BeginError::AttemptsExhausted { attempts: COUNT_MAX });
}

#[test]
fn a_store_has_as_many_segments_as_have_a_number() {
    let disk = SimStorage::new(1);
    let store = open(&disk).unwrap();
    let engine = store.engine().unwrap();
    engine.superblock.lock().1.slots = SLOTS_MAX - 1;
    engine.wanted_space.store(7 << 20, Ordering::SeqCst);
    engine.provide_now();
    let numbers: Vec<u32> = engine.log.slots.iter().map(|slot| slot.number).collect();
    assert!(numbers.contains(&SLOTS_MAX), "{numbers:?}");
    assert_eq!(engine.superblock.lock().1.slots, SLOTS_MAX);
    let why = engine.why_starved().unwrap().to_string();
    assert!(why.contains("at most 131071 segments"), "{why}");
    // The superblock says what the next opening reads.
    assert_eq!(SuperblockFile::open(&disk).unwrap().unwrap().1.slots, SLOTS_MAX);
}

#[test]
fn a_superblock_s_number_stays_at_its_end() {
    let disk = SimStorage::new(1);
    let store = open(&disk).unwrap();
    claim(&store, "k").complete(b"1").unwrap();
    store.close().unwrap();
    change(&disk, |superblock| superblock.number = u64::MAX - 1);
    for _ in 0..3 {
        let store = open(&disk).unwrap();
        assert!(is_answered(&store, "k"));
        store.close().unwrap();
    }
    assert_eq!(SuperblockFile::open(&disk).unwrap().unwrap().1.number, u64::MAX);
}
