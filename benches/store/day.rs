//! What a store takes on the disk while a day passes: a clock that is set by hand, and requests
//! that come as they do, few at night and many in the afternoon.

use crate::{
    Bench,
    plan::{FRAME_BYTES, RESPONSE_BYTES, key, new_series, pair, scope},
};
use onlyonce::{Durability, ManualClock, Options};
use serde_json::json;
use std::{collections::VecDeque, time::Duration};

const MINUTE: Duration = Duration::from_secs(60);
const RETENTION_MINUTES: usize = 6 * 60;
const DAYS: usize = 2;

/// Requests of a minute of the day, as a share of those of the busiest minute.
fn share(minute: usize) -> f64 {
    let hour = minute as f64 / 60.0;
    // Lowest at 3, highest at 15.
    let wave = (1.0 - ((hour - 3.0) / 24.0 * std::f64::consts::TAU).cos()) / 2.0;
    0.08 + 0.92 * wave * wave
}

pub fn day(bench: &mut Bench) {
    let Bench { plan, report, .. } = bench;
    let (dir, clock) = (plan.dir(), ManualClock::at(1_800_000_000_000));
    let most = plan.count(300) as f64;
    let store = Options::new()
        .durability(Durability::Buffered { max_delay: Duration::from_secs(3600) })
        .retention(MINUTE * RETENTION_MINUTES as u32)
        .max_response(RESPONSE_BYTES)
        .segment_bytes(4 << 20)
        .clock(clock.clone())
        .background(false)
        .open(dir.path())
        .unwrap();
    report.title("disk use over two days, retention 6 hours");
    let (scope, series, mut next) = (scope(), new_series(), 0);
    let mut alive = VecDeque::new();
    let (mut points, mut highest, mut most_alive) = (Vec::new(), 0, 0);
    for minute in 0..DAYS * 24 * 60 {
        let requests = (most * share(minute % (24 * 60))).round() as u64;
        for _ in 0..requests {
            pair(&store, &scope, &key(series, next), &[7; RESPONSE_BYTES]);
            next += 1;
        }
        alive.push_back(requests);
        if alive.len() > RETENTION_MINUTES {
            alive.pop_front();
        }
        clock.advance(MINUTE);
        store.housekeep().unwrap();
        let stats = store.stats();
        let unexpired = alive.iter().sum::<u64>() * FRAME_BYTES as u64;
        highest = highest.max(stats.segment_bytes);
        most_alive = most_alive.max(unexpired);
        if minute % 10 == 9 {
            points.push(json!({
                "minute": minute + 1,
                "requests_per_minute": requests,
                "unexpired_bytes": unexpired,
                "live_bytes": stats.bytes_live,
                "segment_bytes": stats.segment_bytes,
            }));
        }
    }
    let stats = store.stats();
    report.note(format_args!(
        "{next} records in all; segments {:.1} MiB for at most {:.1} MiB that had not expired; {} recycled",
        highest as f64 / f64::from(1 << 20),
        most_alive as f64 / f64::from(1 << 20),
        stats.segments_recycled
    ));
    report.series("day", json!({ "retention_minutes": RETENTION_MINUTES, "points": points }));
}
