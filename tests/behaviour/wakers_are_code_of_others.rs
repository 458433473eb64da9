//! A waker is code of others. It may close the store, or drop the last handle, on
//! whichever thread calls it; and one that panics keeps no other waiter waiting and takes no group commit's
//! leader with it.

use crate::common::{
    futures::{Woken, block_on},
    *,
};
use onlyonce::*;
use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Wake, Waker},
};

/// Runs something when it is woken, once.
struct Does(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Does {
    fn waker(what: impl FnOnce() + Send + 'static) -> Waker {
        Waker::from(Arc::new(Does(Mutex::new(Some(Box::new(what))))))
    }
}

impl Wake for Does {
    fn wake(self: Arc<Self>) {
        let what = self.0.lock().unwrap().take();
        if let Some(what) = what {
            what();
        }
    }
}

type Waiting = Pin<Box<dyn Future<Output = Begin<AsyncStore<Store>>> + Send>>;

/// Somebody who waits for "k", for a minute, and calls `waker` when it changes.
fn waits(store: &Store, waker: &Waker) -> Waiting {
    let face = AsyncStore::new(store.clone());
    let mut waiting: Waiting = Box::pin(async move {
        let Begin::InFlight(pending) = face.begin(key("k"), print()).await.unwrap() else {
            panic!("not in flight");
        };
        pending.wait(MINUTE).await.unwrap()
    });
    assert!(waiting.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
    waiting
}

fn panics() -> Waker {
    Does::waker(|| panic!("a waker that panics, on purpose"))
}

/// On the thread of the holder that ends, of the group commit's leader, and of the one that watches leases.
#[test]
fn one_that_panics_keeps_no_other_waiting() {
    for durability in [Durability::Synced, Durability::Buffered { max_delay: SECOND }] {
        for lease_passes in [false, true] {
            must_end(move || {
                let sim = Sim::with(|options| {
                    options.background(true).durability(durability).lease(SECOND)
                });
                let store = sim.open();
                let mut claim = store.claim("k");
                let _first = waits(&store, &panics());
                let woken = Woken::new();
                let second = waits(&store, &Waker::from(woken.clone()));
                if lease_passes {
                    sim.clock.advance(2 * SECOND);
                } else {
                    claim.complete(b"order 1").unwrap();
                }
                woken.wait(0);
                drop(block_on(second));
                // The group commit has a leader again, and no thread of the store is gone.
                claim.complete(b"order 1").unwrap();
                store.finish("l", b"order 2");
                store.flush().unwrap();
                store.close().unwrap();
            });
        }
    }
}

/// The holder's thread, the group commit's leader, or a thread of the store calls the waker.
#[test]
fn one_may_close_the_store() {
    for durability in [Durability::Synced, Durability::Buffered { max_delay: SECOND }] {
        for lease_passes in [false, true] {
            must_end(move || {
                let sim = Sim::with(|options| {
                    options.background(true).durability(durability).lease(SECOND)
                });
                let store = sim.open();
                let mut claim = store.claim("k");
                let closed = Arc::new(Mutex::new(None));
                let (closes, tells) = (store.clone(), closed.clone());
                let waker = Does::waker(move || {
                    let result = closes.clone().close();
                    // And again, from the same place.
                    assert!(closes.close().is_ok());
                    *tells.lock().unwrap() = Some(result);
                });
                let _waiting = waits(&store, &waker);
                if lease_passes {
                    sim.clock.advance(2 * SECOND);
                } else {
                    claim.complete(b"order 1").unwrap();
                }
                until(|| closed.lock().unwrap().is_some());
                assert!(matches!(closed.lock().unwrap().take(), Some(Ok(_))));
                assert!(matches!(store.get(key("k")), Err(StoreError::Closed)));
                drop((store, claim));
                let again = sim.open();
                if !lease_passes {
                    assert_eq!(again.answer("k"), b"order 1");
                }
            });
        }
    }
}

/// The keeping thread tells those who wait for supply; the one it tells drops the last handles.
#[test]
fn one_may_drop_the_last_handle_on_the_keeping_thread() {
    must_end(|| {
        let buffered = Durability::Buffered { max_delay: MINUTE };
        let sim =
            Sim::with(|options| options.background(true).max_claims(4096).durability(buffered));
        let store = sim.open();
        let handles = Arc::new(Mutex::new(Some((store.clone(), Vec::new()))));
        let drops = handles.clone();
        let waker = Does::waker(move || {
            let handles = drops.lock().unwrap().take();
            drop(handles);
        });
        let mut context = Context::from_waker(&waker);
        // Until one waits for space, and is told by the next round.
        for n in 0.. {
            let (face, name) = (AsyncStore::new(store.clone()), format!("key-{n}"));
            let mut begin = Box::pin(async move { face.begin(key(&name), print()).await.unwrap() });
            let Poll::Ready(begun) = begin.as_mut().poll(&mut context) else { break };
            let mut handles = handles.lock().unwrap();
            handles.as_mut().expect("nothing has been waited for").1.push(begun);
        }
        drop(store);
        until(|| handles.lock().unwrap().is_none());
        // The directory is free.
        until(|| sim.try_open().is_ok());
    });
}
