//! Slots move from one embedded store to another: with all that is known of their keys, under
//! load, there and back, and through losses of power.

use crate::common::{futures::block_on, *};
use onlyonce::*;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

const ALL: std::ops::RangeInclusive<u16> = 0..=SLOTS - 1;

/// Two stores by one clock, of which the first has been opened later: its tokens are higher.
fn two() -> (Sim, Sim) {
    // A day between two openings of theirs is time that has passed.
    let second = Sim::with(|options| options.capacity(16 << 20).clock_jump_max(7 * DAY));
    let clock = second.clock.clone();
    drop(second.open());
    clock.advance(DAY);
    let mut first = Sim::with(|options| options.clock(clock.clone()));
    first.clock = clock;
    (first, second)
}

fn is_held(error: &StoreError) -> bool {
    matches!(error, StoreError::NotApplicable { .. })
}

/// Everything a key can be that nobody holds.
fn fill(store: &Store, clock: &ManualClock) {
    store.finish("expired", b"x");
    clock.advance(DAY);
    let mut done = store.claim("done");
    let retention = Some(Retention { replay_for: HOUR, remember_for: HOUR * 3 });
    let completion = Completion { head: b"201", response: Some(b"order 1\0\xff"), retention };
    done.complete_with(completion).unwrap();
    store.claim("not retained").complete_without_response(b"head").unwrap();
    store.claim("free").release().unwrap();
    drop(store.claim("dropped"));
    let mut failed = store.claim("failed");
    failed.save_checkpoint(b"charged ch_1").unwrap();
    failed.fail(b"500").unwrap();
    drop(failed);
    drop(store.claim("again"));
    drop(granted(store.stuck("again").take_over().unwrap()));
    granted(store.stuck("again").take_over().unwrap()).release().unwrap();
}

/// What is known of a key, but for its token.
fn known(store: &Store, name: &str) -> Option<String> {
    store.get(key(name)).unwrap().map(|entry| match entry.state {
        State::Completed(record) => format!(
            "{} attempts, {:?} {:?} from {} to {}",
            entry.attempts,
            record.head(),
            record.response(),
            record.completed_at(),
            record.expires_at()
        ),
        State::Interrupted { reason, holder_gone, checkpoint, answer, .. } => {
            format!("{reason:?}, {holder_gone}, {checkpoint:?}, {answer:?}, {}", entry.attempts)
        }
        state => panic!("{state:?}"),
    })
}

const NAMES: [&str; 7] = ["expired", "done", "not retained", "free", "dropped", "failed", "again"];

fn all_known(store: &Store) -> Vec<Option<String>> {
    NAMES.map(|name| known(store, name)).into()
}

/// A store that was opened later may give out tokens that the other one may not yet. That one is
/// allowed them, durably, before it takes anything in.
#[test]
fn tokens_rise_over_a_move_from_a_store_that_was_opened_later() {
    must_end(|| {
        let mut second = Sim::new();
        let to = second.open();
        second.clock.advance(DAY);
        let from = small(&second.clock).open_on(Arc::new(Sim::new().disk)).unwrap();
        from.finish("moved", b"order 1");
        let claim = from.claim("before");
        let before = claim.token();
        claim.release().unwrap();
        assert!(to.claim("first").token() < before);
        assert_eq!(from.copy_slots(&to, ALL).unwrap(), 1);
        let after = to.claim("after").token();
        assert!(after > before);
        let to = second.power_cut_and_open();
        assert_eq!(to.answer("moved"), b"order 1");
        assert!(to.claim("later").token() > after);
    });
}

