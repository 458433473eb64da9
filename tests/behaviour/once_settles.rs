//! `once(..).settle(..)`: one function, "did it happen?", turns an interrupted key into a stored
//! answer, a safe run, or a parked key (rule 10, H18).

use crate::common::*;
use onlyonce::*;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

type Answer = Result<Outcome, OnceError<Store, ()>>;

fn once(store: &Store) -> Once<'static, Store> {
    store.once(key("k"), print())
}

fn work(_: &mut Claim) -> Result<Vec<u8>, WorkError<()>> {
    Ok(b"order 1".to_vec())
}

fn never(_: &mut Claim) -> Result<Vec<u8>, WorkError<()>> {
    panic!("ran")
}

#[test]
fn it_happened() {
    let (store, clock) = store();
    drop(store.claim("k"));
    clock.advance(HOUR);
    let answer: Answer = once(&store)
        .settle(|claim| {
            assert_eq!((claim.attempt(), claim.after()), (2, Some(Reason::Dropped)));
            Settled::Happened(b"found".to_vec())
        })
        .run(never);
    let Ok(Outcome::Replayed(settled)) = answer else { panic!("{answer:?}") };
    assert_eq!(settled.response(), Some(&b"found"[..]));
    // What is handed out is the record that is replayed from now on.
    let record = replayed(store.ask("k"));
    assert_eq!(record.completed_at(), T0 + 3_600_000);
    assert_eq!(settled, record);
}

#[test]
fn it_did_not_happen() {
    let (store, _) = store();
    drop(store.claim("k"));
    let answer: Answer = once(&store).settle(|_| Settled::NothingHappened).run(|claim| {
        assert_eq!(claim.attempt(), 1, "none before it had an effect");
        work(claim)
    });
    assert_eq!(answer.unwrap(), Outcome::Executed(b"order 1".to_vec()));
    assert_eq!(store.answer("k"), b"order 1");
}

#[test]
fn it_cannot_be_told() {
    let (store, clock) = store();
    drop(store.claim("k"));
    let answer: Answer = once(&store).settle(|_| Settled::Unknown).run(never);
    assert!(matches!(answer, Err(OnceError::Interrupted(Some(_)))));
    let stuck = store.stuck("k");
    assert_eq!((stuck.reason(), stuck.attempts()), (Reason::Dropped, 1));
    clock.advance(stuck.settle_after());
    // Parked, and settled by whoever can tell.
    let answer: Answer = once(&store).settle(|_| Settled::Happened(vec![])).run(never);
    assert_eq!(answer.unwrap().response(), Some(&b""[..]));
}

#[test]
fn the_checkpoint_is_at_hand() {
    let (store, _) = store();
    let mut claim = store.claim("k");
    claim.save_checkpoint(b"ch_1").unwrap();
    let derived = claim.derive_key("charge");
    drop(claim);
    let answer: Answer = once(&store)
        .settle(|claim| {
            assert_eq!(claim.checkpoint(), Some(&b"ch_1"[..]));
            assert_eq!(claim.derive_key("charge"), derived);
            Settled::Happened(b"charged".to_vec())
        })
        .run(never);
    assert_eq!(answer.unwrap().response(), Some(&b"charged"[..]));
}

#[test]
fn there_is_nothing_to_settle_at_a_first_attempt() {
    let (store, _) = store();
    let answer: Answer = once(&store).settle(|_| panic!("settled")).run(work);
    assert_eq!(answer.unwrap(), Outcome::Executed(b"order 1".to_vec()));
    let answer: Answer = once(&store).settle(|_| panic!("settled")).run(never);
    assert!(matches!(answer, Ok(Outcome::Replayed(_))));
}

#[test]
fn a_silent_holder_is_left_alone_unless_told_otherwise() {
    let (store, clock) = store();
    let mut late = store.claim("k");
    clock.advance(MINUTE);
    let answer: Answer = once(&store).settle(|_| panic!("settled")).run(never);
    let Err(OnceError::Interrupted(Some(stuck))) = answer else { panic!("{answer:?}") };
    assert!(!stuck.holder_gone());
    assert_eq!(store.stuck("k").attempts(), 1);

    let settle = |_: &Claim| Settled::NothingHappened;
    let answer: Answer = once(&store).settle(settle).even_if_holder_lives().run(work);
    assert_eq!(answer.unwrap(), Outcome::Executed(b"order 1".to_vec()));
    assert_eq!(late.complete(b"late"), Err(ClaimError::Fenced));
}

