//! Storage in memory that keeps exactly the promises of a disk, and breaks all others.
//!
//! A [`SimStorage`] behaves like a file system whose page cache and platter are kept apart. It
//! loses power, keeps of everything unsynced what a seed decides, fails any call that a test names
//! fail, runs full, and is damaged at will. The same seed and the same calls give the same disk.
//!
//! ```
//! use onlyonce::storage::{SimStorage, Storage};
//!
//! # fn main() -> std::io::Result<()> {
//! let disk = SimStorage::new(7);
//! let file = disk.create("a", 1024)?;
//! disk.sync_dir()?;
//! file.write_at(0, b"synced")?;
//! file.sync()?;
//! file.write_at(512, b"perhaps")?;
//!
//! let disk = disk.power_cut();
//! let mut bytes = [0; 7];
//! let file = disk.open("a")?;
//! file.read_at(0, &mut bytes[..6])?;
//! assert_eq!(&bytes[..6], b"synced");
//! file.read_at(512, &mut bytes)?;
//! assert!(&bytes == b"perhaps" || bytes == [0; 7]);
//! # Ok(())
//! # }
//! ```

mod inode;
mod rng;
mod state;

use std::{collections::BTreeMap, fmt, io, ops::Range, sync::Arc};

use crate::sync::Mutex;

use self::{
    inode::Inode,
    rng::Rng,
    state::{Disk, Fate, History, Shared, State},
};
use super::{Region, Storage, StorageFile};

/// A simulated disk. Clones are the same disk.
#[derive(Clone)]
pub struct SimStorage {
    disk: Arc<Disk>,
}

/// A fault of a call on a [`SimStorage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The call fails with this kind and does nothing. A sync that fails leaves everything that
    /// was not durable yet old, new or in between on the platter, and the cache believes that it
    /// is written: only writing it again and syncing helps.
    Error(io::ErrorKind),
    /// A write lands from its beginning up to the end of one of its sectors, as the seed decides,
    /// then it fails. Any other call fails like an error.
    ShortWrite,
    /// The process dies before, in the middle of or right after the call, as the seed decides.
    /// This call and all later ones fail, and later stores through a map are lost, until
    /// [`SimStorage::power_cut`] or [`SimStorage::kill`] makes the next disk.
    Crash,
}

struct SimFile {
    disk: Arc<Disk>,
    inode: Shared,
    size: u64,
}

/// Holds the lock of one disk.
struct Lock(Arc<Disk>);

impl SimStorage {
    /// An empty disk of unlimited capacity.
    pub fn new(seed: u64) -> Self {
        SimStorage::from_files(seed, BTreeMap::new())
    }

    /// A disk that durably holds these files.
    pub fn from_files(seed: u64, files: BTreeMap<String, Vec<u8>>) -> Self {
        let disk = SimStorage::from_state(seed, State::new(Rng::new(seed)));
        disk.restore(files);
        disk
    }

    fn from_state(seed: u64, state: State) -> Self {
        SimStorage { disk: Arc::new(Disk { state: Mutex::new(state), seed }) }
    }

    /// Cuts the power. Returns a new disk with the content of the platter: all that was synced, and
    /// of the rest, sector by sector and name by name, old, new or something in between. Every
    /// later call on this one fails and its lock is gone.
    ///
    /// Cutting the same disk again is another roll of the dice from the same moment.
    pub fn power_cut(&self) -> SimStorage {
        self.next_disk(|rng, history| {
            let kept = history[rng.below(history.len())].clone()?;
            let inode = kept.lock().after_power_cut(rng);
            Some(vec![Some(Arc::new(Mutex::new(inode)))])
        })
    }

    /// The process dies and the system lives. Returns a new disk whose files read as they do
    /// now, and what was not synced still is not. Every later call on this one fails and its
    /// lock is gone.
    pub fn kill(&self) -> SimStorage {
        let next = self.next_disk(|_, history| {
            let copy = |inode: &Shared| Arc::new(Mutex::new(inode.lock().duplicate()));
            Some(history.iter().map(|entry| entry.as_ref().map(copy)).collect())
        });
        // The system lives, and still believes that these are on the platter.
        next.disk.state.lock().doubtful.clone_from(&self.disk.state.lock().doubtful);
        next
    }

    fn next_disk(
        &self,
        mut carry: impl FnMut(&mut Rng, &[Option<Shared>]) -> Option<History>,
    ) -> SimStorage {
        let state = &mut *self.disk.state.lock();
        state.switch_off();
        let seed = state.rng.next();
        let mut next = State::new(Rng::new(seed));
        next.capacity = state.capacity;
        next.tears = state.tears;
        next.forgets = state.forgets;
        for (name, history) in &state.names {
            if let Some(history) = carry(&mut state.rng, history) {
                next.names.insert(name.clone(), history);
            }
        }
        SimStorage::from_state(seed, next)
    }