#[test]
fn all_that_is_known_moves_and_comes_back() {
    must_end(|| {
        let (mut first, mut second) = two();
        let (mut a, mut b) = (first.open(), second.open());
        fill(&a, &first.clock);
        let before = all_known(&a);
        assert_eq!(before.iter().flatten().count(), 5);
        let claim = a.claim("free");
        let mut highest = claim.token();
        claim.release().unwrap();
        for round in 0..3 {
            let (from, to) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
            assert_eq!(from.copy_slots(to, ALL).unwrap(), 5, "round {round}");
            assert_eq!(all_known(from), before, "round {round}");
            // Broken off and repeated, it comes to the same.
            assert_eq!(from.copy_slots(to, ALL).unwrap(), 5, "round {round}");
            assert_eq!(from.delete_slots(ALL).unwrap(), 5, "round {round}");
            assert_eq!(all_known(from), vec![None; 7], "round {round}");
            assert_eq!(all_known(to), before, "round {round}");
            a = first.power_cut_and_open();
            b = second.power_cut_and_open();
            let (from, to) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
            assert_eq!(all_known(to), before, "round {round}, after a loss of power");
            assert_eq!(all_known(from), vec![None; 7], "round {round}, after a loss of power");
            assert_mismatch(to, "done");
            assert_mismatch(to, "failed");
            // Of moved keys and of others the tokens go on rising.
            let claim = to.claim("free");
            assert!(claim.token() > highest, "round {round}");
            highest = claim.token();
            claim.release().unwrap();
            for name in ["dropped", "failed"] {
                let entry = to.get(key(name)).unwrap().unwrap();
                assert!(entry.token < highest, "round {round}");
            }
        }
        // Times pass as they would have, and what was interrupted can go on.
        let taken = granted(b.stuck("failed").take_over().unwrap());
        assert_eq!((taken.attempt(), taken.checkpoint()), (2, Some(&b"charged ch_1"[..])));
        assert!(taken.token() > highest);
        first.clock.advance(HOUR);
        assert_eq!(replayed(b.ask("done")).response(), None);
        first.clock.advance(HOUR * 2);
        assert!(b.is_absent("done") && !b.is_absent("not retained"));
    });
}

#[test]
fn only_its_slots_move() {
    let (first, second) = two();
    let (a, b) = (first.open(), second.open());
    let names: Vec<String> = (0..40).map(|n| format!("k{n}")).collect();
    names.iter().for_each(|name| a.finish(name, name.as_bytes()));
    let moving = 0..=SLOTS / 2;
    let moves = |name: &&String| moving.contains(&slot_of(key(name)));
    let count = names.iter().filter(moves).count() as u64;
    assert!(count > 5);
    assert_eq!(a.copy_slots(&b, moving.clone()).unwrap(), count);
    assert_eq!(a.delete_slots(moving.clone()).unwrap(), count);
    for name in &names {
        let (here, there) = if moves(&name) { (&b, &a) } else { (&a, &b) };
        assert!(there.is_absent(name));
        assert_eq!(here.answer(name), name.as_bytes());
    }
}

/// A holder can't follow: as long as there is one, nothing moves.
#[test]
fn a_key_in_hand_does_not_move() {
    let (first, second) = two();
    let (a, b) = (first.open(), second.open());
    a.finish("done", b"x");
    let held = a.claim("held");
    let refused = |a: &Store| {
        assert!(is_held(&a.copy_slots(&b, ALL).unwrap_err()));
        assert!(is_held(&a.delete_slots(ALL).unwrap_err()));
        assert!(b.is_absent("done") && b.is_absent("held"));
    };
    refused(&a);
    // Silent, it may still be at work; and a failed one can go on.
    first.clock.advance(HOUR);
    refused(&a);
    let mut held = held;
    held.fail(b"500").unwrap();
    refused(&a);
    let slot = slot_of(key("held"));
    let others = if slot == 0 { 1..=SLOTS - 1 } else { 0..=slot - 1 };
    a.copy_slots(&b, others).unwrap();
    drop(held);
    assert_eq!(a.copy_slots(&b, ALL).unwrap(), 2);
    assert_eq!(b.answer("done"), b"x");
}

#[test]
fn a_store_that_has_no_room_refuses_and_nothing_is_lost() {
    let (first, _) = two();
    let a = first.open();
    let small = Sim::with(|options| options.max_response(16).clock(first.clock.clone())).open();
    a.finish("large", &[7; 1000]);
    let refused = a.copy_slots(&small, ALL).unwrap_err();
    assert!(matches!(refused, StoreError::ResponseTooLarge { .. }), "{refused:?}");
    assert_eq!(a.answer("large"), [7; 1000]);
    a.close().unwrap();
}

/// What everybody was told.
#[derive(Default)]
struct Witness {
    granted: Mutex<HashMap<String, Vec<(u32, u64)>>>,
    done: Mutex<HashMap<String, Vec<u8>>>,
    replays: AtomicU64,
    refused: AtomicU64,
    stop: AtomicBool,
    next: AtomicU64,
}

