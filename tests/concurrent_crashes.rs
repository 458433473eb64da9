//! Callers that meet, and a crash in the middle. Callers, the store's own threads, the clock and
//! the disk run one at a time in an order that a seed decides (shuttle), also between two calls to
//! the disk and in the middle of a copy. At some moment the process is killed or the power goes;
//! what the next opening finds must be explained by what the callers were answered, as the
//! durability table says for the setting. Then the keys are decided in the second life, which is
//! killed too. A world may also have a call to the disk that fails, syncs of one file that take long,
//! tasks that are polled late, backups, a store that is closed and opened under its callers, openings
//! that die, and an orderly end.
//!
//! ```sh
//! RUSTFLAGS='--cfg onlyonce_shuttle --cfg onlyonce_broken' cargo test --release \
//!     --target-dir target/shuttle --test concurrent_crashes
//! ```
//!
//! `WORLDS=<n>` looks at more, `SEED=<n>` at others. A failure prints the story, and the schedule
//! into a file; `SCHEDULE=<file>` repeats it. `SHRINK=<n>` then looks for the smallest world that
//! fails within n schedules, and tells its story.

#![cfg(onlyonce_shuttle)]
#[path = "concurrent_crashes/caller.rs"]
mod caller;
mod common;
#[path = "concurrent_crashes/disk.rs"]
mod disk;
#[path = "concurrent_crashes/judge.rs"]
mod judge;
#[path = "concurrent_crashes/shrink.rs"]
mod shrink;
#[path = "concurrent_crashes/story.rs"]
mod story;

use caller::Caller;
use common::{schedules::number, *};
use disk::Stalling;
use judge::{Crash, Is};
use onlyonce::{storage::Fault, *};
use shuttle::{
    Runner,
    rand::{Rng, thread_rng},
    scheduler::{RandomScheduler, UncontrolledNondeterminismCheckScheduler},
    thread,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::ErrorKind,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};
use story::{Answer, Call, Story, What};

/// What a thousand worlds should all come to; counted over a run.
static SITES: Mutex<BTreeMap<&str, usize>> = Mutex::new(BTreeMap::new());

/// Calls on one key that overlapped.
static MET: Mutex<BTreeSet<(&str, &str)>> = Mutex::new(BTreeSet::new());

/// The world that runs, or ran last.
static LAST: Mutex<(Option<World>, Option<Arc<Story>>)> = Mutex::new((None, None));

fn site(name: &'static str) {
    *SITES.lock().unwrap().entry(name).or_default() += 1;
}

fn one_in(n: u32) -> bool {
    thread_rng().gen_ratio(1, n)
}

fn below(n: usize) -> usize {
    thread_rng().gen_range(0..n)
}

/// What a world is made of: drawn, so that rare meetings are not drowned by frequent ones.
#[derive(Clone, Copy, Debug)]
struct World {
    durability: Durability,
    callers: usize,
    keys: usize,
    calls: usize,
    operators: bool,
    tasks: bool,
    /// Responses so large that segments fill.
    large: bool,
    /// The clock moves beyond the retention, so that records expire and segments are used again.
    expires: bool,
    /// Another retention than the store's, whose records go their own way.
    other_class: bool,
    /// Syncs of files whose names begin so take long.
    slow: &'static str,
    /// A call to the disk fails.
    fails: bool,
    /// A sync that fails may take pages out of the cache.
    forgets: bool,
    /// The opening after the crash dies or fails, and is repeated.
    struck: bool,
    /// Backups are taken.
    copies: bool,
    /// The store is closed and opened under its callers.
    reopens: bool,
    /// Many keys, in one part of the index.
    fills: bool,
    /// The scope of all keys is erased.
    erases: bool,
    crash: Crash,
}

