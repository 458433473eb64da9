//! R16, R8: lives in a row that end in different kinds of crash, in small segments that are
//! recycled often: what an earlier life lost or replaced never wins over a later one, and no
//! released or expired key comes back.
//!
//! `SEED=<n>` repeats one row of lives, `ROWS=<n>` makes more of them.

use crate::reference::{Body, Op, Rng, Setting, World};
use onlyonce::storage::Fault;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Two keys that are completed, forgotten and completed anew with other bytes all the time.
fn op(rng: &mut Rng) -> Op {
    let key = rng.below(2);
    let body = Body { seed: rng.next() as u8, size: 2 + rng.below(4) };
    match rng.below(20) {
        0..6 => Op::Begin { key, other: false, terms: rng.below(3) as u8 },
        6..11 => Op::Complete { handle: 0, body, retention: rng.below(5) as u8, head: false },
        11 => Op::Release { handle: 0 },
        12 => Op::Forget { key, force: true },
        13 => Op::Replace { key, body },
        14 => Op::ResolveComplete { key, body, retention: 0, force: true },
        15 => Op::TakeOver { key, other: false },
        16 => Op::Advance { ms: [1, 5_000, 60_000, 600_000, 3_600_000][rng.below(5)] },
        17 => Op::Drop { handle: 0 },
        _ => Op::Housekeep,
    }
}

#[derive(Clone, Copy, Debug)]
enum End {
    Closed,
    Killed,
    PowerCut,
    DiedInACall,
    PowerCutInACall,
}

fn live(world: &mut World, rng: &mut Rng, end: End) {
    let in_a_call = matches!(end, End::DiedInACall | End::PowerCutInACall);
    if in_a_call {
        let at = world.disk.calls() + 1 + rng.below(80) as u64;
        world.disk.fault_at(at, Fault::Crash);
        world.fault = Some((at, true));
    }
    for _ in 0..10 + rng.below(60) {
        if world.apply(op(rng)).is_err() {
            break;
        }
    }
    if matches!(end, End::Closed) {
        world.apply(Op::Reopen { back: false }).expect("no fault");
        return;
    }
    let power = matches!(end, End::PowerCut | End::PowerCutInACall);
    let disk = if power { world.disk.power_cut() } else { world.disk.kill() };
    world.leave();
    world.adopt(disk, power);
}

#[test]
fn each_ends_in_another_kind_of_crash() {
    let number = |name| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ROWS").unwrap_or(150),
    };
    for seed in seeds {
        let lives = || {
            let mut rng = Rng(seed);
            let durability = rng.below(3) as u8;
            let tight = rng.one_in(3);
            let mut world = World::new(Setting { durability, hash_bits: 64, tight }, seed);
            let ends =
                [End::Closed, End::Killed, End::PowerCut, End::DiedInACall, End::PowerCutInACall];
            for _ in 0..3 {
                let end = ends[rng.below(ends.len())];
                live(&mut world, &mut rng, end);
            }
            world.wind_down();
        };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(lives)) {
            eprintln!("repeat with SEED={seed}");
            resume_unwind(panic);
        }
    }
}
