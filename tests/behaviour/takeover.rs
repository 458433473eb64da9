//! S14: a takeover is the next attempt, with the last checkpoint, under the first one's
//! fingerprint and terms; of two takers one gets it. Rule 10: attempts are bounded.

use crate::common::{futures::block_on, *};
use onlyonce::*;
use std::{sync::Barrier, thread, time::Duration};

#[test]
fn the_attempt_rises_and_the_last_checkpoint_arrives() {
    let mut sim = Sim::new();
    let store = sim.open();
    let mut first = store.claim("k");
    first.save_checkpoint(b"one").unwrap();
    first.save_checkpoint(&[2; 4096]).unwrap();
    drop(first);
    let mut second = granted(store.stuck("k").take_over().unwrap());
    assert_eq!((second.attempt(), second.after()), (2, Some(Reason::Dropped)));
    assert_eq!(second.checkpoint(), Some(&[2; 4096][..]));
    second.save_checkpoint(b"three").unwrap();
    drop(second);
    let store = sim.power_cut_and_open();
    assert_eq!(store.stuck("k").checkpoint(), Some(&b"three"[..]));
    let third = granted(store.stuck("k").take_over().unwrap());
    assert_eq!((third.attempt(), third.checkpoint()), (3, Some(&b"three"[..])));
    assert_eq!(store.stats().taken_over, 1);
}

