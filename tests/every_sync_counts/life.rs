//! What is recorded: the lives of one store in a real directory, with everything that syncs.
//!
//! What the kernel sees is recorded from outside. What it doesn't see is written into a file that
//! it does see: what was stored through a map since the last call, and what the caller was
//! answered.

use super::common::*;
use super::judge::Is;
use onlyonce::{
    backup::{BackupOptions, restore},
    storage::{DiskStorage, Region, Storage, StorageFile},
    *,
};
use std::{
    fs::File,
    io::{self, Write},
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

/// The processes that live one after the other. The second one is killed.
pub const PARTS: [&str; 3] = ["first", "second", "third"];
pub const STORE: &str = "new/parents/store";
pub const FULL: &str = "copies/full";
pub const LATER: &str = "copies/later";
pub const RESTORED: &str = "restored/to/store";

/// When the clock of the first part starts, and by how much it moves to let records expire.
const STEP: Duration = Duration::from_secs(2 * 3600);

pub fn options(durability: Durability, now: u64) -> Options {
    small(&ManualClock::at(now))
        .durability(durability)
        .retention(HOUR)
        .interrupted_retention(30 * DAY)
        .clock_jump_max(300 * DAY)
        .lease(MINUTE)
        .max_claims(24)
        .segment_bytes(128 << 10)
        .capacity(1 << 20)
}

pub struct Marks(Mutex<File>);

impl Marks {
    fn say(&self, line: &str) {
        self.0.lock().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

/// Says, before each call, what was stored through a map.
struct Noting {
    disk: DiskStorage,
    notes: Arc<Notes>,
}

struct Notes {
    marks: Arc<Marks>,
    mapped: Mutex<Vec<(String, Region, Vec<u8>)>>,
}

impl Notes {
    fn look(&self) {
        for (name, region, before) in &mut *self.mapped.lock().unwrap() {
            let mut now = vec![0; region.len()];
            region.load(0, &mut now);
            let sectors = now.chunks(512).zip(before.chunks(512)).enumerate();
            for (sector, (new, _)) in sectors.filter(|(_, (new, old))| new != old) {
                let hex: String = new.iter().map(|byte| format!("{byte:02x}")).collect();
                self.marks.say(&format!("stores {STORE}/{name} {} {hex}", sector * 512));
            }
            *before = now;
        }
    }
}

#[derive(Debug)]
struct NotingFile {
    name: String,
    file: Arc<dyn StorageFile>,
    notes: Arc<Notes>,
}

impl std::fmt::Debug for Noting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.disk.fmt(f)
    }
}

impl std::fmt::Debug for Notes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Notes")
    }
}

impl Noting {
    fn wrap(&self, name: &str, file: Arc<dyn StorageFile>) -> Arc<dyn StorageFile> {
        Arc::new(NotingFile { name: name.into(), file, notes: self.notes.clone() })
    }
}

