//! The wheel against the ways in which timing wheels are known to fail, and against a map.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
};

use proptest::{collection::vec, prelude::*, sample::Index};

use super::*;

impl<T> TimingWheel<T> {
    /// Walks every list and checks what the module documentation promises.
    fn check(&self) {
        let Some(pending) = self.pending.as_deref() else {
            return;
        };
        let mut linked = 0;
        for at in 0..LEVELS * SLOTS {
            let occupied = pending.occupied[at / SLOTS] >> (at % SLOTS) & 1 == 1;
            assert_eq!(occupied, pending.heads[at] != NIL, "occupancy of bucket {at}");
            let (mut index, mut prev) = (pending.heads[at], HEAD | at as u32);
            while index != NIL {
                let node = &pending.nodes[index as usize];
                let deadline = node.deadline.max(self.elapsed);
                let level = level(self.elapsed, deadline);
                assert_eq!(at, bucket(level, digit(deadline, level)), "misplaced timer");
                assert_eq!(node.prev, prev);
                assert!(node.value.is_some());
                linked += 1;
                (prev, index) = (index, node.next);
            }
        }
        assert_eq!(linked, pending.len);
        let mut free = 0;
        let mut index = pending.free;
        while index != NIL {
            assert!(pending.nodes[index as usize].value.is_none());
            free += 1;
            index = pending.nodes[index as usize].next;
        }
        let retired = |node: &&Node<T>| node.generation == NonZeroU32::MAX && node.value.is_none();
        assert_eq!(
            linked + free + pending.nodes.iter().filter(retired).count(),
            pending.nodes.len()
        );
    }

    /// Advances, checks, and returns what fired, sorted.
    fn fire(&mut self, now: u64) -> Vec<T>
    where
        T: Ord,
    {
        let mut fired = Vec::new();
        self.advance(now, &mut |value| fired.push(value));
        self.check();
        fired.sort();
        fired
    }
}

/// Every time at which a level begins, with its neighbours.
fn boundaries() -> Vec<u64> {
    let mut times = vec![0, 1, 2, u64::MAX - 1, u64::MAX];
    for level in 1..LEVELS {
        let period = 1_u64 << (level * DIGIT_BITS);
        times.extend([1, 2, 63].map(|digits| period.saturating_mul(digits)));
    }
    times = times.iter().flat_map(|&at| [at.saturating_sub(1), at, at.saturating_add(1)]).collect();
    times.sort();
    times.dedup();
    times
}

#[test]
fn an_unused_wheel_is_small_and_owns_nothing() {
    let mut wheel = TimingWheel::<u64>::new(7);
    assert!(wheel.fire(1 << 50).is_empty());
    assert_eq!(wheel.cancel(TimerId { node: 0, generation: NonZeroU32::MIN }), None);
    assert_eq!((wheel.next_wakeup(), wheel.len(), wheel.is_empty()), (None, 0, true));
    assert!(wheel.pending.is_none());
    assert_eq!(size_of_val(&wheel), 16);
}

/// tokio #5536 (no level for a pair of times), theine-go #64 and akka #1016 (never, or early).
#[test]
fn every_boundary_fires_exactly_at_its_deadline_from_every_boundary() {
    for start in boundaries() {
        for delta in boundaries() {
            let Some(deadline) = start.checked_add(delta) else {
                continue;
            };
            let mut wheel = TimingWheel::new(start);
            wheel.insert(deadline, deadline);
            if deadline > start {
                assert!(wheel.fire(deadline - 1).is_empty(), "early: {start} + {delta}");
            }
            assert_eq!(wheel.fire(deadline), [deadline], "late: {start} + {delta}");
            assert!(wheel.is_empty());
        }
    }
}

