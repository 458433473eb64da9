//! Requests of one thread, for counting the instructions of one kind of call in them: see
//! `benches/instructions`.
//!
//! `requests COUNT`: each request begins a new key, completes it with 1 KiB, and asks for one that
//! was completed before, on a store that is warm. The
//! functions `begin`, `complete` and `replay` of this program are never inlined, so that a
//! profiler can be told to count only inside one of them.

use measure::{
    Folder,
    work::{self, Key, RESPONSE_BYTES, key, new_series},
};
use onlyonce::{Begin, Claim, Durability, ManualClock, Options, Scope, Store};
use std::{hint::black_box, time::Duration};

#[inline(never)]
fn begin(store: &Store, scope: &Scope, key: &Key) -> Claim {
    work::execute(store, scope, key)
}

#[inline(never)]
fn complete(mut claim: Claim, response: &[u8]) {
    claim.complete(response).expect("the store works");
}

#[inline(never)]
fn replay(store: &Store, scope: &Scope, key: &Key) {
    let Begin::Replay(record) = work::begin(store, scope, key) else { panic!("it was completed") };
    black_box(record.response());
}

/// Records before those that count: as many expire, so that tables and segments are large enough.
const BEFORE: u64 = 20_000;
/// A replay asks for a key that was completed so many requests ago, which is more than the ring
/// holds: its record lies in a segment.
const AGO: u64 = 5_000;
const RETENTION: Duration = Duration::from_secs(3600);

fn main() {
    let count: u64 = std::env::args().nth(1).and_then(|n| n.parse().ok()).expect("how many?");
    let folder = Folder::new("requests", None);
    let clock = ManualClock::at(1_800_000_000_000);
    // No threads and a clock that stands still: the same instructions each time.
    let store = Options::new()
        .durability(Durability::Buffered { max_delay: RETENTION })
        .retention(RETENTION)
        .clock(clock.clone())
        .background(false)
        .open(folder.path())
        .expect("the store opens");
    let scope = work::scope();
    let fill = |series, records| {
        let keys = (0..records).map(|i| key(series, i));
        keys.for_each(|key| work::pair(&store, &scope, &key, &[7; RESPONSE_BYTES]));
    };
    fill(new_series(), BEFORE);
    clock.advance(2 * RETENTION);
    while store.stats().records > 0 {
        store.housekeep().expect("the store works");
    }
    let series = new_series();
    fill(series, AGO);
    for i in AGO..AGO + count {
        complete(begin(&store, &scope, &key(series, i)), &[7; RESPONSE_BYTES]);
        replay(&store, &scope, &key(series, i - AGO));
    }
}
