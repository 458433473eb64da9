//! A store that nobody writes to any more lets go of what has expired, its last segment too: by its
//! own threads, however they meet on the way.

use crate::common::*;
use onlyonce::*;

const ROUNDS: u64 = 300;

fn forgets(durability: Durability) {
    let sim = Sim::with(|options| options.background(true).durability(durability));
    let store = sim.open();
    for round in 0..ROUNDS {
        store.finish(&format!("key {round}"), b"done");
        store.flush().unwrap();
        sim.clock.advance(3 * DAY);
        until(|| store.stats().records == 0);
    }
}

#[test]
fn synced() {
    forgets(Durability::Synced);
}

#[test]
fn buffered() {
    forgets(Durability::Buffered { max_delay: SECOND });
}
