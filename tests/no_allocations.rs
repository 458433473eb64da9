//! What a warm store takes from the allocator for each request, on the caller's thread.
//!
//! The figures are exact, so that a change shows in either direction: one that needs less is
//! entered here, one that needs more has to say why. What the store's own threads allocate, with
//! nobody waiting, is not counted.

use onlyonce::*;
use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    path::Path,
    time::Duration,
};

/// The system's allocator, counting for each thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // A thread that is ending has no cell any more.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every call is the system allocator's, with the arguments as they came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps what `alloc` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        // SAFETY: as above, and `memory` came from the system's allocator.
        unsafe { System.realloc(memory, layout, bytes) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often `f` allocates.
fn allocations<T>(f: impl FnOnce() -> T) -> (u64, T) {
    let before = ALLOCATIONS.get();
    let result = f();
    (ALLOCATIONS.get() - before, result)
}

const RETENTION: Duration = Duration::from_secs(3600);

/// How often each request of a kind allocated.
#[derive(Default)]
struct Counts {
    begin: Vec<u64>,
    complete: Vec<u64>,
    drop: Vec<u64>,
    replay: Vec<u64>,
}

/// One request for each of so many new keys, each asked for again.
fn requests(store: &Store, round: u64, requests: u64) -> Counts {
    let (scope, print) = (Scope::global(), Fingerprint::of(["charge"]));
    let mut counts = Counts::default();
    for i in 0..requests {
        let name = format!("{round:08x}-{i:027x}");
        let key = KeyRef::new(&scope, &name).unwrap();
        let (begin, begun) = allocations(|| store.begin(key, print).unwrap());
        let Begin::Execute(mut claim) = begun else { panic!("a new key") };
        let (complete, ()) = allocations(|| claim.complete(&[7; 1024]).unwrap());
        let (dropped, ()) = allocations(|| drop(claim));
        let (replay, found) = allocations(|| store.begin(key, print).unwrap());
        let Begin::Replay(record) = found else { panic!("a completed key") };
        assert_eq!(record.response(), Some(&[7; 1024][..]));
        counts.begin.push(begin);
        counts.complete.push(complete);
        counts.drop.push(dropped);
        counts.replay.push(replay);
    }
    counts
}

/// All but one in twenty of the requests allocated exactly so often. The others: a table of the
/// index or the list for a footer grew, which is paid for by the requests in between.
fn usually(kind: &str, times: u64, counts: &[u64]) {
    let others: Vec<_> = counts.iter().filter(|count| **count != times).collect();
    assert!(
        others.len() * 20 <= counts.len(),
        "{kind}: {} of {} allocated not {times} times but {:?} ...",
        others.len(),
        counts.len(),
        &others[..others.len().min(5)],
    );
}

/// A directory in memory where there is such a place: what is counted here is the same, and the
/// many syncs cost nothing.
fn memory() -> tempfile::TempDir {
    let place = Path::new("/dev/shm");
    if place.is_dir() { tempfile::tempdir_in(place).unwrap() } else { tempfile::tempdir().unwrap() }
}

/// What a request takes once segments, tables and queues have been larger than they have to be.
fn warm(durability: Durability, count: u64) -> Counts {
    let (dir, clock) = (memory(), ManualClock::at(1_800_000_000_000));
    let options = Options::new().durability(durability).retention(RETENTION).clock(clock.clone());
    let store = options.background(false).open(dir.path()).unwrap();
    for round in 0..2 {
        requests(&store, round, 4 * count);
        clock.advance(2 * RETENTION);
        while store.stats().records > 0 {
            store.housekeep().unwrap();
        }
    }
    requests(&store, 2, count)
}

#[test]
fn a_warm_buffered_store() {
    let counts = warm(Durability::Buffered { max_delay: RETENTION }, 5000);
    usually("begin", 0, &counts.begin);
    usually("complete", 0, &counts.complete);
    usually("drop", 0, &counts.drop);
    // Into the memory of the record that this thread let go of before.
    usually("replay", 0, &counts.replay);
}

#[test]
fn a_record_that_is_kept_takes_its_own_memory() {
    let dir = memory();
    let store = Options::new().background(false).open(dir.path()).unwrap();
    let (scope, print) = (Scope::global(), Fingerprint::of(["charge"]));
    let key = KeyRef::new(&scope, "k").unwrap();
    let Begin::Execute(mut claim) = store.begin(key, print).unwrap() else { panic!("a new key") };
    claim.complete(&[7; 1024]).unwrap();
    drop(claim);
    let mut kept = Vec::with_capacity(20);
    for _ in 0..20 {
        let (replay, found) = allocations(|| store.begin(key, print).unwrap());
        let Begin::Replay(record) = found else { panic!("a completed key") };
        assert!(replay == 1 || kept.is_empty(), "{replay} allocations");
        kept.push(record);
    }
    assert!(kept.iter().all(|record| record.response() == Some(&[7; 1024][..])));
}

#[test]
fn a_warm_synced_store() {
    let counts = warm(Durability::Synced, 1000);
    usually("begin", 0, &counts.begin);
    // The list of segments that a commit has to sync.
    usually("complete", 1, &counts.complete);
    usually("drop", 0, &counts.drop);
    usually("replay", 0, &counts.replay);
}
