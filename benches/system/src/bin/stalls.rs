//! The thousand longest requests at full rate, and what each waited for.

use measure::{
    Args, Folder, Machine, beside, time,
    trace::{Call, Trace, TracedStorage},
    work::{BUFFERED, RESPONSE_BYTES, key, new_series, pair, scope},
};
use onlyonce::{Durability, Options, Store};
use serde::Serialize;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    fs,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const HELP: &str = "\
The longest requests at full rate, with their causes.

    --seconds N      (60)
    --quick          the same as --seconds 5
    --durability D   buffered, completions or synced (buffered)
    --callers N      (1 buffered, 64 otherwise)
    --retention MS   (2000)
    --longest N      (1000)
    --dir DIR        for the store
    --json FILE      (stalls.json beside this program)

A cause is what took more than half of a request, the first of these:
  the scheduler     the caller could run, but another thread had the processor
  own call          a call to the disk that the caller made itself
  another's call    one that a thread of the store, or another caller, made meanwhile
  memory            none of these: tables that grow, locks, page faults, interrupts of the machine
Passes if none but the scheduler's is longer than 1 ms in buffered; the other two wait for the
disk, and are only shown.
";

/// Shorter requests are not looked into.
const LOOKED_INTO: Duration = Duration::from_micros(50);
const LONGEST_ALLOWED: Duration = Duration::from_millis(1);

/// A request that took long; the longest comes first in its order.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Stall {
    took: Duration,
    began: Instant,
    thread: String,
    /// Of that time the caller was ready to run.
    ready: Duration,
}

#[derive(Serialize)]
struct Caused {
    took_us: f64,
    cause: String,
}

fn main() -> ExitCode {
    let names =
        ["--seconds", "--durability", "--callers", "--retention", "--longest", "--dir", "--json"];
    let args = Args::read(HELP, &names, &["--quick"]);
    let durability = match args.text("--durability").unwrap_or("buffered") {
        "buffered" => BUFFERED,
        "completions" => Durability::SyncedCompletions,
        "synced" => Durability::Synced,
        other => args.stop(&format!("{other}: no such durability")),
    };
    let callers = args.number("--callers", if durability == BUFFERED { 1 } else { 64 });
    let seconds = args.number("--seconds", if args.has("--quick") { 5 } else { 60 });
    let retention = Duration::from_millis(args.number("--retention", 2000));
    let longest = args.number("--longest", 1000) as usize;
    let folder = Folder::new("stalls", args.text("--dir"));
    println!("{}", Machine::of(folder.path()));
    let trace = Trace::default();
    let disk = TracedStorage::open(folder.path(), trace.clone()).expect("the directory");
    let options = Options::new().durability(durability).retention(retention).lease(retention);
    let options = options.capacity(64 << 30);
    let store = options.open_on(Arc::new(disk)).expect("the store opens");
    let run_for = |seconds| run(&store, callers, Duration::from_secs(seconds), longest);
    // Until segments are used again.
    run_for(2 * retention.as_secs() + 2);
    trace.take();
    let (requests, stalls) = run_for(seconds);
    println!("{requests} requests by {callers} caller(s), {durability:?}");
    let causes = causes(stalls, trace.take());
    print(&causes);
    let path = args.text("--json").map_or_else(|| beside("stalls.json"), Into::into);
    fs::write(path, serde_json::to_vec_pretty(&causes).expect("serializable")).expect("the file");
    let allowed_us = LONGEST_ALLOWED.as_nanos() as f64 / 1e3;
    let stalled = |of: &Caused| of.took_us > allowed_us && of.cause != SCHEDULER;
    let passed = durability != BUFFERED || !causes.iter().any(stalled);
    println!("{}", if passed { "PASS" } else { "FAIL" });
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// How many requests there were, and the longest.
fn run(store: &Store, callers: u64, time: Duration, longest: usize) -> (u64, Vec<Stall>) {
    let stop = AtomicBool::new(false);
    let all = thread::scope(|scope| {
        let caller = |i| {
            let thread = thread::Builder::new().name(format!("caller-{i}"));
            let work = || caller(store, &stop, longest);
            thread.spawn_scoped(scope, work).expect("a thread")
        };
        let threads: Vec<_> = (0..callers).map(caller).collect();
        thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().map(|thread| thread.join().expect("a caller")).collect::<Vec<_>>()
    });
    let requests = all.iter().map(|(requests, _)| requests).sum();
    let mut stalls: Vec<_> = all.into_iter().flat_map(|(_, stalls)| stalls).collect();
    stalls.sort_by(|a, b| b.cmp(a));
    stalls.truncate(longest);
    (requests, stalls)
}

fn caller(store: &Store, stop: &AtomicBool, longest: usize) -> (u64, Vec<Stall>) {
    let (scope, series) = (scope(), new_series());
    let mut heap: BinaryHeap<Reverse<Stall>> = BinaryHeap::new();
    let (mut i, mut ready, mut began) = (0, ready_time(), Instant::now());
    while !stop.load(Ordering::Relaxed) {
        pair(store, &scope, &key(series, i), &[7; RESPONSE_BYTES]);
        i += 1;
        let took = began.elapsed();
        if took >= LOOKED_INTO {
            let now = ready_time();
            let name = thread::current().name().unwrap_or_default().to_owned();
            heap.push(Reverse(Stall { took, began, thread: name, ready: now - ready }));
            ready = now;
            if heap.len() > longest {
                heap.pop();
            }
        }
        began = Instant::now();
    }
    (i, heap.into_iter().map(|Reverse(stall)| stall).collect())
}

/// How long this thread has waited for a processor so far. Short waits since the last reading
/// count to the next request that is looked into; they are shorter than what is looked into.
fn ready_time() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let ns = text.split_whitespace().nth(1).and_then(|ns| ns.parse().ok());
    Duration::from_nanos(ns.unwrap_or_default())
}

