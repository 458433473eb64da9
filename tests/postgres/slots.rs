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

/// Rows of all slots, more than one step takes, some of them large.
async fn fill(server: &Server, database: &str, rows: u32, large: u32) {
    let fill = format!(
        "INSERT INTO onlyonce (scope, key, owner, fingerprint, token, lease_ms, replay_ms, \
             remember_ms, keep_ms, started_at, lease_until, ended_at, replay_until, expires_at, \
             reserve, sweep_hour, slot, state, holder, head, response) \
         SELECT '\\x01'::bytea, convert_to('key-' || n, 'UTF8'), '\\x00'::bytea, \
             '\\x0000000000000000000000000000000000'::bytea, n, 60000, 86400000, 86400000, \
             604800000, 0, 0, 0, 99999999999999, 99999999999999, 4096, 2000000000, \
             CASE WHEN n <= {large} THEN 0 ELSE hashint4(n) & 16383 END, 3, false, ''::bytea, \
             CASE WHEN n <= {large} THEN decode(repeat('ab', 1048576), 'hex') \
                 ELSE decode(repeat('cd', 200), 'hex') END \
         FROM generate_series(1, {rows}) AS n"
    );
    server.sql(database, &fill).await;
    server.sql(database, "ANALYZE onlyonce").await;
}

/// Slot by slot, in steps that are bounded in rows and bytes, with progress; and a move that was
/// interrupted continues where it was.
#[test]
fn a_move_goes_in_bounded_steps() {
    use std::sync::{Arc, Mutex};
    block_on(async {
        let Some(server) = Server::shared() else { return };
        let mut stores = Vec::new();
        let mut names = Vec::new();
        for _ in 0..2 {
            let database = server.database().await;
            let options = options(&server.dsn(&database));
            options.index_slots().await.unwrap();
            // Repeatable.
            options.index_slots().await.unwrap();
            stores.push(options.connect().await.unwrap());
            names.push(database);
        }
        fill(&server, &names[0], 7000, 9).await;
        let steps: Arc<Mutex<Vec<postgres::SlotsMoved>>> = Arc::default();
        let told = {
            let steps = steps.clone();
            move |step| steps.lock().unwrap().push(step)
        };
        let copied = stores[0].copy_slots_telling(&stores[1], 0..=SLOTS - 1, told).await.unwrap();
        assert_eq!(copied, 7000);
        let seen = std::mem::take(&mut *steps.lock().unwrap());
        // Nine rows of a MiB in one slot, of which four fit a step, and rows enough for four steps.
        assert!((6..=8).contains(&seen.len()), "{seen:?}");
        assert!(seen.is_sorted_by_key(|step| (step.slot, step.rows)), "{seen:?}");
        assert_eq!(seen.last().unwrap().rows, 7000);
        // From the middle, as after an interruption.
        let middle = seen[seen.len() / 2].slot;
        let again = stores[0].copy_slots(&stores[1], middle..=SLOTS - 1).await.unwrap();
        assert!((1..7000).contains(&again), "{again}");
        let sum = "SELECT md5(string_agg(md5(t::text), '' ORDER BY key)) FROM onlyonce AS t";
        let (from, to) = (server.sql(&names[0], sum).await, server.sql(&names[1], sum).await);
        assert_eq!(from, to);
        let told = {
            let steps = steps.clone();
            move |step| steps.lock().unwrap().push(step)
        };
        let deleted = stores[0].delete_slots_telling(0..=SLOTS / 2 - 1, told).await.unwrap();
        let rest = stores[0].delete_slots(SLOTS / 2..=SLOTS - 1).await.unwrap();
        assert_eq!(deleted + rest, 7000);
        assert!(steps.lock().unwrap().len() > 1);
        let left = server.sql(&names[0], "SELECT count(*) FROM onlyonce").await;
        assert_eq!(left.as_deref(), Some("0"));
    });
}

/// `ROWS=1000000 cargo test --all-features --test postgres -- --ignored --nocapture many_rows`: how
/// long it takes. With `COPY=0` the rows are only deleted (a copy leaves nothing in their table).
#[test]
#[ignore = "a measurement, for people"]
fn many_rows_move() {
    block_on_for(Duration::from_secs(3000), async {
        let Some(bin) = programs() else { return };
        let server = Server::start_with(bin, "fsync = on\nshared_buffers = 256MB\n");
        let rows = std::env::var("ROWS").ok().and_then(|rows| rows.parse().ok());
        let rows: u32 = rows.unwrap_or(1_000_000);
        let (from, to) = (server.database().await, server.database().await);
        let start = std::time::Instant::now();
        fill(&server, &from, rows, 0).await;
        println!("{rows} rows made in {:.1?}", start.elapsed());
        let options_from = options(&server.dsn(&from)).deadline(PATIENCE);
        let start = std::time::Instant::now();
        options_from.index_slots().await.unwrap();
        println!("indexed in {:.1?}", start.elapsed());
        let (one, two) = (
            options_from.connect().await.unwrap(),
            options(&server.dsn(&to)).deadline(PATIENCE).connect().await.unwrap(),
        );
        if std::env::var("COPY").is_ok_and(|copy| copy == "0") {
            println!("not copied");
        } else {
            let start = std::time::Instant::now();
            let copied = one.copy_slots_telling(&two, 0..=SLOTS - 1, millions("copied"));
            assert_eq!(copied.await.unwrap(), u64::from(rows));
            println!("copied in {:.1?}", start.elapsed());
        }
        let start = std::time::Instant::now();
        let deleted = one.delete_slots_telling(0..=SLOTS - 1, millions("deleted"));
        assert_eq!(deleted.await.unwrap(), u64::from(rows));
        println!("deleted in {:.1?}", start.elapsed());
    });
}

/// Prints each million.
fn millions(what: &'static str) -> impl FnMut(postgres::SlotsMoved) + Send + 'static {
    let (start, mut told) = (std::time::Instant::now(), 0);
    move |so_far| {
        if so_far.rows / 1_000_000 > told {
            told = so_far.rows / 1_000_000;
            println!("{told} million {what} after {:.1?}", start.elapsed());
        }
    }
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
