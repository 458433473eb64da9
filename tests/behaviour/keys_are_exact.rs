//! S19: keys are 1 to 255 bytes of any value, and two that differ in anything are two keys.

use crate::common::*;
use onlyonce::*;

#[test]
fn too_short_and_too_long_are_typed_errors() {
    let scope = Scope::global();
    assert_eq!(KeyRef::new(&scope, ""), Err(KeyError::Empty));
    assert_eq!(KeyRef::new(&scope, &[b'k'; 256]), Err(KeyError::TooLong { len: 256 }));
    assert_eq!(Scope::new([b's'; 256]), Err(KeyError::ScopeTooLong { len: 256 }));
    assert_eq!(
        KeyError::Empty.to_string(),
        "the idempotency key is empty; a key has 1 to 255 bytes"
    );
}

#[test]
fn the_longest_key_in_the_longest_scope_lives_through_everything() {
    let mut sim = Sim::new();
    let store = sim.open();
    let scope = Scope::new([0xff; 255]).unwrap();
    let id = KeyRef::new(&scope, &[0xfe; 255]).unwrap();
    let mut claim = granted(store.begin(id, print()).unwrap());
    claim.save_checkpoint(&[1; 4096]).unwrap();
    let store = sim.kill_and_open();
    let stuck = interrupted(store.begin(id, print()).unwrap());
    assert_eq!(stuck.checkpoint(), Some(&[1; 4096][..]));
    granted(stuck.take_over().unwrap()).complete(&[2; 4096]).unwrap();
    let store = sim.power_cut_and_open();
    let record = replayed(store.begin(id, print()).unwrap());
    assert_eq!(record.response(), Some(&[2; 4096][..]));
    let entry = store.entries(Filter::ALL).next().unwrap().unwrap();
    assert_eq!((entry.key.scope(), entry.key.key()), (&[0xff; 255][..], &[0xfe; 255][..]));
    drop(claim);
}

#[test]
fn every_byte_value_is_a_key_of_its_own() {
    let mut sim = Sim::with(|options| options.max_claims(300));
    let store = sim.open();
    let scope = Scope::global();
    for byte in 0..=255u8 {
        let bytes = [byte];
        let id = KeyRef::new(&scope, &bytes).unwrap();
        granted(store.begin(id, print()).unwrap()).complete(&bytes).unwrap();
    }
    let store = sim.kill_and_open();
    for byte in 0..=255u8 {
        let bytes = [byte];
        let id = KeyRef::new(&scope, &bytes).unwrap();
        assert_eq!(replayed(store.begin(id, print()).unwrap()).response(), Some(&bytes[..]));
    }
}

#[test]
fn case_spaces_and_zeros_matter() {
    let (store, _) = store();
    let names = ["k", "K", "k ", " k", "k\0", "k\n", "kk", "\u{e9}", "e\u{301}"];
    let claims: Vec<_> = names.iter().map(|name| store.claim(name)).collect();
    assert_eq!(store.stats().in_flight, names.len() as u64);
    for (mut claim, name) in claims.into_iter().zip(names) {
        claim.complete(name.as_bytes()).unwrap();
    }
    names.iter().for_each(|name| assert_eq!(store.answer(name), name.as_bytes()));
}