/// tokio #8334: a timer too far for the top level hid the near ones after one rotation.
#[test]
fn a_parked_maximal_timer_hides_nothing() {
    for start in boundaries() {
        for delta in [1, 63, 64, 65, 4096] {
            let Some(deadline) = start.checked_add(delta).filter(|&at| at < u64::MAX) else {
                continue;
            };
            let mut wheel = TimingWheel::new(0);
            wheel.insert(u64::MAX, u64::MAX);
            assert!(wheel.fire(start).is_empty());
            wheel.insert(deadline, deadline);
            assert!(wheel.next_wakeup().unwrap() <= deadline);
            assert!(wheel.fire(deadline - 1).is_empty());
            assert_eq!(wheel.fire(deadline), [deadline]);
            assert!(wheel.fire(u64::MAX - 1).is_empty());
            assert_eq!(wheel.fire(u64::MAX), [u64::MAX]);
        }
    }
}

/// pgdog #1290: days of ticks at one a time, with short timers all the way.
#[test]
fn short_timers_stay_exact_over_many_rotations() {
    let mut wheel = TimingWheel::new(0);
    wheel.insert(u64::MAX, u64::MAX);
    for now in 0..(1 << 18) + 100 {
        wheel.insert(now + 1 + now % 3, now);
        let mut fired = Vec::new();
        wheel.advance(now + 1, &mut |value: u64| fired.push(value));
        fired.sort();
        let due = [2, 1, 0].map(|ago| now.checked_sub(ago).filter(|at| at % 3 == ago));
        assert_eq!(fired, due.into_iter().flatten().collect::<Vec<_>>(), "at {}", now + 1);
    }
    wheel.check();
}

/// tokio #2473, #2587, #3270: cancel and reschedule in the tick that expires the timer.
#[test]
fn cancel_and_reschedule_at_the_deadline() {
    let mut wheel = TimingWheel::new(100);
    let due = wheel.insert(100, 'a');
    assert_eq!(wheel.next_wakeup(), Some(100));
    assert_eq!(wheel.cancel(due), Some('a'));
    assert!(wheel.fire(100).is_empty());

    let due = wheel.insert(101, 'b');
    assert_eq!(wheel.fire(101), ['b']);
    assert_eq!(wheel.cancel(due), None);

    let due = wheel.insert(101, 'c');
    assert_eq!(wheel.cancel(due), Some('c'));
    let again = wheel.insert(102, 'd');
    assert_eq!(wheel.cancel(due), None, "the old id must not reach the new timer");
    assert_eq!(wheel.fire(102), ['d']);
    assert_eq!(wheel.cancel(again), None);
    assert_eq!(wheel.cancel(again), None);
}

/// moka #248: zero and huge times to live.
#[test]
fn deadlines_of_now_the_past_and_the_end_of_time() {
    for start in [0, 1, 64, 1 << 40, u64::MAX] {
        let mut wheel = TimingWheel::new(start);
        wheel.insert(0, 0);
        wheel.insert(start, 1);
        wheel.insert(u64::MAX, 2);
        assert_eq!(wheel.next_wakeup(), Some(start), "something is due already");
        let due = if start == u64::MAX { vec![0, 1, 2] } else { vec![0, 1] };
        assert_eq!(wheel.fire(start), due);
        wheel.fire(u64::MAX);
        assert!(wheel.is_empty());
        wheel.insert(3, 3);
        assert_eq!(wheel.fire(u64::MAX), [3]);
    }
}

/// agrona #73, camunda #767 and tokio #8345: after a pause, or a suspend, nothing is skipped.
#[test]
fn one_long_advance_equals_many_short_ones() {
    let deadlines = |start: u64| (0..400).map(move |i: u64| start + i * i * i / 7 + i % 5);
    for start in [0, 1, 63, 4095, (1 << 24) - 3] {
        for ticks in [0, 1, 63, 64, 65, 4096, 1_000_000] {
            let (mut long, mut short) = (TimingWheel::new(start), TimingWheel::new(start));
            for deadline in deadlines(start) {
                long.insert(deadline, deadline);
                short.insert(deadline, deadline);
            }
            let mut fired = Vec::new();
            for now in start..=start + ticks {
                short.advance(now, &mut |deadline| {
                    assert_eq!(deadline, now);
                    fired.push(deadline);
                });
            }
            assert_eq!(long.fire(start + ticks), fired);
            short.check();
        }
    }
}

