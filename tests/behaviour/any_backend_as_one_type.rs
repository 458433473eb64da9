//! `AnyStore` hides which backend a service runs on; the names and the answers are the same.

use crate::common::{futures::block_on, *};
use onlyonce::*;

fn any(store: &Store) -> AsyncStore<AnyStore> {
    AsyncStore::new(AnyStore::new(store.clone()))
}

#[test]
fn it_gives_the_same_answers() {
    must_end(|| {
        let (store, clock) = threaded();
        let face = any(&store);
        let begin = |print| block_on(face.begin(key("k"), print)).unwrap();
        let mut late = granted(begin(print()));
        assert!(matches!(begin(print()), Begin::InFlight(_)));
        assert!(matches!(begin(other_print()), Begin::Mismatch { scheme: 0 }));
        block_on(late.save_checkpoint(b"half")).unwrap();
        block_on(late.renew()).unwrap();
        block_on(late.ensure_durable()).unwrap();
        clock.advance(MINUTE);
        let stuck = interrupted(begin(print()));
        assert_eq!((stuck.reason(), stuck.checkpoint()), (Reason::LeasePassed, Some(&b"half"[..])));
        let mut taker = granted(block_on(stuck.take_over()).unwrap());
        assert_eq!(block_on(late.complete(b"late")), Err(ClaimError::Fenced));
        block_on(taker.fail(b"500")).unwrap();
        block_on(taker.complete(b"order 1")).unwrap();
        assert_eq!(replayed(begin(print())).response(), Some(&b"order 1"[..]));
        assert_eq!(store.answer("k"), b"order 1");
    });
}

#[test]
fn dropping_and_releasing_reach_the_backend() {
    must_end(|| {
        let (store, _) = threaded();
        let face = any(&store);
        drop(granted(block_on(face.begin(key("dropped"), print())).unwrap()));
        assert_eq!(store.stuck("dropped").reason(), Reason::Dropped);
        let claim = granted(block_on(face.begin(key("released"), print())).unwrap());
        block_on(claim.release()).unwrap();
        assert!(store.is_absent("released"));
    });
}

#[test]
fn one_can_wait_and_run_once_on_it() {
    must_end(|| {
        let (store, _) = threaded();
        let face = any(&store);
        let mut claim = store.claim("k");
        let waiting = pending(block_on(face.begin(key("k"), print())).unwrap());
        claim.complete(b"order 1").unwrap();
        let begin = block_on(waiting.wait(MINUTE)).unwrap();
        assert_eq!(replayed(begin).response(), Some(&b"order 1"[..]));
        let work = async |_: &mut Claim<AsyncStore<AnyStore>>| Ok::<_, WorkError<()>>(vec![2]);
        let ran = block_on(face.once(key("l"), print()).run(work)).unwrap();
        assert_eq!(ran, Outcome::Executed(vec![2]));
        assert_eq!(store.answer("l"), [2]);
    });
}
