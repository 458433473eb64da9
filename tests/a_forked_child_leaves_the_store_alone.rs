//! A store's files, maps and locks are its process's. In a child that was forked each call is
//! refused at once, whatever lock was held at the fork, and nothing that the parent has
//! acknowledged is touched.
#![cfg(target_os = "linux")]
#![allow(missing_docs)]

mod common;
use common::{
    futures::{Woken, block_on},
    *,
};
use onlyonce::*;
use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fs::File,
    future::Future,
    io::{Read, Write},
    os::fd::{FromRawFd, OwnedFd},
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, ScopedJoinHandle},
};

/// A child that takes longer hangs.
const BOUND_MS: i32 = 60_000;

/// Records that lap the ring, which has 64 KiB.
const LAP: u64 = 150;

thread_local! {
    /// This thread stops at the next look at the clock, which the store takes under the lock of
    /// a shard.
    static STOPS: Cell<bool> = const { Cell::new(false) };
}

/// The machine's clock, ahead by what it is told, and at which a thread can be stopped.
#[derive(Debug, Default)]
struct Gate {
    ahead: AtomicU64,
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    fn wait(&self, until: bool) {
        let stopped = self.stopped.lock().unwrap();
        drop(self.changed.wait_while(stopped, |stopped| *stopped != until).unwrap());
    }

    fn set(&self, stopped: bool) {
        *self.stopped.lock().unwrap() = stopped;
        self.changed.notify_all();
    }
}

#[derive(Clone, Debug, Default)]
struct Stopping(Arc<Gate>);

impl Clock for Stopping {
    fn wall_ms(&self) -> u64 {
        SystemClock.wall_ms()
    }

    fn boot_ms(&self) -> u64 {
        if STOPS.replace(false) {
            self.0.set(true);
            self.0.wait(false);
        }
        SystemClock.boot_ms() + self.0.ahead.load(Ordering::SeqCst)
    }
}

/// A child process, which is killed if it hangs.
struct Child {
    pid: libc::pid_t,
    go: File,
}

/// Runs `work` in a child, when it is told to. `work` says what went wrong.
fn fork(work: impl FnOnce() -> Result<(), String>) -> Child {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for the two descriptors.
    assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
    // SAFETY: the kernel has just given them to us.
    let [mut wait, go] = ends.map(|end| File::from(unsafe { OwnedFd::from_raw_fd(end) }));
    // SAFETY: the child runs only what is under test, and ends without returning from here.
    match unsafe { libc::fork() } {
        -1 => panic!("{}", std::io::Error::last_os_error()),
        0 => {
            let _ = wait.read_exact(&mut [0]);
            let failed = work().err();
            if let Some(what) = &failed {
                let what = format!("the child: {what}\n");
                // SAFETY: these bytes are there. Nothing that has a lock may be used here.
                unsafe { libc::write(2, what.as_ptr().cast(), what.len()) };
            }
            // SAFETY: it ends this process.
            unsafe { libc::_exit(i32::from(failed.is_some())) }
        }
        pid => Child { pid, go },
    }
}

impl Child {
    fn start(&mut self) {
        self.go.write_all(&[1]).unwrap();
    }

    /// Waits for its end.
    fn join(self) {
        // SAFETY: it is our child and has not been waited for; the descriptor is only polled.
        unsafe {
            let fd = libc::syscall(libc::SYS_pidfd_open, self.pid, 0) as i32;
            assert!(fd >= 0, "{}", std::io::Error::last_os_error());
            let mut ended = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
            let hangs = libc::poll(&mut ended, 1, BOUND_MS) != 1;
            if hangs {
                libc::kill(self.pid, libc::SIGKILL);
            }
            let mut status = 0;
            assert_eq!(libc::waitpid(self.pid, &mut status, 0), self.pid);
            libc::close(fd);
            assert!(!hangs, "the child hangs");
            assert!(libc::WIFEXITED(status), "the child died of {status:x}");
            assert_eq!(libc::WEXITSTATUS(status), 0, "the child found something wrong");
        }
    }
}

fn body(name: &str) -> Vec<u8> {
    let mut body = vec![b'.'; 1000];
    body[..name.len()].copy_from_slice(name.as_bytes());
    body
}

