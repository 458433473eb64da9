//! R5: a full disk refuses new claims before anything ran, loses nothing, kills nobody, and is
//! forgotten as soon as there is space again, without a restart.

use crate::reference::{begin, claim, complete, open, replays, response, small};
use onlyonce::{
    Begin, BeginError, Full, ManualClock, OpenError, Options, Store,
    storage::{Fault, SimStorage},
};
use std::process::Command;

fn key(number: usize) -> String {
    format!("key-{number}")
}

/// Completes keys until there is no room; returns how many.
fn fill(store: &Store, from: usize, len: usize) -> usize {
    for number in from..from + 100_000 {
        match begin(store, &key(number)) {
            Ok(Begin::Execute(mut claim)) => claim.complete(&response(number, len)).unwrap(),
            Err(error @ BeginError::StoreFull(Full::Disk)) => {
                assert!(matches!(error.retry(), onlyonce::Retry::After(_)));
                return number;
            }
            other => panic!("{other:?}"),
        }
    }
    panic!("never full");
}

#[test]
fn claims_are_refused_and_space_is_welcome() {
    let (clock, disk) = (ManualClock::at(crate::reference::T0), SimStorage::new(1));
    let options = small(&clock);
    let store = open(&options, &disk).unwrap();
    complete(&store, "first", b"1");
    let mut held = claim(&store, "held");
    disk.set_capacity(Some(disk.len_total()));
    let full_at = fill(&store, 0, 1500);
    assert!(full_at > 5, "{full_at}");
    // Granted is granted.
    held.complete(&response(7, 4096)).unwrap();
    // What it needed less than it was promised may be room for a small one more.
    let full_at = fill(&store, full_at, 1500);
    for number in 0..full_at {
        replays(&store, &key(number), &response(number, 1500));
    }
    // Refused as long as it lasts, and each time.
    for _ in 0..3 {
        assert!(matches!(begin(&store, "more"), Err(BeginError::StoreFull(Full::Disk))));
    }
    disk.set_capacity(Some(disk.len_total() + (64 << 10)));
    let fuller_at = fill(&store, full_at, 1500);
    assert!(fuller_at > full_at);
    disk.set_capacity(None);
    complete(&store, "more", b"room");
    store.close().unwrap();
    let store = open(&options, &disk.power_cut()).unwrap();
    for number in 0..fuller_at {
        replays(&store, &key(number), &response(number, 1500));
    }
    replays(&store, "more", b"room");
    replays(&store, "held", &response(7, 4096));
}

#[test]
fn expiry_makes_room_on_a_full_disk() {
    let (clock, disk) = (ManualClock::at(crate::reference::T0), SimStorage::new(2));
    let store = open(&small(&clock), &disk).unwrap();
    disk.set_capacity(Some(disk.len_total()));
    let full_at = fill(&store, 0, 1500);
    clock.advance(crate::reference::ms(crate::reference::RETENTION_MS));
    for _ in 0..3 {
        store.housekeep().unwrap();
    }
    let again = fill(&store, full_at, 1500) - full_at;
    assert!(again + 1 >= full_at, "{again} after expiry, {full_at} before");
}

#[test]
fn a_disk_too_small_for_a_store_says_so() {
    let clock = ManualClock::at(crate::reference::T0);
    for capacity in [0, 8192, 100_000] {
        let disk = SimStorage::new(3);
        disk.set_capacity(Some(capacity));
        let opened = open(&small(&clock), &disk);
        let Err(OpenError::NoSpace { bytes, .. }) = opened else { panic!("{opened:?}") };
        assert!(bytes > capacity);
        // So many, and the superblock, are enough; and it doesn't ask for much more than it takes.
        disk.set_capacity(Some(bytes + 8192));
        let store = open(&small(&clock), &disk).unwrap();
        complete(&store, "k", b"order 1");
        assert!(disk.len_total() > bytes / 2, "{bytes}");
    }
}

