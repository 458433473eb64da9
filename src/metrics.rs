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
    error::Full,
    observe::{Counts, Timed},
    operate::{Operators, TableFigures},
    stats::Stats,
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

/// The kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

use Kind::*;

/// Every name, with its kind, unit and what it means.
const NAMES: [(&str, Kind, Unit, &str); 38] = [
    ("onlyonce_begins_total", Counter, Unit::Count, "Begins, by outcome."),
    ("onlyonce_ends_total", Counter, Unit::Count, "Ends of attempts, by how."),
    ("onlyonce_fenced_total", Counter, Unit::Count, "Holders fenced: perhaps executed twice."),
    (
        "onlyonce_exhausted_total",
        Counter,
        Unit::Count,
        "Keys whose attempts are used up: only an operator can end them.",
    ),
    (
        "onlyonce_late_calls_total",
        Counter,
        Unit::Count,
        "Calls of holders whose store had been closed: perhaps executed twice.",
    ),
    (
        "onlyonce_interrupted_expired_total",
        Counter,
        Unit::Count,
        "Interrupted keys that expired unresolved: a retry executes again.",
    ),
    (
        "onlyonce_began_after_expiry_total",
        Counter,
        Unit::Count,
        "Claims granted just after the record of the key had expired.",
    ),
    ("onlyonce_segments_recycled_total", Counter, Unit::Count, "Segments that became free again."),
    ("onlyonce_keys", Gauge, Unit::Count, "Keys, by state."),
    ("onlyonce_oldest_seconds", Gauge, Unit::Seconds, "Age of the oldest undecided key, by state."),
    ("onlyonce_holders", Gauge, Unit::Count, "Handles of claims that exist."),
    ("onlyonce_waiters", Gauge, Unit::Count, "Callers that wait for a key in flight."),
    ("onlyonce_segments", Gauge, Unit::Count, "Segments, by state."),
    ("onlyonce_log_bytes", Gauge, Unit::Bytes, "Bytes of records in segments, by state."),
    ("onlyonce_segment_bytes", Gauge, Unit::Bytes, "Bytes that segments take on the disk."),
    ("onlyonce_capacity_bytes", Gauge, Unit::Bytes, "Bytes that segments may take."),
    (
        "onlyonce_space_free_bytes",
        Gauge,
        Unit::Bytes,
        "Bytes in existing segments, neither used nor promised to claims.",
    ),
    ("onlyonce_claim_cells_free", Gauge, Unit::Count, "Cells of the claims file that are free."),
    ("onlyonce_index_bytes", Gauge, Unit::Bytes, "Memory that the index takes."),
    ("onlyonce_full_of", Gauge, Unit::Count, "1: the store is full of this."),
    ("onlyonce_full_seconds", Gauge, Unit::Seconds, "How long the store has been full."),
    ("onlyonce_claims_max", Gauge, Unit::Count, "Keys that can be undecided at a time."),
    ("onlyonce_exhausted_keys", Gauge, Unit::Count, "Interrupted keys without attempts left."),
    ("onlyonce_poisoned", Gauge, Unit::Count, "1: a write or sync failed, open the store again."),
    ("onlyonce_clock_held", Gauge, Unit::Count, "1: the wall clock is not believed."),
    ("onlyonce_damaged_places", Gauge, Unit::Count, "Damage that the opening passed over."),
    ("onlyonce_life", Gauge, Unit::Count, "How often the store has been opened."),
    ("onlyonce_recovery_seconds", Gauge, Unit::Seconds, "What the opening took."),
    (
        "onlyonce_rows_swept_total",
        Counter,
        Unit::Count,
        "Rows that the sweeper dealt with, by how.",
    ),
    ("onlyonce_connections", Gauge, Unit::Count, "Connections to the database, by state."),
    ("onlyonce_connections_max", Gauge, Unit::Count, "Connections that there may be."),
    ("onlyonce_connections_waited_for", Gauge, Unit::Count, "Calls that wait for a connection."),
    ("onlyonce_ends_under_way", Gauge, Unit::Count, "Ends of claims on their way to the server."),
    ("onlyonce_unreachable", Gauge, Unit::Count, "1: the database didn't answer when asked last."),
    ("onlyonce_table_bytes", Gauge, Unit::Bytes, "Size of the table and its indexes."),
    ("onlyonce_counted_seconds", Gauge, Unit::Seconds, "Age of the figures of the table's keys."),
    ("onlyonce_step_seconds", Histogram, Unit::Seconds, "Time of a step, by step."),
    ("onlyonce_group_size", Histogram, Unit::Count, "Callers in a group commit."),
];

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
    store: Operators,
    labels: Vec<Label>,
    /// Samples that have been published.
    published: [Counts; Timed::ALL.len()],
}