/// Claims and completes; the store acknowledges.
fn put(store: &Store, name: &str) {
    store.claim(name).complete(&body(name)).unwrap();
}

fn options(durability: Durability, clock: &Stopping) -> Options {
    Options::new()
        .durability(durability)
        .clock(clock.clone())
        .max_response(4096)
        .max_claims(256)
        .ring_bytes(64 << 10)
        .segment_bytes(1 << 20)
        .capacity(64 << 20)
        .lease(HOUR)
        .execution_limit(HOUR)
        .retention(DAY)
}

type Async = AsyncStore<Store>;
type Answer<T> = Pin<Box<dyn Future<Output = T>>>;

/// What the parent had under way when it forked.
struct Held {
    claims: Vec<Claim>,
    claimed: Vec<Claim<Async>>,
    pending: Pending,
    pending_async: Pending<Async>,
    interrupted: Interrupted,
    interrupted_async: Interrupted<Async>,
    /// Polled once.
    begin: Answer<Result<Begin<Async>, BeginError>>,
    wait: Answer<Result<Begin<Async>, BeginError>>,
}

impl Held {
    fn new(store: &Store, round: u64) -> Self {
        let tasks = AsyncStore::new(store.clone());
        let name = |what: &str| format!("{what} {round}");
        let claim = |n: u64| store.claim(&format!("held {round} {n}"));
        let claimed = |n: u64| {
            let name = format!("held by a task {round} {n}");
            match block_on(tasks.begin(key(&name), print())).unwrap() {
                Begin::Execute(claim) => claim,
                other => panic!("{other:?}"),
            }
        };
        let claims: Vec<_> = (0..8).map(claim).collect();
        let held = format!("held {round} 0");
        let pending = || match store.ask(&held) {
            Begin::InFlight(pending) => pending,
            other => panic!("{other:?}"),
        };
        let pending_async = || match block_on(tasks.begin(key(&held), print())).unwrap() {
            Begin::InFlight(pending) => pending,
            other => panic!("{other:?}"),
        };
        drop(store.claim(&name("dropped")));
        let dropped = name("dropped");
        let interrupted_async = match block_on(tasks.begin(key(&dropped), print())).unwrap() {
            Begin::Interrupted(interrupted) => interrupted,
            other => panic!("{other:?}"),
        };
        let (asked, new) = (tasks.clone(), name("begun by a task"));
        let begin = async move { asked.begin(key(&new), print()).await };
        let mut held = Held {
            pending: pending(),
            pending_async: pending_async(),
            interrupted: store.stuck(&dropped),
            interrupted_async,
            begin: Box::pin(begin),
            wait: Box::pin(pending_async().wait(HOUR)),
            claimed: (0..8).map(claimed).collect(),
            claims,
        };
        // It may be answered at once where nothing waits for the disk.
        if Woken::new().poll(held.begin.as_mut()).is_ready() {
            let key = name("begun by a task, again");
            let asked = tasks.clone();
            held.begin = Box::pin(async move { asked.begin(common::key(&key), print()).await });
        }
        assert!(Woken::new().poll(held.wait.as_mut()).is_pending());
        held
    }

    /// The parent ends what it has begun.
    fn finish(self, acknowledged: &mut Vec<String>) {
        for mut claim in self.claims {
            let name = String::from_utf8(held_name(&format!("{claim:?}"))).unwrap();
            claim.complete(&body(&name)).unwrap();
            acknowledged.push(name);
        }
        drop(self.claimed);
    }
}

/// The key in a claim's text.
fn held_name(text: &str) -> Vec<u8> {
    let from = text.find("held ").expect("it names its key");
    let name = text[from..].chars().take_while(|c| c.is_alphanumeric() || *c == ' ');
    name.collect::<String>().into_bytes()
}

macro_rules! refused {
    ($($call:expr => $refused:pat),* $(,)?) => {
        $(match $call {
            $refused => {}
            other => {
                return Err(format!("{} answered {other:?}", stringify!($call)));
            }
        })*
    };
}

