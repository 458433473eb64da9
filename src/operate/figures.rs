//! The figures of a store, one by one: what each is called, and which stores have it. The admin
//! service and the publisher of metrics go by this list alone, so a new figure is a row of it.

use super::{Figures, TableFigures};
use crate::{error::Full, record::Reason, stats::Stats};

/// A figure at a moment.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Number(u64),
    /// Milliseconds; published in seconds.
    Ms(u64),
    Yes(bool),
    /// Published as whether there is one.
    Text(Option<String>),
}

/// Which stores have a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    All,
    /// All, but a table only once its keys have been counted.
    Keys,
    /// A store in files.
    Files,
    /// A store in a database's table.
    Table,
    /// One of them that has connections of its own.
    Pool,
}

/// A row of the list.
pub(crate) struct Figure {
    /// In the admin API; `None`: not there.
    pub name: Option<&'static str>,
    /// Where it is published; `None`: it isn't.
    pub metric: Option<Metric>,
    of: Of,
    value: fn(&Figures) -> Value,
}

/// A metric, and the label under which a figure is published there.
#[derive(Clone, Copy)]
#[cfg_attr(not(feature = "metrics"), allow(dead_code))]
pub(crate) struct Metric {
    pub family: &'static Family,
    pub label: Option<(&'static str, &'static str)>,
}

/// Metrics of one name. Its end says its unit: `_seconds`, `_bytes`, or a number.
#[cfg_attr(not(feature = "metrics"), allow(dead_code))]
pub(crate) struct Family {
    pub name: &'static str,
    pub meaning: &'static str,
}

impl Figure {
    /// The value, if this store has one.
    pub fn value(&self, figures: &Figures) -> Option<Value> {
        let has = match (self.of, &figures.table) {
            (Of::All, _) | (Of::Keys | Of::Files, None) | (Of::Table, Some(_)) => true,
            (Of::Keys, Some(table)) => table.counted_ms > 0,
            (Of::Pool, Some(table)) => table.connections_max > 0,
            (Of::Files, Some(_)) | (Of::Table | Of::Pool, None) => false,
        };
        has.then(|| (self.value)(figures))
    }

    const fn of(mut self, of: Of) -> Self {
        self.of = of;
        self
    }

    /// Published alone under its name.
    const fn alone_in(mut self, family: &'static Family) -> Self {
        self.metric = Some(Metric { family, label: None });
        self
    }

    const fn labelled(
        mut self,
        family: &'static Family,
        label: &'static str,
        value: &'static str,
    ) -> Self {
        self.metric = Some(Metric { family, label: Some((label, value)) });
        self
    }
}

const fn figure(name: &'static str, value: fn(&Figures) -> Value) -> Figure {
    Figure { name: Some(name), metric: None, of: Of::All, value }
}

/// One that is published only.
const fn metric(value: fn(&Figures) -> Value) -> Figure {
    Figure { name: None, metric: None, of: Of::All, value }
}

/// Of what a store is full, in a word; empty if it isn't.
pub(crate) fn full_of(stats: &Stats) -> &'static str {
    match (&stats.full, stats.full_of) {
        (None, _) => "",
        (_, Some(Full::Claims)) => "claims",
        (_, Some(Full::Disk)) => "disk",
        (_, Some(_)) => "capacity",
        (_, None) => "system",
    }
}

fn table(figures: &Figures) -> TableFigures {
    figures.table.unwrap_or_default()
}

macro_rules! families {
    ($($ident:ident $name:literal $meaning:literal;)*) => {
        $(const $ident: Family = Family { name: $name, meaning: $meaning };)*
    };
}

