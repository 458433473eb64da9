//! The simulated disk, on which syncs of some files take long while others are written.

use super::{below, one_in, site};
use onlyonce::storage::{Region, SimStorage, Storage, StorageFile};
use shuttle::thread;
use std::{io, sync::Arc, time::Duration};

#[derive(Clone, Debug)]
pub struct Stalling {
    pub disk: SimStorage,
    /// Syncs of files whose names begin so may take long; none do if it is empty.
    pub slow: &'static str,
}

#[derive(Debug)]
struct StallingFile {
    file: Arc<dyn StorageFile>,
    slow: bool,
}

impl Stalling {
    fn wrap(&self, name: &str, file: Arc<dyn StorageFile>) -> Arc<dyn StorageFile> {
        let slow = !self.slow.is_empty() && name.starts_with(self.slow);
        Arc::new(StallingFile { file, slow })
    }
}

impl Storage for Stalling {
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

    fn grow(&self, name: &str, len: u64) -> io::Result<Arc<dyn StorageFile>> {
        Ok(self.wrap(name, self.disk.grow(name, len)?))
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

impl StorageFile for StallingFile {
    fn size(&self) -> u64 {
        self.file.size()
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, into)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, bytes)
    }

    fn write_region(&self, at: u64, region: &Region, from: usize, len: usize) -> io::Result<()> {
        self.file.write_region(at, region, from, len)
    }

    /// What is written while it takes long is not covered.
    fn sync(&self) -> io::Result<()> {
        let synced = self.file.sync();
        if self.slow && one_in(3) {
            site("a sync took long");
            // Others run meanwhile, or don't: a thread that yields would always be last.
            (0..below(60)).for_each(|_| thread::sleep(Duration::ZERO));
        }
        synced
    }

    fn map(&self) -> io::Result<Region> {
        self.file.map()
    }

    fn map_mut(&self) -> io::Result<Region> {
        self.file.map_mut()
    }
}
