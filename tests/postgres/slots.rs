//! Slots move from one database to another under load.

use crate::servers::{load::*, *};
use onlyonce::*;
use std::time::Duration;

#[test]
fn slots_move_under_load() {
    block_on(async {
        let Some(server) = Server::shared() else { return };
        let mut stores = Vec::new();
        for _ in 0..2 {
            let database = server.database().await;
            let options = options(&server.dsn(&database)).lease(LEASE).connections(8);
            stores.push(options.connect().await.unwrap());
        }
        // Everything is in the first one, and a half of it is to go to the second.
        let all = SlotMap::even(1);
        let sharded = ShardedStore::new(all.clone(), stores.clone());
        // Another process, with a map of its own.
        let other = ShardedStore::new(all.clone(), stores.clone());
        let load = Load::start(&[sharded.clone(), other.clone()], 16);
        load.acknowledges(200).await;
        let moving = 0..=SLOTS / 2;
        let step = |store: u16, phase: Phase| {
            let mut map = all.clone();
            map.assign(moving.clone(), store, phase);
            sharded.set_map(map.clone());
            other.set_map(map);
        };
        step(0, Phase::Draining);
        tokio::time::sleep(Duration::from_millis(200)).await;
        step(0, Phase::Still);
        // Calls that had begun end; no holder is waited for, they go on where their key is.
        until(async || sharded.is_settled() && other.is_settled()).await;
        assert_eq!(stores[0].drain(Duration::from_secs(20)).await, 0);
        let copied = stores[0].copy_slots(&stores[1], moving.clone()).await.unwrap();
        assert!(copied > 50, "{copied}");
        // Repeated after an interruption, it comes to the same.
        assert_eq!(stores[0].copy_slots(&stores[1], moving.clone()).await.unwrap(), copied);
        step(1, Phase::Open);
        assert_eq!(stores[0].delete_slots(moving.clone()).await.unwrap(), copied);
        load.acknowledges(200).await;
        load.judge(&sharded).await;
        let page = stores[0].entries(Filter::ALL, None, 100_000).await.unwrap();
        assert!(page.entries.iter().all(|entry| !moving.contains(&slot_of(entry.key.as_ref()))));
    });
}

/// A claim moves with its key: its holder ends it where it is then.
#[test]
fn a_holder_goes_on_where_its_key_is() {
    block_on(async {
        let Some((first, clock, server)) = manual().await else { return };
        let database = server.database().await;
        let second_clock = ServerClock::new(&server, &database).await;
        let second = second_clock.options().connect().await.unwrap();
        let sharded = ShardedStore::new(SlotMap::even(1), vec![first.clone(), second.clone()]);
        let store = AsyncStore::new(sharded.clone());
        let Begin::Execute(mut held) = store.begin(key("k"), print()).await.unwrap() else {
            panic!("not granted")
        };
        held.save_checkpoint(b"\0half\xff").await.unwrap();
        let slot = slot_of(key("k"));
        assert_eq!(first.copy_slots(&second, slot..=slot).await.unwrap(), 1);
        let mut map = SlotMap::even(1);
        map.assign(slot..=slot, 1, Phase::Open);
        sharded.set_map(map);
        first.delete_slots(slot..=slot).await.unwrap();
        let found = store.begin(key("k"), print()).await.unwrap();
        assert!(matches!(found, Begin::InFlight(_)), "{found:?}");
        let entry = second.get(key("k")).await.unwrap().unwrap();
        let State::InFlight { checkpoint, .. } = entry.state else { panic!("{entry:?}") };
        assert_eq!(checkpoint.as_deref(), Some(&b"\0half\xff"[..]));
        // By the clock of the server that has it.
        clock.advance(Duration::from_secs(3600)).await;
        second_clock.advance(Duration::from_secs(59)).await;
        held.renew().await.unwrap();
        held.complete(b"done").await.unwrap();
        let found = store.begin(key("k"), print()).await.unwrap();
        assert!(matches!(found, Begin::Replay(_)), "{found:?}");
    });
}

/// A handler is at work while its slot moves, and ends in the middle of the move: its completion waits
/// until the slot has arrived, and is made there.
#[test]
fn a_completion_waits_for_the_move() {
    block_on(async {
        let Some(server) = Server::shared() else { return };
        let mut stores = Vec::new();
        for _ in 0..2 {
            let database = server.database().await;
            stores.push(options(&server.dsn(&database)).connect().await.unwrap());
        }
        let sharded = ShardedStore::new(SlotMap::even(1), stores.clone());
        sharded.set_still_limit(PATIENCE);
        let store = AsyncStore::new(sharded.clone());
        let begin = async |name: &str| match store.begin(key(name), print()).await.unwrap() {
            Begin::Execute(claim) => claim,
            other => panic!("{name}: {other:?}"),
        };
        let (mut held, dropped) = (begin("held").await, begin("dropped").await);
        let step = |to: u16, phase: Phase| {
            let mut map = SlotMap::even(1);
            map.assign(0..=SLOTS - 1, to, phase);
            sharded.set_map(map);
        };
        step(0, Phase::Draining);
        assert!(!sharded.is_settled(), "its holders are at work");
        step(0, Phase::Still);
        let completing = tokio::spawn(async move { held.complete(b"done").await });
        drop(dropped);
        assert_eq!(stores[0].drain(PATIENCE).await, 0);
        assert!(sharded.is_settled());
        assert_eq!(stores[0].copy_slots(&stores[1], 0..=SLOTS - 1).await.unwrap(), 2);
        assert!(!completing.is_finished(), "it waits");
        step(1, Phase::Open);
        assert_eq!(completing.await.unwrap(), Ok(()));
        assert_eq!(stores[0].delete_slots(0..=SLOTS - 1).await.unwrap(), 2);
        assert_eq!(stores[1].drain(PATIENCE).await, 0);
        let found = store.begin(key("held"), print()).await.unwrap();
        assert!(matches!(found, Begin::Replay(_)), "{found:?}");
        let found = store.begin(key("dropped"), print()).await.unwrap();
        assert!(
            matches!(&found, Begin::Interrupted(stuck) if stuck.reason() == Reason::Dropped),
            "{found:?}"
        );
    });
}