impl Storage for Noting {
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        self.disk.lock()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn StorageFile>> {
        self.notes.look();
        Ok(self.wrap(name, self.disk.create(name, len)?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        Ok(self.wrap(name, self.disk.open(name)?))
    }

    fn grow(&self, name: &str, len: u64) -> io::Result<Arc<dyn StorageFile>> {
        self.notes.look();
        Ok(self.wrap(name, self.disk.grow(name, len)?))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.notes.look();
        self.disk.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.notes.look();
        self.disk.sync_dir()
    }

    fn place(&self) -> String {
        self.disk.place()
    }
}

impl StorageFile for NotingFile {
    fn size(&self) -> u64 {
        self.file.size()
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, into)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.notes.look();
        self.file.write_at(offset, bytes)
    }

    fn write_region(&self, at: u64, region: &Region, from: usize, len: usize) -> io::Result<()> {
        self.notes.look();
        self.file.write_region(at, region, from, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.notes.look();
        self.file.sync()
    }

    fn expect_small_changes(&self) {
        self.file.expect_small_changes();
    }

    fn map(&self) -> io::Result<Region> {
        self.file.map()
    }

    fn map_mut(&self) -> io::Result<Region> {
        let region = self.file.map_mut()?;
        let mut now = vec![0; region.len()];
        region.load(0, &mut now);
        self.notes.mapped.lock().unwrap().push((self.name.clone(), region.clone(), now));
        Ok(region)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.file.descriptor()
    }
}

/// One process with the store open.
struct Life {
    store: Option<Store>,
    clock: ManualClock,
    marks: Arc<Marks>,
    notes: Arc<Notes>,
    durability: Durability,
    place: PathBuf,
}

/// What the durability table says of a call.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// A begin, a takeover or a release.
    Claims,
    /// A completion, a checkpoint or a failure.
    Completes,
    /// An operator's decision.
    Decides,
}

impl Life {
    /// Opens the store, which is a phase.
    fn begin(phase: &str, place: &Path, durability: Durability, now: u64, max_claims: u32) -> Life {
        let file = File::options().create(true).append(true).open(place.join("marks")).unwrap();
        let marks = Arc::new(Marks(Mutex::new(file)));
        let notes = Arc::new(Notes { marks: marks.clone(), mapped: Mutex::default() });
        marks.say(&format!("phase {phase}"));
        marks.say(&format!("clock {now}"));
        let clock = ManualClock::at(now);
        let disk = DiskStorage::open(place.join(STORE)).unwrap();
        let storage = Arc::new(Noting { disk, notes: notes.clone() });
        let options = options(durability, now).clock(clock.clone()).max_claims(max_claims);
        let store = Some(options.open_on(storage).unwrap());
        marks.say("promised");
        Life { store, clock, marks, notes, durability, place: place.to_owned() }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn phase(&self, name: &str) {
        self.marks.say(&format!("phase {name}"));
    }

    fn now(&self) -> u64 {
        self.store().stats().now_ms
    }

    fn promises(&self, kind: Kind) -> bool {
        match self.durability {
            Durability::Synced => true,
            Durability::SyncedCompletions => kind != Kind::Claims,
            _ => kind == Kind::Decides,
        }
    }

    /// A call that makes `key` what `is` says.
    fn call<R>(&self, key: &str, is: Is, kind: Kind, call: impl FnOnce() -> R) -> R {
        self.marks.say(&format!("may {key} {is}"));
        let result = call();
        self.notes.look();
        if self.promises(kind) {
            self.marks.say(&format!("is {key}"));
        }
        result
    }

    fn claim(&self, name: &str) -> Claim {
        self.call(name, Is::undecided(), Kind::Claims, || self.store().claim(name))
    }

    fn complete(&self, name: &str, claim: Claim, number: u64, bytes: usize, retention: Duration) {
        let is = Is::Completed(number, self.now() + retention.as_millis() as u64);
        let mut response = number.to_le_bytes().to_vec();
        response.resize(bytes, number as u8);
        let mut claim = claim;
        self.call(name, is, Kind::Completes, || {
            let retention = Some(Retention::from(retention));
            let completion = Completion { response: Some(&response), retention, head: b"" };
            claim.complete_with(completion).unwrap();
        });
    }

    fn finish(&self, name: &str, number: u64) {
        let claim = self.claim(name);
        self.complete(name, claim, number, 8, HOUR);
    }

    fn leave(&self, name: &str, checkpoint: Option<&[u8]>, answer: Option<&[u8]>) {
        let mut claim = self.claim(name);
        if let Some(bytes) = checkpoint {
            let is = Is::Undecided(bytes.to_vec(), Vec::new());
            self.call(name, is, Kind::Completes, || claim.save_checkpoint(bytes).unwrap());
        }
        if let Some(answer) = answer {
            let is = Is::Undecided(checkpoint.unwrap_or_default().to_vec(), answer.to_vec());
            self.call(name, is, Kind::Completes, || claim.fail(answer).unwrap());
        }
    }

    fn flush(&self) {
        self.store().flush().unwrap();
        self.notes.look();
        self.marks.say("promised");
    }

    /// One of each call. `n` makes the keys' names new.
    fn calls(&self, n: u64) {
        let name = |letter: char| format!("{letter}{n}");
        let (a, b, c, d) = (name('a'), name('b'), name('c'), name('d'));
        self.finish(&a, 10 * n + 1);
        self.leave(&b, Some(b"half"), Some(b"500"));
        let claim = self.claim(&c);
        self.call(&c, Is::Absent, Kind::Claims, || claim.release().unwrap());
        self.leave(&d, None, None);
        let claim = self.call(&d, Is::undecided(), Kind::Claims, || {
            granted(self.store().stuck(&d).take_over().unwrap())
        });
        self.complete(&d, claim, 10 * n + 2, 3000, HOUR);
        let (e, f, g, h) = (name('e'), name('f'), name('g'), name('h'));
        self.finish(&e, 10 * n + 3);
        self.call(&e, Is::Absent, Kind::Decides, || self.resolve(&e, Resolution::Forget));
        self.leave(&f, None, None);
        self.call(&f, Is::Absent, Kind::Decides, || self.resolve(&f, Resolution::Free));
        self.leave(&g, None, None);
        let number = 10 * n + 4;
        let is = Is::Completed(number, self.now() + HOUR.as_millis() as u64);
        self.call(&g, is, Kind::Decides, || {
            let response = Some(&number.to_le_bytes()[..]);
            let completion = Completion { response, retention: None, head: b"" };
            self.resolve(&g, Resolution::Complete { fingerprint: None, completion });
        });
        // Of several cells.
        self.leave(&h, Some(&[7; 700]), None);
        let i = name('i');
        let claim = self.claim(&i);
        self.complete(&i, claim, 10 * n + 5, 100, 24 * HOUR);
    }

    fn resolve(&self, name: &str, resolution: Resolution<'_>) {
        self.store().resolve_with(key(name), resolution, ResolveOptions::forced()).unwrap();
        self.notes.look();
        self.marks.say("decided");
    }

    /// More records than segments of the smallest size hold.
    fn fill(&self, name: &str, from: u64, to: u64) {
        for number in from..to {
            let name = format!("{name}{number}");
            let claim = self.claim(&name);
            self.complete(&name, claim, 1000 + number, 4000, HOUR);
        }
    }

    fn housekeep(&self) {
        for _ in 0..3 {
            self.store().housekeep().unwrap();
            self.notes.look();
        }
    }

    fn expire(&self) {
        let now = self.now() + STEP.as_millis() as u64;
        self.marks.say(&format!("clock {now}"));
        self.clock.advance(STEP);
    }

    fn close(mut self) {
        self.store.take().unwrap().close().unwrap();
        self.notes.look();
        self.marks.say("promised");
    }

    fn backup(&self, name: &str, options: &BackupOptions) {
        // A backup is of the moment at which it was asked for, and no other call is made.
        self.marks.say(&format!("copies {name}"));
        self.store().backup_with(self.place.join(name), options).unwrap();
        self.notes.look();
        self.marks.say(&format!("copied {name}"));
    }
}

/// Lives one part. Does not return from the second one.
pub fn live(part: &str, durability: Durability, place: &Path) {
    match part {
        "first" => {
            let life = Life::begin("creation", place, durability, T0, 24);
            life.phase("calls");
            life.calls(1);
            life.flush();
            life.phase("rolling");
            life.fill("r", 0, 30);
            life.flush();
            life.phase("sealing");
            life.housekeep();
            // Its claim is still in the claims file when its record expires.
            life.leave("q", None, None);
            let claim = life.call("q", Is::undecided(), Kind::Claims, || {
                granted(life.store().stuck("q").take_over().unwrap())
            });
            life.complete("q", claim, 9, 8, HOUR);
            life.phase("recycling");
            life.expire();
            life.housekeep();
            life.phase("used again");
            life.fill("s", 0, 30);
            life.flush();
            life.phase("closing");
            life.close();
        }
        "second" => {
            let life = Life::begin("growth", place, durability, T0 + 3 * 3_600_000, 60);
            life.phase("calls in a later life");
            life.calls(2);
            life.fill("t", 0, 12);
            // What is in memory only is lost now.
            std::process::exit(0);
        }
        _ => {
            let later = T0 + 3 * 3_600_000;
            let life = Life::begin("opening after a kill", place, durability, later, 60);
            life.phase("calls after a kill");
            life.calls(3);
            life.phase("backup");
            life.backup(FULL, &BackupOptions::new());
            life.fill("u", 0, 3);
            life.phase("incremental backup");
            let since = BackupOptions::new().since(place.join(FULL));
            life.backup(LATER, &since);
            life.phase("restore");
            life.marks.say(&format!("copies {RESTORED} {LATER}"));
            restore(place.join(LATER), place.join(RESTORED)).unwrap();
            life.marks.say(&format!("copied {RESTORED}"));
            life.phase("closing after a kill");
            life.close();
        }
    }
}