impl World {
    fn draw() -> World {
        let buffered = Durability::Buffered { max_delay: SECOND };
        let settings = [Durability::Synced, Durability::SyncedCompletions, buffered];
        let slow = ["segment-", "claims", "superblock"];
        let expires = one_in(3);
        let world = World {
            durability: settings[below(3)],
            callers: 2 + below(3),
            keys: 1 + below(2),
            calls: 2 + below(5),
            operators: one_in(2),
            tasks: one_in(3),
            large: one_in(4),
            expires,
            other_class: one_in(3),
            slow: if one_in(4) { slow[below(3)] } else { "" },
            fails: one_in(6),
            forgets: one_in(2),
            struck: one_in(3),
            copies: one_in(6),
            reopens: one_in(6),
            fills: !expires && one_in(6),
            erases: one_in(5),
            crash: [Crash::Kill, Crash::PowerCut, Crash::Kill, Crash::PowerCut, Crash::Close]
                [below(5)],
        };
        let fails = world.fails && world.crash != Crash::Close;
        // (Opened again by the same process, a store would have lost what its callers have seen.)
        let forgets = world.forgets && fails && !world.reopens;
        // (A story says what becomes of the first two keys only.)
        let erases = world.erases && !world.fills;
        World { fails, forgets, erases, ..world }
    }
}

/// A number that no other response has.
static RESPONSES: AtomicUsize = AtomicUsize::new(1);

/// What all callers of a world have.
struct Shared {
    store: Mutex<Store>,
    keys: AtomicUsize,
}

impl Shared {
    /// The store that is open.
    fn store(&self) -> Store {
        self.store.lock().unwrap().clone()
    }

    /// A key that no caller has used.
    fn next_key(&self) -> usize {
        self.keys.fetch_add(1, SeqCst)
    }
}

fn name_of(key: usize) -> String {
    match key {
        0 => "k".into(),
        1 => "l".into(),
        more => format!("m{more}"),
    }
}

fn response_of(number: u64, large: bool) -> Vec<u8> {
    let mut response = number.to_le_bytes().to_vec();
    response.resize(if large { 4000 } else { 8 }, 7);
    response
}

fn number_of(record: &Record) -> u64 {
    u64::from_le_bytes(record.response().expect("retained")[..8].try_into().unwrap())
}

/// What the store says that a key is.
fn looked_up(store: &Store, key: usize) -> Is {
    match store.get(common::key(&name_of(key))).unwrap() {
        None => Is::Absent,
        Some(entry) => match entry.state {
            State::Completed(record) => Is::Completed(number_of(&record)),
            _ => Is::Undecided(entry.token.get()),
        },
    }
}

/// Whether what was found is among what may be left, of which one token is not known.
fn is_among(found: Is, left: &BTreeSet<Is>) -> bool {
    left.contains(&found) || matches!(found, Is::Undecided(_)) && left.contains(&Is::Undecided(0))
}

/// Worlds of this run, this one included.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// The calls on a key as a copy of this moment has them.
fn as_copied(calls: &[Call], moment: usize) -> Vec<Call> {
    let begun = calls.iter().filter(|call| call.began <= moment || call.what == What::Tick);
    let seen = begun.map(|call| {
        let optional = call.ended > moment && call.what != What::Tick;
        Call { optional, ..call.clone() }
    });
    seen.collect()
}

fn count_meetings(calls: &[Call]) {
    let mut met = MET.lock().unwrap();
    for (n, call) in calls.iter().enumerate() {
        for other in &calls[..n] {
            if other.key == call.key && other.ended > call.began {
                let (a, b) = (call.what.name(), other.what.name());
                met.insert((a.min(b), a.max(b)));
            }
        }
    }
}

