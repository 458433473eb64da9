//! At a full claims file keys still come to an end: takeovers and checkpoints have cells of their
//! own, neither can use up the other's, and what is given back fills them again.

use crate::common::*;
use onlyonce::*;
use std::ops::RangeInclusive;

const MOVE: RangeInclusive<u16> = 0..=SLOTS / 2;
const STAY: RangeInclusive<u16> = SLOTS / 2 + 1..=SLOTS - 1;

/// With a short key: two cells.
const CHECKPOINT: [u8; 200] = [7; 200];
/// What the claims file of `max_claims(1000)` holds, without its header.
const CELLS: usize = 1102;

/// A store that is full of first claims.
fn full(durability: Durability) -> (Sim, Store, Vec<Claim>) {
    let sim =
        Sim::with(|options| options.max_claims(1000).capacity(64 << 20).durability(durability));
    let store = sim.open();
    let room = store.stats().claims_max;
    assert!(room >= 1000);
    let claims = names(STAY).take(room as usize).map(|name| store.claim(&name)).collect();
    is_full(&store);
    (sim, store, claims)
}

/// Keys of these slots.
fn names(slots: RangeInclusive<u16>) -> impl Iterator<Item = String> {
    (0..).map(|n: u32| n.to_string()).filter(move |name| slots.contains(&slot_of(key(name))))
}

/// Drops the last of these claims; their keys.
fn drop_last(claims: &mut Vec<Claim>, count: usize) -> Vec<String> {
    let keep = claims.len() - count;
    claims.truncate(keep);
    names(STAY).skip(keep).take(count).collect()
}

fn is_full(store: &Store) {
    let refused = store.begin(key("one more"), print()).unwrap_err();
    assert_eq!(refused, BeginError::StoreFull(Full::Claims));
}

fn checkpoints(claims: &mut [Claim]) -> usize {
    claims.iter_mut().map(saves).take_while(|saved| *saved).count()
}

fn saves(claim: &mut Claim) -> bool {
    match claim.save_checkpoint(&CHECKPOINT) {
        Ok(()) => true,
        Err(ClaimError::StoreFull(Full::Claims)) => false,
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_sixteenth_of_the_cells_is_for_checkpoints_and_takeovers_still_work() {
    let (_sim, store, mut claims) = full(Durability::Synced);
    let gone = drop_last(&mut claims, 30);
    store.flush().unwrap();
    is_full(&store);
    // Each takes one cell more than it gives back.
    let saved = checkpoints(&mut claims);
    assert!((CELLS / 16 - 2..claims.len()).contains(&saved), "{saved}");
    for name in &gone {
        let mut taken = granted(store.stuck(name).take_over().unwrap());
        taken.complete(b"in the end").unwrap();
    }
    // What has been decided gives its cells to those who were refused.
    assert!(saves(&mut claims[saved]));
    claims.iter_mut().for_each(|claim| claim.complete(b"done").unwrap());
    store.flush().unwrap();
    let again: Vec<Claim> =
        (0..store.stats().claims_max).map(|n| store.claim(&format!("again {n}"))).collect();
    assert!(again.len() >= 1000);
    is_full(&store);
}

#[test]
fn a_key_that_comes_from_another_store_leaves_the_spare_cells() {
    // They have a history, and are more than the spare cells for takeovers.
    let from = Sim::new().open();
    for name in names(MOVE).take(60) {
        drop(from.claim(&name));
        drop(granted(from.stuck(&name).take_over().unwrap()));
    }
    let (_sim, store, mut claims) = full(Durability::Synced);
    let gone = drop_last(&mut claims, 30);
    let refused = from.copy_slots(&store, MOVE).unwrap_err();
    assert_eq!(refused, StoreError::StoreFull(Full::Claims));
    for name in &gone {
        granted(store.stuck(name).take_over().unwrap()).complete(b"in the end").unwrap();
    }
}

#[test]
fn takeovers_that_are_not_durable_yet_leave_checkpoints_theirs() {
    let (_sim, store, mut claims) = full(Durability::Buffered { max_delay: HOUR });
    let gone = drop_last(&mut claims, 100);
    store.flush().unwrap();
    let mut taken = Vec::new();
    // What they replace is kept until they are durable.
    for name in &gone {
        match store.stuck(name).take_over() {
            Ok(begin) => taken.push(granted(begin)),
            Err(BeginError::StoreFull(Full::Claims)) => break,
            Err(other) => panic!("{other}"),
        }
    }
    assert!((CELLS / 32..gone.len()).contains(&taken.len()), "{}", taken.len());
    let saved = checkpoints(&mut claims);
    assert!(saved >= CELLS / 16 / 2, "{saved}");
    is_full(&store);
    store.flush().unwrap();
    let next = &gone[taken.len()];
    granted(store.stuck(next).take_over().unwrap()).complete(b"later").unwrap();
    assert!(saves(&mut claims[saved]));
}