/// Every call there is, in the child.
fn try_everything(
    store: &Store,
    other: &Store,
    clock: &Stopping,
    held: Held,
    locked: &str,
    dir: &Path,
) -> Result<(), String> {
    // Whatever waits for a time has waited long enough.
    clock.0.ahead.fetch_add(60_000, Ordering::SeqCst);
    let copy = dir.join("copy of a child");
    let Held { claims, claimed, pending, pending_async, .. } = held;
    let Held { interrupted, interrupted_async, begin, wait, .. } = held;
    let mut claims = claims.into_iter();
    let mut claim = claims.next().unwrap();
    refused! {
        claim.complete(&body("a child")) => Err(ClaimError::Forked),
        claim.complete_without_response(b"a child") => Err(ClaimError::Forked),
        claim.fail(b"a child") => Err(ClaimError::Forked),
        claim.save_checkpoint(b"a child") => Err(ClaimError::Forked),
        claim.renew() => Err(ClaimError::Forked),
        claim.ensure_durable() => Err(ClaimError::Forked),
        claims.next().unwrap().release() => Err(ClaimError::Forked),
        store.begin(key(locked), print()) => Err(BeginError::Forked),
        store.begin(key("new, of a child"), print()) => Err(BeginError::Forked),
        pending.wait(HOUR) => Err(BeginError::Forked),
        interrupted.take_over() => Err(BeginError::Forked),
        store.get(key(locked)) => Err(StoreError::Forked),
        store.entries(Filter::ALL).next() => Some(Err(StoreError::Forked)),
        store.resolve_with(key(locked), Resolution::Free, ResolveOptions::forced()) => Err(StoreError::Forked),
        store.stats() => Stats { forked: true, poisoned: None, .. },
        store.verify(|_| {}) => Err(OpenError::Forked),
        store.backup(&copy) => Err(backup::BackupError::Store(StoreError::Forked)),
        store.flush() => Err(StoreError::Forked),
        store.housekeep() => Err(StoreError::Forked),
        store.drain(HOUR) => 16..,
        store.copy_slots(other, 0..=1023) => Err(StoreError::Forked),
        store.delete_slots(0..=1023) => Err(StoreError::Forked),
        store.once(key(locked), print()).wait(HOUR).run(|_| Err::<_, WorkError<()>>(().into())) =>
            Err(OnceError::Begin(BeginError::Forked)),
        store.clone().close() => Err(StoreError::Forked),
    }
    if copy.exists() {
        return Err("a backup was begun".into());
    }
    let tasks = AsyncStore::new(store.clone());
    let mut claimed = claimed.into_iter();
    let mut claim = claimed.next().unwrap();
    let once = tasks.once(key(locked), print()).wait(HOUR);
    let work = async |_: &mut Claim<Async>| Err::<_, WorkError<()>>(().into());
    refused! {
        block_on(begin) => Err(BeginError::Forked),
        block_on(wait) => Err(BeginError::Forked),
        block_on(tasks.begin(key(locked), print())) => Err(BeginError::Forked),
        block_on(claim.complete(&body("a child"))) => Err(ClaimError::Forked),
        block_on(claim.complete_without_response(b"a child")) => Err(ClaimError::Forked),
        block_on(claim.fail(b"a child")) => Err(ClaimError::Forked),
        block_on(claim.save_checkpoint(b"a child")) => Err(ClaimError::Forked),
        block_on(claim.renew()) => Err(ClaimError::Forked),
        block_on(claim.ensure_durable()) => Err(ClaimError::Forked),
        block_on(claimed.next().unwrap().release()) => Err(ClaimError::Forked),
        block_on(pending_async.wait(HOUR)) => Err(BeginError::Forked),
        block_on(interrupted_async.take_over()) => Err(BeginError::Forked),
        block_on(once.run(work)) => Err(OnceError::Begin(BeginError::Forked)),
    }
    // The others are dropped undecided.
    drop((claim, claims, claimed, tasks));
    Ok(())
}

