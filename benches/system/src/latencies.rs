//! A histogram of times.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Times by order of magnitude, 16 steps for each doubling: a quantile is at most 6 % too low.
#[derive(Clone)]
pub struct Latencies {
    counts: Vec<u64>,
    max_ns: u64,
}

/// What a [`Latencies`] holds, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Quantiles {
    pub count: u64,
    pub p50_ns: u64,
    pub p99_ns: u64,
    pub p999_ns: u64,
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
        self.counts[step(ns)] += 1;
    }

    pub fn merge(&mut self, other: &Latencies) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(sum, count)| *sum += count);
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Zero if nothing was added.
    pub fn quantile(&self, share: f64) -> u64 {
        let wanted = (self.count() as f64 * share) as u64;
        let mut seen = 0;
        let at = self.counts.iter().position(|count| {
            seen += count;
            seen > wanted
        });
        at.map_or(0, lowest)
    }

    pub fn quantiles(&self) -> Quantiles {
        Quantiles {
            count: self.count(),
            p50_ns: self.quantile(0.5),
            p99_ns: self.quantile(0.99),
            p999_ns: self.quantile(0.999),
            max_ns: self.max_ns,
        }
    }
}

fn step(ns: u64) -> usize {
    let shift = (ns | 16).ilog2() - 4;
    shift as usize * 16 + (ns >> shift) as usize
}

fn lowest(step: usize) -> u64 {
    let shift = (step / 16).saturating_sub(1);
    ((step - shift * 16) as u64) << shift
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_at_most_6_percent_too_low() {
        for ns in [0, 1, 15, 16, 17, 31, 32, 33, 999, 1_000_000, 123_456_789_012] {
            let low = lowest(step(ns));
            assert!(low <= ns && ns - low <= ns / 16, "{ns} became {low}");
        }
    }

    #[test]
    fn quantiles_count_from_the_lowest() {
        let mut times = Latencies::default();
        (1..=1000).for_each(|i| times.add(Duration::from_nanos(if i > 990 { 1 << 20 } else { 8 })));
        let found = times.quantiles();
        assert_eq!((found.count, found.p50_ns, found.max_ns), (1000, 8, 1 << 20));
        assert_eq!(found.p999_ns, 1 << 20);
    }
}
