//! `once`: the whole dance for one request, blocking.

#![allow(clippy::result_large_err)]

use crate::common::*;
use onlyonce::*;
use std::{cell::Cell, thread, time::Duration};

type Answer = Result<Outcome, OnceError<Store, &'static str>>;

fn once(store: &Store) -> Once<'static, Store> {
    store.once(key("k"), print())
}

fn work(_: &mut Claim) -> Result<Vec<u8>, WorkError<&'static str>> {
    Ok(b"order 1".to_vec())
}

fn never(_: &mut Claim) -> Result<Vec<u8>, WorkError<&'static str>> {
    panic!("ran")
}

#[track_caller]
fn first(answer: Answer) {
    assert_eq!(answer.unwrap(), Outcome::Executed(b"order 1".to_vec()));
}

#[test]
fn it_runs_once_and_is_replayed() {
    let (store, _) = store();
    first(once(&store).run(work));
    let again = once(&store).run(never).unwrap();
    assert_eq!(again.response(), Some(&b"order 1"[..]));
    assert_eq!(again, Outcome::Replayed(replayed(store.ask("k"))));
}

#[test]
fn another_request_is_a_mismatch() {
    let (store, _) = store();
    first(once(&store).run(work));
    let answer = store.once(key("k"), other_print()).run(never);
    assert!(matches!(answer, Err(OnceError::Mismatch)));
}

#[test]
fn it_does_not_wait_unless_told_to() {
    let (store, clock) = store();
    let _claim = store.claim("k");
    clock.advance(10 * SECOND);
    let Err(OnceError::InFlight { retry_after }) = once(&store).run(never) else { panic!() };
    assert_eq!(retry_after, 5 * SECOND);
}

#[test]
fn it_waits_for_another_execution() {
    must_end(|| {
        let (store, _) = threaded();
        let mut claim = store.claim("k");
        thread::scope(|scope| {
            let waiting = scope.spawn(|| once(&store).wait(MINUTE).run(never).unwrap());
            until(|| store.stats().waiters == 1);
            claim.complete(b"the other's").unwrap();
            assert_eq!(waiting.join().unwrap().response(), Some(&b"the other's"[..]));
        });
    });
}

#[test]
fn it_runs_when_the_other_execution_did_nothing() {
    must_end(|| {
        let (store, _) = threaded();
        let claim = store.claim("k");
        thread::scope(|scope| {
            let waiting = scope.spawn(|| once(&store).wait(MINUTE).run(work));
            until(|| store.stats().waiters == 1);
            claim.release().unwrap();
            first(waiting.join().unwrap());
        });
    });
}

#[test]
fn work_that_did_nothing_frees_the_key() {
    let (store, _) = store();
    let answer = once(&store).run(|_| Err(WorkError::NothingDone("no stock")));
    assert!(matches!(answer, Err(OnceError::Work(WorkError::NothingDone("no stock")))));
    assert!(store.is_absent("k"));
    first(once(&store).run(work));
}

#[test]
fn work_whose_outcome_is_unknown_leaves_it_interrupted() {
    let (store, _) = store();
    let answer: Answer = once(&store).run(|_| {
        let charged: Result<Vec<u8>, &str> = Err("timeout");
        Ok(charged?)
    });
    assert!(matches!(answer, Err(OnceError::Work(WorkError::Unknown("timeout")))));
    let stuck = store.stuck("k");
    assert_eq!((stuck.reason(), stuck.holder_gone()), (Reason::Dropped, true));
    let Err(OnceError::Interrupted(Some(stuck))) = once(&store).run(never) else { panic!() };
    assert_eq!(stuck.attempts(), 1);
}

#[test]
fn a_panic_of_the_work_leaves_it_interrupted() {
    let (store, _) = store();
    let run = std::panic::AssertUnwindSafe(|| {
        once(&store).run::<()>(|_| std::panic::resume_unwind(Box::new("bug")))
    });
    assert!(std::panic::catch_unwind(run).is_err());
    assert_eq!(store.stuck("k").reason(), Reason::Panicked);
}

#[test]
fn an_answer_that_cannot_be_recorded_is_not_sent_as_if_it_were() {
    let (store, _) = store();
    let answer: Answer = once(&store).run(|_| Ok(vec![7; 4097]));
    let Err(OnceError::NotRecorded { error, response }) = answer else { panic!("{answer:?}") };
    assert_eq!(error, ClaimError::ResponseTooLarge { len: 4097, limit: 4096 });
    assert_eq!(response, [7; 4097]);
    assert_eq!(store.stuck("k").reason(), Reason::Dropped);
}

#[test]
fn nor_is_that_of_a_holder_that_was_taken_over() {
    let (store, clock) = store();
    let taken = Cell::new(None);
    let answer: Answer = once(&store).run(|_| {
        clock.advance(HOUR);
        taken.set(Some(granted(store.stuck("k").take_over().unwrap())));
        Ok(b"late".to_vec())
    });
    let Err(OnceError::NotRecorded { error, response }) = answer else { panic!("{answer:?}") };
    assert_eq!((error, &response[..]), (ClaimError::Fenced, &b"late"[..]));
    assert!(store.is_in_flight("k"));
    taken.take().unwrap().complete(b"the taker's").unwrap();
}

#[test]
fn a_store_without_room_runs_nothing() {
    let (store, _) = store();
    assert_eq!(store.drain(Duration::ZERO), 0);
    let answer = once(&store).run(never);
    assert!(matches!(answer, Err(OnceError::Begin(BeginError::Closed))));
}

#[test]
fn the_store_keeps_the_work_alive_up_to_the_execution_limit() {
    let (store, clock) = store();
    let answer = once(&store).run(|claim| {
        clock.advance(15 * MINUTE - MS);
        assert!(store.is_in_flight("k"));
        clock.advance(MS);
        assert_eq!(store.stuck("k").reason(), Reason::LeasePassed);
        work(claim)
    });
    first(answer);
}

#[test]
fn terms_are_the_caller_s() {
    let (store, _) = store();
    let terms = Terms { retention: Some(HOUR.into()), reserve: Some(7), ..Terms::default() };
    first(once(&store).terms(terms).run(work));
    let record = replayed(store.ask("k"));
    assert_eq!(record.expires_at() - record.completed_at(), 3_600_000);
    let lease = Terms { lease: Some(Duration::ZERO), ..Terms::default() };
    let answer = store.once(key("l"), print()).terms(lease).run(never);
    assert!(matches!(answer, Err(OnceError::Begin(BeginError::Terms { .. }))));
}
