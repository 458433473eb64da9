//! Claim and complete: every contender in a process of its own, taking turns.

use crate::{
    child::{Ask, Expired, Measured},
    engines::{Contender, Mode},
    plan::Plan,
    process::{Folder, Process},
};
use measure::{Spread, time, work::PAYLOAD_BYTES};
use serde::Serialize;

/// How often each store is filled and emptied before it is measured.
const TURNED_OVER: usize = 2;

/// One turn of one contender.
#[derive(Serialize)]
pub struct Round {
    contender: Contender,
    mode: Mode,
    round: usize,
    measured: Measured,
    expired: Expired,
}

pub fn run(plan: &Plan, mode: Mode) -> Vec<Round> {
    let wanted = plan.contenders.iter().filter(|contender| contender.has(mode));
    let mut stores: Vec<_> = wanted
        .map(|contender| {
            let folder = Folder::new(&plan.dir, *contender);
            let mut process = Process::start(*contender, mode, &folder.0, false);
            let callers = *plan.callers.iter().max().expect("some callers");
            eprintln!("-- {}, {contender}: turning over", mode.name());
            for _ in 0..TURNED_OVER {
                turn(&mut process, callers, plan);
            }
            (process, folder)
        })
        .collect();
    let mut rounds = Vec::new();
    for round in 0..plan.rounds {
        eprintln!("-- {}, round {} of {}", mode.name(), round + 1, plan.rounds);
        for callers in &plan.callers {
            for (process, _) in &mut stores {
                let contender = process.contender;
                let (measured, expired) = turn(process, *callers, plan);
                rounds.push(Round { contender, mode, round, measured, expired });
            }
        }
    }
    rounds
}

fn turn(process: &mut Process, callers: usize, plan: &Plan) -> (Measured, Expired) {
    let measured = process.ask(&Ask::Pairs { callers, time: plan.turn });
    (measured, process.ask(&Ask::Expire))
}

/// Of a contender in a mode; `None` if it had no round.
pub fn median_rate(
    rounds: &[Round],
    contender: Contender,
    mode: Mode,
    callers: usize,
) -> Option<f64> {
    let own = |round: &&Round| {
        (round.contender, round.mode, round.measured.turn.callers) == (contender, mode, callers)
    };
    let of = Of(rounds.iter().filter(own).collect());
    (!of.0.is_empty()).then(|| of.median(|round| round.measured.turn.per_second()))
}

/// The contender's rounds with so many callers, and what is taken of each.
struct Of<'a>(Vec<&'a Round>);

impl Of<'_> {
    fn spread(&self, what: impl Fn(&Round) -> f64) -> Spread {
        Spread::of(self.0.iter().map(|round| what(round)))
    }

    fn median(&self, what: impl Fn(&Round) -> f64) -> f64 {
        self.spread(what).median
    }
}

pub fn print(plan: &Plan, mode: Mode, rounds: &[Round]) {
    println!("\n{}: claim + complete", mode.name());
    println!(
        "{:<18}{:>7}{:>11}{:>11}{:>11}{:>10}{:>10}{:>10}{:>9}{:>9}{:>9}{:>9}{:>8}",
        "",
        "callers",
        "pairs/s",
        "least",
        "most",
        "p50",
        "p99",
        "p99.9",
        "CPU/pair",
        "device",
        "expired",
        "expiry",
        "memory"
    );
    for callers in &plan.callers {
        for contender in &plan.contenders {
            let own = |round: &&Round| {
                round.contender == *contender && round.measured.turn.callers == *callers
            };
            let of = Of(rounds.iter().filter(own).collect());
            if !of.0.is_empty() {
                println!("{contender:<18}{callers:>7}{}", columns(&of));
            }
        }
    }
}

fn columns(of: &Of<'_>) -> String {
    let rate = of.spread(|round| round.measured.turn.per_second());
    let payload = |round: &Round| (round.measured.turn.pairs * PAYLOAD_BYTES) as f64;
    let device = |bytes: &dyn Fn(&Round) -> Option<u64>| {
        let share = |round: &Round| bytes(round).map_or(f64::NAN, |b| b as f64 / payload(round));
        format!("{:.2}", of.median(share))
    };
    let expiry =
        |round: &Round| round.expired.cpu.as_nanos() as f64 / round.expired.records.max(1) as f64;
    let columns = [
        (11, format!("{:.0}", rate.median)),
        (11, format!("{:.0}", rate.min)),
        (11, format!("{:.0}", rate.max)),
        (10, time(of.median(|round| round.measured.turn.pair.p50_ns as f64))),
        (10, time(of.median(|round| round.measured.turn.pair.p99_ns as f64))),
        (10, time(of.median(|round| round.measured.turn.pair.p999_ns as f64))),
        (
            9,
            time(of.median(|round| {
                round.measured.cpu.as_nanos() as f64 / round.measured.turn.pairs.max(1) as f64
            })),
        ),
        (9, device(&|round| round.measured.device_bytes)),
        (9, device(&|round| Some(round.measured.device_bytes? + round.expired.device_bytes?))),
        (9, time(of.median(expiry))),
        (
            8,
            format!("{:.0}", of.median(|round| round.measured.memory.anonymous as f64) / 1048576.0),
        ),
    ];
    let missed: u64 = of.0.iter().map(|round| round.measured.turn.missed).sum();
    let missed =
        if missed > 0 { format!("  ({missed} retries found nothing)") } else { String::new() };
    columns.into_iter().map(|(width, text)| format!("{text:>width$}")).collect::<String>() + &missed
}
