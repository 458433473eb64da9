//! S29: no scope takes what the others need, by keys that it leaves interrupted, by claims that it
//! holds, or by space that it is promised; whatever the process has died of meanwhile.

use crate::common::*;
use onlyonce::*;

const SHARED: Terms =
    Terms { lease: None, retention: None, reserve: Some(64), keep_alive: false, shared: true };

fn begin(store: &Store, scope: &str, name: &str, terms: Terms) -> Result<Begin, BeginError> {
    store.begin_with(KeyRef::new(&Scope::of([scope]), name).unwrap(), print(), terms)
}

/// Takes keys until the scope has its share; `then` does something with each claim.
fn fill(store: &Store, scope: &str, terms: Terms, mut then: impl FnMut(Claim)) -> u64 {
    let life = store.stats().life;
    for taken in 0.. {
        match begin(store, scope, &format!("{life} {taken}"), terms) {
            Ok(begun) => then(granted(begun)),
            Err(BeginError::StoreFull(Full::Scope)) => return taken,
            Err(other) => panic!("{other}"),
        }
    }
    unreachable!()
}

fn finds_room(store: &Store, scope: &str) {
    let mut claim = granted(begin(store, scope, "found room", SHARED).unwrap());
    claim.complete(b"done").unwrap();
}

#[test]
fn interrupted_keys_leave_room() {
    let mut sim = Sim::with(|options| options.max_claims(1000).max_response(4096));
    let store = sim.open();
    let most = store.stats().claims_max;
    let taken = fill(&store, "fails", SHARED, |mut claim| claim.fail(b"500").unwrap());
    assert!((most * 18 / 100..most * 20 / 100).contains(&taken), "{taken} of {most}");
    for n in 0..200 {
        let refused = begin(&store, "fails", &format!("another {n}"), SHARED).unwrap_err();
        assert_eq!(refused, BeginError::StoreFull(Full::Scope));
        assert_eq!(refused.retry(), Retry::After(SECOND));
    }
    assert_eq!(store.stats().refused_scope, 201);
    // What it has is answered as before.
    interrupted(begin(&store, "fails", "1 0", SHARED).unwrap());
    let mut store = store;
    for scope in ["after none", "after a kill", "after a power cut"] {
        finds_room(&store, scope);
        begin(&store, "fails", "yet another", SHARED).unwrap_err();
        store = match scope {
            "after none" => sim.kill_and_open(),
            _ => sim.power_cut_and_open(),
        };
    }
    // One that is decided makes room for one.
    let scope = Scope::of(["fails"]);
    let free = |name: &str| {
        store.resolve(KeyRef::new(&scope, name).unwrap(), Resolution::Free).unwrap();
    };
    (0..40).for_each(|n| free(&format!("1 {n}")));
    assert_eq!(fill(&store, "fails", SHARED, |mut claim| claim.fail(b"500").unwrap()), 40);
}

/// Any number of scopes that take all they can leave room for one more.
#[test]
fn many_scopes_leave_room() {
    let sim = Sim::with(|options| options.max_claims(1000).max_response(4096));
    let store = sim.open();
    let (mut held, mut taken) = (Vec::new(), Vec::new());
    for scope in 0..20 {
        taken.push(fill(&store, &scope.to_string(), SHARED, |claim| held.push(claim)));
        finds_room(&store, "new");
        let scope = Scope::of(["new"]);
        store
            .resolve_with(
                KeyRef::new(&scope, "found room").unwrap(),
                Resolution::Forget,
                ResolveOptions::forced(),
            )
            .unwrap();
    }
    assert!(taken.windows(2).all(|pair| pair[1] <= pair[0]) && taken[19] > 0, "{taken:?}");
    let left = store.stats().cells_free;
    assert!(left >= store.stats().claims_max / 25, "{left}");
    held.into_iter().for_each(|claim| claim.release().unwrap());
    finds_room(&store, "0");
}

#[test]
fn claims_in_hand_and_promises_leave_room() {
    // By claims …
    let sim = Sim::with(|options| options.max_claims(1000).max_response(4096));
    let store = sim.open();
    let most = store.stats().claims_max;
    let mut held = Vec::new();
    let taken = fill(&store, "holds", SHARED, |claim| held.push(claim));
    assert!((most * 36 / 100..most * 40 / 100).contains(&taken), "{taken} of {most}");
    finds_room(&store, "other");
    held.drain(..100).for_each(|mut claim| claim.complete(b"done").unwrap());
    assert!(begin(&store, "holds", "again", SHARED).is_ok());
    // … by promised space …
    let sim =
        Sim::with(|options| options.capacity(4 << 20).max_claims(4000).max_response(64 << 10));
    let store = sim.open();
    let large = Terms { reserve: None, ..SHARED };
    let mut held = Vec::new();
    let taken = fill(&store, "holds", large, |claim| held.push(claim));
    assert!((15..30).contains(&taken), "{taken} times 64 KiB of 4 MiB");
    let mut other = granted(begin(&store, "other", "k", large).unwrap());
    other.complete(&[7; 60 << 10]).unwrap();
}

/// Who has the store alone has it whole.
#[test]
fn a_scope_that_shares_with_none_is_not_bounded() {
    let sim = Sim::with(|options| options.max_claims(100).max_response(4096));
    let store = sim.open();
    let alone = Terms { shared: false, ..SHARED };
    let most = store.stats().claims_max;
    let held: Vec<_> =
        (0..most).map(|n| granted(begin(&store, "a", &n.to_string(), alone).unwrap())).collect();
    let full = begin(&store, "a", "more", alone).unwrap_err();
    assert_eq!(full, BeginError::StoreFull(Full::Claims));
    drop(held);
}