/// All that was promised is given back when nothing is in flight any more, and nothing is when the
/// store is opened again.
fn drive_to_rest(sim: &Sim, store: Store, told: &dyn Fn() -> String) {
    for _ in 0..2 {
        store.flush().unwrap();
        store.housekeep().unwrap();
    }
    let at_rest = store.stats();
    assert_eq!((at_rest.holders, at_rest.waiters), (0, 0), "not at rest:\n{}", told());
    // A claim takes a promise, and gives it back.
    let claim = store.claim("another");
    claim.release().unwrap();
    store.flush().unwrap();
    store.flush().unwrap();
    let (before, at_rest) = (at_rest, store.stats());
    // The store may have made another segment meanwhile.
    assert!(at_rest.space_free >= before.space_free, "space isn't given back:\n{}", told());
    assert_eq!(at_rest.cells_free, before.cells_free, "cells aren't given back:\n{}", told());
    store.close().unwrap();
    let again = sim.open();
    let opened = again.stats();
    assert_eq!(opened.cells_free, at_rest.cells_free, "cells are lost:\n{}", told());
    // An opening counts what is there; it also frees what has expired.
    let kept = opened.segments_free <= at_rest.segments_free && opened.segments == at_rest.segments;
    let more = kept && opened.space_free > at_rest.space_free;
    assert!(!more, "{at_rest:?} at rest, then {opened:?}:\n{}", told());
    site("driven to rest");
    again.close().unwrap();
}

/// Openings that die, fail, or end as soon as they are over. Returns the crash that the next one has
/// to explain.
fn strike_opening(sim: &mut Sim, story: &Story, forgets: bool, mut crash: Crash) -> Crash {
    for _ in 0..1 + below(2) {
        let fails = one_in(4);
        let fault = if fails { Fault::Error(ErrorKind::Other) } else { Fault::Crash };
        sim.disk.fault_at(sim.disk.calls() + 1 + below(80) as u64, fault);
        let opened = sim.try_open().is_ok();
        site(if opened { "an opening was the last" } else { "an opening died" });
        let cut = one_in(2);
        story.event(match (opened, cut) {
            (false, false) => "the next opening is killed",
            (false, true) => "the power goes during the next opening",
            (true, false) => "the process is killed after the next opening",
            (true, true) => "the power goes after the next opening",
        });
        // (A sync that fails may have taken from the cache what only the cache had.)
        if (cut || fails && forgets) && !opened && crash == Crash::Kill {
            crash = Crash::PowerCut;
        }
        sim.disk = if cut { sim.disk.power_cut() } else { sim.disk.kill() };
        if opened {
            break;
        }
    }
    crash
}

