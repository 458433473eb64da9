//! The one workload, and the look-ups.

use crate::engines::Engine;
use measure::{
    Latencies, Quantiles,
    work::{Key, RESPONSE_BYTES, key, mixed, new_series, response},
};
use serde::{Deserialize, Serialize};
use std::{
    hint::black_box,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// One call of so many is a retry: 5 %.
const RETRY_EVERY: u64 = 20;
/// A retry asks for one of the caller's last so many keys.
const RETRIED: u64 = 16;

/// Keys `0..keys` of the series `number`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Series {
    pub number: u64,
    pub keys: u64,
}

/// What some callers did in some time.
#[derive(Clone, Serialize, Deserialize)]
pub struct Turn {
    pub callers: usize,
    pub elapsed: Duration,
    pub pairs: u64,
    pub replays: u64,
    /// Retries that found no record: it had expired.
    pub missed: u64,
    /// Of a pair.
    pub pair: Quantiles,
    /// Of a retry that was replayed or missed.
    pub retry: Quantiles,
}

impl Turn {
    pub fn per_second(&self) -> f64 {
        self.pairs as f64 / self.elapsed.as_secs_f64()
    }
}

#[derive(Default)]
struct Caller {
    number: u64,
    pairs: u64,
    missed: u64,
    pair: Latencies,
    retry: Latencies,
}

/// Each caller claims and completes key after key of a series of its own, and retries.
pub fn pairs(engine: &dyn Engine, callers: usize, time: Duration) -> (Turn, Vec<Series>) {
    let (stop, start) = (AtomicBool::new(false), Barrier::new(callers + 1));
    let caller = |number| {
        let mut own = Caller { number, ..Caller::default() };
        let answer: Arc<[u8]> = Arc::from(response(number).as_slice());
        let mut copy = Vec::with_capacity(RESPONSE_BYTES);
        start.wait();
        let mut last = Instant::now();
        for call in 1.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let is_retry = call % RETRY_EVERY == 0;
            if is_retry {
                let back = mixed(number << 32 | call) % RETRIED.min(own.pairs);
                let retried = key(number, own.pairs - 1 - back);
                own.missed += u64::from(!engine.replay(&retried, &mut copy));
                black_box(&copy);
            } else {
                engine.pair(&key(number, own.pairs), &answer);
                own.pairs += 1;
            }
            let now = Instant::now();
            let times = if is_retry { &mut own.retry } else { &mut own.pair };
            times.add(now - last);
            last = now;
        }
        own
    };
    let (caller, mut elapsed) = (&caller, Duration::ZERO);
    let callers: Vec<Caller> = thread::scope(|scope| {
        let thread = |_| {
            let number = new_series();
            scope.spawn(move || caller(number))
        };
        let threads: Vec<_> = (0..callers).map(thread).collect();
        start.wait();
        let began = Instant::now();
        thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
        let ended = threads.into_iter().map(|thread| thread.join().expect("a caller")).collect();
        elapsed = began.elapsed();
        ended
    });
    let series = callers.iter().map(|own| Series { number: own.number, keys: own.pairs });
    (sum(&callers, elapsed), series.collect())
}

fn sum(callers: &[Caller], elapsed: Duration) -> Turn {
    let (mut pair, mut retry) = <(Latencies, Latencies)>::default();
    for own in callers {
        pair.merge(&own.pair);
        retry.merge(&own.retry);
    }
    let missed = callers.iter().map(|own| own.missed).sum();
    Turn {
        callers: callers.len(),
        elapsed,
        pairs: pair.count(),
        replays: retry.count() - missed,
        missed,
        pair: pair.quantiles(),
        retry: retry.quantiles(),
    }
}

/// Records each of whose responses begins with the key of the next, in one circle through all of
/// them in random order.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Circle(pub Series);

impl Circle {
    /// One cycle through all numbers (Sattolo's algorithm).
    fn next(self) -> Vec<u32> {
        let mut next: Vec<u32> = (0..self.0.keys as u32).collect();
        for i in (1..next.len()).rev() {
            next.swap(i, (mixed(i as u64) % i as u64) as usize);
        }
        next
    }

    pub fn each(self, mut record: impl FnMut(Key, [u8; RESPONSE_BYTES])) {
        let mut answer = response(self.0.number);
        for (i, next) in self.next().into_iter().enumerate() {
            answer[..36].copy_from_slice(&key(self.0.number, next.into()));
            record(key(self.0.number, i as u64), answer);
        }
    }
}

/// Nanoseconds a look-up, by one thread. Dependent: each asks for the key that the last answer
/// named, so that none can begin before the last one has ended; otherwise the same keys in the
/// same order, but by a list made before, so that look-ups can overlap.
pub fn replays(engine: &dyn Engine, circle: Circle, dependent: bool, time: Duration) -> f64 {
    let Series { number, keys } = circle.0;
    let mut order = Vec::with_capacity(keys as usize);
    if !dependent {
        let next = circle.next();
        order
            .extend(std::iter::successors(Some(0), |at| Some(next[*at as usize])).take(next.len()));
    }
    let mut listed = order.iter().cycle();
    let (mut at, mut copy) = (key(number, 0), Vec::with_capacity(RESPONSE_BYTES));
    let (began, mut lookups) = (Instant::now(), 0_u64);
    while !lookups.is_multiple_of(64) || began.elapsed() < time {
        assert!(engine.replay(&at, &mut copy), "a record has gone");
        if dependent {
            at.copy_from_slice(&black_box(&copy)[..36]);
        } else {
            black_box(&copy);
            at = key(number, u64::from(*listed.next().expect("a cycle")));
        }
        lookups += 1;
    }
    began.elapsed().as_nanos() as f64 / lookups as f64
}

/// How many of these have a response.
pub fn count(engine: &dyn Engine, series: Series) -> u64 {
    let mut copy = Vec::new();
    let keys = (0..series.keys).map(|i| key(series.number, i));
    keys.filter(|key| engine.replay(key, &mut copy)).count() as u64
}
