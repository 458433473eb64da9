//! Claim and complete, buffered and synced, by one and by many callers.

use crate::{
    Bench,
    limits::{self, Disk, Map, PER_FILE},
    measure::{self, Run},
    plan::{RESPONSE_BYTES, SHORT, execute, key, new_series, pair, scope, turning_over},
    tasks,
};
use onlyonce::{Begin, Completion, Durability, Fingerprint, KeyRef, Retention, Store};
use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

pub const BUFFERED: Durability = Durability::Buffered { max_delay: Duration::from_secs(1) };

/// As [`pairs`], and every other record of a caller is kept in another class.
fn pairs_in_two_classes(store: &Store, callers: usize, time: Duration) -> Run {
    let other = Some(Retention::from(Duration::from_secs(1)));
    let worker = |_| {
        let (scope, series, mut i) = (scope(), new_series(), 0);
        move || {
            let mut claim = execute(store, &scope, &key(series, i));
            let retention = other.filter(|_| i % 2 == 1);
            let response = Some(&[7; RESPONSE_BYTES][..]);
            claim
                .complete_with(Completion { response, retention, ..Completion::default() })
                .unwrap();
            i += 1;
        }
    };
    measure::callers((0..callers).map(worker).collect(), time, true)
}

fn pairs(store: &Store, callers: usize, time: Duration, timed: bool) -> Run {
    let worker = |_| {
        let (scope, series, mut i) = (scope(), new_series(), 0);
        move || {
            pair(store, &scope, &key(series, i), &[7; RESPONSE_BYTES]);
            i += 1;
        }
    };
    measure::callers((0..callers).map(worker).collect(), time, timed)
}

/// Keys of one batch.
const BATCH: u64 = 32;

/// As [`pairs`] by one caller, and so many keys at once; a batch counts as one.
fn batches(store: &Store, time: Duration) -> Run {
    let (scope, series, mut i) = (scope(), new_series(), 0);
    let worker = move || {
        let keys: Vec<_> = (i..i + BATCH).map(|i| key(series, i)).collect();
        let request = |key| (KeyRef::new(&scope, key).unwrap(), Fingerprint::from_bytes([1; 16]));
        let granted = |begin| match begin {
            Ok(Begin::Execute(claim)) => claim,
            other => panic!("a new key was found to be {other:?}"),
        };
        let begun = store.begin_many(keys.iter().map(request));
        let mut claims: Vec<_> = begun.into_iter().map(granted).collect();
        let all = claims.iter_mut().map(|claim| (claim, &[7; RESPONSE_BYTES][..]));
        assert!(store.complete_many(all).iter().all(Result::is_ok));
        i += BATCH;
    };
    measure::callers(vec![worker], time, true)
}

/// A buffered store that has begun to use its segments again.
fn turned_over(dir: &Path, records: u64) -> Store {
    let store = turning_over().durability(BUFFERED).open(dir).unwrap();
    let (scope, series) = (scope(), new_series());
    (0..records).for_each(|i| pair(&store, &scope, &key(series, i), &[7; RESPONSE_BYTES]));
    let expired = Instant::now() + 2 * SHORT;
    while store.stats().records > 0 && Instant::now() < expired + SHORT {
        thread::sleep(SHORT / 10);
    }
    store
}

pub fn buffered(bench: &mut Bench) {
    let Bench { plan, report, .. } = bench;
    let dir = plan.dir();
    let store = turned_over(&dir.path().join("store"), plan.count(1_000_000));
    report.title("claim + complete, buffered, on a store that has turned over");
    let map = Map::default();
    let stream = limits::stream(dir.path(), plan.time(1500));
    for callers in [1, 2] {
        let [mut free, mut timed, mut memcpy, mut boxed] = <[Run; 4]>::default();
        for _ in 0..plan.rounds() {
            memcpy.add(limits::memcpy(dir.path(), callers, plan.time(200)));
            boxed.add(map.pairs(callers, plan.time(500), plan.count(100_000)));
            free.add(pairs(&store, callers, plan.time(1000), false));
            timed.add(pairs(&store, callers, plan.time(1000), true));
        }
        free.latencies = timed.latencies;
        report.rate(&format!("{callers} thread(s)"), &free);
        report.rate_limit("copy of 1,100 B into hot mapped pages", &memcpy, 1.0, &free);
        report.rate_limit("in-memory map, boxed response", &boxed, 1.0, &free);
        report.rate_limit("the disk: rewriting segments, each synced", &stream, PER_FILE, &free);
    }
    let stats = store.stats();
    report.note(format_args!(
        "{} pairs in all, {} records at the end; {} segments of {} MiB in all, {} free",
        stats.completed,
        stats.records,
        stats.segments,
        stats.segment_bytes >> 20,
        stats.segments_free
    ));
}

pub fn synced(bench: &mut Bench) {
    let Bench { plan, report, .. } = bench;
    let dir = plan.dir();
    let open = |name: &str, durability| {
        let path = dir.path().join(name);
        turned_over(&path, plan.count(400_000)).close().unwrap();
        turning_over().durability(durability).open(&path).unwrap()
    };
    let completions = open("completions", Durability::SyncedCompletions);
    let both = open("both", Durability::Synced);
    report.title("claim + complete, synced, into segments that were written before");
    let mut alone: Option<[Run; 2]> = None;
    for callers in [1, 2, 8, 32, 64] {
        let mut disk = Disk::new(dir.path(), callers);
        let [mut syncs, mut woken, mut one, mut two, mut futures, mut classes, mut many] =
            <[Run; 7]>::default();
        // Short turns: the disk has moods.
        for _ in 0..6 * plan.rounds() {
            syncs.add(disk.groups(plan.time(50)));
            one.add(pairs(&completions, callers, plan.time(100), true));
            two.add(pairs(&both, callers, plan.time(100), true));
            woken.add(limits::woken(callers, plan.time(25)));
            if callers == 1 {
                many.add(batches(&both, plan.time(100)));
            }
            if callers == 64 {
                futures.add(tasks::pairs(&completions, callers, plan.time(100)));
                classes.add(pairs_in_two_classes(&completions, callers, plan.time(100)));
            }
        }
        let [one_alone, two_alone] = alone.get_or_insert([one.clone(), two.clone()]);
        let (group, records) =
            (format!("{callers} record(s) by one pwrite + fdatasync"), callers as f64);
        report.rate(&format!("SyncedCompletions, {callers} caller(s)"), &one);
        report.rate_limit(&group, &syncs, records, &one);
        report.rate_limit("callers woken by a committer that does nothing", &woken, 1.0, &one);
        report.rate_limit("1 caller", one_alone, 1.0, &one);
        report.rate(&format!("Synced, {callers} caller(s)"), &two);
        report.rate_limit(&format!("half of {group}"), &syncs, records / 2.0, &two);
        report.rate_limit("1 caller", two_alone, 1.0, &two);
        if callers == 1 {
            report.rate(&format!("Synced, 1 caller, batches of {BATCH}"), &many);
            report.rate_limit(&format!("{BATCH} single calls"), &two, 1.0 / BATCH as f64, &many);
        }
        if callers == 64 {
            report.rate("SyncedCompletions, 64 tasks on one thread", &futures);
            report.rate_limit(&group, &syncs, records, &futures);
            report.rate_limit("64 blocking callers", &one, 1.0, &futures);
            report.rate("SyncedCompletions, 64 callers, in two classes of retention", &classes);
            report.rate_limit("64 callers in one class", &one, 1.0, &classes);
        }
    }
}
