//! A write that ends in the middle of a page which is in no cache has to read it from the disk
//! first, and the thread that drains would wait for that. So every write to a segment ends with a
//! page, wherever the records and the ring end.

use crate::common::{gate::Gated, *};
use onlyonce::*;
use std::sync::Arc;

const PAGE: u64 = 4096;

#[test]
fn a_drain_ends_with_a_page() {
    for durability in [Durability::Synced, Durability::Buffered { max_delay: MINUTE }] {
        let sim = Sim::with(|options| options.durability(durability));
        let disk = Gated::new(&sim.disk);
        let store = sim.options.open_on(Arc::new(disk.clone())).unwrap();
        // Of sizes that meet neither the pages nor the end of the ring.
        for n in 0..200 {
            store.finish(&format!("key-{n}"), &vec![n as u8; 1000 + 37 * (n % 80)]);
            if n % 50 == 49 {
                store.flush().unwrap();
            }
        }
        let writes = disk.region_writes();
        assert!(writes.len() > 5, "{writes:?}");
        for write in &writes {
            assert_eq!(write.end % PAGE, 0, "{write:?}");
        }
        // They follow each other, or begin in the page with which the last one ended.
        for pair in writes.windows(2) {
            let begins = pair[1].start;
            let new_segment = begins == PAGE;
            assert!(new_segment || (begins <= pair[0].end && begins + PAGE > pair[0].end));
        }
        for n in 0..200 {
            assert_eq!(store.answer(&format!("key-{n}")), vec![n as u8; 1000 + 37 * (n % 80)]);
        }
    }
}
