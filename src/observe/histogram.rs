//! A histogram with eight steps for each doubling: a value is off by at most 12.5 %. Written
//! by many threads without a lock, in stripes so that they seldom meet.

use crossbeam_utils::CachePadded;
use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

/// Steps of a doubling, and how many bits name one.
const STEPS: u64 = 8;
const STEP_BITS: u32 = 3;
/// Values from here on share the last bucket: 2^44 ns are almost five hours.
const DOUBLINGS: u32 = 44;
const BUCKETS: usize = ((DOUBLINGS - STEP_BITS + 1) as u64 * STEPS) as usize;
const STRIPES: usize = 4;

type Stripe = CachePadded<[AtomicU64; BUCKETS]>;

pub(crate) struct Histogram(Box<[Stripe]>);

/// The stripe of this thread.
fn stripe() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    // A thread that ends counts somewhere all the same.
    let known = MINE.try_with(Cell::get).unwrap_or(0);
    if known != usize::MAX {
        return known;
    }
    let new = NEXT.fetch_add(1, Ordering::Relaxed) % STRIPES;
    let _ = MINE.try_with(|mine| mine.set(new));
    new
}

/// Which bucket a value belongs to.
fn bucket(value: u64) -> usize {
    if value < STEPS {
        return value as usize;
    }
    let doubling = 63 - value.leading_zeros();
    let step = (value >> (doubling - STEP_BITS)) & (STEPS - 1);
    let at = u64::from(doubling - STEP_BITS + 1) * STEPS + step;
    (at as usize).min(BUCKETS - 1)
}

/// The largest value of a bucket.
fn largest(bucket: usize) -> u64 {
    let (doubling, step) = (bucket as u64 / STEPS, bucket as u64 % STEPS);
    match doubling {
        0 => step,
        doubling => ((STEPS + step + 1) << (doubling - 1)) - 1,
    }
}

impl Histogram {
    pub fn new() -> Self {
        let stripe = || CachePadded::new([const { AtomicU64::new(0) }; BUCKETS]);
        Histogram((0..STRIPES).map(|_| stripe()).collect())
    }

    pub fn record(&self, value: u64) {
        self.0[stripe()][bucket(value)].fetch_add(1, Ordering::Relaxed);
    }

    pub fn counts(&self) -> Counts {
        let sum = |at: usize| self.0.iter().map(|s| s[at].load(Ordering::Relaxed)).sum();
        Counts((0..BUCKETS).map(sum).collect())
    }
}

/// The counts of a histogram at a moment. They only grow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts(Vec<u64>);

impl Counts {
    /// Buckets that hold something: their largest value, and how many.
    pub fn filled(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let numbered = self.0.iter().enumerate().filter(|(_, count)| **count > 0);
        numbered.map(|(at, count)| (largest(at), *count))
    }

    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The value that `share` of all values don't exceed.
    #[cfg(feature = "admin")]
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let rank = (self.total() as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        self.filled().find_map(|(value, count)| {
            seen += count;
            (seen >= rank).then_some(value)
        })
    }

    /// The counts since `before`.
    pub fn since(&self, before: &Counts) -> Counts {
        let before = before.0.iter().copied().chain(std::iter::repeat(0));
        Counts(self.0.iter().zip(before).map(|(now, then)| now.saturating_sub(then)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_what_it_says() {
        for value in (0..4096).chain((0..44).flat_map(|n| [(1 << n) - 1, 1 << n, (1 << n) + 1])) {
            let at = bucket(value);
            assert!(value <= largest(at), "{value} is above its bucket {at}");
            assert!(at == 0 || value > largest(at - 1), "{value} belongs below {at}");
            assert!(largest(at) - value <= value / 8, "{value} is too far off");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[cfg(feature = "admin")]
    #[test]
    fn quantiles_are_of_all_threads() {
        let histogram = Histogram::new();
        std::thread::scope(|scope| {
            for from in [1, 251, 501, 751] {
                let histogram = &histogram;
                scope.spawn(move || (from..from + 250).for_each(|value| histogram.record(value)));
            }
        });
        let counts = histogram.counts();
        assert_eq!(counts.total(), 1000);
        let near = |share, value: u64| {
            let found = counts.quantile(share).unwrap();
            assert!((value..=value + value / 8).contains(&found), "{found}, not {value}");
        };
        near(0.5, 500);
        near(0.99, 990);
        near(1.0, 1000);
        assert_eq!(Counts::default().quantile(0.5), None);
    }

    #[test]
    fn differences_are_what_came_between() {
        let histogram = Histogram::new();
        histogram.record(5);
        let before = histogram.counts();
        (0..3).for_each(|_| histogram.record(100));
        let since = histogram.counts().since(&before);
        assert_eq!(since.filled().map(|(_, count)| count).collect::<Vec<_>>(), [3]);
        assert_eq!(before.since(&Counts::default()), before);
    }
}
