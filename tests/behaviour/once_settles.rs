//! `once(..).settle(..)`: one function, "did it happen?", turns an interrupted key into a stored
//! answer, a safe run, or a parked key (rule 10, H18).

use crate::common::*;
use onlyonce::*;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
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
        assert_eq!(claim.attempt(), 2);
        work(claim)
    });
    assert_eq!(answer.unwrap(), Outcome::Executed(b"order 1".to_vec()));
    assert_eq!(store.answer("k"), b"order 1");
}

#[test]
fn it_cannot_be_told() {
    let (store, _) = store();
    drop(store.claim("k"));
    let answer: Answer = once(&store).settle(|_| Settled::Unknown).run(never);
    assert!(matches!(answer, Err(OnceError::Interrupted(None))));
    let stuck = store.stuck("k");
    assert_eq!((stuck.reason(), stuck.attempts()), (Reason::GivenBack, 2));
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

#[test]
fn attempts_are_bounded() {
    let (store, _) = store();
    drop(store.claim("k"));
    for attempt in 2..=5 {
        let answer: Answer = once(&store).settle(|_| Settled::Unknown).run(never);
        assert!(matches!(answer, Err(OnceError::Interrupted(None))), "{attempt}");
    }
    let answer: Answer = once(&store).settle(|_| panic!("settled")).run(never);
    let exhausted = BeginError::AttemptsExhausted { attempts: 5 };
    assert!(matches!(answer, Err(OnceError::Begin(error)) if error == exhausted));
}

#[test]
fn a_settled_answer_that_is_too_large_is_not_recorded() {
    let (store, _) = store();
    drop(store.claim("k"));
    let answer: Answer = once(&store).settle(|_| Settled::Happened(vec![1; 5000])).run(never);
    let Err(OnceError::NotRecorded { error, response }) = answer else { panic!("{answer:?}") };
    assert!(matches!(error, ClaimError::ResponseTooLarge { len: 5000, .. }));
    assert_eq!(response.len(), 5000);
    assert_eq!(store.stuck("k").attempts(), 2);
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
