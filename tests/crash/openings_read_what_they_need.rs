//! An opening, and whoever looks at a store from outside, reads of the failures and tombstones in
//! the log only those that something still depends on: a store may list millions of them.

use crate::common::*;
use onlyonce::{
    inspect::Inspection,
    storage::{Region, Storage, StorageFile},
    *,
};
use std::{
    io,
    sync::{Arc, Mutex},
};

const FAILED: u8 = 3;
const TOMBSTONE: u8 = 4;

/// A disk that notes the kinds of the frames that are read one by one.
#[derive(Clone, Debug)]
struct Watched {
    disk: onlyonce::storage::SimStorage,
    kinds: Arc<Mutex<Vec<u8>>>,
}

#[derive(Debug)]
struct WatchedFile {
    file: Arc<dyn StorageFile>,
    kinds: Arc<Mutex<Vec<u8>>>,
}

impl Watched {
    fn new(sim: &Sim) -> Self {
        Watched { disk: sim.disk.clone(), kinds: Arc::default() }
    }

    fn count(&self, kind: u8) -> usize {
        self.kinds.lock().unwrap().iter().filter(|of| **of == kind).count()
    }

    fn watch(&self, file: Arc<dyn StorageFile>) -> Arc<dyn StorageFile> {
        Arc::new(WatchedFile { file, kinds: self.kinds.clone() })
    }
}

impl Storage for Watched {
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        self.disk.lock()
    }
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }
    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn StorageFile>> {
        Ok(self.watch(self.disk.create(name, len)?))
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        Ok(self.watch(self.disk.open(name)?))
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.disk.sync_dir()
    }
    fn place(&self) -> String {
        self.disk.place()
    }
}

impl StorageFile for WatchedFile {
    fn size(&self) -> u64 {
        self.file.size()
    }
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, into)?;
        // A frame says its length, without the padding, and its kind.
        if let Some(head) = into.first_chunk::<13>() {
            let len = u32::from_le_bytes(head[4..8].try_into().unwrap()) as usize;
            if len.next_multiple_of(8) == into.len() {
                self.kinds.lock().unwrap().push(head[12]);
            }
        }
        Ok(())
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, bytes)
    }
    fn write_region(&self, offset: u64, of: &Region, from: usize, len: usize) -> io::Result<()> {
        self.file.write_region(offset, of, from, len)
    }
    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
    fn map(&self) -> io::Result<Region> {
        self.file.map()
    }
    fn map_mut(&self) -> io::Result<Region> {
        self.file.map_mut()
    }
}

#[test]
fn failures_of_decided_keys_are_not_read() {
    let sim = Sim::new();
    let store = sim.open();
    let mut undecided = store.claim("undecided");
    undecided.fail(b"502, perhaps charged").unwrap();
    for n in 0..300 {
        let mut claim = store.claim(&n.to_string());
        claim.fail(&[n as u8; 1000]).unwrap();
        match n % 3 {
            0 => claim.complete(b"after all").unwrap(),
            1 => drop(claim),
            _ => claim.release().unwrap(),
        }
        if n % 3 == 1 {
            store
                .resolve_with(key(&n.to_string()), Resolution::Free, ResolveOptions::forced())
                .unwrap();
        }
    }
    drop(undecided);
    store.close().unwrap();

    let disk = Watched::new(&sim);
    let seen = Inspection::open_on(Arc::new(disk.clone()), sim.clock.clone(), None).unwrap();
    assert_eq!(disk.count(FAILED), 1);
    assert_eq!(seen.problems(), []);
    drop(seen);

    let disk = Watched::new(&sim);
    let store = sim.options.open_on(Arc::new(disk.clone())).unwrap();
    assert_eq!(disk.count(FAILED), 1);
    assert_eq!(store.stuck("undecided").answer().unwrap()[..], b"502, perhaps charged"[..]);
    assert_eq!(store.answer("0"), b"after all");
}

/// The record that a tombstone killed has gone with its segment; the tombstone is still there.
#[test]
fn a_tombstone_without_a_record_is_not_read() {
    let sim = Sim::with(|options| options.segment_bytes(64 << 10));
    let store = sim.open();
    let keep_for = |name: &str, seconds: u32, response: &[u8]| {
        let retention = Some((seconds * SECOND).into());
        let completion =
            Completion { response: Some(response), retention, ..Completion::default() };
        store.claim(name).complete_with(completion).unwrap();
    };
    keep_for("forgotten", 70, b"wrong");
    // Its segment is full, and another one is begun.
    (0..40).for_each(|n| keep_for(&format!("filling {n}"), 70, &[1; 4000]));
    sim.clock.advance(SECOND);
    keep_for("kept", 120, b"right");
    store.resolve_with(key("forgotten"), Resolution::Forget, ResolveOptions::forced()).unwrap();
    keep_for("wrong as well", 120, b"wrong");
    store.resolve_with(key("wrong as well"), Resolution::Forget, ResolveOptions::forced()).unwrap();
    sim.clock.advance(80 * SECOND);
    (0..3).for_each(|_| store.housekeep().unwrap());
    store.close().unwrap();

    let disk = Watched::new(&sim);
    let store = sim.options.open_on(Arc::new(disk.clone())).unwrap();
    assert_eq!(disk.count(TOMBSTONE), 1);
    assert!(store.is_absent("forgotten") && store.is_absent("wrong as well"));
    assert_eq!(store.answer("kept"), b"right");
    store.close().unwrap();

    let disk = Watched::new(&sim);
    Inspection::open_on(Arc::new(disk.clone()), sim.clock.clone(), None).unwrap();
    assert_eq!(disk.count(TOMBSTONE), 1);
}