impl Publisher {
    /// Makes a publisher without a label for the store. From now on the store measures times.
    pub fn new(store: impl Into<Operators>) -> Self {
        Self::with_labels(store.into(), Vec::new())
    }

    /// Makes a publisher whose figures have a label `store`, for processes with several stores.
    pub fn named(store: impl Into<Operators>, name: impl Into<SharedString>) -> Self {
        Self::with_labels(store.into(), vec![Label::new("store", name)])
    }

    fn with_labels(store: Operators, labels: Vec<Label>) -> Self {
        // In a forked child there is nothing to be watched.
        if let Some(open) = store.open().filter(|open| open.check().is_ok()) {
            open.timings().watch();
            // A table is counted, for the first call.
            let _ = open.figures_at_hand();
        }
        for (name, kind, unit, meaning) in NAMES {
            match kind {
                Counter => describe_counter!(name, unit, meaning),
                Gauge => describe_gauge!(name, unit, meaning),
                Histogram => describe_histogram!(name, unit, meaning),
            }
        }
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
        self.publish_counts(&figures.stats);
        match &figures.table {
            None => self.publish_files(&figures.stats),
            Some(table) => self.publish_table(&figures.stats, table),
        }
        let timings = store.timings();
        let steps = if figures.table.is_some() { &STEPS[..2] } else { &STEPS[..] };
        for (timed, step) in steps.iter().copied() {
            let labels = self.labelled("step", step);
            let samples = histogram!("onlyonce_step_seconds", labels);
            self.hand_over(timed, timings.counts(timed), samples, 1e-9);
        }
        if figures.table.is_none() {
            let samples = histogram!("onlyonce_group_size", self.labels.clone());
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

    fn show(&self, name: &'static str, value: f64) {
        gauge!(name, self.labels.clone()).set(value);
    }

    fn count_by(&self, name: &'static str, label: &'static str, values: &[(&'static str, u64)]) {
        for (is, value) in values {
            counter!(name, self.labelled(label, is)).absolute(*value);
        }
    }

    /// What every backend counts.
    fn publish_counts(&self, stats: &Stats) {
        self.count_by(
            "onlyonce_begins_total",
            "outcome",
            &[
                ("granted", stats.granted),
                ("taken_over", stats.taken_over),
                ("replayed", stats.replayed),
                ("in_flight", stats.saw_in_flight),
                ("interrupted", stats.saw_interrupted),
                ("mismatch", stats.mismatched),
                ("full", stats.refused_full),
            ],
        );
        self.count_by(
            "onlyonce_ends_total",
            "how",
            &[
                ("completed", stats.completed),
                ("failed", stats.failed),
                ("released", stats.released),
                ("undone", stats.undone),
                ("undelivered", stats.undelivered),
                ("abandoned", stats.abandoned),
            ],
        );
        for (name, value) in [
            ("onlyonce_fenced_total", stats.fenced),
            ("onlyonce_exhausted_total", stats.exhausted),
            ("onlyonce_interrupted_expired_total", stats.interrupted_expired),
            ("onlyonce_began_after_expiry_total", stats.began_after_expiry),
        ] {
            counter!(name, self.labels.clone()).absolute(value);
        }
    }

    fn publish_keys(&self, stats: &Stats) {
        for (name, state, value) in [
            ("onlyonce_keys", "in_flight", stats.in_flight as f64),
            ("onlyonce_keys", "interrupted", stats.interrupted as f64),
            ("onlyonce_keys", "completed", stats.records as f64),
            ("onlyonce_oldest_seconds", "in_flight", stats.oldest_in_flight_ms as f64 / 1e3),
            ("onlyonce_oldest_seconds", "interrupted", stats.oldest_interrupted_ms as f64 / 1e3),
        ] {
            gauge!(name, self.labelled("state", state)).set(value);
        }
        self.show("onlyonce_exhausted_keys", stats.exhausted_keys as f64);
    }

    /// What only a store in a table has. The keys in it are those of all processes.
    fn publish_table(&self, stats: &Stats, table: &TableFigures) {
        self.count_by(
            "onlyonce_rows_swept_total",
            "how",
            &[("removed", table.swept), ("postponed", table.postponed)],
        );
        for (state, value) in [
            ("in_use", table.connections.saturating_sub(table.connections_idle)),
            ("idle", table.connections_idle),
        ] {
            gauge!("onlyonce_connections", self.labelled("state", state)).set(value as f64);
        }
        self.show("onlyonce_connections_max", table.connections_max as f64);
        self.show("onlyonce_connections_waited_for", table.connections_waited_for as f64);
        self.show("onlyonce_ends_under_way", table.ends_under_way as f64);
        self.show("onlyonce_unreachable", f64::from(u8::from(table.unreachable)));
        if table.counted_ms > 0 {
            self.publish_keys(stats);
            self.show("onlyonce_table_bytes", table.bytes as f64);
            let age = stats.now_ms.saturating_sub(table.counted_ms);
            self.show("onlyonce_counted_seconds", age as f64 / 1e3);
        }
    }

    /// What only a store in files has.
    fn publish_files(&self, stats: &Stats) {
        self.publish_keys(stats);
        self.count_by("onlyonce_begins_total", "outcome", &[("scope_full", stats.refused_scope)]);
        self.count_by("onlyonce_ends_total", "how", &[("lease_passed", stats.leases_passed)]);
        for (name, value) in [
            ("onlyonce_late_calls_total", stats.late_calls),
            ("onlyonce_segments_recycled_total", stats.segments_recycled),
        ] {
            counter!(name, self.labels.clone()).absolute(value);
        }
        let live = stats.segments.saturating_sub(stats.segments_free);
        for (name, state, value) in [
            ("onlyonce_segments", "live", live),
            ("onlyonce_segments", "pooled", stats.segments_free),
            ("onlyonce_log_bytes", "live", stats.bytes_live),
            ("onlyonce_log_bytes", "dead", stats.bytes_dead),
        ] {
            gauge!(name, self.labelled("state", state)).set(value as f64);
        }
        let full = stats.full.is_some();
        for (what, is) in [
            ("capacity", stats.full_of == Some(Full::Space)),
            ("disk", stats.full_of == Some(Full::Disk)),
            ("claims", stats.full_of == Some(Full::Claims)),
            ("system", full && stats.full_of.is_none()),
        ] {
            gauge!("onlyonce_full_of", self.labelled("what", what)).set(f64::from(u8::from(is)));
        }
        let full_ms = if full { stats.now_ms.saturating_sub(stats.full_since_ms) } else { 0 };
        for (name, value) in [
            ("onlyonce_holders", stats.holders),
            ("onlyonce_waiters", stats.waiters),
            ("onlyonce_segment_bytes", stats.segment_bytes),
            ("onlyonce_capacity_bytes", stats.capacity),
            ("onlyonce_space_free_bytes", stats.space_free),
            ("onlyonce_claim_cells_free", stats.cells_free),
            ("onlyonce_index_bytes", stats.index_bytes),
            ("onlyonce_full", u64::from(full)),
            ("onlyonce_claims_max", stats.claims_max),
            ("onlyonce_poisoned", u64::from(stats.poisoned.is_some())),
            ("onlyonce_clock_held", u64::from(stats.clock_held)),
            ("onlyonce_damaged_places", stats.damaged_places),
            ("onlyonce_life", u64::from(stats.life)),
        ] {
            self.show(name, value as f64);
        }
        self.show("onlyonce_full_seconds", full_ms as f64 / 1e3);
        self.show("onlyonce_recovery_seconds", stats.recovery_ms as f64 / 1e3);
    }
}
