//! R11: a backup that is taken while the store is written to at full rate opens elsewhere, and is
//! the store at one point in time: everything that was acknowledged before the call, nothing that
//! was begun after it, and nothing without what had been acknowledged before it began.

use crate::common::*;
use onlyonce::{
    backup::{BackupOptions, restore},
    storage::{SimStorage, Storage, StorageFile},
    *,
};
use std::{
    collections::BTreeMap,
    io,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

fn options(durability: Durability) -> Options {
    small(&ManualClock::at(T0))
        .clock(SystemClock)
        .durability(durability)
        .max_claims(1000)
        .capacity(48 << 20)
}

/// As many links, and keys of each free writer, as the store has room for.
const LINKS: u64 = 20_000;
const FREE: usize = 8_000;

/// What the writers know: a chain of operations, each begun when the one before it had been
/// acknowledged.
#[derive(Default)]
struct Oracle {
    /// The next link is made under this lock.
    chain: Mutex<()>,
    begun: AtomicU64,
    acknowledged: AtomicU64,
    stop: AtomicBool,
}

fn body(link: u64) -> Vec<u8> {
    format!("answer {link} ").repeat(1 + link as usize * 31 % 120).into_bytes()
}

/// Links of the chain go to three classes of retention.
fn retention(link: u64) -> Option<Retention> {
    match link % 3 {
        0 => None,
        1 => Some(Retention::of(HOUR)),
        _ => Some(Retention::of(3 * DAY)),
    }
}

/// What becomes of a link when its operation is over.
#[derive(Debug, PartialEq)]
enum End {
    Completed,
    Released,
    Interrupted,
}

fn end(link: u64) -> End {
    match link % 10 {
        3 => End::Released,
        7 if link.is_multiple_of(4) => End::Interrupted,
        _ => End::Completed,
    }
}

fn write_chain(store: &Store, oracle: &Oracle) {
    while !oracle.stop.load(Ordering::Relaxed) {
        let _one = oracle.chain.lock().unwrap();
        if oracle.begun.load(Ordering::SeqCst) == LINKS {
            break;
        }
        let link = oracle.begun.fetch_add(1, Ordering::SeqCst);
        let mut claim = store.claim(&format!("chain-{link}"));
        match end(link) {
            End::Released => claim.release().unwrap(),
            End::Interrupted => {
                claim.save_checkpoint(b"half way").unwrap();
                drop(claim);
            }
            End::Completed => {
                let (body, retention) = (body(link), retention(link));
                let response = Some(&body[..]);
                claim.complete_with(Completion { response, head: b"", retention }).unwrap();
            }
        }
        oracle.acknowledged.store(link + 1, Ordering::SeqCst);
    }
}

/// Keys that belong to no chain, to keep the disk busy.
fn write_freely(store: &Store, oracle: &Oracle, writer: usize) {
    for number in 0..FREE {
        if oracle.stop.load(Ordering::Relaxed) {
            break;
        }
        store.finish(&format!("free-{writer}-{number}"), &[writer as u8; 700]);
    }
}

/// Opens the copy, and holds it against the chain.
fn check(copy: &Path, acknowledged: u64, begun: u64, options: &Options) {
    let store = options.clone().open(copy).unwrap();
    let mut found: BTreeMap<u64, Entry> = BTreeMap::new();
    for entry in store.entries(Filter::ALL) {
        let entry = entry.unwrap();
        let name = String::from_utf8(entry.key.key().to_vec()).unwrap();
        if let Some(link) = name.strip_prefix("chain-") {
            found.insert(link.parse().unwrap(), entry);
        }
    }
    // Links are begun one after the other, so the newest in the copy, if it is not over, is the
    // only one of which that may be said.
    let newest = *found.keys().max().unwrap();
    assert!(newest + 2 >= acknowledged, "{newest} is before {acknowledged}");
    assert!(newest < begun, "link {newest} was begun after the backup");
    for link in 0..newest {
        match (end(link), found.get(&link).map(|entry| &entry.state)) {
            (End::Completed, Some(State::Completed(record))) => {
                assert_eq!(record.response(), Some(&body(link)[..]));
            }
            (End::Released, None) => {}
            (End::Interrupted, Some(State::Interrupted { checkpoint, .. })) => {
                assert_eq!(checkpoint.as_deref(), Some(&b"half way"[..]));
            }
            (end, found) => panic!("link {link} of {newest} is {found:?}, not {end:?}"),
        }
    }
    // It is a store like any other.
    let begin = store.begin(key("chain-0"), print()).unwrap();
    assert!(matches!(begin, Begin::Replay(_)));
    store.finish("after", b"order");
    assert_eq!(store.verify(|_| {}).unwrap().problems, []);
    store.close().unwrap();
}

fn under_load(durability: Durability) {
    let dir = tempfile::tempdir().unwrap();
    let options = options(durability);
    let store = options.clone().background(true).open(dir.path().join("store")).unwrap();
    let oracle = Arc::new(Oracle::default());
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (store, oracle) = (store.clone(), oracle.clone());
            std::thread::spawn(move || match writer {
                0 | 1 => write_chain(&store, &oracle),
                _ => write_freely(&store, &oracle, writer),
            })
        })
        .collect();
    until(|| oracle.acknowledged.load(Ordering::SeqCst) > 20);
    let mut earlier = None;
    for number in 0..5 {
        let copy = dir.path().join(format!("copy-{number}"));
        let mut how = BackupOptions::new();
        if let Some(earlier) = earlier.filter(|_| number % 2 == 1) {
            how = how.since(earlier);
        }
        let acknowledged = oracle.acknowledged.load(Ordering::SeqCst);
        let backup = store.backup_with(&copy, &how).unwrap();
        let begun = oracle.begun.load(Ordering::SeqCst);
        assert!(backup.segments > 0 && backup.problems.is_empty(), "{backup:?}");
        let restored = dir.path().join(format!("restored-{number}"));
        restore(&copy, &restored).unwrap();
        check(&restored, acknowledged, begun, &options);
        std::fs::remove_dir_all(restored).unwrap();
        earlier = Some(copy);
        let now = oracle.acknowledged.load(Ordering::SeqCst);
        until(|| oracle.acknowledged.load(Ordering::SeqCst) > (now + 20).min(LINKS - 1));
    }
    oracle.stop.store(true, Ordering::Relaxed);
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    store.close().unwrap();
}

