//! Any calls, with a fault at one call to the disk, judged by the model.
//!
//! An input is: setting; fault, its call u16; seed u16; calls (see `program`).

use super::{
    input::Input,
    program,
    reference::{Op, Struck, World},
};
use onlyonce::storage::Fault;
use std::io::ErrorKind;

fn fault(byte: u8) -> Option<Fault> {
    match byte % 5 {
        0 => None,
        1 => Some(Fault::Crash),
        2 => Some(Fault::ShortWrite),
        3 => Some(Fault::Error(ErrorKind::Other)),
        _ => Some(Fault::Error(ErrorKind::StorageFull)),
    }
}

/// Whatever was acknowledged is there after a kill and after a loss of power, and nothing that
/// can't be.
pub fn operations(bytes: &[u8]) {
    let mut input = Input(bytes);
    let setting = program::setting(&mut input);
    let fault = fault(input.byte());
    let at = input.number::<2>();
    let seed = input.number::<2>();
    let ops = program::ops(&mut input);
    let mut world = World::unopened(setting, seed);
    if let Some(fault) = fault.filter(|_| at > 0) {
        world.disk.fault_at(at, fault);
        world.fault = Some((at, fault == Fault::Crash));
    }
    let struck = world.open().is_err() || world.dead() || run(&mut world, &ops).is_err();
    assert!(!struck || world.fault.is_some(), "struck by nothing");
    if world.store.is_some() && !world.dead() && world.is_poisoned() {
        world.check_poisoned();
    }
    world.leave();
    for power in [false, true] {
        let disk = if power { world.disk.power_cut() } else { world.disk.kill() };
        let mut after = world.again(disk.clone());
        after.adopt(disk, power);
        let next = after.disk.power_cut();
        after.leave();
        after.adopt(next, true);
    }
}

fn run(world: &mut World, ops: &[Op]) -> Result<(), Struck> {
    ops.iter().try_for_each(|op| {
        // The fault belongs to the disk that it was put on.
        let crashes = matches!(op, Op::Kill | Op::PowerCut);
        if crashes && world.fault.is_some() { Ok(()) } else { world.apply(*op) }
    })
}
