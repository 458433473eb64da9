//! A record that an operator forgets is there for all who look until its tombstone is durable:
//! so no crash can bring it back beside a claim that was granted on its key meanwhile.

use crate::common::{gate::Gated, *};
use onlyonce::{
    inspect::Inspection,
    storage::{SimStorage, Storage},
    *,
};
use std::{collections::BTreeMap, sync::Arc, thread};

const SETTINGS: [Durability; 3] =
    [Durability::Synced, Durability::SyncedCompletions, Durability::Buffered { max_delay: SECOND }];

fn forget(store: &Store) -> Result<(), StoreError> {
    store.resolve_with(key("k"), Resolution::Forget, ResolveOptions::forced())
}

#[test]
fn until_its_tombstone_is_durable_a_record_is_there() {
    for durability in SETTINGS {
        let sim = Sim::with(|options| options.background(true).durability(durability));
        let disk = Gated::new(&sim.disk);
        let store = sim.options.open_on(Arc::new(disk.clone())).unwrap();
        store.finish("k", b"first");
        store.flush().unwrap();
        // So that the tombstone belongs to another class than the record.
        sim.clock.advance(HOUR);
        let shut = disk.shut("segment-");
        let operators: Vec<_> = (0..2)
            .map(|_| {
                let store = store.clone();
                thread::spawn(move || forget(&store))
            })
            .collect();
        shut.until_reached();
        assert_eq!(store.answer("k"), b"first", "{durability:?}");
        assert!(!store.is_absent("k"), "{durability:?}");
        let listed: Vec<_> = store.entries(Filter::COMPLETED).collect::<Result<_, _>>().unwrap();
        assert_eq!((listed.len(), store.stats().records), (1, 1), "{durability:?}");
        drop(shut);
        let forgotten = operators.into_iter().map(|operator| operator.join().unwrap());
        // Whoever comes second joins, or finds it absent.
        let absent = Err(StoreError::NotApplicable { state: "absent" });
        let forgotten: Vec<_> = forgotten.collect();
        assert!(forgotten.iter().all(|f| f.is_ok() || *f == absent), "{forgotten:?}");
        assert!(forgotten.iter().any(|forgotten| forgotten.is_ok()));
        assert!(store.is_absent("k") && store.stats().records == 0, "{durability:?}");
        let claim = store.claim("k");
        let after = sim.options.open_on(Arc::new(sim.disk.kill())).unwrap();
        let stuck = after.stuck("k");
        granted(stuck.take_over().unwrap()).complete(b"second").unwrap();
        assert_eq!(after.answer("k"), b"second");
        drop(claim);
    }
}

/// Likewise an answer that is replaced: otherwise a failed sync would take away what had been
/// acknowledged.
#[test]
fn until_the_new_answer_is_durable_the_earlier_one_is_there() {
    for durability in SETTINGS {
        let sim = Sim::with(|options| options.background(true).durability(durability));
        let disk = Gated::new(&sim.disk);
        let store = sim.options.open_on(Arc::new(disk.clone())).unwrap();
        store.finish("k", b"first");
        store.flush().unwrap();
        sim.clock.advance(HOUR);
        let shut = disk.shut("segment-");
        let replace = |response| Resolution::Replace { head: b"", response: Some(response) };
        let first = {
            let store = store.clone();
            thread::spawn(move || store.resolve(key("k"), replace(b"second")))
        };
        shut.until_reached();
        assert_eq!(store.answer("k"), b"first", "{durability:?}");
        let listed: Vec<_> = store.entries(Filter::COMPLETED).collect::<Result<_, _>>().unwrap();
        assert_eq!((listed.len(), store.stats().records), (1, 1), "{durability:?}");
        // Another decision is about what is there then.
        let second = {
            let store = store.clone();
            thread::spawn(move || store.resolve(key("k"), replace(b"third")))
        };
        drop(shut);
        assert_eq!(first.join().unwrap(), Ok(()));
        assert_eq!(second.join().unwrap(), Ok(()));
        // Either may have been the first to get to the key.
        let answer = store.answer("k");
        assert!([&b"second"[..], b"third"].contains(&&*answer), "{durability:?}: {answer:?}");
        assert_eq!(store.stats().records, 1);
        let after = sim.options.open_on(Arc::new(sim.disk.power_cut())).unwrap();
        assert_eq!(after.answer("k"), answer);
    }
}

type Files = BTreeMap<String, Vec<u8>>;

fn files(disk: &SimStorage) -> Files {
    let read = |name: String| {
        let file = disk.open(&name).unwrap();
        let mut bytes = vec![0; file.size() as usize];
        file.read_at(0, &mut bytes).unwrap();
        (name, bytes)
    };
    disk.list().unwrap().into_iter().map(read).collect()
}

/// A store in which a record and a later claim of one key are side by side: nothing of the
/// tombstone has reached the log.
fn with_two_truths() -> Sim {
    let mut sim = Sim::new();
    let store = sim.open();
    store.finish("k", b"first");
    store.finish("other", b"kept");
    store.flush().unwrap();
    sim.clock.advance(HOUR);
    let before = files(&sim.disk);
    forget(&store).unwrap();
    std::mem::forget(store.claim("k"));
    let after = files(&sim.disk.kill());
    let mixed = SimStorage::new(2);
    for (name, bytes) in &after {
        let is_log = name == "ring" || name.starts_with("segment-");
        let mut bytes = if is_log { before[name].clone() } else { bytes.clone() };
        if name == "claims" {
            // How far the log was known to be durable.
            bytes[..512].copy_from_slice(&before[name][..512]);
        }
        let file = mixed.create(name, bytes.len() as u64).unwrap();
        file.write_at(0, &bytes).unwrap();
        file.sync().unwrap();
    }
    mixed.sync_dir().unwrap();
    sim.disk = mixed;
    sim
}

#[test]
fn a_later_claim_beats_a_record_and_the_record_stays_away() {
    let mut sim = with_two_truths();
    let problems = inspect_on(&sim);
    assert!(problems.iter().any(|what| what.contains("later claim of one key")), "{problems:?}");
    let store = sim.open();
    let stuck = store.stuck("k");
    assert_eq!(store.entries(Filter::ALL).count(), 2);
    drop(stuck);
    store.close().unwrap();
    assert_eq!(inspect_on(&sim), Vec::<String>::new());
    // The claim goes, and the record must not come back for that.
    let store = sim.open();
    store.resolve(key("k"), Resolution::Free).unwrap();
    assert!(store.is_absent("k"));
    for _ in 0..3 {
        let store = sim.power_cut_and_open();
        assert!(store.is_absent("k"));
        assert_eq!(store.answer("other"), b"kept");
    }
    let mut claim = sim.open().claim("k");
    claim.complete(b"second").unwrap();
    drop(claim);
    assert_eq!(sim.power_cut_and_open().answer("k"), b"second");
}

#[test]
fn a_claim_that_won_is_completed() {
    let mut sim = with_two_truths();
    let store = sim.open();
    granted(store.stuck("k").take_over().unwrap()).complete(b"second").unwrap();
    assert_eq!(store.answer("k"), b"second");
    drop(store);
    for _ in 0..3 {
        assert_eq!(sim.power_cut_and_open().answer("k"), b"second");
    }
}

fn inspect_on(sim: &Sim) -> Vec<String> {
    let inspection =
        Inspection::open_on(Arc::new(sim.disk.clone()), sim.clock.clone(), None).unwrap();
    inspection.verify(|_| ()).problems.into_iter().map(|problem| problem.what).collect()
}
