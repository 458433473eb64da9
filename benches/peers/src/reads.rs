//! Replays among many records, what these take, opening after kill -9, and their end.

use crate::{
    child::{Ask, Expired, Filled},
    engines::{Contender, Mode, Name},
    plan::Plan,
    process::{Folder, Process},
    workload::{Circle, Series},
};
use measure::{Spread, time, work::PAYLOAD_BYTES};
use serde::Serialize;
use std::time::{Duration, Instant};

/// The child's own series begin at 1.
const CIRCLE: u64 = 1 << 20;
/// Written right before each kill, one series after the other.
const LAST: u64 = CIRCLE + 1;
const LAST_KEYS: u64 = 1000;

#[derive(Serialize)]
pub struct Reads {
    contender: Contender,
    filled: Filled,
    independent_ns: Vec<f64>,
    dependent_ns: Vec<f64>,
    reopened: Vec<Reopened>,
    expired: Expired,
}

impl Reads {
    pub fn engine(&self) -> Name {
        self.contender.engine
    }

    /// A dependent replay, and the opening.
    pub fn in_short(&self) -> [String; 2] {
        let replay = Spread::of(self.dependent_ns.iter().copied()).median;
        let open = Spread::of(self.reopened.iter().map(|of| of.answered.as_nanos() as f64)).median;
        [time(replay), if self.reopened.is_empty() { "-".into() } else { time(open) }]
    }
}

#[derive(Serialize)]
struct Reopened {
    /// Until the store is open.
    open: Duration,
    /// Until it has also replayed a record.
    answered: Duration,
    /// Of the thousand records that were acknowledged right before the kill.
    kept: u64,
}

pub fn run(plan: &Plan) -> Vec<Reads> {
    let alone = plan.contenders.iter().filter(|contender| !contender.behind_writer);
    let circle = Circle(Series { number: CIRCLE, keys: plan.records });
    let mut stores: Vec<_> = alone
        .map(|contender| {
            let folder = Folder::new(&plan.dir, *contender);
            let mut process = Process::start(*contender, Mode::Buffered, &folder.0, true);
            eprintln!("-- reads, {contender}: writing {} records", plan.records);
            let filled: Filled = process.ask(&Ask::Fill(circle));
            (process, folder, filled, Vec::new(), Vec::new())
        })
        .collect();
    for round in 0..plan.rounds {
        eprintln!("-- reads, round {} of {}", round + 1, plan.rounds);
        for dependent in [false, true] {
            for (process, _, _, independents, dependents) in &mut stores {
                let ask = Ask::Replay { circle, dependent, time: plan.turn };
                let took = process.ask::<f64>(&ask);
                if dependent { &mut *dependents } else { &mut *independents }.push(took);
            }
        }
    }
    type Store = (Process, Folder, Filled, Vec<f64>, Vec<f64>);
    let finish = |(mut process, folder, filled, independent_ns, dependent_ns): Store| {
        let (contender, mut reopened) = (process.contender, Vec::new());
        // What lies in memory has nothing to open.
        for round in 0..if contender.engine.is_map() { 0 } else { plan.rounds } {
            eprintln!("-- reads, {contender}: killing it");
            let found;
            (process, found) = reopen(process, &folder, circle, round as u64);
            reopened.push(found);
        }
        let expired = process.ask(&Ask::Expire);
        Reads { contender, filled, independent_ns, dependent_ns, reopened, expired }
    };
    stores.into_iter().map(finish).collect()
}

/// Kills, opens again, and sees what is there.
fn reopen(
    mut process: Process,
    folder: &Folder,
    circle: Circle,
    round: u64,
) -> (Process, Reopened) {
    let contender = process.contender;
    let last = Series { number: LAST + round, keys: LAST_KEYS };
    let _: Filled = process.ask(&Ask::Fill(Circle(last)));
    drop(process);
    let mut process = Process::start(contender, Mode::Buffered, &folder.0, true);
    let open = process.opened.took;
    let began = Instant::now();
    let first = Series { keys: 1, ..circle.0 };
    assert_eq!(process.ask::<u64>(&Ask::Count(first)), 1, "{contender} lost its first record");
    let answered = open + began.elapsed();
    let kept = process.ask(&Ask::Count(last));
    let written = (0..=round).map(|round| Series { number: LAST + round, ..last });
    process.ask::<()>(&Ask::Adopt(written.chain([circle.0]).collect()));
    (process, Reopened { open, answered, kept })
}

pub fn print(plan: &Plan, reads: &[Reads]) {
    println!(
        "\nreplay of 1 KiB among {} records, random order, ns; what they take; opening after \
         kill -9; expiry",
        plan.records
    );
    println!(
        "{:<12}{:>26}{:>26}{:>9}{:>9}{:>9}{:>11}{:>11}{:>11}{:>9}{:>9}{:>9}",
        "",
        "independent",
        "dependent",
        "disk",
        "memory",
        "mapped",
        "open",
        "least",
        "most",
        "kept",
        "CPU",
        "wall"
    );
    for of in reads {
        let three = |of: &[f64]| {
            let spread = Spread::of(of.iter().copied());
            format!("{:.0} ({:.0}..{:.0})", spread.median, spread.min, spread.max)
        };
        let payload = (plan.records * PAYLOAD_BYTES) as f64;
        let open = Spread::of(of.reopened.iter().map(|of| of.answered.as_nanos() as f64));
        let opened = |ns| if of.reopened.is_empty() { "-".into() } else { time(ns) };
        let kept = of.reopened.iter().map(|of| of.kept).min();
        let each = |took: Duration| time(took.as_nanos() as f64 / of.expired.records.max(1) as f64);
        println!(
            "{:<12}{:>26}{:>26}{:>9.2}{:>9}{:>9}{:>11}{:>11}{:>11}{:>9}{:>9}{:>9}",
            of.contender.engine.name(),
            three(&of.independent_ns),
            three(&of.dependent_ns),
            of.filled.disk_bytes as f64 / payload,
            of.filled.memory.anonymous >> 20,
            of.filled.memory.mapped >> 20,
            opened(open.median),
            opened(open.min),
            opened(open.max),
            kept.map_or("-".into(), |kept| format!("{:.0} %", kept as f64 / 10.0)),
            each(of.expired.cpu),
            each(of.expired.took),
        );
    }
}
