//! Short programs whose every call to the disk is, one after the other, the last one before the
//! process dies, before the power goes, or one that fails: what had been acknowledged is there
//! afterwards, and nothing else is.
//!
//! Replay one run: `SEED=<n> cargo test --test power_cut_everywhere` runs the one program with
//! this number, `CALL=<n>` strikes at this call only. A failure prints seed, call and fault.
//!
//! Each test ends after `SECONDS=<n>`, or after `POINTS=<n>` calls at which something struck,
//! however long that takes. Each is judged several times: with the process killed and with the
//! power cut, with recovery dying on the way, and by another loss of power after recovery.

mod reference;

use onlyonce::storage::{Fault, SimStorage};
use reference::{Body, KEYS, Op, Rng, Setting, Struck, World};
use std::{
    io::ErrorKind,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    time::{Duration, Instant},
};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// A program and the setting it runs in, from a number.
fn program(seed: u64) -> (Setting, Vec<Op>) {
    let mut rng = Rng(seed);
    let setting = Setting {
        durability: rng.below(3) as u8,
        hash_bits: if rng.one_in(5) { 0 } else { 64 },
        tight: rng.one_in(4),
    };
    let count = 4 + rng.below(14);
    let mut ops: Vec<Op> = (0..count).map(|_| op(&mut rng)).collect();
    if rng.one_in(3) {
        // Short lives: each goes on filling what the one before has left.
        let lives = 1 + rng.below(3);
        for _ in 0..lives {
            ops.insert(rng.below(ops.len()), Op::Reopen { back: false });
        }
    }
    if rng.one_in(4) {
        let force = rng.one_in(2);
        ops.insert(1 + rng.below(ops.len()), Op::Erase { force });
    }
    (setting, ops)
}

fn op(rng: &mut Rng) -> Op {
    let key = if rng.one_in(3) { rng.below(KEYS) } else { rng.below(2) };
    let handle = rng.below(3);
    let body = Body { seed: rng.below(3) as u8, size: rng.below(6) };
    let other = rng.one_in(10);
    match rng.below(34) {
        0..9 => Op::Begin { key, other, terms: rng.below(4) as u8 },
        9..11 => Op::TakeOver { key, other },
        11..17 => Op::Complete { handle, body, retention: rng.below(6) as u8, head: rng.one_in(4) },
        17 => Op::Fail { handle, body },
        18 => match rng.below(3) {
            0 => Op::Release { handle },
            1 => Op::Undo { handle },
            _ => Op::NothingHappened { handle },
        },
        19..21 => Op::Checkpoint { handle, body },
        21 => Op::EnsureDurable { handle },
        22 => Op::Drop { handle },
        23 => Op::ResolveComplete { key, body, retention: rng.below(4) as u8, force: true },
        24 => Op::Free { key, force: true },
        25 => Op::Forget { key, force: true },
        26 if rng.one_in(2) => Op::Flush,
        26 => Op::Replace { key, body },
        27..30 => Op::Housekeep,
        30..33 => {
            let by = [1, 1_000, 60_000, 600_000, 3_600_000, 24 * 3_600_000];
            Op::Advance { ms: by[rng.below(by.len())] }
        }
        _ => Op::Reopen { back: false },
    }
}

/// Runs the program on a disk that fails at one call. `true`: the fault has struck.
fn run(world: &mut World, ops: &[Op]) -> bool {
    if world.open().is_err() {
        assert!(world.fault.is_some(), "a new store opens");
        return true;
    }
    if world.dead() {
        return true;
    }
    for op in ops {
        if let Err(Struck) = world.apply(*op) {
            return true;
        }
    }
    false
}

fn start(setting: Setting, seed: u64, at: u64, fault: Fault) -> World {
    let mut world = World::unopened(setting, seed);
    world.disk.fault_at(at, fault);
    world.fault = Some((at, fault == Fault::Crash));
    world
}

/// Opens the disk that a crash has left, sometimes dying again in the middle, and compares.
fn recover(world: &mut World, disk: SimStorage, power: bool, rng: &mut Rng) {
    let mut disk = disk;
    let mut power = power;
    let again = rng.below(3);
    for _ in 0..again {
        // Recovery dies at one of its own calls.
        disk.fault_at(1 + rng.below(60) as u64, Fault::Crash);
        let opened = world.try_open_on(&disk);
        let by_power = rng.one_in(2);
        if number("CALL").is_some() {
            println!("dies again: {opened:?} after {} calls, power {by_power}", disk.calls());
        }
        drop(opened);
        power |= by_power;
        disk = if by_power { disk.power_cut() } else { disk.kill() };
    }
    world.adopt(disk, power);
}

