//! `ensure_durable` in the settings in which a claim is not durable by itself: once it has returned, a
//! loss of power leaves the claim, or what ended it.

use crate::common::{gate::Gated, *};
use onlyonce::*;
use std::{sync::Arc, thread};

/// An operator completes the key while the claims file is on its way to the disk, and the record is
/// not durable yet when the power goes.
#[test]
fn a_claim_that_an_operator_completes_meanwhile() {
    for durability in [Durability::SyncedCompletions, Durability::Buffered { max_delay: HOUR }] {
        let mut sim = Sim::with(|options| options.durability(durability));
        let disk = Gated::new(&sim.disk);
        let store = sim.options.open_on(Arc::new(disk.clone())).unwrap();
        let mut claim = store.claim("k");
        let claims = disk.shut("claims");
        let holder = thread::spawn(move || claim.ensure_durable());
        claims.until_reached();
        let log = disk.shut("segment-");
        let operator = thread::spawn(move || {
            let response = Completion { response: Some(b"by hand"), ..Completion::default() };
            let decision = Resolution::Complete { fingerprint: None, completion: response };
            store.resolve_with(key("k"), decision, ResolveOptions::forced())
        });
        log.until_reached();
        drop(claims);
        holder.join().unwrap().unwrap();
        let cut = sim.disk.clone();
        for _ in 0..30 {
            sim.disk = cut.power_cut();
            let store = sim.open();
            assert!(!store.is_absent("k"), "{durability:?}: the claim is gone");
        }
        drop(log);
        operator.join().unwrap().unwrap_err();
    }
}