#[test]
fn of_racing_takers_one_gets_it() {
    must_end(|| {
        let (store, _) = threaded();
        for round in 0..200 {
            let name = round.to_string();
            drop(store.claim(&name));
            let barrier = Barrier::new(4);
            let takers: Vec<_> = (0..4).map(|_| store.stuck(&name)).collect();
            let take = |taker: Interrupted| {
                barrier.wait();
                taker.take_over().unwrap()
            };
            let begins: Vec<_> = thread::scope(|scope| {
                let racing = takers.into_iter().map(|taker| scope.spawn(|| take(taker)));
                let threads: Vec<_> = racing.collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            let taken = begins.iter().filter(|b| matches!(b, Begin::Execute(_))).count();
            let waiting = begins.iter().filter(|b| matches!(b, Begin::InFlight(_))).count();
            assert_eq!((taken, waiting), (1, 3));
            drop(begins);
            store.resolve(key(&name), Resolution::Free).unwrap();
        }
        assert_eq!(store.stats().taken_over, 200);
    });
}

#[test]
fn whoever_saw_an_earlier_attempt_is_told_what_is_true_now() {
    let (store, clock) = store();
    let mut holder = store.claim("k");
    clock.advance(MINUTE);
    let [seen, again, later, last] = [(); 4].map(|()| store.stuck("k"));
    holder.renew().unwrap();
    assert!(matches!(seen.take_over().unwrap(), Begin::InFlight(_)), "the holder lives");
    drop(holder);
    // Interrupted again, still under the token that was seen.
    let taker = granted(again.take_over().unwrap());
    drop(taker);
    let now = interrupted(later.take_over().unwrap());
    assert_eq!((now.reason(), now.attempts()), (Reason::Dropped, 2), "another token: as begin");
    granted(now.take_over().unwrap()).complete(b"order 1").unwrap();
    assert_eq!(replayed(last.take_over().unwrap()).response(), Some(&b"order 1"[..]));
}

#[test]
fn taking_over_what_has_become_free_is_a_first_attempt() {
    let (store, _) = store();
    drop(store.claim("k"));
    let stuck = store.stuck("k");
    store.resolve(key("k"), Resolution::Free).unwrap();
    let claim = granted(stuck.take_over().unwrap());
    assert_eq!((claim.attempt(), claim.after()), (1, None));
}

#[test]
fn the_first_attempt_s_terms_are_kept() {
    let (store, clock) = store();
    let terms = Terms {
        lease: Some(5 * SECOND),
        retention: Some(MINUTE.into()),
        reserve: Some(10),
        ..Terms::default()
    };
    drop(granted(store.begin_with(key("k"), print(), terms).unwrap()));
    // The taker's own request has the store's terms.
    let mut taker = granted(store.stuck("k").take_over().unwrap());
    clock.advance(5 * SECOND - MS);
    assert!(store.is_in_flight("k"));
    clock.advance(MS);
    assert_eq!(store.stuck("k").reason(), Reason::LeasePassed);
    let refused = taker.complete(&[0; 11]);
    assert_eq!(refused, Err(ClaimError::ResponseTooLarge { len: 11, limit: 10 }));
    taker.complete(&[0; 10]).unwrap();
    let record = replayed(store.ask("k"));
    assert_eq!(record.expires_at() - record.completed_at(), 60_000);
}

#[test]
fn the_last_answer_of_a_failed_attempt_is_not_the_next_one_s() {
    let (store, _) = store();
    let mut failed = store.claim("k");
    failed.fail(b"500").unwrap();
    drop(failed);
    drop(granted(store.stuck("k").take_over().unwrap()));
    let stuck = store.stuck("k");
    assert_eq!((stuck.reason(), stuck.answer()), (Reason::Dropped, None));
}

#[test]
fn nor_is_it_after_a_crash() {
    let mut sim = Sim::new();
    let store = sim.open();
    let mut failed = store.claim("k");
    failed.fail(b"500").unwrap();
    drop(failed);
    let _taken = granted(store.stuck("k").take_over().unwrap());
    let stuck = sim.kill_and_open().stuck("k");
    assert_eq!((stuck.reason(), stuck.attempts(), stuck.answer()), (Reason::Crashed, 2, None));
}

#[test]
fn one_that_is_never_delivered_leaves_what_it_has_found() {
    for cut in [false, true] {
        let mut sim = Sim::with(|options| options.max_attempts(2));
        let store = sim.open();
        let mut failed = store.claim("k");
        failed.save_checkpoint(b"half").unwrap();
        failed.fail(b"500").unwrap();
        drop(failed);
        let terms = Terms::default();
        let request = spi::Request { key: key("k").into(), fingerprint: print(), terms };
        for _ in 0..3 {
            let found = block_on(IdempotencyStore::begin(&store, &request)).unwrap();
            let spi::Found::Interrupted(seen) = found else { panic!("{found:?}") };
            let taken = IdempotencyStore::take_over(&store, &request, seen.token);
            let found = block_on(taken).unwrap();
            let spi::Found::Granted(grant) = found else { panic!("{found:?}") };
            assert_eq!(grant.ticket.attempt, 2);
            store.abandon(&grant.ticket, spi::Abandon::Undelivered);
            assert_eq!((store.stuck("k").attempts(), store.stats().holders), (1, 0));
        }
        assert_eq!(store.stats().undone, 3);
        // Another claim that becomes durable takes the undoing with it.
        drop(store.claim("other"));
        let store = if cut { sim.power_cut_and_open() } else { sim.kill_and_open() };
        let stuck = store.stuck("k");
        assert_eq!((stuck.reason(), stuck.attempts()), (Reason::Failed, 1));
        assert_eq!(stuck.checkpoint(), Some(&b"half"[..]));
        assert_eq!(stuck.answer().map(|answer| &answer[..]), Some(&b"500"[..]));
    }
}

#[test]
fn after_max_attempts_only_an_operator_goes_on() {
    let mut sim = Sim::with(|options| options.max_attempts(2));
    let store = sim.open();
    drop(store.claim("k"));
    drop(granted(store.stuck("k").take_over().unwrap()));
    let exhausted = store.stuck("k").take_over().unwrap_err();
    assert_eq!(exhausted, BeginError::AttemptsExhausted { attempts: 2 });
    assert_eq!(exhausted.retry(), Retry::Never);
    let store = sim.kill_and_open();
    assert_eq!(store.stuck("k").take_over().unwrap_err(), exhausted);
    store.resolve(key("k"), Resolution::Free).unwrap();
    assert_eq!(store.claim("k").attempt(), 1);
}

#[test]
fn a_kept_alive_taker_has_the_execution_limit() {
    let (store, clock) = store();
    drop(store.claim("k"));
    let terms = Terms { keep_alive: true, ..Terms::default() };
    let stuck = interrupted(store.begin_with(key("k"), print(), terms).unwrap());
    let _taker = granted(stuck.take_over().unwrap());
    clock.advance(Duration::from_secs(15 * 60) - MS);
    assert!(store.is_in_flight("k"));
    clock.advance(MS);
    assert_eq!(store.stuck("k").reason(), Reason::LeasePassed);
}

/// The superblock says which tokens may have been given out. One that is older than the claims
/// would let tokens of a key fall.
#[test]
fn tokens_stay_above_those_of_claims_that_an_older_superblock_does_not_know() {
    let mut sim = Sim::new();
    sim.open().close().unwrap();
    let earlier = sim.disk.snapshot()["superblock"].clone();
    sim.clock.advance(DAY);
    let token = sim.open().claim("k").token();
    sim.disk = sim.disk.kill();
    let mut files = sim.disk.snapshot();
    files.insert("superblock".into(), earlier);
    sim.disk.restore(files);
    let error = sim.try_open().unwrap_err();
    assert!(matches!(&error, OpenError::Damaged { file, .. } if file == "superblock"), "{error}");
    sim.options = sim.options.clone().recovery(Recovery::Salvage);
    let taken = granted(sim.open().stuck("k").take_over().unwrap());
    assert!(taken.token() > token);
}
