//! What can happen to a store: calls, and what comes between calls.

use super::*;

/// The names of the keys: short, long (more than one cell), and one that contains another.
pub fn name(key: usize) -> Vec<u8> {
    match key {
        0 => b"a".to_vec(),
        1 => b"ab".to_vec(),
        2 => vec![b'x'; 255],
        3 => vec![0, 255, 7],
        n => format!("key-{n}").into_bytes(),
    }
}

pub fn print_of(key: usize, other: bool) -> Fingerprint {
    Fingerprint::of([name(key), vec![u8::from(other)]])
}

/// Sizes of responses, by number; the last one is too large.
pub const SIZES: [usize; 7] = [0, 1, 60, 300, 1500, MAX_RESPONSE, MAX_RESPONSE + 1];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Body {
    pub seed: u8,
    pub size: usize,
}

impl Body {
    pub fn bytes(self) -> Vec<u8> {
        let mut rng = Rng(u64::from(self.seed));
        (0..SIZES[self.size]).map(|_| rng.next() as u8).collect()
    }
}

/// A call, or what happens between calls. Handles are chosen by number, modulo how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Begin {
        key: usize,
        other: bool,
        terms: u8,
    },
    TakeOver {
        key: usize,
        other: bool,
    },
    /// Begin, and if it is interrupted keep that for a later `TakeOverSeen`.
    See {
        key: usize,
    },
    TakeOverSeen {
        seen: usize,
    },
    Complete {
        handle: usize,
        body: Body,
        retention: u8,
        head: bool,
    },
    CompleteWithout {
        handle: usize,
        head: bool,
    },
    Fail {
        handle: usize,
        body: Body,
    },
    Release {
        handle: usize,
    },
    Undo {
        handle: usize,
    },
    NothingHappened {
        handle: usize,
    },
    Renew {
        handle: usize,
    },
    Checkpoint {
        handle: usize,
        body: Body,
    },
    EnsureDurable {
        handle: usize,
    },
    Drop {
        handle: usize,
    },
    Panic {
        handle: usize,
    },
    ResolveComplete {
        key: usize,
        body: Body,
        retention: u8,
        force: bool,
    },
    Free {
        key: usize,
        force: bool,
    },
    Forget {
        key: usize,
        force: bool,
    },
    Replace {
        key: usize,
        body: Body,
    },
    /// All keys are of one scope.
    Erase {
        force: bool,
    },
    Get {
        key: usize,
    },
    Entries,
    Flush,
    Housekeep,
    Advance {
        ms: u64,
    },
    Reopen {
        back: bool,
    },
    /// A copy of the running store, opened beside it.
    Backup,
    Kill,
    PowerCut,
}

pub fn terms_of(terms: u8) -> Terms {
    match terms {
        0 => Terms::default(),
        1 => Terms {
            lease: Some(ms(10_000)),
            retention: Some(ms(20_000).into()),
            ..Terms::default()
        },
        2 => Terms {
            retention: Some(Retention { replay_for: ms(60_000), remember_for: ms(600_000) }),
            ..Terms::default()
        },
        _ => Terms {
            retention: Some(ms(24 * 3_600_000).into()),
            reserve: Some(100),
            ..Terms::default()
        },
    }
}

pub fn retention_of(retention: u8) -> Option<Retention> {
    match retention {
        1 => Some(ms(1_000).into()),
        2 => Some(Retention { replay_for: ms(5_000), remember_for: ms(50_000) }),
        3 => Some(ms(48 * 3_600_000).into()),
        _ => None,
    }
}

pub const HEAD: &[u8] = b"status: 201";

pub fn head_of(head: bool) -> &'static [u8] {
    if head { HEAD } else { &[] }
}

pub fn print_of_named(name: &[u8], other: bool) -> Fingerprint {
    Fingerprint::of([name.to_vec(), vec![u8::from(other)]])
}
