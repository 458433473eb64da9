//! R10: whoever inspects the directory of a store under full write load sees a consistent state:
//! everything that was acknowledged before, with its bytes; no key twice; no damage; and what
//! they see of claims is true.

use crate::common::*;
use onlyonce::{inspect::Inspection, *};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

const WRITERS: usize = 3;
const LOOKS: usize = 25;
/// Requests that each writer makes while somebody looks: however quick it is, it writes throughout.
const IN_A_LOOK: usize = 240;

fn body(writer: usize, number: usize) -> Vec<u8> {
    let word = format!("{writer}/{number} ");
    word.repeat(1 + number * 37 % 150).into_bytes()
}

fn under_load(durability: Durability) {
    let dir = tempfile::tempdir().unwrap();
    // A ring and segments that are gone round many times meanwhile.
    let options = small(&ManualClock::at(T0)).durability(durability).background(true);
    let options = options.clock(SystemClock).max_claims(1000).capacity(32 << 20);
    let store = options.open(dir.path()).unwrap();
    let kept = store.claim("kept");
    // Looks that have begun.
    let looks = Arc::new(AtomicUsize::new(0));
    // How many completions of each writer have been acknowledged.
    let done: Arc<[AtomicUsize; WRITERS]> = Arc::default();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (store, looks, done) = (store.clone(), looks.clone(), done.clone());
            std::thread::spawn(move || {
                for number in 0..LOOKS * IN_A_LOOK {
                    while number >= looks.load(Ordering::SeqCst) * IN_A_LOOK {
                        std::thread::yield_now();
                    }
                    let name = format!("{writer}-{number}");
                    let claim = store.claim(&name);
                    if number % 7 == 0 {
                        claim.release().unwrap();
                    } else if number % 11 == 0 {
                        // Taken over: the claim moves in the claims file.
                        drop(claim);
                        let mut next = granted(store.stuck(&name).take_over().unwrap());
                        next.complete(&body(writer, number)).unwrap();
                    } else {
                        { claim }.complete(&body(writer, number)).unwrap();
                    }
                    done[writer].store(number + 1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for _ in 0..LOOKS {
        looks.fetch_add(1, Ordering::SeqCst);
        let before: Vec<_> = done.iter().map(|n| n.load(Ordering::SeqCst)).collect();
        let inspection = Inspection::open(dir.path()).unwrap();
        let after: Vec<_> = done.iter().map(|n| n.load(Ordering::SeqCst)).collect();
        check(&inspection, &before, &after);
        let report = inspection.verify(|_| {});
        assert_eq!(report.problems, []);
    }
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    drop(kept);
    store.close().unwrap();
}

fn check(inspection: &Inspection, before: &[usize], after: &[usize]) {
    let mut completed: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut names = BTreeSet::new();
    for item in inspection.items() {
        let item = item.unwrap_or_else(|problem| panic!("{problem}"));
        let name = String::from_utf8(item.entry.key.key().to_vec()).unwrap();
        assert!(names.insert(name.clone()), "{name} is seen twice");
        assert_eq!(item.fingerprint, print());
        if let State::Completed(record) = &item.entry.state {
            completed.insert(name, record.response().unwrap().to_vec());
        } else if let Some((writer, number)) = name.split_once('-') {
            // Undecided at some moment between.
            let (writer, number): (usize, usize) =
                (writer.parse().unwrap(), number.parse().unwrap());
            assert!(number >= before[writer] && number <= after[writer], "{name} was decided");
        }
    }
    assert!(names.contains("kept"));
    for (writer, before) in before.iter().enumerate() {
        for number in (0..*before).filter(|number| number % 7 != 0) {
            let name = format!("{writer}-{number}");
            assert_eq!(completed.get(&name), Some(&body(writer, number)), "{name}");
        }
    }
    for name in completed.keys() {
        let (writer, number) = name.split_once('-').unwrap();
        let (writer, number): (usize, usize) = (writer.parse().unwrap(), number.parse().unwrap());
        assert!(number <= after[writer], "{name} had not begun");
    }
}

#[test]
fn synced() {
    under_load(Durability::Synced);
}

#[test]
fn buffered() {
    under_load(Durability::Buffered { max_delay: 20 * MS });
}

/// What a segment held that is used again after it was found had expired: it is no damage.
#[test]
fn what_is_used_again_meanwhile_is_gone_and_not_damaged() {
    let sim = Sim::with(|options| options.segment_bytes(64 << 10));
    let store = sim.open();
    (0..40).for_each(|n| store.finish(&format!("old {n}"), &[1; 4000]));
    store.housekeep().unwrap();
    let disk = Arc::new(sim.disk.clone());
    let inspection = Inspection::open_on(disk, sim.clock.clone(), None).unwrap();
    assert_eq!(inspection.verify(|_| {}).frames, 40);
    sim.clock.advance(DAY);
    (0..3).for_each(|_| store.housekeep().unwrap());
    (0..60).for_each(|n| store.finish(&format!("new {n}"), &[2; 3000]));
    let report = inspection.verify(|_| {});
    assert!(report.frames < 40, "nothing was used again");
    assert_eq!(report.problems, []);
    assert!(inspection.items().all(|item| item.is_ok()));
}

#[test]
fn the_listing_is_the_owner_s() {
    let dir = tempfile::tempdir().unwrap();
    let store = small(&ManualClock::at(T0)).open(dir.path()).unwrap();
    store.finish("done", b"order 1");
    let mut held = store.claim("held");
    held.save_checkpoint(b"half").unwrap();
    let mut failed = store.claim("failed");
    failed.fail(b"500").unwrap();
    store.finish("forgotten", b"x");
    store.resolve_with(key("forgotten"), Resolution::Forget, ResolveOptions::forced()).unwrap();
    store.resolve_with(key("failed"), Resolution::Free, ResolveOptions::forced()).unwrap();
    store.finish("failed", b"after all");
    let inspection = Inspection::open(dir.path()).unwrap();
    for name in ["done", "held", "failed", "forgotten", "never"] {
        let ours = store.get(key(name)).unwrap().map(|entry| format!("{entry:?}"));
        let theirs = inspection.get(key(name)).unwrap().map(|item| format!("{:?}", item.entry));
        assert_eq!(theirs, ours, "{name}");
    }
    let info = inspection.info();
    assert_eq!((info.in_flight, info.interrupted, info.records), (1, 0, 2));
    assert_eq!((info.life, info.format), (1, 2));
    assert_eq!((info.segments_open, info.segments - info.segments_free), (1, 1));
    assert_eq!(info.durability, Some(Durability::Synced));
    assert_eq!(info.oldest_newest_ms, Some((T0, T0)));
}