    /// How many calls were made on this disk and its files so far: create, open, remove, list,
    /// `sync_dir`, `read_at`, `write_at`, `write_region`, sync, map and `map_mut`. Loads and
    /// stores through a [`Region`] are none, as the kernel does not see them either.
    pub fn calls(&self) -> u64 {
        self.disk.state.lock().calls
    }

    /// Makes the call after which [`calls`](Self::calls) is `call` suffer `fault`: the first one
    /// of this disk is 1, the next one `calls() + 1`.
    pub fn fault_at(&self, call: u64, fault: Fault) {
        self.disk.state.lock().faults.insert(call, fault);
    }

    /// How many bytes all files together may have; creating beyond it is
    /// [`io::ErrorKind::StorageFull`].
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.disk.state.lock().capacity = bytes;
    }

    /// Whether the kernel may write back a sector while it is being stored to through a map: then
    /// a loss of power (or a sync that fails) may leave some of its words as they were and others
    /// as they became since the last sync, in files that [`map_mut`](StorageFile::map_mut) has
    /// mapped from now on. Words of eight bytes stay whole. Not unless it is asked for.
    pub fn tear_mapped(&self, tears: bool) {
        self.disk.state.lock().tears = tears;
    }

    /// Whether a sync that fails may also take its pages out of the cache: what is read, also
    /// through a map, is then what the platter has. Not unless it is asked for.
    pub fn forget_failed(&self, forgets: bool) {
        self.disk.state.lock().forgets = forgets;
    }

    /// The sum of all files' lengths.
    pub fn len_total(&self) -> u64 {
        self.disk.state.lock().len_total()
    }

    /// The files as the running system sees them.
    pub fn snapshot(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.disk.state.lock();
        let files = state.names.keys().filter_map(|name| {
            let bytes = state.find(name)?.lock().bytes();
            Some((name.clone(), bytes))
        });
        files.collect()
    }

    /// Replaces all files by these, durably. Open files keep what they had.
    pub fn restore(&self, files: BTreeMap<String, Vec<u8>>) {
        let entry = |(name, bytes): (String, Vec<u8>)| {
            (name, vec![Some(Arc::new(Mutex::new(Inode::new(bytes))))])
        };
        self.disk.state.lock().names = files.into_iter().map(entry).collect();
    }

    /// Inverts bit `bit % 8` of byte `bit / 8` of a file, in the cache and on the platter.
    ///
    /// # Panics
    /// If there is no such file or bit.
    pub fn flip_bit(&self, name: &str, bit: u64) {
        let byte = (bit / 8) as usize;
        self.damage(name, byte..byte + 1, |bytes| bytes[0] ^= 1 << (bit % 8));
    }

    /// Zeroes bytes of a file, in the cache and on the platter.
    ///
    /// # Panics
    /// If there is no such file or range.
    pub fn zero(&self, name: &str, range: Range<u64>) {
        self.damage(name, range.start as usize..range.end as usize, |bytes| bytes.fill(0));
    }

    fn damage(&self, name: &str, range: Range<usize>, change: impl Fn(&mut [u8])) {
        self.existing(name).lock().damage(range, change);
    }

    /// Makes read calls of these bytes of a file fail until one of them is written. Views of the
    /// file are not affected.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn make_unreadable(&self, name: &str, range: Range<u64>) {
        self.existing(name).lock().make_unreadable(range.start as usize..range.end as usize);
    }

    /// Cuts a file, or grows it by zeros, durably. Views that exist keep the old bytes and are
    /// no longer views of this file.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn truncate(&self, name: &str, len: u64) {
        let file = self.existing(name);
        let mut inode = file.lock();
        let mut bytes = inode.bytes();
        bytes.resize(len as usize, 0);
        *inode = Inode::new(bytes);
    }

    /// Removes a file, durably.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn remove_file(&self, name: &str) {
        self.existing(name);
        self.disk.state.lock().names.remove(name);
    }

    fn existing(&self, name: &str) -> Shared {
        self.disk.state.lock().find(name).unwrap_or_else(|| panic!("no file {name}"))
    }
}

impl fmt::Debug for SimStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.disk.state.lock();
        f.debug_struct("SimStorage")
            .field("seed", &self.disk.seed)
            .field("calls", &state.calls)
            .field("off", &state.off)
            .field("files", &state.names.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimFile").field("size", &self.size).finish_non_exhaustive()
    }
}