families! {
    BEGINS "onlyonce_begins_total" "Begins, by outcome.";
    ENDS "onlyonce_ends_total" "Ends of attempts, by how.";
    FENCED "onlyonce_fenced_total" "Holders fenced: perhaps executed twice.";
    EXHAUSTED "onlyonce_exhausted_total"
        "Keys whose attempts are used up: only an operator can end them.";
    LATE "onlyonce_late_calls_total"
        "Calls of holders whose store had been closed: perhaps executed twice.";
    INTERRUPTED_EXPIRED "onlyonce_interrupted_expired_total"
        "Interrupted keys that expired unresolved: a retry executes again.";
    BEGAN_AFTER_EXPIRY "onlyonce_began_after_expiry_total"
        "Claims granted just after the record of the key had expired.";
    RECYCLED "onlyonce_segments_recycled_total" "Segments that became free again.";
    SWEPT "onlyonce_rows_swept_total" "Rows that the sweeper dealt with, by how.";
    KEYS "onlyonce_keys" "Keys, by state.";
    OLDEST "onlyonce_oldest_seconds" "Age of the oldest undecided key, by state.";
    INTERRUPTED "onlyonce_interrupted_keys" "Interrupted keys, by reason.";
    EXHAUSTED_KEYS "onlyonce_exhausted_keys" "Interrupted keys without attempts left.";
    HOLDERS "onlyonce_holders" "Handles of claims that exist.";
    WAITERS "onlyonce_waiters" "Callers that wait for a key in flight.";
    SEGMENTS "onlyonce_segments" "Segments, by state.";
    LOG_BYTES "onlyonce_log_bytes" "Bytes of records in segments, by state.";
    SEGMENT_BYTES "onlyonce_segment_bytes" "Bytes that segments take on the disk.";
    CAPACITY "onlyonce_capacity_bytes" "Bytes that segments may take.";
    SPACE_FREE "onlyonce_space_free_bytes"
        "Bytes in existing segments, neither used nor promised to claims.";
    CELLS_FREE "onlyonce_claim_cells_free" "Cells of the claims file that are free.";
    INDEX_BYTES "onlyonce_index_bytes" "Memory that the index takes.";
    FULL "onlyonce_full" "1: no new key is taken, because there is no room.";
    FULL_OF "onlyonce_full_of" "1: the store is full of this.";
    FULL_SECONDS "onlyonce_full_seconds" "How long the store has been full.";
    CLAIMS_MAX "onlyonce_claims_max" "Keys that can be undecided at a time.";
    POISONED "onlyonce_poisoned" "1: a write or sync failed, open the store again.";
    CLOCK_HELD "onlyonce_clock_held" "1: the wall clock is not believed.";
    DAMAGED "onlyonce_damaged_places" "Damage that the opening passed over.";
    LIFE "onlyonce_life" "How often the store has been opened.";
    RECOVERY "onlyonce_recovery_seconds" "What the opening took.";
    CONNECTIONS "onlyonce_connections" "Connections to the database, by state.";
    CONNECTIONS_MAX "onlyonce_connections_max" "Connections that there may be.";
    WAITED_FOR "onlyonce_connections_waited_for" "Calls that wait for a connection.";
    UNDER_WAY "onlyonce_ends_under_way" "Ends of claims on their way to the server.";
    UNREACHABLE "onlyonce_unreachable" "1: the database didn't answer when asked last.";
    TABLE_BYTES "onlyonce_table_bytes" "Size of the table and its indexes.";
    COUNTED "onlyonce_counted_seconds" "Age of the figures of the table's keys.";
}

macro_rules! reason {
    ($reason:ident, $name:literal) => {
        figure($name, |f| Number(f.stats.interrupted_by.of(Reason::$reason)))
            .labelled(&INTERRUPTED, "reason", Reason::$reason.as_str())
            .of(Files)
    };
}

