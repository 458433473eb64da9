//! What it costs to be rid of a record: index entry, and its share of a segment that goes back to
//! the pool.

use crate::{
    Bench,
    measure::{median, once, once_and_spent},
    report::Report,
    tend::fill,
};
use hashbrown::HashTable;
use onlyonce::{Durability, ManualClock, Options, Store};
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);
/// What a segment of the largest size holds, nearly.
const SEGMENT: u64 = 58_000;
/// Segments' worth of records in an hour: a million.
const AN_HOUR: u32 = 17;

pub fn expiry(bench: &mut Bench) {
    let Bench { plan, report, .. } = bench;
    let (dir, clock) = (plan.dir(), ManualClock::at(1_800_000_000_000));
    let store = Options::new()
        .durability(Durability::Buffered { max_delay: HOUR })
        .retention(HOUR)
        .clock(clock.clone())
        .background(false)
        .open(dir.path())
        .unwrap();
    report.title("expiry: housekeeping over expired segments, for each record");
    for records in [100_000, 1_000_000] {
        let records = plan.count(records);
        let mut samples: Vec<_> =
            (0..plan.rounds()).map(|_| all_at_once(&store, &clock, records)).collect();
        report_each(report, &format!("{records} expire at once"), &mut samples);
        limit(report, records, records, &mut samples);
    }
    let segment = plan.count(SEGMENT);
    let (stay, mut samples) = one_by_one(&store, &clock, segment);
    report_each(report, &format!("a segment's at a time, while {stay} stay"), &mut samples);
    limit(report, stay + segment, segment, &mut samples);
    let idle = median(&mut [(); 5].map(|()| once(|| store.housekeep().unwrap())));
    report.cost("housekeeping with nothing to do", idle);
}

/// Time and processor time, of each record.
type Cost = [f64; 2];

fn middle(samples: &mut [Cost], of: usize) -> f64 {
    median(&mut samples.iter().map(|sample| sample[of]).collect::<Vec<_>>())
}

fn report_each(report: &mut Report, what: &str, samples: &mut [Cost]) {
    report.cost(what, middle(samples, 0));
    report.cost(&format!("{what}: processor time"), middle(samples, 1));
}

fn limit(report: &mut Report, among: u64, records: u64, samples: &mut [Cost]) {
    let limit = median(&mut [(); 3].map(|()| forget(among, records)));
    report.cost_limit("removing as many hashes from a bare table", limit, middle(samples, 1));
}

/// Fills, settles, lets all expire, and measures the rest.
fn all_at_once(store: &Store, clock: &ManualClock, records: u64) -> Cost {
    fill(store, records);
    store.housekeep().unwrap();
    clock.advance(2 * HOUR);
    let cost = once_and_spent(|| {
        let mut rounds = 0;
        while store.stats().records > 0 {
            store.housekeep().unwrap();
            rounds += 1;
            assert!(rounds < 100, "expired records stay");
        }
    });
    cost.map(|ns| ns / records as f64)
}

/// A segment after the other is filled while another one expires: how many records stay, and the
/// costs of each that goes.
fn one_by_one(store: &Store, clock: &ManualClock, segment: u64) -> (u64, Vec<Cost>) {
    let mut samples = Vec::new();
    for turn in 0..3 * AN_HOUR {
        fill(store, segment);
        store.housekeep().unwrap();
        clock.advance(HOUR / AN_HOUR);
        let before = store.stats().records;
        let cost = once_and_spent(|| store.housekeep().unwrap());
        let gone = before - store.stats().records;
        if turn > AN_HOUR && gone > 0 {
            samples.push(cost.map(|ns| ns / gone as f64));
        }
    }
    let stay = store.stats().records;
    assert!(!samples.is_empty(), "nothing expires, {stay} stay");
    (stay, samples)
}

fn hash(i: u64) -> u64 {
    (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// A table of hashes and locations, 16 bytes each.
pub fn table(records: u64) -> HashTable<(u64, u64)> {
    let mut table = HashTable::new();
    (0..records).for_each(|i| {
        table.insert_unique(hash(i), (hash(i), i), |entry| entry.0);
    });
    table
}

/// Removes some of so many: ns for each.
fn forget(among: u64, records: u64) -> f64 {
    let mut table = table(among);
    let took = once(|| {
        for i in 0..records {
            let entry = table.find_entry(hash(i), |entry| entry.1 == i);
            entry.expect("inserted").remove();
        }
    });
    took / records as f64
}
