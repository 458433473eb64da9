//! Callers that meet, and a crash in the middle. Callers, the store's own threads, the clock and
//! the disk run one at a time in an order that a seed decides (shuttle), also between two calls to
//! the disk and in the middle of a copy. At some moment the process is killed or the power goes;
//! what the next opening finds must be explained by what the callers were answered, as the
//! durability table says for the setting. Then the keys are decided in the second life, which is
//! killed too.
//!
//! ```sh
//! RUSTFLAGS='--cfg onlyonce_shuttle --cfg onlyonce_broken' cargo test --release \
//!     --target-dir target/shuttle --test concurrent_crashes
//! ```
//!
//! `WORLDS=<n>` looks at more, `SEED=<n>` at others. A failure prints the story, and the schedule
//! into a file; `SCHEDULE=<file>` repeats it.

#![cfg(onlyonce_shuttle)]
mod common;
#[path = "concurrent_crashes/judge.rs"]
mod judge;
#[path = "concurrent_crashes/story.rs"]
mod story;

use common::*;
use judge::{Crash, Is};
use onlyonce::*;
use shuttle::{
    Config, FailurePersistence, MaxSteps, Runner,
    future::block_on,
    rand::{Rng, thread_rng},
    scheduler::{
        PctScheduler, RandomScheduler, ReplayScheduler, UncontrolledNondeterminismCheckScheduler,
    },
    thread,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::Poll,
};
use story::{Answer, Story, What};

/// What a thousand worlds should all come to; counted over a run.
static SITES: Mutex<BTreeMap<&str, usize>> = Mutex::new(BTreeMap::new());

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
    crash: Crash,
}

impl World {
    fn draw() -> World {
        let buffered = Durability::Buffered { max_delay: SECOND };
        let settings = [Durability::Synced, Durability::SyncedCompletions, buffered];
        World {
            durability: settings[below(3)],
            callers: 2 + below(3),
            keys: 1 + below(2),
            calls: 2 + below(5),
            operators: one_in(2),
            tasks: one_in(3),
            large: one_in(4),
            expires: one_in(3),
            other_class: one_in(3),
            crash: if one_in(2) { Crash::Kill } else { Crash::PowerCut },
        }
    }
}

/// A number that no other response has.
static RESPONSES: AtomicUsize = AtomicUsize::new(1);

struct Caller {
    store: Store,
    story: Arc<Story>,
    world: World,
    number: usize,
    claims: [Option<Claim>; 2],
    interrupted: [Option<Interrupted>; 2],
}

const NAMES: [&str; 2] = ["k", "l"];

fn response_of(number: u64, large: bool) -> Vec<u8> {
    let mut response = number.to_le_bytes().to_vec();
    response.resize(if large { 4000 } else { 8 }, 7);
    response
}

fn number_of(record: &Record) -> u64 {
    u64::from_le_bytes(record.response().expect("retained")[..8].try_into().unwrap())
}

fn done(result: Result<(), ClaimError>) -> Option<Answer> {
    match result {
        Ok(()) => Some(Answer::Done),
        Err(ClaimError::Fenced) => Some(Answer::Fenced),
        Err(_) => None,
    }
}

impl Caller {
    fn run(mut self) {
        for _ in 0..self.world.calls {
            if self.story.is_over() {
                return;
            }
            self.step(below(self.world.keys));
        }
        // Dropped claims are interrupted: no step of the key's.
    }

    fn note(&self, key: usize, what: What, call: impl FnOnce() -> Result<(), ClaimError>) {
        self.story.call(self.number, key, what, || ((), done(call())));
    }

    fn begun(&mut self, key: usize, begun: Result<Begin, BeginError>) -> Option<Answer> {
        match begun.ok()? {
            Begin::Execute(claim) => {
                let token = claim.token().get();
                site("granted");
                self.claims[key] = Some(claim);
                Some(Answer::Granted(token))
            }
            Begin::Replay(record) => {
                site("replayed");
                Some(Answer::Replay(number_of(&record)))
            }
            Begin::Interrupted(interrupted) => {
                site("interrupted");
                self.interrupted[key] = Some(interrupted);
                Some(Answer::Busy)
            }
            Begin::InFlight(_) => {
                site("in flight");
                Some(Answer::Busy)
            }
            Begin::Mismatch { .. } => panic!("one fingerprint is in use"),
        }
    }

