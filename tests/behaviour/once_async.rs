//! `once` over futures: the same answers, and a future that is dropped leaves a key that is free
//! if nothing ran and never free if something did.

use crate::common::{
    futures::{Woken, block_on, drop_after},
    *,
};
use onlyonce::*;
use std::{cell::Cell, future::pending as forever};

type Async = AsyncStore<Store>;
type Answer = Result<Outcome, OnceError<Async, &'static str>>;

fn once(store: &Store) -> Once<'static, Async> {
    AsyncStore::new(store.clone()).once(key("k"), print())
}

async fn work(_: &mut Claim<Async>) -> Result<Vec<u8>, WorkError<&'static str>> {
    Ok(b"order 1".to_vec())
}

async fn never(_: &mut Claim<Async>) -> Result<Vec<u8>, WorkError<&'static str>> {
    panic!("ran")
}

#[test]
fn it_runs_once_and_is_replayed() {
    must_end(|| {
        let (store, _) = threaded();
        assert_eq!(
            block_on(once(&store).run(work)).unwrap(),
            Outcome::Executed(b"order 1".to_vec())
        );
        let again = block_on(once(&store).run(never)).unwrap();
        assert_eq!(again, Outcome::Replayed(replayed(store.ask("k"))));
        let other = AsyncStore::new(store.clone()).once(key("k"), other_print());
        assert!(matches!(block_on(other.run(never)), Err(OnceError::Mismatch)));
    });
}

#[test]
fn errors_of_the_work() {
    must_end(|| {
        let (store, _) = threaded();
        let nothing = async |_: &mut Claim<Async>| Err(WorkError::NothingDone("no stock"));
        let answer: Answer = block_on(once(&store).run(nothing));
        assert!(matches!(answer, Err(OnceError::Work(WorkError::NothingDone("no stock")))));
        assert!(store.is_absent("k"));
        let unknown = async |_: &mut Claim<Async>| Err(WorkError::Unknown("timeout"));
        let answer: Answer = block_on(once(&store).run(unknown));
        assert!(matches!(answer, Err(OnceError::Work(WorkError::Unknown("timeout")))));
        let answer: Answer = block_on(once(&store).run(never));
        assert!(matches!(answer, Err(OnceError::Interrupted(Some(_)))));
    });
}

#[test]
fn it_settles() {
    must_end(|| {
        let (store, _) = threaded();
        let settle = |store: &Store, settled: Settled| {
            drop(store.claim("k"));
            let once = once(store).settle(async |_: &Claim<Async>| settled);
            let answer: Answer = block_on(once.run(work));
            let after = store.get(key("k")).unwrap().unwrap().state;
            store.resolve_with(key("k"), Resolution::Forget, ResolveOptions::forced()).unwrap();
            (answer, after)
        };
        let (answer, after) = settle(&store, Settled::Happened(b"found".to_vec()));
        assert!(matches!(after, State::Completed(_)));
        assert_eq!(answer.unwrap().response(), Some(&b"found"[..]));
        let (answer, after) = settle(&store, Settled::NothingHappened);
        assert!(matches!(after, State::Completed(_)));
        assert_eq!(answer.unwrap(), Outcome::Executed(b"order 1".to_vec()));
        let (answer, after) = settle(&store, Settled::Unknown);
        assert!(matches!(after, State::Interrupted { reason: Reason::Dropped, .. }));
        assert!(matches!(answer, Err(OnceError::Interrupted(Some(_)))));
    });
}

#[test]
fn dropped_while_it_looks_it_uses_up_no_attempt() {
    must_end(|| {
        let (store, _) = threaded();
        let mut failed = store.claim("k");
        failed.fail(b"500").unwrap();
        drop(failed);
        let looks = Cell::new(false);
        let look = once(&store).settle(async |_: &Claim<Async>| {
            looks.set(true);
            forever().await
        });
        let mut run = Box::pin(look.run(never));
        let woken = Woken::new();
        while !looks.get() {
            let seen = woken.count();
            assert!(woken.poll(run.as_mut()).is_pending());
            if !looks.get() {
                woken.wait(seen);
            }
        }
        assert!(store.is_in_flight("k"));
        drop(run);
        let stuck = store.stuck("k");
        assert_eq!((stuck.reason(), stuck.attempts()), (Reason::Failed, 1));
        assert!(stuck.holder_gone() && stuck.answer().is_some());
        assert_eq!(stuck.settle_after(), SECOND);
    });
}

#[test]
fn it_waits_and_is_woken() {
    must_end(|| {
        let (store, _) = threaded();
        let mut claim = store.claim("k");
        let mut future = Box::pin(once(&store).wait(MINUTE).run(never));
        let woken = Woken::new();
        assert!(woken.poll(future.as_mut()).is_pending());
        claim.complete(b"the other's").unwrap();
        assert_eq!(block_on(future).unwrap().response(), Some(&b"the other's"[..]));
        assert!(woken.count() > 0);
    });
}

#[test]
fn dropped_at_every_poll_it_is_free_only_if_nothing_ran() {
    must_end(|| {
        let (store, _) = threaded();
        store.finish("that opens a segment", b"order 0");
        for polls in 0.. {
            let ran = Cell::new(false);
            let run = once(&store).run(async |_: &mut Claim<Async>| {
                ran.set(true);
                Ok::<_, WorkError<()>>(b"order 1".to_vec())
            });
            let ended = drop_after(run, polls);
            store.flush().unwrap();
            let state = store.get(key("k")).unwrap().map(|entry| entry.state);
            match (ran.get(), state) {
                (false, None) => {}
                (true, Some(State::Completed(record))) => {
                    assert_eq!(record.response(), Some(&b"order 1"[..]));
                    store
                        .resolve_with(key("k"), Resolution::Forget, ResolveOptions::forced())
                        .unwrap();
                }
                other => panic!("after {polls} polls: {other:?}"),
            }
            assert_eq!(store.stats().holders, 0);
            if ended.is_ok() {
                return;
            }
        }
    });
}

#[test]
fn dropped_while_its_work_runs_it_is_interrupted() {
    must_end(|| {
        let (store, _) = threaded();
        let started = Cell::new(false);
        let mut future = Box::pin(once(&store).run::<()>(async |claim: &mut Claim<Async>| {
            claim.save_checkpoint(b"half").await.unwrap();
            started.set(true);
            forever().await
        }));
        let woken = Woken::new();
        while !started.get() {
            let seen = woken.count();
            assert!(woken.poll(future.as_mut()).is_pending());
            if !started.get() {
                woken.wait(seen);
            }
        }
        drop(future);
        let stuck = store.stuck("k");
        assert_eq!((stuck.reason(), stuck.holder_gone()), (Reason::Dropped, true));
        assert_eq!(stuck.checkpoint(), Some(&b"half"[..]));
    });
}