type Shards = AsyncStore<ShardedStore<Store>>;

fn client(store: &Shards, witness: &Witness) {
    while !witness.stop.load(Ordering::SeqCst) {
        let n = witness.next.fetch_add(1, Ordering::SeqCst) / 3;
        let name = format!("k{n}");
        ask(store, witness, &name, n);
        // And an earlier one.
        ask(store, witness, &format!("k{}", n / 2), n);
    }
}

fn ask(store: &Shards, witness: &Witness, name: &str, n: u64) {
    let mut begun = block_on(store.begin(key(name), print()));
    if let Ok(Begin::Interrupted(stuck)) = begun {
        begun = block_on(stuck.take_over());
    }
    match begun {
        Ok(Begin::Execute(mut claim)) => {
            let (attempt, token) = (claim.attempt(), claim.token().get());
            let mut granted = witness.granted.lock().unwrap();
            let attempts = granted.entry(name.into()).or_default();
            let last = attempts.last().copied().unwrap_or((0, 0));
            assert!(attempt == last.0 + 1 && token > last.1, "{name}: {attempt} after {last:?}");
            assert!(!witness.done.lock().unwrap().contains_key(name), "{name}: granted again");
            attempts.push((attempt, token));
            drop(granted);
            // Some don't decide, and somebody else takes over.
            if attempt == 1 && n.is_multiple_of(5) {
                return drop(claim);
            }
            let response = format!("{name} by {token}").into_bytes();
            loop {
                match block_on(claim.complete(&response)) {
                    Ok(()) => break,
                    Err(ClaimError::Unavailable { .. }) => {}
                    Err(error) => panic!("{name}: {error:?}"),
                }
            }
            witness.done.lock().unwrap().insert(name.into(), response);
        }
        Ok(Begin::Replay(record)) => {
            witness.replays.fetch_add(1, Ordering::SeqCst);
            if let Some(done) = witness.done.lock().unwrap().get(name) {
                assert_eq!(record.response(), Some(&done[..]), "{name}");
            }
        }
        Ok(Begin::InFlight(_) | Begin::Interrupted(_)) => {}
        Ok(begin) => panic!("{name}: {begin:?}"),
        Err(BeginError::Unavailable { .. }) => {
            witness.refused.fetch_add(1, Ordering::SeqCst);
        }
        Err(error) => panic!("{name}: {error:?}"),
    }
}

#[test]
fn under_load_no_key_is_granted_twice() {
    must_end(|| {
        let clock = ManualClock::at(T0);
        let open = || {
            let options = small(&clock).background(true).max_claims(1024);
            let options = options.durability(Durability::SyncedCompletions);
            options.capacity(64 << 20).open_on(Arc::new(storage::SimStorage::new(1))).unwrap()
        };
        let stores = vec![open(), open()];
        let sharded = ShardedStore::new(SlotMap::even(1), stores.clone());
        let store = AsyncStore::new(sharded.clone());
        let witness = Arc::new(Witness::default());
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let (store, witness) = (store.clone(), witness.clone());
                std::thread::spawn(move || client(&store, &witness))
            })
            .collect();
        let more = |keys: usize| {
            let before = witness.done.lock().unwrap().len();
            until(|| witness.done.lock().unwrap().len() >= before + keys);
        };
        more(100);
        let moving = 0..=SLOTS / 2;
        for (from, to) in [(0, 1), (1, 0), (0, 1)] {
            let put = |store: u16, phase: Phase| {
                let mut map = (*sharded.map()).clone();
                map.assign(moving.clone(), store, phase);
                sharded.set_map(map);
            };
            let [here, there] = [from, to].map(|store| &stores[usize::from(store)]);
            put(from, Phase::Draining);
            until(|| sharded.is_settled());
            let refused = witness.refused.load(Ordering::SeqCst);
            until(|| match here.copy_slots(there, moving.clone()) {
                Ok(copied) => copied > 10,
                Err(error) if is_held(&error) => false,
                Err(error) => panic!("{error:?}"),
            });
            until(|| witness.refused.load(Ordering::SeqCst) > refused);
            put(to, Phase::Open);
            until(|| sharded.is_settled());
            here.delete_slots(moving.clone()).unwrap();
            more(100);
        }
        witness.stop.store(true, Ordering::SeqCst);
        for client in clients {
            client.join().unwrap();
        }
        assert!(witness.replays.load(Ordering::SeqCst) > 0);
        let done = witness.done.lock().unwrap().clone();
        for (name, response) in &done {
            let record = replayed(block_on(store.begin(key(name), print())).unwrap());
            assert_eq!(record.response(), Some(&response[..]), "{name}");
        }
        let listed =
            |store: &Store| store.entries(Filter::ALL).map(Result::unwrap).collect::<Vec<_>>();
        let moves = |entry: &Entry| moving.contains(&slot_of(entry.key.as_ref()));
        assert!(!listed(&stores[0]).iter().any(moves) && listed(&stores[1]).iter().all(moves));
        println!("{} keys, {} refused", done.len(), witness.refused.load(Ordering::SeqCst));
    });
}