/// Fails one call of the first `begin` that needs another segment, each in its turn: what the system
/// said is what the caller, the figures and the log of events are told.
#[test]
fn what_the_system_said_is_told_and_failed_syncs_are_not_retried() {
    let (clock, kinds) = (
        ManualClock::at(crate::reference::T0),
        [
            std::io::ErrorKind::Other,
            std::io::ErrorKind::PermissionDenied,
            std::io::ErrorKind::ReadOnlyFilesystem,
            std::io::ErrorKind::StorageFull,
        ],
    );
    let (mut told, mut poisoned, mut full) = (0, 0, 0);
    for kind in kinds {
        for call in 1.. {
            let disk = SimStorage::new(4);
            let store =
                open(&small(&clock).segment_bytes(64 << 10).capacity(1 << 20), &disk).unwrap();
            // Until the next claim needs a segment that isn't there.
            let mut held = Vec::new();
            let mut number = 0;
            let before = loop {
                let calls = disk.calls();
                let segments = store.stats().segments;
                let claim = claim(&store, &key(number));
                held.push(claim);
                number += 1;
                if store.stats().segments > segments {
                    break (number - 1, disk.calls() - calls);
                }
            };
            let (number, calls) = before;
            if call > calls {
                break;
            }
            // The same again, with a failure at one of the calls.
            let disk = SimStorage::new(4);
            let store =
                open(&small(&clock).segment_bytes(64 << 10).capacity(1 << 20), &disk).unwrap();
            let held: Vec<_> = (0..number).map(|number| claim(&store, &key(number))).collect();
            disk.fault_at(disk.calls() + call, Fault::Error(kind));
            let asked = begin(&store, &key(number));
            match asked {
                Err(BeginError::Unavailable { what }) => {
                    assert!(what.contains("an injected fault"), "{what}");
                    assert!(
                        store.stats().full.is_some_and(|why| why.contains("an injected fault"))
                    );
                    told += 1;
                }
                Err(BeginError::StoreFull(Full::Disk)) => {
                    assert_eq!(kind, std::io::ErrorKind::StorageFull);
                    assert!(store.stats().full.is_some_and(|why| why.contains("no room")));
                    assert_eq!(store.stats().full_since_ms, crate::reference::T0);
                    full += 1;
                }
                Err(BeginError::Poisoned) => {
                    assert!(store.stats().poisoned.is_some());
                    poisoned += 1;
                    continue;
                }
                Ok(Begin::Execute(_)) => continue,
                other => panic!("{other:?}"),
            }
            // It is tried again, and then there is no more to tell.
            complete(&store, "more", b"room");
            assert_eq!((store.stats().full, store.stats().full_since_ms), (None, 0));
            drop(held);
        }
    }
    assert!(told > 0 && poisoned > 0 && full > 0, "{told} {poisoned} {full}");
}

/// Set in a child: the directory to fill.
const DIRECTORY: &str = "ONLYONCE_TEST_FILL";

fn disk_options() -> Options {
    Options::new()
        .max_response(4096)
        .max_claims(64)
        .ring_bytes(64 << 10)
        .durability(onlyonce::Durability::Buffered { max_delay: crate::reference::ms(20) })
}

/// Fills the directory, whose file system is small, or this process may not write large files;
/// then makes room and goes on.
fn fill_for_real(directory: &str, make_room: impl FnOnce()) {
    let store = disk_options().open(directory).unwrap();
    let full_at = fill(&store, 0, 4000);
    for number in 0..full_at {
        replays(&store, &key(number), &response(number, 4000));
    }
    store.flush().unwrap();
    make_room();
    complete(&store, "more", b"room");
    store.close().unwrap();
    let store = disk_options().open(directory).unwrap();
    for number in 0..full_at {
        replays(&store, &key(number), &response(number, 4000));
    }
    replays(&store, "more", b"room");
}

#[test]
fn fills_in_a_child() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    // Files may have up to 1.5 MiB: segments after the first ones cannot be created. The signal
    // that comes with it is the process's to ignore.
    let limit = |bytes| {
        let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
        // SAFETY: plain system calls on values of ours.
        unsafe {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0);
        }
    };
    limit(3 << 19);
    fill_for_real(&directory, || limit(libc::RLIM_INFINITY));
}

#[test]
fn a_limit_on_the_size_of_files_is_like_a_full_disk() {
    let directory = tempfile::tempdir().unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "full_disk::fills_in_a_child", "--nocapture"])
        .env(DIRECTORY, directory.path())
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
}

/// A small file system of its own, where this process may mount one.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn mount(options: &str) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(directory.path())
            .output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Tmpfs(directory))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).output();
    }
}

#[test]
fn a_full_file_system() {
    let Some(small) = Tmpfs::mount("size=6m") else {
        eprintln!("not allowed to mount a small file system: passed over");
        return;
    };
    let ballast = small.0.path().join("ballast");
    let store = small.0.path().join("store");
    std::fs::write(&ballast, vec![1; 2 << 20]).unwrap();
    fill_for_real(store.to_str().unwrap(), || std::fs::remove_file(&ballast).unwrap());
}
