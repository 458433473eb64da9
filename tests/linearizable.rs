//! Real threads on a few keys, and a clock that moves: what each caller was answered, in the
//! order in which calls began and ended, must be explained by some order of single steps of the
//! specification (table 1.2), key by key. The search for that order remembers what it has tried:
//! when a thread is held up in a call, the others have more orders than can be looked at one by
//! one. Of short histories `stateright`'s tester must say the same.
//!
//! `SECONDS=<n>` looks longer. Threads can't be replayed: a failure prints its whole history.

mod common;
#[path = "linearizable/search.rs"]
mod search;

use common::key;
use onlyonce::*;
use parking_lot::Mutex;
use stateright::semantics::SequentialSpec;
use std::{
    collections::BTreeMap,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

const THREADS: usize = 3;
const KEYS: usize = 2;
/// Calls of each thread in a round.
const CALLS: usize = 10;
const MAX_ATTEMPTS: u32 = 3;
const LEASE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Op {
    Begin,
    /// Of the attempt that a begin saw interrupted, which has this number.
    TakeOver {
        seen: u64,
    },
    /// A completion and a failure take two steps: one ends the lease, and when the other has
    /// made it durable others see it. Both lie between call and answer.
    Complete {
        token: u64,
        response: u64,
    },
    Completed {
        token: u64,
    },
    Fail {
        token: u64,
    },
    Failed {
        token: u64,
    },
    Release {
        token: u64,
    },
    Renew {
        token: u64,
    },
    Drop {
        token: u64,
    },
    /// The clock moves by a lease.
    Tick,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Ret {
    Granted {
        token: u64,
        attempt: u32,
        after: Option<Reason>,
    },
    Replay {
        response: u64,
    },
    InFlight,
    /// Seen for the time with this number.
    Interrupted {
        number: u64,
        reason: Reason,
        attempts: u32,
        holder_gone: bool,
    },
    Exhausted,
    Done,
    Fenced,
}

#[derive(Clone, Debug, Default, PartialEq)]
enum Is {
    #[default]
    Absent,
    Held(Held),
    Completed(u64),
}

#[derive(Clone, Debug, PartialEq)]
struct Held {
    token: u64,
    attempt: u32,
    /// In leases.
    until: u64,
    interrupted: Option<Reason>,
    lives: bool,
    history: bool,
    /// A completion with this response is on its way, or a failure.
    completing: Option<u64>,
    failing: bool,
    has_failed: bool,
}

/// The specification: what one key answers, call by call.
#[derive(Clone, Debug, Default, PartialEq)]
struct Spec {
    is: Is,
    now: u64,
    highest: u64,
    /// Which attempt each was that somebody saw interrupted.
    seen: BTreeMap<u64, u64>,
}

impl Held {
    fn interrupted_at(&self, now: u64) -> Option<Reason> {
        if self.completing.is_some() || self.failing {
            return None;
        }
        self.interrupted.or((self.until <= now).then_some(Reason::LeasePassed))
    }
}

impl Spec {
    fn grant(&mut self, ret: Ret, attempts: u32, why: Option<Reason>) -> bool {
        let Ret::Granted { token, attempt, after } = ret else { return false };
        if token <= self.highest || (attempt, after) != (attempts, why) {
            return false;
        }
        self.highest = token;
        self.is = Is::Held(Held {
            token,
            attempt,
            until: self.now + 1,
            interrupted: None,
            lives: true,
            history: attempt > 1,
            completing: None,
            failing: false,
            has_failed: false,
        });
        true
    }

    fn begin(&mut self, seen: Option<u64>, ret: Ret) -> bool {
        let seen = seen.and_then(|number| self.seen.get(&number).copied());
        match self.is.clone() {
            Is::Absent => self.grant(ret, 1, None),
            Is::Completed(response) => ret == Ret::Replay { response },
            Is::Held(held) => match held.interrupted_at(self.now) {
                None => ret == Ret::InFlight,
                Some(_) if seen == Some(held.token) && held.attempt >= MAX_ATTEMPTS => {
                    ret == Ret::Exhausted
                }
                Some(reason) if seen == Some(held.token) => {
                    self.grant(ret, held.attempt + 1, Some(reason))
                }
                Some(reason) => {
                    let Ret::Interrupted { number, .. } = ret else { return false };
                    let (attempts, holder_gone) = (held.attempt, !held.lives);
                    self.seen.insert(number, held.token);
                    ret == Ret::Interrupted { number, reason, attempts, holder_gone }
                }
            },
        }
    }

    /// A holder's call: what it does if the token is the one that counts.
    fn held(&mut self, token: u64, ret: Ret, change: impl FnOnce(&mut Held, u64)) -> bool {
        let now = self.now;
        match &mut self.is {
            Is::Held(held) if held.token == token => {
                change(held, now);
                ret == Ret::Done
            }
            _ => ret == Ret::Fenced,
        }
    }
}

impl SequentialSpec for Spec {
    type Op = Op;
    type Ret = Ret;

    fn invoke(&mut self, _: &Op) -> Ret {
        unreachable!("every call has been answered")
    }

    fn is_valid_step(&mut self, op: &Op, ret: &Ret) -> bool {
        match *op {
            Op::Begin => self.begin(None, *ret),
            Op::TakeOver { seen } => self.begin(Some(seen), *ret),
            Op::Complete { token, response } => {
                self.held(token, *ret, |held, _| held.completing = Some(response))
            }
            Op::Completed { token } => match &self.is {
                _ if *ret == Ret::Fenced => true,
                Is::Held(held) if held.token == token && held.completing.is_some() => {
                    self.is = Is::Completed(held.completing.expect("just seen"));
                    true
                }
                _ => false,
            },
            Op::Fail { token } => self.held(token, *ret, |held, _| {
                (held.interrupted, held.failing) = (Some(Reason::Failed), true);
                held.has_failed = true;
            }),
            Op::Failed { token } => match &mut self.is {
                _ if *ret == Ret::Fenced => true,
                Is::Held(held) if held.token == token => std::mem::take(&mut held.failing),
                _ => false,
            },
            Op::Release { token } => {
                let valid = self.held(token, *ret, |held, _| {
                    (held.interrupted, held.lives) = (Some(Reason::GivenBack), false);
                    // A takeover that did nothing doesn't count.
                    if !held.has_failed {
                        held.attempt = (held.attempt - 1).max(1);
                    }
                });
                if matches!(&self.is, Is::Held(held) if held.token == token && !held.history) {
                    self.is = Is::Absent;
                }
                valid
            }
            Op::Renew { token } => self.held(token, *ret, |held, now| {
                let runs = held.interrupted_at(now).is_none();
                held.until = if runs { held.until.max(now + 1) } else { now + 1 };
                held.interrupted = None;
            }),
            Op::Drop { token } => {
                let _ = self.held(token, *ret, |held, now| {
                    held.lives = false;
                    held.interrupted = held.interrupted_at(now).or(Some(Reason::Dropped));
                });
                true
            }
            Op::Tick => {
                self.now += 1;
                true
            }
        }
    }
}

/// A call began, or was answered, on behalf of a line of calls.
type Event = (usize, Result<Op, Ret>);

/// What happened to each key, in the order in which it was noted.
#[derive(Default)]
struct Histories([Mutex<Vec<Event>>; KEYS]);

impl Histories {
    fn note<R>(&self, key: usize, line: usize, op: Op, call: impl FnOnce() -> (R, Ret)) -> R {
        self.0[key].lock().push((line, Ok(op)));
        let (result, ret) = call();
        self.0[key].lock().push((line, Err(ret)));
        result
    }

    /// A call of two steps, the second on a line of its own.
    fn note_two(&self, key: usize, line: usize, ops: [Op; 2], call: impl FnOnce() -> Ret) {
        let lines = [line, line + THREADS];
        self.0[key].lock().extend(lines.into_iter().zip(ops.map(Ok)));
        let ret = call();
        self.0[key].lock().extend(lines.map(|line| (line, Err(ret))));
    }

    fn tick(&self, clock: &ManualClock) {
        let line = 2 * THREADS;
        self.0.iter().for_each(|key| key.lock().push((line, Ok(Op::Tick))));
        clock.advance(LEASE);
        self.0.iter().for_each(|key| key.lock().push((line, Err(Ret::Done))));
    }

    /// How many calls some order explains; or the history that none does.
    fn explain(self) -> Result<usize, String> {
        let mut count = 0;
        for events in self.0 {
            let events = events.into_inner();
            count += events.len() / 2;
            if !search::is_explained(&events) {
                let lines: Vec<_> = events.iter().map(|event| format!("{event:?}\n")).collect();
                return Err(lines.concat());
            }
        }
        Ok(count)
    }
}

struct Rng(u64);

impl Rng {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

/// One thread's part of a round.
struct Caller<'a> {
    store: &'a Store,
    histories: &'a Histories,
    names: &'a [String; KEYS],
    line: usize,
    claims: [Option<Claim>; KEYS],
    /// Interrupted keys, by the number of the time when they were seen.
    seen: [Option<(u64, Interrupted)>; KEYS],
    times: u64,
    rng: Rng,
}

fn ret_of_claim(result: Result<(), ClaimError>) -> Ret {
    match result {
        Ok(()) => Ret::Done,
        Err(ClaimError::Fenced) => Ret::Fenced,
        Err(error) => panic!("{error:?}"),
    }
}

fn ret_of_begin(number: u64, result: Result<Begin, BeginError>) -> (Option<Begin>, Ret) {
    let ret = match &result {
        Ok(Begin::Execute(claim)) => Ret::Granted {
            token: claim.token().get(),
            attempt: claim.attempt(),
            after: claim.after(),
        },
        Ok(Begin::Replay(record)) => {
            let response = record.response().expect("retained");
            Ret::Replay { response: u64::from_le_bytes(response.try_into().unwrap()) }
        }
        Ok(Begin::InFlight(_)) => Ret::InFlight,
        Ok(Begin::Interrupted(stuck)) => Ret::Interrupted {
            number,
            reason: stuck.reason(),
            attempts: stuck.attempts(),
            holder_gone: stuck.holder_gone(),
        },
        Err(BeginError::AttemptsExhausted { .. }) => Ret::Exhausted,
        other => panic!("{other:?}"),
    };
    (result.ok(), ret)
}

impl Caller<'_> {
    fn call(&mut self) {
        let at = self.rng.below(KEYS);
        match self.claims[at].take() {
            Some(claim) => self.hold(at, claim),
            None => self.begin(at),
        }
    }

    fn begin(&mut self, at: usize) {
        let seen = self.seen[at].take().filter(|_| self.rng.below(4) > 0);
        let (op, stuck) = match seen {
            Some((number, stuck)) => (Op::TakeOver { seen: number }, Some(stuck)),
            None => (Op::Begin, None),
        };
        self.times += 1;
        let number = self.times * THREADS as u64 + self.line as u64;
        let found = self.histories.note(at, self.line, op, || {
            let begun = match stuck {
                Some(stuck) => stuck.take_over(),
                None => self.store.begin(key(&self.names[at]), common::print()),
            };
            ret_of_begin(number, begun)
        });
        match found {
            Some(Begin::Execute(claim)) => self.claims[at] = Some(claim),
            Some(Begin::Interrupted(stuck)) => self.seen[at] = Some((number, stuck)),
            _ => {}
        }
    }

    fn hold(&mut self, at: usize, mut claim: Claim) {
        let (line, token, histories) = (self.line, claim.token().get(), self.histories);
        match self.rng.below(12) {
            0..3 => {
                let response = token;
                let ops = [Op::Complete { token, response }, Op::Completed { token }];
                let bytes = response.to_le_bytes();
                histories.note_two(at, line, ops, || ret_of_claim(claim.complete(&bytes)));
            }
            3 => {
                let ops = [Op::Fail { token }, Op::Failed { token }];
                histories.note_two(at, line, ops, || ret_of_claim(claim.fail(b"?")));
                self.claims[at] = Some(claim);
            }
            4..6 => histories
                .note(at, line, Op::Release { token }, || ((), ret_of_claim(claim.release()))),
            6..8 => histories.note(at, line, Op::Drop { token }, || (drop(claim), Ret::Done)),
            8..10 => {
                histories.note(at, line, Op::Renew { token }, || ((), ret_of_claim(claim.renew())));
                self.claims[at] = Some(claim);
            }
            // Executes for a while, and lets others go on.
            _ => {
                thread::yield_now();
                self.claims[at] = Some(claim);
            }
        }
    }

    /// What is left over is dropped, as a part of the history.
    fn end(self) {
        for (at, claim) in self.claims.into_iter().enumerate() {
            let Some(claim) = claim else { continue };
            let drops = Op::Drop { token: claim.token().get() };
            self.histories.note(at, self.line, drops, || (drop(claim), Ret::Done));
        }
    }
}

/// A round on new keys; returns how many calls were explained.
fn round(store: &Store, clock: &ManualClock, number: u64) -> usize {
    let names: [String; KEYS] = std::array::from_fn(|at| format!("round-{number}-{at}"));
    let histories = Histories::default();
    let together = Barrier::new(THREADS + 1);
    thread::scope(|scope| {
        for line in 0..THREADS {
            let seed = number * THREADS as u64 + line as u64 + 1;
            let (names, histories, together) = (&names, &histories, &together);
            scope.spawn(move || {
                let mut caller = Caller {
                    store,
                    histories,
                    names,
                    line,
                    claims: Default::default(),
                    seen: Default::default(),
                    times: 0,
                    rng: Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
                };
                together.wait();
                (0..CALLS).for_each(|_| caller.call());
                caller.end();
            });
        }
        together.wait();
        for _ in 0..number % 4 {
            (0..50).for_each(|_| thread::yield_now());
            histories.tick(clock);
        }
    });
    histories.explain().unwrap_or_else(|history| panic!("no order explains\n{history}"))
}

fn options(clock: &ManualClock, durability: Durability) -> Options {
    common::small(clock)
        .durability(durability)
        .background(true)
        .lease(LEASE)
        .max_attempts(MAX_ATTEMPTS)
        .max_claims(4000)
        .capacity(64 << 20)
}

fn rounds(durability: Durability) {
    let seconds = std::env::var("SECONDS").ok().and_then(|n| n.parse().ok()).unwrap_or(3);
    let until = Instant::now() + Duration::from_secs(seconds);
    let (mut calls, mut number) = (0, 0);
    while Instant::now() < until {
        // On real files: syncs take their time, and callers meet while they do.
        let folder = tempfile::tempdir().unwrap();
        let clock = ManualClock::at(common::T0);
        let store = options(&clock, durability).open(folder.path()).unwrap();
        for _ in 0..200 {
            if Instant::now() >= until {
                break;
            }
            number += 1;
            calls += round(&store, &clock, number);
        }
    }
    println!("{durability:?}: {calls} calls in {number} rounds");
}

#[test]
fn when_everything_waits_for_the_disk() {
    rounds(Durability::Synced);
}

#[test]
fn when_completions_wait_for_the_disk() {
    rounds(Durability::SyncedCompletions);
}

#[test]
fn when_nothing_waits_for_the_disk() {
    rounds(Durability::Buffered { max_delay: Duration::from_secs(1) });
}

/// The search, with this specification, can say no.
#[test]
fn what_no_order_explains_is_refused() {
    let granted = |token| Ret::Granted { token, attempt: 1, after: None };
    let complete = [Op::Complete { token: 1, response: 1 }, Op::Completed { token: 1 }];
    let check = |events: &[Event]| {
        let histories = Histories::default();
        histories.0[0].lock().extend(events);
        histories.explain().is_ok()
    };
    let first = [(0, Ok(Op::Begin)), (0, Err(granted(1)))];
    assert!(check(&first));
    // Two first attempts.
    let second = [(1, Ok(Op::Begin)), (1, Err(granted(2)))];
    assert!(!check(&[first, second].concat()));
    // Replayed, and in flight again afterwards, while the completion runs.
    let begun = [(0, Ok(complete[0])), (3, Ok(complete[1]))];
    let replayed = [(1, Ok(Op::Begin)), (1, Err(Ret::Replay { response: 1 }))];
    let in_flight = [(2, Ok(Op::Begin)), (2, Err(Ret::InFlight))];
    let ended = [(0, Err(Ret::Done)), (3, Err(Ret::Done))];
    assert!(check(&[first, begun, in_flight, replayed, ended].concat()));
    assert!(!check(&[first, begun, replayed, in_flight, ended].concat()));
}

/// While one thread is held up in a call the others make so many calls that trying their orders
/// one by one would not end.
#[test]
fn a_history_of_many_orders_is_decided() {
    let granted = Ret::Granted { token: 1, attempt: 1, after: None };
    let passed = Ret::Interrupted {
        number: 1,
        reason: Reason::LeasePassed,
        attempts: 1,
        holder_gone: false,
    };
    for (last, right) in [(passed, true), (Ret::Replay { response: 1 }, false)] {
        let mut events = vec![(0, Ok(Op::Begin)), (0, Err(granted))];
        // The clock's move isn't over, and a renewal isn't answered.
        events.extend([(6, Ok(Op::Tick)), (0, Ok(Op::Renew { token: 1 }))]);
        for _ in 0..20 {
            events.extend([(1, Ok(Op::Begin)), (2, Ok(Op::Begin))]);
            events.extend([(1, Err(Ret::InFlight)), (2, Err(Ret::InFlight))]);
        }
        events.extend([(1, Ok(Op::Begin)), (1, Err(last))]);
        events.extend([(0, Err(Ret::Done)), (6, Err(Ret::Done))]);
        let histories = Histories::default();
        histories.0[0].lock().extend(events);
        assert_eq!(histories.explain().is_ok(), right);
    }
}