fn one_world() {
    let world = shrink::FORCED.lock().unwrap().unwrap_or_else(World::draw);
    let count = COUNT.fetch_add(1, SeqCst) + 1;
    let mut sim = Sim::with(|options| {
        let options = options.background(true).durability(world.durability).lease(MINUTE);
        let options = options.max_attempts(100).clock_jump_max(30 * DAY);
        let options = options.hash_bits(if world.fills { 0 } else { 64 });
        options.retention(HOUR).segment_bytes(64 << 10).capacity(512 << 10)
    });
    let story = Arc::new(Story::default());
    *LAST.lock().unwrap() = (Some(world), Some(story.clone()));
    let on_slow = |sim: &Sim| {
        let disk = Stalling { disk: sim.disk.clone(), slow: world.slow };
        sim.options.open_on(Arc::new(disk))
    };
    let store = on_slow(&sim).unwrap();
    let before = store.stats();
    let shared = Shared { store: Mutex::new(store), keys: AtomicUsize::new(2) };
    let shared = Arc::new(shared);
    sim.disk.tear_mapped(world.durability != Durability::Synced);
    sim.disk.forget_failed(world.forgets);
    let mut faulty = u64::MAX;
    if world.fails {
        let (call, short) = (sim.disk.calls() + 1 + below(60) as u64, one_in(3));
        faulty = call;
        let fault = if short { Fault::ShortWrite } else { Fault::Error(ErrorKind::Other) };
        sim.disk.fault_at(call, fault);
    }
    let callers: Vec<_> = (0..world.callers)
        .map(|number| {
            let caller = Caller {
                shared: shared.clone(),
                story: story.clone(),
                world,
                number,
                claims: [None, None],
                interrupted: [None, None],
            };
            thread::spawn(move || caller.run())
        })
        .collect();
    // How far the others come before the crash is the scheduler's choice, and this one's.
    let reopens = if world.reopens { below(100) } else { usize::MAX };
    for turn in 0..below(200) {
        thread::yield_now();
        if one_in(100) {
            sim.clock.advance(MINUTE);
        }
        if turn == reopens {
            let old = shared.store();
            story.flush("an orderly closing", || old.close().is_ok());
            let mut opened = on_slow(&sim);
            if world.fails && opened.is_err() {
                site("an opening failed");
                story.event("an opening fails");
                opened = on_slow(&sim);
            }
            match opened {
                Ok(store) => *shared.store.lock().unwrap() = store,
                Err(error) => panic!("{error:?} after\n{}", story.tell()),
            }
            site("closed and opened under its callers");
        }
        if world.expires && one_in(60) {
            let tick = || sim.clock.advance(5 * HOUR);
            let done = |()| ((), Some(Answer::Done));
            story.call(world.callers, 0, What::Tick, || {
                done(story.call(world.callers, 1, What::Tick, || done(tick())))
            });
            site("the clock went on");
        }
    }
    let told = || format!("world {count}: {world:?}\n{}", story.tell());
    let mut crash = world.crash;
    if world.crash != Crash::Close {
        if shared.store().stats().poisoned.is_some() {
            site("a call to the disk failed");
        }
        story.crash(match world.crash {
            Crash::Kill => "the process is killed",
            _ => "the power goes",
        });
        let old = sim.disk.clone();
        sim.disk = match world.crash {
            Crash::Kill => sim.disk.kill(),
            _ => sim.disk.power_cut(),
        };
        if world.forgets && old.calls() >= faulty {
            crash = Crash::PowerCut;
        }
    }
    callers.into_iter().for_each(|caller| caller.join().unwrap());
    let store = shared.store();
    if store.stats().index_bytes > before.index_bytes {
        site("the index grew");
    }
    drop(shared);
    if world.crash == Crash::Close {
        drive_to_rest(&sim, store, &told);
        story.crash("the store is closed");
        sim.disk = sim.disk.kill();
    } else {
        drop(store);
    }
    let calls = story.calls();
    count_meetings(&calls);

    sim.options = sim.options.clone().background(false);
    if world.struck {
        crash = strike_opening(&mut sim, &story, world.forgets, crash);
    }
    let store = sim.try_open().unwrap_or_else(|error| panic!("{error:?} after\n{}", told()));
    let given = calls.iter().filter_map(|call| match call.answer {
        Some(Answer::Granted(token)) => Some(token),
        _ => None,
    });
    let mut given: Vec<u64> = given.collect();
    given.sort_unstable();
    assert!(given.windows(2).all(|pair| pair[0] != pair[1]), "a token twice:\n{}", told());
    let newest = given.last().copied().unwrap_or(0);
    let of_key = |key| calls.iter().filter(|call| call.key == key).cloned().collect::<Vec<_>>();
    let filled = calls.iter().map(|call| call.key).filter(|key| *key > 1);
    let keys: BTreeSet<usize> = (0..world.keys).chain(filled).collect();

    for copy in story.copies() {
        let copied = sim.options.open_on(Arc::new(copy.disk.clone()));
        let copied = copied.unwrap_or_else(|error| panic!("{error:?}: a backup of\n{}", told()));
        let found: Vec<_> = keys.iter().map(|key| (*key, looked_up(&copied, *key))).collect();
        let explains = |moment| {
            found.iter().all(|(key, found)| {
                let seen = as_copied(&of_key(*key), moment);
                is_among(*found, &judge::left(&seen, Durability::Synced, Crash::Kill))
            })
        };
        let is_cut = (copy.began..=copy.ended).any(explains);
        assert!(is_cut, "a backup has {found:?}, as at no moment:\n{}", told());
        copied.close().unwrap();
    }

    let mut last = [0; 2];
    for key in keys {
        let left = judge::left(&of_key(key), world.durability, crash);
        let (name, found) = (name_of(key), looked_up(&store, key));
        assert!(!left.is_empty(), "no order explains the answers of key {name}:\n{}", told());
        let should = judge::any_of(&left);
        let what = format!("the next opening finds key {name} {found}. It should be {should}");
        assert!(is_among(found, &left), "{what}:\n{}", told());
        site(match found {
            Is::Absent => "left absent",
            Is::Undecided(_) => "left undecided",
            Is::Completed(_) => "left completed",
        });
        if key > 1 {
            continue;
        }
        // It is decided, in the second life.
        let begun = match store.ask(&name) {
            Begin::Interrupted(interrupted) => interrupted.take_over().unwrap(),
            begun => begun,
        };
        last[key] = match begun {
            Begin::Execute(mut claim) => {
                assert!(claim.token().get() > newest, "an old token:\n{}", told());
                let response = RESPONSES.fetch_add(1, SeqCst) as u64;
                claim.complete(&response_of(response, world.large)).unwrap();
                response
            }
            Begin::Replay(record) => number_of(&record),
            other => panic!("{other:?} after\n{}", told()),
        };
    }
    store.flush().unwrap();
    drop(store);
    sim.disk = if one_in(2) { sim.disk.kill() } else { sim.disk.power_cut() };
    let store = sim.try_open().unwrap_or_else(|error| panic!("{error:?} after\n{}", told()));
    for key in 0..world.keys {
        let found = looked_up(&store, key);
        assert_eq!(found, Is::Completed(last[key]), "key {key} in the third life:\n{}", told());
    }
    store.close().unwrap();
}

