//! Answers that are values: stored as JSON, replayed as what they were.

use crate::common::{futures::block_on, *};
use onlyonce::*;
use std::collections::BTreeMap;

/// A service's own error.
#[derive(Debug)]
enum Trouble {
    Json,
    Database,
    Once(String),
}

impl From<serde_json::Error> for Trouble {
    fn from(_: serde_json::Error) -> Self {
        Trouble::Json
    }
}

impl<S: spi::IdempotencyStore> From<OnceError<S, Trouble>> for Trouble {
    fn from(error: OnceError<S, Trouble>) -> Self {
        match error {
            OnceError::Work(WorkError::Unknown(own) | WorkError::NothingDone(own)) => own,
            OnceError::Unreadable { why, .. } => Trouble::Once(why),
            _ => Trouble::Once("other".into()),
        }
    }
}

fn once<'a>(store: &Store, name: &'a str) -> Once<'a, Store> {
    store.once(key(name), print())
}

#[test]
fn values_come_back() -> Result<(), Trouble> {
    let (store, _) = store();
    let work = |_: &mut Claim<Store>| Ok::<_, WorkError<Trouble>>(("order".to_owned(), 7_u64));
    let first = once(&store, "k").run_json(work)?;
    let again = once(&store, "k").run_json(work)?;
    assert_eq!((first.replayed, again.replayed), (false, true));
    assert_eq!((first.value.clone(), first.value), (again.value, ("order".to_owned(), 7)));
    // What was stored is no value of another type.
    let other = once(&store, "k").run_json(|_| Ok::<u64, WorkError<Trouble>>(1));
    let other = Trouble::from(other.unwrap_err());
    assert!(matches!(other, Trouble::Once(why) if why.contains("invalid type")));
    Ok(())
}

#[test]
fn errors_are_the_services_own() {
    let (store, _) = store();
    let fails = || -> Result<u64, Trouble> { Err(Trouble::Database) };
    let failed = once(&store, "k").run_json(|_| Ok::<_, WorkError<Trouble>>(fails()?));
    assert!(matches!(Trouble::from(failed.unwrap_err()), Trouble::Database));
    assert_eq!(store.stats().interrupted, 1);
    // A map without names for its fields can't be written; the work has run.
    let nameless = || Ok::<_, WorkError<Trouble>>(BTreeMap::from([(vec![1], 2)]));
    let failed = once(&store, "l").run_json(|_| nameless());
    assert!(matches!(Trouble::from(failed.unwrap_err()), Trouble::Json));
    assert_eq!(store.stats().interrupted, 2);
    // What happened is told as a value, too.
    let settled = once(&store, "k")
        .settle(|_| Settled::happened_json(&9_u64).unwrap())
        .run_json(|_| Ok::<_, WorkError<Trouble>>(1_u64));
    let settled = settled.unwrap();
    assert_eq!((settled.value, settled.replayed), (9, true));
}

#[test]
fn and_so_as_futures() {
    let (store, _) = store();
    let store = AsyncStore::new(store);
    let work = async |_: &mut Claim<AsyncStore<Store>>| Ok::<_, WorkError<Trouble>>(vec![1_u64, 2]);
    let first = block_on(store.once(key("k"), print()).run_json(work)).unwrap();
    let again = block_on(store.once(key("k"), print()).run_json(work)).unwrap();
    assert_eq!((first.value, first.replayed), (vec![1, 2], false));
    assert_eq!((again.value, again.replayed), (vec![1, 2], true));
}
