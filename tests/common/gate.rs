//! A disk whose syncs (or writes too) of chosen files wait until the test lets them through: what
//! is appended but not yet durable stays so for as long as a test wants to look at it.

use super::*;
use onlyonce::storage::{Region, Storage, StorageFile};
use std::{
    io,
    ops::Range,
    sync::{Condvar, Mutex},
};

#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    /// Before a sync.
    Sync,
    /// Before a write, and before a sync.
    Write,
    /// When a sync has covered what was there, and before it returns.
    Synced,
}

#[derive(Debug, Default)]
struct State {
    /// Names that begin like these wait there.
    shut: Vec<(&'static str, At)>,
    /// The names of those that wait.
    waiting: Vec<String>,
    /// Where the writes out of a map began and ended.
    region_writes: Vec<Range<u64>>,
}

#[derive(Debug, Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

/// The simulated disk behind a gate.
#[derive(Clone, Debug)]
pub struct Gated {
    disk: SimStorage,
    gate: Arc<Gate>,
}

/// Calls wait while this exists.
pub struct Shut(Arc<Gate>, &'static str);

impl Gated {
    pub fn new(disk: &SimStorage) -> Self {
        Gated { disk: disk.clone(), gate: Arc::default() }
    }

    /// From now on, syncs of files whose names begin with `prefix` wait.
    pub fn shut(&self, prefix: &'static str) -> Shut {
        self.shut_at(prefix, At::Sync)
    }

    /// The same of syncs and writes, but for stores through a map.
    pub fn shut_writes(&self, prefix: &'static str) -> Shut {
        self.shut_at(prefix, At::Write)
    }

    /// From now on, syncs of files whose names begin with `prefix` wait before they return: what is
    /// written meanwhile is not covered.
    pub fn hold_synced(&self, prefix: &'static str) -> Shut {
        self.shut_at(prefix, At::Synced)
    }

    fn shut_at(&self, prefix: &'static str, at: At) -> Shut {
        self.gate.state.lock().unwrap().shut.push((prefix, at));
        Shut(self.gate.clone(), prefix)
    }

    /// Where the writes out of a map began and ended, in the order in which they were made.
    pub fn region_writes(&self) -> Vec<Range<u64>> {
        self.gate.state.lock().unwrap().region_writes.clone()
    }

    fn wrap(&self, name: &str, file: Arc<dyn StorageFile>) -> Arc<dyn StorageFile> {
        Arc::new(GatedFile { name: name.into(), file, gate: self.gate.clone() })
    }
}

impl Shut {
    /// Returns when somebody waits at the gate.
    pub fn until_reached(&self) {
        until(|| self.0.state.lock().unwrap().waiting.iter().any(|name| name.starts_with(self.1)));
    }
}

impl Drop for Shut {
    fn drop(&mut self) {
        self.0.state.lock().unwrap().shut.retain(|(prefix, _)| *prefix != self.1);
        self.0.changed.notify_all();
    }
}

#[derive(Debug)]
struct GatedFile {
    name: String,
    file: Arc<dyn StorageFile>,
    gate: Arc<Gate>,
}

impl GatedFile {
    fn pass(&self, at: At) {
        let mut state = self.gate.state.lock().unwrap();
        let is_shut = |state: &State| {
            let shut = |(prefix, shut): &(&str, At)| {
                let here = *shut == at || (*shut, at) == (At::Write, At::Sync);
                here && self.name.starts_with(prefix)
            };
            state.shut.iter().any(shut)
        };
        while is_shut(&state) {
            state.waiting.push(self.name.clone());
            state = self.gate.changed.wait(state).unwrap();
            let place = state.waiting.iter().position(|name| *name == self.name);
            state.waiting.remove(place.expect("noted before"));
        }
    }
}

impl Storage for Gated {
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        self.disk.lock()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn StorageFile>> {
        Ok(self.wrap(name, self.disk.create(name, len)?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        Ok(self.wrap(name, self.disk.open(name)?))
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

impl StorageFile for GatedFile {
    fn size(&self) -> u64 {
        self.file.size()
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, into)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.pass(At::Write);
        self.file.write_at(offset, bytes)
    }

    fn write_region(&self, at: u64, region: &Region, from: usize, len: usize) -> io::Result<()> {
        self.pass(At::Write);
        self.gate.state.lock().unwrap().region_writes.push(at..at + len as u64);
        self.file.write_region(at, region, from, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.pass(At::Sync);
        let synced = self.file.sync();
        self.pass(At::Synced);
        synced
    }

    fn map(&self) -> io::Result<Region> {
        self.file.map()
    }

    fn map_mut(&self) -> io::Result<Region> {
        self.file.map_mut()
    }
}
