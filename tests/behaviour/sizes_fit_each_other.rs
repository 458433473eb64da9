//! S33: sizes that an opening believes fit each other, and what fits nowhere is an error: nobody
//! waits for room that can't come.

use crate::common::*;
use onlyonce::{storage::Storage, *};

/// With these options the ring that the store was made with can't hold the largest response.
fn larger(options: &Options) -> Options {
    options.clone().max_response(1 << 20).segment_bytes(8 << 20).capacity(64 << 20)
}

#[test]
fn a_ring_that_is_made_anew_is_large_enough_too() {
    let sim = Sim::new();
    drop(sim.open());
    sim.disk.remove("ring").unwrap();
    let open = |recovery| {
        let options = larger(&sim.options).recovery(recovery);
        options.open_on(std::sync::Arc::new(sim.disk.clone()))
    };
    assert!(matches!(open(Recovery::Strict), Err(OpenError::Missing { .. })));
    // What was refused has changed nothing.
    assert!(sim.disk.list().unwrap().iter().all(|name| name != "ring"));
    open(Recovery::Salvage).unwrap().finish("k", &vec![7; 1 << 20]);
    assert!(sim.disk.snapshot()["ring"].len() >= 4 << 20);
    assert_eq!(open(Recovery::Strict).unwrap().answer("k"), vec![7; 1 << 20]);
}

/// A claim keeps what it was promised, but the store's sizes are for today's responses: in a class
/// of its own a larger one would never find room, in the main class no segment.
#[test]
fn a_claim_of_larger_options_is_completed_within_today_s() {
    for retention in [None, Some(Retention::from(MINUTE))] {
        must_end(move || {
            let sim = Sim::new();
            let options = larger(&sim.options);
            let disk = std::sync::Arc::new(sim.disk.clone());
            drop(options.open_on(disk.clone()).unwrap().claim("k"));
            let store = sim.open();
            let mut claim = granted(store.stuck("k").take_over().unwrap());
            let response = vec![7; 1 << 20];
            let completion = |response| Completion { response, retention, head: b"head" };
            let refused = claim.complete_with(completion(Some(&response[..])));
            let limit = 4096;
            let len = response.len() + 4;
            assert_eq!(refused, Err(ClaimError::ResponseTooLarge { len, limit }));
            assert_eq!(
                claim.fail(&response),
                Err(ClaimError::ResponseTooLarge { len: response.len(), limit })
            );
            claim.complete_with(completion(Some(&response[..4000]))).unwrap();
            assert_eq!(store.answer("k"), &response[..4000]);
        });
    }
}