#[test]
fn synced() {
    under_load(Durability::Synced);
}

#[test]
fn completions_synced() {
    under_load(Durability::SyncedCompletions);
}

#[test]
fn buffered() {
    under_load(Durability::Buffered { max_delay: 20 * MS });
}

/// A disk that does something before its first file is created.
struct Hooked {
    disk: SimStorage,
    hook: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl std::fmt::Debug for Hooked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.disk.fmt(f)
    }
}

impl Storage for Hooked {
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        self.disk.lock()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn StorageFile>> {
        if let Some(hook) = self.hook.lock().unwrap().take() {
            hook();
        }
        self.disk.create(name, len)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        self.disk.open(name)
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

/// Segments that expire while they are copied are used again only afterwards.
#[test]
fn nothing_is_used_again_while_it_is_copied() {
    let sim = Sim::with(|options| options.retention(HOUR).segment_bytes(64 << 10));
    let store = sim.open();
    let fill = |name: &str| (0..100).for_each(|n| store.finish(&format!("{name}-{n}"), &[7; 3000]));
    fill("old");
    store.housekeep().unwrap();
    let free = store.stats().segments_free;
    let hook = {
        let (store, clock) = (store.clone(), sim.clock.clone());
        move || {
            clock.advance(2 * HOUR);
            (0..3).for_each(|_| store.housekeep().unwrap());
            (0..100).for_each(|n| store.finish(&format!("new-{n}"), &[8; 3000]));
        }
    };
    let hooked = Hooked { disk: SimStorage::new(2), hook: Mutex::new(Some(Box::new(hook))) };
    let backup = store.backup_on(&hooked).unwrap();
    assert_eq!((backup.taken_ms, &backup.problems[..]), (T0, &[][..]));
    store.housekeep().unwrap();
    assert!(store.stats().segments_free > free, "they are never used again");
    // The copy is as of before they expired.
    let clock = ManualClock::at(T0);
    let options = small(&clock).retention(HOUR).segment_bytes(64 << 10);
    let copy = options.open_on(Arc::new(hooked.disk)).unwrap();
    (0..100).for_each(|n| assert_eq!(copy.answer(&format!("old-{n}")), [7; 3000]));
    assert!(copy.is_absent("new-0"));
}

/// What becomes of a short step: nearly all are given back, which leaves nothing behind.
#[derive(Debug, PartialEq)]
enum Step {
    Completed,
    Released,
    Dropped,
}

fn step(number: u64) -> Step {
    match number % 64 {
        7 => Step::Dropped,
        n if n % 8 == 0 => Step::Completed,
        _ => Step::Released,
    }
}

/// A chain of short steps runs while the moment is taken: whatever a copy has of it is all that was
/// there, up to one step.
#[test]
fn a_moment_is_one() {
    const ROUNDS: u64 = 60;
    const STEPS: u64 = 3000;
    let sim = Sim::with(|options| {
        options
            .durability(Durability::Buffered { max_delay: SECOND })
            .max_claims(500)
            .capacity(32 << 20)
            .max_response(100)
            .background(true)
    });
    let store = sim.open();
    let oracle = Arc::new(Oracle::default());
    // Steps up to this number may begin.
    let limit = Arc::new(AtomicU64::new(0));
    let writer = {
        let (store, oracle, limit) = (store.clone(), oracle.clone(), limit.clone());
        std::thread::spawn(move || {
            while !oracle.stop.load(Ordering::Acquire) {
                let one = oracle.chain.lock().unwrap();
                let number = oracle.begun.load(Ordering::Acquire);
                if number >= limit.load(Ordering::Acquire) {
                    drop(one);
                    std::thread::yield_now();
                    continue;
                }
                oracle.begun.store(number + 1, Ordering::Release);
                let mut claim = store.claim(&number.to_string());
                match step(number) {
                    Step::Completed => claim.complete(b"1").unwrap(),
                    Step::Released => claim.release().unwrap(),
                    Step::Dropped => drop(claim),
                }
            }
        })
    };
    let mut met = 0;
    for round in 0..ROUNDS {
        let first = oracle.begun.load(Ordering::Acquire);
        // So few that the store has room for all that they leave.
        limit.store(first + STEPS, Ordering::Release);
        until(|| oracle.begun.load(Ordering::Acquire) > first + 16);
        let disk = SimStorage::new(round);
        store.backup_on(&disk).unwrap();
        limit.store(0, Ordering::Release);
        // The step that runs is over.
        drop(oracle.chain.lock().unwrap());
        let end = oracle.begun.load(Ordering::Acquire);
        let copy = sim.options.clone().background(false).open_on(Arc::new(disk)).unwrap();
        let found = |number: u64| copy.get(key(&number.to_string())).unwrap();
        let newest = (first..end).rev().find(|number| found(*number).is_some());
        for number in first..newest.unwrap_or(first) {
            let is = match found(number).map(|entry| entry.state) {
                Some(State::Completed(_)) => Step::Completed,
                None => Step::Released,
                Some(_) => Step::Dropped,
            };
            assert_eq!(is, step(number), "step {number} of {first}..{end}, newest {newest:?}");
        }
        met += u64::from(newest.is_some_and(|newest| newest + 64 < end));
        for number in (first..end).filter(|number| step(*number) == Step::Dropped) {
            store
                .resolve_with(key(&number.to_string()), Resolution::Free, ResolveOptions::forced())
                .unwrap();
        }
    }
    oracle.stop.store(true, Ordering::Release);
    writer.join().unwrap();
    assert!(met > 0, "nothing has happened while any moment was taken");
}

/// A backup waits for the disk, and meanwhile a claim is granted and another key completed.
#[test]
fn what_comes_during_a_backup_is_not_read_by_halves() {
    let sim = Sim::with(|options| options.durability(Durability::SyncedCompletions));
    let disk = gate::Gated::new(&sim.disk);
    let store = sim.options.open_on(Arc::new(disk.clone())).unwrap();
    store.finish("before", b"done");
    let _held = store.claim("held");
    let copy = SimStorage::new(1);
    let shut = disk.shut("claims");
    let backup = {
        let (store, copy) = (store.clone(), copy.clone());
        std::thread::spawn(move || store.backup_on(&copy))
    };
    shut.until_reached();
    let _later = store.claim("later");
    store.finish("last", b"done");
    drop(shut);
    backup.join().unwrap().unwrap();
    let copied = sim.options.open_on(Arc::new(copy)).unwrap();
    assert_eq!(copied.answer("before"), b"done");
    drop(copied.stuck("held"));
    assert!(copied.is_absent("last") || !copied.is_absent("later"));
}
