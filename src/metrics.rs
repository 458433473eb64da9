//! The figures of a store for the crate [`metrics`], and through its exporters for Prometheus and
//! others. Feature `metrics`.
//!
//! The store counts by itself; a [`Publisher`] publishes the counts whenever it is called: before
//! each scrape, or every few seconds.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! let store = onlyonce::Store::open(dir.path())?;
//! let mut publisher = onlyonce::metrics::Publisher::new(&store);
//! // In the handler of `GET /metrics`, before the recorder renders; or in a loop:
//! publisher.publish();
//! # Ok(()) }
//! ```
//!
//! `docs/operations.md` explains names and labels, and what to do about them. Without a recorder
//! nothing happens. Times are measured from the first `Publisher::new` on.

use crate::{
    observe::{Counts, Timed},
    operate::Source,
    operate::figures::{Metric, NOW, SINCE_OPENING, Value},
};
use ::metrics::{
    Label, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge,
};
use ::metrics::{SharedString, histogram};

/// Bounds of buckets for the histograms whose names end in `_seconds`: 1 us to 10 s.
pub const SECONDS_BUCKETS: [f64; 22] = [
    1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2,
    5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Bounds of buckets for `onlyonce_group_size`.
pub const GROUP_BUCKETS: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

const STEP_SECONDS: &str = "onlyonce_step_seconds";
const GROUP_SIZE: &str = "onlyonce_group_size";

/// The unit that the name of a metric ends in.
fn unit(name: &str) -> Unit {
    if name.ends_with("_seconds") {
        Unit::Seconds
    } else if name.ends_with("_bytes") {
        Unit::Bytes
    } else {
        Unit::Count
    }
}

/// The steps that are timed, and the `step` label of each.
const STEPS: [(Timed, &str); 6] = [
    (Timed::Begin, "begin"),
    (Timed::Complete, "complete"),
    (Timed::Replay, "replay"),
    (Timed::CommitWait, "commit_wait"),
    (Timed::LogSync, "sync_log"),
    (Timed::ClaimsSync, "sync_claims"),
];

/// The number of samples of a histogram that are published at once at most. If there are more, the
/// share of each value stays right, their number doesn't; the counters have the number.
const SAMPLES_MAX: u64 = 100_000;

/// Publishes the figures of a store to the recorder of the crate [`metrics`]. Make one for each
/// store; two of one store would publish each sample of a histogram twice.
///
/// It doesn't keep the store open.
#[derive(Debug)]
pub struct Publisher {
    store: Source,
    labels: Vec<Label>,
    /// Samples that have been published.
    published: [Counts; Timed::ALL.len()],
}

impl Publisher {
    /// Makes a publisher without a label for the store. From now on the store measures times.
    pub fn new(store: impl Into<Source>) -> Self {
        Self::with_labels(store.into(), Vec::new())
    }

    /// Makes a publisher whose figures have a label `store`, for processes with several stores.
    pub fn named(store: impl Into<Source>, name: impl Into<SharedString>) -> Self {
        Self::with_labels(store.into(), vec![Label::new("store", name)])
    }

    fn with_labels(store: Source, labels: Vec<Label>) -> Self {
        // In a forked child there is nothing to be watched.
        if let Some(open) = store.open().filter(|open| open.check().is_ok()) {
            open.timings().watch();
            // A table is counted, for the first call.
            let _ = open.figures_at_hand();
        }
        for Metric { family, .. } in SINCE_OPENING.iter().filter_map(|figure| figure.metric) {
            describe_counter!(family.name, unit(family.name), family.meaning);
        }
        for Metric { family, .. } in NOW.iter().filter_map(|figure| figure.metric) {
            describe_gauge!(family.name, unit(family.name), family.meaning);
        }
        describe_histogram!(STEP_SECONDS, Unit::Seconds, "Time of a step, by step.");
        describe_histogram!(GROUP_SIZE, Unit::Count, "Callers in a group commit.");
        Publisher { store, labels, published: Default::default() }
    }

    /// Publishes the present figures. Returns `false` if no handle of the store exists any more.
    ///
    /// Of a store on PostgreSQL the counts are this process's. The keys in the table are counted in
    /// the background, so they are as they were at the call before (`onlyonce_counted_seconds`).
    ///
    /// Takes the lock of each shard of the index in turn, and walks over all undecided keys, as
    /// [`Store::stats`](crate::Store::stats) does. A histogram gets at most 100,000 samples from
    /// each call, so on a busy store call it every few seconds. In a forked child nothing is
    /// published: the figures are the parent's.
    pub fn publish(&mut self) -> bool {
        let Some(store) = self.store.open() else {
            return false;
        };
        if store.check().is_err() {
            return true;
        }
        let figures = store.figures_at_hand();
        for figure in &SINCE_OPENING {
            if let (Some(metric), Some(Value::Number(count))) =
                (figure.metric, figure.value(&figures))
            {
                counter!(metric.family.name, self.labels_of(metric)).absolute(count);
            }
        }
        for figure in &NOW {
            if let (Some(metric), Some(value)) = (figure.metric, figure.value(&figures)) {
                gauge!(metric.family.name, self.labels_of(metric)).set(gauged(value));
            }
        }
        let timings = store.timings();
        let steps = if figures.table.is_some() { &STEPS[..2] } else { &STEPS[..] };
        for (timed, step) in steps.iter().copied() {
            let labels = self.labelled("step", step);
            let samples = histogram!(STEP_SECONDS, labels);
            self.hand_over(timed, timings.counts(timed), samples, 1e-9);
        }
        if figures.table.is_none() {
            let samples = histogram!(GROUP_SIZE, self.labels.clone());
            self.hand_over(Timed::GroupSize, timings.counts(Timed::GroupSize), samples, 1.0);
        }
        true
    }

    fn hand_over(&mut self, timed: Timed, now: Counts, into: ::metrics::Histogram, unit: f64) {
        let new = now.since(&self.published[timed as usize]);
        let one_for = new.total().div_ceil(SAMPLES_MAX).max(1);
        for (value, count) in new.filled() {
            into.record_many(value as f64 * unit, count.div_ceil(one_for) as usize);
        }
        self.published[timed as usize] = now;
    }

    fn labelled(&self, key: &'static str, value: &'static str) -> Vec<Label> {
        let own = Label::from_static_parts(key, value);
        self.labels.iter().cloned().chain([own]).collect()
    }

    fn labels_of(&self, metric: Metric) -> Vec<Label> {
        match metric.label {
            Some((key, value)) => self.labelled(key, value),
            None => self.labels.clone(),
        }
    }
}

/// A figure as a gauge shows it.
fn gauged(value: Value) -> f64 {
    match value {
        Value::Number(number) => number as f64,
        Value::Ms(ms) => ms as f64 / 1e3,
        Value::Yes(yes) => f64::from(u8::from(yes)),
        Value::Text(text) => f64::from(u8::from(text.is_some())),
    }
}
