//! A store's calls to its disk, with the thread and the time of each.

use onlyonce::storage::{DiskStorage, Region, Storage, StorageFile};
use std::{
    fmt, io,
    path::Path,
    sync::{Arc, Mutex},
    thread,
    time::Instant,
};

/// A call.
#[derive(Clone, Debug)]
pub struct Call {
    pub thread: Arc<str>,
    /// What was done to which kind of file.
    pub what: &'static str,
    pub began: Instant,
    pub ended: Instant,
}

/// The calls so far, in the order of their ends.
#[derive(Clone, Debug, Default)]
pub struct Trace(Arc<Mutex<Vec<Call>>>);

impl Trace {
    pub fn take(&self) -> Vec<Call> {
        std::mem::take(&mut *self.0.lock().expect("no panic holds it"))
    }

    fn span<T>(&self, what: &'static str, call: impl FnOnce() -> T) -> T {
        thread_local! {
            static NAME: Arc<str> = thread::current().name().unwrap_or("?").into();
        }
        let began = Instant::now();
        let result = call();
        let ended = Instant::now();
        let thread = NAME.with(Arc::clone);
        self.0.lock().expect("no panic holds it").push(Call { thread, what, began, ended });
        result
    }
}

/// A directory on the disk whose calls are written down.
#[derive(Debug)]
pub struct TracedStorage {
    disk: DiskStorage,
    trace: Trace,
}

impl TracedStorage {
    pub fn open(dir: &Path, trace: Trace) -> io::Result<TracedStorage> {
        Ok(TracedStorage { disk: DiskStorage::open(dir)?, trace })
    }

    fn file(&self, name: &str, file: Arc<dyn StorageFile>) -> Arc<dyn StorageFile> {
        Arc::new(TracedFile { file, kind: Kind::of(name), trace: self.trace.clone() })
    }
}

impl Storage for TracedStorage {
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        self.disk.lock()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn StorageFile>> {
        let file = self.trace.span("creating a file", || self.disk.create(name, len))?;
        Ok(self.file(name, file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        Ok(self.file(name, self.disk.open(name)?))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.trace.span("removing a file", || self.disk.remove(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.trace.span("sync of the directory", || self.disk.sync_dir())
    }

    fn place(&self) -> String {
        self.disk.place()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Segment,
    Claims,
    Ring,
    Superblock,
}

impl Kind {
    fn of(name: &str) -> Kind {
        match name {
            "claims" => Kind::Claims,
            "ring" => Kind::Ring,
            name if name.starts_with("segment-") => Kind::Segment,
            _ => Kind::Superblock,
        }
    }
}

struct TracedFile {
    file: Arc<dyn StorageFile>,
    kind: Kind,
    trace: Trace,
}

impl fmt::Debug for TracedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.fmt(f)
    }
}

impl TracedFile {
    fn pick(
        &self,
        segment: &'static str,
        claims: &'static str,
        other: &'static str,
    ) -> &'static str {
        match self.kind {
            Kind::Segment => segment,
            Kind::Claims => claims,
            Kind::Ring | Kind::Superblock => other,
        }
    }
}

impl StorageFile for TracedFile {
    fn size(&self) -> u64 {
        self.file.size()
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let what = self.pick("reading a segment (a footer)", "reading the claims", "reading");
        self.trace.span(what, || self.file.read_at(offset, into))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let segment = match offset {
            0 => "writing a segment's header (recycling, sealing)",
            _ => "writing a segment (footer, other class)",
        };
        let what = self.pick(segment, "writing the claims", "writing ring or superblock");
        self.trace.span(what, || self.file.write_at(offset, bytes))
    }

    fn write_region(
        &self,
        offset: u64,
        region: &Region,
        from: usize,
        len: usize,
    ) -> io::Result<()> {
        let what =
            self.pick("draining the ring", "writing the claims", "writing ring or superblock");
        self.trace.span(what, || self.file.write_region(offset, region, from, len))
    }

    fn sync(&self) -> io::Result<()> {
        let what =
            self.pick("sync of a segment", "sync of the claims", "sync of ring or superblock");
        self.trace.span(what, || self.file.sync())
    }

    fn expect_small_changes(&self) {
        self.file.expect_small_changes();
    }

    fn map(&self) -> io::Result<Region> {
        self.trace.span("mapping a file", || self.file.map())
    }

    fn map_mut(&self) -> io::Result<Region> {
        self.trace.span("mapping a file", || self.file.map_mut())
    }
}
