//! Several stores as one: it keeps the promises of one, and a slot that moves is refused until it
//! has arrived.

use crate::common::{futures::block_on, *};
use onlyonce::{
    conformance::{Facts, Subject},
    *,
};
use std::{
    collections::HashSet,
    future::Future,
    task::{Context, Waker},
    time::Duration,
};

struct Shards {
    store: ShardedStore<Store>,
    clock: ManualClock,
}

impl Shards {
    fn new(count: u16) -> Self {
        let clock = ManualClock::at(T0);
        let stores = (0..count).map(|_| {
            let options = small(&clock).background(true).max_claims(1024);
            let options = options.ring_bytes(256 << 10).capacity(32 << 20);
            let disk = onlyonce::storage::SimStorage::new(1);
            options.open_on(std::sync::Arc::new(disk)).unwrap()
        });
        Shards { store: ShardedStore::new(SlotMap::even(count), stores.collect()), clock }
    }
}

impl Subject for Shards {
    type Store = ShardedStore<Store>;

    fn store(&self) -> &ShardedStore<Store> {
        &self.store
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    async fn resolve(
        &self,
        key: KeyRef<'_>,
        resolution: Resolution<'_>,
        options: ResolveOptions<'_>,
    ) -> Option<Result<(), StoreError>> {
        Some(self.store.store_of(key).resolve_with(key, resolution, options))
    }

    fn facts(&self) -> Facts {
        Facts { max_response: 4096, ..Facts::default() }
    }
}

/// A scope has keys in all stores. Any backend behind the async interface erases it.
#[test]
fn a_scope_is_erased_in_all_of_them() {
    let shards = Shards::new(3);
    let store = AsyncStore::new(AnyStore::new(shards.store.clone()));
    let (alice, bob) = (Scope::of(["alice"]), Scope::of(["bob"]));
    let begin = |scope: &Scope, n: usize| {
        let name = format!("k{n}");
        block_on(store.begin(KeyRef::new(scope, &name).unwrap(), print())).unwrap()
    };
    for scope in [&alice, &bob] {
        for n in 0..30 {
            let Begin::Execute(mut claim) = begin(scope, n) else { panic!() };
            block_on(claim.complete(b"order")).unwrap();
        }
    }
    let has = |store: &Store| store.entries(Filter::ALL).count() > 0;
    assert!(shards.store.stores().iter().all(has));
    let Begin::Execute(held) = begin(&alice, 100) else { panic!() };
    let erased = block_on(store.erase_scope(&alice, false)).unwrap();
    assert_eq!((erased.keys, erased.held), (30, 1));
    let erased = block_on(store.erase_scope(&alice, true)).unwrap();
    assert_eq!((erased.keys, erased.held), (1, 0));
    drop(held);
    let left = shards.store.stores().iter().map(|store| store.entries(Filter::ALL).count());
    assert_eq!(left.sum::<usize>(), 30);
    // Not while a copy could bring back what is gone.
    let mut map = SlotMap::even(3);
    map.assign(0..=0, 1, Phase::Draining);
    shards.store.set_map(map);
    let refused = block_on(store.erase_scope(&bob, false));
    assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
    shards.store.set_map(SlotMap::even(3));
    assert_eq!(block_on(store.erase_scope(&bob, false)).unwrap().keys, 30);
    // An error is told as in a blocking call.
    shards.store.stores()[1].clone().close().unwrap();
    assert_eq!(block_on(store.erase_scope(&bob, false)), Err(StoreError::Closed));
}

#[test]
fn it_keeps_the_promises_of_one() {
    must_end(|| {
        let shards = Shards::new(3);
        block_on(conformance::run(&shards));
        let used = shards.store.stores().iter().filter(|store| store.stats().completed > 0).count();
        assert_eq!(used, 3);
    });
}

#[test]
fn keys_are_spread() {
    let slots: HashSet<u16> = (0..1000).map(|n| slot_of(key(&format!("k{n}")))).collect();
    assert!(slots.len() > 900, "1,000 keys in {} slots", slots.len());
}

#[test]
fn a_moving_slot_is_refused_and_then_elsewhere() {
    must_end(|| {
        let shards = Shards::new(2);
        let face = AsyncStore::new(shards.store.clone());
        let begin = |name: &str| block_on(face.begin(key(name), print()));
        let slot = slot_of(key("k"));
        let home = shards.store.map().get(slot).0;
        let put = |store: u16, phase: Phase| {
            let mut map = (*shards.store.map()).clone();
            map.assign(slot..=slot, store, phase);
            shards.store.set_map(map);
        };
        let mut held = granted(begin("k").unwrap());
        put(home, Phase::Draining);
        let refused = begin("k").unwrap_err();
        assert!(matches!(refused, BeginError::Unavailable { .. }), "{refused:?}");
        assert_eq!(refused.retry(), Retry::After(SECOND));
        // The holder may end; others are not concerned.
        block_on(held.renew()).unwrap();
        let elsewhere = (0..).map(|n| format!("e{n}")).find(|n| slot_of(key(n)) != slot).unwrap();
        block_on(granted(begin(&elsewhere).unwrap()).release()).unwrap();
        assert!(!shards.store.is_settled(), "its holder is at work");
        put(home, Phase::Still);
        assert!(shards.store.is_settled(), "its holder waits from now on");
        // The holder waits, up to a limit.
        shards.store.set_still_limit(Duration::ZERO);
        let refused = block_on(held.complete(b"done")).unwrap_err();
        assert!(matches!(refused, ClaimError::Unavailable { .. }), "{refused:?}");
        shards.store.set_still_limit(Duration::from_secs(3600));
        {
            let mut waits = std::pin::pin!(held.complete(b"done"));
            let mut context = Context::from_waker(Waker::noop());
            assert!(waits.as_mut().poll(&mut context).is_pending());
            put(home, Phase::Draining);
            block_on(waits).unwrap();
        }
        assert!(shards.store.is_settled());
        // A claim that is dropped meanwhile is ended afterwards.
        let same = (0..).map(|n| format!("s{n}")).find(|n| slot_of(key(n)) == slot).unwrap();
        put(home, Phase::Open);
        let dropped = granted(begin(&same).unwrap());
        put(home, Phase::Still);
        drop(dropped);
        let state = || shards.store.stores()[usize::from(home)].get(key(&same)).unwrap().unwrap();
        assert!(matches!(state().state, State::InFlight { .. }));
        put(home, Phase::Open);
        let now = state().state;
        assert!(matches!(now, State::Interrupted { reason: Reason::Dropped, .. }), "{now:?}");
        // Moved (here by hand: what is completed, imported).
        put(home, Phase::Still);
        let stores = shards.store.stores();
        let entry = stores[usize::from(home)].get(key("k")).unwrap().unwrap();
        let State::Completed(record) = entry.state else { panic!("{entry:?}") };
        let completion = Completion { response: record.response(), ..Completion::default() };
        let import = Resolution::Complete { fingerprint: Some(print()), completion };
        stores[usize::from(1 - home)].resolve(key("k"), import).unwrap();
        put(1 - home, Phase::Open);
        assert_eq!(replayed(begin("k").unwrap()).response(), Some(&b"done"[..]));
    });
}

#[test]
#[should_panic(expected = "names a store that is not there")]
fn a_map_of_other_stores() {
    let shards = Shards::new(1);
    shards.store.set_map(SlotMap::even(2));
}