/// S27: an outage of what is asked does not make the key an operator's.
#[test]
fn looks_in_vain_use_up_no_attempt_and_come_ever_more_rarely() {
    let (store, clock) = store();
    let mut failed = store.claim("k");
    failed.save_checkpoint(b"half").unwrap();
    failed.fail(b"500").unwrap();
    drop(failed);
    let mut last = Duration::ZERO;
    for _ in 0..100 {
        let answer: Answer = once(&store)
            .settle(|claim| {
                assert_eq!((claim.attempt(), claim.checkpoint()), (2, Some(&b"half"[..])));
                Settled::Unknown
            })
            .run(never);
        let Err(OnceError::Interrupted(Some(stuck))) = answer else { panic!("{answer:?}") };
        assert_eq!((stuck.reason(), stuck.attempts()), (Reason::Failed, 1));
        assert_eq!(stuck.answer().map(|answer| &answer[..]), Some(&b"500"[..]));
        // Not before its time.
        clock.advance(stuck.settle_after() - MS);
        let answer: Answer = once(&store).settle(|_| panic!("settled")).run(never);
        assert!(matches!(answer, Err(OnceError::Interrupted(Some(_)))));
        clock.advance(MS);
        assert!(stuck.settle_after() >= last && stuck.settle_after() <= 5 * MINUTE);
        last = stuck.settle_after();
    }
    assert_eq!((last, store.stats().undone), (5 * MINUTE, 100));
    let answer: Answer = once(&store).settle(|_| Settled::Happened(b"order 1".to_vec())).run(never);
    assert_eq!(answer.unwrap().response(), Some(&b"order 1"[..]));
}

/// A look that does not come to its end has learned as little.
#[test]
fn a_look_that_panics_uses_up_no_attempt() {
    let (store, _) = store();
    let mut failed = store.claim("k");
    failed.fail(b"500").unwrap();
    drop(failed);
    let look = once(&store).settle(|_| panic!("the table is gone"));
    let panics = catch_unwind(AssertUnwindSafe(|| look.run(never)));
    assert!(panics.is_err());
    let stuck = store.stuck("k");
    assert_eq!((stuck.reason(), stuck.attempts(), stuck.holder_gone()), (Reason::Failed, 1, true));
    assert_eq!(stuck.answer().map(|answer| &answer[..]), Some(&b"500"[..]));
    assert_eq!(stuck.settle_after(), SECOND);
}

#[test]
fn attempts_that_ran_start_the_delays_afresh() {
    let (store, clock) = store();
    drop(store.claim("k"));
    for expected in [1, 2] {
        let answer: Answer = once(&store).settle(|_| Settled::Unknown).run(never);
        let Err(OnceError::Interrupted(Some(stuck))) = answer else { panic!("{answer:?}") };
        assert_eq!(stuck.settle_after(), expected * SECOND);
        clock.advance(stuck.settle_after());
    }
    drop(granted(store.stuck("k").take_over().unwrap()));
    assert_eq!((store.stuck("k").attempts(), store.stuck("k").settle_after()), (2, Duration::ZERO));
    let answer: Answer = once(&store).settle(|_| Settled::Unknown).run(never);
    let Err(OnceError::Interrupted(Some(stuck))) = answer else { panic!("{answer:?}") };
    assert_eq!((stuck.attempts(), stuck.settle_after()), (2, SECOND));
}

#[test]
fn what_was_undone_survives() {
    for cut in [false, true] {
        let mut sim = Sim::new();
        let store = sim.open();
        let mut failed = store.claim("k");
        failed.fail(b"500").unwrap();
        drop(failed);
        let answer: Answer = once(&store).settle(|_| Settled::Unknown).run(never);
        assert!(matches!(answer, Err(OnceError::Interrupted(Some(_)))));
        let store = if cut { sim.power_cut_and_open() } else { sim.kill_and_open() };
        let stuck = store.stuck("k");
        assert_eq!((stuck.reason(), stuck.attempts()), (Reason::Failed, 1));
        assert_eq!(stuck.answer().map(|answer| &answer[..]), Some(&b"500"[..]));
    }
}