/// What a test function does when it fails: says how to repeat it.
fn named(seed: u64, at: u64, fault: &str, run: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
        eprintln!("repeat with SEED={seed} CALL={at} (fault: {fault})");
        resume_unwind(panic);
    }
}

/// When to stop looking.
enum Budget {
    Until(Instant),
    Points(u64),
}

impl Budget {
    fn new(seconds: u64) -> Self {
        match number("POINTS") {
            Some(points) => Budget::Points(points),
            None => {
                let seconds = number("SECONDS").unwrap_or(seconds);
                Budget::Until(Instant::now() + Duration::from_secs(seconds))
            }
        }
    }

    fn is_used_up(&self, points: u64) -> bool {
        match self {
            Budget::Until(end) => Instant::now() > *end,
            Budget::Points(wanted) => points >= *wanted,
        }
    }
}

/// Runs programs, each with a strike at each of its calls, as far as the budget goes.
fn everywhere(first_seed: u64, seconds: u64, strike: impl Fn(u64, u64, Setting, &[Op])) {
    let budget = Budget::new(seconds);
    let (started, mut points) = (Instant::now(), 0);
    let report = |points: u64, programs: usize, seed: u64| {
        let took = started.elapsed().as_secs_f32();
        println!("{points} crash points in {programs} programs, up to seed {seed}, {took:.1} s");
    };
    let seeds = match number("SEED") {
        Some(seed) => seed..=seed,
        None => first_seed..=u64::MAX,
    };
    for (programs, seed) in seeds.enumerate() {
        let (setting, ops) = program(seed);
        let mut dry = World::unopened(setting, seed);
        if number("SEED").is_some() {
            println!("{setting:?} {ops:?}");
        }
        named(seed, 0, "none", || assert!(!run(&mut dry, &ops)));
        // Closing is a part of the program.
        dry.handles.clear();
        let disk = dry.disk.clone();
        drop(dry);
        let calls = match number("CALL") {
            Some(call) => call..=call,
            None => 1..=disk.calls() + 1,
        };
        for at in calls {
            strike(seed, at, setting, &ops);
            points += 1;
            if budget.is_used_up(points) {
                return report(points, programs + 1, seed);
            }
            if points % 50_000 == 0 {
                report(points, programs + 1, seed);
            }
        }
    }
}

#[test]
fn a_crash_at_any_call_loses_nothing_acknowledged() {
    everywhere(1_000, 20, |seed, at, setting, ops| {
        named(seed, at, "crash", || {
            let mut rng = Rng(seed ^ at << 32);
            let mut world = start(setting, seed, at, Fault::Crash);
            run(&mut world, ops);
            world.leave();
            // Several rolls of the dice from the same moment, and the system that lives on.
            for roll in 0..3 {
                let power = roll > 0;
                let disk = if power { world.disk.power_cut() } else { world.disk.kill() };
                let mut after = world.again(disk.clone());
                recover(&mut after, disk, power, &mut rng);
                // A life that goes on where the one before ended, and ends like it.
                for op in &ops[..rng.below(ops.len())] {
                    after.apply(*op).expect("nothing strikes here");
                }
                // What was found there is there to stay.
                let power = rng.one_in(2);
                let next = if power { after.disk.power_cut() } else { after.disk.kill() };
                after.leave();
                recover(&mut after, next, power, &mut rng);
                let next = after.disk.power_cut();
                after.leave();
                after.adopt(next, true);
            }
        });
    });
}

#[test]
fn a_failure_at_any_call_acknowledges_nothing_wrong() {
    let faults = [
        ("EIO", Fault::Error(ErrorKind::Other)),
        ("short write", Fault::ShortWrite),
        ("disk full", Fault::Error(ErrorKind::StorageFull)),
    ];
    everywhere(500_000, 20, |seed, at, setting, ops| {
        let (name, fault) = faults[(seed.wrapping_add(at) % 3) as usize];
        named(seed, at, name, || {
            let mut rng = Rng(seed ^ at << 32);
            let mut world = start(setting, seed, at, fault);
            run(&mut world, ops);
            if world.store.is_some() && world.is_poisoned() {
                world.check_poisoned();
            }
            let disks = if rng.one_in(2) {
                world.leave();
                [(world.disk.kill(), false), (world.disk.power_cut(), true)]
            } else {
                [(world.disk.kill(), false), (world.disk.power_cut(), true)]
            };
            world.leave();
            for (disk, power) in disks {
                let mut after = world.again(disk.clone());
                recover(&mut after, disk, power, &mut rng);
                let next = after.disk.power_cut();
                after.leave();
                after.adopt(next, true);
            }
        });
    });
}