/// Counted since the opening; of a store in a table, by this process.
pub(crate) static SINCE_OPENING: [Figure; 23] = {
    use {Of::*, Value::*};
    [
        figure("granted", |f| Number(f.stats.granted)).labelled(&BEGINS, "outcome", "granted"),
        figure("taken_over", |f| Number(f.stats.taken_over)).labelled(
            &BEGINS,
            "outcome",
            "taken_over",
        ),
        figure("replayed", |f| Number(f.stats.replayed)).labelled(&BEGINS, "outcome", "replayed"),
        figure("saw_in_flight", |f| Number(f.stats.saw_in_flight)).labelled(
            &BEGINS,
            "outcome",
            "in_flight",
        ),
        figure("saw_interrupted", |f| Number(f.stats.saw_interrupted)).labelled(
            &BEGINS,
            "outcome",
            "interrupted",
        ),
        figure("mismatched", |f| Number(f.stats.mismatched))
            .labelled(&BEGINS, "outcome", "mismatch"),
        figure("refused_full", |f| Number(f.stats.refused_full))
            .labelled(&BEGINS, "outcome", "full"),
        figure("refused_scope", |f| Number(f.stats.refused_scope))
            .labelled(&BEGINS, "outcome", "scope_full")
            .of(Files),
        figure("completed", |f| Number(f.stats.completed)).labelled(&ENDS, "how", "completed"),
        figure("failed", |f| Number(f.stats.failed)).labelled(&ENDS, "how", "failed"),
        figure("released", |f| Number(f.stats.released)).labelled(&ENDS, "how", "released"),
        figure("undone", |f| Number(f.stats.undone)).labelled(&ENDS, "how", "undone"),
        figure("undelivered", |f| Number(f.stats.undelivered)).labelled(
            &ENDS,
            "how",
            "undelivered",
        ),
        figure("abandoned", |f| Number(f.stats.abandoned)).labelled(&ENDS, "how", "abandoned"),
        figure("leases_passed", |f| Number(f.stats.leases_passed))
            .labelled(&ENDS, "how", "lease_passed")
            .of(Files),
        figure("fenced", |f| Number(f.stats.fenced)).alone_in(&FENCED),
        figure("exhausted", |f| Number(f.stats.exhausted)).alone_in(&EXHAUSTED),
        figure("late_calls", |f| Number(f.stats.late_calls)).alone_in(&LATE).of(Files),
        figure("interrupted_expired", |f| Number(f.stats.interrupted_expired))
            .alone_in(&INTERRUPTED_EXPIRED),
        figure("began_after_expiry", |f| Number(f.stats.began_after_expiry))
            .alone_in(&BEGAN_AFTER_EXPIRY),
        figure("segments_recycled", |f| Number(f.stats.segments_recycled))
            .alone_in(&RECYCLED)
            .of(Files),
        figure("rows_swept", |f| Number(table(f).swept))
            .labelled(&SWEPT, "how", "removed")
            .of(Table),
        figure("rows_postponed", |f| Number(table(f).postponed))
            .labelled(&SWEPT, "how", "postponed")
            .of(Table),
    ]
};

