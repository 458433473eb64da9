//! The index's table of records.

use crate::{
    Bench,
    measure::{clocked, single},
    plan::circle,
};
use hashbrown::HashTable;
use onlyonce::internals::parts::Index;
use std::{
    hint::black_box,
    time::{Duration, Instant},
};

/// Entries that come, or go, between two looks at the clock.
const AT_ONCE: u64 = 1024;

/// As random as that of a key.
fn hash(number: u32) -> u64 {
    let mixed = (u64::from(number) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ (mixed >> 29)
}

/// The bare table: a record's number, by which its hash is known, and its place; 8 bytes as in
/// the index.
#[derive(Default)]
struct Table(HashTable<(u32, u32)>);

impl Table {
    fn insert(&mut self, number: u32, place: u32) {
        self.0.insert_unique(hash(number), (number, place), |entry| hash(entry.0));
    }

    fn probe(&self, number: u32) -> Option<u32> {
        self.0.find(hash(number), |entry| entry.0 == number).map(|entry| entry.1)
    }

    fn remove(&mut self, number: u32) {
        self.0.find_entry(hash(number), |entry| entry.0 == number).expect("inserted").remove();
    }
}

/// Nothing of the next operation begins before this one has its result. Where the next depends on
/// nothing that this one has read, the processor would otherwise wait for the memory of several
/// at a time; neither a lock nor a fence of the language keeps it from that.
fn lone<T>(operation: impl FnOnce() -> T) -> T {
    let result = black_box(operation());
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every processor of this architecture has the instruction.
    unsafe {
        std::arch::x86_64::_mm_lfence();
    }
    #[cfg(not(target_arch = "x86_64"))]
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    result
}

/// A place of forty bits that names the number after this one, and this one, because one entry in
/// 34,000 is found by the hash of another.
fn place(number: u32, next: u32) -> u64 {
    u64::from(number) << 20 | u64::from(next)
}

fn next_in(index: &Index, number: u32) -> u32 {
    let is_it = |place| place >> 20 == u64::from(number);
    index.probe(hash(number), is_it).expect("inserted") as u32 % (1 << 20)
}

pub fn index(bench: &mut Bench) {
    let Bench { criterion, report, .. } = bench;
    let fence = single(criterion, "index/fence", |n| (0..n).for_each(|n| _ = lone(|| n)));
    report.title("index: 1M entries of records, one operation after the other has ended");
    fence
        .inspect(|fence| report.cost("the fence between two (not between hits), included", *fence));
    probe(bench);
    turn_over(bench);
}

fn probe(bench: &mut Bench) {
    let Bench { plan, criterion, report } = bench;
    let records = plan.count(1_000_000);
    let (index, mut table) = (Index::new(), Table::default());
    for (number, next) in (0..).zip(circle(records)) {
        index.insert(hash(number), place(number, next));
        table.insert(number, next);
    }
    let mut at = 0;
    let bare_hit = single(criterion, "index/bare/hit", |n| {
        (0..n).for_each(|_| at = table.probe(at).expect("inserted"));
    });
    let hit = single(criterion, "index/shards/hit", |n| {
        (0..n).for_each(|_| at = next_in(&index, at));
    });
    let mut absent = records as u32..;
    let bare_miss = single(criterion, "index/bare/miss", |n| {
        for number in absent.by_ref().take(n as usize) {
            lone(|| table.probe(number));
        }
    });
    let miss = single(criterion, "index/shards/miss", |n| {
        for number in absent.by_ref().take(n as usize) {
            lone(|| index.probe(hash(number), |place| place >> 20 == u64::from(number)));
        }
    });
    for (what, cost, limit) in [("hit", hit, bare_hit), ("miss", miss, bare_miss)] {
        if let Some(cost) = cost {
            report.cost(&format!("probe, {what}"), cost);
            limit.inspect(|limit| report.cost_limit("probe of a bare table", *limit, cost));
        }
    }
}

/// What entries come to and go from.
trait Entries {
    fn come(&mut self, number: u32);
    fn go(&mut self, number: u32);
}

impl Entries for Index {
    fn come(&mut self, number: u32) {
        self.insert(hash(number), u64::from(number));
    }

    fn go(&mut self, number: u32) {
        assert!(self.remove(hash(number), u64::from(number)));
    }
}

impl Entries for Table {
    fn come(&mut self, number: u32) {
        self.insert(number, number);
    }

    fn go(&mut self, number: u32) {
        self.remove(number);
    }
}

fn turn_over(bench: &mut Bench) {
    let bare = come_and_go(bench, "index/bare", Table::default());
    let shards = come_and_go(bench, "index/shards", Index::new());
    let report = &mut bench.report;
    for (what, cost, limit) in [("insert", shards[0], bare[0]), ("remove", shards[1], bare[1])] {
        if let Some(cost) = cost {
            report.cost(what, cost);
            let of = format!("{what} of a bare table");
            limit.inspect(|limit| report.cost_limit(&of, *limit, cost));
        }
    }
}

/// The newest come and the oldest go, so that as many stay: what each of both costs.
fn come_and_go(bench: &mut Bench, id: &str, mut entries: impl Entries) -> [Option<f64>; 2] {
    let mut there = 0..bench.plan.count(1_000_000) as u32;
    there.clone().for_each(|number| entries.come(number));
    let mut both = |times: u64| {
        let (mut left, mut took) = (times, [Duration::ZERO; 2]);
        while left > 0 {
            let some = left.min(AT_ONCE) as u32;
            let began = Instant::now();
            (there.end..there.end + some).for_each(|number| lone(|| entries.come(number)));
            took[0] += began.elapsed();
            let began = Instant::now();
            (there.start..there.start + some).for_each(|number| lone(|| entries.go(number)));
            took[1] += began.elapsed();
            there = there.start + some..there.end + some;
            left -= u64::from(some);
        }
        took
    };
    let insert = clocked(&mut bench.criterion, &format!("{id}/insert"), |n| both(n)[0]);
    let remove = clocked(&mut bench.criterion, &format!("{id}/remove"), |n| both(n)[1]);
    [insert, remove]
}