/// What a thread has been acknowledged.
fn busy(store: &Store, number: usize, stop: &AtomicBool) -> Vec<String> {
    let mut acknowledged = Vec::new();
    while !stop.load(Ordering::SeqCst) && acknowledged.len() < 20_000 {
        let name = format!("busy {number} {}", acknowledged.len());
        put(store, &name);
        acknowledged.push(name);
    }
    acknowledged
}

/// A thread that is in the middle of a `begin`, with the lock of a shard.
fn lock<'s>(
    scope: &'s thread::Scope<'s, '_>,
    store: &'s Store,
    clock: &Stopping,
    name: String,
) -> ScopedJoinHandle<'s, ()> {
    let stopped = scope.spawn(move || {
        STOPS.set(true);
        put(store, &name);
    });
    clock.0.wait(true);
    stopped
}

#[track_caller]
fn check(store: &Store, acknowledged: &[String]) {
    for name in acknowledged {
        assert!(store.answer(name) == body(name), "{name} has another answer");
    }
    assert!(store.is_absent("new, of a child"));
}

fn forks(durability: Durability) {
    let dir = tempfile::tempdir().unwrap();
    let place: PathBuf = dir.path().join("store");
    let clock = Stopping::default();
    let options = options(durability, &clock);
    let store = options.open(&place).unwrap();
    let other = options.open(dir.path().join("other")).unwrap();
    let mut acknowledged = Vec::new();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..2)
            .map(|number| {
                scope.spawn({
                    let (store, stop) = (&store, &stop);
                    move || busy(store, number, stop)
                })
            })
            .collect();
        for round in 0..4 {
            let held = Held::new(&store, round);
            let locked = format!("locked {round}");
            let stopped = lock(scope, &store, &clock, locked.clone());
            let held = RefCell::new(Some(held));
            let mut child = fork(|| {
                let held = held.take().unwrap();
                try_everything(&store, &other, &clock, held, &locked, dir.path())
            });
            clock.0.set(false);
            stopped.join().unwrap();
            acknowledged.push(locked);
            // What the child believes to be in the ring is in the segments by now.
            for n in 0..LAP {
                let name = format!("lap {round} {n}");
                put(&store, &name);
                acknowledged.push(name);
            }
            child.start();
            child.join();
            held.take().unwrap().finish(&mut acknowledged);
        }
        stop.store(true, Ordering::SeqCst);
        threads.into_iter().for_each(|thread| acknowledged.extend(thread.join().unwrap()));
    });
    check(&store, &acknowledged);
    assert!(!store.stats().forked);
    let report = store.verify(|_| {}).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    store.close().unwrap();
    let store = options.open(&place).unwrap();
    check(&store, &acknowledged);
}

#[test]
fn of_a_busy_store_that_syncs() {
    forks(Durability::Synced);
}

#[test]
fn of_a_busy_store_that_syncs_completions() {
    forks(Durability::SyncedCompletions);
}

#[test]
fn of_a_busy_store_that_buffers() {
    forks(Durability::Buffered { max_delay: 20 * MS });
}

/// Every byte in a directory.
fn bytes(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files.map(|file| (file.clone(), std::fs::read(&file).unwrap())).collect()
}

fn the_last_handle(background: bool) {
    let dir = tempfile::tempdir().unwrap();
    let options =
        options(Durability::Synced, &Stopping::default()).background(background).max_claims(8);
    let store = options.open(dir.path()).unwrap();
    put(&store, "before");
    let before = (!background).then(|| bytes(dir.path()));
    let handle = RefCell::new(Some(store));
    let mut child = fork(|| {
        drop(handle.take());
        Ok(())
    });
    child.start();
    child.join();
    let store = handle.take().unwrap();
    if let Some(before) = before {
        assert!(bytes(dir.path()) == before, "the child has changed a file");
    }
    assert!(matches!(options.open(dir.path()), Err(OpenError::InUse { .. })));
    put(&store, "after");
    let names = ["before".to_owned(), "after".to_owned()];
    check(&store, &names);
    store.close().unwrap();
    check(&options.open(dir.path()).unwrap(), &names);
}

#[test]
fn the_last_handle_of_a_child_closes_nothing() {
    the_last_handle(false);
}

#[test]
fn the_last_handle_of_a_child_waits_for_no_thread() {
    the_last_handle(true);
}
