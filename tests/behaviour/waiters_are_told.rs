//! S15, rule 8: whoever waits for a key in flight is told how it ended: by the same answers as
//! `begin`. When it becomes free, one of them gets it and the others go on waiting.

use crate::common::*;
use onlyonce::*;
use std::{
    sync::mpsc::{Receiver, channel},
    thread,
};

/// `count` threads that wait for "k", for a minute; what they are told.
fn waiters(store: &Store, count: u64) -> Receiver<Begin> {
    let (tell, told) = channel();
    for _ in 0..count {
        let (pending, tell) = (pending(store.ask("k")), tell.clone());
        thread::spawn(move || tell.send(pending.wait(MINUTE).unwrap()).is_ok());
    }
    until(|| store.stats().waiters == count);
    told
}

/// Three waiters; what each of them is told after `event`.
fn told_after(event: impl FnOnce(&Store, &ManualClock, Claim) + Send + 'static) -> Vec<Begin> {
    must_end(move || {
        let sim = Sim::with(|options| options.background(true).lease(10 * SECOND));
        let store = sim.open();
        let claim = store.claim("k");
        let told = waiters(&store, 3);
        event(&store, &sim.clock, claim);
        let begins: Vec<_> = told.iter().collect();
        assert_eq!(store.stats().waiters, 0);
        begins
    })
}

#[test]
fn of_a_completion() {
    let begins = told_after(|_, _, mut claim| claim.complete(b"order 1").unwrap());
    assert_eq!(begins.len(), 3);
    for begin in begins {
        assert_eq!(replayed(begin).response(), Some(&b"order 1"[..]));
    }
}

#[track_caller]
fn all_stuck(begins: Vec<Begin>, reason: Reason, holder_gone: bool) {
    assert_eq!(begins.len(), 3);
    for begin in begins {
        let stuck = interrupted(begin);
        assert_eq!((stuck.reason(), stuck.holder_gone()), (reason, holder_gone));
    }
}

#[test]
fn of_a_drop() {
    all_stuck(told_after(|_, _, claim| drop(claim)), Reason::Dropped, true);
}

#[test]
fn of_a_failure() {
    let begins = told_after(|_, _, mut claim| {
        claim.fail(b"500").unwrap();
        std::mem::forget(claim);
    });
    all_stuck(begins, Reason::Failed, false);
}

#[test]
fn of_a_lease_that_passes() {
    let begins = told_after(|_, clock, claim| {
        clock.advance(10 * SECOND);
        std::mem::forget(claim);
    });
    all_stuck(begins, Reason::LeasePassed, false);
}

#[test]
fn of_a_release_that_keeps_history() {
    let begins = told_after(|_, _, mut claim| {
        claim.save_checkpoint(b"half").unwrap();
        claim.release().unwrap();
    });
    all_stuck(begins, Reason::GivenBack, true);
}

#[test]
fn of_an_operator_s_decision() {
    let begins = told_after(|store, _, claim| {
        let completion = Completion { response: Some(b"by hand"), ..Completion::default() };
        let resolution = Resolution::Complete { fingerprint: None, completion };
        store.resolve_with(key("k"), resolution, ResolveOptions::forced()).unwrap();
        drop(claim);
    });
    assert_eq!(begins.len(), 3);
    for begin in begins {
        assert_eq!(replayed(begin).response(), Some(&b"by hand"[..]));
    }
}

#[test]
fn that_it_still_runs_when_their_time_is_over() {
    let begins = told_after(|_, clock, mut claim| {
        for _ in 0..6 {
            clock.advance(9 * SECOND);
            claim.renew().unwrap();
        }
        clock.advance(6 * SECOND);
        std::mem::forget(claim);
    });
    assert_eq!(begins.len(), 3);
    begins.into_iter().for_each(|begin| assert_eq!(pending(begin).running_for(), MINUTE));
}

#[test]
fn when_it_becomes_free_one_gets_it_and_the_others_wait_on() {
    must_end(|| {
        let (store, _) = threaded();
        let claim = store.claim("k");
        let told = waiters(&store, 8);
        claim.release().unwrap();
        // One after another gets it and gives it back; the last one completes it.
        for left in (1..8).rev() {
            let claim = granted(told.recv().unwrap());
            assert_eq!(claim.attempt(), 1);
            until(|| store.stats().waiters == left);
            assert!(told.try_recv().is_err(), "two were told at once");
            if left > 1 {
                claim.release().unwrap();
            } else {
                let mut claim = claim;
                claim.complete(b"order 1").unwrap();
            }
        }
        let last = replayed(told.recv().unwrap());
        assert_eq!(last.response(), Some(&b"order 1"[..]));
    });
}

#[test]
fn waiting_for_no_time_answers_at_once() {
    let (store, _) = store();
    let _claim = store.claim("k");
    let begin = pending(store.ask("k")).wait(std::time::Duration::ZERO).unwrap();
    assert!(matches!(begin, Begin::InFlight(_)));
}

#[test]
fn of_a_store_that_is_closed() {
    must_end(|| {
        let (store, clock) = threaded();
        let claim = store.claim("k");
        let pending = pending(store.ask("k"));
        let waiter = thread::spawn(move || pending.wait(MINUTE).map(|_| ()));
        until(|| store.stats().waiters == 1);
        store.close().unwrap();
        // At the latest when its time is over.
        clock.advance(MINUTE);
        assert_eq!(waiter.join().unwrap(), Err(BeginError::Closed));
        drop(claim);
    });
}