const SCHEDULER: &str = "the scheduler";

fn causes(stalls: Vec<Stall>, mut calls: Vec<Call>) -> Vec<Caused> {
    calls.sort_by_key(|call| call.began);
    let longest = calls.iter().map(|call| call.ended - call.began).max().unwrap_or_default();
    let caused = |stall: Stall| {
        let ended = stall.began + stall.took;
        // None that began earlier can still have been going on.
        let earliest = stall.began.checked_sub(longest).unwrap_or(stall.began);
        let from = calls.partition_point(|call| call.began < earliest);
        let until = calls.partition_point(|call| call.began < ended);
        let cause = cause(&stall, &calls[from..until]);
        Caused { took_us: stall.took.as_nanos() as f64 / 1e3, cause }
    };
    stalls.into_iter().map(caused).collect()
}

fn cause(stall: &Stall, calls: &[Call]) -> String {
    let half = stall.took / 2;
    if stall.ready > half {
        return SCHEDULER.into();
    }
    let ended = stall.began + stall.took;
    let share =
        |call: &Call| call.ended.min(ended).saturating_duration_since(call.began.max(stall.began));
    let (own, others): (Vec<_>, Vec<_>) =
        calls.iter().partition(|call| *call.thread == *stall.thread);
    let most = |of: &[&Call]| {
        let mut kinds: BTreeMap<&str, Duration> = BTreeMap::new();
        of.iter().for_each(|call| *kinds.entry(call.what).or_default() += share(call));
        kinds.into_iter().max_by_key(|kind| kind.1).filter(|kind| kind.1 > half)
    };
    match (most(&own), most(&others)) {
        (Some((what, _)), _) => format!("own call: {what}"),
        (None, Some((what, _))) => format!("another's call: {what}"),
        (None, None) => "memory".into(),
    }
}

fn print(all: &[Caused]) {
    let mut by_cause: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    all.iter().for_each(|of| by_cause.entry(&of.cause).or_default().push(of.took_us));
    println!(
        "{:<62}{:>8}{:>10}{:>8}{:>8}{:>8}{:>8}",
        "the longest, by cause", "count", "longest", "< 0.2ms", "< 1ms", "< 5ms", "more"
    );
    for (cause, times) in by_cause {
        let between =
            |low: f64, high: f64| times.iter().filter(|us| (low..high).contains(*us)).count();
        println!(
            "{cause:<62}{:>8}{:>10}{:>8}{:>8}{:>8}{:>8}",
            times.len(),
            time(times.iter().copied().fold(0.0, f64::max) * 1e3),
            between(0.0, 200.0),
            between(200.0, 1000.0),
            between(1000.0, 5000.0),
            between(5000.0, f64::INFINITY)
        );
    }
}