/// As it is now.
pub(crate) static NOW: [Figure; 51] = {
    use {Of::*, Value::*};
    [
        figure("now_ms", |f| Number(f.stats.now_ms)),
        figure("in_flight", |f| Number(f.stats.in_flight))
            .labelled(&KEYS, "state", "in_flight")
            .of(Keys),
        figure("interrupted", |f| Number(f.stats.interrupted))
            .labelled(&KEYS, "state", "interrupted")
            .of(Keys),
        figure("records", |f| Number(f.stats.records))
            .labelled(&KEYS, "state", "completed")
            .of(Keys),
        figure("oldest_in_flight_ms", |f| Ms(f.stats.oldest_in_flight_ms))
            .labelled(&OLDEST, "state", "in_flight")
            .of(Keys),
        figure("oldest_interrupted_ms", |f| Ms(f.stats.oldest_interrupted_ms))
            .labelled(&OLDEST, "state", "interrupted")
            .of(Keys),
        figure("exhausted_keys", |f| Number(f.stats.exhausted_keys))
            .alone_in(&EXHAUSTED_KEYS)
            .of(Keys),
        reason!(Dropped, "interrupted_dropped"),
        reason!(Panicked, "interrupted_panicked"),
        reason!(Crashed, "interrupted_crashed"),
        reason!(LeasePassed, "interrupted_lease_passed"),
        reason!(GivenBack, "interrupted_given_back"),
        reason!(Failed, "interrupted_failed"),
        figure("holders", |f| Number(f.stats.holders)).alone_in(&HOLDERS).of(Files),
        figure("waiters", |f| Number(f.stats.waiters)).alone_in(&WAITERS).of(Files),
        figure("segments", |f| Number(f.stats.segments)).of(Files),
        metric(|f| Number(f.stats.segments.saturating_sub(f.stats.segments_free)))
            .labelled(&SEGMENTS, "state", "live")
            .of(Files),
        figure("segments_free", |f| Number(f.stats.segments_free))
            .labelled(&SEGMENTS, "state", "pooled")
            .of(Files),
        figure("bytes_live", |f| Number(f.stats.bytes_live))
            .labelled(&LOG_BYTES, "state", "live")
            .of(Files),
        figure("bytes_dead", |f| Number(f.stats.bytes_dead))
            .labelled(&LOG_BYTES, "state", "dead")
            .of(Files),
        figure("segment_bytes", |f| Number(f.stats.segment_bytes))
            .alone_in(&SEGMENT_BYTES)
            .of(Files),
        figure("capacity", |f| Number(f.stats.capacity)).alone_in(&CAPACITY).of(Files),
        figure("space_free", |f| Number(f.stats.space_free)).alone_in(&SPACE_FREE).of(Files),
        figure("cells_free", |f| Number(f.stats.cells_free)).alone_in(&CELLS_FREE).of(Files),
        figure("index_bytes", |f| Number(f.stats.index_bytes)).alone_in(&INDEX_BYTES).of(Files),
        figure("life", |f| Number(f.stats.life.into())).alone_in(&LIFE).of(Files),
        figure("created", |f| Yes(f.stats.created)).of(Files),
        figure("recovery_ms", |f| Ms(f.stats.recovery_ms)).alone_in(&RECOVERY).of(Files),
        figure("damaged_places", |f| Number(f.stats.damaged_places)).alone_in(&DAMAGED).of(Files),
        figure("clock_held", |f| Yes(f.stats.clock_held)).alone_in(&CLOCK_HELD).of(Files),
        figure("full", |f| Text(f.stats.full.clone())).alone_in(&FULL).of(Files),
        figure("full_of", |f| Text(Some(full_of(&f.stats).to_owned()))).of(Files),
        metric(|f| Yes(full_of(&f.stats) == "capacity"))
            .labelled(&FULL_OF, "what", "capacity")
            .of(Files),
        metric(|f| Yes(full_of(&f.stats) == "disk")).labelled(&FULL_OF, "what", "disk").of(Files),
        metric(|f| Yes(full_of(&f.stats) == "claims"))
            .labelled(&FULL_OF, "what", "claims")
            .of(Files),
        metric(|f| Yes(full_of(&f.stats) == "system"))
            .labelled(&FULL_OF, "what", "system")
            .of(Files),
        figure("full_since_ms", |f| Number(f.stats.full_since_ms)).of(Files),
        metric(|f| match f.stats.full {
            Some(_) => Ms(f.stats.now_ms.saturating_sub(f.stats.full_since_ms)),
            None => Ms(0),
        })
        .alone_in(&FULL_SECONDS)
        .of(Files),
        figure("claims_max", |f| Number(f.stats.claims_max)).alone_in(&CLAIMS_MAX).of(Files),
        figure("claims_low", |f| Yes(f.stats.claims_low)).of(Files),
        figure("poisoned", |f| Text(f.stats.poisoned.clone())).alone_in(&POISONED).of(Files),
        figure("counted_ms", |f| Number(table(f).counted_ms)).of(Pool),
        metric(|f| match table(f).counted_ms {
            0 => Ms(0),
            counted => Ms(f.stats.now_ms.saturating_sub(counted)),
        })
        .alone_in(&COUNTED)
        .of(Pool),
        figure("table_bytes", |f| Number(table(f).bytes)).alone_in(&TABLE_BYTES).of(Pool),
        figure("connections", |f| Number(table(f).connections)).of(Pool),
        metric(|f| Number(table(f).connections.saturating_sub(table(f).connections_idle)))
            .labelled(&CONNECTIONS, "state", "in_use")
            .of(Pool),
        figure("connections_idle", |f| Number(table(f).connections_idle))
            .labelled(&CONNECTIONS, "state", "idle")
            .of(Pool),
        figure("connections_max", |f| Number(table(f).connections_max))
            .alone_in(&CONNECTIONS_MAX)
            .of(Pool),
        figure("connections_waited_for", |f| Number(table(f).connections_waited_for))
            .alone_in(&WAITED_FOR)
            .of(Pool),
        figure("ends_under_way", |f| Number(table(f).ends_under_way))
            .alone_in(&UNDER_WAY)
            .of(Table),
        metric(|f| Yes(table(f).unreachable)).alone_in(&UNREACHABLE).of(Pool),
    ]
};