/// tokio `process_expiration`, moka #248: re-placing into the slot that is being emptied.
#[test]
fn a_timer_needs_at_most_one_wakeup_a_level() {
    for start in boundaries() {
        for deadline in boundaries().into_iter().filter(|&deadline| deadline >= start) {
            let mut wheel = TimingWheel::new(start);
            wheel.insert(deadline, deadline);
            let mut wakeups = 0;
            let mut before = None;
            while let Some(wakeup) = wheel.next_wakeup() {
                assert!(wakeup <= deadline && Some(wakeup) > before);
                assert_eq!(wheel.fire(wakeup).len(), usize::from(wakeup == deadline));
                before = Some(wakeup);
                wakeups += 1;
            }
            assert!((1..=LEVELS).contains(&wakeups), "{wakeups} from {start} to {deadline}");
        }
    }
}

/// tokio #8274, #6751: an earlier deadline and a removed last timer show in the next wake-up.
#[test]
fn the_next_wakeup_follows_inserts_and_cancels() {
    let mut wheel = TimingWheel::new(1000);
    let far = wheel.insert(1 << 33, 'f');
    assert!(wheel.next_wakeup().unwrap() > 1000);
    let near = wheel.insert(1020, 'n');
    assert_eq!(wheel.next_wakeup(), Some(1020));
    let past = wheel.insert(3, 'p');
    assert_eq!(wheel.next_wakeup(), Some(1000));
    wheel.cancel(past);
    assert_eq!(wheel.next_wakeup(), Some(1020));
    wheel.cancel(near);
    assert!((1021..=1 << 33).contains(&wheel.next_wakeup().unwrap()));
    wheel.cancel(far);
    assert_eq!(wheel.next_wakeup(), None);
    wheel.check();
}

/// Metaswitch chronos #85, go-cache #161: a clock set back neither pins nor pops anything.
#[test]
fn a_clock_that_goes_back_changes_nothing() {
    let mut wheel = TimingWheel::new(10_000);
    wheel.insert(10_100, 'a');
    wheel.insert(5, 'p');
    let wakeup = wheel.next_wakeup();
    for now in [0, 5, 9_999] {
        assert!(wheel.fire(now).is_empty());
        assert_eq!(wheel.next_wakeup(), wakeup);
    }
    let short = wheel.insert(20, 's');
    assert_eq!(wheel.cancel(short), Some('s'));
    assert_eq!(wheel.fire(10_099), ['p']);
    assert_eq!(wheel.fire(10_100), ['a']);
}

/// tokio #8252: what is cancelled leaves at once, and its memory is used again.
#[test]
fn a_million_inserts_and_cancels_reuse_one_slab() {
    const PENDING: usize = 100;
    let mut wheel = TimingWheel::new(0);
    let mut ids = Vec::new();
    let mut capacity = 0;
    for turn in 0..1_000_000_u64 {
        if turn % 1000 == 0 {
            wheel.advance(turn, &mut |_| panic!("nothing is due"));
        }
        if ids.len() == PENDING {
            let id = ids.swap_remove((turn * 7919) as usize % PENDING);
            assert!(wheel.cancel(id).is_some());
        }
        ids.push(wheel.insert(turn + 30_000 + turn % 977 * 1_000_000, turn));
        let nodes = &wheel.pending.as_ref().unwrap().nodes;
        assert!(nodes.len() <= PENDING);
        if nodes.len() == PENDING && capacity == 0 {
            capacity = nodes.capacity();
        }
        // Emptied in time, so that the few that chance never picks do not fall due.
        if turn % 20_000 == 0 {
            for id in ids.drain(..) {
                assert!(wheel.cancel(id).is_some());
            }
            assert!(wheel.is_empty());
        }
    }
    assert_eq!(wheel.pending.as_ref().unwrap().nodes.capacity(), capacity);
    assert_eq!(wheel.len(), ids.len());
    wheel.check();
}

