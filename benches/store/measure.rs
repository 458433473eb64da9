//! Timed loops of several callers, and criterion for single operations.

use criterion::Criterion;
use std::{
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

pub const SAMPLES: usize = 20;

/// Latencies by order of magnitude, 16 steps for each doubling: at most 6 % too low.
#[derive(Clone)]
pub struct Latencies {
    counts: Vec<u32>,
    pub max_ns: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Latencies { counts: vec![0; 64 * 16], max_ns: 0 }
    }
}

impl Latencies {
    pub fn add(&mut self, took: Duration) {
        let ns = took.as_nanos() as u64;
        self.max_ns = self.max_ns.max(ns);
        self.counts[Self::step(ns)] += 1;
    }

    fn step(ns: u64) -> usize {
        let shift = (ns | 16).ilog2() - 4;
        shift as usize * 16 + (ns >> shift) as usize
    }

    fn lowest(step: usize) -> u64 {
        let shift = (step / 16).saturating_sub(1);
        ((step - shift * 16) as u64) << shift
    }

    fn merge(&mut self, other: &Latencies) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(sum, count)| *sum += count);
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    /// `None` if nothing was timed.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let total: u64 = self.counts.iter().map(|count| u64::from(*count)).sum();
        let wanted = (total as f64 * share) as u64;
        let mut seen = 0;
        let at = self.counts.iter().position(|count| {
            seen += u64::from(*count);
            seen > wanted
        });
        at.map(|step| Self::lowest(step) as f64)
    }
}

/// What some callers did in some time.
#[derive(Clone, Default)]
pub struct Run {
    pub ops: u64,
    pub elapsed: Duration,
    pub latencies: Latencies,
}

impl Run {
    pub fn per_second(&self) -> f64 {
        self.ops as f64 / self.elapsed.as_secs_f64()
    }

    pub fn add(&mut self, other: Run) {
        self.ops += other.ops;
        self.elapsed += other.elapsed;
        self.latencies.merge(&other.latencies);
    }
}

/// Each worker is called over and over by a thread of its own until the time is over. Timing
/// each call costs some 20 ns, so it is done only when asked for.
pub fn callers<W: FnMut() + Send>(workers: Vec<W>, time: Duration, timed: bool) -> Run {
    let (stop, start) = (AtomicBool::new(false), Barrier::new(workers.len() + 1));
    let turn = |mut work: W| {
        let mut mine = Run::default();
        start.wait();
        let mut last = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            work();
            mine.ops += 1;
            if timed {
                let now = Instant::now();
                mine.latencies.add(now - last);
                last = now;
            }
        }
        mine
    };
    let (turn, mut run) = (&turn, Run::default());
    thread::scope(|scope| {
        let threads: Vec<_> =
            workers.into_iter().map(|work| scope.spawn(move || turn(work))).collect();
        start.wait();
        let began = Instant::now();
        thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().for_each(|thread| run.add(thread.join().expect("a caller")));
        run.elapsed = began.elapsed();
    });
    run
}

/// The cost of one operation in ns, by criterion: `routine` does it as often as it is told.
/// `None` if the filter leaves it out.
pub fn single(criterion: &mut Criterion, id: &str, mut routine: impl FnMut(u64)) -> Option<f64> {
    clocked(criterion, id, |times| {
        let began = Instant::now();
        routine(times);
        began.elapsed()
    })
}

/// The same for a routine that says itself how long it took, because it also does what doesn't
/// count.
pub fn clocked(
    criterion: &mut Criterion,
    id: &str,
    mut routine: impl FnMut(u64) -> Duration,
) -> Option<f64> {
    let mut samples = Vec::new();
    criterion.bench_function(id, |bencher| {
        bencher.iter_custom(|times| {
            let took = routine(times);
            samples.push(took.as_nanos() as f64 / times as f64);
            took
        });
    });
    // The first ones warmed up.
    let warm = samples.len().saturating_sub(SAMPLES);
    (!samples.is_empty()).then(|| median(&mut samples[warm..]))
}

pub fn median(of: &mut [f64]) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

/// How long `f` takes, in ns.
pub fn once(f: impl FnOnce()) -> f64 {
    let began = Instant::now();
    f();
    began.elapsed().as_nanos() as f64
}

/// The same, and the processor time that this thread has spent, which leaves out what it waited
/// for: the disk, and other processes.
pub fn once_and_spent(f: impl FnOnce()) -> [f64; 2] {
    let spent = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
    };
    let before = spent();
    let took = once(f);
    [took, spent() - before]
}
