//! S13, the rows "claim dropped undecided, panic" and "process dies": the key is interrupted
//! with its reason, nothing is written and nothing blocks.

use crate::common::{gate::Gated, *};
use onlyonce::*;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

#[test]
fn a_dropped_claim() {
    let (store, _) = store();
    drop(store.claim("k"));
    let stuck = store.stuck("k");
    assert_eq!((stuck.reason(), stuck.holder_gone()), (Reason::Dropped, true));
    assert_eq!((stuck.attempts(), stuck.checkpoint(), stuck.answer()), (1, None, None));
    assert_eq!((store.stats().abandoned, store.stats().holders), (1, 0));
}

#[test]
fn a_panic() {
    let (store, _) = store();
    let result = catch_unwind(AssertUnwindSafe(|| {
        let _claim = store.claim("k");
        std::panic::resume_unwind(Box::new("the handler's bug"));
    }));
    assert!(result.is_err());
    let stuck = store.stuck("k");
    assert_eq!((stuck.reason(), stuck.holder_gone()), (Reason::Panicked, true));
}

#[test]
fn dropping_writes_nothing() {
    let sim = Sim::new();
    let store = sim.open();
    let claim = store.claim("k");
    let (files, calls) = (sim.disk.snapshot(), sim.disk.calls());
    drop(claim);
    assert_eq!(sim.disk.calls(), calls);
    assert!(sim.disk.snapshot() == files);
}

#[test]
fn dropping_does_not_wait_for_a_disk_that_hangs() {
    must_end(|| {
        let sim = Sim::with(|options| options.background(true));
        let disk = Gated::new(&sim.disk);
        let store = sim.options.open_on(Arc::new(disk.clone())).unwrap();
        let (claim, other) = (store.claim("k"), store.claim("l"));
        let shut = disk.shut("");
        std::thread::scope(|scope| {
            scope.spawn(|| other.release().unwrap());
            shut.until_reached();
            drop(claim);
            assert_eq!(store.stuck("k").reason(), Reason::Dropped);
            drop(shut);
        });
    });
}

#[test]
fn a_silent_holder_that_is_dropped_is_gone_from_then_on() {
    let (store, clock) = store();
    let claim = store.claim("k");
    clock.advance(MINUTE);
    assert!(!store.stuck("k").holder_gone());
    drop(claim);
    let stuck = store.stuck("k");
    assert_eq!((stuck.reason(), stuck.holder_gone()), (Reason::LeasePassed, true));
}

#[test]
fn a_failed_holder_leaves_its_answer() {
    let (store, _) = store();
    let mut claim = store.claim("k");
    claim.fail(b"500").unwrap();
    let stuck = store.stuck("k");
    assert_eq!((stuck.reason(), stuck.holder_gone()), (Reason::Failed, false));
    assert_eq!(stuck.answer().map(|answer| &answer[..]), Some(&b"500"[..]));
    assert_eq!(claim.fail(b"500"), Ok(()));
    assert_eq!(claim.fail(b"502"), Err(ClaimError::DifferentResponse));
    drop(claim);
    let stuck = store.stuck("k");
    assert_eq!((stuck.reason(), stuck.holder_gone()), (Reason::Failed, true));
    assert_eq!(store.stats().failed, 1);
}

#[test]
fn a_failed_holder_can_still_complete() {
    let (store, _) = store();
    let mut claim = store.claim("k");
    claim.fail(b"500").unwrap();
    claim.complete(b"after all").unwrap();
    assert_eq!(store.answer("k"), b"after all");
}

#[test]
fn a_failed_claim_of_full_size_has_room_for_its_completion() {
    let (store, _) = store();
    let mut claim = store.claim("k");
    claim.fail(&[5; 4096]).unwrap();
    assert!(matches!(claim.fail(&[5; 4097]), Err(ClaimError::ResponseTooLarge { .. })));
    claim.complete(&[2; 4096]).unwrap();
    assert_eq!(store.answer("k"), [2; 4096]);
}