#[test]
fn fired_nodes_are_reused_too() {
    let mut wheel = TimingWheel::new(0);
    for now in 0..100_000 {
        wheel.insert(now + 50, now);
        wheel.advance(now, &mut |_| {});
    }
    assert_eq!(wheel.len(), 50);
    assert!(wheel.pending.as_ref().unwrap().nodes.len() <= 51);
    wheel.check();
}

/// moka #524 and after: what outlives its timer must stay harmless, however long it is kept.
#[test]
fn a_node_out_of_generations_is_retired() {
    let mut wheel = TimingWheel::new(0);
    let first = wheel.insert(10, 'a');
    wheel.cancel(first);
    wheel.pending.as_mut().unwrap().nodes[0].generation = NonZeroU32::MAX;
    let last = wheel.insert(10, 'b');
    assert_eq!((last.node, last.generation), (0, NonZeroU32::MAX));
    assert_eq!(wheel.cancel(last), Some('b'));
    assert_eq!(wheel.cancel(last), None);
    let next = wheel.insert(10, 'c');
    assert_eq!(next.node, 1, "the node must not be used again");
    assert_eq!((wheel.cancel(last), wheel.cancel(first)), (None, None));
    assert_eq!(wheel.fire(10), ['c']);
}

#[test]
fn values_are_dropped_exactly_once() {
    let value = std::rc::Rc::new(());
    let mut wheel = TimingWheel::new(0);
    let ids: Vec<_> = (0..30).map(|at| wheel.insert(at * 50, value.clone())).collect();
    drop(wheel.cancel(ids[29]));
    wheel.advance(500, &mut drop);
    assert_eq!(std::rc::Rc::strong_count(&value), 1 + wheel.len());
    assert_eq!(wheel.len(), 18);
    drop(wheel);
    assert_eq!(std::rc::Rc::strong_count(&value), 1);
}

#[test]
fn a_panic_in_the_callback_loses_one_value_only() {
    for explode in [3, 64, 70, 4096, 5000, 5001] {
        let deadlines = [3, 64, 70, 4096, 5000, 5001, 5002, 1 << 20];
        let mut wheel = TimingWheel::new(0);
        for deadline in deadlines {
            wheel.insert(deadline, deadline);
        }
        let mut fired = Vec::new();
        let result = catch_unwind(AssertUnwindSafe(|| {
            wheel.advance(5001, &mut |deadline| {
                // A panic without the hook, which would print it.
                if deadline == explode {
                    std::panic::resume_unwind(Box::new(()));
                }
                fired.push(deadline);
            });
        }));
        assert!(result.is_err());
        wheel.check();
        fired.extend(wheel.fire(5001));
        fired.push(explode);
        fired.sort();
        assert_eq!(fired, [3, 64, 70, 4096, 5000, 5001]);
        assert_eq!(wheel.len(), 2);
    }
}

/// One step of the random test; times are relative, so that shrinking keeps them meaningful.
#[derive(Clone, Debug)]
enum Step {
    /// Insert this far after the wheel's time.
    Insert(u64),
    /// Insert this far before it.
    InsertPast(u64),
    /// Cancel one of all ids ever given out.
    Cancel(Index),
    /// Advance this far.
    Advance(u64),
    /// Advance to the next wake-up.
    Wake,
    /// Try to go back this far.
    Back(u64),
}

