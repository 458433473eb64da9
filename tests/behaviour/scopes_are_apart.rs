//! S2: a key in another scope is another key; and keys derived for other services follow.

use crate::common::*;
use onlyonce::*;

fn claim_in(store: &Store, scope: &Scope, name: &str) -> Claim {
    granted(store.begin(KeyRef::new(scope, name).unwrap(), print()).unwrap())
}

#[test]
fn one_key_in_two_scopes_is_two_claims() {
    let (store, _) = store();
    let (ann, bob) = (Scope::of(["ann"]), Scope::of(["bob"]));
    claim_in(&store, &ann, "k").complete(b"ann's").unwrap();
    let mut other = claim_in(&store, &bob, "k");
    other.complete(b"bob's").unwrap();
    for (scope, response) in [(&ann, b"ann's"), (&bob, b"bob's")] {
        let record = replayed(store.begin(KeyRef::new(scope, "k").unwrap(), print()).unwrap());
        assert_eq!(record.response(), Some(&response[..]));
    }
}

#[test]
fn scope_and_key_do_not_run_together() {
    let (store, _) = store();
    let (a, ab) = (Scope::new("a").unwrap(), Scope::new("ab").unwrap());
    let _held = claim_in(&store, &a, "bc");
    let _beside = claim_in(&store, &ab, "c");
    let _alone = claim_in(&store, &Scope::global(), "abc");
    assert_eq!(store.stats().in_flight, 3);
    assert_ne!(Scope::of(["ab", "c"]), Scope::of(["a", "bc"]));
}

#[test]
fn a_derived_key_depends_on_scope_key_request_and_step_alone() {
    let (store, _) = store();
    let scope = Scope::of(["ann"]);
    let first = claim_in(&store, &scope, "k");
    let derived = first.derive_key("charge");
    assert_eq!(derived.len(), 32);
    assert_ne!(derived, first.derive_key("refund"));
    assert_ne!(derived, claim_in(&store, &Scope::of(["bob"]), "k").derive_key("charge"));
    assert_ne!(derived, claim_in(&store, &scope, "l").derive_key("charge"));
    drop(first);
    let begin = store.begin(KeyRef::new(&scope, "k").unwrap(), print()).unwrap();
    let second = granted(interrupted(begin).take_over().unwrap());
    assert_eq!(second.derive_key("charge"), derived, "the same at every attempt");
    second.release().unwrap();

    let k = KeyRef::new(&scope, "k").unwrap();
    store.resolve(k, Resolution::Free).unwrap();
    let other = granted(store.begin(k, other_print()).unwrap());
    assert_ne!(other.derive_key("charge"), derived);
}

#[test]
fn a_derived_key_is_the_same_in_another_store() {
    let derived = |store: &Store| store.claim("k").derive_key("charge");
    assert_eq!(derived(&store().0), derived(&store().0));
}
