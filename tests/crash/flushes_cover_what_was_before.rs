//! What had been answered before a flush began is durable when it has returned, also if it began
//! beside another one.

use crate::common::{gate::Gated, *};
use onlyonce::*;
use std::{sync::Arc, thread};

/// A record that came while another flush was at the disk: that one did not cover it, though the
/// record was in its file before it ended.
#[test]
fn what_came_while_another_flush_ran() {
    let buffered = Durability::Buffered { max_delay: HOUR };
    let mut sim = Sim::with(|options| options.durability(buffered).retention(HOUR));
    let disk = Gated::new(&sim.disk);
    let store = sim.options.open_on(Arc::new(disk.clone())).unwrap();
    // Of a class whose records are written to their file before the answer.
    let complete = |name: &str| {
        let retention = Some(Retention::from(4 * HOUR));
        let completion = Completion { response: Some(b"done"), retention, head: b"" };
        store.claim(name).complete_with(completion).unwrap();
    };
    complete("first");
    let shut = disk.hold_synced("segment-");
    let flush = {
        let store = store.clone();
        thread::spawn(move || store.flush())
    };
    shut.until_reached();
    complete("second");
    drop(shut);
    flush.join().unwrap().unwrap();
    store.flush().unwrap();
    let cut = sim.disk.clone();
    for _ in 0..30 {
        sim.disk = cut.power_cut();
        let store = sim.open();
        assert_eq!(store.answer("first"), b"done");
        assert_eq!(store.answer("second"), b"done");
    }
}
