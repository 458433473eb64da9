//! H20, rule 9: dropping a future is safe at any point. A claim that was granted but not
//! delivered is released; a write that was begun becomes durable all the same.

use crate::common::{
    futures::{Woken, block_on, drop_after},
    gate::Gated,
    *,
};
use onlyonce::*;
use std::sync::Arc;

type Async = AsyncStore<Store>;

/// Runs `at` with 0, 1, 2 ... polls until it says that its future has ended.
fn every_poll(at: impl Fn(&Store, &Async, u64) -> bool + Send + 'static) {
    must_end(move || {
        let (store, _) = threaded();
        let face = AsyncStore::new(store.clone());
        for polls in 0.. {
            assert!(polls < 100, "polled without end");
            let ended = at(&store, &face, polls);
            assert_eq!(store.stats().holders, 0, "after {polls} polls");
            if ended {
                assert!(polls > 0);
                return;
            }
            if store.get(key("k")).unwrap().is_some() {
                store.resolve_with(key("k"), Resolution::Forget, ResolveOptions::forced()).unwrap();
            }
        }
    });
}

#[test]
fn a_begin() {
    every_poll(|store, face, polls| {
        let ended = drop_after(face.begin(key("k"), print()), polls);
        match ended {
            Ok(begin) => {
                assert!(store.is_in_flight("k"));
                drop(granted(begin.unwrap()));
                true
            }
            Err(()) => {
                assert!(store.is_absent("k"), "after {polls} polls");
                false
            }
        }
    });
}

#[test]
fn a_takeover() {
    every_poll(|store, face, polls| {
        drop(store.claim("k"));
        let stuck = interrupted(block_on(face.begin(key("k"), print())).unwrap());
        let ended = drop_after(stuck.take_over(), polls);
        if let Ok(begin) = ended {
            assert_eq!(granted(begin.unwrap()).attempt(), 2);
            return true;
        }
        let stuck = store.stuck("k");
        // Its own attempt has been undone.
        assert_eq!((stuck.reason(), stuck.attempts()), (Reason::Dropped, 1), "after {polls} polls");
        assert!(stuck.holder_gone());
        false
    });
}

fn claim(face: &Async) -> Claim<Async> {
    granted(block_on(face.begin(key("k"), print())).unwrap())
}

#[test]
fn a_completion() {
    every_poll(|store, face, polls| {
        let mut claim = claim(face);
        let ended = drop_after(claim.complete(b"order 1"), polls);
        drop(claim);
        store.flush().unwrap();
        match store.ask("k") {
            // The first one of all has to wait for a segment.
            Begin::Interrupted(stuck) if ended.is_err() && polls <= 1 => {
                assert_eq!(stuck.reason(), Reason::Dropped);
                false
            }
            begin => {
                assert_eq!(replayed(begin).response(), Some(&b"order 1"[..]));
                ended.map(Result::unwrap).is_ok()
            }
        }
    });
}

#[test]
fn a_release() {
    every_poll(|store, face, polls| {
        let ended = drop_after(claim(face).release(), polls);
        match polls {
            0 => assert_eq!(store.stuck("k").reason(), Reason::Dropped),
            _ => assert!(store.is_absent("k")),
        }
        ended.map(Result::unwrap).is_ok()
    });
}

#[test]
fn a_checkpoint() {
    every_poll(|store, face, polls| {
        let mut claim = claim(face);
        let ended = drop_after(claim.save_checkpoint(b"half"), polls);
        drop(claim);
        let saved = (polls > 0).then_some(&b"half"[..]);
        assert_eq!(store.stuck("k").checkpoint(), saved, "after {polls} polls");
        ended.map(Result::unwrap).is_ok()
    });
}

#[test]
fn a_failure() {
    every_poll(|store, face, polls| {
        let mut claim = claim(face);
        let ended = drop_after(claim.fail(b"500"), polls);
        drop(claim);
        store.flush().unwrap();
        let stuck = store.stuck("k");
        match (ended, stuck.reason(), stuck.answer()) {
            // It may have had to wait for a segment first.
            (Err(()), Reason::Dropped, None) => false,
            (ended, Reason::Failed, Some(answer)) => {
                assert_eq!(&answer[..], b"500");
                ended.map(Result::unwrap).is_ok()
            }
            other => panic!("after {polls} polls: {other:?}"),
        }
    });
}

/// A store whose disk can be held up.
fn gated() -> (Store, Gated) {
    let sim = Sim::with(|options| options.background(true));
    let disk = Gated::new(&sim.disk);
    (sim.options.open_on(Arc::new(disk.clone())).unwrap(), disk)
}

#[test]
fn a_granted_claim_that_waits_for_the_disk_is_released() {
    must_end(|| {
        let (store, disk) = gated();
        let face = AsyncStore::new(store.clone());
        let shut = disk.shut("claims");
        let mut future = Box::pin(face.begin(key("k"), print()));
        let woken = Woken::new();
        assert!(woken.poll(future.as_mut()).is_pending());
        assert!(store.is_in_flight("k"), "granted, not delivered");
        drop(future);
        assert!(store.is_absent("k"));
        assert_eq!((store.stats().holders, store.stats().in_flight), (0, 0));
        drop(shut);
        assert_eq!(store.claim("k").attempt(), 1);
    });
}

#[test]
fn an_appended_completion_becomes_durable_though_nobody_waits() {
    must_end(|| {
        let (store, disk) = gated();
        store.finish("that opens a segment", b"order 0");
        let mut claim = claim(&AsyncStore::new(store.clone()));
        let shut = disk.shut("segment-");
        let mut future = Box::pin(claim.complete(b"order 1"));
        assert!(Woken::new().poll(future.as_mut()).is_pending());
        drop(future);
        drop(claim);
        assert!(store.is_in_flight("k"));
        let pending = pending(store.ask("k"));
        drop(shut);
        assert_eq!(replayed(pending.wait(MINUTE).unwrap()).response(), Some(&b"order 1"[..]));
    });
}