/// Nothing but the seed decides what happens in a world.
#[test]
fn a_seed_is_repeated_exactly() {
    let twice = |seed| {
        let random = RandomScheduler::new_from_seed(seed, 100);
        UncontrolledNondeterminismCheckScheduler::new(random)
    };
    let config = schedules::config(false);
    Runner::new(twice(number("SEED", 1)), config).run(one_world);
}

#[test]
fn what_a_crash_leaves_is_explained_by_what_callers_were_answered() {
    let (worlds, seed) = (number("WORLDS", 2000) as usize, number("SEED", 1));
    let run = || schedules::run(worlds, seed, false, one_world);
    if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
        let (world, shrink) = (LAST.lock().unwrap().0, number("SHRINK", 0) as usize);
        let told = LAST.lock().unwrap().1.as_ref().map_or(String::new(), |story| story.tell());
        println!("\nworld {} failed: {world:?}\n{told}", COUNT.load(SeqCst));
        let replayed = std::env::var("SCHEDULE").is_ok();
        if let Some(world) = world.filter(|_| shrink > 0 && !replayed) {
            shrink::tell_smallest(world, shrink);
        }
        resume_unwind(panic);
    }
    let sites = SITES.lock().unwrap();
    println!("{worlds} worlds: {sites:?}");
    println!("{} pairs of calls on a key met", MET.lock().unwrap().len());
    let all = [
        "granted",
        "replayed",
        "interrupted",
        "in flight",
        "completed",
        "made durable",
        "a future was dropped",
        "a task was woken late",
        "an operator decided",
        "a scope was erased",
        "a scope was erased but for what is in use",
        "the clock went on",
        "a sync took long",
        "a call to the disk failed",
        "an opening failed",
        "an opening died",
        "an opening was the last",
        "a backup was taken",
        "closed and opened under its callers",
        "the index grew",
        "driven to rest",
        "left absent",
        "left undecided",
        "left completed",
    ];
    let never: Vec<_> = all.iter().filter(|name| !sites.contains_key(*name)).collect();
    assert!(worlds < 1000 || never.is_empty(), "the generator never comes to {never:?}");
}
