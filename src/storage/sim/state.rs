//! The state of a simulated disk: its names, its faults to come, and whether it still runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
};

use crate::sync::Mutex;

use super::{Fault, inode::Inode, rng::Rng};

/// A file that may have a name, had one, or is open.
pub(super) type Shared = Arc<Mutex<Inode>>;

/// The meanings that a name may have after a loss of power: first the platter's, last the running
/// system's. More than one only while unsynced; `None` is no file.
pub(super) type History = Vec<Option<Shared>>;

/// How much of its work a call may do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// All of it.
    Whole,
    /// A part of it, if it is a write, else nothing; then it fails.
    Half,
    /// Some of it; then the process dies.
    Torn,
    /// None, and the caller gets an error.
    Failed,
}

/// One disk between two crashes.
pub(super) struct Disk {
    pub(super) state: Mutex<State>,
    pub(super) seed: u64,
}

/// The mutable state. Locked before any file is.
pub(super) struct State {
    pub(super) rng: Rng,
    pub(super) names: BTreeMap<String, History>,
    pub(super) calls: u64,
    /// Names whose durability is unknown since a sync of the directory failed.
    pub(super) doubtful: BTreeSet<String>,
    /// By the number of the call that will suffer them.
    pub(super) faults: BTreeMap<u64, Fault>,
    pub(super) capacity: Option<u64>,
    pub(super) tears: bool,
    pub(super) forgets: bool,
    pub(super) locked: bool,
    /// Crashed, cut off or killed: for good.
    pub(super) off: bool,
}

impl Disk {
    /// Counts a call and lets it act as far as its fault permits. Of a call that fails, the
    /// action's own answer does not matter.
    pub(super) fn call<T>(
        &self,
        act: impl FnOnce(&mut State, Fate) -> io::Result<T>,
    ) -> io::Result<T> {
        let state = &mut *self.state.lock();
        state.check_power()?;
        state.calls += 1;
        state.remember_a_version();
        let kind = match state.faults.remove(&state.calls) {
            None => return act(state, Fate::Whole),
            Some(Fault::Error(kind)) => {
                let _ = act(state, Fate::Failed);
                kind
            }
            Some(Fault::ShortWrite) => {
                let _ = act(state, Fate::Half);
                io::ErrorKind::Other
            }
            Some(Fault::Crash) => {
                match state.rng.below(3) {
                    0 => {}
                    1 => drop(act(state, Fate::Torn)),
                    _ => drop(act(state, Fate::Whole)),
                }
                state.switch_off();
                return Err(power_is_off());
            }
        };
        Err(io::Error::new(kind, "an injected fault"))
    }
}

impl State {
    pub(super) fn new(rng: Rng) -> Self {
        State {
            rng,
            names: BTreeMap::new(),
            doubtful: BTreeSet::new(),
            calls: 0,
            faults: BTreeMap::new(),
            capacity: None,
            tears: false,
            forgets: false,
            locked: false,
            off: false,
        }
    }

    pub(super) fn check_power(&self) -> io::Result<()> {
        if self.off { Err(power_is_off()) } else { Ok(()) }
    }

    /// Ends this disk at this moment: stores through remaining views go to memory that is no longer
    /// the disk's.
    pub(super) fn switch_off(&mut self) {
        if self.off {
            return;
        }
        self.off = true;
        for inode in self.names.values().flatten().flatten() {
            inode.lock().detach();
        }
    }

    /// What `name` means to the running system.
    pub(super) fn find(&self, name: &str) -> Option<Shared> {
        self.names.get(name)?.last()?.clone()
    }

    pub(super) fn len_total(&self) -> u64 {
        let current = self.names.values().filter_map(|history| history.last()?.as_ref());
        current.map(|inode| inode.lock().len() as u64).sum()
    }

    pub(super) fn create(&mut self, name: &str, len: u64) -> io::Result<Shared> {
        let old = self.find(name);
        let freed = old.as_ref().map_or(0, |inode| inode.lock().len() as u64);
        let needed = (self.len_total() - freed).saturating_add(len);
        // A new file under a name that is written again.
        self.remove_if_there(name);
        self.doubtful.remove(name);
        if self.capacity.is_some_and(|capacity| needed > capacity) {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "the disk is full"));
        }
        let inode = Arc::new(Mutex::new(Inode::zeroed(len as usize)));
        let history = self.names.entry(name.to_owned()).or_insert_with(|| vec![None]);
        history.push(Some(Arc::clone(&inode)));
        Ok(inode)
    }

    pub(super) fn remove(&mut self, name: &str) {
        if let Some(history) = self.names.get_mut(name) {
            history.push(None);
        }
        // It is written again, which the next sync covers.
        self.doubtful.remove(name);
    }

    pub(super) fn remove_if_there(&mut self, name: &str) {
        if self.find(name).is_some() {
            self.remove(name);
        }
    }

    /// The process dies between removing a file and allocating all of the new one.
    pub(super) fn create_in_part(&mut self, name: &str, len: u64) {
        self.remove_if_there(name);
        let eighths = self.rng.below(9) as u64;
        if eighths < 8 {
            let _ = self.create(name, len * eighths / 8);
        }
    }

    pub(super) fn sync_dir(&mut self) {
        let doubtful = &self.doubtful;
        self.names.retain(|name, history| {
            // What a failed sync was to cover, a later one believes to be on the platter.
            if !doubtful.contains(name) {
                history.drain(..history.len() - 1);
            }
            history.iter().any(Option::is_some)
        });
    }

    /// Each name that was not durable yet may be old or new from now on, whatever syncs follow,
    /// until it is removed or created again.
    pub(super) fn fail_sync_dir(&mut self) {
        let unsynced = self.names.iter().filter(|(_, history)| history.len() > 1);
        self.doubtful.extend(unsynced.map(|(name, _)| name.clone()));
    }

    /// Now and then the kernel writes back what a map or a write call left, just because.
    fn remember_a_version(&mut self) {
        if self.names.is_empty() || self.rng.below(2) == 0 {
            return;
        }
        let chosen = self.rng.below(self.names.len());
        let inode = self.names.values().nth(chosen).and_then(|history| history.last()?.clone());
        if let Some(inode) = inode {
            inode.lock().remember_a_dirty_sector(&mut self.rng);
        }
    }
}

#[cold]
fn power_is_off() -> io::Error {
    io::Error::other("power is off")
}