    fn step(&mut self, key: usize) {
        let (store, story) = (self.store.clone(), self.story.clone());
        if self.world.operators && one_in(3) {
            return self.operate(key);
        }
        if one_in(12) {
            return story.flush(|| store.flush().is_ok());
        }
        if one_in(12) {
            let _ = store.housekeep();
            return;
        }
        if let Some(claim) = self.claims[key].take() {
            return self.hold(key, claim);
        }
        if let Some(interrupted) = self.interrupted[key].take() {
            return story.call(self.number, key, What::TakeOver, || {
                let begun = interrupted.take_over();
                ((), self.begun(key, begun))
            });
        }
        if self.world.tasks && one_in(3) {
            return self.begin_and_give_up(key);
        }
        story.call(self.number, key, What::Begin, || {
            let begun = store.begin(common::key(NAMES[key]), print());
            ((), self.begun(key, begun))
        });
    }

    /// A future that is dropped after a few polls, delivered or not.
    fn begin_and_give_up(&mut self, key: usize) {
        let face = AsyncStore::new(self.store.clone());
        let polls = below(3);
        let (number, story) = (self.number, self.story.clone());
        let undelivered = story.call(number, key, What::Begin, || {
            let begin = face.begin(common::key(NAMES[key]), print());
            match polled(begin, polls) {
                // The task's claim goes at once: the key is interrupted.
                Some(Ok(Begin::Execute(claim))) => {
                    (false, Some(Answer::Granted(claim.token().get())))
                }
                Some(Ok(Begin::Replay(record))) => {
                    (false, Some(Answer::Replay(number_of(&record))))
                }
                Some(Ok(Begin::InFlight(_) | Begin::Interrupted(_))) => (false, Some(Answer::Busy)),
                _ => (true, None),
            }
        });
        if undelivered {
            site("a future was dropped");
            story.call(number, key, What::Undo, || ((), None));
        }
    }

    fn hold(&mut self, key: usize, mut claim: Claim) {
        let token = claim.token().get();
        match below(8) {
            0 => self.note(key, What::Fail(token), || claim.fail(b"500")),
            1 => self.note(key, What::Checkpoint(token), || claim.save_checkpoint(b"half")),
            2 => return self.note(key, What::Release(token), || claim.release()),
            3 => return drop(claim),
            _ => {
                let response = RESPONSES.fetch_add(1, SeqCst) as u64;
                let bytes = response_of(response, self.world.large);
                let retention = self.world.other_class.then(|| Retention::from(4 * HOUR));
                let completion = Completion { response: Some(&bytes), retention, head: b"" };
                self.note(key, What::Complete(token, response), || claim.complete_with(completion));
                site("completed");
            }
        }
        self.claims[key] = Some(claim);
    }

    fn operate(&self, key: usize) {
        let name = common::key(NAMES[key]);
        let response = RESPONSES.fetch_add(1, SeqCst) as u64;
        let bytes = response_of(response, self.world.large);
        let completion = Completion { response: Some(&bytes), retention: None, head: b"" };
        let (what, resolution) = match below(4) {
            0 => (What::Free, Resolution::Free),
            1 => (What::Decide(response), Resolution::Complete { fingerprint: None, completion }),
            _ => (What::Forget, Resolution::Forget),
        };
        self.story.call(self.number, key, what, || {
            match self.store.resolve(name, resolution, true) {
                Ok(()) => {
                    site("an operator decided");
                    ((), Some(Answer::Done))
                }
                Err(
                    ClaimError::NotApplicable { .. }
                    | ClaimError::AlreadyCompleted
                    | ClaimError::NeedsForce { .. },
                ) => ((), Some(Answer::Refused)),
                Err(_) => ((), None),
            }
        });
    }
}

fn polled<F: Future>(future: F, times: usize) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    let mut left = times;
    block_on(std::future::poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(context).map(Some)
    }))
}

