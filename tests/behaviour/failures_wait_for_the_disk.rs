//! A failure is told when it is durable, and not shown before: until then its key is in flight to
//! others, and the same answer again waits with the first.

use crate::common::{
    futures::{Woken, block_on},
    gate::Gated,
    *,
};
use onlyonce::{spi::ClaimOp, *};
use std::{sync::Arc, thread};

#[test]
fn until_then_its_key_is_in_flight() {
    must_end(|| {
        let sim = Sim::new();
        let disk = Gated::new(&sim.disk);
        let store = sim.options.open_on(Arc::new(disk.clone())).unwrap();
        // Before it in the log, and durable.
        store.finish("another", b"order 1");
        let request =
            spi::Request { key: key("k").into(), fingerprint: print(), terms: Terms::default() };
        let found = block_on(IdempotencyStore::begin(&store, &request)).unwrap();
        let spi::Found::Granted(spi::Grant { ticket, .. }) = found else { panic!("{found:?}") };
        let fail = |answer: &'static [u8]| {
            Box::pin(IdempotencyStore::write(&store, &ticket, ClaimOp::Fail(answer)))
        };
        let shut = disk.shut("segment-");
        let mut again = fail(b"502");
        let woken = Woken::new();
        thread::scope(|scope| {
            let first = scope.spawn(|| block_on(fail(b"502")));
            shut.until_reached();
            assert!(store.is_in_flight("k"));
            let entry = store.get(key("k")).unwrap().unwrap();
            assert!(matches!(entry.state, State::InFlight { .. }), "{entry:?}");
            assert!(woken.poll(again.as_mut()).is_pending(), "told before it is durable");
            assert_eq!(block_on(fail(b"500")), Err(ClaimError::DifferentResponse));
            drop(shut);
            assert_eq!(first.join().unwrap(), Ok(()));
        });
        assert_eq!(block_on(again), Ok(()));
        let stuck = store.stuck("k");
        assert_eq!(stuck.reason(), Reason::Failed);
        assert_eq!(stuck.answer().map(|answer| &answer[..]), Some(&b"502"[..]));
    });
}

#[test]
fn in_buffered_it_is_shown_when_it_survives_the_process() {
    must_end(|| {
        let durability = Durability::Buffered { max_delay: SECOND };
        let sim = Sim::with(|options| options.background(true).durability(durability));
        let disk = Gated::new(&sim.disk);
        let store = sim.options.open_on(Arc::new(disk.clone())).unwrap();
        // A segment is in use by the class of failures, whose ring is memory.
        store.claim("another").fail(b"500").unwrap();
        let mut claim = store.claim("k");
        store.flush().unwrap();
        let shut = disk.shut_writes("segment-");
        thread::scope(|scope| {
            let holder = scope.spawn(|| claim.fail(b"502"));
            shut.until_reached();
            let Begin::InFlight(pending) = store.begin(key("k"), print()).unwrap() else {
                panic!("shown before it survives the process");
            };
            let entry = store.get(key("k")).unwrap().unwrap();
            assert!(matches!(entry.state, State::InFlight { .. }), "{entry:?}");
            let waiter = scope.spawn(|| pending.wait(MINUTE).unwrap());
            drop(shut);
            assert_eq!(holder.join().unwrap(), Ok(()));
            let Begin::Interrupted(stuck) = waiter.join().unwrap() else { panic!() };
            assert_eq!(stuck.answer().map(|answer| &answer[..]), Some(&b"502"[..]));
        });
    });
}
