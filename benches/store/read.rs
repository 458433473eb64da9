//! Replays and misses.

use crate::{
    Bench,
    limits::Map,
    measure::single,
    plan::{Key, RESPONSE_BYTES, circle, execute, key, new_series, pair, print, scope},
    write::BUFFERED,
};
use onlyonce::{Begin, KeyRef, Options, Scope, Store};
use std::{hint::black_box, path::Path};

/// Each response begins with the next key, in a circle through all of them, so that no lookup can
/// begin before the one before it has ended.
struct Circle {
    series: u64,
    next: Vec<u32>,
}

impl Circle {
    fn new(records: u64) -> Self {
        Circle { series: new_series(), next: circle(records) }
    }

    fn each(&self, mut record: impl FnMut(&Key, &[u8])) {
        let mut response = [7; RESPONSE_BYTES];
        for (i, next) in self.next.iter().enumerate() {
            response[..36].copy_from_slice(&key(self.series, u64::from(*next)));
            record(&key(self.series, i as u64), &response);
        }
    }
}

fn filled(dir: &Path, circle: &Circle) -> Store {
    let store = Options::new().durability(BUFFERED).open(dir).unwrap();
    let scope = scope();
    circle.each(|key, response| pair(&store, &scope, key, response));
    store.flush().unwrap();
    store
}

/// Follows the circle, or asks for one key again and again; returns the next key.
fn replay_one(store: &Store, scope: &Scope, key: &mut Key, follow: bool) {
    match store.begin(KeyRef::new(scope, key).unwrap(), print()).unwrap() {
        Begin::Replay(record) => {
            let response = record.response().expect("retained");
            let next = if follow { &response[..36] } else { &black_box(response)[..0] };
            key[..next.len()].copy_from_slice(next);
        }
        other => panic!("a completed key was found to be {other:?}"),
    }
}

fn replay_map(map: &Map, key: &mut Key, follow: bool) {
    let (response, crc) = map.replay(key).expect("filled in");
    black_box(crc);
    let next = if follow { &response[..36] } else { &black_box(&response)[..0] };
    key[..next.len()].copy_from_slice(next);
}

pub fn replay(bench: &mut Bench) {
    bench.report.title("replay of 1 KiB, copied and its checksum checked");
    for records in [100_000, 1_000_000] {
        replay_among(bench, records);
    }
}

fn replay_among(bench: &mut Bench, records: u64) {
    let Bench { plan, criterion, report } = bench;
    let name = name(records);
    let circle = Circle::new(plan.count(records));
    let start = key(circle.series, 0);
    let mut limit = |follow, id: &str| {
        let map = Map::default();
        circle.each(|key, response| map.complete(key, response));
        let mut key = start;
        single(criterion, id, |n| (0..n).for_each(|_| replay_map(&map, &mut key, follow)))
    };
    let map_random = limit(true, &format!("replay/map/{name}"));
    let map_hot = limit(false, &format!("replay/map/hot of {name}"));

    let dir = plan.dir();
    let (store, scope) = (filled(dir.path(), &circle), scope());
    let mut measure = |follow, id: &str| {
        let mut key = start;
        single(criterion, id, |n| (0..n).for_each(|_| replay_one(&store, &scope, &mut key, follow)))
    };
    let random = measure(true, &format!("replay/store/{name}"));
    let hot = measure(false, &format!("replay/store/hot of {name}"));

    let bare = "bare sharded map, same copy + crc32fast";
    if let Some(random) = random {
        report.cost(&format!("random among {name}, each depends on the one before"), random);
        map_random.inspect(|limit| report.cost_limit(bare, *limit, random));
    }
    if let Some(hot) = hot {
        report.cost(&format!("one hot key of {name}"), hot);
        map_hot.inspect(|limit| report.cost_limit(bare, *limit, hot));
    }
}

fn name(records: u64) -> String {
    if records < 1_000_000 {
        format!("{}k", records / 1000)
    } else {
        format!("{}M", records / 1_000_000)
    }
}

pub fn miss(bench: &mut Bench) {
    let Bench { plan, criterion, report } = bench;
    let circle = Circle::new(plan.count(1_000_000));
    let (absent, mut i) = (new_series(), 0);
    let mut fresh = || {
        i += 1;
        key(absent, i)
    };
    let map = Map::default();
    circle.each(|key, response| map.complete(key, response));
    let map_get = single(criterion, "miss/map/get", |n| {
        (0..n).for_each(|_| assert!(map.replay(&fresh()).is_none()));
    });
    let map_claim = single(criterion, "miss/map/claim + forget", |n| {
        for _ in 0..n {
            let key = fresh();
            map.claim(&key);
            map.forget(&key);
        }
    });
    drop(map);

    let dir = plan.dir();
    let (store, scope) = (filled(dir.path(), &circle), scope());
    let get = single(criterion, "miss/store/get", |n| {
        for _ in 0..n {
            let key = fresh();
            assert!(store.get(KeyRef::new(&scope, &key).unwrap()).unwrap().is_none());
        }
    });
    let claim = single(criterion, "miss/store/begin + release", |n| {
        (0..n).for_each(|_| execute(&store, &scope, &fresh()).release().unwrap());
    });

    report.title("absent keys, each a new one, among 1M");
    if let Some(get) = get {
        report.cost("get", get);
        map_get.inspect(|limit| report.cost_limit("bare sharded map", *limit, get));
    }
    if let Some(claim) = claim {
        report.cost("begin + release, buffered", claim);
        map_claim
            .inspect(|limit| report.cost_limit("bare sharded map, insert + remove", *limit, claim));
        report.note(
            "lookup, token, space, cell of the claims file written and cleared, lease timer set \
             and cancelled; nothing appended",
        );
    }
}
