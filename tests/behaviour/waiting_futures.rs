//! S15 for futures: woken by the end of what they wait for, through the waker of their last
//! poll, and nothing stays behind when they are dropped.

use crate::common::{
    futures::{Woken, block_on},
    gate::Gated,
    *,
};
use onlyonce::*;
use std::{future::Future, pin::Pin, sync::Arc, task::Poll, thread, time::Duration};

type Waiting = Pin<Box<dyn Future<Output = Result<Begin<AsyncStore<Store>>, BeginError>>>>;

fn waiting(store: &Store, at_most: Duration) -> Waiting {
    let store = AsyncStore::new(store.clone());
    let begin = block_on(store.begin(key("k"), print())).unwrap();
    Box::pin(pending(begin).wait(at_most))
}

#[track_caller]
fn ready(poll: Poll<Result<Begin<AsyncStore<Store>>, BeginError>>) -> Begin<AsyncStore<Store>> {
    match poll {
        Poll::Ready(begin) => begin.unwrap(),
        Poll::Pending => panic!("not ready"),
    }
}

#[test]
fn a_completion_wakes_them() {
    must_end(|| {
        let (store, _) = threaded();
        let mut claim = store.claim("k");
        let mut future = waiting(&store, MINUTE);
        let woken = Woken::new();
        assert!(woken.poll(future.as_mut()).is_pending());
        assert_eq!(woken.count(), 0);
        claim.complete(b"order 1").unwrap();
        woken.wait(0);
        let record = replayed(ready(woken.poll(future.as_mut())));
        assert_eq!(record.response(), Some(&b"order 1"[..]));
    });
}

#[test]
fn only_the_last_poll_s_waker_counts() {
    must_end(|| {
        let (store, _) = threaded();
        let claim = store.claim("k");
        let mut future = waiting(&store, MINUTE);
        let (first, last) = (Woken::new(), Woken::new());
        assert!(first.poll(future.as_mut()).is_pending());
        assert!(last.poll(future.as_mut()).is_pending());
        assert_eq!(store.stats().waiters, 1);
        drop(claim);
        assert_eq!((first.count(), last.count()), (0, 1));
        assert_eq!(interrupted(ready(last.poll(future.as_mut()))).reason(), Reason::Dropped);
    });
}

#[test]
fn also_while_the_completion_is_on_its_way_to_the_disk() {
    must_end(|| {
        let sim = Sim::with(|options| options.background(true));
        let disk = Gated::new(&sim.disk);
        let store = sim.options.open_on(Arc::new(disk.clone())).unwrap();
        let mut claim = store.claim("k");
        let mut future = waiting(&store, MINUTE);
        let (first, last) = (Woken::new(), Woken::new());
        assert!(first.poll(future.as_mut()).is_pending());
        let shut = disk.shut("segment-");
        thread::scope(|scope| {
            scope.spawn(|| claim.complete(b"order 1").unwrap());
            shut.until_reached();
            assert!(last.poll(future.as_mut()).is_pending(), "told before it is durable");
            drop(shut);
        });
        assert_eq!(store.answer("k"), b"order 1");
        until(|| last.count() > 0);
        let record = replayed(ready(last.poll(future.as_mut())));
        assert_eq!(record.response(), Some(&b"order 1"[..]));
    });
}

#[test]
fn one_that_begins_to_wait_while_it_completes_is_woken_too() {
    must_end(|| {
        let sim = Sim::with(|options| options.background(true));
        let disk = Gated::new(&sim.disk);
        let store = sim.options.open_on(Arc::new(disk.clone())).unwrap();
        let mut claim = store.claim("k");
        let shut = disk.shut("segment-");
        thread::scope(|scope| {
            scope.spawn(|| claim.complete(b"order 1").unwrap());
            shut.until_reached();
            let mut future = waiting(&store, MINUTE);
            let woken = Woken::new();
            assert!(woken.poll(future.as_mut()).is_pending());
            drop(shut);
            woken.wait(0);
            let record = replayed(ready(woken.poll(future.as_mut())));
            assert_eq!(record.response(), Some(&b"order 1"[..]));
        });
    });
}

/// A failed holder that completes after all appends twice. Whoever is told of the first record
/// only when the second is on its way waits for that one.
#[test]
fn one_that_was_slow_to_see_a_failure_is_told_of_the_completion() {
    must_end(|| {
        let sim = Sim::with(|options| options.background(true));
        let disk = Gated::new(&sim.disk);
        let store = sim.options.open_on(Arc::new(disk.clone())).unwrap();
        let mut claim = store.claim("k");
        let mut future = waiting(&store, MINUTE);
        let woken = Woken::new();
        let mut shut = disk.shut("segment-");
        thread::scope(|scope| {
            let failing = scope.spawn(|| claim.fail(b"500").unwrap());
            shut.until_reached();
            assert!(woken.poll(future.as_mut()).is_pending());
            drop(shut);
            failing.join().unwrap();
        });
        until(|| woken.count() > 0);
        shut = disk.shut("segment-");
        let seen = thread::scope(|scope| {
            scope.spawn(|| claim.complete(b"order 1").unwrap());
            shut.until_reached();
            let seen = woken.count();
            assert!(woken.poll(future.as_mut()).is_pending(), "told before it is durable");
            drop(shut);
            seen
        });
        until(|| woken.count() > seen);
        let record = replayed(ready(woken.poll(future.as_mut())));
        assert_eq!(record.response(), Some(&b"order 1"[..]));
    });
}

#[test]
fn their_time_is_the_store_s() {
    must_end(|| {
        let (store, clock) = threaded();
        let _claim = store.claim("k");
        let mut future = waiting(&store, 30 * SECOND);
        let woken = Woken::new();
        assert!(woken.poll(future.as_mut()).is_pending());
        clock.advance(30 * SECOND);
        woken.wait(0);
        assert_eq!(pending(ready(woken.poll(future.as_mut()))).running_for(), 30 * SECOND);
    });
}

#[test]
fn a_thousand_dropped_ones_leave_nothing() {
    must_end(|| {
        let (store, _) = threaded();
        let claim = store.claim("k");
        let woken = Woken::new();
        let mut futures: Vec<_> = (0..1000).map(|_| waiting(&store, MINUTE)).collect();
        for future in &mut futures {
            assert!(woken.poll(future.as_mut()).is_pending());
        }
        assert_eq!(store.stats().waiters, 1000);
        futures.truncate(1);
        assert_eq!(store.stats().waiters, 1);
        drop(claim);
        assert_eq!(woken.count(), 1);
        drop(futures);
        // A waker that is kept anywhere would keep its count alive.
        assert_eq!(Arc::strong_count(&woken), 1);
    });
}

#[test]
fn a_release_gives_the_claim_to_one_future() {
    must_end(|| {
        let (store, _) = threaded();
        let claim = store.claim("k");
        let wakers = [(); 3].map(|()| Woken::new());
        let mut futures = [(); 3].map(|()| waiting(&store, MINUTE));
        for (woken, future) in wakers.iter().zip(&mut futures) {
            assert!(woken.poll(future.as_mut()).is_pending());
        }
        claim.release().unwrap();
        let [first, rest @ ..] = &mut futures;
        let claim = granted(block_on(first.as_mut()).unwrap());
        for (woken, future) in wakers[1..].iter().zip(rest) {
            woken.wait(0);
            assert!(woken.poll(future.as_mut()).is_pending(), "goes on waiting");
        }
        assert_eq!(store.stats().waiters, 2);
        drop(claim);
    });
}
