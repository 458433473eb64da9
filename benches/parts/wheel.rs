//! The timing wheel.

use crate::{Bench, measure::clocked};
use onlyonce::internals::parts::{Timer, Wheel};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    hint::black_box,
    time::{Duration, Instant},
};

/// Deadlines lie within so many milliseconds: a lease.
const SPAN_MS: u64 = 60_000;

/// What keeps timers until all of them fire.
trait Timers {
    fn insert(&mut self, deadline: u64, number: u32);
    fn fire_all(&mut self);
}

/// What one can be taken out of before that. They are numbered in the order they came in.
trait Cancel: Timers {
    fn cancel(&mut self, deadline: u64, number: u32);
    fn all_cancelled(&mut self) {}
}

/// The wheel, and what those keep who have set a timer.
struct Wheeled {
    wheel: Wheel,
    now: u64,
    timers: Vec<Timer>,
}

impl Timers for Wheeled {
    fn insert(&mut self, deadline: u64, number: u32) {
        self.timers.push(self.wheel.insert(self.now + deadline, number));
    }

    fn fire_all(&mut self) {
        while let Some(next) = self.wheel.next_wakeup() {
            self.now = next;
            self.wheel.advance(next, |number| {
                black_box(number);
            });
        }
        self.timers.clear();
    }
}

impl Cancel for Wheeled {
    fn cancel(&mut self, _: u64, number: u32) {
        assert!(self.wheel.cancel(self.timers[number as usize]));
    }

    fn all_cancelled(&mut self) {
        self.timers.clear();
    }
}

impl Timers for BTreeMap<(u64, u32), ()> {
    fn insert(&mut self, deadline: u64, number: u32) {
        self.insert((deadline, number), ());
    }

    fn fire_all(&mut self) {
        while let Some(first) = self.pop_first() {
            black_box(first);
        }
    }
}

impl Cancel for BTreeMap<(u64, u32), ()> {
    fn cancel(&mut self, deadline: u64, number: u32) {
        assert!(self.remove(&(deadline, number)).is_some());
    }
}

impl Timers for BinaryHeap<Reverse<(u64, u32)>> {
    fn insert(&mut self, deadline: u64, number: u32) {
        self.push(Reverse((deadline, number)));
    }

    fn fire_all(&mut self) {
        while let Some(first) = self.pop() {
            black_box(first);
        }
    }
}

/// Knows no order: the memory alone.
impl Timers for Vec<(u64, u32)> {
    fn insert(&mut self, deadline: u64, number: u32) {
        self.push((deadline, number));
    }

    fn fire_all(&mut self) {
        self.drain(..).for_each(|timer| {
            black_box(timer);
        });
    }
}

pub fn wheel(bench: &mut Bench) {
    let count = bench.plan.count(100_000);
    let mut random = 1_u64;
    let mut deadline = || {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        1 + (random >> 33) % SPAN_MS
    };
    let deadlines: Vec<u64> = (0..count).map(|_| deadline()).collect();
    let mut wheeled = Wheeled { wheel: Wheel::new(0), now: 0, timers: Vec::new() };
    let mut map = BTreeMap::new();
    let [insert, fire] = all(bench, "wheel/wheel", &mut wheeled, &deadlines);
    let [map_insert, map_fire] = all(bench, "wheel/map", &mut map, &deadlines);
    let [heap_insert, heap_fire] = all(bench, "wheel/heap", &mut BinaryHeap::new(), &deadlines);
    let [vec_insert, _] = all(bench, "wheel/vec", &mut Vec::new(), &deadlines);
    let cancel = cancelled(bench, "wheel/wheel", &mut wheeled, &deadlines);
    let map_cancel = cancelled(bench, "wheel/map", &mut map, &deadlines);

    let report = &mut bench.report;
    report.title("wheel: 100k timers, deadlines within a minute; each");
    let mut costs = |what: &str, cost: Option<f64>, limits: &[(&str, Option<f64>)]| {
        let Some(cost) = cost else { return };
        report.cost(what, cost);
        for (of, limit) in limits {
            limit.inspect(|limit| report.cost_limit(of, *limit, cost));
        }
    };
    let inserts = [
        ("BTreeMap, insert", map_insert),
        ("BinaryHeap, push", heap_insert),
        ("Vec, push", vec_insert),
    ];
    let fires = [("BTreeMap, pop_first", map_fire), ("BinaryHeap, pop", heap_fire)];
    costs("insert", insert, &inserts);
    costs("cancel, in the order they came in", cancel, &[("BTreeMap, remove", map_cancel)]);
    costs("fire, advancing from each wake-up to the next", fire, &fires);
}

fn insert_all(timers: &mut impl Timers, deadlines: &[u64]) {
    (0..).zip(deadlines).for_each(|(number, deadline)| timers.insert(*deadline, number));
}

/// What inserting and firing cost.
fn all<T: Timers>(
    bench: &mut Bench,
    id: &str,
    timers: &mut T,
    deadlines: &[u64],
) -> [Option<f64>; 2] {
    let insert = each(bench, &format!("{id}/insert"), deadlines, || {
        let took = time(|| insert_all(timers, deadlines));
        timers.fire_all();
        took
    });
    let fire = each(bench, &format!("{id}/fire"), deadlines, || {
        insert_all(timers, deadlines);
        time(|| timers.fire_all())
    });
    [insert, fire]
}

fn cancelled(
    bench: &mut Bench,
    id: &str,
    timers: &mut impl Cancel,
    deadlines: &[u64],
) -> Option<f64> {
    each(bench, &format!("{id}/cancel"), deadlines, || {
        insert_all(timers, deadlines);
        let numbered = (0..).zip(deadlines);
        let took =
            time(|| numbered.for_each(|(number, deadline)| timers.cancel(*deadline, number)));
        timers.all_cancelled();
        took
    })
}

/// The cost of one, of rounds in which all of them have their turn.
fn each(
    bench: &mut Bench,
    id: &str,
    all: &[u64],
    mut round: impl FnMut() -> Duration,
) -> Option<f64> {
    clocked(&mut bench.criterion, id, |n| {
        let rounds = n.div_ceil(all.len() as u64);
        let took: Duration = (0..rounds).map(|_| round()).sum();
        took.mul_f64(n as f64 / (rounds * all.len() as u64) as f64)
    })
}

fn time(f: impl FnOnce()) -> Duration {
    let began = Instant::now();
    f();
    began.elapsed()
}
