//! A file that is there need not be there after the next loss of power: the process that made it may
//! have ended before, or because, its sync of the directory failed. A later sync that succeeds
//! proves nothing of such a name. What is acknowledged is in files whose names are durable.

use crate::common::*;
use onlyonce::{
    storage::{Fault, SimStorage, Storage, StorageFile},
    *,
};
use std::{
    io::{self, ErrorKind},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
};

/// A disk on which one sync of the directory goes wrong.
#[derive(Clone, Debug)]
struct Weak {
    disk: SimStorage,
    fault: Fault,
    /// How many succeed before it.
    succeed: Arc<AtomicU32>,
}

impl Weak {
    fn new(disk: &SimStorage, fault: Fault, succeed: u32) -> Self {
        Weak { disk: disk.clone(), fault, succeed: Arc::new(AtomicU32::new(succeed)) }
    }

    fn has_struck(&self) -> bool {
        self.succeed.load(SeqCst) == u32::MAX
    }
}

impl Storage for Weak {
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        self.disk.lock()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn StorageFile>> {
        self.disk.create(name, len)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        self.disk.open(name)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        let left = self.succeed.load(SeqCst);
        if left == 0 {
            self.disk.fault_at(self.disk.calls() + 1, self.fault);
        }
        if left != u32::MAX {
            self.succeed.store(left.wrapping_sub(1), SeqCst);
        }
        self.disk.sync_dir()
    }

    fn place(&self) -> String {
        self.disk.place()
    }
}

const FAULTS: [Fault; 2] = [Fault::Error(ErrorKind::Other), Fault::Crash];

/// The faults, over and over, with other seeds.
fn seeds() -> impl Iterator<Item = (u64, Fault)> {
    (1..=3).flat_map(|seed| FAULTS.map(|fault| (seed, fault)))
}

fn sim(seed: u64) -> Sim {
    let sim = Sim::with(|options| options.segment_bytes(64 << 10));
    Sim { disk: SimStorage::new(seed), ..sim }
}

/// The disk of the process that comes next: after a failure the same one may try again.
fn next(weak: &Weak, seed: u64) -> SimStorage {
    assert!(weak.has_struck());
    if weak.fault == Fault::Crash || seed.is_multiple_of(2) {
        weak.disk.kill()
    } else {
        weak.disk.clone()
    }
}

/// Looks at what several losses of power leave.
fn after_cuts(sim: &mut Sim, look: impl Fn(&Store)) {
    let disk = sim.disk.clone();
    for _ in 0..4 {
        sim.disk = disk.power_cut();
        look(&sim.open());
    }
}

#[test]
fn a_store_whose_creation_failed() {
    for (seed, fault) in seeds() {
        for succeed in [0, 1] {
            let mut sim = sim(seed);
            let weak = Weak::new(&sim.disk, fault, succeed);
            sim.options.open_on(Arc::new(weak.clone())).unwrap_err();
            sim.disk = next(&weak, seed);
            let store = sim.open();
            store.finish("k", b"done");
            drop(store);
            after_cuts(&mut sim, |store| assert_eq!(store.answer("k"), b"done"));
        }
    }
}

/// Each file is made again by the next opener, and that may be interrupted too: at no moment is what
/// is left taken for a part of another store.
#[test]
fn a_creation_that_is_interrupted_again() {
    let calls = |disk: &SimStorage| {
        let sim = Sim { disk: disk.clone(), ..sim(1) };
        drop(sim.open());
        disk.calls()
    };
    let most = calls(&SimStorage::new(1)).min(16);
    for first in 1..=most {
        for second in 1..=most.min(8) {
            for (seed, fault) in seeds() {
                let mut sim = sim(seed * 1000 + first);
                sim.disk.fault_at(first, fault);
                if sim.options.open_on(Arc::new(sim.disk.clone())).is_ok() {
                    continue;
                }
                sim.disk = sim.disk.kill();
                sim.disk.fault_at(second, Fault::Crash);
                let _ = sim.options.open_on(Arc::new(sim.disk.clone()));
                after_cuts(&mut sim, |store| store.finish("k", b"done"));
            }
        }
    }
}

#[test]
fn a_segment_whose_creation_failed() {
    let large = |n: usize| vec![n as u8; 4000];
    for (seed, fault) in seeds() {
        for segment in [1, 3] {
            let mut sim = sim(seed);
            // A store's own files take one.
            let weak = Weak::new(&sim.disk, fault, 1 + segment);
            let store = sim.options.open_on(Arc::new(weak.clone()));
            let mut acknowledged = 0;
            let store = store.inspect(|store| {
                while let Ok(Begin::Execute(mut claim)) =
                    store.begin(key(&acknowledged.to_string()), print())
                    && claim.complete(&large(acknowledged)).is_ok()
                {
                    acknowledged += 1;
                }
            });
            drop(store);
            sim.disk = next(&weak, seed);
            let store = sim.open();
            // (The last one may be interrupted.)
            let more = acknowledged + 1..acknowledged + 60;
            more.clone().for_each(|n| store.finish(&n.to_string(), &large(n)));
            assert!(store.stats().segments > u64::from(segment));
            drop(store);
            after_cuts(&mut sim, |store| {
                for n in (0..acknowledged).chain(more.clone()) {
                    assert_eq!(store.answer(&n.to_string()), large(n));
                }
            });
        }
    }
}

#[test]
fn what_a_salvage_made() {
    for (seed, fault) in seeds() {
        for missing in ["claims", "ring"] {
            let mut sim = sim(seed);
            let store = sim.open();
            store.finish("before", b"done");
            store.close().unwrap();
            let mut files = sim.disk.snapshot();
            files.remove(missing);
            sim.disk = SimStorage::from_files(seed, files);
            let weak = Weak::new(&sim.disk, fault, 0);
            let strict = sim.options.clone();
            sim.options = strict.clone().recovery(Recovery::Salvage);
            sim.options.open_on(Arc::new(weak.clone())).unwrap_err();
            sim.disk = next(&weak, seed);
            let error = strict.open_on(Arc::new(sim.disk.clone())).err();
            let refused =
                matches!(error, Some(OpenError::Missing { .. } | OpenError::Damaged { .. }));
            assert!(refused || error.is_none() && fault == Fault::Crash, "{error:?}");
            let store = sim.open();
            std::mem::forget(store.claim("k"));
            drop(store);
            sim.options = strict;
            after_cuts(&mut sim, |store| {
                assert_eq!(store.answer("before"), b"done");
                drop(store.stuck("k"));
            });
        }
    }
}

/// Each call of the first decision goes wrong; the next life's is what must be there.
#[test]
fn a_file_of_decisions() {
    for (seed, fault) in seeds() {
        let mut struck = 0;
        for strike in 1.. {
            let mut sim = sim(seed);
            let store = sim.open();
            drop((store.claim("k"), store.claim("l")));
            sim.disk.fault_at(sim.disk.calls() + strike, fault);
            let decided = store.resolve(key("k"), Resolution::Free);
            drop(store);
            if decided.is_ok() {
                break;
            }
            struck += 1;
            let store = sim.kill_and_open();
            store.resolve(key("l"), Resolution::Free).unwrap();
            drop(store);
            after_cuts(&mut sim, |store| {
                let decisions = store.decisions().unwrap();
                let of = |name: &str| decisions.iter().any(|d| d.key.key() == name.as_bytes());
                assert!(of("l"), "call {strike} of a decision: {fault:?}: {decisions:?}");
            });
        }
        assert!(struck > 4, "{struck}");
    }
}
