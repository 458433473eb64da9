//! A store does, call for call, what table 1.2 of the design says, through any mixture of calls,
//! moves of the clock, orderly restarts, killed processes and losses of power.
//!
//! The model is in `reference/mod.rs`. `PROPTEST_RNG_SEED=$RANDOM PROPTEST_CASES=5000 cargo test
//! --test crash model::` looks at others, and longer; proptest prints the shortest program that
//! fails, and keeps its seed in `tests/proptest-regressions`.

use crate::reference::{Body, KEYS, Op, Setting, World};
use proptest::prelude::*;

fn key() -> impl Strategy<Value = usize> {
    // Few keys, so that they meet all their states; the first ones more often.
    prop_oneof![3 => 0..2usize, 2 => 0..KEYS]
}

fn body() -> impl Strategy<Value = Body> {
    let size = prop_oneof![6 => 0..6usize, 3 => Just(5), 1 => Just(6)];
    (0..3u8, size).prop_map(|(seed, size)| Body { seed, size })
}

/// The newest handles are the most interesting; a late holder's are too.
fn handle() -> impl Strategy<Value = usize> {
    0..4usize
}

fn seldom() -> impl Strategy<Value = bool> {
    prop::bool::weighted(0.15)
}

fn op(crashes: u32) -> impl Strategy<Value = Op> {
    let by = prop_oneof![
        Just(1),
        Just(999),
        Just(5_000),
        Just(10_000),
        Just(59_999),
        Just(60_000),
        Just(600_000),
        Just(3_600_000),
        Just(3 * 3_600_000),
        Just(24 * 3_600_000u64),
    ];
    prop_oneof![
        20 => (key(), seldom(), 0..4u8).prop_map(|(key, other, terms)| Op::Begin { key, other, terms }),
        8 => (key(), seldom()).prop_map(|(key, other)| Op::TakeOver { key, other }),
        2 => key().prop_map(|key| Op::See { key }),
        3 => (0..4usize).prop_map(|seen| Op::TakeOverSeen { seen }),
        14 => (handle(), body(), 0..6u8, seldom())
            .prop_map(|(handle, body, retention, head)| Op::Complete { handle, body, retention, head }),
        2 => (handle(), any::<bool>()).prop_map(|(handle, head)| Op::CompleteWithout { handle, head }),
        3 => (handle(), body()).prop_map(|(handle, body)| Op::Fail { handle, body }),
        4 => handle().prop_map(|handle| Op::Release { handle }),
        3 => handle().prop_map(|handle| Op::Undo { handle }),
        2 => handle().prop_map(|handle| Op::NothingHappened { handle }),
        3 => handle().prop_map(|handle| Op::Renew { handle }),
        5 => (handle(), body()).prop_map(|(handle, body)| Op::Checkpoint { handle, body }),
        2 => handle().prop_map(|handle| Op::EnsureDurable { handle }),
        4 => handle().prop_map(|handle| Op::Drop { handle }),
        1 => handle().prop_map(|handle| Op::Panic { handle }),
        3 => (key(), body(), 0..4u8, any::<bool>()).prop_map(
            |(key, body, retention, force)| Op::ResolveComplete { key, body, retention, force }
        ),
        2 => (key(), any::<bool>()).prop_map(|(key, force)| Op::Free { key, force }),
        3 => (key(), any::<bool>()).prop_map(|(key, force)| Op::Forget { key, force }),
        3 => (key(), body()).prop_map(|(key, body)| Op::Replace { key, body }),
        2 => any::<bool>().prop_map(|force| Op::Erase { force }),
        3 => key().prop_map(|key| Op::Get { key }),
        1 => Just(Op::Entries),
        2 => Just(Op::Flush),
        5 => Just(Op::Housekeep),
        9 => by.prop_map(|ms| Op::Advance { ms }),
        1 => any::<bool>().prop_map(|back| Op::Reopen { back }),
        1 => Just(Op::Backup),
        crashes => Just(Op::Kill),
        crashes => Just(Op::PowerCut),
    ]
}

fn setting() -> impl Strategy<Value = Setting> {
    let bits = prop_oneof![4 => Just(64u32), 1 => Just(0), 1 => Just(11)];
    (0..3u8, bits, prop::bool::weighted(0.25)).prop_map(|(durability, hash_bits, tight)| Setting {
        durability,
        hash_bits,
        tight,
    })
}

fn cases(default: u32) -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok());
    ProptestConfig { cases: cases.unwrap_or(default), ..ProptestConfig::default() }
}

fn run(setting: Setting, seed: u64, ops: &[Op]) {
    let mut world = World::new(setting, seed);
    for op in ops {
        world.apply(*op).expect("no fault was asked for");
    }
    world.apply(Op::Entries).expect("no fault was asked for");
    world.wind_down();
}

#[test]
fn a_failure_s_answer_ends_while_its_holder_lives() {
    let setting = Setting { durability: 0, hash_bits: 64, tight: false };
    let nothing = Body { seed: 0, size: 0 };
    let ops = [
        Op::Begin { key: 0, other: false, terms: 0 },
        Op::Kill,
        Op::Begin { key: 1, other: false, terms: 0 },
        Op::Checkpoint { handle: 0, body: nothing },
        Op::Fail { handle: 0, body: nothing },
        Op::Advance { ms: 3 * 3_600_000 },
        Op::Release { handle: 0 },
        Op::Housekeep,
        Op::Housekeep,
    ];
    run(setting, 0, &ops);
}

proptest! {
    #![proptest_config(cases(250))]

    #[test]
    fn store_and_model_agree(
        setting in setting(),
        seed in any::<u64>(),
        ops in prop::collection::vec(op(1), 1..120),
    ) {
        run(setting, seed, &ops);
    }

    #[test]
    fn store_and_model_agree_through_many_crashes(
        setting in setting(),
        seed in any::<u64>(),
        ops in prop::collection::vec(op(8), 1..80),
    ) {
        run(setting, seed, &ops);
    }
}