#[test]
fn nothing_happened_and_nothing_was_done_frees_the_key() {
    for cut in [false, true] {
        let mut sim = Sim::new();
        let store = sim.open();
        let mut claim = store.claim("k");
        claim.save_checkpoint(b"half").unwrap();
        drop(claim);
        let nothing = |_: &mut Claim| Err(WorkError::NothingDone(()));
        let answer: Answer = once(&store).settle(|_| Settled::NothingHappened).run(nothing);
        assert!(matches!(answer, Err(OnceError::Work(WorkError::NothingDone(())))));
        assert!(store.is_absent("k"));
        let store = if cut { sim.power_cut_and_open() } else { sim.kill_and_open() };
        assert!(store.is_absent("k"));
    }
}

#[test]
fn attempts_that_may_have_had_an_effect_are_bounded_and_their_end_is_told() {
    let (store, _) = store();
    drop(store.claim("k"));
    for _ in 2..=5 {
        drop(granted(store.stuck("k").take_over().unwrap()));
    }
    let exhausted = BeginError::AttemptsExhausted { attempts: 5 };
    for _ in 0..3 {
        let answer: Answer = once(&store).settle(|_| panic!("settled")).run(never);
        assert!(matches!(answer, Err(OnceError::Begin(error)) if error == exhausted));
    }
    assert_eq!(store.stats().exhausted, 1, "each key once");
}

#[test]
fn a_settled_answer_that_is_too_large_is_not_recorded() {
    let (store, _) = store();
    drop(store.claim("k"));
    let answer: Answer = once(&store).settle(|_| Settled::Happened(vec![1; 5000])).run(never);
    let Err(OnceError::NotRecorded { error, response }) = answer else { panic!("{answer:?}") };
    assert!(matches!(error, ClaimError::ResponseTooLarge { len: 5000, .. }));
    assert_eq!(response.len(), 5000);
    // To have found that out is no attempt.
    assert_eq!(store.stuck("k").attempts(), 1);
}

/// When it runs, two hours pass each time that it is read.
#[derive(Clone, Debug)]
struct Hasty {
    hands: ManualClock,
    runs: Arc<AtomicBool>,
}

impl Clock for Hasty {
    fn wall_ms(&self) -> u64 {
        self.hands.wall_ms()
    }

    fn boot_ms(&self) -> u64 {
        if self.runs.load(Ordering::SeqCst) {
            self.hands.advance(2 * HOUR);
        }
        self.hands.boot_ms()
    }
}

#[test]
fn looking_at_what_was_stored_claims_nothing() {
    for task in [false, true] {
        let sim = Sim::new();
        let clock = Hasty { hands: sim.clock.clone(), runs: Arc::default() };
        let options = sim.options.clone().clock(clock.clone());
        let store = options.open_on(Arc::new(sim.disk.clone())).unwrap();
        let retention = Some(Retention::of(HOUR));
        let terms = Terms { lease: Some(MINUTE), retention, ..Terms::default() };
        drop(store.begin_with(key("k"), print(), terms).unwrap());
        let settle = || {
            clock.runs.store(true, Ordering::SeqCst);
            Settled::Happened(b"found".to_vec())
        };
        let ran = if task {
            let store = AsyncStore::new(store.clone());
            let once = store.once(key("k"), print()).terms(terms);
            let once = once.settle(async |_: &Claim<AsyncStore<Store>>| settle());
            let ran =
                futures::block_on(once.run(async |_| Err::<Vec<u8>, _>(WorkError::Unknown(()))));
            ran.unwrap()
        } else {
            let once = store.once(key("k"), print()).terms(terms).settle(|_| settle());
            once.run(never).unwrap()
        };
        clock.runs.store(false, Ordering::SeqCst);
        assert_eq!(ran.response(), Some(&b"found"[..]));
        // The record has expired by now, and the next caller executes.
        let next = store.begin(key("k"), print()).unwrap();
        assert!(matches!(next, Begin::Execute(_)), "{next:?}");
    }
}