/// What the store says that a key is.
fn looked_up(store: &Store, key: usize) -> Is {
    match store.get(common::key(NAMES[key])).unwrap() {
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

fn one_world() {
    let world = World::draw();
    let count = COUNT.fetch_add(1, SeqCst) + 1;
    let mut sim = Sim::with(|options| {
        let options = options.background(true).durability(world.durability).lease(MINUTE);
        let options = options.max_attempts(100).clock_jump_max(30 * DAY);
        options.retention(HOUR).segment_bytes(64 << 10).capacity(512 << 10)
    });
    let store = sim.open();
    let story = Arc::new(Story::default());
    let callers: Vec<_> = (0..world.callers)
        .map(|number| {
            let caller = Caller {
                store: store.clone(),
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
    for _ in 0..below(200) {
        thread::yield_now();
        if one_in(100) {
            sim.clock.advance(MINUTE);
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
    story.crash();
    sim.disk = match world.crash {
        Crash::Kill => sim.disk.kill(),
        Crash::PowerCut => sim.disk.power_cut(),
    };
    callers.into_iter().for_each(|caller| caller.join().unwrap());
    drop(store);
    let calls = story.calls();
    let told = || format!("world {count}: {world:?}\n{}", story::tell(&calls));

    sim.options = sim.options.clone().background(false);
    let store = sim.try_open().unwrap_or_else(|error| panic!("{error:?} after\n{}", told()));
    let given = calls.iter().filter_map(|call| match call.answer {
        Some(Answer::Granted(token)) => Some(token),
        _ => None,
    });
    let mut given: Vec<u64> = given.collect();
    given.sort_unstable();
    assert!(given.windows(2).all(|pair| pair[0] != pair[1]), "a token twice:\n{}", told());
    let newest = given.last().copied().unwrap_or(0);
    let mut last = [0; 2];
    for key in 0..world.keys {
        let of_key: Vec<_> = calls.iter().filter(|call| call.key == key).cloned().collect();
        let left = judge::left(&of_key, world.durability, world.crash);
        let found = looked_up(&store, key);
        assert!(!left.is_empty(), "no order explains the answers of key {key}:\n{}", told());
        assert!(is_among(found, &left), "key {key} is {found:?}, not of {left:?}:\n{}", told());
        site(match found {
            Is::Absent => "left absent",
            Is::Undecided(_) => "left undecided",
            Is::Completed(_) => "left completed",
        });
        // It is decided, in the second life.
        let name = NAMES[key];
        let begun = match store.ask(name) {
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

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |n| n.parse().unwrap_or_else(|_| panic!("{name}")))
}

fn config() -> Config {
    let mut config = Config::default();
    config.stack_size = 1 << 20;
    config.max_steps = MaxSteps::FailAfter(3_000_000);
    config.failure_persistence = FailurePersistence::File(None);
    config.silence_warnings = true;
    config
}

/// Nothing but the seed decides what happens in a world.
#[test]
fn a_seed_is_repeated_exactly() {
    let twice = |seed| {
        let random = RandomScheduler::new_from_seed(seed, 100);
        UncontrolledNondeterminismCheckScheduler::new(random)
    };
    Runner::new(twice(number("SEED", 1)), config()).run(one_world);
}

#[test]
fn what_a_crash_leaves_is_explained_by_what_callers_were_answered() {
    let config = config();
    if let Ok(file) = std::env::var("SCHEDULE") {
        let replay = ReplayScheduler::new_from_file(file).unwrap();
        Runner::new(replay, config).run(one_world);
        return;
    }
    let (worlds, seed) = (number("WORLDS", 2000) as usize / 2, number("SEED", 1));
    Runner::new(RandomScheduler::new_from_seed(seed, worlds), config.clone()).run(one_world);
    Runner::new(PctScheduler::new_from_seed(seed, 4, worlds), config).run(one_world);
    let sites = SITES.lock().unwrap();
    println!("{} worlds: {sites:?}", 2 * worlds);
    let all = [
        "granted",
        "replayed",
        "interrupted",
        "in flight",
        "completed",
        "a future was dropped",
        "an operator decided",
        "the clock went on",
        "left absent",
        "left undecided",
        "left completed",
    ];
    let never: Vec<_> = all.iter().filter(|name| !sites.contains_key(*name)).collect();
    assert!(worlds < 500 || never.is_empty(), "the generator never comes to {never:?}");
}
