//! S28: `once` that waits and loses an interrupted key to a quicker caller goes on waiting for
//! what is left of its time, blocking and async: one of many executes, the others replay.

use crate::common::{
    futures::{Woken, block_on},
    *,
};
use onlyonce::{
    spi::{Abandon, ClaimOp, Found, Request, Ticket},
    *,
};
use std::{
    future::Future,
    sync::{
        Arc, Barrier,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

/// A backend in which another caller is quicker at the first takeovers.
#[derive(Clone, Debug)]
struct Contested {
    store: Store,
    /// Takeovers that are lost.
    losses: Arc<AtomicU32>,
    quicker: Arc<std::sync::Mutex<Vec<Claim>>>,
}

impl Contested {
    fn new(store: &Store, losses: u32) -> Self {
        let losses = Arc::new(AtomicU32::new(losses));
        Contested { store: store.clone(), losses, quicker: Arc::default() }
    }

    fn quicker(&self) -> Claim {
        self.quicker.lock().unwrap().pop().expect("it was quicker")
    }
}

impl IdempotencyStore for Contested {
    fn begin(&self, request: &Request) -> impl Future<Output = Result<Found, BeginError>> + Send {
        IdempotencyStore::begin(&self.store, request)
    }

    fn take_over(
        &self,
        request: &Request,
        seen: Token,
    ) -> impl Future<Output = Result<Found, BeginError>> + Send {
        if self.losses.load(Ordering::SeqCst) > 0 {
            self.losses.fetch_sub(1, Ordering::SeqCst);
            let stuck = self.store.stuck("k");
            self.quicker.lock().unwrap().push(granted(stuck.take_over().unwrap()));
        }
        self.store.take_over(request, seen)
    }

    fn write(
        &self,
        ticket: &Ticket,
        op: ClaimOp<'_>,
    ) -> impl Future<Output = Result<(), ClaimError>> + Send {
        IdempotencyStore::write(&self.store, ticket, op)
    }

    fn changed(
        &self,
        request: &Request,
        seen: Token,
        at_most: Duration,
    ) -> impl Future<Output = bool> + Send {
        self.store.changed(request, seen, at_most)
    }

    fn now(&self) -> Duration {
        self.store.now()
    }

    fn abandon(&self, ticket: &Ticket, how: Abandon) {
        self.store.abandon(ticket, how);
    }
}

type Contender = AsyncStore<Contested>;
type Answer = Result<Outcome, OnceError<Contender, ()>>;

async fn nothing_happened(_: &Claim<Contender>) -> Settled {
    Settled::NothingHappened
}

async fn work(_: &mut Claim<Contender>) -> Result<Vec<u8>, WorkError<()>> {
    Ok(b"order 1".to_vec())
}

#[test]
fn who_loses_waits_and_replays() {
    must_end(|| {
        let (store, _) = threaded();
        drop(store.claim("k"));
        let contested = Contested::new(&store, 1);
        let once = AsyncStore::new(contested.clone()).once(key("k"), print());
        let run = once.wait(MINUTE).settle(nothing_happened).run(work);
        let (mut run, woken) = (Box::pin(run), Woken::new());
        assert!(woken.poll(run.as_mut()).is_pending());
        contested.quicker().complete(b"the quicker one's").unwrap();
        let answer: Answer = block_on(run);
        assert_eq!(answer.unwrap().response(), Some(&b"the quicker one's"[..]));
    });
}

#[test]
fn who_loses_to_one_that_did_nothing_takes_over_after_all() {
    must_end(|| {
        let (store, _) = threaded();
        drop(store.claim("k"));
        let contested = Contested::new(&store, 2);
        let once = AsyncStore::new(contested.clone()).once(key("k"), print());
        let run = once.wait(MINUTE).settle(nothing_happened).run(work);
        let (mut run, woken) = (Box::pin(run), Woken::new());
        for _ in 0..2 {
            let seen = woken.count();
            assert!(woken.poll(run.as_mut()).is_pending());
            contested.quicker().release().unwrap();
            woken.wait(seen);
        }
        let answer: Answer = block_on(run);
        assert_eq!(answer.unwrap(), Outcome::Executed(b"order 1".to_vec()));
    });
}

#[test]
fn all_the_waiting_together_is_no_longer_than_the_wait() {
    must_end(|| {
        let (store, clock) = threaded();
        drop(store.claim("k"));
        let contested = Contested::new(&store, 2);
        let once = AsyncStore::new(contested.clone()).once(key("k"), print());
        let run = once.wait(MINUTE).settle(nothing_happened).run(work);
        let (mut run, woken) = (Box::pin(run), Woken::new());
        let seen = woken.count();
        assert!(woken.poll(run.as_mut()).is_pending());
        clock.advance(MINUTE - SECOND);
        contested.quicker().release().unwrap();
        woken.wait(seen);
        assert!(woken.poll(run.as_mut()).is_pending());
        clock.advance(SECOND);
        let answer: Answer = block_on(run);
        assert!(matches!(answer, Err(OnceError::InFlight { .. })), "{answer:?}");
        contested.quicker().release().unwrap();
    });
}

#[test]
fn without_a_wait_who_loses_is_told_at_once() {
    must_end(|| {
        let (store, _) = threaded();
        drop(store.claim("k"));
        let contested = Contested::new(&store, 1);
        let once = AsyncStore::new(contested.clone()).once(key("k"), print());
        let answer: Answer = block_on(once.settle(nothing_happened).run(work));
        assert!(matches!(answer, Err(OnceError::InFlight { .. })), "{answer:?}");
    });
}

#[test]
fn of_three_that_race_one_executes_and_two_replay() {
    must_end(|| {
        let (store, _) = threaded();
        for round in 0..200 {
            let name = round.to_string();
            drop(store.claim(&name));
            let (barrier, ran) = (Barrier::new(3), AtomicU32::new(0));
            let race = || {
                barrier.wait();
                let once = store.once(key(&name), print()).wait(HOUR);
                let answer: Result<Outcome, OnceError<Store, ()>> =
                    once.settle(|_| Settled::NothingHappened).run(|_| {
                        ran.fetch_add(1, Ordering::SeqCst);
                        Ok(b"order 1".to_vec())
                    });
                answer.unwrap()
            };
            let answers: Vec<Outcome> = thread::scope(|scope| {
                let racers: Vec<_> = (0..3).map(|_| scope.spawn(race)).collect();
                racers.into_iter().map(|racer| racer.join().unwrap()).collect()
            });
            assert_eq!(ran.load(Ordering::SeqCst), 1);
            assert!(answers.iter().all(|answer| answer.response() == Some(&b"order 1"[..])));
            let first = answers.iter().filter(|answer| matches!(answer, Outcome::Executed(_)));
            assert_eq!(first.count(), 1);
            store.resolve_with(key(&name), Resolution::Forget, ResolveOptions::forced()).unwrap();
        }
    });
}
