//! The last hour: a sample of the store's figures every half minute, taken by a thread that ends
//! with the store.

use crate::{
    observe::{Counts, Timed},
    operate::{Operated, Operators},
    stats::Stats,
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
    thread,
    time::Duration,
};

/// The time between two samples.
const EVERY_MS: u64 = 30_000;
/// The samples of an hour, with the one from which the first differs.
const KEPT: usize = (3_600_000 / EVERY_MS) as usize + 1;

/// The samples of one store, oldest first.
#[derive(Default)]
pub(super) struct Hour(Mutex<VecDeque<Sample>>);

impl std::fmt::Debug for Hour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hour")
    }
}

struct Sample {
    at_ms: u64,
    claims: u64,
    replays: u64,
    refused: u64,
    in_flight: u64,
    interrupted: u64,
    /// Of `begin` and `complete`, since times are measured.
    times: [Counts; 2],
}

impl Sample {
    fn of(stats: &Stats, store: &dyn Operated) -> Self {
        let timings = store.timings();
        Sample {
            at_ms: stats.now_ms,
            claims: stats.granted + stats.taken_over,
            replays: stats.replayed,
            refused: stats.saw_in_flight
                + stats.saw_interrupted
                + stats.mismatched
                + stats.refused_full
                + stats.refused_scope,
            in_flight: stats.in_flight,
            interrupted: stats.interrupted,
            times: [timings.counts(Timed::Begin), timings.counts(Timed::Complete)],
        }
    }
}

impl Hour {
    /// Starts taking samples of `store`. Without a thread they are taken when someone looks.
    pub fn watch(store: &Operators) -> Arc<Self> {
        let hour = Arc::new(Hour::default());
        if let Some(open) = store.open().filter(|open| open.check().is_ok()) {
            // The caller may be a task.
            hour.look(&*open, &open.figures_at_hand().stats);
            let (weak, store) = (Arc::downgrade(&hour), store.clone());
            let builder = thread::Builder::new().name("onlyonce-hour".into());
            let _ = builder.spawn(move || sample(&weak, &store));
        }
        hour
    }

    /// Takes a sample if the last one is old enough.
    pub fn look(&self, store: &dyn Operated, stats: &Stats) {
        let mut samples = self.0.lock();
        let due = |last: &Sample| stats.now_ms >= last.at_ms.saturating_add(EVERY_MS);
        if samples.back().is_none_or(due) {
            if samples.len() == KEPT {
                samples.pop_front();
            }
            samples.push_back(Sample::of(stats, store));
        }
    }

    /// For each sample but the first: when it was taken, claims, replays and refusals a second since
    /// the one before, keys in flight and interrupted, and p50 and p99 of `begin` and `complete` in
    /// nanoseconds since the one before (null if there was none).
    pub fn shown(&self) -> Value {
        let samples = self.0.lock();
        let pairs = samples.iter().zip(samples.iter().skip(1));
        let shown = pairs.map(|(before, now)| {
            let seconds = (now.at_ms - before.at_ms) as f64 / 1e3;
            let rate = |of: fn(&Sample) -> u64| (of(now) - of(before)) as f64 / seconds;
            let times = [0, 1].map(|at| now.times[at].since(&before.times[at]));
            json!([
                now.at_ms,
                rate(|sample| sample.claims),
                rate(|sample| sample.replays),
                rate(|sample| sample.refused),
                now.in_flight,
                now.interrupted,
                times[0].quantile(0.5),
                times[0].quantile(0.99),
                times[1].quantile(0.5),
                times[1].quantile(0.99),
            ])
        });
        shown.collect()
    }
}

fn sample(hour: &Weak<Hour>, store: &Operators) {
    loop {
        thread::sleep(Duration::from_millis(EVERY_MS));
        let (Some(hour), Some(store)) = (hour.upgrade(), store.open()) else { return };
        if store.check().is_err() {
            return;
        }
        hour.look(&*store, &store.figures().stats);
    }
}