#[test]
fn a_store_is_not_copied_onto_itself() {
    let sim = Sim::new();
    let store = sim.open();
    store.finish("done", b"1");
    drop(store.claim("lost"));
    let other_handle = store.clone();
    assert!(is_held(&store.copy_slots(&other_handle, ALL).unwrap_err()));
    assert_eq!(store.answer("done"), b"1");
    drop(store.stuck("lost"));
    // Nor from a handle that was closed onto the store that was opened after it.
    let old = store.clone();
    store.close().unwrap();
    let store = sim.open();
    assert_eq!(old.copy_slots(&store, ALL), Err(StoreError::Closed));
    assert_eq!(store.answer("done"), b"1");
}

/// What remains of each window is kept, and the target's time stays as it was.
#[test]
fn stores_whose_clocks_are_apart_keep_what_remains() {
    for apart in [40 * DAY, DAY] {
        for ahead in [true, false] {
            let early = Sim::new();
            let mut late = Sim::new();
            late.clock = ManualClock::at(T0 + apart.as_millis() as u64);
            late.options = small(&late.clock);
            let (from, mut to) = if ahead { (late, early) } else { (early, late) };
            let (source, target) = (from.open(), to.open());
            source.finish("done", b"1");
            let mut failed = source.claim("failed");
            failed.fail(b"500").unwrap();
            drop(failed);
            from.clock.advance(HOUR);
            let before = target.stats().now_ms;
            assert_eq!(source.copy_slots(&target, ALL).unwrap(), 2);
            assert_eq!(target.stats().now_ms, before);
            let record = replayed(target.ask("done"));
            assert_eq!(record.expires_at() - before, (DAY - HOUR).as_millis() as u64);
            assert_eq!(before - record.completed_at(), HOUR.as_millis() as u64);
            assert_eq!(target.stuck("failed").answer().map(|a| &a[..]), Some(&b"500"[..]));
            drop((target, source));
            let target = to.power_cut_and_open();
            assert_eq!(target.stats().now_ms, before, "no time was spread");
            to.clock.advance(DAY - HOUR - MS);
            assert_eq!(target.answer("done"), b"1");
            to.clock.advance(MS);
            target.claim("done").release().unwrap();
        }
    }
}

/// The target has a claim of the key that has expired and that nobody has swept.
#[test]
fn an_expired_claim_of_the_target_makes_room() {
    let interrupted = |options: Options| options.interrupted_retention(HOUR);
    for completed in [true, false] {
        let second = Sim::with(interrupted);
        let target = second.open();
        let first = Sim::with(|options| options.clock(second.clock.clone()));
        let source = first.open();
        drop(target.claim("k"));
        second.clock.advance(HOUR);
        match completed {
            true => source.finish("k", b"moved"),
            false => drop(source.claim("k")),
        }
        assert_eq!(source.copy_slots(&target, ALL).unwrap(), 1);
        assert_eq!(target.entries(Filter::ALL).count(), 1);
        if completed {
            assert_eq!(target.answer("k"), b"moved");
        } else {
            let stuck = target.stuck("k");
            let taken = granted(stuck.take_over().unwrap());
            assert!(target.is_in_flight("k"));
            drop(taken);
        }
        assert_eq!(target.stats().interrupted, u64::from(!completed));
        target.housekeep().unwrap();
        assert_eq!(target.entries(Filter::ALL).count(), 1);
    }
}