/// Distances: near ones, those round the level boundaries, and any at all.
fn distance() -> impl Strategy<Value = u64> {
    let round =
        (0..64_u32, -2..=2_i64).prop_map(|(bit, off)| (1_u64 << bit).saturating_add_signed(off));
    prop_oneof![4 => 0..200_u64, 3 => round, 2 => 0..100_000_u64, 1 => any::<u64>()]
}

/// Steps, mostly inserts, so that something is pending.
fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => distance().prop_map(Step::Insert),
        1 => distance().prop_map(Step::InsertPast),
        3 => any::<Index>().prop_map(Step::Cancel),
        3 => distance().prop_map(Step::Advance),
        3 => Just(Step::Wake),
        1 => distance().prop_map(Step::Back),
    ]
}

/// The wheel beside the map that it must agree with.
struct Pair {
    /// The subject.
    wheel: TimingWheel<usize>,
    /// The oracle: pending timers by deadline and number.
    map: BTreeMap<(u64, usize), ()>,
    /// Of each number: its id and deadline.
    issued: Vec<(TimerId, u64)>,
    /// The latest time reached.
    now: u64,
    /// The most that was ever pending at once.
    peak: usize,
}

impl Pair {
    fn insert(&mut self, deadline: u64) {
        let number = self.issued.len();
        self.issued.push((self.wheel.insert(deadline, number), deadline));
        self.map.insert((deadline, number), ());
        self.peak = self.peak.max(self.map.len());
    }

    fn cancel(&mut self, number: usize) {
        let (id, deadline) = self.issued[number];
        let pending = self.map.remove(&(deadline, number)).map(|()| number);
        assert_eq!(self.wheel.cancel(id), pending);
    }

    fn advance(&mut self, now: u64) {
        let mut due = Vec::new();
        if now >= self.now {
            self.now = now;
            while let Some(first) = self.map.first_entry().filter(|first| first.key().0 <= now) {
                due.push(first.remove_entry().0.1);
            }
        }
        due.sort();
        assert_eq!(self.wheel.fire(now), due);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Insert(delta) => self.insert(self.now.saturating_add(delta)),
            Step::InsertPast(delta) => self.insert(self.now.saturating_sub(delta)),
            Step::Cancel(_) if self.issued.is_empty() => {}
            Step::Cancel(index) => self.cancel(index.index(self.issued.len())),
            Step::Advance(delta) => self.advance(self.now.saturating_add(delta)),
            Step::Wake => {
                let Some(wakeup) = self.wheel.next_wakeup() else {
                    return;
                };
                self.advance(wakeup);
            }
            Step::Back(delta) => self.advance(self.now.saturating_sub(delta.max(1))),
        }
    }

    fn agree(&self) {
        self.wheel.check();
        assert_eq!(self.wheel.len(), self.map.len());
        assert_eq!(self.wheel.is_empty(), self.map.is_empty());
        let earliest = self.map.keys().next().map(|key| key.0);
        match (self.wheel.next_wakeup(), earliest) {
            (None, None) => {}
            (Some(wakeup), Some(earliest)) if earliest <= self.now => assert_eq!(wakeup, self.now),
            (Some(wakeup), Some(earliest)) => assert!(self.now < wakeup && wakeup <= earliest),
            other => panic!("wake-up and earliest deadline: {other:?}"),
        }
        let nodes = self.wheel.pending.as_ref().map_or(0, |pending| pending.nodes.len());
        assert_eq!(nodes, self.peak, "the slab is as large as its peak");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(512)
    })]

    #[test]
    fn agrees_with_a_map(start in distance(), steps in vec(step(), 1..120)) {
        let mut pair = Pair {
            wheel: TimingWheel::new(start),
            map: BTreeMap::new(),
            issued: Vec::new(),
            now: start,
            peak: 0,
        };
        for step in steps {
            pair.step(step);
            pair.agree();
        }
        pair.advance(u64::MAX);
        pair.agree();
        for number in 0..pair.issued.len() {
            pair.cancel(number);
        }
    }
}
