//! Programs for a store, from bytes: a setting, then four bytes a call.

use super::{
    files::{Files, identify},
    input::Input,
    reference::{Body, KEYS, Op, Setting, World},
};
use onlyonce::storage::SimStorage;
use std::sync::OnceLock;

pub const OPS_MAX: usize = 60;

pub fn setting(input: &mut Input) -> Setting {
    let byte = input.byte();
    Setting {
        durability: byte % 3,
        hash_bits: if byte & 0x30 == 0x30 { 0 } else { 64 },
        tight: byte & 0xc0 == 0xc0,
    }
}

/// The calls of a program: a count, and four bytes for each.
pub fn ops(input: &mut Input) -> Vec<Op> {
    let count = input.below(OPS_MAX);
    (0..count).map_while(|_| op(input)).collect()
}

fn op(input: &mut Input) -> Option<Op> {
    if input.is_empty() {
        return None;
    }
    let [what, a, b, c] = [(); 4].map(|()| input.byte());
    let (key, handle) = (a as usize % KEYS, a as usize % 4);
    let body = Body { seed: b / 8 % 3, size: b as usize % 7 };
    let (yes, retention) = (c & 0x80 != 0, c % 6);
    Some(match what % 40 {
        0..9 => Op::Begin { key, other: b & 0xc0 == 0xc0, terms: c % 4 },
        9..11 => Op::TakeOver { key, other: b & 0xc0 == 0xc0 },
        11 => Op::See { key },
        12 => Op::TakeOverSeen { seen: handle },
        13..20 => Op::Complete { handle, body, retention, head: yes },
        20 => Op::CompleteWithout { handle, head: yes },
        21 => Op::Fail { handle, body },
        22 if !yes => Op::Release { handle },
        22 if c % 2 == 0 => Op::Undo { handle },
        22 => Op::NothingHappened { handle },
        23 => Op::Renew { handle },
        24 => Op::Checkpoint { handle, body },
        25 => Op::EnsureDurable { handle },
        26 => Op::Drop { handle },
        27 => Op::Panic { handle },
        28 => Op::ResolveComplete { key, body, retention: c % 4, force: yes },
        29 => Op::Free { key, force: yes },
        30 => Op::Forget { key, force: yes },
        31 => Op::Get { key },
        32 => Op::Entries,
        33 => Op::Flush,
        34 => Op::Housekeep,
        35..37 => {
            let by = [1, 999, 10_000, 60_000, 600_000, 3_600_000, 3 * 3_600_000, 24 * 3_600_000];
            Op::Advance { ms: by[a as usize % by.len()] }
        }
        37 => Op::Reopen { back: yes },
        38 => Op::Kill,
        _ => Op::PowerCut,
    })
}

/// A new store beside its model. Its name and the seed of its hashes aren't random, so that an
/// input means the same in every run.
pub fn world(setting: Setting, seed: u64, store: u64) -> World {
    static NEW: [OnceLock<Files>; 2] = [OnceLock::new(), OnceLock::new()];
    let mut world = World::unopened(setting, seed);
    let new = NEW[usize::from(setting.tight)].get_or_init(|| {
        world.open().expect("a new store opens");
        world.store.take().expect("it is open").close().expect("closes");
        world.disk.snapshot()
    });
    let mut files = new.clone();
    identify(&mut files, store);
    world.disk = SimStorage::from_files(seed, files);
    world.open().expect("opens under its other name");
    world
}