impl Storage for SimStorage {
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        let mut state = self.disk.state.lock();
        state.check_power()?;
        if state.locked {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, "another opener has the disk"));
        }
        state.locked = true;
        Ok(Box::new(Lock(Arc::clone(&self.disk))))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.call(|state, _| {
            let names = state.names.keys();
            Ok(names.filter(|name| state.find(name).is_some()).cloned().collect())
        })
    }

    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn StorageFile>> {
        let inode = self.disk.call(|state, fate| match fate {
            Fate::Whole => state.create(name, len),
            Fate::Torn => {
                state.create_in_part(name, len);
                Err(absent(name))
            }
            Fate::Half | Fate::Failed => {
                state.remove_if_there(name);
                Err(absent(name))
            }
        })?;
        Ok(Arc::new(SimFile { disk: Arc::clone(&self.disk), inode, size: len }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let inode = self.disk.call(|state, _| state.find(name).ok_or_else(|| absent(name)))?;
        let size = inode.lock().len() as u64;
        Ok(Arc::new(SimFile { disk: Arc::clone(&self.disk), inode, size }))
    }

    fn grow(&self, name: &str, len: u64) -> io::Result<Arc<dyn StorageFile>> {
        let inode = self.disk.call(|state, fate| {
            let inode = state.find(name).ok_or_else(|| absent(name))?;
            let size = inode.lock().len() as u64;
            let more = len.saturating_sub(size);
            let capacity = state.capacity.unwrap_or(u64::MAX);
            if state.len_total().saturating_add(more) > capacity {
                return Err(io::Error::new(io::ErrorKind::StorageFull, "the disk is full"));
            }
            match fate {
                Fate::Whole => inode.lock().grow((size + more) as usize),
                // Died when a part was there.
                Fate::Torn => inode.lock().grow((size + more / 2) as usize),
                Fate::Half | Fate::Failed => {}
            }
            Ok(inode)
        })?;
        let size = inode.lock().len() as u64;
        Ok(Arc::new(SimFile { disk: Arc::clone(&self.disk), inode, size }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.call(|state, fate| {
            if fate == Fate::Whole {
                state.find(name).ok_or_else(|| absent(name))?;
                state.remove(name);
            }
            Ok(())
        })
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.disk.call(|state, fate| {
            match fate {
                Fate::Whole => state.sync_dir(),
                Fate::Half | Fate::Failed => state.fail_sync_dir(),
                Fate::Torn => {}
            }
            Ok(())
        })
    }

    fn place(&self) -> String {
        format!("simulated disk {}", self.disk.seed)
    }
}

impl StorageFile for SimFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.disk.call(|_, fate| {
            let inode = self.inode.lock();
            let offset = self.check(offset, into.len())?;
            if offset + into.len() > inode.len() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if !inode.is_readable(offset..offset + into.len()) {
                return Err(io::Error::other("a sector that can't be read"));
            }
            match fate {
                Fate::Whole => inode.region().read_bytes(offset, into),
                // A read that fails leaves bytes that were never written.
                _ => into.fill(0xa5),
            }
            Ok(())
        })
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.call(|state, fate| {
            let mut inode = self.inode.lock();
            let offset = self.check(offset, bytes.len())?;
            if offset + bytes.len() > inode.len() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the file shrank"));
            }
            match fate {
                Fate::Whole => inode.write(offset, bytes, &mut state.rng),
                Fate::Half | Fate::Torn => {
                    // A sector is written as one, or not at all.
                    let end = offset + state.rng.below(bytes.len() + 1);
                    let landed =
                        (end / super::SECTOR_BYTES * super::SECTOR_BYTES).saturating_sub(offset);
                    inode.write(offset, &bytes[..landed], &mut state.rng);
                }
                Fate::Failed => {}
            }
            Ok(())
        })
    }

    fn write_region(
        &self,
        offset: u64,
        region: &Region,
        from: usize,
        len: usize,
    ) -> io::Result<()> {
        region.check_round(from, len)?;
        let mut bytes = vec![0; len];
        let (first, rest) = bytes.split_at_mut(len.min(region.len() - from));
        region.read_bytes(from, first);
        region.read_bytes(0, rest);
        self.write_at(offset, &bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.call(|state, fate| {
            let mut inode = self.inode.lock();
            match fate {
                Fate::Whole => inode.sync(),
                Fate::Torn => inode.write_back(&mut state.rng),
                Fate::Half | Fate::Failed => inode.fail_sync(&mut state.rng, state.forgets),
            }
            Ok(())
        })
    }

    fn map(&self) -> io::Result<Region> {
        self.disk.call(|_, _| {
            let inode = self.inode.lock();
            if (inode.len() as u64) < self.size {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the file shrank"));
            }
            Ok(inode.region().clone())
        })
    }

    fn map_mut(&self) -> io::Result<Region> {
        let region = self.map()?;
        if self.disk.state.lock().tears {
            self.inode.lock().tears();
        }
        Ok(region)
    }
}

impl SimFile {
    /// Checks that the bytes are inside the file as it was opened.
    fn check(&self, offset: u64, len: usize) -> io::Result<usize> {
        if offset.checked_add(len as u64).is_some_and(|end| end <= self.size) {
            return Ok(offset as usize);
        }
        let what = format!("{len} bytes at {offset} of a file of {}", self.size);
        Err(io::Error::new(io::ErrorKind::InvalidInput, what))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.0.state.lock().locked = false;
    }
}

fn absent(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no file {name}"))
}

#[cfg(test)]
mod tests;
