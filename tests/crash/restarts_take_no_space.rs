//! A life takes up where the one before left off: a store that is opened and ended a thousand times, in
//! good order, by a kill or by a loss of power, needs no more segments than one that stays open.

use crate::common::*;
use onlyonce::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Close,
    Kill,
    PowerCut,
    /// By turns, each of them.
    Any,
}

/// Enough of them that one that is lost each time would show many times over.
const LIVES: usize = 1000;
const FEWER: usize = 200;

fn end(sim: &mut Sim, store: Store, how: End, life: usize) {
    match how {
        End::Close => drop(store.close().unwrap()),
        End::Kill => sim.disk = sim.disk.kill(),
        End::PowerCut => sim.disk = sim.disk.power_cut(),
        End::Any => end(sim, store, [End::Close, End::Kill, End::PowerCut][life % 3], life),
    }
}

/// One record in a life; in others' classes too if so wanted: a failure's answer, and a record with a
/// retention of its own.
fn live(store: &Store, life: usize, classes: bool) {
    let mut claim = store.claim(&format!("key-{life}"));
    if classes {
        claim.fail(b"perhaps").unwrap();
    }
    claim.complete(format!("order {life}").as_bytes()).unwrap();
    if classes {
        let mut claim = store.claim(&format!("long-{life}"));
        let retention = Some((100 * DAY).into());
        let completion = Completion { response: Some(b"long"), retention, ..Completion::default() };
        claim.complete_with(completion).unwrap();
    }
}

fn restarts(lives: usize, how: End, durability: Durability, classes: bool) {
    let mut sim = Sim::with(|options| {
        // A thousand lives in all classes fill one of these a good part of the way.
        let options = options.segment_bytes(512 << 10).max_claims(1).durability(durability);
        options.retention(30 * DAY).clock_jump_max(1000 * DAY)
    });
    let store = sim.open();
    live(&store, 0, classes);
    let first = store.stats();
    end(&mut sim, store, how, 0);
    for life in 1..=lives {
        let store = sim.open();
        live(&store, life, classes);
        end(&mut sim, store, how, life);
    }
    let store = sim.open();
    let last = store.stats();
    assert!(
        last.segments <= first.segments + 2,
        "{} segments, at first {}",
        last.segments,
        first.segments
    );
    let power = matches!(how, End::PowerCut | End::Any) && durability != Durability::Synced;
    for life in 0..=lives {
        if power {
            continue;
        }
        assert_eq!(store.answer(&format!("key-{life}")), format!("order {life}").as_bytes());
        if classes {
            assert_eq!(store.answer(&format!("long-{life}")), b"long");
        }
    }
    // All of it expires as one.
    drop(store);
    sim.clock.advance(101 * DAY);
    let store = sim.open();
    assert_eq!(store.stats().records, 0);
    assert_eq!(store.stats().segments, store.stats().segments_free);
}

const BUFFERED: Durability = Durability::Buffered { max_delay: SECOND };

#[test]
fn in_good_order() {
    restarts(FEWER, End::Close, Durability::Synced, false);
}

#[test]
fn in_good_order_with_other_classes() {
    restarts(LIVES, End::Close, BUFFERED, true);
}

#[test]
fn by_a_kill() {
    restarts(FEWER, End::Kill, BUFFERED, false);
}

#[test]
fn by_a_kill_with_other_classes() {
    restarts(LIVES, End::Kill, Durability::Synced, true);
}

#[test]
fn by_a_loss_of_power() {
    restarts(FEWER, End::PowerCut, Durability::Synced, false);
}

#[test]
fn by_a_loss_of_power_with_other_classes() {
    restarts(FEWER, End::PowerCut, Durability::Synced, true);
}

#[test]
fn one_way_or_another() {
    restarts(FEWER, End::Any, Durability::Synced, true);
    restarts(FEWER, End::Any, BUFFERED, true);
}

/// A segment that was begun long ago takes records of any class when there is no other: what a claim
/// was promised is there.
#[test]
fn what_is_begun_serves_others_when_there_is_no_more() {
    let sim = Sim::with(|options| options.capacity(2 << 20).retention(HOUR));
    let store = sim.open();
    let kept = Some((100 * DAY).into());
    store
        .claim("long")
        .complete_with(Completion {
            response: Some(b"l"),
            retention: kept,
            ..Completion::default()
        })
        .unwrap();
    store.finish("first", b"1");
    store.close().unwrap();
    let store = sim.open();
    assert_eq!(store.stats().segments, 2);
    let mut number = 0;
    while let Ok(Begin::Execute(mut claim)) = store.begin(key(&format!("k{number}")), print()) {
        claim.complete(&[7; 4096]).unwrap();
        number += 1;
    }
    // Two segments of a mebibyte.
    assert!(number > 450, "{number}");
    for number in 0..number {
        assert_eq!(store.answer(&format!("k{number}")), [7; 4096]);
    }
    store.close().unwrap();
    let store = sim.open();
    for number in 0..number {
        assert_eq!(store.answer(&format!("k{number}")), [7; 4096]);
    }
    assert_eq!(store.answer("long"), b"l");
}

/// What expired while the store was closed makes room before the first answer.
#[test]
fn what_expired_while_closed_makes_room_at_once() {
    for close in [true, false] {
        let mut sim = Sim::with(|options| options.capacity(1 << 20).clock_jump_max(3 * DAY));
        let store = sim.open();
        let mut number = 0;
        while let Ok(Begin::Execute(mut claim)) = store.begin(key(&format!("k{number}")), print()) {
            claim.complete(&[7; 4096]).unwrap();
            number += 1;
        }
        assert!(store.begin(key("more"), print()).is_err());
        if close {
            store.close().unwrap();
        } else {
            sim.disk = sim.disk.kill();
        }
        sim.clock.advance(2 * DAY);
        let store = sim.open();
        store.finish("more", b"room");
        assert_eq!(store.answer("more"), b"room");
        assert!(store.is_absent("k0"));
    }
}
